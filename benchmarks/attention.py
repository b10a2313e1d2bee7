"""Times LUNA and the other attentions: step by step, against SDPA, and over length.

Run `python benchmarks/attention.py --help`.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from time import thread_time

import torch
from attention_forms import (
    HEADS,
    WIDTH,
    Contestant,
    elu_attention,
    inputs,
    looked_up,
    steps_of,
    whole,
)
from memory import peak_megabytes
from showing import Shown, show, table_of
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

import sextant.methods.attention
from sextant.methods.attention.base import Attention
from sextant.methods.attention.luna.attention import LunaAttention
from sextant.methods.attention.luna.feature_map import FeatureMap
from sextant.methods.attention.luna.special_cases import RandomFeatures
from sextant.runs.provenance import hardware
from tasks.shared.measuring import crossing

EPILOG = """
One process, one CPU thread, float32, batch 1, 2 heads of 32, 128 features; forward and backward to
queries, keys, values and parameters. Contestants take turns, warmed up; medians of the seconds this
thread had the processor, so that other load disturbs little but the caches. "saved" is what
autograd keeps between the passes, "peak" what a call needs beyond what was held (Linux only).

steps: what each step gave, from the map as listed to what LunaAttention does. The yardstick is
elu + 1 of a learned projection to as many features. "error" is the largest difference from the
listed form in float64, over output and gradients, relative to the largest number of each.
lengths: LUNA, elu + 1 and softmax (SDPA). sizes: the length from which LUNA stays faster than SDPA,
by its projections and the hidden width of its channel functions, with 8 channels. all: every
attention of the package, with the slope of log time over log length. stream: the causal form over
tokens that are drawn as they are needed.
"""

FEATURES, CHANNELS = 128, 8
PARTS = ("steps", "lengths", "sizes", "all", "stream")


def both_passes(attend: Contestant, tensors: list[Tensor]) -> None:
    """Forward and backward; gradients are thrown away."""
    attend(*tensors).sum().backward()
    for tensor in tensors:
        tensor.grad = None


def medians(contestants: dict[str, Contestant], n: int, repeats: int) -> dict[str, float]:
    """Median seconds of both passes over n tokens, contestants taking turns."""
    tensors = inputs(n)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, attend in contestants.items():
            if not seconds[name] or seconds[name][-1] < 0.5:
                both_passes(attend, tensors)
            start = thread_time()
            both_passes(attend, tensors)
            seconds[name].append(thread_time() - start)
    return {name: median(values) for name, values in seconds.items()}


def saved_megabytes(attend: Contestant, n: int) -> float:
    """What autograd keeps between the passes, every storage once."""
    kept: dict[int, tuple[Tensor, int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = (tensor, storage.nbytes())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        attend(*inputs(n))
    return sum(size for _, size in kept.values()) / 2**20


def peak_of(call: Callable[[], object]) -> str:
    """Peak memory as a table shows it, "" where it is not known."""
    peak = peak_megabytes(call)
    return "" if peak is None else f"{peak:.1f}"


def error_against(attend: Contestant, listed: LunaAttention, n: int = 2048) -> float:
    """Largest relative difference from the listed form in float64, output and gradients."""
    exact_map = FeatureMap(WIDTH).double()
    exact_map.load_state_dict(listed.feature_map.state_dict())
    results = []
    for features, module, dtype in (
        (attend, listed.feature_map, torch.float32),
        (whole(exact_map), exact_map, torch.float64),
    ):
        tensors = inputs(n, dtype)
        output = features(*tensors)
        weight = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
        total = (output.double() * weight).sum()
        gradients = torch.autograd.grad(total, [*tensors, *module.parameters()])
        results.append([output.detach().double(), *(tensor.double() for tensor in gradients)])
    pairs = zip(*results, strict=True)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def steps(n: int, repeats: int, compiled: bool) -> Iterator[Shown]:
    """What each step gave in time, memory and exactness."""
    luna = LunaAttention(head_dimension=WIDTH, features=FEATURES)
    feature_map, ours = luna.feature_map, steps_of(luna)
    yardstick = f"elu + 1, {FEATURES} features"
    others = {yardstick: elu_attention(FEATURES), f"elu + 1, {WIDTH} features": elu_attention(None)}
    if compiled:
        forms = {"as listed": feature_map, "table": looked_up(feature_map)}
        for name, features in forms.items():
            faster = torch.compile(whole(features))
            try:
                both_passes(faster, inputs(n))
            except Exception as error:  # whatever the compiler raises is the outcome
                yield f"{name}, torch.compile: does not compile, {type(error).__name__}"
            else:
                others[f"{name}, torch.compile"] = faster
    contestants = others | ours
    seconds = medians(contestants, n, repeats)
    kept = {name: saved_megabytes(attend, n) for name, attend in contestants.items()}
    table = table_of(
        f"Steps, N = {n}, forward and backward",
        "form",
        ["ms", "of elu's", "saved MB", "of elu's", "peak MB", "error"],
    )
    for name, attend in contestants.items():
        tensors = inputs(n)
        peak = peak_of(lambda call=attend, on=tensors: both_passes(call, on))
        table.add_row(
            name,
            f"{1e3 * seconds[name]:.1f}",
            f"{seconds[name] / seconds[yardstick]:.2f}",
            f"{kept[name]:.1f}",
            f"{kept[name] / kept[yardstick]:.2f}",
            peak,
            f"{error_against(attend, luna, min(n, 2048)):.0e}" if name in ours else "",
        )
    yield table


def lengths(several: list[int], repeats: int) -> Iterator[Shown]:
    """LUNA, elu + 1 and SDPA over N, and where LUNA and SDPA cost the same."""
    contestants: dict[str, Contestant] = {
        "LUNA": LunaAttention(head_dimension=WIDTH, features=FEATURES),
        "elu + 1": elu_attention(FEATURES),
        "SDPA": functional.scaled_dot_product_attention,
    }
    table = table_of("Lengths, ms", "N", [*contestants, "SDPA / LUNA"])
    ratios = []
    for n in several:
        seconds = medians(contestants, n, repeats)
        ratios.append(seconds["SDPA"] / seconds["LUNA"])
        cells = [f"{1e3 * seconds[name]:.1f}" for name in contestants]
        table.add_row(str(n), *cells, f"{ratios[-1]:.2f}")
    yield table
    yield f"LUNA is faster than SDPA {faster_from(several, ratios)}"


def faster_from(several: Sequence[int], ratios: Sequence[float]) -> str:
    """From which N on ratios of SDPA's time stay above 1, in words."""
    place = crossing(several, ratios)
    if place is not None:
        return f"from N = {place:.0f} on"
    return "at every N" if ratios[-1] >= 1 else f"at no N up to {several[-1]}"


def sizes(
    several: list[int], projections: list[int], hidden: list[int], repeats: int
) -> Iterator[Shown]:
    """Where LUNA and SDPA cost the same, by projections (down) and hidden width (across)."""
    contestants: dict[str, Contestant] = {
        f"{m} {width}": LunaAttention(
            head_dimension=WIDTH, features=m * CHANNELS, channels=CHANNELS, hidden=width
        )
        for m in projections
        for width in hidden
    }
    seconds = {
        n: medians(contestants | {"SDPA": functional.scaled_dot_product_attention}, n, repeats)
        for n in several
    }
    table = table_of(
        f"LUNA is faster than SDPA, {CHANNELS} channels",
        "projections",
        [f"hidden {width}" for width in hidden],
    )
    for m in projections:
        names = [f"{m} {width}" for width in hidden]
        ratios = [[seconds[n]["SDPA"] / seconds[n][name] for n in several] for name in names]
        table.add_row(str(m), *(faster_from(several, row) for row in ratios))
    yield table


def attentions(longest: int) -> dict[str, Attention]:
    """Every attention of the package, by the name of its class."""
    found = {}
    package = sextant.methods.attention
    for entry in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(entry.name)
        for name, kind in inspect.getmembers(module, inspect.isclass):
            own = kind.__module__ == entry.name and kind not in (Attention, RandomFeatures)
            if own and issubclass(kind, Attention):
                found[name] = kind(heads=HEADS, head_dimension=WIDTH, length=longest)
    return found


def every_attention(several: list[int], repeats: int) -> Iterator[Shown]:
    """Every attention at some lengths."""
    shortest, longest = several[0], several[-1]
    contestants = attentions(longest)
    seconds = {n: medians(contestants, n, repeats) for n in several}
    table = table_of(
        f"All attentions; memory at N = {longest}",
        "attention",
        [*(f"ms, N = {n}" for n in several), "slope", "saved MB", "peak MB"],
    )
    for name, attend in contestants.items():
        tensors = inputs(longest)
        peak = peak_of(lambda call=attend, on=tensors: both_passes(call, on))
        rise = math.log(seconds[longest][name] / seconds[shortest][name])
        table.add_row(
            name,
            *(f"{1e3 * seconds[n][name]:.1f}" for n in several),
            f"{rise / math.log(longest / shortest):.2f}",
            f"{saved_megabytes(attend, longest):.1f}",
            peak,
        )
    yield table


@torch.no_grad()
def streamed(luna: LunaAttention, tokens: int, block: int) -> None:
    """The causal form over blocks of new tokens; outputs are thrown away."""
    shape = (1, HEADS, block, WIDTH)
    state = luna.start(torch.empty(shape), torch.empty(shape))
    for _ in range(tokens // block):
        _, state = luna.stream(state, *(torch.randn(shape) for _ in range(3)))


def stream(tokens: int) -> Iterator[Shown]:
    """Time and memory of the causal form, in blocks and token by token."""
    luna = LunaAttention(head_dimension=WIDTH, features=FEATURES)
    streamed(luna, 4096, 1024)
    table = table_of("Causal form, without a graph", "tokens", ["a call", "us / token", "peak MB"])
    for count, block in ((tokens // 10, 1000), (tokens, 1000), (tokens // 50, 1)):
        start = thread_time()
        peak = peak_of(lambda c=count, b=block: streamed(luna, c, b))
        microseconds = 1e6 * (thread_time() - start) / count
        table.add_row(f"{count:,}", str(block), f"{microseconds:.1f}", peak)
    yield table


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some parts")
    parser.add_argument("--length", type=int, default=8192, help="N of the steps")
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 1000, 2000, 4000])
    parser.add_argument("--all-lengths", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--projections", type=int, nargs="+", default=[4, 16, 64], help="of sizes")
    parser.add_argument("--hidden", type=int, nargs="+", default=[16, 64, 256], help="of sizes")
    parser.add_argument("--tokens", type=int, default=100_000, help="of the stream")
    parser.add_argument("--repeats", type=int, default=7, help="timed calls of each contestant")
    parser.add_argument("--compile", action="store_true", help="steps: torch.compile too (minutes)")
    parser.add_argument("--save", type=Path, help="a markdown file for what is printed")
    return parser.parse_args(words)


def measured(asked: argparse.Namespace) -> Iterator[Shown]:
    """The parts that were asked for, one after another."""
    several, few = sorted(asked.lengths), max(3, asked.repeats // 2)
    parts = {
        "steps": lambda: steps(asked.length, asked.repeats, asked.compile),
        "lengths": lambda: lengths(several, asked.repeats),
        "sizes": lambda: sizes(several, sorted(asked.projections), sorted(asked.hidden), few),
        "all": lambda: every_attention(sorted(asked.all_lengths), few),
        "stream": lambda: stream(asked.tokens),
    }
    for name in PARTS:
        if name in asked.only:
            yield from parts[name]()


def main(words: Sequence[str] | None = None) -> None:
    """Measures, prints and, where it is asked for, saves the tables."""
    asked = parse(words)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    machine = f"{hardware('cpu')['cpu']}, one thread, torch {torch.__version__}."
    show(measured(asked), f"# What LUNA's attention costs\n\n{machine}\n{EPILOG}", asked.save)


if __name__ == "__main__":
    main()
