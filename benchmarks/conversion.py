"""Times a BERT and its conversion: time and memory against length, and how long converting takes.

Run `python benchmarks/conversion.py --help`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import torch
from memory import peak_megabytes
from showing import Shown, show, table_of
from transformers import BertConfig, BertModel

from sextant.conversion import convert
from sextant.methods.conversion.maps import MAPS
from sextant.runs.provenance import hardware
from tasks.shared.measuring import crossing

EPILOG = """
One process, one CPU thread, float32, batch 1, no gradients, random weights from config: what a
converted encoder takes for one sequence, beside the softmax model with torch's fused kernels.
Models take turns at each length, warmed up; medians of the processor time of this thread. Ratios
to softmax are below 1 where the conversion is faster; they cross where that begins to last. "peak"
is what a call needs beyond what was held (Linux only). "converting" is wall time, for a copy of the
model and in place; --size base is a BERT of 110 million parameters.
"""
SIZES = {
    "small": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
              "intermediate_size": 1536},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
             "intermediate_size": 3072},
}  # fmt: skip


def model_of(size: str, longest: int) -> BertModel:
    """A BERT with random weights in evaluation mode."""
    torch.manual_seed(0)
    config = BertConfig(
        **SIZES[size], max_position_embeddings=longest, attention_probs_dropout_prob=0.0
    )
    return BertModel(config).eval()


@torch.no_grad()
def seconds(models: dict[str, BertModel], tokens: torch.Tensor, repeats: int) -> dict[str, float]:
    """The median processor time of a call of each, in turns, after one to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(repeats + 1):
        for name, model in models.items():
            begin = time.thread_time()
            model(tokens)
            taken[name].append(time.thread_time() - begin)
    return {name: median(each[1:]) for name, each in taken.items()}


def by_length(asked: argparse.Namespace) -> Iterator[Shown]:
    """Time and peak memory of every model at every length, and where conversions begin to pay."""
    model = model_of(asked.size, max(asked.lengths))
    models = {"softmax": model} | {name: convert(model, name) for name in asked.attentions}
    times = table_of(
        "One sequence, ms", "tokens", [*models, *(f"{n} / softmax" for n in asked.attentions)]
    )
    peaks = table_of("Peak, MB", "tokens", list(models))
    ratios: dict[str, list[float]] = {name: [] for name in asked.attentions}
    generator = torch.Generator().manual_seed(0)
    for length in asked.lengths:
        tokens = torch.randint(model.config.vocab_size, (1, length), generator=generator)
        taken = seconds(models, tokens, asked.repeats)
        for name, seen in ratios.items():
            seen.append(taken["softmax"] / taken[name])
        parts = [f"{1000 * taken[name]:.1f}" for name in models]
        times.add_row(str(length), *parts, *(f"{1 / seen[-1]:.2f}" for seen in ratios.values()))
        with torch.no_grad():
            held = [peak_megabytes(lambda m=m, t=tokens: m(t)) for m in models.values()]
        peaks.add_row(str(length), *("" if peak is None else f"{peak:.0f}" for peak in held))
    yield times
    yield peaks
    for name, seen in ratios.items():
        where = crossing(asked.lengths, seen)
        yield (
            f"{name} takes less time than softmax from {where:.0f} tokens on."
            if where
            else (f"{name} and softmax do not cross between these lengths.")
        )


def converting(asked: argparse.Namespace) -> Shown:
    """How long a conversion itself takes."""
    table = table_of("Converting, s", "attention", ["parameters", "a copy", "in place"])
    for name in asked.attentions:
        model, taken = model_of(asked.size, 512), []
        for in_place in (False, True):
            begin = time.perf_counter()
            convert(model, name, in_place=in_place)
            taken.append(time.perf_counter() - begin)
        count = sum(part.numel() for part in model.parameters())
        table.add_row(name, f"{count:,}", *(f"{each:.2f}" for each in taken))
    return table


def measured(asked: argparse.Namespace) -> Iterator[Shown]:
    """Every table that is asked for."""
    yield from by_length(asked)
    yield converting(asked)


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(SIZES), default="small", help="of the BERT")
    parser.add_argument(
        "--attentions", nargs="+", choices=sorted(set(MAPS) - {"softmax"}),
        default=["luna", "hedgehog", "linear_transformer"],
    )  # fmt: skip
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[128, 256, 512, 1024, 2048, 4096, 8192]
    )
    parser.add_argument("--repeats", type=int, default=3, help="calls that are timed (3)")
    parser.add_argument("--save", type=Path, help="a markdown file for the tables")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Measures, prints and, where it is asked for, saves the tables."""
    asked = parse(words)
    torch.set_num_threads(1)
    machine = f"{hardware('cpu')['cpu']}, one thread, torch {torch.__version__}."
    show(measured(asked), f"# What a converted BERT costs\n\n{machine}\n{EPILOG}", asked.save)


if __name__ == "__main__":
    main()
