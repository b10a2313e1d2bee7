"""Figures of unlearning: what is drawn, read back from the picture's objects and the file."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from tasks.unlearning import figures
from tasks.unlearning.figures import (
    confusion_of_forgotten,
    feature_maps,
    forgetting_curves,
    proxy_images,
    strength_curves,
)

PNG = b"\x89PNG\r\n"


def run(label, seed=0, kept=0.5, **arrays):
    generator = np.random.default_rng(seed)
    confusion = np.full((4, 4), 5)
    confusion[1] = (8, 0, 12, 0)
    whole = {
        "confusion": confusion,
        "forgotten_classes": np.array([1]),
        "proxy_images": generator.random((6, 3, 5, 5)).astype(np.float32),
        "real_images": generator.random((9, 3, 5, 5)).astype(np.float32),
        "curve_epoch": np.array([1.0, 2.0]),
        "curve_forgotten": np.array([0.4, 0.0]),
        "curve_test_retained": np.array([0.7, kept]),
        "features": generator.normal(size=(40, 6)).astype(np.float16),
        "feature_labels": np.arange(40) % 4,
    }
    return {
        "task": "unlearning/cifar10_class",
        "method": f"unlearning/{label}",
        "method_label": label,
        "seed": seed,
        "arrays": {name: value for name, value in (whole | arrays).items() if value is not None},
        "scores": {"test_retained": {"value": 100 * kept}},
    }


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were written."""
    written = []
    save = figures._write

    def remember(figure, path):
        written.append(figure)
        return save(figure, path)

    monkeypatch.setattr(figures, "_write", remember)
    return written


@pytest.mark.parametrize(
    "draw",
    [proxy_images, forgetting_curves, confusion_of_forgotten, feature_maps, strength_curves],
)
def test_a_picture_is_written_and_nothing_to_draw_is_said(draw, tmp_path):
    path = draw([run("CovarNav"), run("noise", seed=1)], tmp_path / "deep" / "figure.png")
    assert path.read_bytes().startswith(PNG)
    with pytest.raises(ValueError, match="runs must hold one with the arrays"):
        draw([run("CovarNav") | {"arrays": {}}], tmp_path / "none.png")


def test_images_stand_class_by_class_in_columns(drawn, tmp_path):
    images = np.zeros((6, 3, 5, 5), np.float32)
    images[2:4] = 0.5  # two images of the second of three classes
    proxy_images([run("CovarNav", proxy_images=images)], tmp_path / "proxies.png")
    (figure,) = drawn
    mosaic = figure.axes[0].images[0].get_array()
    assert mosaic.shape == (12, 18, 3)
    expected = np.zeros((12, 18))
    expected[:, 6:11] = 0.5
    expected[5::6] = expected[:, 5::6] = 1
    np.testing.assert_array_equal(mosaic[..., 0], expected)


def test_the_lowest_seed_of_a_method_is_drawn_in_percent(drawn, tmp_path):
    runs = [run("CovarNav", seed=3, kept=0.1), run("CovarNav", seed=0, kept=0.6)]
    forgetting_curves(runs, tmp_path / "curves.png")
    line = drawn[0].axes[1].lines[0]
    assert line.get_ydata().tolist() == pytest.approx([70.0, 60.0])
    assert len(drawn[0].axes[1].lines) == 1


def test_confusion_is_in_percent_of_the_forgotten_class(drawn, tmp_path):
    confusion_of_forgotten([run("CovarNav")], tmp_path / "confusion.png")
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["40", "0", "60", "0"]
    names = [text.get_text() for text in drawn[0].axes[0].get_xticklabels()]
    assert names == ["airplane", "automobile", "bird", "cat"]
    assert "test pictures of automobile" in drawn[0].axes[0].get_title()
    with pytest.raises(ValueError, match="must hold one that forgot a class"):
        confusion_of_forgotten([run("x", forgotten_classes=np.array([], int))], tmp_path / "x.png")


def test_people_go_by_number_and_unknown_classes_too(drawn, tmp_path):
    for task, name in (("unlearning/faces_class", "person"), ("unlearning/other", "class")):
        confusion_of_forgotten([run("CovarNav") | {"task": task}], tmp_path / "confusion.png")
        ticks = drawn[-1].axes[0].get_xticklabels()
        assert [text.get_text() for text in ticks] == [f"{name} {k}" for k in range(4)]


def test_maps_name_every_class_once_in_its_colour(drawn, tmp_path):
    feature_maps([run("before"), run("after")], tmp_path / "maps.png")
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "airplane", "bird", "cat", "automobile, forgotten"
    ]  # fmt: skip
    colours = [handle.get_facecolor()[0] for handle in legend.legend_handles]
    np.testing.assert_allclose(colours[-1], to_rgba(figures.WARM))
    assert len({tuple(colour) for colour in colours}) == 4
    for panel in drawn[0].axes:
        points = [part.get_offsets() for part in panel.collections]
        assert [len(part) for part in points] == [10, 10, 10, 10]


def test_maps_share_the_plane_of_the_first_run(drawn, tmp_path):
    first, moved = run("before"), run("after")
    features = first["arrays"]["features"].astype(np.float64)
    centred = features - features.mean(0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    moved["arrays"]["features"] = (features + 2.0 * axis).astype(np.float16)
    feature_maps([first, moved], tmp_path / "maps.png")
    before, after = (
        np.concatenate([np.asarray(part.get_offsets()) for part in panel.collections])
        for panel in drawn[0].axes
    )
    np.testing.assert_allclose(np.abs((after - before).mean(0)), [2.0, 0.0], atol=0.01)


def test_strengths_of_a_projector_are_one_line(drawn, tmp_path):
    runs = [run("no projection", kept=0.3)]
    runs += [run(f"GPM, energy {e}", kept=e) for e in (0.3, 0.5)]
    strength_curves(runs, tmp_path / "strengths.png")
    figure = drawn[0]
    assert isinstance(figure, Figure)
    ends = [line.get_ydata() for line in figure.axes[1].lines]
    assert [list(end) for end in ends] == [[30.0], [30.0, 50.0]]
    assert [text.get_text() for text in figure.axes[1].texts] == ["", "energy 0.3", "energy 0.5"]


def test_points_of_strengths_stand_beside_the_picture(tmp_path):
    path = strength_curves([run("GPM, energy 0.3", kept=0.6)], tmp_path / "strengths.png")
    assert path.with_suffix(".csv").read_text().splitlines() == [
        "row,seed,epoch,forgotten,test_retained",
        '"GPM, energy 0.3",0,1,40.00,70.00',
        '"GPM, energy 0.3",0,2,0.00,60.00',
    ]
