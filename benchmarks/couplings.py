"""Times the couplings against the libraries a user would otherwise call.

Run `python benchmarks/couplings.py --help`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import ot
import torch
from geomloss import SamplesLoss
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_limits
from torch import Tensor

from sextant.methods.transport.costs import squared_distances
from sextant.methods.transport.exact import exact_pairs
from sextant.methods.transport.sinkhorn import sinkhorn_plan

EPILOG = """
Every line is measured in this one process on one thread, float32 points in, after warm-up calls;
contestants take turns, so that other load on the machine meets all of them, and the median is
printed. "ratio" is a contestant's median divided by ours: above 1, ours is faster.
"peak" is the memory a call needs beyond what the process held before it (Linux only).

Exact: from points to the int64 permutation. All solve in float64; their total costs are compared
and the run fails if one differs by more than 1e-6 of it.

Entropic: from points to the plan, epsilon = 0.05 of the mean cost. Equal tolerance means: no row or
column of the plan is off its mass by more than --tolerance, relative; "error" is what was reached.
Ours looks at its error every 5 iterations and stops. POT gets the fewest iterations that suffice
and looks at nothing, in float32 torch and, as many, in float64 numpy. geomloss gets the coarsest
annealing factor of a list that suffices, without keops and without debiasing. Finding those numbers
is not timed. geomloss anneals and never iterates at the last temperature, so that it needs very
fine factors for a small tolerance.
"""

Contestant = Callable[[], object]


def laws(n: int, law: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Standard normal source and a target, (n, d) float32 each."""
    generator = torch.Generator().manual_seed(seed)
    if law == "8 Gaussians, d = 2":
        angle = torch.randint(0, 8, (n,), generator=generator) * (torch.pi / 4)
        centre = 2 * torch.stack([angle.cos(), angle.sin()], 1)
        return (
            torch.randn(n, 2, generator=generator),
            centre + 0.08 * torch.randn(n, 2, generator=generator),
        )
    target = 1 + 0.5 * torch.randn(n, 8, generator=generator)
    return torch.randn(n, 8, generator=generator), target


def medians(
    contestants: dict[str, Contestant], repeats: int, clock: Callable[[], float] = perf_counter
) -> dict[str, float]:
    """Median seconds of each contestant on a clock, taking turns.

    The call before a timed one is the same contestant's, else a short call would pay for the caches
    and the memory that a long one has just emptied; after a second of work that no longer matters.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, call in contestants.items():
            if turn == 0 or seconds[name] == [] or seconds[name][-1] < 0.5:
                call()
            if turn > 0:
                start = clock()
                call()
                seconds[name].append(clock() - start)
    return {name: median(values) for name, values in seconds.items()}


def peak_megabytes(call: Contestant) -> float | None:
    """Memory a call needs at its peak beyond what is held before, or None where not known."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def held(field: str) -> int:
        line = next(li for li in status.read_text().splitlines() if li.startswith(field))
        return int(line.split()[1])

    try:
        reset.write_text("5")
        before = held("VmRSS")
        call()
        return max(0, held("VmHWM") - before) / 1024
    except (OSError, StopIteration):
        return None


def exact_contestants(source: Tensor, target: Tensor) -> dict[str, Contestant]:
    """Calls from points to the target index of each source row."""

    def cost() -> np.ndarray:
        return ot.dist(source.numpy().astype(np.float64), target.numpy().astype(np.float64))

    def emd() -> np.ndarray:
        weights = np.full(len(source), 1 / len(source))
        return ot.emd(weights, weights, cost()).argmax(1)

    return {
        "ours": lambda: exact_pairs(source, target).target_index.numpy(),
        "POT emd": emd,
        "scipy linear_sum_assignment": lambda: linear_sum_assignment(cost())[1],
    }


def check_same_cost(source: Tensor, target: Tensor, contestants: dict[str, Contestant]) -> None:
    """Fails where an exact contestant found a dearer or cheaper permutation."""
    cost = squared_distances(source.double(), target.double()).numpy()
    totals = {name: cost[np.arange(len(cost)), call()].sum() for name, call in contestants.items()}
    for name, total in totals.items():
        if abs(total - totals["ours"]) > 1e-6 * totals["ours"]:
            raise SystemExit(f"{name} found cost {total}, ours {totals['ours']}")


def marginal_error(plan: Tensor | np.ndarray) -> float:
    """Largest relative error of a row's or column's mass of a plan (n, n)."""
    plan = torch.as_tensor(plan).double()
    sums = torch.cat([plan.sum(0), plan.sum(1)])
    return (sums * len(plan) - 1).abs().max().item()


def fewest(solve: Callable[[int], Tensor], tolerance: float, most: int = 10_000) -> int:
    """Iterations after which a solver's plan is within the tolerance; its error must fall."""
    low, high = 0, 8
    while high < most and marginal_error(solve(high)) > tolerance:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if marginal_error(solve(middle)) > tolerance:
            low = middle
        else:
            high = middle
    return high


def entropic_contestants(source: Tensor, target: Tensor, tolerance: float) -> dict[str, Contestant]:
    """Calls from points to a plan (n, n) within the tolerance."""
    n = len(source)
    epsilon = 0.05 * squared_distances(source, target).mean().item()
    uniform = np.full(n, 1 / n)

    def ours() -> Tensor:
        return sinkhorn_plan(squared_distances(source, target), epsilon, 10_000, tolerance)

    def pot_torch(iterations: int) -> Tensor:
        weights = torch.full((n,), 1 / n)
        return ot.bregman.sinkhorn_log(
            weights, weights, ot.dist(source, target), epsilon, iterations, 0.0, warn=False
        )

    def pot_numpy(iterations: int) -> np.ndarray:
        cost = ot.dist(source.numpy().astype(np.float64), target.numpy().astype(np.float64))
        return ot.bregman.sinkhorn_log(uniform, uniform, cost, epsilon, iterations, 0.0, warn=False)

    def geomloss(scaling: float) -> Tensor:
        # Its cost is half the squared distance, and its regularisation the square of the blur.
        loss = SamplesLoss(
            "sinkhorn",
            p=2,
            blur=(epsilon / 2) ** 0.5,
            scaling=scaling,
            debias=False,
            potentials=True,
            backend="tensorized",
        )
        f, g = (potential.view(-1) for potential in loss(source, target))
        cost = squared_distances(source, target) / 2
        return torch.exp((f[:, None] + g - cost) / (epsilon / 2)) / n**2

    factors = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
    enough = (k for k in factors if marginal_error(geomloss(k)) <= tolerance)
    factor = next(enough, factors[-1])
    pot_count = fewest(pot_torch, tolerance)
    return {
        "ours": ours,
        "POT sinkhorn_log, torch float32": lambda: pot_torch(pot_count),
        "POT sinkhorn_log, numpy float64": lambda: pot_numpy(pot_count),
        "geomloss SamplesLoss, float32": lambda: geomloss(factor),
    }


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024], help="points a side")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each contestant")
    parser.add_argument("--tolerance", type=float, default=1e-2, help="see below")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)

    table = Table(title="Couplings, points to pairs, one thread")
    for heading in ("problem", "n", "solver"):
        table.add_column(heading)
    for heading in ("ms", "ratio", "peak MB", "error"):
        table.add_column(heading, justify="right")
    for kind in ("exact", "entropic"):
        for law in ("8 Gaussians, d = 2", "normal, d = 8"):
            for n in arguments.sizes:
                source, target = laws(n, law)
                if kind == "exact":
                    contestants = exact_contestants(source, target)
                    check_same_cost(source, target, contestants)
                else:
                    contestants = entropic_contestants(source, target, arguments.tolerance)
                seconds = medians(contestants, arguments.repeats)
                for name, call in contestants.items():
                    peak = peak_megabytes(call)
                    table.add_row(
                        f"{kind}, {law}",
                        str(n),
                        name,
                        f"{1e3 * seconds[name]:.1f}",
                        f"{seconds[name] / seconds['ours']:.1f}",
                        "" if peak is None else f"{peak:.0f}",
                        "" if kind == "exact" else f"{marginal_error(call()):.0e}",
                    )
                table.add_section()
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
