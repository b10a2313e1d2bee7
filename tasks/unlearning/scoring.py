"""The exam of unlearning; `version` in a task's config counts its changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from sextant.contracts import Examination, Parent, Score, Streams
from tasks.unlearning import attacks, measures
from tasks.unlearning.measures import Accuracies, Answers

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

    Array: `confusion`, int64 (K, K), of the test parts, true classes down, named ones across.

    Args:
        attacked: pictures of a part that attacks use, at most; None takes all.

    Raises:
        ValueError: for fewer than 20 attacked pictures.
        FloatingPointError: for logits that are not finite.
    """

    def __init__(self, attacked: int | None = 2000) -> None:
        if attacked is not None and attacked < 20:
            raise ValueError(f"attacked must be at least 20 or null, got {attacked}")
        self.attacked = attacked

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Shows the student every picture of every part once, and the retrained model too."""
        answers = answers_of(student, data)
        scores = {part: _share(answers[part]) for part in answers}
        whole = joined(answers["test_retained"], answers.get("test_forgotten"))
        scores["test"] = _share(whole)
        arrays = {"confusion": confusion(whole)}
        if "retrained" in parents:
            retrained = answers_of(parents["retrained"].load(), data)
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
            scores |= {f"seconds_{part}": Score(v, 1, "lower") for part, v in seconds.items()}
            scores["seconds"] = Score(sum(seconds.values()), 1, "lower")
            columns = measures.forgetting_curve(unlearned.curve)
            arrays |= {f"curve_{name}": column for name, column in columns.items()}
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

    def _attacked(self, ours: Mapping[str, Answers], streams: Streams) -> dict[str, float]:
        some = {part: self._some(answers) for part, answers in ours.items()}
        unseen = some.get("test_forgotten", some["test_retained"])
        attack = attacks.loss_attack(
            some["forgotten"], unseen, streams.generator("attack on the loss")
        )
        return {
            "svm_efficacy": self._efficacy(ours, streams),
            "entropy_membership": attacks.entropy_membership(
                some["retained"].logits, some["test_retained"].logits, some["forgotten"].logits
            ),
            "loss_attack": attack.accuracy,
        }

    def _efficacy(self, answers: Mapping[str, Answers], streams: Streams) -> float:
        parts = (answers[part] for part in ("retained", "test_retained", "forgotten"))
        generator = streams.generator("attack on the true class")
        return attacks.svm_efficacy(*map(self._some, parts), generator)

    def _some(self, answers: Answers) -> Answers:
        """At most `attacked` of them, evenly spread."""
        count = len(answers)
        rows = torch.arange(min(count, self.attacked or count)) * count
        rows //= min(count, self.attacked or count)
        return Answers(answers.logits[rows], answers.labels[rows])


def answers_of(student: Any, data: Any) -> dict[str, Answers]:
    """What a student says of every part that has pictures."""
    found = {}
    for part in PARTS:
        inputs, labels = data.examples(part)
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


def _share(answers: Answers) -> Score:
    value, n = measures.accuracy(answers), len(answers)
    return Score(100 * value, n, "higher", 100 * math.sqrt(value * (1 - value) / n))
