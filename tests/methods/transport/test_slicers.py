"""Slicers: what they compute, what they depend on, and the plans they lift."""

import itertools
import math

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import parameters_to_vector

from sextant.methods.transport.sliced.slicers import (
    ConditionedSlicer,
    LinearSlicer,
    SetTransformerSlicer,
    SineMLP,
    SlicerMatcher,
    draw_weights,
    hard_plan,
    set_weights,
)


def build(kind, dimension=2, context_width=0):
    torch.manual_seed(0)
    if kind == "linear":
        return LinearSlicer(dimension).double()
    if kind == "set":
        return SetTransformerSlicer(dimension, 8, 2, 3, context_width).double()
    return SineMLP(dimension, [8, 8, 12], kind == "skips", context_width).double()


KINDS = ("linear", "plain", "skips", "set")


def cloud(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_a_linear_slicer_projects():
    slicer, points = build("linear", 3), cloud(5, 7, 3)
    scores = np.einsum("pnd,d->pn", points.numpy(), slicer.layer.weight[0].detach().numpy())
    np.testing.assert_allclose(slicer(points).detach().numpy(), scores)


@pytest.mark.parametrize("skips", [True, False])
def test_a_sine_perceptron_is_what_the_formula_says(skips):
    slicer = build("skips" if skips else "plain", 2, context_width=3)
    points, context = cloud(4, 6, 2), cloud(4, 3, seed=1)
    hidden = np.concatenate(
        [points.numpy(), np.repeat(context.numpy()[:, None], 6, axis=1)], axis=2
    )
    assert len(slicer.skips) == (3 if skips else 0)
    for place, layer in enumerate(slicer.layers):
        weight, bias = (tensor.detach().numpy() for tensor in (layer.weight, layer.bias))
        active = np.sin(hidden @ weight.T + bias)
        if skips:
            narrow, wide = hidden.shape[-1], active.shape[-1]
            passed = hidden
            if narrow != wide:
                passed = hidden @ slicer.skips[place].weight.detach().numpy().T
            active = active + passed
        hidden = active
    head = slicer.head
    scores = hidden @ head.weight[0].detach().numpy() + head.bias.item()
    np.testing.assert_allclose(slicer(points, context).detach().numpy(), scores, atol=1e-12)


@pytest.mark.parametrize(
    ("dimension", "hidden", "context_width"),
    [(2, (64, 128, 128, 64), 0), (3, (256, 512, 256), 3), (5, (4, 4), 1)],
)
@pytest.mark.parametrize("skips", [True, False])
def test_parameter_counts(dimension, hidden, context_width, skips):
    slicer = SineMLP(dimension, hidden, skips, context_width)
    count = hidden[-1] + 1
    for narrow, wide in itertools.pairwise((dimension + context_width, *hidden)):
        count += (narrow + 1) * wide + (narrow * wide if skips and narrow != wide else 0)
    assert sum(parameter.numel() for parameter in slicer.parameters()) == count
    assert sum(parameter.numel() for parameter in LinearSlicer(dimension).parameters()) == dimension


def test_the_set_transformer_has_one_score_a_point():
    """Both induced and both set blocks at 64 channels, 16 learned queries, and a head."""

    def attention(queries, keys):
        return (queries + 1) * 64 + 2 * (keys + 1) * 64 + 65 * 64 + 4 * 64

    count = attention(64, 5) + attention(5, 64) + 4 * attention(64, 64) + 2 * 16 * 64 + 65
    slicer = SetTransformerSlicer(2, context_width=3)
    assert sum(parameter.numel() for parameter in slicer.parameters()) == count


@pytest.mark.parametrize("kind", KINDS)
def test_permuting_a_cloud_permutes_its_scores(kind):
    slicer, points = build(kind), cloud(9, 2)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(slicer(points[order]), slicer(points)[order])


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_set_slicer_sees_an_unrelated_point(kind):
    slicer, points = build(kind), cloud(9, 2)
    more = torch.cat((points, torch.tensor([[5.0, -4.0]], dtype=torch.float64)))
    change = (slicer(more)[:9] - slicer(points)).abs().max().item()
    assert change > 1e-3 if kind == "set" else change < 1e-12


@pytest.mark.parametrize("kind", ["plain", "skips", "set"])
def test_a_batch_is_its_clouds_one_by_one(kind):
    slicer = build(kind, context_width=3)
    clouds, contexts = cloud(3, 6, 2), cloud(3, 3, seed=1)
    alone = [slicer(points, context) for points, context in zip(clouds, contexts, strict=True)]
    torch.testing.assert_close(slicer(clouds, contexts), torch.stack(alone))
    other = contexts.clone()
    other[1] += 1
    changed = (slicer(clouds, other) - slicer(clouds, contexts)).abs().amax(1) > 1e-6
    assert changed.tolist() == [False, True, False]


def test_a_conditioned_slicer_maps_its_codes():
    inner = build("skips", context_width=3)
    slicer = ConditionedSlicer(inner, code_width=5).double()
    points, codes = cloud(4, 6, 2), cloud(4, 5, seed=1)
    mapped = codes @ slicer.projection.weight.T + slicer.projection.bias
    torch.testing.assert_close(slicer(points, codes), inner(points, mapped))
    assert (slicer.dimension, slicer.context_width) == (2, 5)
    slicer(points, codes).square().sum().backward()
    assert slicer.projection.weight.grad.abs().max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_weights_depend_on_the_seed_alone(kind):
    slicer, again = build(kind), build(kind)
    before = parameters_to_vector(slicer.parameters()).clone()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    draw_weights(slicer, torch.Generator().manual_seed(8))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    generator = torch.Generator().manual_seed(8)
    torch.rand(4, generator=generator)
    draw_weights(again, generator)
    drawn = parameters_to_vector(slicer.parameters())
    assert torch.equal(drawn, parameters_to_vector(again.parameters()))
    assert not torch.equal(drawn, before)
    torch.manual_seed(8)
    again.reset_parameters()
    assert torch.equal(drawn, parameters_to_vector(again.parameters()))
    draw_weights(again, torch.Generator().manual_seed(9))
    assert not torch.equal(drawn, parameters_to_vector(again.parameters()))


def test_fresh_weights_are_uniform_by_fan_in():
    slicer = SineMLP(4, [4096])
    draw_weights(slicer, torch.Generator().manual_seed(0))
    weights = slicer.layers[0].weight
    assert weights.abs().max() <= 0.5
    assert weights.std().item() == pytest.approx(0.5 / math.sqrt(3), rel=0.02)


def test_weights_travel_as_a_vector():
    first, second = build("set"), build("set")
    draw_weights(second, torch.Generator().manual_seed(1))
    addresses = [parameter.data_ptr() for parameter in second.parameters()]
    set_weights(second, parameters_to_vector(first.parameters()))
    assert torch.equal(first(cloud(5, 2)), second(cloud(5, 2)))
    assert addresses == [parameter.data_ptr() for parameter in second.parameters()]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.booleans(), st.integers(0, 99))
def test_the_hard_plan_is_one_dimensional_transport_of_the_scores(n, m, weighted, seed):
    slicer = build("skips")
    source, target = cloud(n, 2, seed=seed), cloud(m, 2, seed=seed + 100)
    weights = [None, None]
    if weighted:
        weights = [cloud(size, seed=seed).abs() + 0.1 for size in (n, m)]
    plan = hard_plan(slicer, source, target, None, *weights)
    scores = [slicer(points).detach().numpy() for points in (source, target)]
    shares = [
        np.full(size, 1 / size) if given is None else (given / given.sum()).numpy()
        for size, given in zip((n, m), weights, strict=True)
    ]
    np.testing.assert_allclose(plan.dense().numpy(), ot.emd_1d(*scores, *shares), atol=1e-9)


def test_matching_leaves_the_slicer_as_it_was():
    slicer = build("skips").float()
    source, target = cloud(6, 2), cloud(6, 2, seed=1)
    assert slicer.training
    plan = SlicerMatcher(slicer).match(source, target)
    assert slicer.training
    ranks = [slicer(points.float()).argsort(descending=True) for points in (source, target)]
    assert torch.equal(plan.source_index, ranks[0])
    assert torch.equal(plan.target_index, ranks[1])
    slicer.eval()
    SlicerMatcher(slicer).match(source, target)
    assert not slicer.training


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="dimension must be at least 1"):
        LinearSlicer(0)
    with pytest.raises(ValueError, match="context_width must be 0"):
        SineMLP(2, context_width=-1)
    for hidden in ([], [3, 0]):
        with pytest.raises(ValueError, match="hidden must be widths"):
            SineMLP(2, hidden)
    for points in (cloud(4, 3), cloud(2)):
        with pytest.raises(ValueError, match="points must have shape"):
            build("skips")(points)
    for kind in ("linear", "skips", "set"):
        with pytest.raises(ValueError, match="context must be None"):
            build(kind)(cloud(4, 2), cloud(3))
    for context in (None, cloud(2), cloud(1, 3)):
        with pytest.raises(ValueError, match="context must have shape"):
            build("skips", context_width=3)(cloud(4, 2), context)
    with pytest.raises(ValueError, match="context_width must be the 0 numbers"):
        ConditionedSlicer(build("skips"), 5)
    with pytest.raises(ValueError, match="code_width"):
        ConditionedSlicer(build("skips", context_width=3), 0)
