"""A checkout whose code changes after a result was made: what `sextant verify` says of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.toy import ROOT

LOSS = "src/sextant/methods/flow/flow_matching.py"
RUN = ("run", "task=generation/normal_to_eight_gaussians", "method=flow/flow_matching")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout of its own with one committed result."""
    root = tmp_path_factory.mktemp("verify") / "checkout"
    for folder in ("src", "tasks", "conf"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (root / ".gitignore").write_text("__pycache__\nresults\n")
    git(root, "init", "--quiet")
    commit(root)
    assert sextant(root, *RUN, "tier=smoke", "seed=0").returncode == 0
    return root


def git(root, *words):
    identity = ("-c", "user.name=t", "-c", "user.email=t@t")
    subprocess.run(["git", "-C", str(root), *identity, *words], check=True, capture_output=True)


def commit(root):
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "state")


def sextant(root, *words):
    environment = os.environ | {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    environment.pop("SEXTANT_RESULTS", None)
    return subprocess.run(
        [sys.executable, "-P", "-m", "sextant.cli", *words],
        cwd=root, env=environment, capture_output=True, text=True,
    )  # fmt: skip


def edit(root, old, new):
    text = (root / LOSS).read_text()
    assert old in text
    (root / LOSS).write_text(text.replace(old, new, 1))


def attested(root):
    file = root / "results" / "ledger" / "code" / "attested.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def test_only_what_computes_the_same_is_attested(checkout):
    edit(checkout, "return ", "# a remark needs no twin\n    return ")
    answer = sextant(checkout, "verify")
    assert "1 runs, 0 of them by 0 codes" in answer.stdout, answer.stderr

    edit(checkout, "return ", "unused = None\n    return ")
    answer = sextant(checkout, "verify", "workers=1")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "1 of 1 compute the same as before" in answer.stdout
    (line,) = attested(checkout)
    assert list(line["twins"]) == [
        "generation/normal_to_eight_gaussians by flow/flow_matching, tier smoke, seed 0"
    ]
    assert "0 of them by 0 codes" in sextant(checkout, "verify").stdout

    edit(checkout, "unused = None", "loss = 3 * loss")
    answer = sextant(checkout, "verify", "workers=1")
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert "0 of 1 compute the same as before" in answer.stdout
    assert "differs: generation/normal_to_eight_gaussians by flow/flow_matching" in answer.stdout
    assert "changed: sextant.methods.flow.flow_matching)" in answer.stdout
    assert len(attested(checkout)) == 1


def test_results_whose_code_no_commit_holds_stay_stale(checkout):
    ledger = checkout / "results" / "ledger"
    (file,) = ledger.glob("*.jsonl")
    kept, store = file.read_text(), (ledger / "code" / "modules.jsonl").read_text()
    record = json.loads(kept)
    modules = json.loads(store.splitlines()[0])["modules"] | {"sextant.runs.training": "0" * 8}
    record["provenance"]["code"] = "lost"
    try:
        file.write_text(json.dumps(record) + "\n")
        lost = json.dumps({"code": "lost", "modules": modules})
        (ledger / "code" / "modules.jsonl").write_text(f"{store}{lost}\n")
        answer = sextant(checkout, "verify", "sample=0")
        assert answer.returncode == 0, answer.stderr
        assert "not compared: no commit holds the code lost of 1 runs" in answer.stdout
    finally:
        file.write_text(kept)
        (ledger / "code" / "modules.jsonl").write_text(store)
