"""Times transport by one slice against exact, entropic and sliced transport of POT.

Run `python benchmarks/sliced_transport.py --help`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import perf_counter

import numpy as np
import ot
import torch
from couplings import medians, peak_megabytes
from rich.console import Console
from rich.table import Table
from scipy.sparse import coo_matrix
from threadpoolctl import threadpool_limits
from torch import Tensor

from sextant.methods.transport.ground import Cost
from sextant.methods.transport.plans import SparsePlan
from sextant.methods.transport.sliced.directions import (
    expected_sliced,
    min_sliced,
    random_directions,
)
from sextant.methods.transport.sliced.fitting import FittedSlicer, min_sliced_plan
from sextant.methods.transport.sliced.lifted import lifted_plan
from sextant.methods.transport.sliced.slicers import SineMLP

EPILOG = """
Every line is measured in this one process on one thread, after warm-up calls; contestants take
turns, so that other load on the machine meets all of them, and the median is printed (contestants
that take longer than a second are called once, without warm-up). "ratio" is a contestant's median
divided by ours: above 1, ours is faster. "peak" is the memory a call needs beyond what the process
held before it (Linux only).

transfer: from points to a plan and its squared Euclidean cost, d = 3, float32 points, for a pair no
one has seen. The slicer, a sine perceptron 64-128-128-64, was fitted to another draw of the same
two laws before (--iterations steps on 512 points; "fitted in" is printed, and after how many pairs
that has paid for itself against exact transport). "gap" is (cost - exact) / exact, or the cost
itself where exact transport is skipped. POT solves in float64 where it would otherwise lose
precision: exact transport, and Sinkhorn with epsilon = 0.05 of the mean cost, whose plan is off its
marginals by 1e-4 in total. Exact transport of 10,000 points takes a minute or so and gigabytes:
see --skip-exact.

hard plan: from scores to a plan, float32 scores; weighted means random weights on both sides.

primitives: ours and POT's from float64 inputs to a sparse plan, compared entry by entry before
anything is timed: the run fails where a mass differs by more than 1e-12. POT's expected plan leaves
repeated pairs as they are, ours joins them. POT 0.9.7 misstates the cost of a sliced plan that it
does not recognise as a permutation: of clouds of unequal size, and of some equal sizes (10,000)
where 1/n rounds badly. Gaps are therefore computed from its plans, and sliced plans compared at a
size that it recognises.
"""

SQUARED: Cost = "sqeuclidean"
SLOW = 1.0
"""Seconds from which a contestant is called once only."""


def pair(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """A standard normal cloud and a bent, noisy ring beside it, (n, 3) float32 each."""
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * torch.pi * torch.rand(n, generator=generator)
    ring = torch.stack([2 * angle.cos(), 2 * angle.sin(), (2 * angle).sin()], 1)
    target = ring + 0.2 * torch.randn(n, 3, generator=generator)
    return torch.randn(n, 3, generator=generator), target + torch.tensor([1.0, 0.0, 0.5])


def fitted_slicer(iterations: int) -> tuple[FittedSlicer, float]:
    """A slicer fitted to one draw of the laws, and the seconds that took."""
    torch.manual_seed(0)
    source, target = pair(2048, seed=0)
    network = SineMLP(3, (64, 128, 128, 64))
    start = perf_counter()
    slicer = min_sliced_plan(source, target, network, SQUARED, iterations=iterations).slicer
    return slicer, perf_counter() - start


def transfer_contestants(
    slicer: FittedSlicer, source: Tensor, target: Tensor, exact: bool
) -> dict[str, Callable[[], float | coo_matrix]]:
    """Calls from points to the squared cost of a plan, or to the plan where POT misstates it."""
    n = len(source)
    banks = {
        count: random_directions(count, 3, torch.Generator().manual_seed(1)).float()
        for count in (50, 500)
    }
    x, y, uniform = source.numpy(), target.numpy(), np.full(n, 1 / n)

    def cost() -> np.ndarray:
        return ot.dist(x.astype(np.float64), y.astype(np.float64))

    def sinkhorn() -> float:
        between = cost()
        plan = ot.sinkhorn(uniform, uniform, between, 0.05 * between.mean(), stopThr=1e-4)
        return float((plan * between).sum())

    def ours(count: int) -> float:
        return min_sliced(source, target, banks[count], SQUARED).cost.item()

    def pot(count: int) -> coo_matrix:
        rays = banks[count].t().numpy()
        return ot.sliced.min_sliced_transport_plan(x, y, projections=rays, dense=False)[0]

    contestants: dict[str, Callable[[], float | coo_matrix]] = {
        "ours: transfer of a fitted slicer": lambda: slicer.transfer(source, target).cost,
        "ours: best of 50 directions": lambda: ours(50),
        "ours: best of 500 directions": lambda: ours(500),
        "POT min_sliced, 50 directions": lambda: pot(50),
        "POT min_sliced, 500 directions": lambda: pot(500),
        "POT sinkhorn": sinkhorn,
    }
    if exact:
        contestants["POT emd2, exact"] = lambda: float(
            ot.emd2(uniform, uniform, cost(), numItermax=10_000_000)
        )
    return contestants


def squared_cost(plan: coo_matrix, source: Tensor, target: Tensor) -> float:
    """Cost of a plan of POT's, from its entries."""
    moves = source.numpy()[plan.row] - target.numpy()[plan.col]
    return float((np.square(moves, dtype=np.float64).sum(1) * plan.data).sum())


def transfer_table(
    sizes: list[int], iterations: int, repeats: int, largest_exact: int
) -> tuple[Table, str]:
    """The first table, and a line on what fitting cost."""
    slicer, fitting = fitted_slicer(iterations)
    table = Table(title="Points of an unseen pair to a plan, squared cost, d = 3, one thread")
    for heading in ("n", "solver"):
        table.add_column(heading)
    for heading in ("ms", "ratio", "gap", "peak MB"):
        table.add_column(heading, justify="right")
    line = f"The slicer was fitted in {fitting:.1f} s."
    for n in sizes:
        source, target = pair(n, seed=1)
        contestants = transfer_contestants(slicer, source, target, n <= largest_exact)
        costs, first = {}, {}
        for name, call in contestants.items():
            start = perf_counter()
            found = call()
            first[name] = perf_counter() - start
            costs[name] = found if isinstance(found, float) else squared_cost(found, source, target)
        quick = {name: call for name, call in contestants.items() if first[name] < SLOW}
        seconds = first | medians(quick, repeats)
        ours = seconds["ours: transfer of a fitted slicer"]
        best = costs.get("POT emd2, exact")
        for name, call in contestants.items():
            peak = peak_megabytes(call) if name in quick else None
            table.add_row(
                f"{n:,}",
                name,
                f"{1e3 * seconds[name]:.1f}",
                f"{seconds[name] / ours:.1f}",
                f"cost {costs[name]:.3f}" if best is None else f"{costs[name] / best - 1:.1%}",
                "" if peak is None else f"{peak:.0f}",
            )
        table.add_section()
        if best is not None:
            pairs = fitting / (seconds["POT emd2, exact"] - ours)
            line += f" At n = {n:,} it has paid for itself after {pairs:.1f} exact plans."
    return table, line


def hard_table(sizes: list[int], repeats: int) -> Table:
    """Seconds and memory of a plan from scores."""
    table = Table(title="Scores to a hard plan, one thread")
    for heading in ("n", "weights"):
        table.add_column(heading)
    for heading in ("ms", "entries", "peak MB"):
        table.add_column(heading, justify="right")
    for n in sizes:
        generator = torch.Generator().manual_seed(0)
        x, y = (torch.randn(n, generator=generator) for _ in range(2))
        a, b = (torch.rand(n, generator=generator) for _ in range(2))
        calls = {
            "equal": lambda x=x, y=y: lifted_plan(x, y),
            "random": lambda x=x, y=y, a=a, b=b: lifted_plan(x, y, a, b),
        }
        seconds = medians(calls, repeats)
        for name, call in calls.items():
            entries, peak = len(call().mass), peak_megabytes(call)
            table.add_row(
                f"{n:,}",
                name,
                f"{1e3 * seconds[name]:.0f}",
                f"{entries:,}",
                "" if peak is None else f"{peak:.0f}",
            )
    return table


def check_equal(ours: SparsePlan, theirs: coo_matrix, name: str) -> None:
    """Fails where a plan of ours differs from POT's."""
    indices = (ours.source_index.numpy(), ours.target_index.numpy())
    mine = coo_matrix((ours.mass.numpy(), indices), shape=ours.shape)
    off = abs(mine.tocsr() - theirs.tocsr()).max()
    if off > 1e-12:
        raise SystemExit(f"{name}: a mass differs from POT's by {off}")


def line_plans(n: int, weighted: bool) -> dict[str, Callable[[], object]]:
    """Sparse plans on the line: ours, and both of POT's."""
    generator = torch.Generator().manual_seed(0)
    x, y, a, b = (torch.rand(n, generator=generator, dtype=torch.float64) for _ in range(4))
    a, b = (a / a.sum(), b / b.sum()) if weighted else (None, None)
    u, v = x.numpy(), y.numpy()
    p, q = (None, None) if a is None else (a.numpy(), b.numpy())

    def wasserstein() -> coo_matrix:
        weights = (p, q) if p is None else (p[:, None], q[:, None])
        coordinates = (u[:, None], v[:, None])
        plan = ot.wasserstein_1d(*coordinates, *weights, return_plans="coo_tuple")[1][0]
        return coo_matrix((plan.data, (plan.rows, plan.cols)), shape=(n, n))

    return {
        "ours": lambda: lifted_plan(x, y, a, b),
        "POT emd_1d": lambda: ot.emd_1d(u, v, p, q, dense=False),
        "POT wasserstein_1d": wasserstein,
    }


def space_plans(n: int, expected: bool) -> dict[str, Callable[[], object]]:
    """Plans of 50 directions in space: ours, and POT's."""
    source, target = (points.double() for points in pair(n, seed=1))
    rays = random_directions(50, 3, torch.Generator().manual_seed(1))
    x, y, columns = source.numpy(), target.numpy(), rays.t().numpy()
    if expected:
        theirs = ot.sliced.expected_sliced_plan
        return {
            "ours": lambda: expected_sliced(source, target, rays, SQUARED, 1.0),
            "POT": lambda: theirs(x, y, projections=columns, beta=1.0, dense=False)[0],
        }
    theirs = ot.sliced.min_sliced_transport_plan
    return {
        "ours": lambda: min_sliced(source, target, rays, SQUARED).plan,
        "POT": lambda: theirs(x, y, projections=columns, dense=False)[0],
    }


def primitives_table(n: int, repeats: int) -> Table:
    """Our primitives against POT's at equal results."""
    problems = {
        f"plan on the line, n = {10 * n:,}": line_plans(10 * n, weighted=False),
        f"weighted plan on the line, n = {10 * n:,}": line_plans(10 * n, weighted=True),
        f"best of 50 directions, n = {n:,}": space_plans(n, expected=False),
        f"expected plan of 50 directions, n = {n:,}": space_plans(n, expected=True),
    }
    table = Table(title="The same sparse plan in float64, one thread")
    for heading in ("problem", "solver"):
        table.add_column(heading)
    for heading in ("ms", "ratio", "peak MB"):
        table.add_column(heading, justify="right")
    for problem, contestants in problems.items():
        for name, call in contestants.items():
            if name != "ours":
                check_equal(contestants["ours"](), call(), f"{problem}, {name}")
        seconds = medians(contestants, repeats)
        for name, call in contestants.items():
            peak = peak_megabytes(call)
            table.add_row(
                problem,
                name,
                f"{1e3 * seconds[name]:.1f}",
                f"{seconds[name] / seconds['ours']:.1f}",
                "" if peak is None else f"{peak:.0f}",
            )
        table.add_section()
    return table


def main() -> None:
    """Measures and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[4096, 10_000], help="points a side of transfers"
    )
    parser.add_argument(
        "--plan-sizes",
        type=int,
        nargs="+",
        default=[100_000, 1_000_000],
        help="points a side of hard plans",
    )
    parser.add_argument("--primitive-size", type=int, default=4096, help="points a side")
    parser.add_argument("--iterations", type=int, default=300, help="steps of the slicer's fit")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each contestant")
    parser.add_argument(
        "--skip-exact",
        type=int,
        default=5000,
        metavar="N",
        help="no exact transport for more than N points (default 5000)",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)

    console = Console(width=110)
    table, line = transfer_table(
        arguments.sizes, arguments.iterations, arguments.repeats, arguments.skip_exact
    )
    console.print(table)
    console.print(line)
    console.print(hard_table(arguments.plan_sizes, arguments.repeats))
    console.print(primitives_table(arguments.primitive_size, arguments.repeats))


if __name__ == "__main__":
    main()
