"""Latents of digits: one group of digits onto another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from sextant.contracts import Parent, Streams
from tasks.alignment.clouds import SideStreams
from tasks.shared.latents import LatentMnist
from tasks.shared.mnist import CLASSES
from tasks.shared.stepwise import EpochOrder, StepwiseData

Pair = tuple[Tensor, Tensor]


class LatentGroups(StepwiseData):
    """Codes of one group of digits onto codes of another (min-STP).

    The latents are those of `LatentMnist`: codes of the parent `autoencoder`, standardised with
    one scale. Batches (source (1, B, L), target (1, B, L)) come from the training images; every
    epoch of a side visits all its latents once, so the pairing is new in every epoch. The exam
    asks about fixed blocks of training and of test images; validation images are never used.

    Args:
        steps: batches of a run.
        batch_size: latents of each side in a batch.
        source_digits: the digits of the source group.
        target_digits: the digits of the target group, none of them in the other.
        evaluation_pairs: how many blocks of each split the exam uses.
        evaluation_points: latents of each side in a block.
        evaluation_seed: fixes the blocks.
        validation: how many of the last training images are left out.
        limit: keep only the first `limit` images of each part (quick trials); None keeps all.
    """

    def __init__(
        self,
        steps: int,
        batch_size: int = 256,
        source_digits: Sequence[int] = (0, 1, 2, 3, 4),
        target_digits: Sequence[int] = (5, 6, 7, 8, 9),
        evaluation_pairs: int = 10,
        evaluation_points: int = 256,
        evaluation_seed: int = 2511,
        validation: int = 5000,
        limit: int | None = None,
    ) -> None:
        super().__init__(batch_size, steps)
        self.source_digits = _digits("source_digits", source_digits)
        self.target_digits = _digits("target_digits", target_digits)
        if common := sorted(set(self.source_digits) & set(self.target_digits)):
            raise ValueError(f"target_digits must hold none of the source's, got {common}")
        if evaluation_pairs < 1 or evaluation_points < 1:
            raise ValueError(
                "evaluation_pairs and evaluation_points must be at least 1, got "
                f"{evaluation_pairs} and {evaluation_points}"
            )
        self.evaluation_count, self.evaluation_points = evaluation_pairs, evaluation_points
        self.evaluation_seed = evaluation_seed
        self.codes = LatentMnist(
            batch_size, steps, None, evaluation_seed, validation=validation, limit=limit
        )

    def prepare(self, streams: Streams, parents: Mapping[str, Parent]) -> None:
        """Encodes the images and parts them into the two groups."""
        super().prepare(streams, parents)
        self.codes.prepare(streams, parents)
        splits = {
            "train": (self.codes.train_latents, self.codes.train_labels),
            "test": (self.codes.test_latents, self.codes.evaluation_labels()),
        }
        self.groups = {
            split: tuple(
                latents[torch.isin(labels, torch.tensor(digits))]
                for digits in (self.source_digits, self.target_digits)
            )
            for split, (latents, labels) in splits.items()
        }
        needed = self.evaluation_count * self.evaluation_points
        smallest = min(len(group) for pair in self.groups.values() for group in pair)
        if needed > smallest:
            raise ValueError(
                "evaluation_pairs times evaluation_points must be at most the "
                f"{smallest} latents of the smallest group, got {needed}"
            )
        self.orders = tuple(
            EpochOrder(len(group), self.batch_size, SideStreams(streams, side))
            for side, group in zip(("source", "target"), self.groups["train"], strict=True)
        )

    def draw_batch(self, step: int) -> Pair:
        """Training latents of a step, (1, B, L) of each group."""
        source, target = (
            group[order.rows(step)][None]
            for group, order in zip(self.groups["train"], self.orders, strict=True)
        )
        return source, target

    def evaluation_pairs(self, split: Literal["train", "test"]) -> list[Pair]:
        """The fixed blocks of a split, (evaluation_points, L) of each group; no latent twice.

        Raises:
            ValueError: for another split.
        """
        if split not in self.groups:
            raise ValueError(f"split must be 'train' or 'test', got {split!r}")
        blocks = []
        for side, group in zip(("source", "target"), self.groups[split], strict=True):
            generator = Streams(self.evaluation_seed).generator(f"{split} {side} blocks")
            order = torch.randperm(len(group), generator=generator)
            used = order[: self.evaluation_count * self.evaluation_points]
            blocks.append(group[used].split(self.evaluation_points))
        return list(zip(*blocks, strict=True))

    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of the files and the two groups; the run's parents name the encoder."""
        groups = f"digits {self.source_digits} onto {self.target_digits}"
        return self.codes.fingerprints() | {"groups": groups}


def _digits(name: str, digits: Sequence[int]) -> list[int]:
    digits = [int(digit) for digit in digits]
    if not digits or len(set(digits)) != len(digits) or not set(digits) <= set(range(CLASSES)):
        raise ValueError(f"{name} must be distinct digits of 0..{CLASSES - 1}, got {digits}")
    return digits
