"""The exams of the generation family; `version` in a task's config counts their changes.

A one-step score says how good a generator is with one network evaluation; the distances are those
of `tasks.shared.distances`. All scores use points and images no training step has seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sextant.contracts import Examination, Parent, Score, Streams
from sextant.ranges import at_least
from tasks.generation.pictures import digit_grid, in_rows, show
from tasks.shared.distances import frechet_distance, wasserstein2
from tasks.shared.scoring import (
    KEPT_POINTS,
    checked_steps,
    generated,
    in_chunks,
    kept,
    mean_score,
    share,
)

FLOOR_ERROR = 1e-10


class PlaneExam:
    """Root W2 between generated and target points, for several numbers of network evaluations.

    Scores `w2@k`; arrays `source`, `target` and `samples@k` (float32, at most 2,000 points).

    Args:
        steps: the numbers of network evaluations that are asked for.
    """

    def __init__(self, steps: Sequence[int] = (1, 2, 20)) -> None:
        self.steps = checked_steps(steps)

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Maps the fixed source points to samples and compares them with the fixed target."""
        source, target = data.evaluation_source(), data.evaluation_target()
        examination = Examination({}, {"source": kept(source), "target": kept(target)})
        for k in self.steps:
            samples = generated(student, source, k)
            score = Score(wasserstein2(samples, target), len(samples), "lower")
            examination.scores[f"w2@{k}"] = score
            examination.arrays[f"samples@{k}"] = kept(samples)
        return examination


class LatentImageExam:
    """Class-conditional latents of digits, asked for with the labels of the test images.

    For every number k of network evaluations:

    - `latent_w2@k`: root of the mean over classes of W2^2 inside the class (standardised latents);
    - `latent_frechet@k`: Frechet distance of all latents;
    - `classifier_frechet@k`: Frechet distance of the parent classifier's features between decoded
      samples and the real, undecoded test images. What the autoencoder loses therefore counts
      against every method alike, and the floor row, which decodes real training latents, shows how
      much that is;
    - `accuracy@k`: share of decoded samples that the parent classifier reads as the asked class.

    Arrays: `source`, `target`, `labels`, `samples@k` (at most 2,000 points), `digits@k` and
    `real_digits` (uint8 (10, grid, 28, 28), decoded; the latter from test latents).

    Args:
        steps: the numbers of network evaluations that are asked for.
        grid: digits of each class in the picture.
    """

    def __init__(self, steps: Sequence[int] = (1, 2, 20), grid: int = 8) -> None:
        at_least(1, grid=grid)
        self.steps, self.grid = checked_steps(steps), grid

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Generates one latent for every test label, decodes it and compares."""
        if missing := {"autoencoder", "classifier"} - set(parents):
            raise ValueError(f"parents must name {' and '.join(sorted(missing))}")
        autoencoder, classifier = parents["autoencoder"].load(), parents["classifier"].load()
        source, target = data.evaluation_source(), data.evaluation_target()
        labels = data.evaluation_labels()
        real_features = in_chunks(classifier.features, data.evaluation_images())

        def decode(latents: Tensor) -> Tensor:
            return in_chunks(autoencoder.decode, data.to_codes(latents))

        real_digits = digit_grid(decode(target), labels, self.grid)
        examination = Examination(
            scores={},
            arrays={
                "source": kept(source),
                "target": kept(target),
                "labels": labels[:KEPT_POINTS].numpy(),
                "real_digits": real_digits,
            },
            pictures={"real_digits": show(real_digits)},
        )
        for k in self.steps:
            samples = generated(student, source, k, labels)
            images = decode(samples)
            features = in_chunks(classifier.features, images)
            correct = in_chunks(classifier.logits, images).argmax(1) == labels
            n = len(labels)
            examination.scores |= {
                f"latent_w2@{k}": Score(classwise_w2(samples, target, labels), n, "lower"),
                f"latent_frechet@{k}": Score(frechet_distance(samples, target), n, "lower"),
                f"classifier_frechet@{k}": Score(
                    frechet_distance(features, real_features), n, "lower"
                ),
                f"accuracy@{k}": share(correct),
            }
            examination.arrays[f"samples@{k}"] = kept(samples)
            examination.arrays[f"digits@{k}"] = digit_grid(images, labels, self.grid)
        first = self.steps[0]
        examination.pictures[f"digits@{first}"] = show(examination.arrays[f"digits@{first}"])
        return examination


class ReconstructionExam:
    """How well an autoencoder gives test images back.

    Scores: `mse`, the mean squared error of a pixel in [0, 1], and `psnr`, the mean over images of
    10 log10(1 / mse of the image) in dB (an error below 1e-10 counts as 1e-10).
    """

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Encodes and decodes every test image."""
        images = data.evaluation_images()
        rebuilt = in_chunks(lambda chunk: student.decode(student.encode(chunk)), images)
        if rebuilt.shape != images.shape:
            raise ValueError(
                f"decode must return shape {tuple(images.shape)}, got {tuple(rebuilt.shape)}"
            )
        errors = ((rebuilt.double() - images.double()) ** 2).flatten(1).mean(1)
        decibels = -10 * errors.clamp_min(FLOOR_ERROR).log10()
        pairs = torch.stack((images[:10, 0], rebuilt[:10, 0]), dim=1)
        return Examination(
            scores={"mse": mean_score(errors, "lower"), "psnr": mean_score(decibels, "higher")},
            pictures={"reconstructions": show(in_rows(pairs.transpose(0, 1)))},
        )


class RecognitionExam:
    """How many test images a classifier names rightly: `accuracy`."""

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Classifies every test image."""
        logits = in_chunks(student.logits, data.evaluation_images())
        return Examination({"accuracy": share(logits.argmax(1) == data.evaluation_labels())})


def classwise_w2(samples: Tensor, target: Tensor, labels: Tensor) -> float:
    """Root of the mean over classes of W2^2 between samples (n, D) and target (n, D) of a class."""
    costs = [
        wasserstein2(samples[labels == label], target[labels == label], squared=True)
        for label in labels.unique().tolist()
    ]
    return math.sqrt(sum(costs) / len(costs))
