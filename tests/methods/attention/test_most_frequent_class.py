import pytest
import torch

from sextant.contracts import Streams
from sextant.methods.attention.most_frequent import MostFrequentClass


class Batches:
    """Labels 2, 0, 2 in each of the first batches, and ever more 1s in later ones."""

    classes = 4

    def train_dataloader(self):
        for step in range(100):
            labels = [2, 0, 2] if step < 5 else [1] * step
            yield torch.zeros(len(labels), 7), None, torch.tensor(labels)


def named(batches):
    student = MostFrequentClass(batches)
    student.prepare(Streams(0), {}, Batches())
    logits = student.logits(torch.zeros(6, 2, 7))
    assert logits.shape == (6, 4)
    return logits.argmax(1).unique().tolist()


def test_it_names_the_most_frequent_class_of_the_batches_it_looks_at():
    assert named(5) == [2]
    assert named(60) == [1]
    assert named(1000) == [1]


def test_the_first_of_equals_is_named():
    class Even(Batches):
        def train_dataloader(self):
            yield None, None, torch.tensor([3, 1, 3, 1])

    student = MostFrequentClass()
    student.prepare(Streams(0), {}, Even())
    assert student.logits(torch.zeros(1, 1)).tolist() == [[0.0, 1.0, 0.0, 0.0]]


def test_no_batches_are_refused():
    with pytest.raises(ValueError, match="batches must be at least 1, got 0"):
        MostFrequentClass(0)
