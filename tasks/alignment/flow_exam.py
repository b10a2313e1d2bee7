"""The exam of a flow trained on coupled pairs: samples after few steps, and how straight its
paths are.

Time is the student's: 1 at the source, 0 at the data. Measured from the source on, with s = 1 - t,
the path of a point is x_s and its velocity v_s = -student.velocity(x_s, 1 - s).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sextant.contracts import Examination, Parent, Score, Streams
from sextant.ranges import at_least
from tasks.shared.distances import frechet_distance, wasserstein2
from tasks.shared.scoring import checked_steps, generated, kept, mean_score

KEPT_PATHS = 64


class FlowPathExam:
    """Samples for several numbers of steps, and the student's own paths.

    For every number k of network evaluations:

    - `w2@k`: root of the exact W2^2 between generated and fresh target points;
    - `latent_frechet@k`: their Frechet distance, where `frechet` asks for it.

    Once, on the Euler path of `path_steps` steps from the exam's source, x_0 to x_1:

    - `straightness`: mean over time and points of |v_s - (x_1 - x_0)|^2, 0 for straight lines;
    - `npe`: |E - W2^2(x_0, x_1)| / W2^2(x_0, x_1), where E is the mean over time and points of
      |v_s|^2, the energy of the path;
    - `pair_cost`: mean |x_0 - x_1|^2 of the pairs the student's coupling makes of fresh batches of
      the training size (the same batches for every student of a run seed);
    - `coupling_seconds`: processor time (on a GPU: time) that training spent in the coupling.

    These four have their plain names, for lines that are evaluated once, and also the suffix of the
    largest k, for a table whose lines are evaluated at several k: there they stand on one line.
    A student without `velocity` has no paths, one without `coupling` makes no pairs and one without
    `coupling_seconds` counts none; it does without these marks.

    Arrays: `source`, `target`, `samples@k` (at most 2,000 points) and `paths`, float32
    (64, path_steps + 1, d), the first points' paths from the source on.

    Args:
        steps: the numbers of network evaluations that are asked for.
        path_steps: Euler steps of the path.
        pair_batches: fresh batches that are paired.
        frechet: score `latent_frechet@k` as well.

    Raises:
        ValueError: for counts below 1.
    """

    def __init__(
        self,
        steps: Sequence[int] = (1, 2, 4, 8, 100),
        path_steps: int = 100,
        pair_batches: int = 50,
        frechet: bool = False,
    ) -> None:
        at_least(1, path_steps=path_steps, pair_batches=pair_batches)
        self.steps, self.frechet = checked_steps(steps), frechet
        self.path_steps, self.pair_batches = path_steps, pair_batches

    def examine(
        self, student: Any, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Maps the fixed source points to samples, then follows them and pairs fresh batches."""
        source, target = data.evaluation_source(), data.evaluation_target()
        examination = Examination({}, {"source": kept(source), "target": kept(target)})
        scores = examination.scores
        for k in self.steps:
            samples = generated(student, source, k)
            n = len(samples)
            scores[f"w2@{k}"] = Score(wasserstein2(samples, target), n, "lower")
            if self.frechet:
                distance = frechet_distance(samples, target)
                scores[f"latent_frechet@{k}"] = Score(distance, n, "lower")
            examination.arrays[f"samples@{k}"] = kept(samples)
        once: dict[str, Score] = {}
        if callable(getattr(student, "velocity", None)):
            paths = euler_paths(student.velocity, source, self.path_steps)
            once |= path_scores(paths)
            examination.arrays["paths"] = kept_paths(paths)
        if callable(getattr(student, "coupling", None)):
            once["pair_cost"] = pair_cost(student.coupling, data, streams, self.pair_batches)
        if hasattr(student, "coupling_seconds"):
            once["coupling_seconds"] = Score(
                float(student.coupling_seconds), 1, "lower", timed=True
            )
        scores |= once
        scores |= {f"{name}@{max(self.steps)}": score for name, score in once.items()}
        return examination


@torch.no_grad()
def euler_paths(velocity: Callable[[Tensor, Tensor], Tensor], source: Tensor, steps: int) -> Tensor:
    """Positions (steps + 1, n, *shape), float64, of source (n, *shape) carried to the data.

    Euler steps of length 1/steps; `velocity(z (n, *shape), t (n,))` is dz/dt with t falling from 1
    to 0, asked in the dtype of `source`.

    Raises:
        ValueError: for a velocity of another shape.
        FloatingPointError: for a path that is not finite.
    """
    positions = [source.double().cpu()]
    for k in range(steps):
        z = positions[-1].to(source)
        v = velocity(z, z.new_full((len(z),), 1.0 - k / steps))
        if v.shape != z.shape:
            raise ValueError(f"velocity must return shape {tuple(z.shape)}, got {tuple(v.shape)}")
        positions.append(positions[-1] - v.double().cpu() / steps)
    paths = torch.stack(positions)
    if not torch.isfinite(paths[-1]).all():
        raise FloatingPointError("paths of the flow are not finite, so the run diverged")
    return paths


def path_scores(paths: Tensor) -> dict[str, Score]:
    """`straightness` and `npe` of positions (steps + 1, n, *shape) on an even grid of time."""
    paths = paths.flatten(2)
    velocities = (paths[1:] - paths[:-1]) * (len(paths) - 1)
    first, last = paths[0], paths[-1]
    bends = (velocities - (last - first)).square().sum(2).mean(0)
    energy = float(velocities.square().sum(2).mean())
    transport = wasserstein2(first, last, squared=True)
    npe = Score(normalised_path_energy(energy, transport), len(first), "lower")
    return {"straightness": mean_score(bends, "lower"), "npe": npe}


def normalised_path_energy(energy: float, transport: float) -> float:
    """|energy - transport| / transport, for a mean path energy and the W2^2 it cannot go below.

    Raises:
        ValueError: when nothing needs to move (transport 0).
    """
    if not transport > 0:
        raise ValueError(f"transport must be positive to normalise by it, got {transport}")
    return abs(energy - transport) / transport


@torch.no_grad()
def pair_cost(coupling: Any, data: Any, streams: Streams, batches: int) -> Score:
    """The mean |source - target|^2 over the pairs of fresh batches of `data.batch_size` points."""
    costs = torch.empty(batches, dtype=torch.float64)
    for k in range(batches):
        source = data.draw_source(data.batch_size, streams.generator("pair cost source", k))
        target = data.draw_target(data.batch_size, streams.generator("pair cost target", k))
        pairs = coupling(source, target, streams.generator("pair cost coupling", k))
        moves = source[pairs.source_index] - target[pairs.target_index]
        costs[k] = moves.double().flatten(1).square().sum(1).mean()
    error = float(costs.std()) / math.sqrt(batches) if batches > 1 else None
    return Score(float(costs.mean()), batches * data.batch_size, "lower", error)


def kept_paths(paths: Tensor) -> np.ndarray:
    """The paths of the first points, float32 (points, steps + 1, d), enough for a figure."""
    return paths[:, :KEPT_PATHS].flatten(2).transpose(0, 1).float().numpy()
