"""What a user types: help, mistakes, a table from nothing, and the same again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sextant.cli import VERBS, main
from sextant.paths import find_project
from sextant.runs import ledger
from sextant.runs.compose import Composer
from sextant.verbs import arguments
from sextant.verbs.plan import OPTIONS

ROOT = Path(__file__).parents[1]


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SEXTANT_RESULTS", str(tmp_path))
    monkeypatch.chdir(ROOT)
    return tmp_path


def said(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("sextant: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches_by_example(capsys, verb):
    assert main([verb, "--help"]) == 0
    printed = capsys.readouterr().out
    assert f"sextant {verb}" in printed
    assert re.search(rf"examples?:\s+sextant {verb} \S", printed)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["reprodue", "12"], "unknown verb 'reprodue'; did you mean 'reproduce'?"),
        (["table"], "N is missing"),
        (["table", "99"], "there is no table 99; numbers go from 1 to"),
        (["table", "otmf-9"], "otmf-"),
        (["table", "14"], r"table 14 .* is not built yet; built: .*12, 13"),
        (["reproduce", "14"], r"table 14 .* is not built yet; built: .*12, 13"),
        (["plan", "12", "tier=smal"], "unknown tier 'smal'; did you mean 'small'?"),
        (["plan", "12", "teir=small"], "unknown option 'teir'; did you mean 'tier'?"),
        (["plan", "12", "seeds=a"], "seeds must look like 0,1,2 or 0-4, not 'a'"),
        (["plan", "12", "rows=mean_flw"], "unknown row 'mean_flw'; did you mean 'mean_flow'?"),
        (["reproduce", "12", "columns=text"], "unknown column 'text'"),
        (["plan", "12", "13"], "'13' is one argument too many"),
        (["plan", "12", "--rtry"], "unknown flag '--rtry'; did you mean '--retry'?"),
        (["reproduce", "12", "where=cloud"], "unknown where 'cloud'"),
        (["reproduce", "12", "workers=0"], "workers must be a whole number of at least 1"),
        (["reproduce", "12", "logger=tensorboard"], "unknown logger 'tensorboard'"),
        (["explain", "12", "ot_exact"], "a cell is ROW/COLUMN"),
        (["explain", "12", "ot_exakt@1/moons"], "ot_exact@1"),
        (["data", "fetch", "mnits"], "mnist"),
        (["data", "get"], "unknown data command 'get'"),
        (["run", "method=flow/meanflow"], "unknown method 'flow/meanflow'.*'flow/mean_flow'"),
        (["run", "tier=huge"], "unknown tier 'huge'"),
        (["run", "seed=abc"], "seed must be a whole number such as 0, not 'abc'"),
        (["run", "seed=1.5"], "seed must be a whole number such as 0, not 1.5"),
        (["run", "seed=null"], "seed must be a whole number such as 0, not None"),
        (["run", "seed=[0]"], "seed must be a whole number such as 0, not \\[0\\]"),
        (["run", "seed=-1"], "seed must be a whole number such as 0, not -1"),
        (["run", "budget.steps=true"], "budget.steps must be a whole number such as 0, not True"),
        (["run", "budget.step=5"], "unknown key in budget 'step'; did you mean 'steps'?"),
        (["run", "task=generation/mnist_recognition"], "task.network"),
    ],
)
def test_a_mistake_gets_one_sentence_and_code_2(results, capsys, arguments, sentence):
    assert re.search(sentence, said(capsys, *arguments))
    assert not (results / "ledger").exists()


def test_rows_and_columns_are_planned_with_their_parents(results, capsys):
    assert main(["plan", "13", "tier=paper", "seeds=0,1", "rows=mean_flow,ot_exact"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("would run 6: ")
    assert sorted(line.split()[:2] for line in lines[2:]) == [
        ["generation/mnist_latent", "flow/class_ot_mean_flow_exact:"],
        ["generation/mnist_latent", "flow/mean_flow:"],
        ["generation/mnist_recognition", "backbone/conv_classifier:"],
        ["generation/mnist_reconstruction", "backbone/conv_autoencoder:"],
    ]


def test_a_tier_for_gpus_is_refused_without_one_before_anything_is_written(
    results, capsys, monkeypatch
):
    monkeypatch.setattr("sextant.verbs.reproduce._has_gpu", lambda: False)
    assert "tier gpu needs a GPU" in said(capsys, "reproduce", "12", "tier=gpu")
    assert not list(results.iterdir())


def test_a_corrupt_ledger_line_is_named(results, capsys):
    (results / "ledger").mkdir()
    (results / "ledger" / "generation.jsonl").write_text("{}\n")
    assert main(["table", "12", "tier=smoke"]) == 0
    assert "generation.jsonl line 1 does not begin" in capsys.readouterr().err


def test_a_broken_table_file_breaks_itself_alone(results, capsys, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    for part in ("conf", "tasks"):
        shutil.copytree(ROOT / part, copy / part)
    path = copy / "tasks/generation/tables/otmf-1.yaml"
    text = path.read_text().replace("metric: w2,", "metrik: w2,", 1)
    path.write_text(text.replace("number: 12", "number: twelve"))
    monkeypatch.chdir(copy)
    for words, shown in (
        (["table", "12"], ""),
        (["status"], "table 13 at tier small"),
        (["table", "all"], ""),
        (["report"], "index.html"),
    ):
        assert main(words) == 2
        printed = capsys.readouterr()
        assert [line.partition("otmf-1.yaml: ")[2][:35] for line in printed.err.splitlines()] == [
            "number must be a whole number, got ",
            "columns.eight_gaussians.metric is m",
            "columns.eight_gaussians.metrik is n",
        ]
        assert shown in printed.out


def _reproduce() -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "sextant.cli", "reproduce", "12", "tier=smoke"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_table_is_filled_from_nothing_even_when_stopped_and_then_runs_nothing(results):
    stopped = _reproduce()
    for line in stopped.stdout:
        if line.startswith("[3/21]"):
            break
    stopped.send_signal(signal.SIGTERM)
    _, complaint = stopped.communicate(timeout=120)
    assert stopped.returncode == 130
    assert "goes on where it stopped" in complaint
    done = len((results / "ledger" / "generation.jsonl").read_text().splitlines())
    assert 3 <= done < 21

    whole = _reproduce()
    first, _ = whole.communicate(timeout=240)
    assert whole.returncode == 0
    assert f"{done} done, {21 - done} missing" in first
    filled = json.loads((results / "tables" / "table-12.smoke.json").read_text())
    assert all(cell["state"] == "done" for cell in filled["cells"])
    assert (results / "figures" / "otmf-1-samples.smoke.png").stat().st_size > 20_000

    before = (results / "ledger" / "generation.jsonl").read_bytes()
    again = _reproduce()
    second, _ = again.communicate(timeout=60)
    assert second.startswith("Table 12")
    assert second[second.index("Table 12") :] == first[first.index("Table 12") :]
    assert (results / "ledger" / "generation.jsonl").read_bytes() == before


def _start(results: Path, *more: str) -> subprocess.Popen:
    arguments = "task=generation/eight_gaussians_to_moons method=flow/ot_mean_flow_sinkhorn"
    arguments += " tier=smoke seed=1 budget.steps=400 trainer.checkpoint_steps=20"
    return subprocess.Popen(
        [sys.executable, "-m", "sextant.cli", "run", *arguments.split(), *more],
        cwd=ROOT,
        env={**os.environ, "SEXTANT_RESULTS": str(results), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_training_and_run_again_equals_undisturbed(tmp_path, how):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    whole = _start(undisturbed)
    broken = _start(killed)
    deadline = time.monotonic() + 120
    while not list(killed.glob("runs/*/checkpoint.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    broken.send_signal(how)
    assert broken.wait(60) != 0
    assert not list(killed.glob("runs/*/student.pt")), "killed too late to be interrupted"
    assert whole.wait(120) == 0
    assert _start(killed).wait(120) == 0
    weights = [
        torch.load(next(folder.glob("runs/*/student.pt"))) for folder in (undisturbed, killed)
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_a_run_that_the_ledger_has_is_printed_and_computed_anew_when_asked(results, capsys):
    spec = Composer(find_project().conf).spec(
        "generation/normal_to_eight_gaussians", "flow/mean_flow", "smoke", 0
    )
    record = ledger.new_record(spec, {}) | {
        "status": "done", "seconds": 1.0, "peak_memory_mb": 1.0,
        "scores": {"w2@1": {"value": 77.5, "n": 1, "standard_error": None, "better": "lower"}},
    }  # fmt: skip
    ledger.append(results / "ledger", record)
    asked = ["run", "method=flow/mean_flow", "tier=smoke", "seed=0"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "w2@1: 77.5" in said
    assert "--again computes it anew" in said
    assert not (results / "runs" / spec.run_id).exists()
    assert main([*asked, "--again"]) == 0
    assert (results / "runs" / spec.run_id / "student.pt").is_file()
    assert ledger.read(results / "ledger")[spec.run_id]["scores"]["w2@1"]["value"] != 77.5


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("SEED=0", "unknown option 'SEED'; did you mean 'SEEDS'?"),
        ("ROWS=ot_exact", "unknown option 'ROWS'; did you mean 'ROW'?"),
        ("Tier=smoke", "unknown option 'Tier'; did you mean 'TIER'?"),
    ],
)
def test_nothing_typed_after_a_target_of_make_is_ignored(results, capsys, typed, sentence):
    # the tests may be run by make, whose inner calls say where they enter and leave
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    asked = subprocess.run(
        ["make", "-n", "--no-print-directory", "plan-table-12", "ROW=mean_flow", typed],
        cwd=ROOT, capture_output=True, text=True, check=True, env=outside,
    ).stdout  # fmt: skip
    passed = asked.splitlines()[-1].split(" plan ")[1].split()
    assert "ROW=mean_flow" in passed
    assert sentence in said(capsys, "plan", *passed)


@pytest.mark.parametrize(("typed", "retried"), [("RETRY=1", "also"), ("RETRY=failed", "alone")])
def test_options_as_make_spells_them(typed, retried):
    read = arguments.read(["12", "TIER=smoke", "ROW=a", typed], "", ["N"], OPTIONS, ["--retry"])
    assert read.options["tier"] == "smoke"
    assert read.options["rows"] == "a"
    assert read.retry() == retried


def test_status_names_runs_that_no_table_asks_for(results, capsys):
    composer = Composer(find_project().conf)
    asked = ("generation/normal_to_eight_gaussians", "flow/mean_flow", "smoke")
    for seed in (0, 977):
        record = ledger.new_record(composer.spec(*asked, seed), {}) | {
            "status": "failed", "reason": "oom", "seconds": 1.0, "peak_memory_mb": 1.0,
        }  # fmt: skip
        ledger.append(results / "ledger", record)
    assert main(["status"]) == 0
    said = capsys.readouterr().out
    assert "in no table: 1 runs of the ledger: 1 generation/normal_to_eight_gaussians" in said


def test_run_alone_shows_how_it_is_called(results, capsys):
    assert main(["run"]) == 0
    assert "usage: sextant run" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_whoever_reads_the_first_line_alone_gets_it(encoding):
    answer = subprocess.run(
        f"{sys.executable} -m sextant.cli table 12 | head -1; echo ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert answer.stdout.splitlines()[-1] == "0"
    assert answer.stderr == ""


def test_wandb_mirrors_a_run_without_network_or_account(results, tmp_path):
    nobody = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    answer = subprocess.run(
        [sys.executable, "-m", "sextant.cli", "run", "tier=smoke", "logger=wandb"],
        cwd=ROOT, capture_output=True, text=True, env={**nobody, "WANDB_SILENT": "true"},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    offline = list(results.glob("runs/*/wandb/offline-run-*/*.wandb"))
    spec = Composer(find_project().conf).spec(
        "generation/normal_to_eight_gaussians", "flow/mean_flow", "smoke", 0
    )
    assert len(offline) == 1
    assert spec.run_id in offline[0].name
