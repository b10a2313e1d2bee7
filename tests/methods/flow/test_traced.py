"""The traced flow trains as the plain one, keeps its stopwatch, and deals big batches fairly."""

import time

import pytest
import pytorch_lightning as pl
import torch

from sextant.contracts import StepBatches, Streams
from sextant.methods.backbones.velocity import VelocityMLP
from sextant.methods.flow.module import FlowModule
from sextant.methods.flow.objectives import FlowMatching
from sextant.methods.flow.sampling import sample
from sextant.methods.flow.traced import TracedFlow
from sextant.methods.transport.couplings import Coupling, Exact, Independent
from sextant.methods.transport.exact import monotone
from sextant.methods.transport.pairs import Pairs
from tests.fitting import quiet_fit

STEPS, BATCH, STREAMS = 8, 16, Streams(11)


def work(seconds):
    """Keeps the processor busy: sleeping takes none of its time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


class LabelledBatches(pl.LightningDataModule):
    """Batches by step; the label of a target is its row in the whole sequence of targets."""

    first_step = 0

    def __init__(self, labelled=True):
        super().__init__()
        self.labelled = labelled

    def draw_batch(self, step):
        generator = STREAMS.generator("batch", step)
        source, target = torch.randn(2, BATCH, 2, generator=generator)
        labels = torch.arange(BATCH) + BATCH * step
        return source, target + 2.0, labels if self.labelled else None

    def train_dataloader(self):
        return StepBatches(self.draw_batch, self.first_step, STEPS)


class Sorted(Coupling):
    """Pairs in the order of the first coordinate, as a sorting coupling without batch order."""

    def __call__(self, source, target, generator, labels=None):
        return Pairs(source[:, 0].argsort(), target[:, 0].argsort())


class Slow(Independent):
    """Takes its time: 20 ms to begin, 5 ms a batch."""

    def prepare(self, data, streams):
        work(0.02)

    def __call__(self, source, target, generator, labels=None):
        work(0.005)
        return super().__call__(source, target, generator, labels)


class Spy:
    """An objective that remembers its batches."""

    averages = False

    def __init__(self):
        self.batches = []

    def __call__(self, network, source, target, labels, generator):
        self.batches.append((source, target, labels))
        return source.sum(), source.sum()


def build(kind=TracedFlow, coupling=None, data=None, objective=None, **settings):
    torch.manual_seed(0)
    settings = {"learning_rate": 1e-2, "steps": STEPS, "ema_decay": 0.9} | settings
    module = kind(
        VelocityMLP(2, 8, 2, 2), objective or FlowMatching(), coupling or Exact(), **settings
    )
    module.prepare(STREAMS, {}, data or LabelledBatches())
    return module


def fit(module, data=None, last_step=STEPS, first_step=0, checkpoint=None):
    data = data or LabelledBatches()
    data.first_step = first_step
    return quiet_fit(module, data, last_step, checkpoint)


def same_weights(first, second):
    """Whether all but the stopwatch agree to the last bit."""
    states = [module.state_dict() for module in (first, second)]
    for state in states:
        state.pop("coupling_seconds", None)
    assert states[0].keys() == states[1].keys()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_training_is_that_of_the_plain_flow():
    traced, plain = build(), build(FlowModule)
    for module in (traced, plain):
        fit(module)
    assert same_weights(traced, plain)
    assert traced.coupling_seconds > 0


def test_the_stopwatch_counts_begin_and_every_call():
    started = time.process_time()
    module = build(coupling=Slow())
    began = module.coupling_seconds.item()
    assert 0.02 <= began <= time.process_time() - started
    started = time.process_time()
    fit(module)
    trained = module.coupling_seconds.item() - began
    assert STEPS * 0.005 <= trained <= time.process_time() - started
    assert module.coupling_seconds.dtype == torch.float64
    counted = module.coupling_seconds.item()
    module.coupling(*LabelledBatches().draw_batch(0)[:2], torch.Generator())
    assert module.coupling_seconds.item() == counted  # what an exam asks is no training


@pytest.mark.parametrize("big_batch", [1, 4])
def test_resumed_equals_undisturbed_and_keeps_its_seconds(tmp_path, big_batch):
    whole = build(big_batch=big_batch)
    fit(whole)
    first = build(coupling=Slow(), big_batch=big_batch)
    first.coupling = Exact()
    trainer = fit(first, last_step=3)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    before = first.coupling_seconds.item()
    assert before > 0.02
    second = build(big_batch=big_batch)
    assert second.coupling_seconds.item() < before
    fit(second, first_step=3, checkpoint=tmp_path / "last.ckpt")
    assert same_weights(second, whole)
    assert second.coupling_seconds.item() > before


def test_the_seconds_travel_with_the_weights_of_a_finished_run():
    module = build(coupling=Slow())
    copy = build()
    copy.load_state_dict(module.state_dict())
    assert copy.coupling_seconds == module.coupling_seconds


def test_velocity_is_the_average_networks_at_the_beginning_of_a_step(monkeypatch):
    module = build()
    fit(module)
    z, t = torch.randn(9, 2), torch.rand(9)
    found = module.velocity(z, t)
    assert not found.requires_grad
    assert torch.equal(found, module.ema_network(z, t, torch.zeros(9)).detach())
    assert (found - module.network(z, t, torch.zeros(9))).abs().max() > 1e-4
    monkeypatch.setattr("sextant.methods.flow.module.CHUNK", 4)
    torch.testing.assert_close(module.velocity(z, t), found)
    assert module.velocity(z[:0], t[:0]).shape == (0, 2)


def test_velocity_carries_points_where_generate_does():
    module = build()
    fit(module)
    source = torch.randn(9, 2)
    carried = sample(lambda z, t, h, labels: module.velocity(z, t), source, 5, averages=False)
    torch.testing.assert_close(carried, module.generate(source, 5))


def dealt(steps=STEPS, big_batch=4, labelled=True, coupling=None):
    data, spy = LabelledBatches(labelled), Spy()
    module = build(coupling=coupling or Sorted(), data=data, objective=spy, big_batch=big_batch)
    for step in range(steps):
        module.loss(*data.draw_batch(step), step)
    return spy.batches


def test_every_point_of_a_block_is_dealt_once():
    data, batches = LabelledBatches(), dealt()
    for first in (0, 4):
        drawn = [data.draw_batch(first + k) for k in range(4)]
        for part in (0, 1, 2):
            found = torch.cat([batch[part] for batch in batches[first : first + 4]])
            whole = torch.cat([batch[part] for batch in drawn])
            assert torch.equal(
                found.flatten(1).sort(0).values if part < 2 else found.sort().values,
                whole.flatten(1).sort(0).values if part < 2 else whole,
            )
        assert all(len(batch[0]) == BATCH for batch in batches)


def test_dealt_pairs_are_those_of_the_whole_block():
    data, batches = LabelledBatches(), dealt()
    drawn = [data.draw_batch(k) for k in range(4)]
    source, target = (torch.cat([batch[part] for batch in drawn]) for part in (0, 1))
    partner = monotone(source[:, 0], target[:, 0])
    for batch_source, batch_target, labels in batches[:4]:
        rows = (batch_source[:, None] == source).all(2).float().argmax(1)
        assert torch.equal(target[partner[rows]], batch_target)
        assert torch.equal(partner[rows], labels)


def test_no_hand_is_a_slab_of_the_order():
    # A contiguous quarter of 64 sorted normal points has a mean 1.27 from the centre; a random
    # hand of 16 has one within 3.5 standard errors of 0.25.
    means = [batch[1][:, 0].mean() - 2.0 for batch in dealt()]
    assert max(abs(mean) for mean in means) < 0.875
    slabs = []
    for first in (0, 4):
        drawn = torch.cat([LabelledBatches().draw_batch(first + k)[1][:, 0] for k in range(4)])
        slabs += [slab.mean() - 2.0 for slab in drawn.sort().values.chunk(4)]
    assert max(abs(mean) for mean in slabs) > 1.0


def test_unlabelled_batches_are_dealt_without_labels():
    assert all(labels is None for _, _, labels in dealt(labelled=False))


def test_a_hand_depends_on_its_step_only():
    data, spy = LabelledBatches(), Spy()
    module = build(coupling=Sorted(), data=data, objective=spy, big_batch=4)
    module.loss(*data.draw_batch(6), 6)
    for found, expected in zip(spy.batches[0], dealt()[6], strict=True):
        assert torch.equal(found, expected)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="big_batch must be at least 1"):
        build(big_batch=0)
    with pytest.raises(TypeError, match=r"draw_batch\(step\)"):
        build(big_batch=2, data=object())
