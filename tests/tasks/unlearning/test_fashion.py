"""Fashion-MNIST's loader on packed IDX files of the same schema, made here."""

import gzip
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sextant.contracts import Streams
from tasks.shared.fashion import PREFIXES, fashion_mnist
from tasks.unlearning import fashion
from tasks.unlearning.fashion import FashionForgetting


def packed(values):
    header = struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(
        f">{values.ndim}I", *values.shape
    )
    return gzip.compress(header + values.tobytes())


@pytest.fixture
def release(tmp_path, monkeypatch):
    """Six pictures of each of three classes; the first two pixels of a line are alike."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    content = {}
    for part, prefix in PREFIXES.items():
        images = generator.integers(256, size=(18, 28, 28), dtype=np.uint8)
        labels = (np.arange(18) % 3).astype(np.uint8)
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(packed(images))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(packed(labels))
        content[part] = images, labels
    return SimpleNamespace(path=tmp_path, fingerprint=f"made for {tmp_path.name}"), content


def test_pictures_are_the_release_in_three_equal_channels(release):
    folder, content = release
    for part, pictures in zip(PREFIXES, fashion_mnist(folder), strict=True):
        images, labels = content[part]
        assert pictures.images.shape == (18, 3, 28, 28)
        for channel in range(3):
            np.testing.assert_array_equal(pictures.images[:, channel].numpy(), images)
        assert pictures.labels.tolist() == labels.tolist()
    small, _ = fashion_mnist(folder, 14)
    squares = content["train"][0].reshape(18, 14, 2, 14, 2).astype(float).mean((2, 4))
    assert np.abs(small.images[:, 0].numpy() - squares).max() <= 0.5


def test_a_class_is_forgotten(release, monkeypatch):
    folder, _ = release
    monkeypatch.setattr(fashion, "locate", lambda name: folder)
    data = FashionForgetting(4, 2, side=7, forgotten_classes=[2, 1], validation_each=1)
    data.prepare(Streams(3), {})
    assert data.forgotten_classes == (1,)
    inputs, labels = data.examples("forgotten")
    assert inputs.shape == (5, 3, 7, 7)
    assert labels.unique().tolist() == [1]
    assert torch.isfinite(inputs).all()
    assert inputs.abs().max() <= 1
    assert data.fingerprints() == {"fashion_mnist": folder.fingerprint}
