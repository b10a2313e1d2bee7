"""Data modules of machine unlearning: which pictures are to be forgotten, and who sees which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sextant.contracts import Parent, Streams
from sextant.data import locate
from sextant.ranges import at_least
from tasks.shared.pictures import Pictures, cifar10, of_each_class
from tasks.shared.stepwise import EpochOrder, StepwiseData

LearnFrom = Literal["all", "retained"]
PARTS = ("retained", "forgotten", "validation", "test_retained", "test_forgotten")


class ForgettingData(StepwiseData):
    """Pictures in which one class, or a random share of the training pictures, is to be forgotten.

    The run's seed chooses what: class number `seed mod len(forgotten_classes)` of the list, or a
    share drawn from the stream "forgotten pictures". Runs of one seed, such as a model, the model
    trained without the forgotten pictures and all that unlearns, therefore mean the same pictures.

    Parts: `retained` and `forgotten` make up the training pictures; `validation` holds further
    training pictures of all classes; `test_retained` and `test_forgotten` make up the test
    pictures, by class (where a random share is forgotten, `test_forgotten` is empty).

    Inputs are (pixel / 255 - 0.5) / 0.5.

    Args:
        batch_size, steps: of training.
        learn_from: whether training batches are drawn from all training pictures or the retained.
        forgotten_classes: the classes that take turns; empty where a share is forgotten.
        forgotten_share: share of the training pictures to forget, where no class is.
        train_each, validation_each, test_each: pictures of every class; None takes all there are.
        flip: mirror every picture of a training batch with probability one half.
        watched: pictures of each part that `watch` looks at, at most.

    Raises:
        ValueError: for both or neither of a list and a share, or a setting out of range.
    """

    mean = 0.5
    deviation = 0.5

    def __init__(
        self,
        batch_size: int,
        steps: int,
        learn_from: LearnFrom = "all",
        forgotten_classes: Sequence[int] = (),
        forgotten_share: float | None = None,
        train_each: int | None = None,
        validation_each: int = 500,
        test_each: int | None = None,
        flip: bool = False,
        watched: int = 500,
    ) -> None:
        super().__init__(batch_size, steps)
        if learn_from not in get_args(LearnFrom):
            raise ValueError(f"learn_from must be 'all' or 'retained', got {learn_from!r}")
        if bool(forgotten_classes) == (forgotten_share is not None):
            raise ValueError(
                "give either forgotten_classes or forgotten_share, "
                f"got {list(forgotten_classes)} and {forgotten_share}"
            )
        if forgotten_share is not None and not 0.0 < forgotten_share < 1.0:
            raise ValueError(f"forgotten_share must lie in (0, 1), got {forgotten_share}")
        at_least(1, validation_each=validation_each, watched=watched)
        self.learn_from, self.flip = learn_from, flip
        self.turns, self.forgotten_share = tuple(forgotten_classes), forgotten_share
        self.train_each, self.validation_each = train_each, validation_each
        self.test_each, self.watched = test_each, watched

    def read(self) -> tuple[Pictures, Pictures]:
        """All training and all test pictures; names what it read in `self._fingerprints`."""
        raise NotImplementedError

    def prepare(self, streams: Streams, parents: Mapping[str, Parent]) -> None:
        """Reads the pictures and chooses those to forget."""
        super().prepare(streams, parents)
        self._fingerprints: dict[str, str] = {}
        train, test = self.read()
        self.classes, self.channels = int(train.labels.max()) + 1, train.images.shape[1]
        # Validation comes first, so that it is the same however many pictures train.
        held = of_each_class(train.labels, 0, self.validation_each)
        kept = of_each_class(train.labels, self.validation_each, self.train_each)
        validation, train = train.rows(held), train.rows(kept)
        test = test.rows(of_each_class(test.labels, 0, self.test_each))
        self.forgotten_classes = self._turn(streams.seed)
        if self.forgotten_classes:
            gone, test_gone = (
                torch.isin(part.labels, torch.tensor(self.forgotten_classes))
                for part in (train, test)
            )
        else:
            count = round(self.forgotten_share * len(train.labels))
            generator = streams.generator("forgotten pictures")
            gone = torch.zeros(len(train.labels), dtype=torch.bool)
            gone[torch.randperm(len(gone), generator=generator)[:count]] = True
            test_gone = torch.zeros(len(test.labels), dtype=torch.bool)
        parts = (train.rows(~gone), train.rows(gone), validation)
        parts += (test.rows(~test_gone), test.rows(test_gone))
        self._parts = dict(zip(PARTS, parts, strict=True))
        self._learnt = train if self.learn_from == "all" else self._parts["retained"]
        self._order = EpochOrder(len(self._learnt.labels), self.batch_size, streams)

    def _turn(self, seed: int) -> tuple[int, ...]:
        """The class whose turn it is, alone in a tuple; () where a share is forgotten."""
        if not self.turns:
            return ()
        chosen = self.turns[seed % len(self.turns)]
        if not 0 <= chosen < self.classes:
            raise ValueError(
                f"forgotten_classes must lie in 0..{self.classes - 1}, got {list(self.turns)}"
            )
        return (chosen,)

    def fingerprints(self) -> dict[str, str]:
        """Which pictures are in use."""
        return dict(self._fingerprints)

    def draw_batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs (B, channels, side, side) and labels (B,) of a training step."""
        images, labels = self._learnt.rows(self._order.rows(step))
        if self.flip:
            generator = self.streams.generator("mirrored pictures", step)
            mirrored = torch.rand(len(labels), generator=generator) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        return self.inputs(images), labels

    def examples(self, part: str) -> tuple[Tensor, Tensor]:
        """All inputs and labels of a part.

        Raises:
            ValueError: for an unknown part.
        """
        if part not in PARTS:
            raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
        images, labels = self._parts[part]
        return self.inputs(images), labels

    @torch.no_grad()
    def watch(self, model: nn.Module) -> dict[str, float]:
        """The share of each part, evenly spread pictures of it, that a model names rightly; for
        curves. The model is left in the mode it was in; empty parts are left out."""
        training = model.training
        model.eval()
        found = {}
        for part, (images, labels) in self._parts.items():
            rows = torch.arange(min(self.watched, len(labels))) * len(labels)
            rows //= max(1, len(rows))
            if len(rows):
                named = model(self.inputs(images[rows])).argmax(1)
                found[part] = float((named == labels[rows]).float().mean())
        model.train(training)
        return found

    def inputs(self, images: Tensor) -> Tensor:
        """Images uint8 as a network takes them."""
        return (images / 255.0 - self.mean) / self.deviation


class CifarForgetting(ForgettingData):
    """CIFAR-10 in colour.

    Args:
        side: pixels; 32, or a divisor of it, for which squares of pixels are averaged.
        settings: as `ForgettingData`.
    """

    def __init__(self, batch_size: int, steps: int, side: int = 32, **settings: object) -> None:
        super().__init__(batch_size, steps, **settings)
        self.side = side

    def read(self) -> tuple[Pictures, Pictures]:
        """The data set "cifar10"."""
        folder = locate("cifar10")
        self._fingerprints["cifar10"] = folder.fingerprint
        return cifar10(folder, self.side)
