"""The floor of a kernel fit."""

import pytest
import torch
from scipy.special import rel_entr

from sextant.contracts import Streams
from sextant.methods.attention.uniform_rows import UniformRows
from tasks.kernels.data import KERNELS, KernelData
from tasks.kernels.scoring import KernelFitExam


def test_every_key_has_the_same_weight():
    student = UniformRows()
    student.prepare(Streams(0), {}, None)
    rows = student.rows(torch.randn(3, 5, 8), torch.randn(3, 7, 8))
    torch.testing.assert_close(rows, torch.full((3, 5, 7), 1 / 7))


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_its_mark_is_the_divergence_of_the_target_from_uniform(kernel):
    data = KernelData(kernel, 4, 0, tokens=10, evaluation_batches=3)
    mark = KernelFitExam().examine(UniformRows(), data, Streams(0), {}).scores["kl"]
    targets = [rows.double().numpy() for _, _, rows in data.evaluation()]
    expected = sum(rel_entr(rows, 0.1).sum(-1).mean() for rows in targets) / 3
    assert mark.value == pytest.approx(expected, rel=1e-5)
    assert mark.value > 0.01
