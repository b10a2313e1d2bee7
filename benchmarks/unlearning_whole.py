"""CovarNav from beginning to end against training again: a part of `unlearning.py`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from showing import Shown, table_of
from torch import nn
from torch.nn import functional

from sextant.contracts import Streams
from sextant.methods.backbones.all_cnn import AllCNN
from sextant.methods.unlearning.covarnav import CovarNav
from sextant.methods.unlearning.inversion import Inversion
from sextant.methods.unlearning.problem import Examples, PixelSpace, Problem, Unlearned
from sextant.methods.unlearning.retraining import Retrain


def patterns(each: int, size: int) -> Examples:
    """Ten classes of images in [0, 1]: a pattern of coarse colours, half hidden by noise."""
    drawn = torch.rand(10, 3, 4, 4)
    labels = torch.arange(10).repeat_interleave(each)
    noise = torch.rand(len(labels), 3, size, size)
    return Examples((functional.interpolate(drawn, size)[labels] + noise) / 2, labels)


def whole(size: int, each: int, training: int, images: int, inversion: int) -> Iterator[Shown]:
    """CovarNav from beginning to end against training again, on one problem."""
    examples = patterns(each, size)
    gone = examples.labels == 0
    forget = Examples(examples.inputs[gone], examples.labels[gone])
    kept = Examples(examples.inputs[~gone], examples.labels[~gone])

    def carried_out(method: Retrain | CovarNav, model: nn.Module, retain: Examples) -> Unlearned:
        problem = Problem.of(
            method.needs,
            classes=10,
            forget=forget,
            retain=retain,
            fresh=AllCNN,
            forgotten_classes=(0,),
            space=PixelSpace((0.0,) * 3, (1.0,) * 3),
        )
        return method(model, problem, Streams(0))

    again = Retrain(epochs=training, rate=1e-3, optimizer="adam", decay="cosine")
    trained = carried_out(again, AllCNN(), examples).model
    retrained = carried_out(again, AllCNN(), kept)
    drawing = Inversion(
        images=images, batch_size=images, iterations=inversion, on_poor="warn", progress=False
    )
    ours = carried_out(CovarNav(inversion=drawing, rate=3e-4), trained, kept)
    total, training_again = sum(ours.seconds.values()), sum(retrained.seconds.values())
    table = table_of(
        f"Whole, {len(examples)} images of {size} pixels", "part", ["s", "of retraining's"]
    )
    rows = ours.seconds | {"CovarNav": total, "training again": training_again}
    for name, seconds in rows.items():
        table.add_row(name, f"{seconds:.2f}", f"{seconds / training_again:.2f}")
    yield table
    yield (
        f"CovarNav: {images} images, {inversion} steps of inversion, {ours.report['epochs']} "
        f"epochs over {len(forget)} images, ended by {ours.report['stopped_by']} at "
        f"{ours.report['forget_accuracy']:.0%}. "
        f"Training again: {training} epochs over {len(kept)} images."
    )
