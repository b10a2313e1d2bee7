"""Pathfinder: labels by connectivity of independently drawn snakes, and the growth rules."""

import math

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from tasks.lra import pathfinder, strokes
from tasks.lra.paddles import DEGREES, tables
from tasks.lra.pathfinder import PathfinderLaw, draw_images, draw_pictures, law_of_side
from tasks.lra.snakes import OVERLAP, Herd
from tasks.lra.streams import Numbers
from tasks.shared import cache

SCALE = 3


@pytest.fixture(scope="module")
def hard():
    return draw_pictures(law_of_side(32), 7, np.arange(400))


def points(start, orientation, length, count=25):
    """Points (count, 2) along a paddle."""
    along = np.linspace(0, length, count)[:, None]
    return start + along * np.array([math.sin(orientation), math.cos(orientation)])


def drawn(law, starts, orientations, width):
    """Everything within `width` cells of a snake's paddles, as a mask SCALE times enlarged."""
    lines = np.concatenate(
        [points(s, o, law.paddle_length) for s, o in zip(starts, orientations, strict=True)]
    )
    side = (law.side + 16) * SCALE
    canvas = np.ones((side, side), bool)
    cells = np.round((lines + 8) * SCALE).astype(int)
    canvas[cells[:, 0], cells[:, 1]] = False
    return ndimage.distance_transform_edt(canvas) <= width * SCALE


def joined(law, pictures, number):
    """Whether one of the target snakes, drawn from the returned paddles, holds both discs in one
    connected piece: gaps of twice the margin and the rounding are bridged. None where a disc lies
    on both snakes: the published rules allow the newest paddles of the two to meet."""
    answers, on_line = [], []
    cells = tuple(((pictures.discs[number] + 8) * SCALE).T)
    for snake in (0, 1):
        described = pictures.starts[number, snake], pictures.orientations[number, snake]
        pieces, _ = ndimage.label(drawn(law, *described, max(law.margins) + 1.5))
        on_line.append(drawn(law, *described, 0.4)[cells])
        answers.append(on_line[-1].all() and len(set(pieces[cells])) == 1)
    return None if np.logical_and(*on_line).any() else any(answers)


def agreement(law, pictures):
    """How many labels cannot be told from the drawing; all others must be its connectivity."""
    found = [joined(law, pictures, number) for number in range(len(pictures.labels))]
    wrong = [
        number
        for number, answer in enumerate(found)
        if answer is not None and answer != bool(pictures.labels[number])
    ]
    assert wrong == []
    return found.count(None)


def test_the_label_is_the_connectivity_of_the_discs(hard):
    some = pathfinder.Pictures(
        **{name: getattr(hard, name)[:150] for name in hard.__dataclass_fields__}
    )
    assert agreement(law_of_side(32), some) <= 5


@pytest.mark.parametrize(("side", "contour"), [(256, 14), (32, 6)])
def test_the_label_is_the_connectivity_at_other_sizes(side, contour):
    pictures = draw_pictures(law_of_side(side, contour), 1, np.arange(12))
    assert agreement(law_of_side(side, contour), pictures) <= 1
    assert 0 < pictures.labels.sum() < 12


def test_two_images_of_path_x_have_the_label_of_their_discs():
    law = law_of_side(128)
    pictures = draw_pictures(law, 1, np.arange(2))
    assert pictures.images.shape == (2, 128, 128)
    assert sorted(pictures.labels.tolist()) == [0, 1]
    assert agreement(law, pictures) == 0


def test_both_labels_are_equally_frequent():
    labels = draw_images(law_of_side(32), 2512, 2000, workers=1)["labels"]
    assert abs(labels.mean() - 0.5) <= 0.03


def test_images_show_the_snakes_and_the_discs(hard):
    law = law_of_side(32)
    assert hard.images.shape == (400, 32, 32)
    assert (hard.images.max((1, 2)) == 255).all()
    assert np.mean(hard.images == 0) == pytest.approx(0.55, abs=0.03)
    assert abs(hard.labels.mean() - 0.5) < 0.1
    assert 3.5 < hard.distractors.mean() <= 5
    for number in range(50):
        image = hard.images[number]
        row, column = hard.discs[number].T
        assert (image[row, column] >= 125).all()
        for snake in (0, 1):
            middles = [
                points(s, o, law.paddle_length, 3)[1]
                for s, o in zip(
                    hard.starts[number, snake], hard.orientations[number, snake], strict=True
                )
            ]
            cells = np.round(middles).astype(int).clip(0, 31)
            assert np.mean(image[tuple(cells.T)] > 75) > 0.95
    # Targets have three quarters of the distractors' brightness.
    assert (hard.images == 191).sum() > 1000


def scalar_step(coordinate, orientation, distance):
    # Far from zero, where sin(pi) = 1e-16 is rounded away.
    return [
        math.ceil(64 + coordinate[0] + distance * math.sin(orientation)) - 64,
        math.ceil(64 + coordinate[1] + distance * math.cos(orientation)) - 64,
    ]


def test_every_paddle_keeps_the_rules_of_growth(hard):
    """Replays the growth with whole canvases: hinge, circle, turn of less than a right angle, and
    no overlap with what was occupied when the paddle was laid."""
    law, margin = law_of_side(32), 1
    length, frame = law.paddle_length, 12
    for number in range(40):
        occupied = np.full((32 + 2 * frame, 32 + 2 * frame), 0.0)
        inner = np.ones((32, 32))
        inner[1:-1, 1:-1] = 0
        occupied[frame:-frame, frame:-frame] = inner
        states, newest = [], []
        for snake in (0, 1):
            start = hard.starts[number, snake, 0]
            angle = hard.orientations[number, snake, 0]
            head = scalar_step(start, angle, length)
            back = angle + np.pi if angle < 0 else angle - np.pi
            states.append((scalar_step(head, back, length + margin), angle))
            newest.append(placed(start, angle, law, margin, frame))
        for paddle in range(1, law.contour_length):
            for snake in (0, 1):
                hinge, last = states[snake]
                hinge = scalar_step(hinge, last, length + 2 * margin)
                head = hard.starts[number, snake, paddle]
                drawn_back = hard.orientations[number, snake, paddle]
                angle = math.atan2(head[0] - hinge[0], head[1] - hinge[1])
                turn = abs((angle - last + np.pi) % (2 * np.pi) - np.pi)
                assert turn < np.pi / 2
                assert abs(math.cos(drawn_back) + math.cos(angle)) < 1e-9
                assert abs(np.hypot(*(head - hinge)) - length - margin) < 1.5
                assert (head >= 0).all()
                assert (head < 32).all()
                piece = placed(head, drawn_back, law, margin, frame)
                assert (occupied + piece).max() < 1.8
                occupied = np.maximum(occupied, newest[snake])
                states[snake], newest[snake] = (hinge, angle), piece


def placed(start, orientation, law, margin, frame):
    piece = strokes.stroke(
        orientation, law.paddle_length, law.paddle_thickness, margin, law.antialias
    ).mask
    canvas = np.zeros((32 + 2 * frame, 32 + 2 * frame))
    r = len(piece) // 2
    row, column = start + frame
    canvas[row - r : row + r + 1, column - r : column + r + 1] = piece / 255
    return canvas


def test_turns_follow_the_published_weights():
    law = law_of_side(32)
    table, n = tables(law, 1), 6000
    herd = Herd(table, Numbers(3, np.arange(n)))
    middle = 23 * table.width + 23
    rows, kind = np.arange(n), np.full(n, 180 + 30)  # 30 degrees
    assert herd.begin(rows, 0, np.full(n, middle), kind).all()
    assert herd.extend(rows, np.zeros(n, int), np.ones(n, int)).all()
    hinge = scalar_step((23, 23), math.radians(30), 2)
    hinge = scalar_step(hinge, math.radians(30 - 180), 3)
    hinge = scalar_step(hinge, math.radians(30), 4)
    expected = {}
    for sample in np.arange(0, 2 * np.pi, 1 / 3):
        cell = (
            math.floor(hinge[0] + 3 * math.sin(sample)),
            math.floor(hinge[1] + 3 * math.cos(sample)),
        )
        turn = math.atan2(cell[0] - hinge[0], cell[1] - hinge[1]) - math.radians(30)
        turn = min(abs(turn), 2 * math.pi - abs(turn))
        expected[cell] = max(math.cos(min(turn, math.pi / 2)), 0) ** 2
    total = sum(expected.values())
    ends = np.stack(np.divmod(herd.start[:, 0, 1], table.width), 1)
    for cell, weight in expected.items():
        share = weight / total
        found = (ends == cell).all(1).mean()
        assert abs(found - share) < 4 * math.sqrt(share / n) + 1e-9, cell
    assert herd.kind[:, 0, 1].min() >= DEGREES


def test_blocked_cells_are_the_dilation_of_occupied_cells():
    law = PathfinderLaw(side=40, margins=(2,), padding=3, seed_distance=6, contour_length=4)
    table = tables(law, 2)
    herd = Herd(table, Numbers(1, np.arange(5)))
    herd.grow_targets()
    row, column = np.mgrid[-2:3, -2:3]
    disc = row**2 + column**2 <= 4
    cut = slice(table.frame, table.frame + 40)
    for mask, reach in zip(herd.mask, herd.reach, strict=True):
        mask = mask.reshape(table.width, -1)[cut, cut]
        whole = ndimage.grey_dilation(mask, footprint=disc, mode="constant")
        assert np.array_equal(reach.reshape(table.width, -1)[cut, cut], whole)


def test_strokes_are_dilated_lines():
    for angle in (0.0, 0.7, -2.5, math.pi):
        piece = strokes.stroke(angle, 5, 1.5, 3, 2)
        assert piece.line.shape == piece.mask.shape == (21, 21)
        assert piece.reach.shape == (27, 27)
        side = np.array([math.sin(angle), math.cos(angle)])
        middle = np.round(10 + 2.5 * side).astype(int)
        assert piece.line[tuple(middle)] > 200
        behind = np.round(10 - 3 * side).astype(int)
        assert piece.line[tuple(behind)] < 30
        row, column = np.mgrid[-3:4, -3:4]
        disc = row**2 + column**2 <= 9
        whole = ndimage.grey_dilation(np.pad(piece.mask, 3), footprint=disc, mode="constant")
        assert np.array_equal(piece.reach, whole)
        # The mask surrounds the line by its margin.
        distance = ndimage.distance_transform_edt(piece.line < 128)
        assert (piece.mask[distance <= 2] > 128).all()
        assert (piece.mask[distance >= 5] < 128).all()


def test_shifts_round_up_but_do_not_see_rounding_errors():
    angles = np.array([0, np.pi / 2, np.pi, -np.pi, -np.pi / 2, 0.5])
    assert strokes.shifts(angles, 4).tolist() == [[0, 4], [4, 0], [0, -4], [0, -4], [-4, 0], [2, 4]]


def test_an_image_depends_on_law_seed_and_number_alone(hard):
    law = law_of_side(32)
    some = draw_pictures(law, 7, np.array([250, 3]))
    assert np.array_equal(some.images, hard.images[[250, 3]])
    assert np.array_equal(some.labels, hard.labels[[250, 3]])
    assert np.array_equal(some.starts, hard.starts[[250, 3]])
    assert not np.array_equal(draw_pictures(law, 8, np.array([3])).images, hard.images[[3]])
    assert len(np.unique(hard.images.reshape(400, -1), axis=0)) == 400


def test_blocks_and_workers_change_nothing(monkeypatch, hard):
    law = law_of_side(32)
    monkeypatch.setattr(pathfinder, "BLOCK_IMAGES", 16)
    monkeypatch.setattr(cache, "SERIAL_SECONDS", 0.0)
    found = draw_images(law, 7, 40, workers=2)
    assert np.array_equal(found["images"], hard.images[:40])
    assert np.array_equal(found["labels"], hard.labels[:40])


def test_images_may_have_different_margins():
    law = PathfinderLaw(side=48, margins=(1, 2), contour_length=5, distractors=2)
    whole = draw_pictures(law, 0, np.arange(30))
    assert agreement(law, whole) <= 2
    part = draw_pictures(law, 0, np.arange(10, 20))
    assert np.array_equal(part.images, whole.images[10:20])


def test_streams_are_uniform_and_independent():
    numbers = Numbers(0, np.arange(20000))
    rows = np.arange(20000)
    first, second = numbers.uniform(rows), numbers.uniform(rows)
    for values in (first, second):
        counts = np.histogram(values, 50, (0, 1))[0]
        assert ((counts - 400) ** 2 / 400).sum() < 50 + 5 * math.sqrt(100)
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / math.sqrt(20000)
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 4 / math.sqrt(20000)
    again = Numbers(0, np.arange(20000)).only(np.array([5, 9]))
    assert np.array_equal(again.uniform(np.array([0, 1])), first[[5, 9]])


def test_the_arenas_parameters():
    assert law_of_side(32) == PathfinderLaw()
    path_x = law_of_side(128)
    assert (path_x.distractor_length, path_x.distractors, path_x.margins) == (4, 8, (2, 3))
    assert [law_of_side(side).distractors for side in (32, 64, 256)] == [5, 5, 7]
    assert law_of_side(32, 6).distractor_length == 2
    assert OVERLAP == 1.8 * 255


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: law_of_side(16), "side must be"),
        (lambda: law_of_side(32, 2), "contour_length must be at least 3"),
        (lambda: PathfinderLaw(contour_length=1), "contour_length must be"),
        (lambda: PathfinderLaw(side=28), "more than 4 seed_distance"),
        (lambda: PathfinderLaw(margins=()), "margins and padding"),
        (lambda: PathfinderLaw(padding=0), "margins and padding"),
        (lambda: draw_images(PathfinderLaw(), 0, 0), "count must be"),
        (lambda: strokes.stroke(0.0, 5, 0.7, 1, 2), "whole number"),
    ],
)
def test_bad_laws_are_refused(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()


def test_release_folders_are_read(tmp_path, hard):
    (tmp_path / "metadata").mkdir()
    for batch, numbers in ((0, (0, 1)), (2, (2,)), (10, (3,))):
        (tmp_path / "imgs" / str(batch)).mkdir(parents=True)
        lines = []
        for n in numbers:
            Image.fromarray(hard.images[n]).save(tmp_path / "imgs" / str(batch) / f"sample_{n}.png")
            lines.append(f"imgs/{batch} sample_{n}.png {n} {hard.labels[n]} 1.0 14 4 2 0.5 1 1\n")
        (tmp_path / "metadata" / f"{batch}.npy").write_text("".join(lines))
    images, labels = pathfinder.read_release(tmp_path)
    assert np.array_equal(images, hard.images[:4])
    assert np.array_equal(labels, hard.labels[:4])
    (tmp_path / "metadata" / "2.npy").write_text("imgs/2 sample_2.png 2 3\n")
    with pytest.raises(ValueError, match="label 0 or 1"):
        pathfinder.read_release(tmp_path)
    with pytest.raises(ValueError, match="metadata"):
        pathfinder.read_release(tmp_path / "imgs")
