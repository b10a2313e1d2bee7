"""Which code made a result, and renames that the ledger follows."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sextant.errors import UserError
from sextant.runs import code, ledger
from sextant.runs.code import Sources
from sextant.runs.identity import run_id
from sextant.runs.migrations import Migrations, migrate, migrate_frozen, read_migrations
from sextant.runs.verify import difference
from tests.toy import line_spec


@pytest.fixture
def project(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("tasks/toy/exam.py", "from tasks.toy import helper\nimport os\nclass Exam: pass\n")
    write("tasks/toy/helper.py", '"""Doc."""\n\ndef f(x):\n    return x + 1\n')
    write("tasks/toy/unrelated.py", "y = 1\n")
    write("src/sextant/runs/training.py", "a = 1\n")
    folders = {"tasks": tmp_path / "tasks", "sextant": tmp_path / "src" / "sextant"}
    return write, lambda cache=None: Sources(cache, folders).of({"_target_": "tasks.toy.exam.Exam"})


def test_code_is_followed_through_imports(project):
    _, reached = project
    assert set(reached()) == {"tasks.toy.exam", "tasks.toy.helper", "sextant.runs.training"}


def test_comments_change_no_digest_but_code_does(project, tmp_path):
    write, reached = project
    before = reached()
    other = '"""Other."""\n# why\ndef f( x ):\n    """More."""\n    return x+1\n'
    write("tasks/toy/helper.py", other)
    write("tasks/toy/unrelated.py", "y = 2\n")
    assert reached() == before
    write("tasks/toy/helper.py", "def f(x):\n    return x + 2\n")
    assert reached()["tasks.toy.helper"] != before["tasks.toy.helper"]


def test_what_is_cached_is_what_is_there(project, tmp_path):
    write, _ = project
    cache = tmp_path / "cache.json"
    sources = Sources(cache, {"tasks": tmp_path / "tasks"})
    settings = {"_target_": "tasks.toy.exam.Exam"}
    first = sources.of(settings)
    sources.save()
    assert Sources(cache, {"tasks": tmp_path / "tasks"}).of(settings) == first
    write("tasks/toy/helper.py", "def f(x):\n    return x + 22\n")
    assert Sources(cache, {"tasks": tmp_path / "tasks"}).of(settings) != first
    cache.write_text("{")
    assert Sources(cache, {"tasks": tmp_path / "tasks"}).of(settings) != first


def record_of(spec, modules):
    frozen = spec.to_json()
    return {
        **{key: frozen[key] for key in ("run_id", "task", "method", "tier", "seed")},
        "status": "done",
        "scores": {"error": {"value": 1.0, "n": 1, "better": "lower", "standard_error": None}},
        "spec": frozen["settings"],
        "parents": [parent["run_id"] for parent in frozen["parents"].values()],
        "provenance": {"code": modules},
        "seconds": 1.0,
        "peak_memory_mb": 1.0,
    }


def test_the_ledger_keeps_what_a_digest_means_once(tmp_path):
    today = Sources().of(line_spec().settings)
    for seed in (0, 1):
        ledger.append(tmp_path, record_of(line_spec(seed), today))
    digest = code.digest_of(today)
    assert {r["provenance"]["code"] for r in ledger.read(tmp_path).values()} == {digest}
    assert code.known(tmp_path) == {digest: today}
    assert len((tmp_path / "code" / "modules.jsonl").read_text().splitlines()) == 1


def test_a_result_is_stale_until_its_code_is_attested(tmp_path):
    spec = line_spec()
    today = Sources().of(spec.settings)
    older, oldest = {**today, "sextant.runs.training": "0" * 8}, {"gone": "1" * 8}
    ledger.append(tmp_path, record_of(spec, oldest))
    records = ledger.read(tmp_path)
    assert code.stale(records, tmp_path) == {spec.run_id}
    steps = [code.digest_of(modules) for modules in (oldest, older, today)]
    code.attest(tmp_path, {"from": steps[0], "to": steps[1]})
    assert code.stale(records, tmp_path) == {spec.run_id}
    code.attest(tmp_path, {"from": steps[1], "to": steps[2]})
    assert code.stale(records, tmp_path) == frozenset()


edges = st.sets(st.tuples(st.sampled_from("abcde"), st.sampled_from("abcde")), max_size=10)


@given(edges, st.sampled_from("abcde"), st.sampled_from("abcde"))
def test_attestations_chain_and_never_lead_back(found, start, end):
    reached = {start}
    for _ in range(5):
        reached |= {b for a, b in found if a in reached}
    assert code.leads_to(start, end, found) == (end in reached)


RENAMED = Migrations(
    {"tests.old.LineData": "tests.toy.LineData"}, {"tests.toy.Line": {"when": "at"}}
)


def test_a_rename_moves_a_run_and_its_children(tmp_path):
    parent = line_spec(seed=1, at=4)
    child = line_spec(parents={"start": parent})
    former = migrate_frozen(child.to_json(), RENAMED.inverse())
    assert former["settings"]["task"]["data"]["_target_"] == "tests.old.LineData"
    assert former["parents"]["start"]["settings"]["method"]["module"]["when"] == 4
    assert migrate_frozen(former, RENAMED) == child.to_json()
    settings = former["settings"] | {
        "task": former["settings"]["task"] | {"parents": {"start": {}}}
    }
    old_parent = former["parents"]["start"]["run_id"]
    records = {
        old_parent: record_of(parent, {}) | {
            "run_id": old_parent, "spec": former["parents"]["start"]["settings"]
        },
        "child": record_of(child, {}) | {
            "run_id": "child", "spec": settings, "parents": [old_parent]
        },
    }  # fmt: skip
    moved = migrate(records, RENAMED)
    assert moved[old_parent]["run_id"] == parent.run_id
    assert moved[old_parent]["former_ids"] == [old_parent]
    assert moved["child"]["parents"] == [parent.run_id]
    today = moved["child"]
    assert today["run_id"] == run_id(today["spec"], {"start": parent.run_id})
    assert migrate(records, Migrations()) == records


def test_the_ledger_follows_and_nothing_else_of_a_line_changes(tmp_path):
    spec, other = line_spec(), line_spec(seed=3, steps=9)
    frozen = migrate_frozen(spec.to_json(), RENAMED.inverse())
    old = record_of(spec, {"m": "0"}) | {"run_id": frozen["run_id"], "spec": frozen["settings"]}
    ledger.append(tmp_path, old | {"scores": {}})
    ledger.append(tmp_path, old)
    ledger.append(tmp_path, record_of(other, {"m": "0"}))
    assert set(ledger.migrate(tmp_path, RENAMED)) >= {frozen["run_id"]}
    lines = [json.loads(line) for line in (tmp_path / "toy.jsonl").read_text().splitlines()]
    assert [line["run_id"] for line in lines] == [spec.run_id, spec.run_id, other.run_id]
    assert [line["scores"] == {} for line in lines] == [True, False, False]
    assert ledger.migrate(tmp_path, RENAMED) == {}


def test_a_wrong_migration_is_refused(tmp_path):
    file = tmp_path / "migrations.yaml"
    assert read_migrations(tmp_path) == Migrations()
    file.write_text("target: {a: b}\n")
    with pytest.raises(UserError, match="target is not a field; allowed: targets, settings"):
        read_migrations(tmp_path)
    file.write_text("targets: {a: c, b: c}\n")
    with pytest.raises(UserError, match="two former names"):
        read_migrations(tmp_path)


def test_twins_are_compared_to_the_last_bit_but_for_time():
    def answer(weights="w", status="done", **scores):
        return {
            "status": status,
            "scores": {
                name.replace("_at_", "@"): {"value": value, **({"timed": True} if timed else {})}
                for name, (value, timed) in scores.items()
            },
            "weights": weights,
        }

    one = answer(error=(0.5, False), seconds_at_3=(1.0, False))
    assert difference(one, answer(error=(0.5, False), seconds_at_3=(2.0, True))) == ""
    wrong = difference(one, answer(error=(0.5 + 2**-53, False), seconds_at_3=(2.0, True)))
    assert wrong == "error was 0.5 before and is 0.5000000000000001 now"
    assert "weights do not" in difference(answer(), answer(weights="v"))
    assert "extra was None" in difference(answer(), answer(extra=(1.0, False)))
    assert "ended done before and failed now" in difference(answer(), answer(status="failed"))
    refused = {"refused": "UserError: no data"}
    assert difference(refused, one) == "could not be carried out before: UserError: no data"
