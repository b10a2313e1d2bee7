"""Figures are pure functions of saved arrays."""

import numpy as np
import pytest

from tasks.alignment.figures import drift_figure, ladder_figure, level_curves, matching_figure
from tasks.shared.drawing import chosen, label, spread

PROBLEMS, POINTS = 4, 12


def read(path):
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(path).convert("RGB")).astype(int)


def share(picture, colour, tolerance=40):
    """The share of pixels near a colour."""
    return (np.abs(picture - np.array(colour)).max(-1) < tolerance).mean()


def run(method, arrays, seed=0, task="a"):
    labels = {"task_label": f"task {task}", "method_label": method}
    return {"task": task, "method": method, "seed": seed, "arrays": arrays, "scores": {}} | labels


def drift(method="warm", seed=0, curve=True, level=2.0):
    generator = np.random.default_rng(0)
    clouds = generator.normal(size=(2, PROBLEMS, POINTS, 2)).astype("float32")
    grid = np.linspace(-4, 4, 11, dtype="float32")
    arrays = {
        "source": clouds[0],
        "target": clouds[1],
        "optimum": np.full(PROBLEMS, 1.0),
        "iterations": np.array([0, 20, 100]) if curve else np.array([], dtype=int),
        "cost": np.full((3 if curve else 1, PROBLEMS), level),
        "partner": np.tile(np.arange(POINTS), (3 if curve else 1, PROBLEMS, 1)),
        "rotation_degrees": np.array([2.0, 10, 90]),
        "rotation_ratio": np.array([1.0, 1.1, 1.5]) * level,
        "jitter_std": np.array([0.1, 0.4]),
        "jitter_ratio": np.array([1.0, 1.2]) * level,
        "level_x": grid,
        "level_y": grid,
        "levels": np.broadcast_to(grid[:, None] + grid**2, (PROBLEMS, 11, 11)),
    }
    if curve:
        arrays |= {
            "curve": np.linspace(3, level, 6) * np.ones((PROBLEMS, 1)),
            "curve_iterations": np.arange(0, 101, 20),
        }
    return run(method, arrays, seed)


def shapes(method="sorted", task="a", colour=None, pairs=3):
    generator = np.random.default_rng(0)
    clouds = generator.uniform(-1, 1, size=(2, pairs, 200, 3)).astype("float32")
    origin = clouds[0] if colour is None else np.broadcast_to(colour, clouds[0].shape)
    arrays = {
        "source": clouds[0],
        "target": clouds[1],
        "origin": origin,
        "partner": np.tile(np.arange(200), (pairs, 1)),
        "cost": np.full(pairs, 1.2),
        "optimum": np.full(pairs, 1.0),
    }
    return run(method, arrays, task=task)


def ladder(method="slicer", climbing=True):
    sizes = np.array([8, 16, 32])
    arrays = {"optimum": np.array(2.0), "cost": np.array([2.5]), "held_out": np.array([2.6])}
    if climbing:
        arrays |= {
            "sizes": sizes,
            "cost": np.array([3.0, 2.6, 2.4]),
            "held_out": np.array([3.1, 2.7, 2.5]),
            "batch_optimum": np.array([3.4, 2.9, 2.5]),
            "bias": 3 * sizes**-0.5,
            "bias_error": 0.1 * sizes**-0.5,
            "fit": np.array([np.log(3.0), -0.5]),
        }
    return run(method, arrays)


FIGURES = {
    drift_figure: [drift(), drift("scratch", level=2.5), drift("directions", curve=False)],
    matching_figure: [drift(), drift("directions", curve=False)],
    level_curves: [drift(), drift("scratch")],
    ladder_figure: [ladder(), ladder("exact", climbing=False)],
}


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_equal_arrays_give_equal_bytes_and_other_seeds_are_not_drawn(draw, tmp_path):
    runs = FIGURES[draw]
    first = draw(runs, tmp_path / "deep" / "first.png").read_bytes()
    later = [entry | {"seed": 3, "arrays": drift(level=9.0)["arrays"]} for entry in runs]
    if draw is not ladder_figure:
        assert draw([*later, *runs], tmp_path / "again.png").read_bytes() == first
    assert draw(runs[:1], tmp_path / "one.png").read_bytes() != first
    picture = read(tmp_path / "deep" / "first.png")
    assert picture.shape[1] > 900
    assert share(picture, (29, 95, 166)) > 5e-4, "the first run's blue is there"


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_runs_of_other_exams_are_left_out(draw, tmp_path):
    with pytest.raises(ValueError, match="runs must hold one with the arrays"):
        draw([], tmp_path / "x.png")
    lacking = dict(FIGURES[draw][0])
    lacking["arrays"] = {k: v for k, v in lacking["arrays"].items() if k != "optimum"}
    with pytest.raises(ValueError, match=r"with the arrays .*optimum.*, got none"):
        draw([lacking], tmp_path / "x.png")
    alone = draw(FIGURES[draw], tmp_path / "alone.png").read_bytes()
    other = dict(lacking, task="another")
    assert draw([other, *FIGURES[draw]], tmp_path / "both.png").read_bytes() == alone
    with pytest.raises(ValueError, match="several batch sizes"):
        ladder_figure([ladder(climbing=False)], tmp_path / "x.png")


def test_an_exact_student_is_the_dashed_level_and_no_second_line(tmp_path):
    exact = drift("exact", curve=False, level=1.0)
    with_exact = drift_figure([drift(), exact], tmp_path / "with.png").read_bytes()
    assert drift_figure([drift()], tmp_path / "without.png").read_bytes() == with_exact


def test_matchings_join_the_partners_of_the_last_iteration(tmp_path):
    pictures = []
    for name, row, partners in (
        ("first", 0, np.arange(POINTS)[::-1]),
        ("last", 2, np.arange(POINTS)[::-1]),
    ):
        one = drift()
        one["arrays"]["partner"] = one["arrays"]["partner"].copy()
        one["arrays"]["partner"][row] = partners
        pictures.append(matching_figure([one], tmp_path / f"{name}.png").read_bytes())
    untouched = matching_figure([drift()], tmp_path / "untouched.png").read_bytes()
    assert pictures[0] == untouched != pictures[1]


def test_targets_in_space_have_the_colours_of_their_origins(tmp_path):
    # Everything comes from the corner where the third coordinate, blue, alone is large.
    blue = shapes("all blue", colour=np.array([-1.0, -1.0, 1.0]))
    picture = read(matching_figure([blue], tmp_path / "blue.png"))
    half = picture.shape[0] // 2
    corner = (0.05 * 255, 0.05 * 255, 0.9 * 255)
    assert share(picture[half:], corner, 12) > 0.005
    assert share(picture[:half], corner, 12) < 0.2 * share(picture[half:], corner, 12)


def test_space_rows_are_one_for_each_run_and_one_for_each_task(tmp_path):
    two = read(matching_figure([shapes(), shapes("exact")], tmp_path / "two.png"))
    four = read(
        matching_figure(
            [shapes(), shapes("exact"), shapes(task="b"), shapes("exact", task="b")],
            tmp_path / "four.png",
        )
    )
    assert four.shape[0] / two.shape[0] == pytest.approx(2, abs=0.1)
    single = read(matching_figure([shapes(pairs=1)], tmp_path / "single.png"))
    assert single.shape[1] < two.shape[1]


def test_clouds_of_other_dimensions_are_not_drawn(tmp_path):
    latent = shapes()
    for name in ("source", "target", "origin"):
        latent["arrays"][name] = np.repeat(latent["arrays"][name], 2, axis=2)
    for runs in ([latent], [shapes(), drift()]):
        with pytest.raises(ValueError, match="clouds of 2 or of 3 dimensions"):
            matching_figure(runs, tmp_path / "x.png")


def test_runs_are_chosen_by_task_and_lowest_seed():
    runs = [
        run("m", {}, 2, "a"),
        run("m", {}, 1, "b"),
        run("n", {}, 0, "a"),
        run("m", {}, 1, "a"),
    ]
    drawn = chosen(runs, ())
    assert [(one["task"], one["method"], one["seed"]) for one in drawn] == [
        ("a", "m", 1),
        ("a", "n", 0),
        ("b", "m", 1),
    ]
    assert label(drawn[0], drawn) == "task a: m"
    assert label(drawn[0], drawn[:2]) == "m"


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(7, 3, [0, 3, 6]), (2, 3, [0, 1]), (1, 3, [0]), (7, 7, list(range(7)))],
)
def test_problems_shown_are_spread_evenly(count, most, expected):
    assert spread(count, most) == expected
