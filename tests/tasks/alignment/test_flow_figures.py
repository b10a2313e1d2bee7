"""The figure of paths is a pure function of saved arrays."""

import numpy as np
import pytest

from tasks.alignment.flow_figures import COLOURS, distances_by_steps, paths_figure


def read(path):
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(path).convert("RGB")).astype(int)


def flow_run(method="exact", task="a", seed=0, dimension=2, factor=1.0):
    draws = np.random.default_rng(0)
    source, target = draws.normal(size=(2, 50, dimension)).astype("float32")
    share = np.linspace(0, 1, 11, dtype="float32")[:, None]
    paths = np.stack([(1 - share) * x + share * 4 * factor * x for x in source])
    return {
        "task": task,
        "task_label": f"task {task}",
        "method": method,
        "method_label": f"flow with {method} pairs",
        "seed": seed,
        "arrays": {"source": source, "target": 4 * target, "paths": paths},
        "scores": {"w2@1": {"value": 2.0 * factor}, "w2@8": factor, "straightness": 0.1},
    }


def colour_share(picture, colour):
    wanted = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])
    return (np.abs(picture - wanted).max(-1) < 24).mean()


def test_the_figure_is_wide_repeatable_and_holds_every_method(tmp_path):
    runs = [flow_run(name) for name in ("one", "two", "three")]
    picture = read(paths_figure(runs, tmp_path / "deep" / "one.png"))
    assert picture.shape[1] == 1400
    for place, colour in enumerate(COLOURS[:4]):
        assert (colour_share(picture, colour) > 2e-4) == (place < 3)
    paths_figure(runs, tmp_path / "two.png")
    assert (tmp_path / "deep" / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


@pytest.mark.parametrize("methods", [1, 4, 6, 9])
def test_any_number_of_methods_fits(tmp_path, methods):
    runs = [flow_run(f"method {k}") for k in range(methods)]
    assert read(paths_figure(runs, tmp_path / "many.png")).shape[1] == 1400


def test_a_method_keeps_its_colour_in_every_task(tmp_path):
    alone = [flow_run("one"), flow_run("two")]
    both = [*alone, flow_run("two", task="b")]
    shares = [
        [colour_share(picture, colour) * picture.shape[0] for colour in COLOURS[:2]]
        for picture in (
            read(paths_figure(runs, tmp_path / f"{len(runs)}.png")) for runs in (alone, both)
        )
    ]
    assert shares[1][1] > 1.5 * shares[0][1]
    assert shares[1][0] < 1.2 * shares[0][0]


def test_the_lowest_seed_is_drawn_whatever_the_order(tmp_path):
    several = [flow_run(seed=2, factor=2.0), flow_run(seed=0), flow_run(seed=1, factor=3.0)]
    first = paths_figure(several, tmp_path / "several.png")
    second = paths_figure([flow_run(seed=0)], tmp_path / "alone.png")
    assert first.read_bytes() == second.read_bytes()
    other = paths_figure(several[:1], tmp_path / "other.png")
    assert other.read_bytes() != second.read_bytes()


def test_tasks_outside_the_plane_are_left_out(tmp_path):
    mixed = paths_figure([flow_run(task="b", dimension=6), flow_run()], tmp_path / "mixed.png")
    plane = paths_figure([flow_run()], tmp_path / "plane.png")
    assert mixed.read_bytes() == plane.read_bytes()
    with pytest.raises(ValueError, match="at least one run in the plane"):
        paths_figure([flow_run(dimension=6)], tmp_path / "x.png")


def test_distances_are_read_by_number_of_steps():
    run = {"scores": {"w2@8": 0.5, "w2@1": {"value": 2.0}, "w2": 7.0, "latent_w2@2": 1.0}}
    assert list(distances_by_steps(run).items()) == [(1, 2.0), (8, 0.5)]


@pytest.mark.parametrize("name", ["paths", "target"])
def test_incomplete_runs_are_named(tmp_path, name):
    lacking = flow_run()
    del lacking["arrays"][name]
    with pytest.raises(ValueError, match=f"run a exact seed 0 lacks arrays {name}"):
        paths_figure([lacking], tmp_path / "x.png")
    with pytest.raises(ValueError, match="lacks a score w2@k"):
        paths_figure([flow_run() | {"scores": {"straightness": 1.0}}], tmp_path / "x.png")
