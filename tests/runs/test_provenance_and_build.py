from __future__ import annotations

import pytest

from sextant.errors import UserError
from sextant.runs.build import build
from sextant.runs.provenance import changed_code, code_digests, module_digest
from tests.toy import ROOT


@pytest.fixture
def project(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("tasks/toy/exam.py", "from tasks.toy import helper\nimport os\nclass Exam: pass\n")
    write("tasks/toy/helper.py", '"""Doc."""\n\ndef f(x):\n    return x + 1\n')
    write("tasks/toy/unrelated.py", "y = 1\n")
    write("src/sextant/runs/execute.py", "a = 1\n")
    write("src/sextant/runs/training.py", "a = 1\n")
    return tmp_path, write


def test_code_is_followed_through_imports(project):
    root, _ = project
    digests = code_digests(root, {"exam": {"_target_": "tasks.toy.exam.Exam"}})
    assert {"tasks.toy.exam", "tasks.toy.helper"} <= set(digests)
    assert "tasks.toy.unrelated" not in digests


def test_comments_do_not_make_a_result_stale_but_code_does(project):
    root, write = project
    made_by = {"code": code_digests(root, {"exam": {"_target_": "tasks.toy.exam.Exam"}})}
    write(
        "tasks/toy/helper.py", '"""Other."""\n# why\ndef f( x ):\n    """More."""\n    return x+1\n'
    )
    write("tasks/toy/unrelated.py", "y = 2\n")
    assert changed_code(root, made_by) == []
    write("tasks/toy/helper.py", "def f(x):\n    return x + 2\n")
    assert changed_code(root, made_by) == ["tasks.toy.helper"]
    (root / "tasks/toy/helper.py").unlink()
    assert changed_code(root, made_by) == ["tasks.toy.helper"]


def test_this_project_has_digests():
    assert len(module_digest(ROOT, "sextant.contracts")) == 8


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
