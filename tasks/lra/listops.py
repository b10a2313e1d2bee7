"""ListOps: nested list operations on digits, drawn by the published procedure.

Nangia and Bowman's generator with the settings of the Long Range Arena (Tay et al. 2021): a node
at depth d < max_depth is an operator with probability 1/4, any other node is a digit; an operator
is one of MIN, MAX, MED, SM with 2..max_args arguments. A tree counts 1 for a digit and 2 for an
operator and its bracket; trees with min_length < length < max_length are kept, each once.

Trees are drawn level by level, thousands at a time, and given up as soon as their length must
reach max_length, so that the rejected nine tenths cost little.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sextant.ranges import at_least
from tasks.shared.cache import Generated, blocks, cached, progress

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
SYMBOLS = ("", *"0123456789", *OPERATORS, "]")  # a symbol's place is its token, 0 is padding
FIRST_DIGIT, FIRST_OPERATOR, CLOSE = 1, 11, 15
CLASSES = 10
OPERATOR_RATE = 0.25
ROOTS = 16384  # draws of a block
FRUITLESS_BLOCKS = 50
VERSION = 1


@dataclass(frozen=True)
class ListopsLaw:
    """Which trees are drawn.

    Args:
        max_depth: nodes at this depth are digits; the root has depth 1.
        max_args: most arguments of an operator, at least 2.
        min_length: kept trees are longer than this.
        max_length: and shorter than this.
    """

    max_depth: int = 10
    max_args: int = 10
    min_length: int = 500
    max_length: int = 2000

    def __post_init__(self) -> None:
        at_least(1, max_depth=self.max_depth)
        if not 2 <= self.max_args <= 255:
            raise ValueError(f"max_args must lie in 2..255, got {self.max_args}")
        if not 0 <= self.min_length < self.max_length - 1:
            raise ValueError(
                "min_length must be at least 0 and leave a length below max_length, "
                f"got {self.min_length} and {self.max_length}"
            )


class Expressions(NamedTuple):
    """Expressions one after another.

    Args:
        tokens: uint8, all tokens in reading order, closing brackets included.
        ends: int64 (n,), where each expression ends in `tokens`.
        labels: uint8 (n,), the values 0..9.
    """

    tokens: np.ndarray
    ends: np.ndarray
    labels: np.ndarray


class _Level(NamedTuple):
    """The nodes of one depth, children of one parent side by side, in the order of the parents."""

    tree: np.ndarray  # (nodes,) which draw a node belongs to
    operator: np.ndarray  # (nodes,) 0..3, or -1 for a digit
    value: np.ndarray  # (nodes,) the digit; an operator's value is filled in later
    arity: np.ndarray  # (nodes,) how many nodes of the next level are its children


def draw_block(law: ListopsLaw, seed: int, block: int) -> Expressions:
    """The kept trees among ROOTS draws, in the order of the draws: a function of (seed, block).

    About 8 % of draws are kept by the Arena's law. Time and memory are linear in the nodes drawn.
    """
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, block))))
    levels, lengths = _grow(law, random)
    kept = (lengths > law.min_length) & (lengths < law.max_length)
    chosen = [_only(level, kept) for level in levels]
    return _write([level for level in chosen if len(level.tree)], lengths[kept])


def _grow(law: ListopsLaw, random: np.random.Generator) -> tuple[list[_Level], np.ndarray]:
    lengths = np.zeros(ROOTS, np.int64)
    tree = np.arange(ROOTS, dtype=np.int32)
    levels = []
    for depth in range(1, law.max_depth + 1):
        n = len(tree)
        inner = random.random(n) <= OPERATOR_RATE if depth < law.max_depth else np.zeros(n, bool)
        operator = np.full(n, -1, np.int8)
        operator[inner] = random.integers(len(OPERATORS), size=inner.sum(), dtype=np.int8)
        arity = np.zeros(n, np.int64)
        arity[inner] = random.integers(2, law.max_args + 1, size=inner.sum())
        value = random.integers(10, size=n, dtype=np.uint8)
        lengths += np.bincount(tree, 1 + inner, ROOTS).astype(np.int64)
        # Every child to come has a length of at least one.
        bound = lengths + np.bincount(tree, arity, ROOTS).astype(np.int64)
        lost = bound >= law.max_length
        lengths[lost] = law.max_length
        arity[lost[tree]] = 0
        levels.append(_Level(tree, operator, value, arity))
        tree = np.repeat(tree, arity)
        if not len(tree):
            break
    return levels, lengths


def _only(level: _Level, kept: np.ndarray) -> _Level:
    rows = kept[level.tree]
    return _Level(*(values[rows] for values in level))


def _write(levels: list[_Level], lengths: np.ndarray) -> Expressions:
    if not levels:
        return Expressions(np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.uint8))
    sizes = [np.ones(0, np.int64)] * len(levels)
    for depth in reversed(range(len(levels))):
        level = levels[depth]
        size = np.ones(len(level.tree), np.int64)
        parents = np.flatnonzero(level.arity)
        if len(parents):
            first = np.cumsum(level.arity[parents]) - level.arity[parents]
            size[parents] = 2 + np.add.reduceat(sizes[depth + 1], first)
            level.value[parents] = _evaluate(
                level.operator[parents], level.arity[parents], levels[depth + 1].value, first
            )
        sizes[depth] = size
    ends = np.cumsum(lengths)
    tokens = np.empty(ends[-1], np.uint8)
    start = ends - lengths
    for depth, (level, size) in enumerate(zip(levels, sizes, strict=True)):
        parents = np.flatnonzero(level.arity)
        tokens[start] = FIRST_DIGIT + level.value
        tokens[start[parents]] = FIRST_OPERATOR + level.operator[parents]
        tokens[start[parents] + size[parents] - 1] = CLOSE
        if len(parents):
            before = np.cumsum(sizes[depth + 1]) - sizes[depth + 1]
            arity = level.arity[parents]
            first = np.cumsum(arity) - arity
            start = np.repeat(start[parents] + 1 - before[first], arity) + before
    return Expressions(tokens, ends, levels[0].value.copy())


def _evaluate(
    operator: np.ndarray, arity: np.ndarray, arguments: np.ndarray, first: np.ndarray
) -> np.ndarray:
    """The value of each operator (m,) on its run of the arguments, which starts at `first`."""
    # Sorted inside each run: the runs keep their places because the run is the higher digit.
    run = np.repeat(np.arange(len(arity)), arity)
    ordered = np.sort(run * 16 + arguments) & 15
    middle = ordered[first + (arity - 1) // 2] + ordered[first + arity // 2]
    choices = (
        ordered[first],
        ordered[first + arity - 1],
        middle // 2,  # an even count's median is cut to a whole number
        np.add.reduceat(arguments, first, dtype=np.int64) % 10,
    )
    return np.choose(operator, choices).astype(np.uint8)


def draw_expressions(
    law: ListopsLaw, seed: int, count: int, workers: int | None = None
) -> Expressions:
    """The first `count` different kept trees, in the order of the draws.

    Independent of the number of workers. The Arena's 100,000 trees take about 1 GB.

    Raises:
        ValueError: when the law has too few different trees.
    """
    seen: set[bytes] = set()
    parts: list[np.ndarray] = []
    labels: list[int] = []
    fruitless = 0
    drawn = blocks(partial(draw_block, law, seed), workers)
    with progress("ListOps", count) as done:
        for block in drawn:
            before, start = len(parts), 0
            for end, label in zip(block.ends.tolist(), block.labels.tolist(), strict=True):
                tokens, start = block.tokens[start:end], end
                key = hashlib.blake2b(tokens.tobytes(), digest_size=16).digest()
                if key not in seen and len(parts) < count:
                    seen.add(key)
                    parts.append(tokens)
                    labels.append(label)
            done(len(parts))
            fruitless = 0 if len(parts) > before else fruitless + 1
            if len(parts) == count or fruitless == FRUITLESS_BLOCKS:
                break
    drawn.close()
    if len(parts) < count:
        raise ValueError(f"{law} has too few different trees: {len(parts)} found, {count} asked")
    ends = np.cumsum([len(part) for part in parts])
    return Expressions(np.concatenate(parts), ends, np.array(labels, np.uint8))


def cached_expressions(
    law: ListopsLaw, seed: int, count: int, workers: int | None = None
) -> tuple[Expressions, Generated]:
    """As `draw_expressions`, from disk when they were drawn before."""

    def make() -> dict[str, np.ndarray]:
        return draw_expressions(law, seed, count, workers)._asdict()

    what = {"generator": "listops", "version": VERSION, "seed": seed, "count": count}
    generated = cached("listops", what | asdict(law), make)
    return Expressions(**generated.arrays), generated


def to_source(tokens: Sequence[int]) -> str:
    """The release's writing of an expression: brackets nested to the left, symbols apart.

    Raises:
        ValueError: for tokens that are no complete expression.
    """
    open_items: list[str] = []
    finished = ""
    for token in tokens:
        symbol = SYMBOLS[token] if 0 < token < len(SYMBOLS) else ""
        if not symbol or finished:
            raise ValueError(f"tokens must be one complete expression, got {list(tokens)}")
        if symbol in OPERATORS:
            open_items.append(symbol)
            continue
        item = symbol
        if symbol == "]":
            if not open_items:
                raise ValueError(f"tokens must be one complete expression, got {list(tokens)}")
            item = f"( {open_items.pop()} ] )"
        if open_items:
            open_items[-1] = f"( {open_items[-1]} {item} )"
        else:
            finished = item
    if not finished:
        raise ValueError(f"tokens must be one complete expression, got {list(tokens)}")
    return finished


_TOKENS = {symbol: token for token, symbol in enumerate(SYMBOLS) if symbol}


def parse_source(source: str) -> np.ndarray:
    """Tokens uint8 of an expression in the release's writing; its parentheses say nothing new.

    Raises:
        ValueError: for a symbol that ListOps does not have.
    """
    symbols = [symbol for symbol in source.split() if symbol not in "()"]
    if unknown := [symbol for symbol in symbols if symbol not in _TOKENS]:
        raise ValueError(f"an expression holds the unknown symbol {unknown[0]!r}")
    return np.array([_TOKENS[symbol] for symbol in symbols], np.uint8)


def read_release(path: Path) -> Expressions:
    """Expressions of a release file `basic_{train,val,test}.tsv`, columns Source and Target.

    Raises:
        ValueError: for another header or a value that is no digit.
    """
    parts, labels = [], []
    with path.open(encoding="utf8") as lines:
        if next(lines, "").split() != ["Source", "Target"]:
            raise ValueError(f"{path} must begin with a line 'Source<tab>Target'")
        for line in lines:
            source, _, target = line.rstrip("\n").partition("\t")
            if target not in list("0123456789"):
                raise ValueError(f"{path} holds the value {target!r}, only 0..9 are allowed")
            parts.append(parse_source(source))
            labels.append(int(target))
    if not parts:
        raise ValueError(f"{path} holds no expression")
    ends = np.cumsum([len(part) for part in parts])
    return Expressions(np.concatenate(parts), ends, np.array(labels, np.uint8))
