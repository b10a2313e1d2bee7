"""The exam of unlearning; `version` in a task's config counts its changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sextant.contracts import Examination, Parent, Score, Streams
from sextant.ranges import at_least
from tasks.unlearning import attacks, measures
from tasks.unlearning.features import last_features
from tasks.unlearning.measures import Accuracies, Answers
from tasks.unlearning.relearning import anamnesis_index, steps_to_relearn
from tasks.unlearning.timing import training_seconds

PARTS = ("retained", "forgotten", "test_retained", "test_forgotten")


class ForgettingExam:
    """What a model still knows of what it was to forget, and of all else.

    In percent, each with its binomial standard error:

    - `retained`, `forgotten`, `test_retained`, `test_forgotten`: accuracy on that part, over all
      logits; `test` on both test parts. A part without pictures has no score.

    Beside the parent "retrained", a model trained without the forgotten pictures, where the task
    names one, in percent points:

    - `gap_<part>`: distance of the accuracy from the retrained model's; 0 is best;
    - `average_gap`: the mean distance in UA, RA, TA and `svm_efficacy`;
    - `tow`: tug of war, 100 is best;
    - `svm_efficacy`, `entropy_membership`: share of forgotten pictures that an attack takes for
      never seen, or for members; `loss_attack`: its accuracy in telling forgotten pictures from
      unseen ones of the same classes, 50 is best; see `attacks`;
    - `zrf`: likeness to a model of random weights, where the student offers `fresh_logits(inputs)`.

    Where the student offers `unlearned` with `seconds` and `curve`: `seconds_<part>` and `seconds`,
    their sum, processor time; and arrays `curve_<name>`, a number an epoch.

    Arrays: `confusion`, int64 (K, K), of the test parts, true classes down, named ones across;
    `forgotten_classes`, those forgotten whole;
    `features`, float16 (n, D), of at most `mapped` test pictures, and `feature_labels` (n,); and
    where the student protected images, float32 pixels in [0, 1] (n, channels, side, side): a few
    of each class as `proxy_images`, and of real ones of the same classes as `real_images`.

    Args:
        asked: retained training pictures, evenly spread, that are asked at most; None asks all.
        relearning: steps after which relearning is given up; None does not try.
        mapped: test pictures whose features are kept; 0 keeps none.

    Raises:
        ValueError: for fewer than 20 pictures asked, no step to relearn in, or a negative
            number of mapped pictures.
        FloatingPointError: for logits that are not finite.
    """

    def __init__(
        self, asked: int | None = 2000, relearning: int | None = None, mapped: int = 0
    ) -> None:
        if asked is not None:
            at_least(20, asked=asked)
        if relearning is not None:
            at_least(1, relearning=relearning)
        if mapped < 0:
            raise ValueError(f"mapped must be 0 or more, got {mapped}")
        self.asked, self.relearning, self.mapped = asked, relearning, mapped

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Shows the student pictures of every part once, and the retrained model too."""
        answers = answers_of(student, data, self.asked)
        scores = {
            part: _share(answers[part], "lower" if part.endswith("forgotten") else "higher")
            for part in answers
        }
        whole = joined(answers["test_retained"], answers.get("test_forgotten"))
        scores["test"] = _share(whole, "higher")
        arrays = {
            "confusion": confusion(whole),
            "forgotten_classes": np.array(data.forgotten_classes, dtype=np.int64),
        }
        if "retrained" in parents:
            retrained = answers_of(parents["retrained"].load(), data, self.asked)
            scores |= self._compared(answers, retrained, streams)
        if hasattr(student, "fresh_logits"):
            inputs, _ = data.examples("forgotten")
            likeness = measures.zero_retrain_forgetting(
                answers["forgotten"].logits, student.fresh_logits(inputs)
            )
            scores["zrf"] = Score(100 * likeness, len(inputs), "higher")
        unlearned = getattr(student, "unlearned", None)
        if unlearned is not None:
            seconds = dict(unlearned.seconds)
            scores |= {
                f"seconds_{part}": Score(v, 1, "lower", timed=True) for part, v in seconds.items()
            }
            scores["seconds"] = Score(sum(seconds.values()), 1, "lower", timed=True)
            columns = measures.forgetting_curve(unlearned.curve)
            arrays |= {f"curve_{name}": column for name, column in columns.items()}
            if seconds and "retrained" in parents:
                retraining = _retraining_seconds(parents["retrained"], data)
                faster = retraining / max(sum(seconds.values()), 1e-9)
                scores["speed_up"] = Score(faster, 1, "higher", timed=True)
        if hasattr(student, "proxy_quality"):
            inputs, labels = data.examples("retained")
            found = student.proxy_quality(inputs, labels)
            if "energy_capture" in found:
                share = 100 * found["energy_capture"]
                scores["energy_capture"] = Score(share, len(labels), "higher")
            if "batch_norm_ratio" in found:
                ratio = found["batch_norm_ratio"]
                scores["batch_norm_ratio"] = Score(ratio, len(labels), "lower")
        if self.relearning is not None:
            scores |= self._relearned(student, data, streams, parents)
        if self.mapped:
            inputs, labels = _test_pictures(data, self.mapped)
            arrays["features"] = last_features(student.model, inputs).half().numpy()
            arrays["feature_labels"] = labels.numpy()
        proxy = getattr(unlearned, "proxy", None)
        if proxy is not None:
            inputs, labels = data.examples("retained")
            alike = torch.isin(labels, proxy.labels)
            arrays["proxy_images"] = _some_pixels(proxy.inputs, proxy.labels, data)
            arrays["real_images"] = _some_pixels(inputs[alike], labels[alike], data)
        return Examination(scores, arrays)

    def _compared(
        self, ours: Mapping[str, Answers], theirs: Mapping[str, Answers], streams: Streams
    ) -> dict[str, Score]:
        scores = {}
        for part in ours:
            distance = measures.gap(measures.accuracy(ours[part]), measures.accuracy(theirs[part]))
            scores[f"gap_{part}"] = Score(100 * abs(distance), len(ours[part]), "lower")
        attacked = self._attacked(ours, streams)
        efficacy, reference = attacked["svm_efficacy"], self._efficacy(theirs, streams)
        summary, retrained = _accuracies(ours), _accuracies(theirs)
        average = measures.average_gap(summary, retrained, efficacy, reference)
        count = sum(map(len, ours.values()))
        scores["average_gap"] = Score(100 * average, count, "lower")
        scores["tow"] = Score(100 * measures.tug_of_war(summary, retrained), count, "higher")
        forgotten = len(ours["forgotten"])
        better = {"svm_efficacy": "higher", "entropy_membership": "lower", "loss_attack": "lower"}
        for name, value in attacked.items():
            scores[name] = Score(100 * value, forgotten, better[name])
        return scores

    def _relearned(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> dict[str, Score]:
        inputs, labels = data.examples("forgotten")
        original, retrained = (parents[role].load() for role in ("original", "retrained"))
        named = original.logits(inputs).argmax(1)
        target = 0.95 * float((named == labels).float().mean())
        if target == 0.0:
            return {}  # nothing was known, so nothing can come back
        ours, theirs = (
            steps_to_relearn(
                network,
                inputs,
                labels,
                target,
                most=self.relearning,
                generator=streams.generator("relearning"),
            )
            for network in (student.model, retrained.network)
        )
        scores = {"relearning_steps": Score(ours, len(labels), "higher")}
        index = anamnesis_index(ours, theirs)
        if index is not None:
            scores["anamnesis"] = Score(index, len(labels), "higher")
        return scores

    def _attacked(self, ours: Mapping[str, Answers], streams: Streams) -> dict[str, float]:
        unseen = ours.get("test_forgotten", ours["test_retained"])
        alike = torch.isin(unseen.labels, ours["forgotten"].labels)
        unseen = Answers(unseen.logits[alike], unseen.labels[alike])
        attack = attacks.loss_attack(
            ours["forgotten"], unseen, streams.generator("attack on the loss")
        )
        return {
            "svm_efficacy": self._efficacy(ours, streams),
            "entropy_membership": attacks.entropy_membership(
                ours["retained"].logits, ours["test_retained"].logits, ours["forgotten"].logits
            ),
            "loss_attack": attack.accuracy,
        }

    def _efficacy(self, answers: Mapping[str, Answers], streams: Streams) -> float:
        parts = (answers[part] for part in ("retained", "test_retained", "forgotten"))
        return attacks.svm_efficacy(*parts, streams.generator("attack on the true class"))


class InversionExam:
    """What a model says of the images drawn from it.

    `own_accuracy`, in percent, of the labels they were drawn for; `batch_norm_distance` from the
    running statistics where there are any; `seconds`, processor time. Array: `images`, float32
    pixels in [0, 1] (n, channels, side, side), at most `shown` of each class, classes in order.

    Args:
        shown: images of a class that are kept for pictures.
    """

    def __init__(self, shown: int = 4) -> None:
        self.shown = shown

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Reads what the student found."""
        images, report = student.images, student.inverted.report
        count = len(images.labels)
        scores = {"own_accuracy": Score(100 * report["own_accuracy"], count, "higher")}
        if report["batch_norm_distance"] is not None:
            distance = report["batch_norm_distance"]
            scores["batch_norm_distance"] = Score(distance, count, "lower")
        scores["seconds"] = Score(student.seconds, 1, "lower", timed=True)
        pixels = _some_pixels(images.inputs, images.labels, data, self.shown)
        return Examination(scores, {"images": pixels})


def _retraining_seconds(retrained: Parent, data: Any) -> float:
    budget = retrained.spec["budget"]
    inputs, labels = data.examples("retained")
    size = budget["batch_size"]
    return training_seconds(retrained.load().network, inputs[:size], labels[:size], budget["steps"])


def _some_pixels(inputs: Tensor, labels: Tensor, data: Any, each: int = 3) -> np.ndarray:
    """Pixels in [0, 1] of the first few inputs of each class, classes in order."""
    rows = torch.cat([(labels == label).nonzero()[:each, 0] for label in labels.unique()])
    return (inputs[rows] * data.deviation + data.mean).clamp(0, 1).float().cpu().numpy()


def _test_pictures(data: Any, count: int) -> tuple[Tensor, Tensor]:
    """At most `count` test pictures of all classes, evenly spread, and their labels."""
    parts = [data.examples(part) for part in ("test_retained", "test_forgotten")]
    inputs, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    order = labels.argsort(stable=True)
    return evenly(inputs[order], labels[order], count)


def evenly(inputs: Tensor, labels: Tensor, most: int | None) -> tuple[Tensor, Tensor]:
    """At most so many of them, evenly spread; None takes all."""
    count = len(labels) if most is None else min(most, len(labels))
    rows = torch.arange(count) * len(labels) // max(1, count)
    return inputs[rows], labels[rows]


def answers_of(student: Any, data: Any, most: int | None) -> dict[str, Answers]:
    """What a student says of every part that has pictures, of at most so many retained ones."""
    found = {}
    for part in PARTS:
        inputs, labels = evenly(*data.examples(part), most if part == "retained" else None)
        if len(labels):
            found[part] = Answers(student.logits(inputs), labels)
    return found


def joined(first: Answers, second: Answers | None) -> Answers:
    """Both, one after the other."""
    if second is None:
        return first
    logits = torch.cat((first.logits, second.logits))
    return Answers(logits, torch.cat((first.labels, second.labels)))


def confusion(answers: Answers) -> np.ndarray:
    """How often each class (down) was given each name (across), int64 (K, K)."""
    classes = answers.logits.shape[1]
    places = answers.labels * classes + answers.logits.argmax(1)
    return torch.bincount(places, minlength=classes**2).view(classes, classes).numpy()


def _accuracies(answers: Mapping[str, Answers]) -> Accuracies:
    """The test accuracy is that on the retained classes: the others are to be forgotten."""
    parts = ("forgotten", "retained", "test_retained")
    return Accuracies(*(measures.accuracy(answers[part]) for part in parts))


def _share(answers: Answers, better: Literal["higher", "lower"]) -> Score:
    value, n = measures.accuracy(answers), len(answers)
    return Score(100 * value, n, better, 100 * math.sqrt(value * (1 - value) / n))
