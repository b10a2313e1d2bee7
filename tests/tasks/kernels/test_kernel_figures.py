"""Figures of the kernel fits are pure functions of saved arrays."""

import numpy as np
import pytest

from tasks.kernels.figures import channel_figure, fit_figure
from tasks.shared.drawing import COLOURS, INK


def read(path):
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(path).convert("RGB")).astype(int)


def share(picture, colour):
    wanted = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])
    return (np.abs(picture - wanted).max(-1) < 30).mean()


def run(method="luna", task="even", seed=0, channels=3, noise=0.0, **changes):
    draws = np.random.default_rng(0)
    target = draws.dirichlet(np.ones(20), 6).astype("float32")
    fitted = target * np.exp(noise * draws.normal(size=target.shape)).astype("float32")
    arguments = np.linspace(-2, 2, 41, dtype="float32")
    waves = np.sin(arguments[:, None] + np.arange(channels, dtype="float32"))
    arrays = {"target_rows": target, "fitted_rows": fitted}
    if channels:
        arrays |= {"channel_arguments": arguments, "channel_values": waves}
    found = {"task": task, "method": method, "seed": seed, "arrays": arrays}
    found |= {"task_label": f"{task} kernel", "method_label": method, "scores": {"kl": 0.1}}
    return found | changes


@pytest.mark.parametrize("figure", [channel_figure, fit_figure])
def test_figures_are_wide_and_repeatable(figure, tmp_path):
    runs = [run(method, task) for task in ("even", "periodic") for method in ("luna", "frozen")]
    picture = read(figure([*runs, run("third")], tmp_path / "deep" / "one.png"))
    assert picture.shape[1] == 1400
    figure([run("third"), *runs], tmp_path / "two.png")
    figure([*runs, run("third")], tmp_path / "three.png")
    pictures = [(tmp_path / f"{name}.png").read_bytes() for name in ("deep/one", "two", "three")]
    assert pictures[0] == pictures[2] != pictures[1]


def test_every_channel_has_a_curve(tmp_path):
    picture = read(channel_figure([run(channels=3)], tmp_path / "channels.png"))
    for place, colour in enumerate(COLOURS[:5]):
        assert (share(picture, colour) > 5e-4) == (place < 3)


def test_methods_without_channels_are_left_out(tmp_path):
    both = channel_figure([run(), run("elu", channels=0)], tmp_path / "both.png")
    alone = channel_figure([run()], tmp_path / "alone.png")
    assert both.read_bytes() == alone.read_bytes()
    with pytest.raises(ValueError, match="channel_arguments"):
        channel_figure([run(channels=0)], tmp_path / "none.png")


def test_the_lowest_seed_is_drawn(tmp_path):
    several = fit_figure([run(seed=2, noise=1.0), run(seed=0)], tmp_path / "several.png")
    alone = fit_figure([run(seed=0)], tmp_path / "alone.png")
    other = fit_figure([run(seed=2, noise=1.0)], tmp_path / "other.png")
    assert several.read_bytes() == alone.read_bytes() != other.read_bytes()


def test_a_perfect_fit_lies_on_the_diagonal(tmp_path):
    """Points of a poor fit cover more of the panel."""
    perfect = read(fit_figure([run()], tmp_path / "perfect.png"))
    poor = read(fit_figure([run(noise=1.5)], tmp_path / "poor.png"))
    wanted = np.array([int(INK[k : k + 2], 16) for k in (1, 3, 5)])
    spread = []
    for picture in (perfect, poor):
        blue = picture[..., 2] - picture[..., 0] > 40
        spread.append(np.mean([np.ptp(np.flatnonzero(line)) for line in blue.T if line.any()]))
    assert wanted[2] - wanted[0] > 40
    assert spread[1] > 3 * spread[0]


def test_scores_may_be_ledger_entries_and_must_be_there(tmp_path):
    bare = fit_figure([run()], tmp_path / "bare.png")
    entry = fit_figure([run(scores={"kl": {"value": 0.1, "n": 3}})], tmp_path / "entry.png")
    assert bare.read_bytes() == entry.read_bytes()
    with pytest.raises(ValueError, match="run even luna seed 0 lacks score kl"):
        fit_figure([run(scores={})], tmp_path / "x.png")
    with pytest.raises(ValueError, match="target_rows"):
        fit_figure([], tmp_path / "x.png")
