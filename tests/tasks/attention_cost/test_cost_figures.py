"""The figures of costs are pure functions of saved arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.attention_cost.figures import (
    SOFTMAX,
    apart,
    cost_figure,
    crossover,
    crossover_figure,
    styles,
    tokens,
)
from tasks.shared.drawing import INK

LENGTHS = np.array([256.0, 512.0, 1024.0, 2048.0])


def read(path):
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(path).convert("RGB")).astype(int)


def share(picture, colour):
    wanted = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])
    return (np.abs(picture - wanted).max(-1) < 30).mean()


def run(method="luna", seed=0, power=1.0, lengths=LENGTHS, **changes):
    arrays = {"lengths": lengths, "milliseconds": 0.01 * lengths**power}
    arrays |= {"peak_megabytes": 0.002 * lengths**power, "softmax_milliseconds": lengths**2 / 1e5}
    found = {"task": "t", "task_label": "t", "method": f"cost/{method}", "method_label": method}
    return found | {"seed": seed, "arrays": arrays, "scores": {}} | changes


def test_the_figure_is_wide_and_repeatable(tmp_path):
    runs = [run(), run("softmax", power=2.0), run("other", power=0.9)]
    picture = read(cost_figure(runs, tmp_path / "deep" / "one.png"))
    assert picture.shape[1] == 1400
    cost_figure(runs, tmp_path / "two.png")
    cost_figure(runs[:2], tmp_path / "three.png")
    pictures = [(tmp_path / f"{name}.png").read_bytes() for name in ("deep/one", "two", "three")]
    assert pictures[0] == pictures[1] != pictures[2]


def test_luna_and_softmax_have_their_colours(tmp_path):
    both = read(cost_figure([run(), run("softmax", power=2.0)], tmp_path / "both.png"))
    assert min(share(both, INK), share(both, SOFTMAX)) > 1e-3
    others = read(cost_figure([run("a"), run("b", power=2.0)], tmp_path / "others.png"))
    assert max(share(others, INK), share(others, SOFTMAX)) < 1e-4
    looks = styles([run("a"), run("luna"), run("b"), run("softmax")])
    assert looks[1] == (INK, 3.0)
    assert looks[3] == (SOFTMAX, 3.0)
    assert len({colour for colour, _ in looks}) == 4


def test_lines_may_end_early(tmp_path):
    early = run("dense", power=2.0, lengths=LENGTHS[:2])
    with_early = cost_figure([run(), early], tmp_path / "early.png")
    whole = cost_figure([run(), run("dense", power=2.0)], tmp_path / "whole.png")
    assert with_early.read_bytes() != whole.read_bytes()


def test_the_lowest_seed_is_drawn(tmp_path):
    several = cost_figure([run(seed=2, power=2.0), run(seed=0)], tmp_path / "several.png")
    alone = cost_figure([run(seed=0)], tmp_path / "alone.png")
    other = cost_figure([run(seed=2, power=2.0)], tmp_path / "other.png")
    assert several.read_bytes() == alone.read_bytes() != other.read_bytes()


def test_runs_without_the_arrays_are_refused(tmp_path):
    for runs in ([], [run(arrays={"lengths": LENGTHS})]):
        with pytest.raises(ValueError, match="peak_megabytes"):
            cost_figure(runs, tmp_path / "x.png")


def times_softmax(*ratios):
    arrays = {"lengths": LENGTHS, "milliseconds": np.ones(4)}
    return run(arrays=arrays | {"softmax_milliseconds": np.array(ratios)})


def test_a_crossover_is_a_length_or_says_what_was_measured():
    # 0.01 N and N^2 / 100,000 meet at 1,000.
    assert crossover(run()) == (0, pytest.approx(1000), "1,000")
    assert crossover(times_softmax(1.0, 2.0, 3.0, 4.0)) == (-1, 256, "faster at every length")
    never = (1, 2048, "slower at every length up to 2,048")
    assert crossover(times_softmax(0.1, 0.2, 0.5, 0.9)) == never
    assert crossover(times_softmax(0.5, 2.0, 3.0, 0.9)) == (1, 2048, "slower again at 2,048")


def test_crossovers_are_ordered_by_length_and_what_lies_outside_comes_first_or_last():
    never, always = times_softmax(0.1, 0.2, 0.5, 0.9), times_softmax(1.0, 2.0, 3.0, 4.0)
    late, early = times_softmax(0.1, 0.2, 0.5, 2.0), times_softmax(0.5, 2.0, 3.0, 4.0)
    found = sorted([never, late, always, early], key=crossover)
    assert all(a is b for a, b in zip(found, [always, early, late, never], strict=True))


def test_the_crossover_figure_leaves_softmax_out_and_shows_every_other_line(tmp_path):
    runs = [run(), run("dense", power=2.0), run("early", power=0.5, lengths=LENGTHS[:3])]
    picture = crossover_figure(runs, tmp_path / "one.png").read_bytes()
    with_softmax = [run("softmax", power=2.0), *runs, run("dense", seed=3)]
    assert crossover_figure(with_softmax, tmp_path / "two.png").read_bytes() == picture
    assert read(crossover_figure(runs, tmp_path / "three.png")).shape[1] == 1400
    fewer = read(crossover_figure(runs[:2], tmp_path / "four.png"))
    assert fewer.shape[0] < read(tmp_path / "one.png").shape[0]
    with pytest.raises(ValueError, match="softmax_milliseconds"):
        crossover_figure([run("softmax")], tmp_path / "none.png")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 0.2))
def test_labels_keep_apart_and_move_no_more_than_needed(heights, gap):
    heights = sorted(heights)
    moved = np.array(apart(heights, gap))
    assert (np.diff(moved) >= gap - 1e-9).all()
    assert moved.mean() == pytest.approx(np.mean(heights))
    # Any other rising spread is farther off: a few that differ from it by one height.
    best = np.square(moved - heights).sum()
    for place in range(len(heights)):
        for step in (-0.01, 0.01):
            other = moved.copy()
            other[place] += step
            if (np.diff(other) >= gap).all():
                assert np.square(other - heights).sum() >= best - 1e-9


def test_labels_apart_already_stay():
    assert apart([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert apart([0.5, 0.5], 0.2) == pytest.approx([0.4, 0.6])


def test_lengths_are_short():
    assert [tokens(n) for n in (256.0, 1024.0, 1536.0, 131072.0)] == ["256", "1k", "1.5k", "128k"]
