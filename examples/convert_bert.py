"""Exchanges the softmax attention of a BERT for linear attention, and shows what that does.

    python examples/convert_bert.py                                 # a small BERT, random weights
    python examples/convert_bert.py bert-base-uncased --attention luna --steps 200
    python examples/convert_bert.py path/to/model --attention hedgehog --lengths 128 512

A model is `random`, a folder, or a name of the hub. Its weights stay as they are; the new maps are
taught for some steps to imitate the rows of softmax, on tokens drawn at random, with everything
else frozen. The first table says how far the answers are from the model's own before and after; the
second how long both take for one sequence, and their ratio.
"""

from __future__ import annotations

import argparse
import time

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModel, BertConfig, BertModel, PreTrainedModel

from sextant.conversion import convert
from sextant.methods.conversion.maps import MAPS
from sextant.methods.conversion.teaching import lesson, map_parameters


def read_model(name: str) -> PreTrainedModel:
    """The model of that name in evaluation mode; `random` is drawn from a small config."""
    if name != "random":
        return AutoModel.from_pretrained(name).eval()
    config = BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
    )
    return BertModel(config).eval()


def draw(
    model: PreTrainedModel, rows: int, length: int, generator: torch.Generator
) -> torch.Tensor:
    """Token numbers (rows, length)."""
    return torch.randint(model.config.vocab_size, (rows, length), generator=generator)


def teach(
    model: PreTrainedModel, steps: int, length: int, generator: torch.Generator
) -> list[float]:
    """The row cross-entropy of every step; only the maps change."""
    if not map_parameters(model):
        return []
    optimizer = torch.optim.Adam(map_parameters(model), 1e-2)
    losses = []
    for _ in range(steps):
        with lesson(model) as taken:
            model(draw(model, 4, length, generator))
        optimizer.zero_grad()
        taken.loss().backward()
        optimizer.step()
        losses.append(taken.loss().item())
    return losses


@torch.no_grad()
def distance(model: PreTrainedModel, other: PreTrainedModel, tokens: torch.Tensor) -> float:
    """How far the outputs of two models are apart, relative to the first's."""
    ours, theirs = (each(tokens).last_hidden_state for each in (model, other))
    return ((ours - theirs).norm() / ours.norm()).item()


@torch.no_grad()
def seconds(model: PreTrainedModel, tokens: torch.Tensor, repeats: int = 3) -> float:
    """The shortest of some calls, after one to warm up."""
    found = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        model(tokens)
        found.append(time.perf_counter() - begin)
    return min(found[1:])


def arguments() -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="random", help="random, a folder or a name")
    parser.add_argument("--attention", choices=sorted(MAPS), default="luna", help="the new one")
    parser.add_argument("--steps", type=int, default=100, help="of teaching (100)")
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[64, 128, 256], help="tokens of the timed calls"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the maps and the tokens (0)")
    return parser.parse_args()


def main() -> None:
    """Converts, teaches, compares."""
    chosen = arguments()
    torch.manual_seed(chosen.seed)
    generator = torch.Generator().manual_seed(chosen.seed)
    model = read_model(chosen.model)
    begin = time.perf_counter()
    converted = convert(model, chosen.attention)
    spent = time.perf_counter() - begin
    own = converted.state_dict()
    kept = all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())
    console = Console()
    console.print(
        f"{model.num_parameters():,} parameters converted to {chosen.attention} in {spent:.2f} s; "
        f"weights {'bit for bit the same' if kept else 'CHANGED'}"
    )
    tokens = draw(model, 4, chosen.lengths[0], generator)
    table = Table(title="distance of the outputs from the model's own")
    for column in ("when converted", f"taught for {chosen.steps} steps", "row cross-entropy"):
        table.add_column(column, justify="right")
    before = distance(model, converted, tokens)
    losses = teach(converted, chosen.steps, chosen.lengths[0], generator)
    change = f"{losses[0]:.3f} to {losses[-1]:.3f}" if losses else "nothing to teach"
    table.add_row(f"{before:.4f}", f"{distance(model, converted, tokens):.4f}", change)
    console.print(table)
    table = Table(title="seconds for one sequence")
    for column in ("tokens", "softmax", chosen.attention, "times as long"):
        table.add_column(column, justify="right")
    for length in chosen.lengths:
        tokens = draw(model, 1, length, generator)
        ours, theirs = seconds(model, tokens), seconds(converted, tokens)
        table.add_row(str(length), f"{ours:.4f}", f"{theirs:.4f}", f"{theirs / ours:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
