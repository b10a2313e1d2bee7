"""ListOps against a naive generator, a stack evaluator and the release's writing."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.lra import listops
from tasks.lra.listops import ListopsLaw, draw_block, draw_expressions, parse_source, to_source
from tasks.shared import cache

SMALL = ListopsLaw(max_depth=4, max_args=4, min_length=4, max_length=30)
APPLY = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: (
        (sorted(values)[(len(values) - 1) // 2] + sorted(values)[len(values) // 2]) // 2
    ),
    "[SM": lambda values: sum(values) % 10,
}


def split(expressions):
    return np.split(np.asarray(expressions.tokens), expressions.ends[:-1])


def evaluate(source):
    """The value, the depth and the arities of an expression as it is written in the release."""
    stack, depth, arities = [], 1, []
    for symbol in source.split():
        if symbol in "()":
            continue
        if symbol in APPLY:
            stack.append((symbol, []))
            depth = max(depth, len(stack) + 1)
            continue
        if symbol == "]":
            operator, arguments = stack.pop()
            arities.append(len(arguments))
            value = APPLY[operator](arguments)
        else:
            value = int(symbol)
        if not stack:
            return value, depth, arities
        stack[-1][1].append(value)
    raise AssertionError("unfinished")


def naive(law, generator):
    """The published recursion: an expression as a list of symbols, its value."""

    def grow(depth):
        if depth >= law.max_depth or generator.random() > 0.25:
            digit = generator.randrange(10)
            return [str(digit)], digit
        children = [grow(depth + 1) for _ in range(generator.randint(2, law.max_args))]
        operator = generator.choice(list(APPLY))
        symbols = [operator, *(symbol for child, _ in children for symbol in child), "]"]
        return symbols, APPLY[operator]([value for _, value in children])

    return grow(1)


@pytest.fixture(scope="module")
def arena():
    return draw_block(ListopsLaw(), 0, 0)


def test_labels_are_the_values_of_the_printed_expressions(arena):
    expressions = split(arena)
    assert len(expressions) > 1000
    symbols = set()
    for tokens, label in zip(expressions[:1000], arena.labels[:1000], strict=True):
        source = to_source(tokens)
        value, depth, arities = evaluate(source)
        assert value == label
        assert depth <= 10
        assert 2 <= min(arities) <= max(arities) <= 10
        assert 500 < len(tokens) < 2000
        symbols |= set(source.split()) - {"(", ")"}
    assert len(symbols) == 15


def lengths_of_law(law):
    """The exact probability of every length below max_length, by convolving level after level."""
    law_of_node = np.zeros(law.max_length)
    law_of_node[1] = 1
    for _ in range(law.max_depth - 1):
        arguments, several = np.zeros(law.max_length), law_of_node
        for _ in range(2, law.max_args + 1):
            several = np.convolve(several, law_of_node)[: law.max_length]
            arguments += several / (law.max_args - 1)
        law_of_node = np.concatenate(([0.0, 0.75], 0.25 * arguments[:-2]))
    return law_of_node


def test_the_arena_law_has_the_exact_lengths_and_the_measured_labels(arena):
    law = ListopsLaw()
    n, lengths = len(arena.labels), np.diff(arena.ends, prepend=0)
    exact, every = lengths_of_law(law), np.arange(law.max_length)
    exact[: law.min_length + 1] = 0
    accepted = exact.sum()
    assert accepted == pytest.approx(0.0828, abs=1e-4)
    deviation = np.sqrt(accepted * (1 - accepted) / listops.ROOTS)
    assert abs(n / listops.ROOTS - accepted) < 4 * deviation
    mean = (exact * every).sum() / accepted
    spread = np.sqrt((exact * (every - mean) ** 2).sum() / accepted)
    assert abs(lengths.mean() - mean) < 4 * spread / np.sqrt(n)
    assert abs(np.mean(lengths <= 954) - 0.5) < 4 * 0.5 / np.sqrt(n)
    expected = np.array([17, 9, 7, 8, 9, 9, 8, 8, 8, 17]) / 100
    found = np.bincount(arena.labels, minlength=10) / n
    assert (np.abs(found - expected) < 4 * np.sqrt(expected / n) + 0.005).all()


def test_draws_follow_the_published_recursion():
    generator = random.Random(1)
    trees = [naive(SMALL, generator) for _ in range(30000)]
    kept = [(len(s), v) for s, v in trees if SMALL.min_length < len(s) < SMALL.max_length]
    drawn = [draw_block(SMALL, 3, block) for block in range(4)]
    lengths = np.concatenate([np.diff(part.ends, prepend=0) for part in drawn])
    labels = np.concatenate([part.labels for part in drawn])
    draws = 4 * listops.ROOTS
    rate, expected = len(labels) / draws, len(kept) / 30000
    assert abs(rate - expected) < 4 * np.sqrt(expected * (1 / draws + 1 / 30000))
    for mine, theirs, size in (
        (lengths, [length for length, _ in kept], SMALL.max_length),
        (labels, [value for _, value in kept], 10),
    ):
        a, b = np.bincount(mine, minlength=size), np.bincount(theirs, minlength=size)
        some = a + b > 0
        share = (a + b)[some] / (a.sum() + b.sum())
        # Two-sample chi-square: the mean is the number of cells, the variance twice that.
        chi = sum(((c[some] - share * c.sum()) ** 2 / (share * c.sum())).sum() for c in (a, b))
        assert chi < some.sum() + 4 * np.sqrt(2 * some.sum())


def test_a_block_is_a_function_of_seed_and_number():
    first, again, other = (draw_block(SMALL, *key) for key in ((1, 2), (1, 2), (2, 1)))
    assert np.array_equal(first.tokens, again.tokens)
    assert not np.array_equal(first.tokens[:500], other.tokens[:500])
    assert not np.array_equal(first.tokens[:500], draw_block(SMALL, 1, 3).tokens[:500])


def test_no_expression_comes_twice_and_the_order_is_that_of_the_draws():
    few, many = draw_expressions(SMALL, 0, 2000, 1), draw_expressions(SMALL, 0, 6000, 1)
    assert np.array_equal(few.tokens, many.tokens[: few.ends[-1]])
    texts = [tokens.tobytes() for tokens in split(many)]
    assert len(set(texts)) == len(texts) == 6000
    # The short expressions do repeat among the draws.
    repeated = [
        tokens.tobytes() for block in range(3) for tokens in split(draw_block(SMALL, 0, block))
    ]
    assert len(set(repeated)) < len(repeated)


def test_the_number_of_workers_changes_nothing(monkeypatch):
    alone = draw_expressions(SMALL, 5, 9000, 1)
    monkeypatch.setattr(cache, "SERIAL_SECONDS", 0.0)
    together = draw_expressions(SMALL, 5, 9000, 2)
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_law_with_too_few_trees_is_refused_and_an_exact_number_is_found(monkeypatch):
    monkeypatch.setattr(listops, "FRUITLESS_BLOCKS", 3)
    digits = ListopsLaw(max_depth=1, min_length=0, max_length=3)
    found = draw_expressions(digits, 0, 10, 1)
    assert sorted(to_source(tokens) for tokens in split(found)) == list("0123456789")
    with pytest.raises(ValueError, match="10 found, 11 asked"):
        draw_expressions(digits, 0, 11, 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_writing_and_parsing_are_inverse_and_brackets_are_binary(seed):
    symbols, value = naive(SMALL, random.Random(seed))
    tokens = [listops.SYMBOLS.index(symbol) for symbol in symbols]
    source = to_source(tokens)
    assert parse_source(source).tolist() == tokens
    assert evaluate(source)[0] == value
    open_pairs = [0]
    for symbol in source.split():
        if symbol == "(":
            open_pairs.append(0)
            continue
        if symbol == ")":
            assert open_pairs.pop() == 2
        open_pairs[-1] += 1
    assert open_pairs == [1]


def test_the_releases_own_writing_is_understood():
    source = "( ( ( [MAX 2 ) ( ( ( [SM 7 ) 8 ) ] ) ) ] )"
    assert parse_source(source).tolist() == [12, 3, 14, 8, 9, 15, 15]
    assert to_source(parse_source(source)) == source


@pytest.mark.parametrize("tokens", [[], [0], [16], [1, 1], [15], [11, 1], [11, 1, 2, 15, 15]])
def test_incomplete_expressions_are_refused(tokens):
    with pytest.raises(ValueError, match="one complete expression"):
        to_source(tokens)


def test_release_files_are_read(tmp_path):
    path = tmp_path / "basic_train.tsv"
    path.write_text("Source\tTarget\n( ( ( [MIN 4 ) 2 ) ] )\t2\n7\t7\n")
    found = listops.read_release(path)
    assert found.tokens.tolist() == [11, 5, 3, 15, 8]
    assert found.ends.tolist() == [4, 5]
    assert found.labels.tolist() == [2, 7]
    for text, complaint in (
        ("Text\tTarget\n", "must begin with"),
        ("Source\tTarget\n", "no expression"),
        ("Source\tTarget\n3\tx\n", "value 'x'"),
        ("Source\tTarget\n[AVG\t1\n", r"symbol '\[AVG'"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=complaint):
            listops.read_release(path)


@pytest.mark.parametrize(
    "change", [{"max_depth": 0}, {"max_args": 1}, {"min_length": -1}, {"min_length": 1999}]
)
def test_bad_laws_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        ListopsLaw(**change)
