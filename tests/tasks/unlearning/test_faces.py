"""Faces: against what was put into the files; people and parts are the same in every run."""

import itertools
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from sextant import data
from sextant.contracts import Streams
from tasks.unlearning.data import PARTS
from tasks.unlearning.faces import FacesForgetting, VggFace2Forgetting, squares

YALE = {1: 20, 3: 19, 4: 20, 9: 21}  # photos of every person; numbers have gaps, as in the release
TRAINING = ("retained", "forgotten", "validation")
TESTING = ("test_retained", "test_forgotten")
OWN_CACHE = os.environ.get("SEXTANT_CACHE")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEXTANT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """Files of the data set's form, in which photo k of person p has the grey value 25 p + k."""
    folder = tmp_path / "faces"
    folder.mkdir()
    identity = np.concatenate([np.full(count, who, np.int16) for who, count in YALE.items()])
    number = np.concatenate([np.arange(count) for count in YALE.values()])
    greys = (25 * identity + number).astype(np.uint8)
    yale = np.broadcast_to(greys[:, None, None], (len(greys), 12, 10))
    views = np.array([f"P00A{k:+04d}E+00" for k in number])
    path = folder / "extended_yale_b_96x84.npz"
    np.savez(path, images=yale, identity=identity, view=views)
    people = np.repeat(np.arange(3), 10).astype(np.int16)
    photos = np.tile(np.arange(1, 11), 3).astype(np.int8)
    orl = np.broadcast_to((50 * people + photos).astype(np.uint8)[:, None, None], (30, 14, 12))
    np.savez(folder / "orl_faces.npz", images=orl, identity=people, photo=photos)
    found = data.DataFolder("faces", folder, "cache", "0123456789ab", "faces")
    monkeypatch.setattr("tasks.unlearning.faces.locate", lambda name: found)
    return found


@pytest.fixture
def vggface2(tmp_path, monkeypatch):
    """Folders of the release's form: person p's photo k has the colour (k, p, 9), sizes vary.

    People 2, 5, 7 and 8 have ten photos or more, the others fewer."""
    folder = tmp_path / "mine" / "vggface2"
    for person, count in {2: 12, 3: 4, 5: 10, 6: 9, 7: 11, 8: 14}.items():
        (folder / f"n00000{person}").mkdir(parents=True)
        for number in range(count):
            picture = Image.new("RGB", (20 + number, 30 - number), (number, person, 9))
            picture.save(folder / f"n00000{person}" / f"{number:04d}_01.png")
    (folder / "n000003" / "notes.txt").write_text("no photo")
    (folder / "meta").mkdir()
    monkeypatch.setenv("SEXTANT_DATA", str(tmp_path / "mine"))
    return folder


def begun_yale(seed=0, **changes):
    settings = {"batch_size": 4, "steps": 5, "people": 3, "side": 8, "validation_each": 2}
    settings |= {"forgotten_classes": [0, 2]}
    module = FacesForgetting(**(settings | changes))
    module.prepare(Streams(seed), {})
    return module


def begun_vgg(seed=0, **changes):
    settings = {"batch_size": 4, "steps": 5, "people": 3, "side": 8, "validation_each": 2}
    settings |= {"forgotten_classes": [0, 2], "least": 10, "each": 10}
    module = VggFace2Forgetting(**(settings | changes))
    module.prepare(Streams(seed), {})
    return module


def values(inputs):
    """The uint8 value of every channel of pictures that have one colour each, (n, channels)."""
    pixels = ((inputs * 0.5 + 0.5) * 255).round().long()
    assert (pixels == pixels[:, :, :1, :1]).all()
    return pixels[:, :, 0, 0]


def photos(module, *parts):
    """Which photos parts hold, as lists of colours."""
    return [tuple(row) for part in parts for row in values(module.examples(part)[0]).tolist()]


def test_yale_labels_say_who_it_is(faces):
    module = begun_yale()
    people = {}
    for part in PARTS:
        inputs, labels = module.examples(part)
        assert inputs.shape[1:] == (3, 8, 8)
        colours = values(inputs)
        assert (colours == colours[:, :1]).all()
        for grey, label in zip(colours[:, 0].tolist(), labels.tolist(), strict=True):
            people.setdefault(label, set()).add(grey // 25)
    assert sorted(people) == [0, 1, 2]
    assert module.classes == 3
    found = [next(iter(people[label])) for label in range(3)]
    assert all(len(numbers) == 1 for numbers in people.values())
    assert found == sorted(found)
    assert set(found) < set(YALE)
    assert module.forgotten_classes == (0,)
    assert set(module.examples("forgotten")[1].tolist()) == {0}
    assert module.fingerprints() == {"faces": "0123456789ab"}


def test_yale_parts_are_disjoint_and_whole(faces):
    module = begun_yale(people=4)
    train, test = photos(module, *TRAINING), photos(module, *TESTING)
    assert len(train) + len(test) == len(set(train + test)) == sum(YALE.values())
    # A fifth of 20, 19, 20 and 21 photos, rounded.
    assert len(test) == 16
    assert len(photos(module, "validation")) == 8


def test_parts_do_not_depend_on_the_run(faces):
    module, other = begun_yale(0), begun_yale(1, learn_from="retained", batch_size=2, steps=1)
    assert other.forgotten_classes == (2,)
    assert photos(module, "validation") == photos(other, "validation")
    for parts in (("retained", "forgotten"), TESTING):
        assert set(photos(module, *parts)) == set(photos(other, *parts))
    few = begun_yale(train_each=3, test_each=1)
    assert photos(few, "validation") == photos(module, "validation")
    assert len(photos(few, "retained")) == 6
    assert len(photos(few, *TESTING)) == 3
    assert set(photos(few, *TESTING)) < set(photos(module, *TESTING))


def test_the_split_seed_chooses_people_and_photos(faces):
    def people(module):
        return {grey // 25 for grey, *_ in photos(module, *PARTS)}

    chosen = [people(begun_yale(split_seed=seed)) for seed in range(8)]
    assert any(one != two for one, two in itertools.pairwise(chosen))
    for seed in range(3):
        assert people(begun_yale(split_seed=seed, people=2)) < chosen[seed]
    tested = [set(photos(begun_yale(people=4, split_seed=s), *TESTING)) for s in (0, 1)]
    assert tested[0] != tested[1]


def test_grey_and_the_other_collection(faces):
    module = begun_yale(channels=1, side=5)
    assert module.examples("retained")[0].shape[1:] == (1, 5, 5)
    assert module.channels == 1
    orl = begun_yale(collection="orl")
    train, test = photos(orl, *TRAINING), photos(orl, *TESTING)
    assert (len(train), len(test)) == (24, 6)
    expected = {(50 * person + photo,) * 3 for person in range(3) for photo in range(1, 11)}
    assert set(train + test) == expected


def test_training_sees_the_retained_alone(faces):
    module = begun_yale(learn_from="retained", steps=40)
    seen = {tuple(v) for inputs, _ in module.train_dataloader() for v in values(inputs).tolist()}
    assert seen == set(photos(module, "retained"))


def cubic(distance):
    """Keys' kernel with a = -1/2."""
    x = np.abs(distance)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@pytest.mark.parametrize("channels", [1, 3])
def test_squares_are_filtered_along_both_sides(channels):
    image = np.random.default_rng(0).integers(60, 190, (24, 15), dtype=np.uint8)
    sides = []
    for size in image.shape:
        centres = (np.arange(6) + 0.5) * size / 6
        weights = cubic((np.arange(size) + 0.5 - centres[:, None]) / (size / 6))
        sides.append(weights / weights.sum(1, keepdims=True))
    expected = sides[0] @ image @ sides[1].T
    found = squares([Image.fromarray(image)] * 2, 6, channels)
    assert found.shape == (2, channels, 6, 6)
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() < 1.5  # rounded twice


def test_vggface2_takes_people_with_enough_photos(vggface2):
    module = begun_vgg()
    everyone = photos(module, *PARTS)
    # Ten photos of each of three people, none twice.
    assert len(everyone) == len(set(everyone)) == 30
    assert (len(photos(module, *TRAINING)), len(photos(module, *TESTING))) == (24, 6)
    people = {}
    for part in PARTS:
        inputs, labels = module.examples(part)
        for (number, person, blue), label in zip(
            values(inputs).tolist(), labels.tolist(), strict=True
        ):
            people.setdefault(label, set()).add(person)
            assert blue == 9
            assert number < 14
    found = [people[label].pop() for label in range(3)]
    assert found == sorted(found)
    assert set(found) < {2, 5, 7, 8}
    assert not any(people.values())
    assert torch.bincount(module.examples("validation")[1]).tolist() == [2, 2, 2]


def test_vggface2_is_drawn_by_the_split_seed_alone(vggface2):
    module, again = begun_vgg(0), begun_vgg(1)
    assert set(photos(module, *PARTS)) == set(photos(again, *PARTS))
    assert module.fingerprints() == again.fingerprints()
    everyone = {tuple(sorted(photos(begun_vgg(split_seed=s), *PARTS))) for s in range(6)}
    assert len(everyone) > 2


def test_vggface2_is_made_once_and_again_when_a_photo_changes(vggface2, monkeypatch):
    first = begun_vgg(people=4)
    with monkeypatch.context() as patch:
        patch.setattr("tasks.unlearning.faces.squares", None)
        kept = begun_vgg(people=4)
    assert photos(kept, *PARTS) == photos(first, *PARTS)
    # All ten photos of person 5 are in use.
    Image.new("RGB", (9, 9), (200, 5, 9)).save(vggface2 / "n000005" / "0003_01.png")
    changed = begun_vgg(people=4)
    assert set(photos(changed, *PARTS)) - set(photos(first, *PARTS)) == {(200, 5, 9)}
    before, after = (module.fingerprints()["vggface2"].split() for module in (first, changed))
    assert before[0] == after[0]
    assert before[0].startswith("files=")
    assert before[1] != after[1]
    assert before[1].startswith("content=")
    (vggface2 / "n000005" / "0003_01.png").rename(vggface2 / "n000005" / "0099_01.png")
    assert begun_vgg(people=4).fingerprints()["vggface2"].split()[0] != before[0]


def test_missing_vggface2_says_what_to_put_where(vggface2, tmp_path):
    shutil.rmtree(vggface2)
    with pytest.raises(data.DataNotFound) as caught:
        begun_vgg()
    for words in ("n000002", "$SEXTANT_DATA/vggface2", str(tmp_path / "cache" / "data")):
        assert words in str(caught.value)


def test_vggface2_may_lie_in_the_cache(vggface2, tmp_path, monkeypatch):
    shutil.copytree(vggface2, tmp_path / "cache" / "data" / "vggface2")
    expected = sorted(photos(begun_vgg(), *PARTS))
    monkeypatch.delenv("SEXTANT_DATA")
    assert sorted(photos(begun_vgg(), *PARTS)) == expected


def test_bad_vggface2_folders(vggface2):
    with pytest.raises(ValueError, match=r"at least 5 folders .* 10 photos each, got 4 among 6"):
        begun_vgg(people=5)
    photo = vggface2 / "n000005" / "0003_01.png"
    for content in (b"no picture", photo.read_bytes()[:60]):
        photo.write_bytes(content)
        with pytest.raises(ValueError, match=r"0003_01\.png must be a picture, whole and readable"):
            begun_vgg(people=4)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"people": 1}, "people must be at least 2, got 1"),
        ({"people": 5}, "people must be at most 4, got 5"),
        ({"side": 0}, "side must be at least 1, got 0"),
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
        ({"test_share": 1.0}, r"test_share must lie in \(0, 1\), got 1.0"),
        ({"collection": "olivetti"}, "collection must be one of extended_yale_b, orl, got 'oli"),
        ({"train_each": 15}, "pictures, fewer than the 17"),
        ({"test_each": 5}, "pictures, fewer than the 5"),
        ({"forgotten_classes": [3]}, r"forgotten_classes must lie in 0..2, got \[3\]"),
    ],
)
def test_bad_settings_of_faces(faces, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        begun_yale(**changes)


@pytest.mark.parametrize(("least", "each"), [(10, 11), (10, 1)])
def test_bad_settings_of_vggface2(vggface2, least, each):
    with pytest.raises(ValueError, match=r"each must lie in 2..least = 10"):
        begun_vgg(least=least, each=each)


def test_the_real_faces(monkeypatch):
    monkeypatch.setenv("SEXTANT_CACHE", OWN_CACHE or "~/.cache/sextant")
    try:
        data.verify("faces")
    except data.DataNotFound:
        pytest.skip("faces is neither in $SEXTANT_DATA nor in the cache")
    settings = {"people": 38, "side": 16, "validation_each": 7, "forgotten_classes": [0]}
    module = FacesForgetting(32, 1, **settings)
    module.prepare(Streams(0), {})
    labels = torch.cat([module.examples(part)[1] for part in PARTS])
    assert len(labels) == 2414
    assert sorted(torch.bincount(labels).tolist()) == [59, 60, 60, *[62], *[63] * 3, *[64] * 31]
    # The nearest training photo by normalised pixels names most, so labels fit the photos.
    known, answers = ([module.examples(part)[k] for part in TRAINING] for k in (0, 1))
    asked, truth = ([module.examples(part)[k] for part in TESTING] for k in (0, 1))

    def units(inputs):
        rows = torch.cat(inputs)[:, 0].flatten(1)
        rows = rows - rows.mean(1, keepdim=True)
        return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-9)

    nearest = (units(asked) @ units(known).T).argmax(1)
    assert (torch.cat(answers)[nearest] == torch.cat(truth)).float().mean() > 0.5
