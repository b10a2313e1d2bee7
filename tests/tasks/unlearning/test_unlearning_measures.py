"""Measures of forgetting against loops, scipy and closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

from tasks.unlearning.measures import (
    Accuracies,
    AnamnesisIndex,
    Answers,
    Relearning,
    accuracy,
    anamnesis_index,
    average_gap,
    divergences,
    forgetting_curve,
    frontier,
    gap,
    relearning,
    retained_at,
    tug_of_war,
    zero_retrain_forgetting,
)

shares = st.floats(0, 1)
accuracies = st.builds(Accuracies, forget=shares, retain=shares, test=shares)
scores = st.floats(-900, 900)


@st.composite
def pairs_of_logits(draw):
    n, classes = draw(st.integers(1, 5)), draw(st.integers(2, 5))
    rows = st.lists(st.lists(scores, min_size=classes, max_size=classes), min_size=n, max_size=n)
    return torch.tensor(draw(rows)).double(), torch.tensor(draw(rows)).double()


def answers(seed=0, n=40, classes=5):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator)
    return Answers(logits, torch.randint(classes, (n,), generator=generator))


def test_accuracy_counts_example_by_example():
    given_answers = answers()
    right = 0
    for row, label in zip(
        given_answers.logits.tolist(), given_answers.labels.tolist(), strict=True
    ):
        right += max(range(5), key=row.__getitem__) == label
    assert accuracy(given_answers) == right / 40
    assert len(given_answers) == 40


def test_accuracy_at_its_ends_and_with_ties():
    logits = torch.eye(4)
    assert accuracy(Answers(logits, torch.arange(4))) == 1
    assert accuracy(Answers(logits, torch.arange(4).roll(1))) == 0
    # A constant model names the lowest class, whatever the number of examples.
    assert accuracy(Answers(torch.zeros(8, 4), torch.arange(8) % 4)) == 0.25
    assert accuracy(Answers(torch.zeros(8, 4), torch.zeros(8, dtype=torch.int64))) == 1


def test_the_forgotten_class_stays_among_the_answers():
    # Class 2 has the largest logit, so an example of class 0 counts as wrong.
    assert accuracy(Answers(torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([0]))) == 0


def test_accuracy_does_not_depend_on_the_order():
    given_answers = answers(1)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    shuffled = Answers(given_answers.logits[order], given_answers.labels[order])
    assert accuracy(shuffled) == accuracy(given_answers)


def test_whole_accuracy_is_the_mean_of_the_parts_weighted_by_size():
    given_answers = answers(3)
    part = given_answers.labels == 0
    parts = [Answers(given_answers.logits[m], given_answers.labels[m]) for m in (part, ~part)]
    weighted = sum(len(p) * accuracy(p) for p in parts) / len(given_answers)
    assert accuracy(given_answers) == pytest.approx(weighted, abs=1e-12)


@pytest.mark.parametrize(
    ("logits", "labels", "error", "word"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 3]), ValueError, "labels"),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), ValueError, "labels"),
        (torch.zeros(2, 3), torch.tensor([0]), ValueError, "labels"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), TypeError, "labels"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0, 1]), TypeError, "logits"),
        (torch.zeros(2, 1), torch.tensor([0, 0]), ValueError, "logits"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), ValueError, "logits"),
        (torch.tensor([[0.0, math.nan]]), torch.tensor([0]), FloatingPointError, "logits"),
    ],
)
def test_answers_that_make_no_sense_are_refused(logits, labels, error, word):
    with pytest.raises(error, match=word):
        Answers(logits, labels)


def test_average_gap_by_hand():
    unlearned = Accuracies(forget=0.10, retain=0.90, test=0.80)
    retrained = Accuracies(forget=0.00, retain=0.99, test=0.85)
    assert unlearned.unlearning == pytest.approx(0.9)
    # UA 0.1 below, RA 0.09 below, TA 0.05 below, MIA 0.2 above.
    assert average_gap(unlearned, retrained, 0.7, 0.5) == pytest.approx(0.11)
    assert gap(unlearned.retain, retrained.retain) == pytest.approx(-0.09)


@given(a=accuracies, b=accuracies, first=shares, second=shares)
def test_average_gap_is_a_distance(a, b, first, second):
    assert average_gap(a, a, first, first) == 0
    assert 0 <= average_gap(a, b, first, second) <= 1
    assert average_gap(a, b, first, second) == average_gap(b, a, second, first)


def test_shares_out_of_range_are_refused():
    with pytest.raises(ValueError, match="retain"):
        Accuracies(forget=0.1, retain=90, test=0.5)
    good = Accuracies(0.1, 0.9, 0.8)
    with pytest.raises(ValueError, match="retrained_membership"):
        average_gap(good, good, 0.5, 50)


@given(a=accuracies, b=accuracies)
def test_tug_of_war_is_a_share_and_one_against_itself(a, b):
    by_hand = (
        (1 - abs(a.forget - b.forget)) * (1 - abs(a.retain - b.retain)) * (1 - abs(a.test - b.test))
    )
    assert tug_of_war(a, a) == 1
    assert 0 <= tug_of_war(a, b) <= 1
    assert tug_of_war(a, b) == pytest.approx(by_hand, abs=1e-12)


def test_tug_of_war_is_lost_by_one_extreme():
    assert tug_of_war(Accuracies(1, 1, 0.8), Accuracies(0, 1, 0.8)) == 0


@pytest.mark.parametrize("base", [2.0, math.e, 10.0])
def test_divergences_equal_scipys(base):
    generator = torch.Generator().manual_seed(4)
    first, second = 4 * torch.randn(2, 30, 6, generator=generator)
    expected = jensenshannon(
        softmax(first.double().numpy(), 1), softmax(second.double().numpy(), 1), base, axis=1
    )
    np.testing.assert_allclose(divergences(first, second, base), expected**2, rtol=1e-9)
    zrf = zero_retrain_forgetting(first, second, base)
    assert zrf == pytest.approx(1 - (expected**2).mean(), rel=1e-9)


def test_zero_retrain_forgetting_has_no_share_of_the_number_of_classes():
    # Opposite certainties: the divergence is 1 bit, however many classes and examples there are.
    for n, classes in ((1, 2), (7, 2), (3, 50)):
        first, second = torch.zeros(2, n, classes)
        first[:, 0], second[:, 1] = 1000, 1000
        assert zero_retrain_forgetting(first, second) == pytest.approx(0, abs=1e-12)
        natural = zero_retrain_forgetting(first, second, math.e)
        assert natural == pytest.approx(1 - math.log(2), rel=1e-12)


@settings(deadline=None)
@given(pair=pairs_of_logits(), shift=st.floats(-50, 50))
def test_zero_retrain_forgetting_is_a_share(pair, shift):
    first, second = pair
    value = zero_retrain_forgetting(first, second)
    assert 0 <= value <= 1
    assert value == pytest.approx(zero_retrain_forgetting(second, first), abs=1e-12)
    assert value == pytest.approx(zero_retrain_forgetting(first + shift, second), abs=1e-9)
    assert zero_retrain_forgetting(first, first) == pytest.approx(1, abs=1e-12)


def test_divergences_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="other"):
        divergences(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="base"):
        divergences(torch.zeros(2, 3), torch.zeros(2, 3), base=1)
    with pytest.raises(FloatingPointError, match="other"):
        divergences(torch.zeros(1, 2), torch.tensor([[0, math.inf]]))


CURVE = [(0, 0.0), (5, 0.5), (10, 0.77), (20, 0.76), (40, 0.9)]


def test_relearning_is_the_first_step_that_is_good_enough():
    assert relearning(CURVE, original=0.8) == Relearning(10)  # 0.76 is wanted
    assert relearning(CURVE, original=0.8, share=0.5) == Relearning(5)
    assert relearning(CURVE, original=0.9) == Relearning(40)
    assert relearning(CURVE, original=1.0) == Relearning(40, reached=False)
    assert relearning([(0, 0.9)], original=0.9) == Relearning(0)


@pytest.mark.parametrize(
    ("unlearned", "retrained", "expected"),
    [
        (Relearning(10), Relearning(40), AnamnesisIndex(0.25, "exact")),
        (Relearning(0), Relearning(40), AnamnesisIndex(0.0, "exact")),
        (Relearning(80, False), Relearning(40), AnamnesisIndex(2.0, "at least")),
        (Relearning(10), Relearning(40, False), AnamnesisIndex(0.25, "at most")),
        (Relearning(40, False), Relearning(40, False), AnamnesisIndex(None, "undefined")),
        (Relearning(10), Relearning(0), AnamnesisIndex(None, "undefined")),
        (Relearning(0), Relearning(0), AnamnesisIndex(None, "undefined")),
        (Relearning(0), Relearning(0, False), AnamnesisIndex(None, "undefined")),
    ],
)
def test_anamnesis_index_says_what_it_knows(unlearned, retrained, expected):
    assert anamnesis_index(unlearned, retrained) == expected


@pytest.mark.parametrize(
    ("curve", "original", "share", "word"),
    [
        ([], 0.9, 0.95, "curve"),
        ([(1, 0.1)], 0.9, 0.95, "curve"),
        ([(0, 0.1), (0, 0.2)], 0.9, 0.95, "curve"),
        ([(0, 10.0)], 0.9, 0.95, "curve"),
        ([(0, 0.1)], 0.0, 0.95, "original"),
        ([(0, 0.1)], 0.9, 1.5, "share"),
    ],
)
def test_curves_that_cannot_be_read_are_refused(curve, original, share, word):
    with pytest.raises(ValueError, match=word):
        relearning(curve, original, share)


def test_negative_steps_are_refused():
    with pytest.raises(ValueError, match="steps"):
        Relearning(-1)


def test_forgetting_curve_has_a_gap_where_an_entry_has_none():
    entries = [{"epoch": 0, "forget": 0.9}, {"epoch": 1, "forget": 0.4, "retain": 0.8}]
    columns = forgetting_curve(entries)
    assert list(columns) == ["epoch", "forget", "retain"]
    np.testing.assert_array_equal(columns["forget"], [0.9, 0.4])
    np.testing.assert_array_equal(columns["retain"], [math.nan, 0.8])
    assert forgetting_curve([]) == {}


def test_retained_at_is_that_of_the_first_epoch_to_get_there():
    forget, retain = [0.9, 0.2, 0.01, 0.3, 0.0], [0.95, 0.9, 0.7, 0.99, 0.6]
    assert retained_at(forget, retain, 0.01) == 0.7
    assert retained_at(forget, retain, 1.0) == 0.95
    assert retained_at(forget[:2], retain[:2], 0.01) is None
    with pytest.raises(ValueError, match="equally long"):
        retained_at(forget, retain[:2], 0.01)


@given(points=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_frontier_is_what_no_other_point_beats(points):
    forget, retain = [p[0] for p in points], [p[1] for p in points]
    beaten = {
        i
        for i, (f, r) in enumerate(points)
        if any(
            (g <= f and s >= r and (g, s) != (f, r)) or ((g, s) == (f, r) and j < i)
            for j, (g, s) in enumerate(points)
        )
    }
    kept = frontier(forget, retain)
    assert set(kept) == set(range(len(points))) - beaten
    assert [forget[i] for i in kept] == sorted(forget[i] for i in kept)
