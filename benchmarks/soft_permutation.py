"""Times the soft permutation and the training loss against the ways a user would otherwise go.

Run `python benchmarks/soft_permutation.py --help`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import process_time

import torch
from couplings import Contestant, medians, peak_megabytes
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sextant.methods.transport.sliced import losses
from sextant.methods.transport.sliced.losses import two_pass_loss
from sextant.methods.transport.sliced.objectives import SoftPermutation
from sextant.methods.transport.sliced.soft_permutation import soft_permutation

EPILOG = """
Every line is measured in this one process on one thread, float32 scores in, after warm-up calls, in
processor seconds (other work on the machine counts less); contestants take turns and the median is
printed. "ratio" is a contestant's median divided by the first line of its problem. "peak" is the
memory a call needs beyond what the process held before it (Linux only).

Matrix: scores to the soft permutation and a gradient back to them, temperature 0.1. "Sorting every
copy" is the published way: a copy of the scores for each threshold, every copy sorted and scanned.
Written here with float64 scans, it is as exact as ours; the run fails where the matrices or the
gradients differ.

Loss: forward and backward of the two-pass loss of one pair of clouds, d = 3, standardized scores.
"With matrices" is the same loss from full soft permutations and costs, differentiated by autograd.

Step: forward, backward and AdamW of a sine network [3, 64, 64, 1] on the squared cost.
"""


class SortedCopies(torch.autograd.Function):
    """L((r - b_k) / temperature) for k = 1 .. n - 1, each k with a sorted copy of r (n,)."""

    @staticmethod
    def forward(ctx, scores: Tensor, temperature: float) -> Tensor:
        n = len(scores)
        copies = (scores.repeat(n - 1, 1).double() / temperature).sort(1).values
        left = torch.logcumsumexp(copies, 1)
        right = torch.logcumsumexp(-copies.flip(1), 1).flip(1)
        infinite = copies.new_full((n - 1, 1), -torch.inf)
        left, right = torch.cat([infinite, left], 1), torch.cat([right, infinite], 1)
        later = torch.arange(n - 1, -1, -1, dtype=copies.dtype)
        sums = later - 0.5 * ((right[:, 1:] + copies).exp() - (left[:, 1:] - copies).exp())
        k = torch.arange(1, n, dtype=copies.dtype)[:, None]
        below = torch.searchsorted(-sums, -k, right=True)
        left, right, excess = left.gather(1, below), right.gather(1, below), k - (n - below)
        step = torch.log(excess.abs() + (excess.square() + (left + right).exp()).sqrt())
        edges = torch.where(excess > 0, left - step, step - right)
        edges = torch.where(excess == 0, 0.5 * (left - right), edges)
        x = (scores.double() / temperature - edges).to(scores.dtype)
        half = 0.5 * torch.exp(-x.abs())
        ctx.save_for_backward(x, half.sum(1, keepdim=True) / temperature)
        return torch.where(x > 0, 1 - half, half)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        x, mass = ctx.saved_tensors
        weight = torch.softmax(-x.abs(), 1)
        mean = (weight * gradient).sum(1, keepdim=True)
        return (mass * weight * (gradient - mean)).sum(0), None


def by_sorted_copies(scores: Tensor, temperature: float) -> Tensor:
    """The soft permutation (n, n) of scores (n,), the published way."""
    inner = SortedCopies.apply(scores, temperature)
    outer = torch.zeros_like(scores)[None]
    return torch.cat([outer, inner, outer + 1]).diff(dim=0)


def matrix_contestants(n: int) -> dict[str, Contestant]:
    """Soft permutation and gradient of n scores; fails where the two ways differ."""
    draws = torch.Generator().manual_seed(0)
    scores, weight = torch.randn(n, generator=draws), torch.randn(n, n, generator=draws)

    def run(make: Callable[[Tensor, float], Tensor]) -> tuple[Tensor, Tensor]:
        leaf = scores.clone().requires_grad_()
        matrix = make(leaf, 0.1)
        matrix.backward(weight)
        return matrix.detach(), leaf.grad

    for ours, theirs in zip(run(soft_permutation), run(by_sorted_copies), strict=True):
        if (ours - theirs).abs().max() > 1e-4 * theirs.abs().max():
            raise SystemExit(f"the two soft permutations of {n} scores differ")
    return {
        "ours": lambda: run(soft_permutation),
        "sorting every copy": lambda: run(by_sorted_copies),
    }


def clouds(n: int) -> list[Tensor]:
    """Scores (1, n) of both sides, which require a gradient, and points (1, n, 3)."""
    draws = torch.Generator().manual_seed(0)
    scores = [torch.randn(1, n, generator=draws).requires_grad_() for _ in range(2)]
    points = [torch.randn(1, n, 3, generator=draws) for _ in range(2)]
    return [*scores, points[0], points[1] + 1]


def loss_contestants(n: int, cost: str, largest_matrix: int) -> dict[str, Contestant]:
    """Forward and backward of the loss, by every way that n allows."""
    inputs = clouds(n)

    def run(*tensors: Tensor, matrix_free_from: int | None = None) -> None:
        default = losses.MATRIX_FREE_FROM
        losses.MATRIX_FREE_FROM = default if matrix_free_from is None else matrix_free_from
        try:
            two_pass_loss(*tensors, cost).backward()
        finally:
            losses.MATRIX_FREE_FROM = default

    if cost == "euclidean":
        # Points that require a gradient take the way with matrices.
        other = [*inputs[:3], inputs[3].clone().requires_grad_()]
        ways = {"in blocks": lambda: run(*inputs), "with matrices": lambda: run(*other)}
    else:
        ways = {
            "without matrices": lambda: run(*inputs, matrix_free_from=0),
            "with matrices": lambda: run(*inputs, matrix_free_from=1 << 62),
        }
    return ways if n <= largest_matrix else dict(list(ways.items())[:1])


class SineNetwork(nn.Module):
    """A slicer of three layers, the smallest that trains."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 64), nn.Linear(64, 64)])
        self.head = nn.Linear(64, 1)

    def forward(self, points: Tensor, context: Tensor | None = None) -> Tensor:
        """Points (..., 3) to scores (...)."""
        for layer in self.layers:
            points = torch.sin(layer(points))
        return self.head(points).squeeze(-1)


def step_contestants(n: int) -> dict[str, Contestant]:
    """A whole training step on clouds of n points."""
    torch.manual_seed(0)
    slicer, objective = SineNetwork(), SoftPermutation("sqeuclidean")
    optimizer = torch.optim.AdamW(slicer.parameters(), 1e-3)
    source, target = clouds(n)[2:]

    def step() -> None:
        optimizer.zero_grad()
        objective(slicer, source, target).backward()
        optimizer.step()

    return {"sine network, squared cost": step}


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024], help="of matrices")
    parser.add_argument("--clouds", type=int, nargs="+", default=[128, 256, 512, 1024, 2048])
    parser.add_argument("--largest-matrix", type=int, default=2048, help="points of a loss")
    parser.add_argument("--step", type=int, default=100_000, help="points of a training step")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each contestant")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    problems = [("matrix", n, matrix_contestants(n)) for n in arguments.sizes]
    for cost in ("euclidean", "sqeuclidean"):
        for n in arguments.clouds:
            ways = loss_contestants(n, cost, arguments.largest_matrix)
            problems.append((f"loss, {cost}", n, ways))
    problems.append(("step", arguments.step, step_contestants(arguments.step)))

    table = Table(title="Soft permutations and their losses, one thread")
    for heading in ("problem", "n", "way"):
        table.add_column(heading)
    for heading in ("ms", "ratio", "peak MB"):
        table.add_column(heading, justify="right")
    for problem, n, contestants in problems:
        seconds = medians(contestants, arguments.repeats, process_time)
        first = next(iter(seconds.values()))
        for name, call in contestants.items():
            peak = peak_megabytes(call)
            table.add_row(
                problem,
                str(n),
                name,
                f"{1e3 * seconds[name]:.1f}",
                f"{seconds[name] / first:.1f}",
                "" if peak is None else f"{peak:.0f}",
            )
        table.add_section()
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
