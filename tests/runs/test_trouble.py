"""What other people's machines do to a run: it is told in a sentence, and never its result."""

from __future__ import annotations

import errno
import io
import os
import signal
from dataclasses import replace

import pytest
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from sextant.errors import UserError
from sextant.runs import execute as execution
from sextant.runs import ledger, tensors, training
from sextant.runs.execute import execute
from sextant.runs.store import RunFolder
from tests import toy
from tests.toy import line_spec


class RarelyTelling(toy.Line):
    """Logs one metric in its first step alone."""

    def training_step(self, batch, index):
        loss = super().training_step(batch, index)
        if self.global_step == 0:
            self.log("first", loss)
        return loss


class Peaking(toy.Solver):
    """Takes 300 MB for a moment."""

    def prepare(self, streams, parents, data) -> None:
        super().prepare(streams, parents, data)
        torch.ones(75_000_000).sum()


def spec_of(student: type, **changes):
    spec = line_spec(**changes)
    module = {"_target_": f"{student.__module__}.{student.__name__}"}
    return replace(spec, settings={**spec.settings, "method": {"version": 1, "module": module}})


@pytest.fixture
def interrupted(context, monkeypatch):
    """Carries out a run up to a step; returns its folder."""

    def carry_out(spec, step=5, at=context) -> RunFolder:
        hook = training.RunCallback.on_train_batch_end

        def stopping(callback, trainer, *arguments):
            callback.stop.requested = trainer.global_step == step
            hook(callback, trainer, *arguments)

        with monkeypatch.context() as patched:
            patched.setattr(training.RunCallback, "on_train_batch_end", stopping)
            with pytest.raises(training.Interrupted):
                execute(spec, at)
        return RunFolder(at.runs / spec.run_id)

    return carry_out


@pytest.fixture
def undisturbed(context, tmp_path):
    """The scores and the curve of a run that nothing happens to."""

    def carry_out(spec):
        quiet = replace(context, runs=tmp_path / "quiet", ledger=tmp_path / "quiet ledger")
        record = execute(spec, quiet)
        return record["scores"], RunFolder(quiet.runs / spec.run_id).curves.read_bytes()

    return carry_out


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def garbage(path):
    path.write_bytes(b"\x00\xff nothing of torch " * 50)


def empty(path):
    path.write_bytes(b"")


def one_byte(path):
    """Changes a byte in the middle of a tensor's values, which torch itself does not notice."""
    content = bytearray(path.read_bytes())
    place = content.index(b"/data/0") + 100
    content[place] ^= 255
    path.write_bytes(content)


def another_file(path):
    torch.save({"weights": torch.ones(3)}, path)


@pytest.mark.parametrize("damage", [cut, garbage, empty, one_byte, another_file])
def test_a_damaged_checkpoint_is_set_aside_and_the_run_begins_anew(
    context, interrupted, undisturbed, damage, capsys
):
    spec = line_spec()
    folder = interrupted(spec)
    damage(folder.checkpoint)
    record = execute(spec, context)
    assert (record["scores"], folder.curves.read_bytes()) == undisturbed(spec)
    assert "it is set aside and the run begins anew" in capsys.readouterr().out
    assert folder.checkpoint.with_name("checkpoint.ckpt.damaged").is_file()


def test_a_run_goes_on_with_its_whole_curve_whatever_became_of_the_file(
    context, interrupted, undisturbed
):
    spec = spec_of(RarelyTelling)
    folder = interrupted(spec)
    folder.curves.write_bytes(b"step,metric,value\r\n\x00two,loss\xff\r\n4")
    record = execute(spec, context)
    scores, curve = undisturbed(spec)
    assert record["scores"] == scores
    assert folder.curves.read_bytes() == curve
    assert [row.split(",")[1] for row in curve.decode().splitlines()[1:]] == 4 * ["loss", "first"]


@pytest.mark.parametrize("damage", [cut, garbage, one_byte])
def test_a_damaged_parent_is_made_again_and_its_child_has_no_line(context, damage, capsys):
    parent = line_spec(steps=20)
    child = line_spec(seed=5, steps=2, parents={"start": parent})
    execute(parent, context)
    before = torch.load(RunFolder(context.runs / parent.run_id).student)
    damage(RunFolder(context.runs / parent.run_id).student)
    with pytest.raises(UserError, match=r"student.pt is damaged .* made again with: .* run task="):
        execute(child, context)
    assert list(ledger.read(context.ledger)) == [parent.run_id]
    execute(parent, context)
    after = torch.load(RunFolder(context.runs / parent.run_id).student)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert execute(child, context)["status"] == "done"


@pytest.mark.parametrize("damage", [cut, lambda path: path.write_text('{"status": "done"}')])
def test_a_damaged_result_is_set_aside(context, damage, capsys):
    spec = line_spec()
    first = execute(spec, context)
    damage(RunFolder(context.runs / spec.run_id).result)
    assert execute(spec, context)["scores"] == first["scores"]
    assert "set aside" in capsys.readouterr().out
    assert len((context.ledger / "toy.jsonl").read_text().splitlines()) == 1


def test_a_failed_run_is_tried_again_from_its_beginning(context, interrupted, undisturbed):
    spec = line_spec()
    folder = interrupted(spec)
    content = tensors.load(folder.checkpoint)
    content["state_dict"] = {"of": torch.ones(1), "another": torch.ones(1)}
    tensors.save(content, folder.checkpoint)
    assert execute(spec, context)["reason"] == "error"
    assert execute(spec, context, again=True)["scores"] == undisturbed(spec)[0]
    assert ledger.read(context.ledger)[spec.run_id]["status"] == "done"


def test_a_run_out_of_time_goes_on_where_it_has_more_and_else_begins_anew(context):
    spec = line_spec(steps=30, seconds=0.02, time_limit=0.2)
    context.trainer = {**context.trainer, "checkpoint_steps": 1}
    assert execute(spec, context)["reason"] == "timeout"
    folder = RunFolder(context.runs / spec.run_id)
    execution._forget_failure(folder, folder.finished(), time_limit=60)
    assert folder.checkpoint.is_file()
    assert execute(spec, context)["reason"] == "timeout"
    execution._forget_failure(folder, folder.finished(), time_limit=0.2)
    assert not folder.checkpoint.is_file()


class Full(io.FileIO):
    """A file on a disk that is full after 2,000 bytes."""

    def write(self, content):
        if self.tell() > 2000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(content)


def test_torch_tells_of_a_full_disk_as_one(tmp_path, monkeypatch):
    path = tmp_path / "student.pt"
    monkeypatch.setattr(type(path), "open", lambda self, mode: Full(self, mode))
    with pytest.raises(OSError, match="No space left on device"):
        tensors.save({"weights": torch.ones(100_000)}, path)


def raising(error):
    def prepare(self, streams, parents, data):
        raise error

    return prepare


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "no space"), "the disk is full; free some space"),
        (OSError(errno.EROFS, "read-only", "/home/other"), r"may not be written \(/home/other\)"),
        (PermissionError(errno.EACCES, "denied", "/x"), r"may not be written \(/x\)"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (ModuleNotFoundError("No module named 'ot'"), "No module named 'ot'; `make setup`"),
        (RuntimeError("write to /torch_1: No space left on device (28)"), "the disk is full"),
    ],
)
def test_the_machines_trouble_leaves_no_line(context, monkeypatch, error, sentence):
    spec = line_spec()
    with monkeypatch.context() as patched:
        patched.setattr(toy.Line, "prepare", raising(error))
        with pytest.raises(UserError, match=sentence):
            execute(spec, context)
    assert not ledger.read(context.ledger)
    assert not RunFolder(context.runs / spec.run_id).result.exists()
    assert execute(spec, context)["status"] == "done"


def test_a_full_disk_while_a_checkpoint_is_written(context, monkeypatch, undisturbed):
    spec = line_spec()
    context.trainer = {**context.trainer, "checkpoint_steps": 2}
    save, saved = tensors.save, []

    def filling(content, path):
        saved.append(path)
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "no space left on device")
        save(content, path)

    with monkeypatch.context() as patched:
        patched.setattr(tensors, "save", filling)
        with pytest.raises(UserError, match=r"cannot write .*checkpoint.ckpt: the disk is full"):
            execute(spec, context)
    assert not ledger.read(context.ledger)
    record = execute(spec, context)
    curve = RunFolder(context.runs / spec.run_id).curves.read_bytes()
    assert (record["scores"], curve) == undisturbed(spec)


def test_a_gpu_that_is_not_here(context, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    context.trainer = {**context.trainer, "accelerator": "gpu"}
    with pytest.raises(UserError, match="accelerator is gpu, but torch finds no GPU here"):
        execute(line_spec(), context)
    assert not ledger.read(context.ledger)


def in_step(monkeypatch, step, act):
    """Does something once, in the middle of a run."""
    begin, done = toy.Line.training_step, []

    def training_step(self, batch, index):
        if self.global_step == step and not done:
            done.append(step)
            act()
        return begin(self, batch, index)

    monkeypatch.setattr(toy.Line, "training_step", training_step)


def test_a_run_whose_lease_is_deleted_records_nothing(context, monkeypatch, undisturbed):
    spec = line_spec()
    folder = RunFolder(context.runs / spec.run_id)
    in_step(monkeypatch, 3, lambda: (folder.path / "lease").unlink())
    with pytest.raises(UserError, match="nothing more is written and nothing is recorded"):
        execute(spec, context)
    assert not ledger.read(context.ledger)
    assert execute(spec, context)["scores"] == undisturbed(spec)[0]


def test_a_run_whose_folder_is_made_again_leaves_it_to_the_second(
    context, monkeypatch, undisturbed
):
    spec = line_spec()
    folder = RunFolder(context.runs / spec.run_id)
    second = []

    def replaced():
        os.rename(folder.path, folder.path.with_name("gone"))
        second.append(execute(spec, context))

    in_step(monkeypatch, 3, replaced)
    with pytest.raises(UserError, match="deleted or taken over"):
        execute(spec, context)
    assert ledger.read(context.ledger)[spec.run_id] == second[0] == folder.finished()
    assert (second[0]["scores"], folder.curves.read_bytes()) == undisturbed(spec)


def test_sigterm_between_two_steps_is_an_interruption(context, monkeypatch, undisturbed):
    spec = line_spec()
    end = training.RunCallback.on_train_batch_end

    def late(callback, trainer, *arguments):
        end(callback, trainer, *arguments)
        if trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)  # after the check whether to stop

    with monkeypatch.context() as patched:
        patched.setattr(training.RunCallback, "on_train_batch_end", late)
        with pytest.raises(training.Interrupted) as caught:
            execute(spec, context)
    assert isinstance(caught.value.__cause__, SIGTERMException)
    assert not ledger.read(context.ledger)
    record = execute(spec, context)
    curve = RunFolder(context.runs / spec.run_id).curves.read_bytes()
    assert (record["scores"], curve) == undisturbed(spec)


def test_what_killed_processes_left_is_removed(context):
    spec = line_spec()
    folder = RunFolder(context.runs / spec.run_id)
    folder.pictures.mkdir(parents=True)
    left = [
        folder.path / ".checkpoint.ckpt.a1b2c3d4",
        folder.path / ".student.pt.a1b2c3d4",
        folder.pictures / ".square.png.a1b2c3d4",
    ]
    for path in left:
        path.write_text("half")
    of_another = folder.path / ".owner.json.0123"  # somebody may be writing it now
    of_another.write_text("half")
    execute(spec, context)
    assert not any(path.exists() for path in left)
    assert of_another.exists()


def test_peak_memory_is_of_the_run(context):
    large = execute(spec_of(Peaking), context)["peak_memory_mb"]
    small = execute(line_spec(method="Solver", seed=1), context)["peak_memory_mb"]
    assert 250 < large - small < 400
