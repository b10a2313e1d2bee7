"""Data, metrics and the chain of runs of the conversion exams."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sextant.contracts import Streams
from sextant.runs.build import build
from sextant.runs.compose import Composer
from tasks.conversion import pictures
from tasks.conversion.figures import attention_rows, recovery_curves
from tasks.conversion.glue import TASKS, GlueData, generated_sentences
from tasks.conversion.scoring import area, measure
from tasks.shared.pictures import Pictures

ROOT = Path(__file__).parents[3]
COMPOSER = Composer(ROOT / "conf")
ROWS = ("softmax", "linear_transformer", "performer", "cosformer", "hedgehog", "t2r",
        "t2r_hedgehog", "luna", "luna_distilled", "luna_fitted")  # fmt: skip


def test_metrics_by_hand():
    named = np.eye(2)[[1, 1, 0, 0, 1]]
    labels = np.array([1, 0, 0, 0, 1])
    assert measure("accuracy", named, labels) == pytest.approx(80)
    assert measure("f1", named, labels) == pytest.approx(80)
    # tp 2, tn 2, fp 1, fn 0
    assert measure("matthews", named, labels) == pytest.approx(100 * 4 / np.sqrt(3 * 2 * 3 * 2))


def test_ranks_of_ties_are_averaged():
    scores, labels = np.array([[1.0], [1.0], [2.0], [3.0]]), np.array([0.0, 1.0, 1.0, 5.0])
    ranks = np.corrcoef([1.5, 1.5, 3, 4], [1, 2.5, 2.5, 4])[0, 1]
    plain = np.corrcoef(scores[:, 0], labels)[0, 1]
    assert measure("pearson_spearman", scores, labels) == pytest.approx(50 * (ranks + plain))
    assert measure("pearson_spearman", np.ones((4, 1)), labels) == 0


def test_area_is_the_mean_height():
    assert area([0, 25, 100], [0.0, 50.0, 50.0]) == pytest.approx((25 * 25 + 75 * 50) / 100)
    assert area([0], [7.0]) == 7


@pytest.mark.parametrize("task", TASKS)
def test_generated_sentences_are_of_the_tasks_kind(task):
    kind = TASKS[task]
    inputs, labels = generated_sentences(kind, 200, 24, torch.Generator().manual_seed(0))
    assert inputs["input_ids"].shape == (200, 24)
    assert (inputs["input_ids"][inputs["attention_mask"] == 0] == 0).all()
    if kind.outputs == 1:
        assert 0 <= labels.min() < labels.max() <= 5
    else:
        assert set(labels.tolist()) == set(range(kind.outputs))
    segments = 1 if len(kind.texts) == 1 else 2
    ends = (inputs["input_ids"] == 2).sum(1)
    assert (ends == segments).all()


def test_qnli_trains_and_tests_on_different_pairs(tmp_path, monkeypatch):
    import pandas

    frame = pandas.DataFrame({"split": ["validation"] * 1100 + ["test"] * 5,
                              "question": [f"q{i}" for i in range(1105)],
                              "sentence": "s", "label": 0})  # fmt: skip
    frame.to_parquet(tmp_path / "qnli_dev_test.parquet")
    place = SimpleNamespace(path=tmp_path, fingerprint="here")
    monkeypatch.setattr("tasks.conversion.glue.locate", lambda name: place)
    frames = GlueData(8, 1, "qnli", 16)._from_files()
    assert len(frames["train"]) == 100
    assert len(frames["test"]) == 1000
    assert not set(frames["train"].question) & set(frames["test"].question)


def examined(task, method, parents):
    """The examination of a run at tier smoke, trained without a trainer, and the student."""
    settings = COMPOSER.config(task, method, "smoke", 0)
    data, streams = build(settings["task"]["data"]), Streams(0)
    data.prepare(streams, parents)
    torch.manual_seed(0)
    student = build(settings["method"]["module"])
    student.prepare(streams, parents, data)
    steps = settings["budget"]["steps"]
    if hasattr(student, "training_step"):
        optimizer = student.configure_optimizers()
        taken = {"step": 0}
        kind = type(student)
        stepping = type("Stepping", (kind,), {
            "global_step": property(lambda self: taken["step"]),
            "optimizers": lambda self: optimizer,
            "manual_backward": lambda self, loss: loss.backward(),
            "log": lambda self, name, value: None,
        })  # fmt: skip
        student.__class__ = stepping
        student.train()
        for step in range(steps):
            taken["step"] = step
            student.training_step(data.draw_batch(step), step)
    exam = build(settings["task"]["exam"])
    return exam.examine(student, data, streams, parents), student


def parent_of(task):
    """The fine-tuned model of a task, as a recovery run is handed it."""
    found, student = examined(f"{task}_finetuned", "conversion/finetune", {})
    assert "recovered" not in found.scores
    return {"finetuned": SimpleNamespace(load=student.eval)}


def test_every_row_of_a_sentence_task_is_carried_out():
    parents = parent_of("conversion/mrpc")
    base, _ = examined("conversion/mrpc", "conversion/untouched", parents)
    assert base.scores["recovered"].value == pytest.approx(100)
    for row in ROWS:
        found, student = examined("conversion/mrpc", f"conversion/{row}", parents)
        assert set(found.scores) == {"score", "recovered", "curve_area", "unrecovered"}
        assert found.arrays["curve_steps"].tolist() == [0, 1, 2, 4]
        rows = found.arrays["rows_softmax"]
        np.testing.assert_allclose(rows.sum(-1), 1, atol=1e-5)
        same = np.abs(rows - found.arrays["rows_converted"]).max() < 1e-5
        assert same == (row == "softmax")
        kept = parents["finetuned"].load().network.state_dict()
        own = student.network.state_dict()
        assert set(own) >= set(kept)


def test_the_first_stage_changes_the_maps_alone():
    parents = parent_of("conversion/stsb")
    settings = COMPOSER.config("conversion/stsb", "conversion/hedgehog", "smoke", 0)
    data, student = build(settings["task"]["data"]), build(settings["method"]["module"])
    data.prepare(Streams(0), parents)
    student.prepare(Streams(0), parents, data)
    student.loss(data.draw_batch(0), 0).backward()
    for name, parameter in student.network.named_parameters():
        moved = parameter.grad is not None and bool((parameter.grad != 0).any())
        assert moved == (".converted." in name)
    assert student.distill_steps == 2


def test_pictures_are_mirrored_shifted_and_converted(monkeypatch):
    generator = torch.Generator().manual_seed(0)

    def drawn(folder, side):
        assert side == 8
        labels = torch.arange(10).repeat(12)
        images = torch.randint(256, (120, 3, 8, 8), generator=generator).to(torch.uint8)
        return Pictures(images, labels), Pictures(images, labels)

    monkeypatch.setattr(pictures, "cifar10", drawn)
    monkeypatch.setattr(pictures, "locate", lambda name: SimpleNamespace(fingerprint="here"))
    data = pictures.CifarPictures(16, 4, side=8, train_each=12, test_each=4, watched=20, shift=1)
    data.prepare(Streams(0), {})
    inputs, _ = data.draw_batch(0)
    again, _ = data.draw_batch(0)
    assert torch.equal(inputs["pixels"], again["pixels"])
    assert inputs["pixels"].shape == (16, 3, 8, 8)
    found, student = examined("conversion/cifar10_trained", "conversion/finetune", {})
    parents = {"finetuned": SimpleNamespace(load=student.eval)}
    linear, _ = examined("conversion/cifar10", "conversion/linear_pixels", parents)
    assert 0 <= linear.scores["score"].value <= 100
    for row in ("luna_both_distilled", "luna_class_token", "luna_convolution"):
        found, student = examined("conversion/cifar10", f"conversion/{row}", parents)
        assert found.scores["curve_area"].n == 20
        assert found.arrays["rows_softmax"].shape[-1] == 17


def test_figures_are_drawn(tmp_path):
    rows = np.full((2, 3, 5, 5), 0.2)
    runs = [
        {"task": f"conversion/{task}", "method": method, "method_label": method, "seed": seed,
         "scores": {}, "arrays": {"curve_steps": np.array([0, 25, 500]), "rows_softmax": rows,
                                  "curve_scores": np.array([1.0, 2, 3]) + seed,
                                  "rows_converted": rows}}
        for task in ("cola", "rte") for method in ("luna", "t2r") for seed in (0, 1)
    ]  # fmt: skip
    for make in (recovery_curves, attention_rows):
        assert make(runs, tmp_path / f"{make.__name__}.png").stat().st_size > 5_000
        with pytest.raises(ValueError, match="no run has the array"):
            make([dict(runs[0], arrays={})], tmp_path / "none.png")
