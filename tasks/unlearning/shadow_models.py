"""The likelihood-ratio attack as an exam: one method on many models that forget the same pictures.

A method's answer on one model says little of what one picture left behind. Here the method unlearns
each of several trained models, and every forgotten picture is judged by how models that forgot it
differ from models that never saw it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sextant.contracts import Examination, Parent, Score, Streams
from tasks.shared.stepwise import EpochOrder
from tasks.unlearning.attacks import logit_confidence
from tasks.unlearning.data import CifarForgetting
from tasks.unlearning.measures import Answers
from tasks.unlearning.shadows import forgetting_score, u_lira


class SharedForgetting(CifarForgetting):
    """CIFAR-10 of which every run, whatever its seed, is to forget the same pictures.

    The seed still gives the order of the training batches.

    Args:
        chosen_by: the seed whose pictures they are.
        settings: as `CifarForgetting`.
    """

    def __init__(self, chosen_by: int = 0, **settings: Any) -> None:
        super().__init__(**settings)
        self.chosen_by = chosen_by

    def prepare(self, streams: Streams, parents: Mapping[str, Parent]) -> None:
        """Reads the pictures and chooses those to forget."""
        super().prepare(Streams(self.chosen_by), parents)
        self._streams = streams
        self._order = EpochOrder(len(self._learnt.labels), self.batch_size, streams)


class LikelihoodExam:
    """How well models that forgot are told from models that never saw the pictures.

    The parents "original", "original_1" ... and, where there are any, "inverted", "inverted_1" ...
    are what the student unlearns, each with randomness of its own; the parents "retrained_0" ...,
    as many, never saw the pictures.

    - `u_lira`: area under the curve of the likelihood-ratio attack, percent; 50 is best, 100 when
      every model gives itself away;
    - `u_lira_true_positives`: its true positive rate at 1 % false positives, percent; 1 is best;
    - `forgetting_score`: F of the NeurIPS 2023 challenge, percent, higher is better; with few
      models only fit to compare rows with one another;
    - `confidence_gap`: mean distance of a picture's mean confidence between the two kinds of
      models, in units of logits.

    Arrays: `confidence_forgot` and `confidence_never`, float32 (models, pictures).
    """

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Lets the student unlearn every model and asks all of them for the forgotten pictures.

        Raises:
            ValueError: for unequal numbers of trained and retrained models, or too few.
        """
        inputs, labels = data.examples("forgotten")
        trained = _numbered(parents, "original")
        never = [parents[f"retrained_{number}"] for number in range(len(trained))]

        def confidence(model: Any) -> Tensor:
            return logit_confidence(Answers(model.logits(inputs), labels))

        forgot = [confidence(student)]  # it has unlearned the first one already
        for number in range(1, len(trained)):
            own = Streams(streams.generator("shadow model", number).initial_seed())
            roles = {role: f"{role}_{number}" for role in ("original", "inverted")}
            student.prepare(
                own, {role: parents[name] for role, name in roles.items() if name in parents}, data
            )
            forgot.append(confidence(student))
        ours, theirs = torch.stack(forgot), torch.stack([confidence(p.load()) for p in never])
        attack = u_lira(ours, theirs, streams.generator("folds of the attack"))
        score = forgetting_score(ours, theirs)
        gap = float((ours.mean(0) - theirs.mean(0)).abs().mean())
        answers = 2 * attack.models * attack.examples
        return Examination(
            {
                "u_lira": Score(100 * attack.auc, answers, "lower"),
                "u_lira_true_positives": Score(100 * attack.true_positive_rate, answers, "lower"),
                "forgetting_score": Score(100 * score, attack.examples, "higher"),
                "confidence_gap": Score(gap, attack.examples, "lower"),
            },
            {
                "confidence_forgot": ours.float().numpy(),
                "confidence_never": theirs.float().numpy(),
            },
        )


def _numbered(parents: Mapping[str, Parent], role: str) -> list[Parent]:
    """The parents `role`, `role_1`, `role_2` ..., as far as they go."""
    found = [parents[role]]
    while f"{role}_{len(found)}" in parents:
        found.append(parents[f"{role}_{len(found)}"])
    return found
