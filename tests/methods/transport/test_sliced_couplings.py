"""Sliced couplings: bijections between random and exact pairs in cost, and repeatable slicers."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import nn

from sextant.contracts import Streams
from sextant.methods.backbones.velocity import VelocityMLP
from sextant.methods.flow.objectives import FlowMatching
from sextant.methods.flow.traced import TracedFlow
from sextant.methods.transport.couplings import Coupling, Exact, Independent, WithinClasses
from sextant.methods.transport.pairs import take_pairs
from sextant.methods.transport.sliced.couplings import LearnedSlicePairs, MinSlicedPairs
from sextant.methods.transport.sliced.directions import random_directions
from sextant.methods.transport.sliced.objectives import SoftPermutation
from sextant.methods.transport.sliced.slicers import LinearSlicer, SetTransformerSlicer, SineMLP

STREAMS = Streams(5)


class RingData:
    """N(0, I) to four narrow Gaussians on a circle of radius 4."""

    def draw_source(self, n, generator):
        return torch.randn(n, 2, generator=generator)

    def draw_target(self, n, generator, labels=None):
        mode = torch.randint(4, (n,), generator=generator)
        means = 4.0 * torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        return means[mode] + 0.1 * torch.randn(n, 2, generator=generator)

    def draw_batch(self, step):
        source = self.draw_source(64, STREAMS.generator("source", step))
        return source, self.draw_target(64, STREAMS.generator("target", step)), None


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class NormalData:
    """N(0, I) in d dimensions on both sides."""

    def __init__(self, d):
        self.d = d

    def draw_source(self, n, generator):
        return torch.randn(n, self.d, generator=generator)

    draw_target = draw_source


class Begun(Coupling):
    """A coupling that has learned what it needs, and is not to begin again."""

    def __init__(self, coupling):
        self.coupling = coupling

    def __call__(self, source, target, generator, labels=None):
        return self.coupling(source, target, generator, labels)


def learned(steps=3, slicer=None, streams=STREAMS, data=None, **changes):
    """A coupling that has begun; its slicer's weights before that come from the global seed."""
    arguments = {"pretraining_steps": steps, "batch_size": 32, "learning_rate": 3e-3} | changes
    coupling = LearnedSlicePairs(
        slicer or SineMLP(2, [16, 16]), SoftPermutation(cost="sqeuclidean"), **arguments
    )
    coupling.prepare(data or RingData(), streams)
    return coupling


@pytest.fixture(scope="module")
def trained():
    return learned(steps=250, slicer=SineMLP(2, [32, 32]), batch_size=64)


def cost_of(source, target, pairs):
    x, y, _ = take_pairs(pairs, source, target)
    return (x - y).double().square().sum(1).mean().item()


def optimum(source, target):
    cost = cdist(source, target, "sqeuclidean")
    rows, columns = linear_sum_assignment(cost)
    return cost[rows, columns].mean()


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 40), d=st.integers(1, 5), seed=st.integers(0, 100))
def test_every_point_is_used_once_and_none_beats_the_optimum(n, d, seed):
    source, target = torch.randn(2, n, d, generator=generator(seed))
    line = learned(1, LinearSlicer(d), data=NormalData(d))
    for coupling in (MinSlicedPairs(directions=5), line):
        pairs = coupling(source, target, generator(seed))
        assert torch.equal(pairs.source_index, torch.arange(n))
        assert torch.equal(pairs.target_index.sort().values, torch.arange(n))
        best = optimum(source, target)
        assert cost_of(source, target, pairs) >= best * (1 - 1e-6)
        if d == 1 and isinstance(coupling, MinSlicedPairs):
            assert cost_of(source, target, pairs) == pytest.approx(best, rel=1e-5)


def test_costs_stand_in_order(trained):
    couplings = {
        "exact": Exact(),
        "learned": trained,
        "min_sliced": MinSlicedPairs(),
        "independent": Independent(),
    }
    costs = dict.fromkeys(couplings, 0.0)
    data = RingData()
    for k in range(5):
        source = data.draw_source(128, STREAMS.generator("test source", k))
        target = data.draw_target(128, STREAMS.generator("test target", k))
        for name, coupling in couplings.items():
            pairs = coupling(source, target, STREAMS.generator("test coupling", k))
            costs[name] += cost_of(source, target, pairs) / 5
    assert costs["exact"] < costs["learned"]
    assert costs["learned"] < costs["min_sliced"]
    assert costs["min_sliced"] < 0.9 * costs["independent"]
    # Independent pairs cost 2 + 16 + 0.02 on average; trained ones stay near the optimum.
    assert costs["independent"] == pytest.approx(18.02, abs=1.0)
    assert costs["learned"] < 1.2 * costs["exact"]


def test_the_learned_pairs_join_equal_ranks(trained):
    source, target, _ = RingData().draw_batch(0)
    pairs = trained(source, target, generator())
    with torch.no_grad():
        scores = [trained.slicer(points[None], None)[0].numpy() for points in (source, target)]
    ranks = [np.argsort(np.argsort(values)) for values in scores]
    np.testing.assert_array_equal(ranks[0], ranks[1][pairs.target_index])


def test_minibatches_have_the_populations_mean(trained):
    # A bijection keeps every target of a batch, so the means over many batches are the law's: each
    # coordinate has variance 8.01, and 3.5 standard errors of 40 batches of 64 are 0.2.
    class Spy:
        averages = False

        def __call__(self, network, source, target, labels, draws):
            batches.append((source, target))
            return source.sum(), source.sum()

    data, batches = RingData(), []
    module = TracedFlow(VelocityMLP(2, 4, 1, 1), Spy(), Begun(trained), 1e-3, 40, big_batch=4)
    module.prepare(STREAMS, {}, data)
    for step in range(40):
        module.loss(*data.draw_batch(step), step)
    for source, target in batches:
        # Sorted and cut without a shuffle, a batch would hold two of the four modes.
        modes = torch.atan2(target[:, 1], target[:, 0]).div(torch.pi / 2).round().long() % 4
        assert (modes.bincount(minlength=4) >= 4).all()
        assert source.mean(0).norm() < 0.6
    means = torch.cat([target for _, target in batches]).mean(0)
    assert means.abs().max() < 0.2


def test_a_block_paired_together_costs_less_than_its_batches(trained):
    data, alone, together = RingData(), 0.0, 0.0
    for block in range(4):
        batches = [data.draw_batch(4 * block + k)[:2] for k in range(4)]
        alone += sum(cost_of(*b, trained(*b, generator())) for b in batches) / 16
        whole = [torch.cat(part) for part in zip(*batches, strict=True)]
        together += cost_of(*whole, trained(*whole, generator())) / 4
    assert together < alone


def test_begin_gives_the_same_slicer_whatever_came_before():
    torch.manual_seed(1)
    first = learned()
    again = {name: value.clone() for name, value in first.slicer.state_dict().items()}
    first.prepare(RingData(), STREAMS)
    torch.manual_seed(2)
    second = learned()
    for found in (first, second):
        assert all(torch.equal(again[name], v) for name, v in found.slicer.state_dict().items())
    other = learned(streams=Streams(6)).slicer.state_dict()
    assert not all(torch.equal(again[name], other[name]) for name in again)


def test_training_leaves_the_global_generator_and_the_flow_s_weights_alone():
    coupling = LearnedSlicePairs(
        SineMLP(2, [8]), SoftPermutation(cost="sqeuclidean"), pretraining_steps=2, batch_size=8
    )
    module = TracedFlow(VelocityMLP(2, 4, 1, 1), FlowMatching(), coupling, 1e-3, 5)
    names = set(module.state_dict())
    before = torch.get_rng_state()
    with torch.no_grad():  # training asks for its gradients itself
        module.prepare(STREAMS, {}, RingData())
    assert torch.equal(torch.get_rng_state(), before)
    assert not any("slicer" in name for name in names | set(module.state_dict()))
    assert not any(weight.requires_grad for weight in coupling.slicer.parameters())
    source, target, _ = RingData().draw_batch(0)
    loss, _ = module.loss(source, target, None, 0)
    loss.backward()
    assert all(weight.grad is not None for weight in module.network.parameters())


def test_a_set_slicer_scores_each_batch_alone():
    coupling = learned(slicer=SetTransformerSlicer(2, width=16, heads=2, inducing=4))
    source, target, _ = RingData().draw_batch(0)
    pairs = coupling(source, target, generator())
    with torch.no_grad():
        ranks = [coupling.slicer(cloud, None).argsort().argsort() for cloud in (source, target)]
    assert torch.equal(ranks[0], ranks[1][pairs.target_index])


def test_min_sliced_takes_the_best_of_its_directions():
    source, target, _ = RingData().draw_batch(0)
    pairs = MinSlicedPairs(directions=20)(source, target, generator(4))
    costs = []
    for direction in random_directions(20, 2, generator(4)).numpy():
        rows = np.argsort(source.numpy() @ direction)
        columns = np.argsort(target.numpy() @ direction)
        costs.append(((source[rows] - target[columns]) ** 2).sum(1).mean().item())
    assert cost_of(source, target, pairs) == pytest.approx(min(costs), rel=1e-6)
    few, many = (
        np.mean([
            cost_of(source, target, MinSlicedPairs(directions=count)(source, target, generator(k)))
            for k in range(10)
        ])
        for count in (2, 40)
    )  # fmt: skip
    assert many < few


def test_the_ground_cost_chooses_the_direction():
    found = {"euclidean": [], "sqeuclidean": []}
    for seed, cost in itertools.product(range(6), found):
        source, target = torch.randn(2, 12, 3, generator=generator(seed)).exp()
        pairs = MinSlicedPairs(cost, 200)(source, target, generator(seed))
        x, y, _ = take_pairs(pairs, source, target)
        found[cost].append(((x - y).norm(dim=1).mean(), (x - y).square().sum(1).mean()))
    for plain, squared in zip(found["euclidean"], found["sqeuclidean"], strict=True):
        assert plain[0] <= squared[0]
        assert squared[1] <= plain[1]
    assert found["euclidean"] != found["sqeuclidean"]


def test_directions_are_new_for_every_batch_and_equal_for_equal_generators():
    source, target, _ = RingData().draw_batch(0)
    first, again, other = (
        MinSlicedPairs(directions=2)(source, target, generator(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.target_index, again.target_index)
    assert not torch.equal(first.target_index, other.target_index)


def test_images_are_paired_as_vectors(trained):
    source, target, _ = RingData().draw_batch(0)
    square = source.reshape(-1, 2, 1), target.reshape(-1, 2, 1)
    for coupling in (trained, MinSlicedPairs()):
        flat = coupling(source, target, generator())
        assert torch.equal(coupling(*square, generator()).target_index, flat.target_index)


def test_labels_are_kept_apart_by_within_classes(trained):
    source, target, _ = RingData().draw_batch(0)
    labels = torch.arange(64) % 2
    for coupling in (trained, MinSlicedPairs()):
        pairs = WithinClasses(coupling)(source, target, generator(), labels)
        assert torch.equal(labels[pairs.target_index], labels)


@pytest.mark.parametrize("make", [learned, MinSlicedPairs])
@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (torch.ones(3, 2), torch.ones(4, 2), "equally many"),
        (torch.ones(0, 2), torch.ones(0, 2), "n >= 1"),
        (torch.ones(3, 2), torch.full((3, 2), torch.nan), "NaN"),
    ],
)
def test_bad_batches_are_refused(make, source, target, words):
    with pytest.raises(ValueError, match=words):
        make()(source, target, generator())


@pytest.mark.parametrize(
    "changes",
    [
        {"pretraining_steps": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"gradient_clip": 0.0},
    ],
)
def test_bad_settings_are_named(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        LearnedSlicePairs(LinearSlicer(2), None, **changes)


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="cost must be"):
        MinSlicedPairs("cosine")
    with pytest.raises(ValueError, match="directions must be at least 1"):
        MinSlicedPairs(directions=0)
    coupling = LearnedSlicePairs(LinearSlicer(2), None)
    with pytest.raises(ValueError, match="prepare"):
        coupling(torch.ones(3, 2), torch.ones(3, 2), generator())
    with pytest.raises(TypeError, match="draw_source"):
        coupling.prepare(object(), STREAMS)


def test_a_slicer_that_diverges_stops_the_run():
    class Exploding(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def reset_parameters(self):
            nn.init.ones_(self.scale)

        def forward(self, points, context):
            return points.sum(-1) * self.scale

    def objective(slicer, source, target, context, draws):
        return slicer(source, context).sum() * torch.inf

    coupling = LearnedSlicePairs(Exploding(), objective, pretraining_steps=2)
    with pytest.raises(FloatingPointError, match="diverged at step 0"):
        coupling.prepare(RingData(), STREAMS)
    coupling = learned()
    with torch.no_grad():
        next(coupling.slicer.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="scores of the slicer"):
        coupling(torch.ones(3, 2), torch.ones(3, 2), generator())
