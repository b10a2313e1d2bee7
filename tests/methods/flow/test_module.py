"""The training module: averages, resuming, streams, divergence, and life without Lightning."""

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from sextant.contracts import Generator, StepBatches, Streams
from sextant.methods.backbones.velocity import VelocityMLP
from sextant.methods.flow.module import FlowModule
from sextant.methods.flow.objectives import FlowMatching, MeanFlow
from sextant.methods.flow.sampling import sample
from sextant.methods.transport.pairs import Pairs
from tests.fitting import quiet_fit

STEPS, STREAMS = 8, Streams(11)


class Shuffle:
    """A coupling that pairs at random and remembers how it did."""

    def __init__(self) -> None:
        self.seen, self.began = [], None

    def prepare(self, data, streams) -> None:
        self.began = (data, streams)

    def __call__(self, source, target, generator, labels=None):
        self.seen.append(torch.randperm(len(target), generator=generator))
        return Pairs(torch.arange(len(source)), self.seen[-1])


def draw(step):
    generator = STREAMS.generator("batch", step)
    source, target = torch.randn(2, 16, 2, generator=generator)
    return source, target + 2.0, torch.randint(3, (16,), generator=generator)


def build(objective=None, classes=3, **settings):
    torch.manual_seed(0)
    network = VelocityMLP(2, 8, 2, 2, classes=classes, class_width=3)
    settings = {"learning_rate": 1e-2, "steps": STEPS, "ema_decay": 0.9} | settings
    module = FlowModule(network, objective or MeanFlow(), Shuffle(), **settings)
    module.prepare(STREAMS, {}, "data")
    return module


def fit(module, first_step=0, last_step=STEPS, checkpoint=None, workers=0, callbacks=()):
    loader = DataLoader(StepBatches(draw, first_step, STEPS), batch_size=None, num_workers=workers)
    return quiet_fit(module, loader, last_step, checkpoint, callbacks)


def same_state(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


class Weights(pl.Callback):
    def __init__(self) -> None:
        self.history = []

    def on_train_batch_end(self, trainer, module, *_) -> None:
        self.history.append([p.detach().clone() for p in module.network.parameters()])


def test_training_moves_the_average_as_documented():
    module, weights = build(), Weights()
    trainer = fit(module, callbacks=[weights])
    assert trainer.global_step == STEPS == len(weights.history)
    shares = torch.tensor([0.9 ** (STEPS - k) for k in range(1, STEPS + 1)], dtype=torch.float64)
    shares /= shares.sum()
    for place, average in enumerate(module.ema_network.parameters()):
        rows = torch.stack([step[place].double() for step in weights.history])
        expected = torch.tensordot(shares, rows, 1)
        torch.testing.assert_close(average.double(), expected, rtol=0, atol=1e-6)
        assert not average.requires_grad
    assert "squared_error" in trainer.callback_metrics


def test_generate_asks_the_average_network():
    module = build()
    fit(module)
    source, _, labels = draw(99)
    found = module.generate(source, 3, labels)
    expected = sample(module.ema_network, source, 3, labels)
    assert torch.equal(found, expected.detach())
    assert not found.requires_grad
    latest = sample(module.network, source, 3, labels)
    assert (found - latest).abs().max() > 1e-4
    assert isinstance(module, Generator)


def test_generate_in_chunks_equals_one_piece(monkeypatch):
    module = build()
    source, _, labels = draw(99)
    whole = module.generate(source, 2, labels)
    monkeypatch.setattr("sextant.methods.flow.module.CHUNK", 5)
    torch.testing.assert_close(module.generate(source, 2, labels), whole)
    assert module.generate(source[:0], 2, labels[:0]).shape == (0, 2)


@pytest.mark.parametrize(("objective", "h"), [(MeanFlow(), 0.5), (FlowMatching(), 0.0)])
def test_the_objective_says_which_interval_the_sampler_asks(objective, h):
    module, asked = build(objective), []
    module.ema_network.register_forward_hook(
        lambda _, inputs, __: asked.append(inputs[2][0].item())
    )
    source, _, labels = draw(0)
    module.generate(source, 2, labels)
    assert asked == [h, h]


@pytest.mark.parametrize("objective", [MeanFlow(), FlowMatching()], ids=["mean", "matching"])
def test_resumed_equals_undisturbed_bit_for_bit(objective, tmp_path):
    whole = build(objective)
    fit(whole)
    first = build(objective)
    trainer = fit(first, last_step=3)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert not same_state(first, whole)
    torch.manual_seed(999)
    second = build(objective)
    torch.rand(7)
    trainer = fit(second, first_step=3, checkpoint=tmp_path / "last.ckpt")
    assert trainer.global_step == STEPS
    assert same_state(second, whole)
    pairs = first.coupling.seen + second.coupling.seen
    assert torch.equal(torch.stack(pairs), torch.stack(whole.coupling.seen))


def test_pairs_do_not_depend_on_loader_workers():
    modules = [build(), build()]
    for module, workers in zip(modules, (0, 1), strict=True):
        fit(module, workers=workers)
    assert same_state(*modules)
    assert torch.equal(*(torch.stack(module.coupling.seen) for module in modules))


def test_plain_torch_trains_like_lightning():
    module, plain = build(gradient_clip=0.5), build(gradient_clip=0.5)
    fit(module)
    settings = plain.configure_optimizers()
    optimizer, schedule = settings["optimizer"], settings["lr_scheduler"]["scheduler"]
    for step in range(STEPS):
        loss, _ = plain.loss(*draw(step), step)
        optimizer.zero_grad()
        loss.backward()
        plain.limit_gradient()
        optimizer.step()
        schedule.step()
        plain.update_average(step + 1)
    assert same_state(module, plain)
    assert schedule.get_last_lr()[0] == pytest.approx(0.0, abs=1e-15)


def test_gradients_are_clipped():
    loose, tight = build(gradient_clip=None), build(gradient_clip=1e-3)
    for module in (loose, tight):
        loss, _ = module.loss(*draw(0), 0)
        (100 * loss).backward()
        module.limit_gradient()
    norms = [
        torch.nn.utils.get_total_norm([p.grad for p in module.network.parameters()]).item()
        for module in (loose, tight)
    ]
    assert norms[0] > 1e-2
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)


def test_times_do_not_depend_on_the_pairing():
    """The coupling may draw as much as it likes; the times of a step stay the same."""

    class Greedy(Shuffle):
        def __call__(self, source, target, generator, labels=None):
            torch.rand(1000, generator=generator)
            return Pairs(torch.arange(len(source)), torch.arange(len(source)))

    class Spy:
        averages = True

        def __call__(self, network, source, target, labels, generator):
            self.times = torch.rand(5, generator=generator)
            return source.sum(), source.sum()

    seen = []
    for coupling in (Shuffle(), Greedy()):
        module = build(Spy())
        module.coupling = coupling
        module.loss(*draw(0), 4)
        seen.append(module.objective.times)
    assert torch.equal(*seen)


def test_labels_travel_with_the_target():
    class Spy:
        averages = True

        def __call__(self, network, source, target, labels, generator):
            self.batch = source, target, labels
            return source.sum(), source.sum()

    module = build(Spy())
    source, target, labels = draw(0)
    module.loss(source, target, labels, 0)
    order = module.coupling.seen[0]
    assert not torch.equal(order, torch.arange(16))
    for found, expected in zip(
        module.objective.batch, (source, target[order], labels[order]), strict=True
    ):
        assert torch.equal(found, expected)
    assert module.coupling.began == ("data", STREAMS)


def test_divergence_stops_the_run():
    module = build(classes=0)
    source, target, _ = draw(0)
    with torch.no_grad():
        module.network.layers[0].bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="diverged at step 0"):
        module.training_step((source, target, None), 0)


def test_bad_settings_are_named():
    for name, value in {
        "learning_rate": 0.0,
        "steps": 0,
        "ema_decay": 1.0,
        "gradient_clip": 0.0,
    }.items():
        with pytest.raises(ValueError, match=name):
            build(**{name: value})
    for name, value in {
        "share_r_below_t": -0.1,
        "weight_power": -1.0,
        "weight_offset": 0.0,
    }.items():
        with pytest.raises(ValueError, match=name):
            MeanFlow(**{name: value})
