"""The kernel exam, taken by students whose marks are known beforehand."""

import numpy as np
import pytest
import torch
from scipy.special import rel_entr

from sextant.contracts import Streams
from tasks.kernels.data import KernelData, target_rows
from tasks.kernels.scoring import KernelFitExam

STREAMS = Streams(0)


class Student:
    def __init__(self, answer):
        self.answer = answer

    def rows(self, queries, keys):
        return self.answer(queries, keys)


def uniform(queries, keys):
    return torch.full((*queries.shape[:2], keys.shape[1]), 1 / keys.shape[1])


@pytest.fixture
def data():
    return KernelData("even", 4, 1, tokens=10, evaluation_batches=3)


def examined(student, data, kept_rows=16):
    return KernelFitExam(kept_rows).examine(student, data, STREAMS, {})


def test_a_perfect_student_scores_0(data):
    marked = examined(Student(lambda q, k: target_rows("even", q, k)), data)
    assert marked.scores["kl"].value == pytest.approx(0, abs=1e-6)
    assert marked.scores["kl"].better == "lower"
    assert set(marked.arrays) == {"target_rows", "fitted_rows"}
    np.testing.assert_array_equal(marked.arrays["target_rows"], marked.arrays["fitted_rows"])


def test_the_mark_is_scipys_divergence_with_its_error_over_sets(data):
    marked = examined(Student(uniform), data, kept_rows=5)
    targets = np.concatenate([rows.double().numpy() for _, _, rows in data.evaluation()])
    sets = rel_entr(targets, 0.1).sum(-1).mean(-1)
    score = marked.scores["kl"]
    assert score.n == len(sets) == 12
    assert score.value == pytest.approx(sets.mean(), rel=1e-6)
    assert score.standard_error == pytest.approx(sets.std(ddof=1) / np.sqrt(12), rel=1e-6)
    assert marked.arrays["target_rows"].shape == (5, 10)
    np.testing.assert_allclose(marked.arrays["target_rows"], targets[0, :5], rtol=1e-6)
    assert (marked.arrays["fitted_rows"] == np.float32(0.1)).all()


def test_an_answer_of_0_is_marked_but_finite(data):
    def alone(queries, keys):
        rows = torch.zeros(*queries.shape[:2], keys.shape[1])
        rows[..., 0] = 1.0
        return rows

    targets = torch.cat([rows for _, _, rows in data.evaluation()]).double()
    rest = targets[..., 1:].sum(-1) * -np.log(1e-12)
    entropy = (targets * targets.log()).sum(-1)
    expected = (rest + entropy).mean().item()
    assert examined(Student(alone), data).scores["kl"].value == pytest.approx(expected, rel=1e-5)


def test_channel_functions_are_kept_where_there_are_some(data):
    class Luna(Student):
        def channel_functions(self, tokens):
            assert tokens.shape == (4, 20, 8)
            return torch.arange(3.0), torch.ones(3, 2)

    class Hedgehog(Student):
        def channel_functions(self, tokens):
            return None

    arrays = examined(Luna(uniform), data).arrays
    assert arrays["channel_arguments"].tolist() == [0, 1, 2]
    assert arrays["channel_values"].shape == (3, 2)
    assert "channel_values" not in examined(Hedgehog(uniform), data).arrays


@pytest.mark.parametrize(
    ("answer", "error", "complaint"),
    [
        (lambda q, k: uniform(q, k) / 0, FloatingPointError, "diverged"),
        (lambda q, k: uniform(q, k)[:, 1:], ValueError, "rows must be"),
        (lambda q, k: 1.01 * uniform(q, k), ValueError, "the sum 1"),
        (lambda q, k: 3 * uniform(q, k) - 2 * target_rows("even", q, k), ValueError, "negative"),
    ],
)
def test_bad_answers_are_named(data, answer, error, complaint):
    with pytest.raises(error, match=complaint):
        examined(Student(answer), data)


def test_rows_to_keep_are_checked():
    with pytest.raises(ValueError, match="kept_rows"):
        KernelFitExam(0)
