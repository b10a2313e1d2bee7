"""Data sets of solved grasps: made once, in blocks, on several processes, and kept on disk.

A killed campaign goes on with the next block. Every sample is a pure function of the law of its set
and its number, so neither blocks nor processes change what comes out.

    python -m tasks.tissue.simulations --nodes 800 --law neo_hookean --tools 1
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sextant.contracts import Grasps, Material, TissueMesh
from tasks.shared.cache import cached, progress
from tasks.tissue import solver
from tasks.tissue.bodies import Body
from tasks.tissue.grasps import MOST, Grasper, GraspLaw
from tasks.tissue.laws import LawName, law_of

BLOCK = 25
VERSION = 1
REDRAWS = 20
COMPUTED_SECONDS = 1.0  # a block that takes longer was not read from disk
PATHS = "paths"


@dataclass(frozen=True)
class SolveLaw:
    """Everything a set of solved grasps depends on.

    Args:
        body: the mesh.
        grasps: how grasps are drawn.
        law: constitutive law.
        material: its numbers.
        seed: of the draws.
        part: a word such as "train" or "test": other draws for every part. In the part "paths"
            every block of 25 samples is one path of a tool, frame by frame.
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
    if count == 0:
        return _nothing(law)
    numbers = range(-(-count // BLOCK))
    make = partial(_block, law)
    workers = min(workers or len(os.sched_getaffinity(0)), len(numbers))
    blocks: list[dict[str, Any]] = []
    with progress(f"{law.law}, {law.grasps.tools} tool(s), {law.part}", count) as done:
        for block in _in_order(make, numbers, workers):
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


def _in_order(
    make: Callable[[int], dict[str, Any]], numbers: range, workers: int
) -> Iterator[dict[str, Any]]:
    """make(number) of all numbers, on several processes once one has to be computed."""
    alone = workers == 1 or multiprocessing.current_process().daemon
    for number in numbers:
        started = time.monotonic()
        yield make(number)
        if not alone and time.monotonic() - started > COMPUTED_SECONDS:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, mp_context=context) as pool:
                yield from pool.map(make, numbers[number + 1 :])
            return


def _nothing(law: SolveLaw) -> Solved:
    nodes = torch.empty(0, MOST * law.grasps.tools, dtype=torch.int64)
    nothing = torch.empty(0, MOST * law.grasps.tools, 3)
    return Solved(Grasps(nodes, nothing), torch.empty(0, 0, 3), 0, torch.empty(0), "")


def _block(law: SolveLaw, number: int) -> dict[str, Any]:
    """Samples number * BLOCK and following; from disk where they are."""
    described = law.described() | {"block": number, "size": BLOCK}
    kept = cached(f"tissue-{law.law}", described, partial(_solve_block, law, number))
    arrays = {name: np.array(values) for name, values in kept.arrays.items()}
    return arrays | {"content": kept.content}


def _solve_block(law: SolveLaw, number: int) -> dict[str, np.ndarray]:
    maker = _maker(law)
    if law.part == PATHS:
        samples = maker.path(number)
    else:
        samples = [maker.sample(number * BLOCK + row) for row in range(BLOCK)]
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


@lru_cache(maxsize=1)
def _maker(law: SolveLaw) -> Maker:
    """Kept from block to block: the compliance of a linear body costs more than a block."""
    return Maker(law)


class Workplace:
    """Elements and law of a body, ready to solve grasps of it.

    Args:
        mesh: the body.
        law: constitutive law.
        material: its numbers.
    """

    def __init__(self, mesh: TissueMesh, law: LawName, material: Material) -> None:
        self.mesh, self.name = mesh, law
        self.elements = solver.Elements(mesh)
        self.law = law_of(law, material)
        self.compliance = solver.Compliance(self.elements, self.law)

    def solve(self, held: np.ndarray, moves: np.ndarray) -> tuple[np.ndarray, int]:
        """The displacement (N, 3) of held nodes (n,) moved by (n, 3), and Newton iterations."""
        if self.name == "linear":
            return self.compliance.solve(held, moves), 1
        found = solver.solve(self.elements, self.law, held, moves)
        return found.displacement, found.iterations


class Maker(Workplace):
    """Makes the samples of a set."""

    def __init__(self, law: SolveLaw) -> None:
        super().__init__(law.body.mesh(), law.law, law.material)
        self.set = law
        self.grasper = Grasper(self.mesh, law.grasps)

    def generator(self, number: int) -> np.random.Generator:
        """Of sample or path `number`."""
        part = int.from_bytes(hashlib.sha256(self.set.part.encode()).digest()[:4], "little")
        return np.random.default_rng([self.set.seed, part, number])

    def sample(self, number: int) -> dict[str, np.ndarray]:
        """A grasp and its solution, as arrays of one size; failed grasps are drawn anew."""
        generator = self.generator(number)

        def draw() -> list[tuple[np.ndarray, np.ndarray]]:
            return [self.grasper.draw(generator)]

        return self._first_solved(draw, f"sample {number}")[0]

    def path(self, number: int) -> list[dict[str, np.ndarray]]:
        """The frames of a smooth path: out along a pull and back, and once to either side."""
        generator = self.generator(number)
        phase = np.pi * np.arange(1, BLOCK + 1) / (BLOCK + 1)

        def draw() -> list[tuple[np.ndarray, np.ndarray]]:
            held, pull = self.grasper.draw(generator)
            side = np.cross(pull, np.eye(3)[np.abs(pull[0]).argmin()])
            return [
                (held, np.sin(angle) * pull + 0.5 * np.sin(2 * angle) * side) for angle in phase
            ]

        return self._first_solved(draw, f"path {number}")

    def _first_solved(
        self, draw: Callable[[], list[tuple[np.ndarray, np.ndarray]]], what: str
    ) -> list[dict[str, np.ndarray]]:
        """The first draw that is solved in all its frames; the first frame counts the others."""
        for failures in range(REDRAWS):
            solutions = []
            try:
                for held, pulls in draw():
                    # what is stored is what is solved
                    moves = pulls.astype(np.float32).astype(np.float64)
                    solutions.append((held, moves, *self.solve(held, moves)))
            except solver.NotConverged:
                continue
            return [
                _sample(self.set.grasps.tools, held, moves, u, 0 if frame else failures, iterations)
                for frame, (held, moves, u, iterations) in enumerate(solutions)
            ]
        raise RuntimeError(f"{what}: {REDRAWS} grasps in a row were not solved")


def _sample(
    tools: int, held: np.ndarray, moves: np.ndarray, u: np.ndarray, failures: int, iterations: int
) -> dict[str, np.ndarray]:
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
