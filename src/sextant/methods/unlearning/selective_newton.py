"""L-CODEC (Mehta et al., CVPR 2022, arXiv 2204.07655): Newton removal of few filters at a time.

For every example to forget, its inputs are disturbed; the filters whose activations say most of the
loss, by conditional dependence, are the ones that a Newton step moves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from sextant.contracts import Streams
from sextant.methods.numerics import own_training
from sextant.methods.unlearning.conditional_dependence import select
from sextant.methods.unlearning.epochs import Seconds, check_at_least, device_of, working_copy
from sextant.methods.unlearning.problem import Examples, Needs, Problem, Unlearned, Watch
from sextant.methods.unlearning.progress import progress_bar
from sextant.ranges import positive_and_finite

CHUNK = 32
"""Examples whose own gradients are taken together."""

Slices = list[tuple[str, int]]
"""Names of convolutions and linear layers, and which of their outputs."""


@dataclass(frozen=True, kw_only=True)
class SelectiveNewton:
    """Removes examples by Newton steps on the outputs that matter to them, and on these alone.

    For each example: `perturbations` times Gaussian noise joins its inputs; the mean
    activation of every output of every convolution and linear layer stands against the loss, and
    FOCI selects outputs (`conditional_dependence.select`). With P the weights and biases of these
    outputs, the update of Sekhari et al. (NeurIPS 2021) restricted to P is made,

        theta_P += (C_P + damping I)^-1 gradient of the example's loss / kept,

    where kept counts the examples that stay. C_P, the curvature of what stays, is the mean of outer
    products of gradients of some retained examples at the given model; the authors' code has the
    outer product of a difference of training gradients, which a trained model does not come with.
    Their noise for certified removal is left out: its size assumes a strongly convex loss.

    The network stays in evaluation mode; what no example selects is bit for bit as before.
    Cost of an example: `perturbations` forward passes and FOCI; in all, one backward pass for each
    of `curvature` examples, whose gradients are held (curvature x parameters floats).

    Args:
        perturbations: disturbed copies, at least 3; theirs are 1,000.
        noise: standard deviation of the disturbance, in units of the inputs.
        damping: positive; theirs is 0.01 for CIFAR-10.
        curvature: retained examples for C_P, evenly spread, at least 1.
        progress: shows a bar after two seconds; None shows it where a person watches.

    Raises:
        ValueError: for a setting out of range.
    """

    perturbations: int = 1000
    noise: float = 0.1
    damping: float = 0.01
    curvature: int = 256
    progress: bool | None = None
    needs: ClassVar[Needs] = Needs(retain="all")

    def __post_init__(self) -> None:
        check_at_least("perturbations", self.perturbations, 3)
        check_at_least("curvature", self.curvature, 1)
        positive_and_finite(noise=self.noise, damping=self.damping)

    @own_training()
    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """See `problem.Method`.

        Raises:
            FloatingPointError: when weights are not finite after a removal.
        """
        device, seconds = device_of(model), Seconds()
        student = working_copy(model).eval()
        forget, retain = problem.forget.to(device), problem.retain.to(device)
        with seconds.part("curvature"):
            count = min(self.curvature, len(retain))
            rows = torch.arange(count) * len(retain) // count
            gradients = example_gradients(
                student, Examples(retain.inputs[rows], retain.labels[rows])
            )
        generator = streams.generator("selective_newton/noise")
        order = streams.generator("selective_newton/order")
        moved: Counter[tuple[str, int]] = Counter()
        count = len(forget)
        with seconds.part("updates"), progress_bar(count, "removing", self.progress) as advance:
            for batch in forget.batches(1, order):
                example = Examples(*batch)
                slices = self.relevant(student, example, generator)
                self._remove(student, example, slices, gradients, len(retain))
                moved.update(slices)
                advance(1)
        entry = {"epoch": 1.0} | dict({} if watch is None else watch(1, student))
        report = {
            "examples": count,
            "selected_outputs": len(moved),
            "outputs": sum(layer.weight.shape[0] for _, layer in sliced_layers(student)),
            "outputs_an_example": moved.total() / count,
        }
        return Unlearned(student.eval(), dict(seconds), report, [entry])

    @torch.no_grad()
    def relevant(self, model: nn.Module, example: Examples, generator: torch.Generator) -> Slices:
        """The outputs that say most of an example's loss when its inputs are disturbed.

        Args:
            model: in evaluation mode.
            example: one, on the model's device.
            generator: a CPU generator of the disturbance.
        """
        losses, seen = [], []
        shape = example.inputs.shape
        with _mean_outputs(model) as outputs:
            for count in _pieces(self.perturbations, CHUNK * 8):
                noise = self.noise * torch.randn(count, *shape, generator=generator)
                inputs = (example.inputs[None] + noise.to(example.inputs)).flatten(0, 1)
                logits = model(inputs)
                loss = cross_entropy(logits, example.labels.repeat(count), reduction="none")
                losses.append(loss)
                seen.append(torch.cat([one.view(count, -1) for one in outputs], 1))
        chosen = select(torch.cat(losses), torch.cat(seen))
        names = [
            (name, place)
            for name, layer in sliced_layers(model)
            for place in range(layer.weight.shape[0])
        ]
        return [names[column] for column in chosen]

    def _remove(
        self,
        model: nn.Module,
        example: Examples,
        slices: Slices,
        gradients: dict[str, Tensor],
        kept: int,
    ) -> None:
        parameters = _sliced_parameters(model)
        loss = cross_entropy(model(example.inputs), example.labels, reduction="sum")
        own = dict(
            zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True)
        )
        places = [
            (name, place)
            for layer, place in slices
            for name in (_joined(layer, "weight"), _joined(layer, "bias"))
            if name in parameters
        ]
        if not places:
            return
        of_example = torch.cat([own[name][place].flatten() for name, place in places])
        rows = [gradients[name][:, place] for name, place in places]
        of_retained = torch.cat([row.reshape(len(row), -1) for row in rows], 1)
        step = newton_step(of_example / kept, of_retained, self.damping)
        with torch.no_grad():
            for name, place in places:
                target = parameters[name][place]
                part, step = step[: target.numel()], step[target.numel() :]
                target.add_(part.view_as(target))
                if not target.isfinite().all():
                    raise FloatingPointError(f"{name} is not finite after a removal")


def newton_step(gradient: Tensor, samples: Tensor, damping: float) -> Tensor:
    """(S^T S / m + damping I)^-1 g without the d x d matrix: by Woodbury, O(m^2 d + m^3).

    Args:
        gradient: (d,) g.
        samples: (m, d) S, one gradient a row.
        damping: positive.
    """
    rows = len(samples)
    gram = samples @ samples.T + rows * damping * torch.eye(rows).to(samples)
    inner = torch.linalg.solve(gram, samples @ gradient)
    return (gradient - samples.T @ inner) / damping


def example_gradients(model: nn.Module, examples: Examples) -> dict[str, Tensor]:
    """Gradients (n, *shape) of each example's own cross-entropy, of weights and biases of layers.

    Args:
        model: in evaluation mode, in which no example looks at another.
        examples: on the model's device.
    """
    sliced = _sliced_parameters(model)
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    fixed = {name: value.detach() for name, value in state.items() if name not in sliced}

    def loss(own: dict[str, Tensor], inputs: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, {**fixed, **own}, (inputs[None],)), label[None])

    taken = vmap(grad(loss), in_dims=(None, 0, 0))
    own = {name: value.detach() for name, value in sliced.items()}
    pieces = [taken(own, *batch) for batch in examples.batches(CHUNK)]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in own}


def sliced_layers(model: nn.Module) -> list[tuple[str, nn.Conv2d | nn.Linear]]:
    """The convolutions and linear layers of a model, by name."""
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]


def _sliced_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {
        _joined(name, kind): value
        for name, layer in sliced_layers(model)
        for kind, value in layer.named_parameters(recurse=False)
    }


def _joined(layer: str, kind: str) -> str:
    """A parameter's name; a model that is itself a layer has the name ""."""
    return f"{layer}.{kind}" if layer else kind


@contextmanager
def _mean_outputs(model: nn.Module) -> Iterator[list[Tensor]]:
    """The mean activations (n, outputs) of each layer in the last forward pass, in module order."""
    layers = sliced_layers(model)
    found: list[Tensor] = [torch.empty(0)] * len(layers)

    def watch(place: int):
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            axis = 1 if isinstance(layer, nn.Conv2d) else output.ndim - 1
            found[place] = output.movedim(axis, 1).flatten(2).mean(2) if output.ndim > 2 else output

        return hook

    hooks = [layer.register_forward_hook(watch(place)) for place, (_, layer) in enumerate(layers)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _pieces(total: int, size: int) -> Iterator[int]:
    for begin in range(0, total, size):
        yield min(size, total - begin)
