"""The wrong labels that forgetting trains towards, given once by the model as it was trained.

A rule never returns the true label. Most probable wrong class: CovarNav (arXiv 2311.12999,
abstract). Class across the nearest boundary: Boundary Shrink (Chen et al., CVPR 2023). Random and
least probable class: what the two are compared with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from sextant.methods.numerics import evaluating
from sextant.methods.unlearning.problem import PixelSpace
from sextant.ranges import at_least, within

LabelRule = Literal["second_best", "fgsm_nearest", "random_other", "least_probable"]
"""Names of the rules, see the functions of these names."""


def wrong_labels(
    rule: LabelRule,
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    space: PixelSpace | None,
    generator: torch.Generator,
    batch_size: int = 256,
) -> Tensor:
    """The labels (n,) int64 that a rule gives; none is the true one.

    Args:
        rule: "second_best", "fgsm_nearest", "random_other" or "least_probable".
        model: inputs to logits (n, K); unchanged.
        inputs: (n, C, H, W), as the model takes them.
        labels: (n,) int64, the true ones.
        space: how pixels became inputs; None where the rule is not "fgsm_nearest".
        generator: a CPU generator; only "random_other" draws from it.
        batch_size: inputs at a time.

    Raises:
        ValueError: for an unknown rule, or labels that do not fit the inputs or the logits.
        FloatingPointError: where the model's logits are not finite.
    """
    if rule == "second_best":
        return second_best(model, inputs, labels, batch_size)
    if rule == "fgsm_nearest":
        if space is None:
            raise ValueError("space must be given to the rule 'fgsm_nearest', got None")
        return fgsm_nearest(model, inputs, labels, space, batch_size=batch_size)
    if rule == "least_probable":
        return least_probable(model, inputs, labels, batch_size)
    if rule == "random_other":
        classes = all_logits(model, inputs[:1]).shape[1]
        return random_other(labels, classes, generator)
    raise ValueError(f"rule must be one of {', '.join(get_args(LabelRule))}, got {rule!r}")


def second_best(model: nn.Module, inputs: Tensor, labels: Tensor, batch_size: int = 256) -> Tensor:
    """The most probable class other than the true one: the prediction where the model errs.

    One forward pass in evaluation mode. Arguments, errors: see `wrong_labels`.
    """
    return _runner_up(_checked(all_logits(model, inputs, batch_size), labels), labels)


def least_probable(
    model: nn.Module, inputs: Tensor, labels: Tensor, batch_size: int = 256
) -> Tensor:
    """The least probable class other than the true one; otherwise as `second_best`."""
    logits = _checked(all_logits(model, inputs, batch_size), labels)
    return logits.scatter(1, labels.to(logits.device)[:, None], torch.inf).argmin(1).to(labels)


def random_other(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """A class drawn uniformly from those other than the true one.

    Args:
        labels: (n,) int64, the true ones, below `classes`.
        classes: K, at least 2.
        generator: a CPU generator, the only source of randomness.

    Raises:
        ValueError: for fewer than 2 classes, or labels outside of them.
    """
    at_least(2, classes=classes)
    _check_range(labels, classes)
    ahead = torch.randint(1, classes, labels.shape, generator=generator).to(labels)
    return (labels + ahead) % classes


def fgsm_nearest(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    space: PixelSpace,
    epsilon: float = 0.1,
    batch_size: int = 256,
) -> Tensor:
    """The class that one step of the fast gradient sign method ends up in.

    The step raises the cross-entropy with the true label; it is taken on pixels in [0, 1], whatever
    the normalisation, and ends there. Where it does not leave the true class, the label is the
    second best of the input itself. Two forward passes and one backward pass.

    Args:
        model, inputs, labels, batch_size: see `wrong_labels`.
        space: how pixels became inputs.
        epsilon: the step in pixels, in (0, 1].

    Raises:
        ValueError, FloatingPointError: as `wrong_labels`, and for an epsilon out of range.
    """
    within("(0, 1]", epsilon=epsilon)
    if len(labels) != len(inputs) or not len(inputs):
        raise ValueError(
            f"labels must be as many as the inputs and at least one, got {len(labels)} labels "
            f"of {len(inputs)} inputs"
        )
    device = next((parameter.device for parameter in model.parameters()), inputs.device)
    found = []
    with frozen(model):
        for some, true in zip(inputs.split(batch_size), labels.split(batch_size), strict=True):
            moved, logits = fgsm_step(model, some.to(device), true, space, epsilon)
            with torch.no_grad():
                reached = _checked(model(moved), true).argmax(1).to(true)
            found.append(torch.where(reached == true, _runner_up(logits, true), reached))
    return torch.cat(found)


def fgsm_step(
    model: nn.Module, inputs: Tensor, labels: Tensor, space: PixelSpace, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Inputs after one fast gradient sign step of `epsilon` in pixels, and logits before it.

    Goodfellow et al. 2015, equation of section 4: pixels + epsilon sign(gradient), within [0, 1].
    The model is taken as it stands; its parameters get no gradients.
    """
    inputs = inputs.detach().requires_grad_()
    with torch.enable_grad():
        logits = _checked(model(inputs), labels)
        loss = functional.cross_entropy(logits, labels.to(logits.device), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, inputs)
    # A deviation is positive, so the sign is that of the gradient with respect to pixels.
    pixels = space.to_pixels(inputs.detach()) + epsilon * gradient.sign()
    return space.clamp(space.to_inputs(pixels)), logits.detach()


@torch.no_grad()
def all_logits(model: nn.Module, inputs: Tensor, batch_size: int = 256) -> Tensor:
    """Logits (n, K) of inputs (n, *shape) in evaluation mode, where the model is."""
    if not len(inputs):
        raise ValueError("inputs must hold at least one example, got none")
    device = next((parameter.device for parameter in model.parameters()), inputs.device)
    with frozen(model):
        return torch.cat([model(some.to(device)) for some in inputs.split(batch_size)])


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model as a fixed function: evaluation mode and parameters that ask for no gradient.

    Every module's mode and every parameter's wish for a gradient come back at the end, also after
    an error.
    """
    wishes = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with evaluating(model):
        try:
            yield model.requires_grad_(False)
        finally:
            for parameter, wish in wishes:
                parameter.requires_grad_(wish)


def _runner_up(logits: Tensor, labels: Tensor) -> Tensor:
    """The argmax over all classes but the true one, (n,) like the labels."""
    return logits.scatter(1, labels.to(logits.device)[:, None], -torch.inf).argmax(1).to(labels)


def _checked(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"the model must give logits (n, K) of at least 2 classes, got {tuple(logits.shape)}"
        )
    if labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels must be one for each of the {len(logits)} inputs, got {tuple(labels.shape)}"
        )
    _check_range(labels, logits.shape[1])
    if not torch.isfinite(logits).all():
        raise FloatingPointError("the model's logits are not finite, so no class is more probable")
    return logits


def _check_range(labels: Tensor, classes: int) -> None:
    if labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64, got {labels.dtype}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels must lie in 0..{classes - 1}, got {int(labels.min())}..{int(labels.max())}"
        )
