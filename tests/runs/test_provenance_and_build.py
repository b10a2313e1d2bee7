from __future__ import annotations

import pytest

from sextant.errors import UserError
from sextant.runs import provenance
from sextant.runs.build import build
from tests.toy import ROOT


def test_results_of_another_checkouts_code_are_refused(tmp_path):
    provenance.refuse_foreign_code(ROOT)
    with pytest.raises(UserError, match=f"checkout is {tmp_path}, but the package sextant that"):
        provenance.refuse_foreign_code(tmp_path)


def test_without_git_nothing_is_called_clean(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "refuse_foreign_code", lambda root: None)
    found = provenance.collect(tmp_path, "cpu")
    assert (found["commit"], found["dirty"]) == (None, None)
    assert found["hardware"]["cores"] >= 1
    assert isinstance(found["hardware"]["instructions"], list)


def test_nested_targets_are_built_first():
    half = {"_target_": "fractions.Fraction", "numerator": 1, "denominator": 2}
    quarter = {"_target_": "fractions.Fraction", "numerator": half, "denominator": 2}
    assert build({"list": [quarter], "word": "x"}) == {"list": [0.25], "word": "x"}


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("nowhere.Thing", "no module 'nowhere'"),
        ("fractions.Fractoin", "did you mean 'Fraction'"),
    ],
)
def test_a_wrong_target_gets_a_sentence(target, sentence):
    with pytest.raises(UserError, match=sentence):
        build({"_target_": target})


def test_a_wrong_argument_names_what_is_taken():
    with pytest.raises(UserError, match=r"fractions\.Fraction.*numerator, denominator"):
        build({"_target_": "fractions.Fraction", "numerador": 1})
