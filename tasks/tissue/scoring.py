"""The exam of soft-tissue simulators: errors against finite elements, plausibility, latency."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sextant.contracts import Examination, Grasps, Parent, Score, Simulator, Streams
from tasks.tissue.data import liver
from tasks.tissue.grasps import GraspLaw, synthetic
from tasks.tissue.simulations import BLOCK
from tasks.tissue.solver import Elements, inverted

MILLIMETRES = 1000.0
WARM_UPS = 20
DRAWN = 3
LOOKED_AT = 50  # samples whose tetrahedra are looked at


class TissueExam:
    """Asks for every test grasp; lengths are in millimetres.

    Args:
        timed: single queries that are timed after 20 that are not; 0 times none.
        sizes: further livers (see `tasks.tissue.data.liver`) on which the time is taken.
    """

    def __init__(self, timed: int = 200, sizes: tuple[int, ...] = ()) -> None:
        if timed < 0:
            raise ValueError(f"timed must be at least 0, got {timed}")
        self.timed, self.sizes = timed, sizes

    def examine(
        self, student: Simulator, data: Any, streams: Streams, parents: Mapping[str, Parent]
    ) -> Examination:
        """Marks on the test set, on the further sets, along paths of a tool, and the time."""
        grasps, wanted = data.test.grasps, data.test.displacement
        found = answers(student, data.mesh, grasps, data.material)
        scores = errors(found, wanted) | places(found, wanted, grasps, data.mesh)
        elements = Elements(data.mesh)
        turned = [inverted(elements, u.double().numpy()).mean() for u in found[:LOOKED_AT]]
        scores["inverted"] = Score(100 * float(np.mean(turned)), len(turned), "lower")
        scores["failed_solves"] = Score(float(data.train.failures), data.counts[0], "lower")
        for name, (mesh, material, part) in data.others.items():
            other = errors(answers(student, mesh, part.grasps, material), part.displacement)
            scores |= {f"{score}_{name}": other[score] for score in ("mean_error", "capture")}
        if len(data.paths.grasps):
            along = answers(student, data.mesh, data.paths.grasps, data.material)
            scores |= stability(along, data.paths.displacement)
        scores |= self.latency(student, data)
        arrays = {
            "positions": data.mesh.positions.astype(np.float32),
            "surface": data.mesh.surface.astype(np.int32),
            "found": found[:DRAWN].numpy(),
            "wanted": wanted[:DRAWN].numpy(),
            "held": grasps.nodes[:DRAWN].numpy(),
        }
        return Examination(scores, arrays)

    def latency(self, student: Simulator, data: Any) -> dict[str, Score]:
        """Milliseconds a frame, one grasp at a time, everything included: the test set's grasps
        on the test body, drawn ones on the others."""
        if self.timed == 0:
            return {}
        found = {}
        for size in (None, *self.sizes):
            if size is None:
                mesh, grasps, count = data.mesh, data.test.grasps, self.timed
            else:
                mesh, count = liver(size).mesh(), max(1, self.timed // 4)
                grasps = synthetic(mesh, GraspLaw(data.train_law.grasps.tools), 20, 0)

            def frame(number: int, mesh: Any = mesh, grasps: Grasps = grasps) -> None:
                row = number % len(grasps)
                student.simulate(mesh, grasps.rows(slice(row, row + 1)), data.material)

            spent = timed(frame, min(WARM_UPS, count), count)
            suffix = "" if size is None else f"_{size}"
            found |= {
                f"milliseconds{suffix}": Score(float(np.median(spent)), count, "lower"),
                f"milliseconds_p95{suffix}": Score(float(np.quantile(spent, 0.95)), count, "lower"),
            }
        return found


def timed(call: Callable[[int], None], warm_ups: int, count: int) -> np.ndarray:
    """Milliseconds (count,) of single calls: of this process's cores where there is no GPU, since
    other work on the machine must not count; of the clock with one."""
    gpu = torch.cuda.is_available()
    clock = time.perf_counter if gpu else time.process_time
    for number in range(warm_ups):
        call(number)
    spent = np.empty(count)
    for number in range(count):
        if gpu:
            torch.cuda.synchronize()
        start = clock()
        call(number)
        if gpu:
            torch.cuda.synchronize()
        spent[number] = 1000 * (clock() - start)
    return spent


def answers(student: Simulator, mesh: Any, grasps: Grasps, material: Any) -> Tensor:
    """What a student says, float32 on the CPU (B, N, 3).

    Raises:
        ValueError: for an answer of another shape.
        FloatingPointError: for one that is not finite.
    """
    found = student.simulate(mesh, grasps, material).float().cpu()
    shape = (len(grasps), len(mesh.positions), 3)
    if found.shape != shape:
        raise ValueError(f"simulate must return shape {shape}, got {tuple(found.shape)}")
    if not torch.isfinite(found).all():
        raise FloatingPointError("a displacement is not finite, so the run diverged")
    return found


def errors(found: Tensor, wanted: Tensor) -> dict[str, Score]:
    """Errors of displacements (B, N, 3), metres, over all nodes.

    `capture` is 100 (1 - sum |error| / sum |u|) over all samples together, since single samples
    may hardly move; `capture_released` is what the released code computes, whose norm runs over
    the nodes and not over x, y, z.
    """
    gaps = (found - wanted).double().norm(dim=2)
    moved = wanted.double().norm(dim=2)
    n = len(gaps)
    crossed = (found - wanted).double().norm(dim=1).mean(1) / wanted.double().norm(dim=1).mean(1)
    return {
        "mean_error": mean_of(gaps.mean(1) * MILLIMETRES),
        "max_error": mean_of(gaps.amax(1) * MILLIMETRES),
        "relative_error": Score(
            100 * math.sqrt(float(gaps.square().sum() / moved.square().sum())), n, "lower"
        ),
        "capture": Score(100 * (1 - float(gaps.sum() / moved.sum())), n, "higher"),
        "capture_released": Score(100 * (1 - float(crossed.median())), n, "higher"),
    }


def places(found: Tensor, wanted: Tensor, grasps: Grasps, mesh: Any) -> dict[str, Score]:
    """Mean errors in millimetres at held nodes, at fixed nodes, and at all others."""
    gaps = (found - wanted).double().norm(dim=2) * MILLIMETRES
    held = torch.zeros(gaps.shape[0], gaps.shape[1] + 1, dtype=torch.bool)
    held.scatter_(1, torch.where(grasps.held, grasps.nodes, gaps.shape[1]), True)
    held = held[:, :-1]
    fixed = torch.from_numpy(mesh.fixed).expand_as(held)
    parts = {"held_error": held, "boundary_error": fixed, "free_error": ~held & ~fixed}
    return {name: mean_of((gaps * part).sum(1) / part.sum(1)) for name, part in parts.items()}


def stability(found: Tensor, wanted: Tensor) -> dict[str, Score]:
    """Second differences along paths of 25 frames (P * 25, N, 3): `jitter`, how large they are
    against the true ones (1 is ideal), and `jitter_error`, how far they are from them (0 is)."""

    def bent(frames: Tensor) -> Tensor:
        path = frames.double().unflatten(0, (-1, BLOCK))
        return path[:, 2:] - 2 * path[:, 1:-1] + path[:, :-2]

    ours, true = bent(found), bent(wanted)
    size = true.norm(dim=3).sum()
    n = len(true)
    return {
        "jitter": Score(float(ours.norm(dim=3).sum() / size), n, "lower"),
        "jitter_error": Score(float((ours - true).norm(dim=3).sum() / size), n, "lower"),
    }


def mean_of(values: Tensor) -> Score:
    """The mean of one value a sample (n,), lower is better, with its standard error."""
    n = len(values)
    spread = float(values.std()) / math.sqrt(n) if n > 1 else None
    return Score(float(values.mean()), n, "lower", spread)
