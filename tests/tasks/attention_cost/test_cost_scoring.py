"""The cost exam, taken by attentions whose costs are known or counted."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from sextant.contracts import Streams
from sextant.methods.attention.luna.attention import LunaAttention
from sextant.methods.attention.softmax import SoftmaxAttention
from sextant.methods.attention.untrained import UntrainedAttention
from tasks.attention_cost.data import NormalTokens
from tasks.attention_cost.scoring import AttentionCostExam
from tasks.shared import measuring

LENGTHS = [16, 32, 64]
NAMES = ("milliseconds", "speedup", "saved_mb", "peak_mb")
ARRAYS = {"lengths", "milliseconds", "softmax_milliseconds", "saved_megabytes", "peak_megabytes"}


class Student:
    """Hands out a toy attention."""

    def __init__(self, attend, longest=None):
        self.attend, self.longest, self.asked = attend, longest, []

    def attention(self, length):
        self.asked.append(length)
        module = torch.nn.Module()
        module.forward = self.attend
        return module


def data(lengths=LENGTHS, **changes):
    module = NormalTokens(lengths, **{"heads": 2, "head_dimension": 8} | changes)
    module.prepare(Streams(0), {})
    return module


def examined(student, tokens=None, **settings):
    exam = AttentionCostExam(**{"seconds": 0.01, "calls": 4, "slope_from": 16} | settings)
    return exam.examine(student, tokens or data(), Streams(0), {})


def begun(attention):
    student = UntrainedAttention(attention(heads=2, head_dimension=8, length=8))
    student.prepare(Streams(0), {}, None)
    return student


def dense(queries, keys, values):
    return (queries @ keys.mT).softmax(-1) @ values


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("attention", [SoftmaxAttention, LunaAttention])
def test_every_length_gets_every_score(attention, dtype):
    found = examined(begun(attention), data(dtype=dtype))
    names = {f"{name}@{length}" for name in NAMES for length in LENGTHS} | {"slope"}
    assert set(found.scores) - {"crossover"} == names
    assert set(found.arrays) == ARRAYS
    assert all(array.shape == (3,) for array in found.arrays.values())
    for position, length in enumerate(LENGTHS):
        own = found.scores[f"milliseconds@{length}"]
        assert own.value == found.arrays["milliseconds"][position] > 0
        assert own.better == "lower"
        assert 3 <= own.n <= 4
        ratio = found.arrays["softmax_milliseconds"][position] / own.value
        assert found.scores[f"speedup@{length}"].value == pytest.approx(ratio)
        assert found.scores[f"speedup@{length}"].better == "higher"
        assert found.scores[f"peak_mb@{length}"].value > 0


def test_saved_memory_is_what_the_passes_need():
    """Fused attention keeps queries, keys, values, its output and one number a query."""
    scores = examined(begun(SoftmaxAttention)).scores
    for length in LENGTHS:
        numbers = 2 * length * (4 * 8 + 1)
        assert scores[f"saved_mb@{length}"].value == pytest.approx(4 * numbers / 2**20, rel=0.01)
    cells = examined(Student(lambda q, k, v: q * k + v)).scores
    assert cells["saved_mb@64"].value == pytest.approx(2 * (2 * 64 * 8 * 4) / 2**20)


def test_slope_and_crossover_are_those_of_the_clock(monkeypatch):
    """A time by operation counts: 1 for softmax a pair, 32 for the toy a token."""
    now = [0.0]
    monkeypatch.setattr(measuring, "clock", lambda device: now[0])

    def softmax(queries, keys, values):
        now[0] += queries.shape[2] ** 2 * 1e-6
        return values * queries * keys

    def toy(queries, keys, values):
        now[0] += 32 * queries.shape[2] * 1e-6
        return values * queries * keys

    monkeypatch.setattr(functional, "scaled_dot_product_attention", softmax)
    scores = examined(Student(toy), data([8, 16, 64, 128])).scores
    assert scores["slope"].value == pytest.approx(1)
    assert scores["crossover"].value == pytest.approx(32)
    assert scores["milliseconds@64"].value == pytest.approx(32 * 64 * 1e-3)
    assert scores["speedup@8"].value == pytest.approx(0.25)
    assert scores["speedup@128"].value == pytest.approx(4)
    quadratic = examined(Student(softmax)).scores
    assert quadratic["slope"].value == pytest.approx(2)
    assert "crossover" not in quadratic
    assert "slope" not in examined(Student(softmax), slope_from=64).scores


def test_a_student_bounds_its_lengths():
    student = Student(dense, longest=32)
    found = examined(student)
    assert student.asked == [16, 32]
    np.testing.assert_array_equal(found.arrays["lengths"], [16, 32])
    assert "milliseconds@32" in found.scores
    assert "milliseconds@64" not in found.scores


def test_where_memory_runs_out_the_exam_ends():
    def greedy(queries, keys, values):
        if queries.shape[2] > 16:
            torch.empty(2**46)
        return dense(queries, keys, values)

    student = Student(greedy)
    found = examined(student)
    assert student.asked == [16, 32]
    assert [name for name in found.scores if "@" in name] == [f"{name}@16" for name in NAMES]
    with pytest.raises(MemoryError, match="not even 32 tokens fit into memory"):
        examined(Student(greedy), data([32, 64]))


def test_other_errors_and_wrong_outputs_end_the_run():
    with pytest.raises(RuntimeError, match="Expected size"):
        examined(Student(lambda q, k, v: q @ k))
    with pytest.raises(ValueError, match=r"output must be \(1, 2, 16, 8\), got \(1, 2, 16, 4\)"):
        examined(Student(lambda q, k, v: v[..., :4]))
    with pytest.raises(FloatingPointError, match="output is not finite"):
        examined(Student(lambda q, k, v: v / 0))


def test_settings_are_checked_and_named(monkeypatch):
    for name, bad in {"seconds": 0, "calls": 2, "slope_from": 0}.items():
        with pytest.raises(ValueError, match=name):
            AttentionCostExam(**{name: bad})
    with pytest.raises(ValueError, match="device must be one of cpu, cuda, got 'tpu'"):
        AttentionCostExam("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="torch sees no GPU"):
        examined(Student(dense), device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_measured_too():
    found = examined(begun(LunaAttention), data(dtype="bfloat16"), device="cuda")
    assert (found.arrays["milliseconds"] > 0).all()
    assert (found.arrays["peak_megabytes"] > found.arrays["saved_megabytes"] / 2).all()
