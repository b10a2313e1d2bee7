"""What many models that forgot and many retrained ones give away together, example by example.

Both measures take phi, `attacks.logit_confidence`, of every forgotten example in every model:
U-LiRA asks how often a likelihood-ratio test is right, the forgetting score of the NeurIPS 2023
challenge how far the two kinds of models can be told apart at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

Spread = Literal["example", "pooled"]

MINIMUM_SHADOWS = 4
"""Models of each kind from which a mean and a variance are taken, at the least."""
ENOUGH_SHADOWS = 64
"""Below this, a variance of its own for every example is too noisy, and a figure underpowered."""
VARIANCE_FLOOR = 1e-12

DELTA = 1e-5
EPSILON_CAP = 50.0
BIN = 0.5
"""Width of a bin of epsilon; each gives half the points of the one before."""
PEAKED = 0.01
"""A range below this share of the other kind's counts as told apart."""
BUFFER = 2.0
"""How far the ends of an interval may lie from those of the kind of smaller range."""


@dataclass(frozen=True)
class LikelihoodAttack:
    """What the likelihood-ratio attack achieved, as means over its folds.

    Args:
        auc: area under the ROC curve of "this model forgot this example"; 0.5 is ideal.
        true_positive_rate: at a false positive rate of at most 1 %, without interpolation.
        shadows: models of each kind that the Gaussians were fitted to, in the smallest fold.
        models: of each kind, all held out once.
        examples: attacked in every model.
        spread: whose variance the Gaussians have.
    """

    auc: float
    true_positive_rate: float
    shadows: int
    models: int
    examples: int
    spread: Spread

    @property
    def underpowered(self) -> bool:
        """Fewer than 64 shadows."""
        return self.shadows < ENOUGH_SHADOWS


def u_lira(
    unlearned: Tensor,
    retrained: Tensor,
    generator: torch.Generator,
    folds: int = 4,
    spread: Spread | None = None,
) -> LikelihoodAttack:
    """U-LiRA: a likelihood-ratio test for every forgotten example (arXiv 2403.01218).

    In every fold two Gaussians an example are fitted to phi of the shadow models, one to the models
    that forgot it and one to those that never had it; the held-out models are ranked by the log
    ratio of the two densities. Row i of both arguments is held out in the same fold, so models that
    share a seed never stand on both sides.

    Args:
        unlearned: phi (`logit_confidence`), (models, examples).
        retrained: phi of as many models that never had the examples, same shape.
        generator: deals the models to the folds.
        folds: at least 2; each holds out about models / folds.
        spread: a variance for every example, or one pooled over the examples; None takes
            "example" from 64 shadows and "pooled" below.

    Raises:
        ValueError: for other shapes, values that are not finite, or too few models: a fold must
            leave at least 4 shadows.
    """
    ours, theirs = _confidences(unlearned, retrained)
    models, examples = ours.shape
    shadows = models - -(-models // folds) if folds >= 2 else 0
    if shadows < MINIMUM_SHADOWS or models < folds:
        raise ValueError(
            f"folds must be at least 2 and leave at least {MINIMUM_SHADOWS} shadows of each kind, "
            f"got {models} models in {folds} folds"
        )
    if spread is None:
        spread = "example" if shadows >= ENOUGH_SHADOWS else "pooled"
    if spread not in get_args(Spread):
        raise ValueError(f"spread must be one of {get_args(Spread)} or None, got {spread!r}")
    from sklearn.metrics import roc_auc_score, roc_curve

    order = torch.randperm(models, generator=generator).numpy()
    areas, rates = [], []
    for held_out in np.array_split(order, folds):
        fitted = np.setdiff1d(order, held_out)
        laws = [_gaussian(phi[fitted], spread) for phi in (ours, theirs)]
        scores = [
            (_log_density(phi[held_out], *laws[0]) - _log_density(phi[held_out], *laws[1])).ravel()
            for phi in (ours, theirs)
        ]
        truth = np.repeat([1, 0], len(scores[0]))
        areas.append(roc_auc_score(truth, np.concatenate(scores)))
        false, true, _ = roc_curve(truth, np.concatenate(scores), drop_intermediate=False)
        rates.append(true[false <= 0.01].max())
    area, rate = float(np.mean(areas)), float(np.mean(rates))
    return LikelihoodAttack(area, rate, shadows, models, examples, spread)


def example_epsilons(unlearned: Tensor, retrained: Tensor, delta: float = DELTA) -> np.ndarray:
    """epsilon of every forgotten example: how far the two kinds of models can be told apart.

    The largest max(ln(1 - delta - FPR) - ln FNR, ln(1 - delta - FNR) - ln FPR, 0) over rules whose
    error rates FPR and FNR are both positive; the cap 50 where a rule makes no error, or where one
    kind's range is below 1 % of the other's. Rules: phi of at least t belongs to the kind of larger
    median; phi in [l, r] belongs to the kind of smaller range w, for r within 2 of that kind's
    largest phi and r - l within 2 of w. Every rule of these families is tried, by ranks, where the
    challenge's released `metric.py` tries a grid; where no rule counts, epsilon is 0.

    Args:
        unlearned: phi (`logit_confidence`), (models, examples).
        retrained: phi of as many retrained models, same shape.
        delta: of the differential privacy the challenge estimates.

    Returns:
        (examples,) float64 in [0, 50]. Cost: about (2 models)^2 an example, in time and memory.

    Raises:
        ValueError: for other shapes or values that are not finite.
    """
    ours, theirs = _confidences(unlearned, retrained)
    return np.array([_epsilon(*pair, delta) for pair in zip(ours.T, theirs.T, strict=True)])


def forgetting_score(unlearned: Tensor, retrained: Tensor, delta: float = DELTA) -> float:
    """F of the NeurIPS 2023 unlearning challenge: the mean points of the forgotten examples.

    An example in bin j = floor(epsilon / 0.5) gives 2^-j; bins end at ceil(ln(models - 1)), and
    what lies beyond gives nothing. 512 models of each kind are the challenge's number; the score
    of fewer has fewer bins and is not comparable.

    Two groups of equally good models stay well below 1, since epsilon is the best of many rules on
    a finite sample (about 0.2 for Gaussian phi, with 64 or with 512 models); read it beside the
    score of retrained models against retrained ones.

    Args:
        unlearned, retrained, delta: as `example_epsilons`.

    Returns:
        A number in [0, 1]; higher is better.

    Raises:
        ValueError: as `example_epsilons`, and for fewer than 3 models, which leave no bin.
    """
    if len(unlearned) < 3:
        raise ValueError(f"unlearned must hold at least 3 models, got {len(unlearned)}")
    bins = np.floor(example_epsilons(unlearned, retrained, delta) / BIN)
    last = math.ceil(math.log(len(unlearned) - 1)) / BIN
    return float(np.where(bins < last, 2.0**-bins, 0.0).mean())


def final_score(
    forgetting: float, retain: float, retrained_retain: float, test: float, retrained_test: float
) -> float:
    """The challenge's final score: F x RA / RA of retraining x TA / TA of retraining.

    Raises:
        ValueError: where an accuracy of the retrained models is not positive.
    """
    if retrained_retain <= 0 or retrained_test <= 0:
        raise ValueError(
            "retrained_retain and retrained_test must be positive, "
            f"got {retrained_retain} and {retrained_test}"
        )
    return forgetting * (retain / retrained_retain) * (test / retrained_test)


def _epsilon(ours: np.ndarray, theirs: np.ndarray, delta: float) -> float:
    """epsilon of one example from phi (models,) of both kinds."""
    narrow, wide = sorted((ours, theirs), key=np.ptp)
    width = np.ptp(narrow)
    if width < PEAKED * np.ptp(wide):
        return EPSILON_CAP
    high, low = (theirs, ours) if np.median(theirs) > np.median(ours) else (ours, theirs)
    values = np.unique(np.concatenate((ours, theirs)))
    # Errors of the single thresholds, as counts: low ones at or above, high ones below.
    errors = [(len(low) - _below(low, values), _below(high, values))]
    # An interval that holds values i to j has l in (values[i - 1], values[i]] and r in
    # [values[j], values[j + 1]); it is tried where some such l and r are in the family.
    previous = np.concatenate(([-math.inf], values[:-1]))[:, None]
    following = np.concatenate((values[1:], [math.inf]))
    nearest = np.maximum(values, narrow.max() - BUFFER)
    farthest = np.minimum(following, narrow.max() + BUFFER)
    tried = (
        (values[:, None] <= values)
        & (nearest <= farthest)
        & (nearest < following)
        & (nearest - values[:, None] <= width + BUFFER)
        & (farthest - previous > width - BUFFER)
    )
    errors.append((_inside(wide, values)[tried], len(narrow) - _inside(narrow, values)[tried]))
    false_positives, false_negatives = (
        np.concatenate(counts) / len(ours) for counts in zip(*errors, strict=True)
    )
    if ((false_positives == 0) & (false_negatives == 0)).any():
        return EPSILON_CAP
    both = (false_positives > 0) & (false_negatives > 0)
    if not both.any():
        return 0.0
    positives, negatives = false_positives[both], false_negatives[both]
    ratio = np.maximum((1 - delta - positives) / negatives, (1 - delta - negatives) / positives)
    return min(math.log(max(ratio.max(), 1.0)), EPSILON_CAP)


def _below(phi: np.ndarray, values: np.ndarray) -> np.ndarray:
    """How many of phi (models,) are below each of the rising values (m,)."""
    return np.searchsorted(np.sort(phi), values, "left")


def _inside(phi: np.ndarray, values: np.ndarray) -> np.ndarray:
    """How many of phi (models,) are in [values[i], values[j]], (m, m); negative where i > j + 1."""
    upto = np.searchsorted(np.sort(phi), values, "right")
    return upto[None, :] - _below(phi, values)[:, None]


def _confidences(unlearned: Tensor, retrained: Tensor) -> tuple[np.ndarray, np.ndarray]:
    if unlearned.ndim != 2 or 0 in unlearned.shape or unlearned.shape != retrained.shape:
        raise ValueError(
            "unlearned and retrained must both be (models, examples), "
            f"got {tuple(unlearned.shape)} and {tuple(retrained.shape)}"
        )
    ours, theirs = (phi.detach().cpu().double().numpy() for phi in (unlearned, retrained))
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise ValueError("unlearned and retrained must hold finite values only")
    return ours, theirs


def _gaussian(phi: np.ndarray, spread: Spread) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance, both (examples,), of phi (shadows, examples)."""
    variance = phi.var(0, ddof=1)
    if spread == "pooled":
        variance = np.full_like(variance, variance.mean())
    return phi.mean(0), np.maximum(variance, VARIANCE_FLOOR)


def _log_density(phi: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Log-density up to the constant that both laws share."""
    return -((phi - mean) ** 2) / (2 * variance) - np.log(variance) / 2
