"""Which pictures are forgotten: against what was put into the files, and between runs of a seed."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sextant import data
from sextant.contracts import Streams
from tasks.shared.pictures import of_each_class, smaller
from tasks.unlearning.data import PARTS, CifarForgetting
from tasks.unlearning.shadow_models import SharedForgetting

EACH = {"train": 20, "test": 4}  # pictures of each of the ten classes


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder in CIFAR-10's form, in which a picture's every pixel is (number, 7, class)."""
    folder = tmp_path / "cifar10"
    folder.mkdir()
    labels = {part: np.arange(10 * each) * 7 % 10 for part, each in EACH.items()}
    for part, files in (("train", range(1, 6)), ("test", [0])):
        number = len(labels[part])
        colours = np.stack((np.arange(number), np.full(number, 7), labels[part]), -1)
        rows = np.repeat(colours.astype(np.uint8)[:, None], 1024, 1)
        for place, block in zip(files, np.split(rows, len(files)), strict=True):
            name = f"data_batch_{place}.png" if place else "test_batch.png"
            Image.fromarray(block, "RGB").save(folder / name)
        (folder / f"{part}_lables.json").write_text(json.dumps(labels[part].tolist()))
    found = data.DataFolder("cifar10", folder, "cache", "0123456789ab", "CIFAR-10")
    monkeypatch.setattr("tasks.unlearning.data.locate", lambda name: found)
    return found


def begun(seed=0, **changes):
    settings = {"batch_size": 8, "steps": 5, "validation_each": 5, "side": 8}
    if "forgotten_share" not in changes:
        settings["forgotten_classes"] = [3, 8]
    module = CifarForgetting(**(settings | changes))
    module.prepare(Streams(seed), {})
    return module


def pixels(inputs):
    """What the files hold: (numbers, classes) of every picture."""
    values = ((inputs * 0.5 + 0.5) * 255).round().long()
    assert (values == values[:, :, :1, :1]).all()
    assert (values[:, 1] == 7).all()
    return values[:, 0, 0, 0], values[:, 2, 0, 0]


def numbers(module, part):
    return set(pixels(module.examples(part)[0])[0].tolist())


@pytest.mark.parametrize(("seed", "forgotten"), [(0, 3), (1, 8), (2, 3)])
def test_classes_take_turns(pictures, seed, forgotten):
    module = begun(seed)
    assert module.forgotten_classes == (forgotten,)
    for part in PARTS:
        inputs, labels = module.examples(part)
        assert inputs.shape[1:] == (3, 8, 8)
        assert torch.equal(pixels(inputs)[1], labels)
    of_part = {part: set(module.examples(part)[1].tolist()) for part in PARTS}
    others = set(range(10)) - {forgotten}
    assert of_part["forgotten"] == of_part["test_forgotten"] == {forgotten}
    assert of_part["retained"] == of_part["test_retained"] == others
    assert of_part["validation"] == set(range(10))


def test_parts_are_disjoint_and_whole(pictures):
    module = begun()
    train = [numbers(module, part) for part in ("retained", "forgotten", "validation")]
    assert sum(map(len, train)) == len(set.union(*train)) == 200
    assert [len(part) for part in train] == [9 * 15, 15, 50]
    test = [numbers(module, part) for part in ("test_retained", "test_forgotten")]
    assert sum(map(len, test)) == len(set.union(*test)) == 40


def test_validation_does_not_depend_on_how_many_train(pictures):
    few, many = begun(train_each=2), begun()
    assert numbers(few, "validation") == numbers(many, "validation")
    assert len(numbers(few, "retained")) == 18


def test_a_share_is_drawn_by_the_seed_alone(pictures):
    share = {"forgotten_share": 0.1}
    module, again = begun(4, **share), begun(4, learn_from="retained", steps=9, **share)
    assert len(numbers(module, "forgotten")) == 15
    assert numbers(module, "forgotten") == numbers(again, "forgotten")
    assert numbers(module, "forgotten") != numbers(begun(5, **share), "forgotten")
    assert module.forgotten_classes == ()
    assert len(module.examples("test_forgotten")[1]) == 0
    assert len(module.examples("test_retained")[1]) == 40


@pytest.mark.parametrize("learn_from", ["all", "retained"])
def test_training_sees_what_it_may(pictures, learn_from):
    module = begun(learn_from=learn_from, steps=60)
    seen = set()
    for inputs, labels in module.train_dataloader():
        found, classes = pixels(inputs)
        assert torch.equal(classes, labels)
        seen |= set(found.tolist())
    expected = numbers(module, "retained")
    expected |= numbers(module, "forgotten") if learn_from == "all" else set()
    assert seen == expected


def test_mirrored_batches_are_functions_of_the_step(pictures, monkeypatch):
    module, again = begun(flip=True), begun(flip=True)
    ramp = torch.arange(8, dtype=torch.uint8).expand(150, 3, 8, 8)
    for one in (module, again):
        one._learnt = one._learnt._replace(images=ramp.clone())
    for step in (3, 0, 4):
        first = module.draw_batch(step)[0]
        assert torch.equal(first, again.draw_batch(step)[0])
        falling = (first[:, 0, 0, 0] > first[:, 0, 0, 7]).float().mean()
        assert 0 < falling < 1


class Names(torch.nn.Module):
    """Names the class that is written into the picture, but class 3 as 0."""

    def forward(self, inputs):
        classes = pixels(inputs)[1]
        return torch.eye(10)[torch.where(classes == 3, 0, classes)]


@pytest.mark.parametrize("watched", [7, 1000])
def test_watching_scores_every_part(pictures, watched):
    model = Names().train()
    found = begun(watched=watched).watch(model)
    assert model.training
    assert set(found) == set(PARTS)
    assert (found["forgotten"], found["test_forgotten"], found["retained"]) == (0.0, 0.0, 1.0)
    if watched == 1000:
        assert found["validation"] == pytest.approx(0.9)
    assert "test_forgotten" not in begun(forgotten_share=0.1).watch(model)


def test_smaller_pictures_are_means_of_squares():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    found = smaller(images, 2)
    for place in np.ndindex(3, 2, 2, 3):
        n, row, column, channel = place
        square = images[n, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4, channel]
        assert found[place] == int(square.mean() + 0.5)
    assert smaller(images, 8) is images


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"forgotten_classes": []}, "either forgotten_classes or forgotten_share"),
        ({"forgotten_classes": [1], "forgotten_share": 0.1}, "either forgotten_classes"),
        ({"forgotten_share": 1.0}, r"forgotten_share must lie in \(0, 1\), got 1.0"),
        ({"forgotten_classes": [10]}, r"forgotten_classes must lie in 0..9, got \[10\]"),
        ({"learn_from": "forgotten"}, "learn_from must be 'all' or 'retained'"),
        ({"validation_each": 0}, "validation_each must be at least 1"),
        ({"watched": 0}, "watched must be at least 1"),
        ({"train_each": 16}, "class 0 has 20 pictures, fewer than the 21"),
        ({"side": 5}, "side must divide 32, got 5"),
    ],
)
def test_mistakes(pictures, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        begun(**changes)


def test_unknown_part_and_rows_of_each_class(pictures):
    with pytest.raises(ValueError, match="part must be one of retained, forgotten"):
        begun().examples("train")
    labels = torch.tensor([1, 0, 1, 0, 0, 1])
    assert of_each_class(labels, 1, 2).tolist() == [2, 3, 4, 5]
    assert of_each_class(labels, 2, None).tolist() == [4, 5]


def test_shadow_models_forget_the_same_pictures_and_learn_in_orders_of_their_own(pictures):
    modules = []
    for seed in (1, 2):
        modules.append(
            SharedForgetting(
                batch_size=8, steps=5, validation_each=5, side=8, forgotten_share=0.2, chosen_by=4
            )
        )
        modules[-1].prepare(Streams(seed), {})
    first, second = modules
    assert numbers(first, "forgotten") == numbers(second, "forgotten")
    assert numbers(first, "forgotten") == numbers(begun(4, forgotten_share=0.2), "forgotten")
    assert not torch.equal(first.draw_batch(0)[0], second.draw_batch(0)[0])
