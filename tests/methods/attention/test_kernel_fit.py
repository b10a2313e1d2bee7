"""Rows of attention from feature maps, and their fit to a target kernel."""

import pytest
import torch
from scipy.special import rel_entr

from sextant.contracts import Streams
from sextant.methods.attention.hedgehog import HedgehogAttention
from sextant.methods.attention.kernel_fit import KernelFit, KernelRows, row_divergence
from sextant.methods.attention.linear_transformer import LinearTransformerAttention
from sextant.methods.attention.luna.attention import LunaAttention
from sextant.methods.attention.luna.special_cases import random_fourier
from sextant.methods.attention.performer import PerformerAttention
from sextant.methods.attention.softmax import SoftmaxAttention
from tasks.kernels.data import KernelData, target_rows
from tests.fitting import quiet_fit

D = 8


def luna(**changes):
    settings = {"heads": 1, "head_dimension": D, "features": 128, "hidden": 32} | changes
    return LunaAttention(**settings)


def drawn(batch=3, tokens=20, seed=0):
    torch.manual_seed(seed)
    return torch.randn(2, batch, tokens, D)


def data(kernel="periodic", steps=60, batch_size=4):
    module = KernelData(kernel, batch_size, steps, tokens=32, evaluation_batches=3)
    module.prepare(Streams(0), {})
    return module


def fit(module, batches, last_step=None, checkpoint=None):
    module.prepare(Streams(0), {}, batches)
    return quiet_fit(module, batches, module.steps if last_step is None else last_step, checkpoint)


def divergence(student, batches):
    """By scipy, over the evaluation batches."""
    values = [
        rel_entr(target.double().numpy(), student.rows(queries, keys).double().numpy()).sum(-1)
        for queries, keys, target in batches.evaluation()
    ]
    return sum(value.mean() for value in values) / len(values)


@pytest.mark.parametrize(
    "attention",
    [
        LinearTransformerAttention(),
        PerformerAttention(D, features=16),
        HedgehogAttention(1, D),
        luna(),
        luna(envelope="softplus"),
    ],
    ids=["elu", "favor", "hedgehog", "luna", "envelope"],
)
def test_rows_are_the_attention_of_the_map(attention):
    """With values that are the identity, attention returns its own rows."""
    queries, keys = drawn()
    student = KernelRows(attention, smoothing=0.05)
    identity = torch.eye(20).expand(3, 1, 20, 20)
    weights = attention(queries[:, None], keys[:, None], identity)[:, 0]
    found = student.rows(queries, keys)
    torch.testing.assert_close(found, 0.95 * weights + 0.05 / 20, rtol=1e-4, atol=1e-6)
    assert not found.requires_grad


def test_negative_estimates_count_as_nothing():
    queries, keys = drawn()
    attention = random_fourier(1, D, features=64, sigma=2.0)
    frequencies = attention.feature_map.projection
    phases = (queries @ frequencies.T)[:, :, None] - (keys @ frequencies.T)[:, None]
    kernel = phases.cos().mean(-1)
    assert (kernel < 0).any()
    kernel = kernel.clamp(min=0)
    expected = 0.9 * kernel / kernel.sum(-1, keepdim=True) + 0.1 / 20
    torch.testing.assert_close(KernelRows(attention, 0.1).rows(queries, keys), expected)


def test_a_row_without_weight_is_uniform_and_has_finite_gradients():
    attention = luna()
    functions = attention.feature_map.channel_functions
    with torch.no_grad():
        functions.second_bias.fill_(-100.0)
    student = KernelRows(attention)
    queries, keys = drawn()
    rows = student(queries, keys)
    torch.testing.assert_close(rows, torch.full((3, 20, 20), 0.05))
    rows.log().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())


def test_the_divergence_is_scipys():
    target, rows = torch.rand(2, 5, 7, dtype=torch.float64) + 0.01
    target[0, 0] = 0.0
    target, rows = (entry / entry.sum(-1, keepdim=True) for entry in (target, rows))
    expected = rel_entr(target.numpy(), rows.numpy()).sum(-1)
    torch.testing.assert_close(row_divergence(target, rows), torch.from_numpy(expected))
    assert row_divergence(rows, rows).abs().max() < 1e-12


def test_a_learned_map_beats_its_start_and_a_frozen_projection():
    batches = data("exponential", 100)
    torch.manual_seed(0)
    learned, frozen = (KernelFit(luna(learn_projection=learn), 100) for learn in (True, False))
    students = (learned, frozen)
    before = [divergence(student, batches) for student in students]
    kept = frozen.kernel.attention.feature_map.projection.clone()
    for student in students:
        trainer = fit(student, batches)
        assert trainer.global_step == 100
        assert "row_divergence" in trainer.callback_metrics
    assert torch.equal(frozen.kernel.attention.feature_map.projection, kept)
    after = [divergence(student, batches) for student in students]
    assert after[0] < 0.5 * before[0]
    assert after[1] < 0.8 * before[1]
    assert after[0] < 0.7 * after[1]


def test_resumed_equals_undisturbed_bit_for_bit(tmp_path):
    def fresh():
        torch.manual_seed(0)
        return KernelFit(luna(features=16, hidden=4), 6)

    whole, first, second = fresh(), fresh(), fresh()
    fit(whole, data())
    fit(first, data(), last_step=2).save_checkpoint(tmp_path / "last.ckpt")
    batches = data()
    batches.first_step = 2
    fit(second, batches, checkpoint=tmp_path / "last.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_a_map_without_parameters_takes_no_steps():
    torch.manual_seed(0)
    attention = PerformerAttention(D, features=16)
    with pytest.raises(ValueError, match="steps must be 0 for a map without parameters, got 3"):
        KernelFit(attention, 3)
    with pytest.raises(ValueError, match="without parameters"):
        KernelFit(luna(learn_projection=False, learn_channels=False), 3)
    student = KernelFit(attention, 0)
    before = attention.projection.clone()
    assert fit(student, data(steps=0)).global_step == 0
    assert torch.equal(attention.projection, before)
    queries, keys = drawn()
    assert torch.equal(student.rows(queries, keys), KernelRows(attention).rows(queries, keys))


def test_more_positive_features_imitate_softmax_better():
    batches = data("exponential")
    torch.manual_seed(1)
    few, many = (KernelRows(PerformerAttention(D, features=count)) for count in (16, 2048))
    assert divergence(many, batches) < 0.5 * divergence(few, batches)


def test_channel_functions_are_those_of_the_map():
    attention = luna(channels=4, features=32)
    queries, _ = drawn(tokens=200)
    arguments, values = KernelFit(attention, 1).channel_functions(queries)
    feature_map = attention.feature_map
    assert values.shape == (len(arguments), 4)
    torch.testing.assert_close(values, feature_map.channel_functions(arguments).relu().detach())
    projected = feature_map.project(queries).flatten().detach()
    inside = (projected >= arguments[0]) & (projected <= arguments[-1])
    assert inside.double().mean().item() == pytest.approx(0.98, abs=1e-3)
    assert KernelRows(HedgehogAttention(1, D)).channel_functions(queries) is None


def test_bad_settings_are_named():
    for smoothing in (0.0, 1.0):
        with pytest.raises(ValueError, match="smoothing"):
            KernelRows(luna(), smoothing)
    with pytest.raises(ValueError, match=r"attention must offer .* got SoftmaxAttention"):
        KernelRows(SoftmaxAttention())
    with pytest.raises(ValueError, match="steps"):
        KernelFit(luna(), -1)
    with pytest.raises(ValueError, match="learning_rate"):
        KernelFit(luna(), 1, 0.0)


def test_divergence_stops_the_run():
    module = KernelFit(luna(), 2)
    with torch.no_grad():
        module.kernel.attention.feature_map.projection.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="diverged at step 0"):
        fit(module, data(steps=2))


def test_softmax_is_the_exponential_target():
    queries, keys = drawn()
    identity = torch.eye(20).expand(3, 1, 20, 20)
    rows = SoftmaxAttention()(queries[:, None], keys[:, None], identity)[:, 0]
    torch.testing.assert_close(target_rows("exponential", queries, keys), rows)
