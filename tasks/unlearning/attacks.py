"""Whether it can still be told what a model was trained on: membership attacks.

Three attacks ask one model and differ in what they call a member; their scores go by their own
names and are never compared with each other. What takes many models is in `shadows`.

All features are computed in float64 from the logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sextant.ranges import at_least, one_of
from tasks.unlearning.measures import Answers, check_logits, log_probabilities

Rule = Literal["logistic", "svm"]

LEAST_FOR_LOSSES = 10
"""Examples of each side that can be split into ten parts."""


def true_class_probability(answers: Answers) -> Tensor:
    """The softmax probability of the true class, (n,) float64."""
    return (-losses(answers)).exp()


def losses(answers: Answers) -> Tensor:
    """The cross-entropy of every example, (n,) float64, in nats."""
    return -log_probabilities(answers.logits).gather(1, answers.labels.cpu()[:, None])[:, 0]


def output_entropy(logits: Tensor) -> Tensor:
    """The entropy of the class probabilities of logits (n, K), (n,) float64, in nats."""
    check_logits("logits", logits)
    logs = log_probabilities(logits)
    return -(logs.exp() * logs).sum(1)


def modified_entropy(answers: Answers) -> Tensor:
    """-(1 - p_y) log p_y - sum over k != y of p_k log(1 - p_k), (n,) float64, in nats.

    Unlike the entropy it tells a confident right answer (0) from a confident wrong one. log(1 - p)
    of the largest class comes from the other logits, so it is exact where p rounds to 1.

    Source: Song and Mittal, USENIX Security 2021, equation 8.
    """
    logs, rows = log_probabilities(answers.logits), torch.arange(len(answers))
    largest, labels = logs.argmax(1), answers.labels.cpu()
    others = logs.clone()
    others[rows, largest] = -math.inf
    complement = torch.log1p(-logs.exp())
    complement[rows, largest] = others.logsumexp(1)
    terms = logs.exp() * complement
    terms[rows, labels] = complement[rows, labels].exp() * logs[rows, labels]
    return -terms.sum(1)


def logit_confidence(answers: Answers) -> Tensor:
    """phi = log p_y - log(1 - p_y), (n,) float64: the logit of the true class's probability.

    Taken from the logits as z_y - logsumexp over k != y of z_k, so it stays exact and finite where
    p_y rounds to 0 or 1.
    """
    logits, labels = answers.logits.detach().cpu().double(), answers.labels.cpu()[:, None]
    return (logits.gather(1, labels)[:, 0]) - logits.scatter(1, labels, -math.inf).logsumexp(1)


def svm_efficacy(
    retained: Answers,
    test: Answers,
    forgotten: Answers,
    generator: torch.Generator,
    at_most: int | None = None,
) -> float:
    """MIA-efficacy: the share of forgotten examples that an attack takes for never seen.

    An RBF support vector machine (C = 3, gamma = 1) learns on the true class's probability to tell
    retained training examples (members) from as many test examples, and is asked about the
    forgotten ones. Higher means better forgotten; the reference is the retrained model's score.
    Source: the released evaluation of SalUn (arXiv 2310.12508).

    Args:
        retained: of retained training examples; a random part as large as the test set is used.
        test: of test examples of the classes that are retained.
        forgotten: of the training examples that are forgotten.
        generator: draws the parts.
        at_most: members and non-members used each; None takes as many as there are of both. The
            cost grows faster than its square (20,000 in all: tens of seconds).

    Returns:
        A share in [0, 1].

    Raises:
        ValueError: for an `at_most` below 1.
    """
    if at_most is not None:
        at_least(1, at_most=at_most)
    from sklearn.svm import SVC

    members, others = true_class_probability(retained), true_class_probability(test)
    size = min(len(members), len(others), at_most or len(others))
    values = torch.cat((_some(members, size, generator), _some(others, size, generator)))
    attack = SVC(C=3, gamma="auto", kernel="rbf")
    attack.fit(_column(values), np.repeat([1, 0], size))
    return float((attack.predict(_column(true_class_probability(forgotten))) == 0).mean())


def entropy_membership(
    retained: Tensor, test: Tensor, forgotten: Tensor, rule: Rule = "logistic"
) -> float:
    """The share of forgotten examples that an attack on the entropy takes for members.

    The attack learns on the entropy of the class probabilities to tell retained training examples
    (members) from test examples. Lower means better forgotten: the opposite of `svm_efficacy`.
    Source: the evaluation of arXiv 2205.08096.

    Args:
        retained: logits (n, K) of retained training examples.
        test: logits (m, K) of test examples.
        forgotten: logits (f, K) of the training examples that are forgotten.
        rule: logistic regression with balanced classes, or an RBF support vector machine (C = 3,
            gamma = 1), whose cost grows faster than (n + m)^2 and which follows the larger set.

    Returns:
        A share in [0, 1].

    Raises:
        ValueError: for an unknown rule.
    """
    one_of(Rule, rule=rule)
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    attack: Any = LogisticRegression(class_weight="balanced")
    if rule == "svm":
        attack = SVC(C=3, gamma="auto", kernel="rbf")
    values = torch.cat((output_entropy(retained), output_entropy(test)))
    attack.fit(_column(values), np.repeat([1, 0], [len(retained), len(test)]))
    return float((attack.predict(_column(output_entropy(forgotten))) == 1).mean())


@dataclass(frozen=True)
class LossAttack:
    """What an attack on the loss achieved.

    Args:
        accuracy: mean over the splits, in [0, 1]; 0.5 is ideal.
        deviation: standard deviation over the splits, which overlap: no standard error.
        n: forgotten examples used, and as many unseen ones.
    """

    accuracy: float
    deviation: float
    n: int


def loss_attack(
    forgotten: Answers, unseen: Answers, generator: torch.Generator, splits: int = 10
) -> LossAttack:
    """How well a threshold on the loss tells forgotten examples from unseen ones of their classes.

    Logistic regression on the loss, in stratified random splits of which a tenth is held out. As
    many examples of every class are drawn from both sets, since the loss differs between classes
    and would give a difference in their frequencies away. Source: the starting kit of the NeurIPS
    2023 unlearning challenge.

    Args:
        forgotten: of the training examples that are forgotten.
        unseen: of examples no training has seen, of the same classes.
        generator: draws the parts and the splits.
        splits: how many.

    Raises:
        ValueError: for different classes, fewer than 10 examples each or no split.
    """
    at_least(1, splits=splits)
    classes = [set(answers.labels.tolist()) for answers in (forgotten, unseen)]
    if classes[0] != classes[1]:
        raise ValueError(
            f"unseen must hold the classes of the forgotten, {sorted(classes[0])}, "
            f"got {sorted(classes[1])}"
        )
    known, new = losses(forgotten), losses(unseen)
    drawn: tuple[list[Tensor], list[Tensor]] = ([], [])
    for label in sorted(classes[0]):
        both = known[forgotten.labels.cpu() == label], new[unseen.labels.cpu() == label]
        for part, values in zip(drawn, both, strict=True):
            part.append(_some(values, min(map(len, both)), generator))
    n = sum(map(len, drawn[0]))
    if n < LEAST_FOR_LOSSES:
        raise ValueError(
            f"forgotten and unseen must share at least {LEAST_FOR_LOSSES} examples, class by "
            f"class, got {n}"
        )
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score

    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    marks = cross_val_score(
        LogisticRegression(),
        _column(torch.cat(drawn[0] + drawn[1])),
        np.repeat([1, 0], n),
        cv=StratifiedShuffleSplit(n_splits=splits, test_size=0.1, random_state=seed),
        scoring="accuracy",
    )
    return LossAttack(float(marks.mean()), float(marks.std()), n)


def _some(values: Tensor, size: int, generator: torch.Generator) -> Tensor:
    return values[torch.randperm(len(values), generator=generator)[:size]]


def _column(values: Tensor) -> np.ndarray:
    return values.numpy()[:, None]
