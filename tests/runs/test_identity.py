"""A run is what it computes: ids ignore spelling and context, and notice everything else."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sextant.runs.identity import LEFT_OUT, identifying, normalised, run_id
from tests.toy import line_spec

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False, width=32),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)
settings = st.dictionaries(st.text(max_size=4), plain, max_size=5)


def shuffled(value):
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(list(value))}
    return value


@given(settings)
def test_order_of_keys_does_not_matter(content):
    assert run_id(content, {}) == run_id(shuffled(content), {})


@given(settings, settings)
def test_different_settings_have_different_ids(one, other):
    same = normalised(one) == normalised(other) and repr(normalised(one)) == repr(normalised(other))
    assert (run_id(one, {}) == run_id(other, {})) == same


@given(settings)
def test_normalising_twice_changes_nothing(content):
    assert normalised(normalised(content)) == normalised(content)


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (0.001, 1e-3), (0.0, -0.0), (100, 1e2)])
def test_spelling_of_numbers_does_not_matter(one, other):
    assert run_id({"x": one}, {}) == run_id({"x": other}, {})


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, "1"), (0, None), (0, False), ([1], 1)])
def test_a_number_is_not_a_word_nor_a_truth_value(one, other):
    assert run_id({"x": one}, {}) != run_id({"x": other}, {})


def test_parents_are_part_of_the_identity():
    assert run_id({}, {"start": "a" * 12}) != run_id({}, {"start": "b" * 12})
    assert run_id({}, {"start": "a" * 12}) != run_id({}, {"other": "a" * 12})


def test_surroundings_are_left_out():
    config = {"task": {"x": 1}, "tier": {"name": "small", "time_limit": 3}, "seed": 0}
    there = copy.deepcopy(config)
    there |= {group: {"anything": 1} for group in LEFT_OUT if "." not in group}
    there["tier"] |= {"time_limit": 99, "needs_gpu": True, "description": "other"}
    assert identifying(there) == identifying(config)
    assert identifying(config)["tier"] == {"name": "small"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_settings_must_be_finite(value):
    with pytest.raises(ValueError, match="finite"):
        run_id({"x": value}, {})


def test_settings_must_be_plain_data():
    with pytest.raises(TypeError, match="object"):
        run_id({"x": object()}, {})


def test_a_spec_survives_json_and_refuses_an_edit():
    from sextant.errors import UserError
    from sextant.runs.spec import RunSpec

    spec = line_spec(parents={"start": line_spec(seed=1)})
    frozen = spec.to_json()
    assert RunSpec.from_json(frozen).run_id == spec.run_id
    frozen["settings"]["budget"]["steps"] = 9
    with pytest.raises(UserError, match=f"{spec.run_id}.*edited"):
        RunSpec.from_json(frozen)
