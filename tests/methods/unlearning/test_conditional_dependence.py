"""The coefficient of conditional dependence and the choice of features by it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant.methods.unlearning.conditional_dependence import conditional_dependence, select


def by_the_book(responses, features, known=None):
    """T_n as its authors write it, one row after another."""
    rows, responses = len(responses), responses.tolist()
    rank = [sum(other <= own for other in responses) for own in responses]
    at_least = [sum(other >= own for other in responses) for own in responses]

    def nearest(points):
        return [
            min((j for j in range(rows) if j != i), key=lambda j: sum((points[i] - points[j]) ** 2))
            for i in range(rows)
        ]

    if known is None:
        beside = nearest(features)
        above = sum(rows * min(rank[i], rank[beside[i]]) - at_least[i] ** 2 for i in range(rows))
        return above / sum(one * (rows - one) for one in at_least)
    before, beside = nearest(known), nearest(torch.cat((known, features), 1))
    lower = [min(rank[i], rank[before[i]]) for i in range(rows)]
    above = sum(min(rank[i], rank[beside[i]]) - lower[i] for i in range(rows))
    return above / sum(rank[i] - lower[i] for i in range(rows))


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(5, 20), seed=st.integers(0, 999), conditional=st.booleans(), ties=st.booleans()
)
def test_it_is_what_its_authors_write(rows, seed, conditional, ties):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    known = torch.randn(rows, 1, generator=generator, dtype=torch.float64) if conditional else None
    responses = torch.randn(rows, generator=generator, dtype=torch.float64) + features[:, 0]
    if ties:
        responses = responses.round()
        responses[:2] = torch.tensor([-9.0, 9.0])  # not constant
    try:
        found = conditional_dependence(responses, features, known)
    except ValueError:
        assert conditional  # every row has a neighbour with its own response
        return
    assert found == pytest.approx(float(by_the_book(responses, features, known)), abs=1e-12)


def test_it_tells_functions_from_noise():
    """The example of its authors: each of two says nothing, the second all when one is known."""
    pair = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    folded = (pair.sum(1)) % 1.0
    assert abs(conditional_dependence(folded, pair[:, :1])) < 0.05
    assert conditional_dependence(folded, pair) > 0.9
    assert conditional_dependence(folded, pair[:, :1], pair[:, 1:]) > 0.9
    noise = torch.rand(2000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert abs(conditional_dependence(folded, noise, pair[:, :1])) < 0.05
    # Only the order of the responses counts.
    assert conditional_dependence(folded.exp(), pair) == conditional_dependence(folded, pair)


def chosen_one_at_a_time(responses, features):
    """The choice by single coefficients, columns standardised."""
    columns = (features - features.mean(0)) / features.std(0)
    chosen = []
    while len(chosen) < columns.shape[1]:
        left = [number for number in range(columns.shape[1]) if number not in chosen]
        known = columns[:, chosen] if chosen else None
        values = [conditional_dependence(responses, columns[:, [one]], known) for one in left]
        if chosen and max(values) <= 0:
            break
        chosen.append(left[values.index(max(values))])
    return chosen


@pytest.mark.parametrize("seed", range(4))
def test_features_are_chosen_by_it(seed, monkeypatch):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(150, 7, generator=generator, dtype=torch.float64) * torch.logspace(
        -3, 3, 7
    )
    columns = features / features.std(0)
    responses = columns[:, 4] + columns[:, 1] * columns[:, 6]
    found = select(responses, features)
    assert found == chosen_one_at_a_time(responses, features)
    assert found[0] == 4
    monkeypatch.setattr("sextant.methods.unlearning.conditional_dependence.PAIRS", 1)
    assert select(responses, features) == found


def test_causes_are_found_among_many_columns():
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(600, 40, generator=generator, dtype=torch.float64)
    responses = features[:, 34] + features[:, 7]
    assert set(select(responses, features)[:2]) == {34, 7}


def test_what_does_not_vary_is_not_chosen():
    features = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    features[:, 1] = 2.0
    assert 1 not in select(features[:, 0] ** 2, features)
    assert select(torch.zeros(20), features) == []
    assert select(features[:, 0], torch.ones(20, 2)) == []


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: conditional_dependence(torch.rand(2), torch.rand(2, 1)), "at least 3 rows, got 2"),
        (lambda: conditional_dependence(torch.rand(4), torch.rand(3, 1)), r"features must be \(4,"),
        (lambda: conditional_dependence(torch.ones(4), torch.rand(4, 1)), "must vary beyond"),
        (lambda: select(torch.rand(4), torch.rand(4)), "features must be"),
    ],
)
def test_mistakes_are_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
