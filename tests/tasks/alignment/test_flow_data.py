"""Latents without classes are the latents with classes, less the classes."""

import pytest
import torch

from sextant import data
from sextant.contracts import Streams
from sextant.data.sources import write_idx
from tasks.alignment.flow_data import UnlabelledLatents
from tasks.alignment.flow_exam import FlowPathExam
from tasks.generation.data import LatentMnist


class Sums:
    """A parent whose codes are the sums of an image's left and right half."""

    def load(self):
        return self

    def encode(self, images):
        return torch.stack((images[..., :14].sum((1, 2, 3)), images[..., 14:].sum((1, 2, 3))), 1)


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """(unlabelled, labelled) on one small folder in the format of MNIST."""
    generator = torch.Generator().manual_seed(0)
    for prefix, n in (("train", 60), ("t10k", 30)):
        images = torch.randint(0, 256, (n, 28, 28), generator=generator, dtype=torch.uint8)
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", (n, 28, 28), [images.numpy().tobytes()])
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", (n,), [bytes(k % 10 for k in range(n))])
    found = data.DataFolder("mnist", tmp_path, "cache", "0123456789ab", "MNIST")
    monkeypatch.setattr("tasks.shared.latents.locate", lambda name: found)
    built = []
    for kind in (UnlabelledLatents, LatentMnist):
        module = kind(batch_size=8, steps=12, validation=10, evaluation_points=20)
        module.prepare(Streams(0), {"autoencoder": Sums()})
        built.append(module)
    return built


def test_points_are_those_of_the_labelled_latents(modules):
    unlabelled, labelled = modules
    for found, expected in zip(
        unlabelled.train_dataloader(), labelled.train_dataloader(), strict=True
    ):
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
        assert found[2] is None
        assert expected[2] is not None
    assert torch.equal(unlabelled.evaluation_target(), labelled.evaluation_target())
    assert unlabelled.evaluation_labels() is None
    assert unlabelled.fingerprints() == labelled.fingerprints()


def test_targets_are_drawn_from_the_training_latents_and_have_no_classes(modules):
    unlabelled, _ = modules
    drawn = unlabelled.draw_target(40, torch.Generator().manual_seed(1))
    assert (drawn[:, None] == unlabelled.train_latents).all(2).any(1).all()
    with pytest.raises(ValueError, match="labels must be None"):
        unlabelled.draw_target(2, torch.Generator(), torch.zeros(2, dtype=torch.int64))


def test_the_exam_asks_without_labels(modules):
    class Student:
        def generate(self, source, steps, labels=None):
            assert labels is None
            return source + 1

    marked = FlowPathExam([1, 2], frechet=True).examine(Student(), modules[0], Streams(0), {})
    assert set(marked.scores) == {"w2@1", "w2@2", "latent_frechet@1", "latent_frechet@2"}
    assert marked.scores["w2@1"].n == 20
