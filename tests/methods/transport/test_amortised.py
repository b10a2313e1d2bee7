"""An amortised slicer: resuming, its encoder, contexts, and matching without training."""

import copy
import math

import pytest
import torch
from torch import nn

from sextant.contracts import StepBatches, Streams
from sextant.methods.transport.sliced.amortised import AmortisedSlicer
from sextant.methods.transport.sliced.objectives import SoftPermutation, Stein
from sextant.methods.transport.sliced.slicers import SineMLP, hard_plan
from tests.fitting import quiet_fit

STREAMS, STEPS, N = Streams(7), 6, 20


def draw(step, n=N):
    """Ellipses in the plane, and the same ellipses turned and moved by what their size says."""
    generator = STREAMS.generator("batch", step)
    size = 0.5 + torch.rand(3, 1, 2, generator=generator)
    source = size * torch.randn(3, n, 2, generator=generator)
    target = size * torch.randn(3, n, 2, generator=generator)
    return source, target.flip(-1) + size.sum(-1, keepdim=True)


class Moments(nn.Module):
    """An encoder with a memory of what it was asked, and with weights and BatchNorm to leave be."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.asked = nn.Linear(4, 5), nn.BatchNorm1d(5), []

    def encode(self, inputs):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.asked.append(tuple(inputs.shape))
        return self.norm(self.layer(torch.cat((inputs.mean(1), inputs.std(1)), 1)))


class Parent:
    def load(self):
        torch.manual_seed(2)
        return Moments()


class Noisy(SoftPermutation):
    """An objective that uses its random numbers."""

    def __call__(self, slicer, source, target, context, generator):
        source = source + 0.05 * torch.randn(source.shape, generator=generator)
        return super().__call__(slicer, source, target, context, generator)


def configured(context="mean", objective=None, **settings):
    """A student as its config alone makes it."""
    torch.manual_seed(0)
    slicer = SineMLP(2, [8, 8], context_width=3 if context else 0)
    settings = {"learning_rate": 1e-2, "steps": STEPS, "code_width": 5} | settings
    return AmortisedSlicer(slicer, objective or Noisy(), context=context, **settings)


def build(context="mean", objective=None, **settings):
    module = configured(context, objective, **settings)
    module.prepare(STREAMS, {"encoder": Parent()} if context else {}, None)
    return module


def fit(module, first_step=0, last_step=None, checkpoint=None):
    return quiet_fit(
        module, StepBatches(draw, first_step, module.steps), last_step or module.steps, checkpoint
    )


def same_state(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    return all(
        torch.equal(first[name], second[name]) for name in first if name != "training_seconds"
    )


@pytest.mark.parametrize("context", [None, "mean", "target"])
@pytest.mark.parametrize("inner_steps", [1, 3])
def test_resumed_equals_undisturbed_bit_for_bit(context, inner_steps, tmp_path):
    whole = build(context, inner_steps=inner_steps)
    assert fit(whole).global_step == STEPS
    first = build(context, inner_steps=inner_steps)
    fit(first, last_step=4).save_checkpoint(tmp_path / "last.ckpt")
    assert not same_state(first, whole)
    torch.manual_seed(999)
    second = build(context, inner_steps=inner_steps)
    torch.rand(7)
    trainer = fit(second, first_step=4, checkpoint=tmp_path / "last.ckpt")
    assert trainer.global_step == STEPS
    assert same_state(second, whole)
    assert second.training_seconds > first.training_seconds > 0


@pytest.mark.parametrize("inner_steps", [1, 2])
def test_it_is_plain_adamw_with_a_cosine(inner_steps):
    module = build(inner_steps=inner_steps, weight_decay=0.3, gradient_clip=0.05)
    plain, encoder = copy.deepcopy(module.slicer), Parent().load().eval()
    fit(module)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.3)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 + math.cos(math.pi * step / STEPS)) / 2
        source, target = draw(step)
        for update in range(inner_steps):
            with torch.no_grad():
                codes = (encoder.encode(source) + encoder.encode(target)) / 2
            generator = STREAMS.generator("objective", step * inner_steps + update)
            loss = module.objective(plain, source, target, codes, generator)
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(plain.parameters(), 0.05)
            assert norm > 0.05
            optimizer.step()
    for (name, found), expected in zip(
        module.slicer.named_parameters(), plain.parameters(), strict=True
    ):
        # The head's bias shifts all scores alike: its gradient is nothing but rounding.
        if name != "slicer.head.bias":
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_the_encoder_stays_as_it_is_and_outside():
    module = build()
    encoder = module._encoder[0]
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    module.train()
    fit(module)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert set(module.state_dict()) == {
        "training_seconds",
        *(f"slicer.{name}" for name in module.slicer.state_dict()),
    }
    assert encoder.asked == [(6, N, 2)] * STEPS


@pytest.mark.parametrize("objective", [SoftPermutation(), Stein()], ids=["soft", "stein"])
def test_the_map_from_codes_to_contexts_is_trained(objective):
    module = build(objective=objective)
    before = module.slicer.projection.weight.detach().clone()
    fit(module)
    assert (module.slicer.projection.weight - before).abs().max() > 1e-3


def test_a_mean_context_does_not_care_which_cloud_is_the_source():
    module = build("mean")
    source, target = draw(0)
    codes, swapped = module.codes(source, target), module.codes(target, source)
    torch.testing.assert_close(codes, swapped)
    encoder = Parent().load().eval()
    with torch.no_grad():
        mapped = [module.slicer.projection(encoder.encode(points)) for points in (source, target)]
    torch.testing.assert_close(module.slicer.projection(codes), sum(mapped) / 2)
    there = module.match(source[0], target[0])
    back = module.match(target[0], source[0])
    assert torch.equal(there.dense(), back.transpose().dense())


@pytest.mark.parametrize("context", ["mean", "target"])
def test_the_target_moves_the_scores_of_the_source_only_through_the_context(context):
    module = build(context)
    source, target = draw(0)
    other = target.clone()
    other[1] += 1.0
    codes, changed = module.codes(source, target), module.codes(source, other)
    assert ((codes - changed).abs().amax(1) > 1e-6).tolist() == [False, True, False]
    scores, moved = module.slicer(source, codes), module.slicer(source, changed)
    torch.testing.assert_close(scores[::2], moved[::2])
    assert (scores[1] - moved[1]).abs().max() > 1e-6
    if context == "target":
        torch.testing.assert_close(module.codes(source + 5, target), codes)


def test_clouds_of_unequal_size_have_a_mean_context_too():
    module = build()
    source, target = draw(0)[0], draw(1, n=9)[1]
    encoder = Parent().load().eval()
    with torch.no_grad():
        expected = (encoder.encode(source) + encoder.encode(target)) / 2
    torch.testing.assert_close(module.codes(source, target), expected)
    plan = module.match(source[0], target[0])
    assert plan.shape == (N, 9)
    expected = hard_plan(module.slicer, source[0], target[0], expected[0])
    torch.testing.assert_close(plan.dense(), expected.dense())


def mean_cost(module, steps):
    costs = []
    for step in steps:
        for source, target in zip(*draw(step), strict=True):
            costs.append(module.match(source, target).cost(source, target, "euclidean"))
    return torch.stack(costs).mean().item()


def test_training_helps_on_pairs_never_seen():
    module = build("mean", SoftPermutation(), steps=120)
    before = mean_cost(module, range(1000, 1010))
    fit(module)
    after = mean_cost(module, range(1000, 1010))
    assert after < 0.93 * before


def test_a_finished_student_is_rebuilt_from_its_config():
    for context in (None, "mean"):
        module = build(context)
        fit(module)
        again = configured(context)
        again.load_state_dict(module.state_dict())
        source, target = (points[0] for points in draw(50))
        if context:
            with pytest.raises(ValueError, match="no encoder yet"):
                again.match(source, target)
            again.use_encoder(Parent().load())
        plans = [student.match(source, target) for student in (module, again)]
        assert torch.equal(*(plan.target_of_source() for plan in plans))
        assert again.training_seconds == module.training_seconds


def test_bad_settings_are_named():
    bad = {
        "learning_rate": 0.0,
        "steps": 0,
        "weight_decay": -1.0,
        "gradient_clip": 0.0,
        "inner_steps": 0,
        "code_width": None,
        "context_width": 2,
    }
    for name, value in bad.items():
        with pytest.raises(ValueError, match=name):
            configured(**{name: value})
    with pytest.raises(ValueError, match="context must be null"):
        configured("source")
    with pytest.raises(ValueError, match="takes 3 numbers"):
        AmortisedSlicer(SineMLP(2, context_width=3), Noisy(), 1e-3, 5)
    with pytest.raises(ValueError, match="parents must have an 'encoder'"):
        configured().prepare(STREAMS, {}, None)


def test_divergence_stops_the_run():
    class Broken(SoftPermutation):
        def __call__(self, *arguments):
            return super().__call__(*arguments) * math.nan

    with pytest.raises(FloatingPointError, match="diverged at step 0"):
        fit(build(objective=Broken()))
