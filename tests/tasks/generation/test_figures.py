"""Figures are pure functions of saved arrays."""

import numpy as np
import pytest

from tasks.generation.figures import latent_figure, plane_figure
from tasks.generation.pictures import show


def read(path):
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(path).convert("RGB")).astype(int)


def plane_run(task="a", method="flow", seed=0, value=0.31, shift=0.0):
    points = np.random.default_rng(0).normal(size=(200, 2)).astype("float32")
    arrays = {"source": points, "target": points, "samples@1": points + np.float32(shift)}
    return {
        "task": task,
        "task_label": f"task {task}",
        "method": method,
        "method_label": method,
        "seed": seed,
        "arrays": arrays,
        "scores": {"w2@1": value},
    }


def latent_run(method="flow", seed=0, shade=200, task="mnist"):
    digits = np.full((10, 8, 28, 28), shade, dtype=np.uint8)
    arrays = {"real_digits": np.full_like(digits, 255), "digits@1": digits}
    labels = {"task_label": task, "method_label": method}
    scores = {"accuracy@1": {"value": 0.9}}
    run = {"task": task, "method": method, "seed": seed, "arrays": arrays, "scores": scores}
    return run | labels


def test_plane_figure_is_wide_enough_and_repeatable(tmp_path):
    runs = [plane_run(task, method) for task in "ab" for method in ("flow", "mean", "floor")]
    first = read(plane_figure(runs, tmp_path / "one.png"))
    assert first.shape[1] == 1400
    plane_figure(runs, tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    blue = first[..., 2] > first[..., 0] + 60
    assert blue.mean() > 1e-3


def test_the_lowest_seed_is_drawn_whatever_the_order(tmp_path):
    runs = [plane_run(seed=2, shift=2.0), plane_run(seed=0), plane_run(seed=1, shift=1.0)]
    several = plane_figure(runs, tmp_path / "several.png")
    alone = plane_figure([plane_run(seed=0)], tmp_path / "alone.png")
    assert several.read_bytes() == alone.read_bytes()


def test_scores_may_be_numbers_or_ledger_entries(tmp_path):
    bare = plane_figure([plane_run(value=0.31)], tmp_path / "bare.png")
    entry = plane_figure([plane_run(value={"value": 0.31, "n": 200})], tmp_path / "entry.png")
    assert bare.read_bytes() == entry.read_bytes()
    other = plane_figure([plane_run(value=0.32)], tmp_path / "other.png")
    assert bare.read_bytes() != other.read_bytes()


def test_tasks_may_have_different_methods_and_long_names(tmp_path):
    runs = [
        plane_run("a", "flow"),
        plane_run("a", "mean"),
        plane_run("b", "a method of many words"),
    ]
    assert read(plane_figure(runs, tmp_path / "uneven.png")).shape[1] == 1400


@pytest.mark.parametrize("methods", [1, 4, 7])
def test_latent_figure_holds_every_method(tmp_path, methods):
    shades = [20 * (k + 1) for k in range(methods)]
    runs = [latent_run(f"method {k}", shade=shade) for k, shade in enumerate(shades)]
    picture = read(latent_figure(runs, tmp_path / "deep" / "digits.png"))
    assert picture.shape[1] == 1400
    # Each method fills one tenth of the picture or more with its own shade of grey.
    grey = picture[(picture == picture[..., :1]).all(-1)][:, 0]
    for shade in shades:
        assert (grey == shade).sum() > 0.3 * picture.shape[0] * 1400 / (methods + 1) / 2


def test_incomplete_runs_are_named(tmp_path):
    with pytest.raises(ValueError, match="at least one run"):
        plane_figure([], tmp_path / "x.png")
    lacking = plane_run()
    del lacking["arrays"]["samples@1"]
    with pytest.raises(ValueError, match="run a flow seed 0 lacks arrays samples@1"):
        plane_figure([lacking], tmp_path / "x.png")
    with pytest.raises(ValueError, match="lacks arrays digits@2"):
        latent_figure([latent_run()], tmp_path / "x.png", steps=2)
    unscored = plane_run() | {"scores": {}}
    with pytest.raises(ValueError, match="lacks score w2@1"):
        plane_figure([unscored], tmp_path / "x.png")


def test_show_lays_rows_below_each_other():
    grid = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1)
    assert show(grid)[::2, ::2, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
