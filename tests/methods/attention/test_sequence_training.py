"""Training of a sequence classifier: schedules, selection, resuming, and what it logs."""

import math

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sextant.contracts import StepBatches, Streams
from sextant.methods.attention.informer import InformerAttention
from sextant.methods.attention.luna.attention import LunaAttention
from sextant.methods.attention.softmax import SoftmaxAttention
from sextant.methods.attention.training import (
    SequenceClassificationModule,
    group_rate,
    one_cycle,
)
from sextant.methods.backbones.sequence_encoder import SequenceClassifier
from tests.fitting import quiet_fit

STEPS, LENGTH, STREAMS = 8, 12, Streams(4)


class Sequences(pl.LightningDataModule):
    """Which of two tokens is in a sequence of varying length? Class 2: neither."""

    vocabulary, length, classes, two_documents = 9, LENGTH, 3, False

    def __init__(self, steps=STEPS, first_step=0):
        super().__init__()
        self.steps, self.first_step = steps, first_step

    def draw(self, step, purpose="batch", count=16):
        generator = STREAMS.generator(purpose, step)
        labels = torch.randint(3, (count,), generator=generator)
        tokens = torch.randint(3, 9, (count, LENGTH), generator=generator)
        places = torch.randint(6, (count,), generator=generator)
        named = torch.where(labels < 2, labels + 1, 3)
        tokens[torch.arange(count), places] = named
        lengths = torch.randint(6, LENGTH + 1, (count,), generator=generator)
        mask = torch.arange(LENGTH) < lengths[:, None]
        return tokens * mask, mask, labels

    def train_dataloader(self):
        return StepBatches(self.draw, self.first_step, self.steps)

    def evaluation(self, split, batch_size=None):
        assert split == "validation"
        yield from zip(
            *(part.split(batch_size or 20) for part in self.draw(0, split, 50)), strict=True
        )


def build(attention=None, steps=STEPS, dropout=0.1, **changes):
    torch.manual_seed(0)
    attention = attention or LunaAttention(2, 4, features=16, channels=4, hidden=8)
    network = SequenceClassifier(
        attention, 9, LENGTH, 3, width=8, heads=2, head_dimension=4, hidden=12, dropout=dropout
    )
    arguments = {"learning_rate": 1e-2, "steps": steps, "warmup": 2, "validate_every": 3}
    return SequenceClassificationModule(network, **(arguments | changes))


def fit(module, data=None, last_step=None, checkpoint=None):
    data = data or Sequences(module.steps)
    module.prepare(STREAMS, {}, data)
    return quiet_fit(module, data, last_step or module.steps, checkpoint)


def state(module):
    """All but the clock."""
    return {k: v for k, v in module.state_dict().items() if k != "timed_seconds"}


@given(st.integers(1, 400), st.data())
@settings(deadline=None, max_examples=50)
def test_the_group_rate_rises_to_1_and_falls_to_two_fifths(steps, data):
    warmup = data.draw(st.integers(0, steps))
    rates = [group_rate(step, steps, warmup) for step in range(steps + 1)]
    assert rates[steps] == pytest.approx(0.4)
    assert all(0.1 < rate < 1 + 1e-12 for rate in rates)
    if warmup:
        assert rates[0] == pytest.approx(0.1 + 0.9 / warmup)
        assert rates[warmup - 1] == pytest.approx(1.0)
    rising, falling = rates[:warmup], rates[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    middle = (steps + warmup) / 2
    if warmup < steps and middle == int(middle):
        assert rates[int(middle)] == pytest.approx(0.7)


@pytest.mark.parametrize(("steps", "warmup"), [(40, 10), (37, 5), (20, 2), (16, 0), (12, 12)])
def test_one_cycle_is_torchs(steps, warmup):
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1.0, betas=(0.9, 0.999))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 3e-4, steps, pct_start=warmup / steps, anneal_strategy="linear"
    )
    for step in range(steps):
        factor, first_beta = one_cycle(step, steps, warmup)
        assert 3e-4 * factor == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        assert first_beta == pytest.approx(optimizer.param_groups[0]["betas"][0], rel=1e-6)
        optimizer.step()
        if step + 1 < steps:
            schedule.step()
    assert one_cycle(0, 5, 1)[0] == 1.0


@pytest.mark.parametrize("schedule", ["group", "skyformer"])
def test_a_plain_loop_trains_alike(schedule):
    # In float64, since Adam blows rounding up where a gradient is nearly 0.
    module, plain = (build(schedule=schedule, learning_rate=0.1).double() for _ in range(2))
    fit(module)
    data = Sequences()
    plain.prepare(STREAMS, {}, data)
    weights = list(plain.network.parameters())
    betas, epsilon = ((0.9, 0.98), 1e-8) if schedule == "group" else ((0.9, 0.999), 1e-6)
    optimizer = torch.optim.AdamW(weights, 0.1, betas, epsilon, weight_decay=0.0)
    for step in range(STEPS):
        optimizer.zero_grad()
        plain.loss(*data.draw(step), step).backward()
        if schedule == "group":
            nn.utils.clip_grad_norm_(weights, 5.0)
            optimizer.param_groups[0]["lr"] = 0.1 * group_rate(step, STEPS, 2)
        else:
            nn.utils.clip_grad_value_(weights, 1.0)
            factor, first = one_cycle(step, STEPS, 2)
            optimizer.param_groups[0].update(lr=0.1 * factor, betas=(first, 0.999))
        optimizer.step()
    for own, other in zip(module.network.parameters(), weights, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("schedule", "largest"), [("group", "norm"), ("skyformer", "entry")])
def test_gradients_are_limited(schedule, largest):
    module = build(schedule=schedule)
    tokens, mask, labels = Sequences().draw(0)
    (1e4 * module.loss(tokens, mask, labels, 0)).backward()
    before = torch.cat([p.grad.flatten().clone() for p in module.network.parameters()])
    module.limit_gradient()
    after = torch.cat([p.grad.flatten() for p in module.network.parameters()])
    if largest == "norm":
        torch.testing.assert_close(after, 5 * before / before.norm())
    else:
        assert torch.equal(after, before.clamp(-1, 1))
    assert not torch.equal(after, before)


@pytest.mark.parametrize("attention", ["luna", "informer"])
def test_resumed_equals_undisturbed_bit_for_bit(attention, tmp_path):
    """Stopped between two validations, so that the best weights so far must come back too."""

    def fresh():
        if attention == "luna":
            return build()
        return build(InformerAttention(LENGTH, 2, 4, features=3), schedule="skyformer")

    whole, first = fresh(), fresh()
    fit(whole)
    fit(first, last_step=5).save_checkpoint(tmp_path / "last.ckpt")
    assert first.best_step == 3
    second = fresh()
    torch.rand(7)
    trainer = fit(second, Sequences(first_step=5), checkpoint=tmp_path / "last.ckpt")
    assert trainer.global_step == STEPS
    found, expected = state(second), state(whole)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_the_best_late_validation_is_kept(monkeypatch):
    module = build(steps=20, validate_every=2)
    script = {2: 0.9, 4: 0.95, 6: 0.5, 8: 0.7, 10: 0.6, 12: 0.7, 14: 0.1, 16: 0.2, 18: 0.3, 20: 0}
    weights = {}

    def scripted():
        step = module.global_step
        weights[step] = {k: v.clone() for k, v in module.network.state_dict().items()}
        return script[step]

    monkeypatch.setattr(module, "validation_accuracy", scripted)
    fit(module)
    assert list(weights) == list(script)
    assert (module.best_step, module.best_accuracy) == (8, 0.7)
    for name, value in module.best_network.state_dict().items():
        assert torch.equal(value, weights[8][name])
    tokens, mask, _ = Sequences().draw(9)
    module.network.load_state_dict(weights[8])
    with torch.no_grad():
        expected = module.network.eval()(tokens, mask)
    assert torch.equal(module.logits(tokens, mask), expected)
    assert not module.logits(tokens, mask).requires_grad


def test_the_last_step_is_validated_whatever_the_interval():
    module = build(validate_every=1000)
    fit(module)
    assert module.best_step == STEPS
    assert module.best_accuracy == module.validation_accuracy()


def test_it_learns_and_counts_rightly():
    module = build(SoftmaxAttention(), steps=150, validate_every=50, learning_rate=1e-2)
    trainer = fit(module)
    tokens, mask, labels = Sequences().draw(0, "validation", 50)
    accuracy = (module.logits(tokens, mask).argmax(1) == labels).double().mean().item()
    assert accuracy == pytest.approx(module.best_accuracy.item())
    assert accuracy > 0.8
    logged = trainer.callback_metrics
    assert logged["validation_accuracy"] == pytest.approx(module.validation_accuracy())
    assert logged["cross_entropy"] < math.log(3)
    assert "dead_channel_fraction" not in logged
    assert module.timed_steps == 149
    assert 0 < module.seconds_a_step < 1
    assert module.parameter_count == sum(p.numel() for p in module.network.parameters())


def test_trouble_of_the_feature_map_is_logged():
    module = build()
    module.prepare(STREAMS, {}, Sequences())
    channels = module.network.layers[0].attention.feature_map.channel_functions
    with torch.no_grad():
        channels.second_weight.zero_()
        channels.second_bias.copy_(torch.tensor([-1.0, -1.0, -1.0, 2.0]))
    other = module.network.layers[1].attention.feature_map.dead_channel_fraction()
    found = module.diagnostics()
    assert found["dead_channel_fraction"] == pytest.approx((0.75 + other) / 2)
    assert module.network.training
    logged = fit(module).callback_metrics
    assert {"dead_channel_fraction", "smallest_denominator"} <= set(logged)
    # Every feature of the live channel is 2 / sqrt(m) in one layer: 4 for each of 6 or more keys.
    alone = build()
    alone.prepare(STREAMS, {}, Sequences())
    for layer in alone.network.layers:
        functions = layer.attention.feature_map.channel_functions
        with torch.no_grad():
            functions.second_weight.zero_()
            functions.second_bias.copy_(torch.tensor([-1.0, -1.0, -1.0, 2.0]))
    shortest = Sequences().draw(0, "validation", 50)[1][:4].sum(1).min().item()
    assert alone.diagnostics()["smallest_denominator"] == pytest.approx(4 * shortest, rel=1e-5)


def test_noise_depends_on_the_step_alone():
    module = build(dropout=0.5)
    tokens, mask, labels = Sequences().draw(0)
    before = torch.get_rng_state()
    first, again, other = (module.loss(tokens, mask, labels, step).item() for step in (3, 3, 4))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


def test_a_mask_that_hides_nothing_is_dropped():
    module = build()
    tokens, mask, labels = Sequences().draw(0)
    assert module.on_before_batch_transfer((tokens, mask, labels), 0)[1] is mask
    whole = torch.ones_like(mask)
    assert module.on_before_batch_transfer((tokens, whole, labels), 0)[1] is None
    torch.testing.assert_close(module.logits(tokens, whole), module.logits(tokens))


def test_divergence_stops_the_run():
    module = build()
    with torch.no_grad():
        module.network.positions.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="diverged at step 0"):
        fit(module)


def test_bad_settings_are_named():
    for name, value in {
        "learning_rate": 0.0,
        "steps": 0,
        "warmup": 9,
        "validate_every": 0,
        "schedule": "linear",
        "first_selection": 1.0,
        "evaluation_batch": 0,
    }.items():
        with pytest.raises(ValueError, match=name):
            build(**{name: value})
    data = Sequences()
    data.vocabulary = 12
    with pytest.raises(ValueError, match="network must have vocabulary 12 like the data, got 9"):
        build().prepare(STREAMS, {}, data)
