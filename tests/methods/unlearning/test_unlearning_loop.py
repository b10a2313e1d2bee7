"""The loop that the methods share, against loops written out."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sextant.contracts import Streams
from sextant.methods.unlearning.epochs import Seconds, Updates, endless, head_name, shuffled
from sextant.methods.unlearning.problem import Needs, forget_accuracy
from sextant.methods.unlearning.random_labels import label_loss
from sextant.methods.unlearning.retraining import Finetune
from tests.unlearning_problem import images, network, problem_of, same, split, trained, weights


def batches_of(data, size=16):
    return shuffled(data, size, Streams(0), "test/order")


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_loop_is_the_loop_written_out(optimizer):
    updates = Updates(
        rate=0.01, epochs=3, batch_size=16, optimizer=optimizer, weight_decay=0.02, drops=(1,)
    )
    data, found, expected = images(8), network(), network()
    result = updates.run(found, batches_of(data), label_loss)
    if optimizer == "sgd":
        own = torch.optim.SGD(expected.parameters(), 0.01, momentum=0.9, weight_decay=0.02)
    else:
        own = torch.optim.Adam(expected.parameters(), 0.01, weight_decay=0.02)
    losses = []
    for epoch in (1, 2, 3):
        own.param_groups[0]["lr"] = 0.01 if epoch == 1 else 0.001
        expected.train()
        order = torch.randperm(32, generator=Streams(0).generator("test/order", epoch))
        for rows in order.split(16):
            own.zero_grad()
            loss = cross_entropy(expected(data.inputs[rows]), data.labels[rows])
            loss.backward()
            own.step()
            losses.append(loss.item())
    for name, value in weights(expected).items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-6, atol=1e-7)
    assert result.report == {"epochs": 3, "steps": 6, "stopped_by": "epochs"}
    curve = [entry["loss"] for entry in result.curve]
    assert curve == pytest.approx([sum(losses[i : i + 2]) / 2 for i in (0, 2, 4)], rel=1e-5)
    assert not found.training


def test_the_cosine_is_torchs():
    updates = Updates(rate=0.3, epochs=7, decay="cosine")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 7)
    for epoch in range(1, 8):
        assert updates.rate_at(epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_running_statistics_move_in_training_mode_alone(mode):
    method, model = Finetune(epochs=1, rate=1e-3, batch_norm=mode), trained()
    found = method(model, problem_of(method), Streams(0))
    for name, value in weights(found.model).items():
        if "running" in name or "tracked" in name:
            assert torch.equal(value, model.state_dict()[name]) == (mode == "eval")
    assert not torch.equal(found.model[1].weight, model[1].weight)


def test_it_stops_by_the_forget_set_after_the_epoch_that_reached_it():
    model = trained()
    forget, _ = split(images())
    updates = Updates(rate=2e-2, epochs=30, stop_at=0.1)
    found = updates.run(
        model, batches_of(forget), lambda network, batch: -label_loss(network, batch), forget
    )
    assert found.report["stopped_by"] == "forget accuracy"
    assert 1 <= found.report["epochs"] < 30
    accuracies = [entry["forget_accuracy"] for entry in found.curve]
    assert accuracies[-1] <= 0.1 < min(accuracies[:-1], default=1.0)
    assert accuracies[-1] == forget_accuracy(model, forget)


def test_who_stops_by_the_forget_set_declares_it():
    assert Finetune().needs == Needs(forget=False, retain="all")
    assert Finetune(stop_at=0.1).needs == Needs(forget=True, retain="all")


def test_watching_changes_nothing_and_joins_the_curve():
    method = Finetune(epochs=2, rate=1e-3)
    alone = method(trained(), problem_of(method), Streams(0))

    def watch(epoch, model):
        assert not model.training
        model.train()
        return {"seen": 10.0 * epoch}

    watched = method(trained(), problem_of(method), Streams(0), watch)
    assert [entry["seen"] for entry in watched.curve] == [10.0, 20.0]
    assert [entry["epoch"] for entry in watched.curve] == [1.0, 2.0]
    assert same(weights(alone.model), weights(watched.model))


def test_a_loss_that_is_not_finite_is_an_error():
    updates = Updates(rate=0.1, epochs=1)
    with pytest.raises(FloatingPointError, match="diverged at step 0"):
        updates.run(trained(), batches_of(images(2)), lambda *_: torch.tensor(torch.inf))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("rate", 0.0),
        ("epochs", 0),
        ("batch_size", 0),
        ("optimizer", "lion"),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("decay", "linear"),
        ("batch_norm", "frozen"),
        ("stop_at", 1.5),
    ],
)
def test_refused_settings_of_updates(setting, value):
    with pytest.raises(ValueError, match=setting):
        Updates(**{"rate": 0.1, "epochs": 1} | {setting: value})


def test_endless_batches_are_reshuffled_each_pass():
    data = images(3)
    stream = endless(data, 5, torch.Generator().manual_seed(0))
    passes = [[next(stream) for _ in range(3)] for _ in range(2)]
    for batches in passes:
        inputs = torch.cat([inputs for inputs, _ in batches])
        assert torch.equal(
            inputs.sum((1, 2, 3)).sort().values, data.inputs.sum((1, 2, 3)).sort()[0]
        )
    assert not torch.equal(passes[0][0][0], passes[1][0][0])


def test_seconds_add_up_by_part_also_after_an_error():
    seconds = Seconds()

    def work_and_fail():
        with seconds.part("work"):
            sum(range(200_000))
            raise KeyError

    with pytest.raises(KeyError):
        work_and_fail()
    once = seconds["work"]
    with seconds.part("work"):
        sum(range(200_000))
    assert seconds["work"] > once > 0
    assert set(seconds) == {"work"}
    assert seconds["work"] > 0


def test_the_head_is_the_last_linear_layer_of_k_outputs():
    model = nn.ModuleDict(
        {"aux": nn.Linear(3, 4), "head": nn.Linear(3, 4), "last": nn.Linear(4, 7)}
    )
    assert head_name(model, 4) == "head"
    with pytest.raises(ValueError, match="linear layer with 5 outputs"):
        head_name(model, 5)
