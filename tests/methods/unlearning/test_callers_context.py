"""`unlearn` answers alike whatever the caller's context, and leaves it as it was."""

import copy

import pytest
import torch
from torch import nn

from sextant.methods.unlearning.library import METHODS, unlearn
from tests.unlearning_problem import SPACE, images, network, split, trained

FORGET, RETAIN = split(images(6))
SHORT = {
    "covarnav": {"inversion": {"iterations": 3, "on_poor": "warn"}, "stop_at": 0.0, "epochs": 2},
    "gkt": {"side": 8, "rounds": 2, "width": 8},
    "error_minimising_noise": {"shape": (1, 8, 8)},
    "lcodec": {"perturbations": 10},
    "retrain": {"rate": 1e-2, "epochs": 1},
}
NAMES = sorted(set(METHODS) - {"amnesiac"})
"""Amnesiac unlearning draws nothing and trains nothing: it subtracts what was recorded."""


def with_dropout():
    """A network that knows the images, with dropout before its head."""
    layers = list(trained())
    return nn.Sequential(*layers[:-1], nn.Dropout(0.3), layers[-1]).eval()


def forgot(name, model, examples=FORGET):
    return unlearn(
        model,
        examples,
        name,
        retained=RETAIN,
        fresh=network,
        space=SPACE,
        progress=False,
        **SHORT.get(name, {}),
    ).model.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_equal_calls_agree_whatever_the_callers_context(name):
    """Dropout draws from the run's seed, and training has its gradients and its precision."""
    model = with_dropout()
    state = torch.random.get_rng_state()
    wanted = forgot(name, model)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    contexts = (
        torch.no_grad(),
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
    )
    for context in contexts:
        with context:
            # Made in there, as a caller's would be.
            found = forgot(name, copy.deepcopy(model), split(images(6))[0])
        for key, value in found.items():
            torch.testing.assert_close(value, wanted[key], rtol=0, atol=0)


def test_a_projector_that_protects_nothing_says_so():
    lenient = {"rule": "nscl", "setting": {"factor": 1e15}}
    with pytest.warns(RuntimeWarning, match=r"3 of 3 layers are free in all directions"):
        unlearn(trained(), FORGET, space=SPACE, progress=False, **SHORT["covarnav"], **lenient)
