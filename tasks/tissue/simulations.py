"""Data sets of solved grasps: made once, in blocks, on several processes, and kept on disk.

A killed campaign goes on with the next block. Every sample is a pure function of the law of its set
and its number, so neither blocks nor processes change what comes out.

    python -m tasks.tissue.simulations --nodes 800 --law neo_hookean --tools 1
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sextant.contracts import Grasps, Material
from tasks.shared.cache import cached, progress
from tasks.tissue import solver
from tasks.tissue.bodies import Body
from tasks.tissue.grasps import Grasper, GraspLaw
from tasks.tissue.laws import LawName, law_of

BLOCK = 25
VERSION = 1
REDRAWS = 20


@dataclass(frozen=True)
class SolveLaw:
    """Everything a set of solved grasps depends on.

    Args:
        body: the mesh.
        grasps: how grasps are drawn.
        law: constitutive law.
        material: its numbers.
        seed: of the draws.
        part: a word such as "train" or "test": other draws for every part.
    """

    body: Body
    grasps: GraspLaw = field(default_factory=GraspLaw)
    law: LawName = "neo_hookean"
    material: Material = field(default_factory=lambda: Material(young=2100.0, poisson=0.45))
    seed: int = 0
    part: str = "train"

    def described(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "body": self.body.law(),
            "data": self.body.data(),
            "grasps": self.grasps.law(),
            "law": self.law,
            "material": vars(self.material),
            "seed": self.seed,
            "part": self.part,
            "version": VERSION,
        }


@dataclass(frozen=True)
class Solved:
    """Solved grasps.

    Args:
        grasps: what was asked.
        displacement: the answers (B, N, 3), float32, metres.
        failures: grasps that no load ladder solved; others were drawn in their place.
        iterations: Newton iterations (B,), of all load steps.
        content: twelve hex digits of the bytes.
    """

    grasps: Grasps
    displacement: Tensor
    failures: int
    iterations: Tensor
    content: str


def solved(law: SolveLaw, count: int, workers: int | None = None) -> Solved:
    """The first `count` samples of a set; what is missing on disk is computed.

    Args:
        law: of the set.
        count: samples.
        workers: processes; None takes as many as this process may use.
    """
    numbers = range(-(-count // BLOCK))
    make = partial(_block, law)
    workers = min(workers or len(os.sched_getaffinity(0)), len(numbers))
    with progress(f"{law.law}, {law.grasps.tools} tool(s), {law.part}", count) as done:
        if workers == 1 or multiprocessing.current_process().daemon:
            blocks = []
            for number in numbers:
                blocks.append(make(number))
                done(BLOCK * len(blocks))
        else:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, mp_context=context) as pool:
                blocks = []
                for block in pool.map(make, numbers):
                    blocks.append(block)
                    done(BLOCK * len(blocks))

    def joined(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([block[name] for block in blocks])[:count])

    nodes = joined("nodes")
    digests = "\n".join(str(block["content"]) for block in blocks)
    return Solved(
        Grasps(nodes, joined("moves")),
        joined("displacement"),
        int(joined("failures").sum()),
        joined("iterations"),
        hashlib.sha256(digests.encode()).hexdigest()[:12],
    )


def _block(law: SolveLaw, number: int) -> dict[str, Any]:
    """Samples number * BLOCK and following; from disk where they are."""
    described = law.described() | {"block": number, "size": BLOCK}
    kept = cached(f"tissue-{law.law}", described, partial(_solve_block, law, number))
    arrays = {name: np.array(values) for name, values in kept.arrays.items()}
    return arrays | {"content": kept.content}


def _solve_block(law: SolveLaw, number: int) -> dict[str, np.ndarray]:
    workplace = _workplace(law)
    samples = [workplace.sample(number * BLOCK + row) for row in range(BLOCK)]
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


@lru_cache(maxsize=1)
def _workplace(law: SolveLaw) -> Workplace:
    """Kept from block to block: the compliance of a linear body costs more than a block."""
    return Workplace(law)


class Workplace:
    """Mesh, elements and law of a set, ready to solve its grasps."""

    def __init__(self, law: SolveLaw) -> None:
        self.law, self.mesh = law, law.body.mesh()
        self.grasper = Grasper(self.mesh, law.grasps)
        self.elements = solver.Elements(self.mesh)
        self.material = law_of(law.law, law.material)
        self.compliance = solver.Compliance(self.elements, self.material)

    def solve(self, held: np.ndarray, moves: np.ndarray) -> tuple[np.ndarray, int]:
        """The displacement (N, 3) of a grasp, and Newton iterations."""
        if self.law.law == "linear":
            return self.compliance.solve(held, moves), 1
        found = solver.solve(self.elements, self.material, held, moves)
        return found.displacement, found.iterations

    def sample(self, number: int) -> dict[str, np.ndarray]:
        """A grasp and its solution, as arrays of one size; failed grasps are drawn anew."""
        part = int.from_bytes(hashlib.sha256(self.law.part.encode()).digest()[:4], "little")
        generator = np.random.default_rng([self.law.seed, part, number])
        for failures in range(REDRAWS):
            held, moves = self.grasper.draw(generator)
            moves = moves.astype(np.float32).astype(np.float64)  # what is stored is what is solved
            try:
                displacement, iterations = self.solve(held, moves)
            except solver.NotConverged:
                continue
            return _sample(self.law.grasps.tools, held, moves, displacement, failures, iterations)
        raise RuntimeError(f"sample {number}: {REDRAWS} grasps in a row were not solved")


def _sample(
    tools: int, held: np.ndarray, moves: np.ndarray, u: np.ndarray, failures: int, iterations: int
) -> dict[str, np.ndarray]:
    from tasks.tissue.grasps import MOST

    nodes = np.full(tools * MOST, -1, np.int64)
    pulls = np.zeros((tools * MOST, 3), np.float32)
    nodes[: len(held)], pulls[: len(held)] = held, moves
    return {
        "nodes": nodes,
        "moves": pulls,
        "displacement": u.astype(np.float32),
        "failures": np.int64(failures),
        "iterations": np.int64(iterations),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes a set beforehand, for instance on another machine that shares the cache."""
    import argparse

    from tasks.tissue.data import liver

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--nodes", type=int, default=800)
    parser.add_argument("--law", default="neo_hookean")
    parser.add_argument("--tools", type=int, default=1)
    parser.add_argument("--part", default="train")
    parser.add_argument("--count", type=int, default=800)
    parser.add_argument("--workers", type=int, default=None)
    given = parser.parse_args(arguments)
    law = SolveLaw(liver(given.nodes), GraspLaw(given.tools), given.law, part=given.part)
    made = solved(law, given.count, given.workers)
    print(f"{len(made.grasps)} solves, {made.failures} failed and drawn anew, {made.content}")


if __name__ == "__main__":
    main()
