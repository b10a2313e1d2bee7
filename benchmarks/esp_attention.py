"""Times ESP attention beside softmax and Sinkhorn, and its forms beside the released code's.

Run `python benchmarks/esp_attention.py --help`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from showing import Shown, show, table_of
from torch import Tensor
from torch.nn import functional

from sextant.methods.attention.esp import ESPAttention
from sextant.methods.attention.sinkhorn import SinkhornAttention
from sextant.methods.transport.sliced import expected, expected_forms
from tasks.shared.measuring import both_passes, peak_bytes, times

HEADS, WIDTH = 2, 64
LONGEST_DENSE = 500
MEGABYTE = 2.0**20
EPILOG = f"""
Tokens N(0, 1), batch 1, {HEADS} heads of {WIDTH}, as many slices, float32, one thread; contestants
take turns and a time is the processor's. Soft sorting is at the released code's temperature, 0.001,
LapSum's at 0.03, tau = 10. "dense" computes every slice's N x N plan at once, as the released code
does: 2 L N^3 operations and five tensors of L N^2 numbers.
"""
PARTS = ("forms", "lengths")
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def dense(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """ESP attention with the released code's cost, ours: costs are sums of unsquared distances."""
    queries, keys = queries * WIDTH**-0.5, keys * WIDTH**-0.5

    def softsort(scores: Tensor) -> Tensor:
        ordered = scores.sort(-1, descending=True).values
        return (-(ordered[..., :, None] - scores[..., None, :]).square() / 1e-3).softmax(-1)

    first, second = (softsort(points.transpose(-1, -2)) for points in (queries, keys))
    plans = first.transpose(-1, -2) @ second
    distances = torch.cdist(queries, keys)
    costs = (distances[:, :, None] * plans).sum((-1, -2))
    weights = (-10.0 * costs).softmax(-1)
    return (weights[..., None, None] * plans).sum(2) @ values


def inputs(number: int) -> list[Tensor]:
    """Queries, keys and values (1, heads, N, width)."""
    torch.manual_seed(number)
    return [torch.randn(1, HEADS, number, WIDTH, requires_grad=True) for _ in range(3)]


def without_gradient(attend: Attend, tensors: Sequence[Tensor]) -> None:
    """One call that keeps nothing."""
    with torch.no_grad():
        attend(*tensors)


@contextmanager
def forced(form: Any, entries: Callable[[int], int]) -> Iterator[None]:
    """Every soft plan in one form."""
    chosen = expected.form_of
    expected.form_of = lambda given, width, power: (form, entries(given.queries.shape[1]))
    try:
        yield
    finally:
        expected.form_of = chosen


def in_form(form: Any, entries: Callable[[int], int]) -> Attend:
    """Soft ESP attention in one form."""
    attention = ESPAttention(HEADS, WIDTH)

    def attend(*tensors: Tensor) -> Tensor:
        with forced(form, entries):
            return attention(*tensors)

    return attend


def measured_ms(
    contestants: Mapping[str, Attend], number: int, repeats: int, gradient: bool
) -> dict[str, float]:
    """Median milliseconds of each."""
    tensors = inputs(number)
    one = both_passes if gradient else without_gradient
    calls = {name: (lambda call=attend: one(call, tensors)) for name, attend in contestants.items()}
    found = times(calls, "cpu", 2.0, repeats)
    return {name: 1e3 * median(values) for name, values in found.items()}


def forms(lengths: Sequence[int], repeats: int) -> Iterator[Shown]:
    """What each form of soft sorting gives."""
    square = lambda n: n * n  # noqa: E731
    every: dict[str, Attend] = {
        "dense, all slices at once": dense,
        "plans, slices made again": in_form(expected_forms.through_plans, square),
        "ranks, slices made again": in_form(expected_forms.through_ranks, square),
        "spectrum, slices made again": in_form(expected_forms.through_spectra, lambda n: 80 * n),
        "LapSum": ESPAttention(HEADS, WIDTH, sorting="lapsum", temperature=0.03),
    }
    for number in lengths:
        contestants = {
            name: attend
            for name, attend in every.items()
            if number <= LONGEST_DENSE or not name.startswith(("dense", "ranks"))
        }
        forward = measured_ms(contestants, number, repeats, gradient=False)
        both = measured_ms(contestants, number, repeats, gradient=True)
        table = table_of(
            f"Soft sorting, N = {number}", "form", ["ms", "ms with gradient", "peak MB"]
        )
        for name, attend in contestants.items():
            tensors = inputs(number)
            peak = peak_bytes(lambda call=attend, on=tensors: both_passes(call, on), "cpu")
            cells = f"{forward[name]:.1f}", f"{both[name]:.1f}", f"{peak / MEGABYTE:.1f}"
            table.add_row(name, *cells)
        yield table


def lengths_table(lengths: Sequence[int], repeats: int) -> Iterator[Shown]:
    """ESP beside softmax and Sinkhorn: times over softmax's."""
    hard = ESPAttention(HEADS, WIDTH, sorting="hard")
    every: dict[str, Attend] = {
        "softmax": functional.scaled_dot_product_attention,
        "Sinkhorn 3": SinkhornAttention(half_steps=3),
        "Sinkhorn 10": SinkhornAttention(half_steps=10),
        "Sinkhorn 20": SinkhornAttention(half_steps=20),
        "ESP hard": hard,
        "ESP soft": ESPAttention(HEADS, WIDTH),
        "ESP LapSum": ESPAttention(HEADS, WIDTH, sorting="lapsum", temperature=0.03),
    }
    for gradient in (False, True):
        words = "with a gradient" if gradient else "without a gradient"
        table = table_of(f"Time over softmax's, {words}", "N", ["softmax ms", *list(every)[1:]])
        for number in lengths:
            found = measured_ms(every, number, repeats, gradient)
            ratios = [f"{found[name] / found['softmax']:.2f}" for name in list(every)[1:]]
            table.add_row(str(number), f"{found['softmax']:.2f}", *ratios)
        yield table


def main(words: Sequence[str] | None = None) -> None:
    """Measures, prints and, where it is asked for, saves the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some parts")
    parser.add_argument("--forms", type=int, nargs="+", default=[197, 500], help="N of the forms")
    parser.add_argument("--lengths", type=int, nargs="+", default=[50, 100, 197, 500, 1000, 2000])
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each contestant")
    parser.add_argument("--save", type=Path, help="a markdown file for what is printed")
    asked = parser.parse_args(words)
    torch.set_num_threads(1)

    def tables() -> Iterator[Shown]:
        if "forms" in asked.only:
            yield from forms(asked.forms, asked.repeats)
        if "lengths" in asked.only:
            yield from lengths_table(asked.lengths, asked.repeats)

    show(tables(), f"# What ESP attention costs\n{EPILOG}", asked.save)


if __name__ == "__main__":
    main()
