"""Unlearning in one call, for any classifier of images."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sextant.contracts import Streams
from sextant.methods.numerics import drawn_from, own_training, trainable_module
from sextant.methods.unlearning.problem import (
    Examples,
    Method,
    PixelSpace,
    Problem,
    Unlearned,
    Watch,
)
from sextant.methods.unlearning.progress import progress_bar
from sextant.methods.unlearning.wrong_labels import all_logits

METHODS: dict[str, str] = {
    "covarnav": "covarnav:CovarNav",
    "retrain": "retraining:Retrain",
    "finetune": "retraining:Finetune",
    "neggrad": "gradient_ascent:NegGrad",
    "neggrad_plus": "gradient_ascent:NegGradPlus",
    "random_label": "random_labels:RandomLabel",
    "boundary_shrink": "boundary:BoundaryShrink",
    "boundary_expand": "boundary:BoundaryExpand",
    "amnesiac_labels": "random_labels:AmnesiacLabels",
    "salun": "saliency:SalUn",
    "scrub": "scrub:Scrub",
    "ssd": "dampening:SelectiveSynapticDampening",
    "fisher": "fisher:FisherForgetting",
    "amnesiac": "amnesiac:Amnesiac",
    "unsir": "noise_images:Unsir",
    "error_minimising_noise": "noise_images:ErrorMinimisingNoise",
    "unsc": "null_space_calibration:NullSpaceCalibration",
    "gkt": "knowledge_transfer:GatedKnowledgeTransfer",
    "pgu": "projected_gradient:ProjectedGradientUnlearning",
    "lcodec": "selective_newton:SelectiveNewton",
}
"""Names of the methods and where each is: a module of this package and a class."""

TOLERANCE = 1e-4
"""Inputs may leave the bounds of pixels by this much, in units of inputs, by rounding."""


class Report(dict[str, Any]):
    """A method's report; as a string, a page for people: what may move, how far, and what not."""

    def __str__(self) -> str:
        plain = {name: value for name, value in self.items() if not isinstance(value, (dict, list))}
        lines = [f"{name.replace('_', ' ')}: {_short(value)}" for name, value in plain.items()]
        for name, value in self.get("inversion", {}).items():
            lines.append(f"inversion, {name.replace('_', ' ')}: {_short(value)}")
        kept, dimensions = self.get("kept", {}), self.get("dimensions", {})
        if kept:
            width = max(len(name) for name in kept)
            lines.append(f"{'layers that may move':<{width + 2}}  free directions")
            lines += [
                f"  {name:<{width}}  {free:g} of {dimensions[name]} ({free / dimensions[name]:.1%})"
                for name, free in kept.items()
            ]
        for name, reason in self.get("refused", {}).items():
            lines.append(f"frozen layer {name}: {reason}")
        if "frozen" in self:
            lines.append(f"frozen parameters ({len(self['frozen'])}): {_few(self['frozen'])}")
        return "\n".join(lines)


@own_training()
def unlearn(
    model: nn.Module,
    forget_set: Dataset | Examples | tuple[Tensor, Tensor],
    method: str | Method = "covarnav",
    classes: Sequence[int] | None = None,
    space: PixelSpace | None = None,
    seed: int = 0,
    retained: Dataset | Examples | tuple[Tensor, Tensor] | None = None,
    fresh: Callable[[], nn.Module] | None = None,
    training_log: Any = None,
    watch: Watch | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> Unlearned:
    """A copy of a classifier that forgot a set of examples.

    >>> forgot = unlearn(model, forget_set, inversion={"iterations": 2000})
    >>> forgot.model(inputs); print(forgot.report)

    Args:
        model: inputs (n, C, H, W) to logits (n, K), such as a CNN or ViT of torchvision or timm; it
            stays as it is.
        forget_set: pairs (input, label), or inputs (n, C, H, W) and labels (n,), as the model takes
            them.
        method: one of `METHODS`, or a method that was made already.
        classes: those to forget whole, () for examples among many of their classes. None for the
            class of all labels where there is just one, else ().
        space: how pixels in [0, 1] became inputs. None for inputs that are pixels, or for the
            normalisation that a timm model names, where the forget set agrees with it.
        seed: of all drawing, dropout included; equal calls agree, and torch's global generator is
            left as it was.
        retained: examples to keep, for methods that ask for them; not looked at by others.
        fresh: makes a freshly initialised model, for methods that ask for it.
        training_log: what was recorded in training, for methods that ask for it.
        watch: see `problem.Method`.
        progress: shows bars after two seconds; None shows them where a person watches.
        settings: of the method; `inversion` may be a mapping of settings of `Inversion`. Where it
            does not say how many images, every retained class has at least one.

    Returns:
        The model in evaluation mode, on its device, with seconds, curve and a `Report`.

    Raises:
        ValueError: for an unknown method, an empty set, labels outside of the logits, a pixel space
            that cannot be guessed, something the method asks for that is missing, or fewer images
            to protect than there are retained classes, as some would not be protected at all.
        TypeError: for a set that is none of the above, or a setting the method has not.
    """
    model, forget = trainable_module(model), as_examples(forget_set, "forget_set")
    logits_of = all_logits(model, forget.inputs[:1])
    logits = logits_of.shape[1]
    lowest, highest = int(forget.labels.min()), int(forget.labels.max())
    if not 0 <= lowest <= highest < logits:
        raise ValueError(
            f"forget_set must have labels in 0..{logits - 1}, the model's logits, "
            f"got {lowest}..{highest}"
        )
    if classes is None:
        classes = (lowest,) if lowest == highest else ()
    chosen = _made(method, settings, progress, retained_classes=logits - len(set(classes)))
    problem = Problem.of(
        chosen.needs,
        classes=logits,
        forget=forget,
        retain=None if retained is None else lambda: as_examples(retained, "retained"),
        subset=None if retained is None else lambda: as_examples(retained, "retained"),
        training_log=training_log,
        fresh=fresh,
        forgotten_classes=tuple(classes),
        space=known_space(model, forget.inputs) if space is None else space,
    )
    streams = Streams(seed)
    with (
        drawn_from(streams.generator("dropout"), logits_of.device),
        progress_bar(getattr(chosen, "epochs", 1), "forgetting", progress) as advance,
    ):

        def look(epoch: int, student: nn.Module) -> Mapping[str, float]:
            advance(1)
            return {} if watch is None else watch(epoch, student)

        unlearned = chosen(model, problem, streams, look)
    unlearned.report = Report(unlearned.report)
    return unlearned


def as_examples(found: Dataset | Examples | tuple[Tensor, Tensor], name: str) -> Examples:
    """Examples of a data set of pairs, or of a pair of tensors.

    Raises:
        TypeError, ValueError: naming `name`, for anything else, or for no examples.
    """
    if isinstance(found, (tuple, list)) and len(found) == 2 and isinstance(found[0], Tensor):
        found = Examples(found[0], torch.as_tensor(found[1]))
    if not isinstance(found, Examples):
        if not hasattr(found, "__getitem__") or not hasattr(found, "__len__"):
            raise TypeError(
                f"{name} must be a data set with a length, a pair of tensors or Examples, "
                f"got {type(found).__name__}"
            )
        if not len(found):
            raise ValueError(f"{name} must hold at least one example, got none")
        if not isinstance(found[0][0], Tensor):
            raise TypeError(
                f"{name} must give inputs as tensors, as the model takes them, "
                f"got {type(found[0][0]).__name__}"
            )
        inputs, labels = zip(*DataLoader(found, batch_size=256), strict=True)
        found = Examples(torch.cat(inputs), torch.cat(labels).long())
    if not len(found):
        raise ValueError(f"{name} must hold at least one example, got none")
    return found


def known_space(model: nn.Module, inputs: Tensor) -> PixelSpace | None:
    """The pixel space that inputs (n, C, ...) agree with: plain pixels, or what timm names.

    None where neither fits; methods that need it then say so.
    """
    channels = inputs.shape[1] if inputs.ndim == 4 else 0
    if not channels:
        return None
    spaces = [PixelSpace((0.0,) * channels, (1.0,) * channels)]
    named = getattr(model, "pretrained_cfg", None) or {}
    if len(named.get("mean") or ()) == len(named.get("std") or ()) == channels:
        spaces.append(PixelSpace(tuple(named["mean"]), tuple(named["std"])))
    for space in spaces:
        if float((space.clamp(inputs) - inputs).abs().max()) <= TOLERANCE:
            return space
    return None


def _made(
    method: str | Method, settings: dict[str, Any], progress: bool | None, retained_classes: int
) -> Method:
    if not isinstance(method, str):
        if settings:
            raise TypeError(f"settings must be those of a named method, got {sorted(settings)}")
        return _protecting_all(method, retained_classes)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    module, _, name = METHODS[method].partition(":")
    if method == "covarnav":
        from sextant.methods.unlearning.inversion import Inversion

        inversion = settings.get("inversion", {})
        if isinstance(inversion, Mapping):
            inversion = Inversion(
                **{"images": max(Inversion.images, retained_classes), **inversion}
            )
        settings = {**settings, "inversion": replace(inversion, progress=progress)}
    kind = getattr(importlib.import_module(f"sextant.methods.unlearning.{module}"), name)
    if any(one.name == "progress" for one in fields(kind)):
        settings = {"progress": progress, **settings}
    return _protecting_all(kind(**settings), retained_classes)


def _protecting_all(method: Method, retained_classes: int) -> Method:
    """The method, where it draws an image or more of every retained class, or draws none."""
    draws = getattr(method, "proxy", None) in ("inverted", "noise")
    if draws and method.inversion.images < retained_classes:
        raise ValueError(
            f"images of the inversion must be at least {retained_classes}, one for each retained "
            f"class, got {method.inversion.images}"
        )
    return method


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _few(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
