"""Gated knowledge transfer: a fresh network learns from the old one on images of nobody.

Zero-shot unlearning of Chundawat et al. (TIFS 2023, arXiv 2201.05629). A generator draws images
where student and teacher disagree (Micaelli and Storkey, NeurIPS 2019), a gate drops those that the
teacher takes for a forgotten class, and the student imitates the teacher on the others. Not one
example is seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div
from torch.nn.utils import clip_grad_norm_

from sextant.contracts import Streams
from sextant.methods.backbones.training import Adam, stop_if_diverged
from sextant.methods.numerics import own_training
from sextant.methods.unlearning.attention_maps import Activations, attention_apart, stage_ends
from sextant.methods.unlearning.epochs import (
    BatchNormMode,
    Seconds,
    check_at_least,
    check_share,
    device_of,
    frozen_copy,
    set_training,
)
from sextant.methods.unlearning.problem import Needs, PixelSpace, Problem, Unlearned, Watch
from sextant.ranges import one_of

FEWEST = 2
"""Images below which a step is skipped: batch normalisation needs two."""

COUNTS = ("student_steps", "generator_steps", "gate_steps", "skipped_rounds", "images")
LOSSES = {
    "loss": "student_steps",
    "divergence": "student_steps",
    "generator_loss": "generator_steps",
}
"""What the curve tells, as means over the steps of what is counted."""


@dataclass(frozen=True, kw_only=True)
class GatedKnowledgeTransfer:
    """Unlearning without data: distils all but the forgotten classes into a fresh network.

    A round draws one batch of codes z; the generator takes its steps on them to maximise
    KL(teacher || student), then the student its own to minimise KL + attention * `attention_apart`
    on the images that remain. Images on which the teacher gives a forgotten class more than
    `threshold` take part in neither.

    Ours: rates are constant, since the authors' schedule looks at validation data; KL is that of an
    image, where their code divides it by the number of classes too; and where all images but one
    are dropped, the generator's step raises the teacher's probability of the other classes, without
    which it would never move again. The authors go back to an older generator.

    Cost of a round: generator_steps times forward and backward through three networks, one pass of
    the teacher, and student_steps forward and backward passes of the student.

    Args:
        side: of the images, a multiple of 4; their channels are those of the problem's pixel space.
        rounds: of generator and student.
        batch_size: images of a round.
        generator_steps: of the generator in a round.
        student_steps: of the student in a round.
        rate: of both Adams.
        clip: largest norm of a gradient, positive.
        threshold: probability of a forgotten class, in [0, 1], above which an image is dropped.
        attention: weight of the attention maps.
        layers: names of the modules whose maps are compared; None for `stage_ends`.
        codes: numbers in z.
        width: channels inside the generator, at least 2.
        batch_norm: of the student while it learns, see `Updates`. With "eval" a fresh network keeps
            to the statistics it was made with, and normalises nothing.
        rounds_each_epoch: rounds between two entries of the curve.

    Raises:
        ValueError: for a setting out of range.
    """

    side: int
    rounds: int = 4000
    batch_size: int = 256
    generator_steps: int = 1
    student_steps: int = 10
    rate: float = 1e-3
    clip: float = 5.0
    threshold: float = 0.01
    attention: float = 250.0
    layers: Sequence[str] | None = None
    codes: int = 128
    width: int = 128
    batch_norm: BatchNormMode = "train"
    rounds_each_epoch: int = 50
    needs: ClassVar[Needs] = Needs(forget=False, fresh=True)

    def __post_init__(self) -> None:
        _check_side(self.side)
        for name in ("rounds", "generator_steps", "student_steps", "codes", "rounds_each_epoch"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("batch_size", "width"):
            check_at_least(name, getattr(self, name), 2)
        check_at_least("attention", self.attention, 0)
        check_share("threshold", self.threshold)
        for name in ("rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        one_of(BatchNormMode, batch_norm=self.batch_norm)

    @property
    def epochs(self) -> int:
        """Entries of the curve; the last one may stand for fewer rounds."""
        return math.ceil(self.rounds / self.rounds_each_epoch)

    @own_training()
    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """See `problem.Method`.

        Returns:
            The student; reported are its steps, those of the generator, `gate_steps` of the
            generator through the gate, `skipped_rounds` of the student, and `passed`, the share of
            images that were kept. A student that took no step is a network that learned nothing.

        Raises:
            ValueError: where no class is forgotten whole, for a problem without a pixel space, or a
                layer that teacher or student have not, or whose output is no map.
            FloatingPointError: when a loss is not finite.
        """
        if not problem.forgotten_classes:
            raise ValueError("forgotten_classes must name at least one class, got none")
        if problem.space is None:
            raise ValueError("space must say how pixels became inputs, got None")
        device, teacher, seconds = device_of(model), frozen_copy(model), Seconds()
        student = problem.fresh(streams.generator("gkt/student")).to(device).requires_grad_(True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(streams.generator("gkt/generator").initial_seed())
            drawn = Generator(problem.space, self.side, self.codes, self.width).to(device)
        layers = self.layers
        if layers is None:
            layers = stage_ends(teacher, drawn(torch.zeros(2, self.codes, device=device)).detach())
        curve, totals = [], dict.fromkeys(COUNTS, 0.0)
        with Activations(teacher, layers) as taught, Activations(student, layers) as learned:
            transfer = _Transfer(self, problem.forgotten_classes, drawn, taught, learned)
            for epoch in range(1, self.epochs + 1):
                begin = (epoch - 1) * self.rounds_each_epoch
                end = min(begin + self.rounds_each_epoch, self.rounds)
                sums = dict.fromkeys((*COUNTS, *LOSSES), 0.0)
                with seconds.part("updates"):
                    set_training(student, self.batch_norm)
                    for number in range(begin, end):
                        order = streams.generator("gkt/codes", number)
                        codes = torch.randn(self.batch_size, self.codes, generator=order)
                        transfer.run(codes.to(device), sums)
                student.eval()
                totals = {name: totals[name] + sums[name] for name in COUNTS}
                entry = {"epoch": float(epoch)}
                for name, count in LOSSES.items():
                    entry[name] = sums[name] / max(sums[count], 1)
                entry["passed"] = sums["images"] / ((end - begin) * self.batch_size)
                if watch is not None:
                    entry.update(watch(epoch, student))
                    student.eval()
                curve.append(entry)
        transfer.pupil.zero_grad()
        report: dict[str, Any] = {"epochs": len(curve), "rounds": self.rounds}
        report.update({name: int(total) for name, total in totals.items() if name != "images"})
        report["passed"] = totals["images"] / (self.rounds * self.batch_size)
        report.update(layers=", ".join(layers), stopped_by="rounds")
        return Unlearned(student, dict(seconds), report, curve)


class _Transfer:
    """What happens in a round; sums of losses and counts go to the mapping it is handed."""

    def __init__(
        self,
        settings: GatedKnowledgeTransfer,
        forgotten: Sequence[int],
        drawn: Generator,
        taught: Activations,
        learned: Activations,
    ) -> None:
        self.settings, self.forgotten, self.drawn = settings, forgotten, drawn
        self.taught, self.learned = taught, learned
        self.teacher, self.student = taught.model, learned.model
        self.pupil = Adam(self.student.parameters(), lr=settings.rate)
        self.artist = Adam(drawn.parameters(), lr=settings.rate)

    def run(self, codes: Tensor, sums: dict[str, float]) -> None:
        """The steps of the generator, then those of the student on what it draws by then."""
        for _ in range(self.settings.generator_steps):
            self.teach_generator(codes, sums)
        with torch.no_grad():
            images = self.drawn(codes)
            logits = self.teacher(images)
            rows = gate(logits, self.forgotten, self.settings.threshold)
            maps = [one[rows] for one in self.taught.maps()]
        sums["images"] += len(images[rows])
        if len(images[rows]) < FEWEST:
            sums["skipped_rounds"] += 1
            return
        for _ in range(self.settings.student_steps):
            self.teach_student(images[rows], logits[rows], maps, sums)

    def teach_generator(self, codes: Tensor, sums: dict[str, float]) -> None:
        """A step towards disagreement, or through the gate where too few images pass."""
        images = self.drawn(codes)
        logits = self.teacher(images)
        rows = gate(logits.detach(), self.forgotten, self.settings.threshold)
        passes = int(rows.sum()) >= FEWEST
        if passes:
            loss = -divergence(logits[rows], self.student(images[rows]))
        else:
            loss = shut_out(logits, self.forgotten)
        stop_if_diverged(loss.detach(), 0, 1)
        parameters = list(self.drawn.parameters())
        # Only the generator's: what this loss says of the student's weights is never asked.
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        clip_grad_norm_(parameters, self.settings.clip)
        self.artist.step()
        sums["generator_steps" if passes else "gate_steps"] += 1
        if passes:
            sums["generator_loss"] += loss.item()

    def teach_student(
        self, images: Tensor, logits: Tensor, maps: Sequence[Tensor], sums: dict[str, float]
    ) -> None:
        """A step towards the teacher's logits (n, K) and attention maps."""
        apart = divergence(logits, self.student(images))
        loss = apart
        if self.settings.attention and maps:
            loss = loss + self.settings.attention * attention_apart(self.learned.maps(), maps)
        stop_if_diverged(loss.detach(), 0, 1)
        self.pupil.zero_grad()
        loss.backward()
        clip_grad_norm_(self.student.parameters(), self.settings.clip)
        self.pupil.step()
        sums["student_steps"] += 1
        sums["loss"] += loss.item()
        sums["divergence"] += apart.item()


class Generator(nn.Module):
    """Codes (n, codes) to inputs (n, C, side, side) whose pixels lie in [0, 1].

    A linear layer to maps of a quarter of the side, twice enlarged to the nearest neighbour with a
    3x3 convolution after it, and a last one to the channels. Its batch normalisation is always
    that of the batch, so that an image is a function of all codes beside it.

    Args:
        space: how pixels become inputs; says the channels C.
        side: of the images, a multiple of 4.
        codes: numbers in a code.
        width: channels inside, half of them in the last enlargement.
    """

    def __init__(self, space: PixelSpace, side: int, codes: int = 128, width: int = 128) -> None:
        super().__init__()
        _check_side(side)
        self.space, narrow, channels = space, width // 2, len(space.mean)
        self.layers = nn.Sequential(
            nn.Linear(codes, width * (side // 4) ** 2),
            nn.Unflatten(1, (width, side // 4, side // 4)),
            nn.BatchNorm2d(width),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, narrow, 3, padding=1),
            nn.BatchNorm2d(narrow),
            nn.LeakyReLU(0.2),
            nn.Conv2d(narrow, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.Sigmoid(),
        )

    def forward(self, codes: Tensor) -> Tensor:
        """The inputs."""
        return self.space.to_inputs(self.layers(codes))


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)), the mean over rows of logits (n, K)."""
    target, found = teacher.log_softmax(1), student.log_softmax(1)
    return kl_div(found, target, reduction="batchmean", log_target=True)


def gate(logits: Tensor, forgotten: Sequence[int], threshold: float) -> Tensor:
    """Which rows of a teacher's logits (n, K) give no forgotten class more than the threshold."""
    return (logits.softmax(1)[:, list(forgotten)] <= threshold).all(1)


def shut_out(logits: Tensor, forgotten: Sequence[int]) -> Tensor:
    """The mean over rows of logits (n, K) of -log(1 - probability of all forgotten classes)."""
    kept = [label for label in range(logits.shape[1]) if label not in forgotten]
    return -logits.log_softmax(1)[:, kept].logsumexp(1).mean()


def _check_side(side: int) -> None:
    if side < 4 or side % 4:
        raise ValueError(f"side must be a positive multiple of 4, got {side}")
