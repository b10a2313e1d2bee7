"""Relearning against a loop written out, and the index at its ends."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tasks.unlearning.relearning import anamnesis_index, steps_to_relearn
from tests.unlearning_problem import images, network, same, split, trained, weights

FORGOTTEN, RETAINED = split(images(24))
SLOW = {"rate": 3e-3, "batch_size": 10, "most": 120}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def fraction_right(model):
    model.eval()
    return (model(FORGOTTEN.inputs).argmax(1) == FORGOTTEN.labels).double().mean().item()


def never_knew():
    """A network that learned the retained classes alone."""
    model = network(7)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for epoch in range(4):
        for inputs, labels in RETAINED.batches(32, seeded(epoch)):
            optimizer.zero_grad()
            cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model


def test_a_model_that_knows_needs_no_step_and_one_that_never_knew_some():
    model = never_knew()
    assert fraction_right(model) < 0.5
    assert steps_to_relearn(trained(), *pair(), 0.9, generator=seeded()) == 0
    assert 0 < steps_to_relearn(model, *pair(), 0.9, generator=seeded(), **SLOW) < 120


def pair():
    return FORGOTTEN.inputs, FORGOTTEN.labels


@pytest.mark.parametrize("look_every", [1, 4])
def test_steps_are_those_of_a_loop_written_out(look_every):
    model, generator = never_knew().eval(), seeded(5)
    found = steps_to_relearn(
        model, *pair(), 0.9, look_every=look_every, generator=seeded(5), **SLOW
    )
    optimizer, steps = torch.optim.Adam(model.parameters(), 3e-3), 0
    while True:
        order = torch.randperm(24, generator=generator)
        for rows in (order[:10], order[10:20], order[20:]):
            optimizer.zero_grad()
            cross_entropy(model(FORGOTTEN.inputs[rows]), FORGOTTEN.labels[rows]).backward()
            optimizer.step()
            steps += 1
            if steps % look_every == 0 and fraction_right(model) >= 0.9:
                assert found == steps > 1
                return
        assert steps < 130


def test_the_model_keeps_weights_modes_and_gradients():
    model = never_knew()
    model.train()
    model[1].eval()
    model.requires_grad_(False)
    before, modes = weights(model), [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    first, again = (
        steps_to_relearn(model, *pair(), 0.9, generator=seeded(1), **SLOW) for _ in range(2)
    )
    assert first == again > 0
    assert same(before, weights(model))
    assert modes == [module.training for module in model.modules()]
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(state, torch.random.get_rng_state())


def test_one_that_cannot_learn_is_given_up():
    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, inputs):
            # Class 0 for everything, whatever the scale is.
            row = torch.tensor([1.0, 0.0, 0.0, 0.0]) * (1 + self.scale**2)
            return row.expand(len(inputs), 4)

    found = steps_to_relearn(Stubborn(), *pair(), 0.5, most=7, look_every=5, generator=seeded())
    assert found == 7
    with pytest.raises(FloatingPointError, match="loss of relearning"):
        steps_to_relearn(
            Stubborn(), FORGOTTEN.inputs, FORGOTTEN.labels, 0.5, rate=1e30, generator=seeded()
        )


def test_the_last_step_is_looked_at():
    model = never_knew()
    needed = steps_to_relearn(model, *pair(), 0.9, look_every=1, generator=seeded(), **SLOW)
    settings = SLOW | {"most": needed, "look_every": needed + 1}
    assert steps_to_relearn(model, *pair(), 0.9, generator=seeded(), **settings) == needed


def test_the_index_is_a_ratio_where_it_is_defined():
    assert anamnesis_index(10, 40) == 0.25
    assert anamnesis_index(40, 40) == 1.0
    assert anamnesis_index(0, 40) == 0.0
    assert anamnesis_index(10, 0) is None
    assert anamnesis_index(0, 0) is None
    with pytest.raises(ValueError, match="steps"):
        anamnesis_index(-1, 3)


def test_refusals_of_relearning():
    for changes in (
        {"target_accuracy": 0.0},
        {"target_accuracy": 1.1},
        {"rate": 0.0},
        {"batch_size": 0},
        {"most": 0},
        {"look_every": 0},
        {"labels": FORGOTTEN.labels[:3]},
    ):
        given = {"inputs": FORGOTTEN.inputs, "labels": FORGOTTEN.labels, "target_accuracy": 0.9}
        with pytest.raises(ValueError, match=next(iter(changes))):
            steps_to_relearn(trained(), **given | changes, generator=seeded())
