"""Counts of tokens: what they decide is learned, what only order decides is not."""

import pytest
import torch

from sextant.contracts import Streams
from sextant.methods.attention.bag_of_tokens import BagOfTokens, token_counts

PARTS = {"train": 600, "validation": 200, "test": 200}


class Sequences:
    """Random tokens 1..5 in sequences of 3 to 12, padded with 0; whoever asks for test is told."""

    vocabulary, classes = 8, 2

    def __init__(self, label, size=(12,), classes=2):
        self.label, self.size, self.classes = label, size, classes
        self.asked = []
        self.parts = {}
        for name, count in PARTS.items():
            draw = torch.Generator().manual_seed(len(name))
            tokens = torch.randint(1, 6, (count, *size), generator=draw)
            lengths = torch.randint(3, size[-1] + 1, (count, *size[:-1], 1), generator=draw)
            mask = torch.arange(size[-1]) < lengths
            tokens = tokens * mask
            self.parts[name] = tokens, mask, label(tokens).long()

    def count(self, split):
        return len(self.parts[split][2])

    def examples(self, split, places):
        self.asked.append(split)
        return tuple(part[places] for part in self.parts[split])

    def evaluation(self, split, batch_size=None):
        for places in torch.arange(self.count(split)).split(batch_size or 64):
            yield self.examples(split, places)


def learned(data, seed=0, **settings):
    student = BagOfTokens(**settings)
    student.prepare(Streams(seed), {}, data)
    return student


def accuracy(student, data):
    tokens, mask, labels = data.parts["test"]
    logits = student.logits(tokens, mask)
    assert logits.shape == (len(labels), data.classes)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    return (logits.argmax(1) == labels).float().mean().item()


def more_twos_than_threes(tokens):
    return (tokens == 2).sum(-1) > (tokens == 3).sum(-1)


def two_before_three(tokens):
    return (tokens == 2).long().argmax(-1) < (tokens == 3).long().argmax(-1)


class Orders(Sequences):
    """One 2 and one 3 among 1s: every sequence has the same counts."""

    def __init__(self):
        super().__init__(two_before_three)
        for name, count in PARTS.items():
            draw = torch.Generator().manual_seed(len(name))
            tokens = torch.ones(count, 12, dtype=torch.int64)
            places = torch.stack([torch.randperm(12, generator=draw)[:2] for _ in range(count)])
            tokens.scatter_(1, places, torch.tensor([2, 3]).expand(count, 2))
            mask = torch.ones(count, 12, dtype=torch.bool)
            self.parts[name] = tokens, mask, two_before_three(tokens).long()


def test_what_counts_decide_is_learned():
    data = Sequences(more_twos_than_threes)
    assert accuracy(learned(data), data) > 0.95


def test_what_only_order_decides_is_not():
    data = Orders()
    assert abs(accuracy(learned(data), data) - 0.5) < 0.1
    assert learned(data).logits(*data.parts["test"][:2]).var(0).max() < 1e-6


def test_more_than_two_classes_are_told_apart():
    data = Sequences(lambda tokens: (tokens == 4).sum(-1).clamp(max=2), classes=3)
    assert accuracy(learned(data), data) > 0.9


def test_pairs_are_compared_by_counts():
    def alike(tokens):
        counts = (tokens == 5).sum(-1)
        return (counts[:, 0] - counts[:, 1]).abs() <= 1

    data = Sequences(alike, size=(2, 12))
    assert accuracy(learned(data), data) > 0.9


def test_counts_are_those_of_real_tokens():
    tokens = torch.tensor([[[2, 2, 5, 0], [5, 5, 2, 2]]])
    mask = torch.tensor([[[True, True, True, False], [True, True, True, False]]])
    first, second = [0, 0, 2, 0, 0, 1], [0, 0, 1, 0, 0, 2]
    assert token_counts(tokens, mask, 6).tolist() == [[*first, *second, 0, 0, 1, 0, 0, 1]]
    assert token_counts(tokens[:, 0], None, 6).tolist() == [[1, 0, 2, 0, 0, 1]]


def test_the_test_part_is_not_touched_and_validation_chooses_the_penalty():
    data = Sequences(more_twos_than_threes)
    student = learned(data, inverse_penalties=[10.0, 1e-9])
    assert set(data.asked) == {"train", "validation"}
    assert student.regression.C == 10.0
    # Where all counts are the same every penalty scores alike, and the strongest is taken.
    assert learned(Orders(), inverse_penalties=[10.0, 1e-9]).regression.C == 1e-9


def test_a_sample_of_the_training_part_depends_on_the_seed():
    data = Sequences(more_twos_than_threes)
    few, same, other = (learned(data, seed, examples=50).regression for seed in (0, 0, 1))
    assert (few.coef_ == same.coef_).all()
    assert (few.coef_ != other.coef_).any()


def test_a_class_without_training_examples_is_never_named():
    data = Sequences(more_twos_than_threes, classes=4)
    logits = learned(data).logits(*data.parts["test"][:2])
    assert logits.shape == (200, 4)
    assert logits.argmax(1).max() <= 1


def test_learnt_numbers_are_counted():
    assert BagOfTokens().parameter_count == 0
    assert learned(Sequences(more_twos_than_threes)).parameter_count == 5 + 1
    three = Sequences(lambda tokens: (tokens == 4).sum(-1).clamp(max=2), classes=3)
    assert learned(three).parameter_count == 3 * (5 + 1)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="examples must be at least 1, got 0"):
        BagOfTokens(examples=0)
    for bad in ([], [1.0, 0.0]):
        with pytest.raises(ValueError, match="inverse_penalties must be positive"):
            BagOfTokens(inverse_penalties=bad)
    with pytest.raises(RuntimeError, match="call prepare"):
        BagOfTokens().logits(torch.zeros(1, 3, dtype=torch.int64))
