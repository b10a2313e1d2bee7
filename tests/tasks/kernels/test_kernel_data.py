"""Target kernels against plain loops, and batches that depend on the step alone."""

import math

import pytest
import torch

from sextant.contracts import Streams
from tasks.kernels.data import KERNELS, KernelData, target_rows


def value(kernel, q, k):
    d = len(q)
    dot = sum(a * b for a, b in zip(q, k, strict=True))
    squared = sum((a - b) ** 2 for a, b in zip(q, k, strict=True))
    return {
        "exponential": math.exp(dot / math.sqrt(d)),
        "gaussian": math.exp(-squared / (2 * d / 4)),
        "even": dot**2 / d + 0.05,
        "periodic": 1.02 + math.cos(2 * (q[0] - k[0])) * math.cos(2 * (q[1] - k[1])),
    }[kernel]


def begun(kernel="even", seed=0, **changes):
    arguments = {"batch_size": 3, "steps": 4, "tokens": 6, "evaluation_batches": 2} | changes
    module = KernelData(kernel, **arguments)
    module.prepare(Streams(seed), {})
    return module


@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_are_normalised_values_of_the_kernel(kernel):
    torch.manual_seed(0)
    queries, keys = torch.randn(2, 5, 4, dtype=torch.float64)
    rows = target_rows(kernel, queries, keys)
    for query, row in zip(queries.tolist(), rows.tolist(), strict=True):
        values = [value(kernel, query, key) for key in keys.tolist()]
        assert row == pytest.approx([entry / sum(values) for entry in values])


@pytest.mark.parametrize("kernel", KERNELS)
def test_targets_are_positive(kernel):
    _, _, rows = begun(kernel, tokens=64, batch_size=50).draw_batch(0)
    assert (rows > 0).all()
    torch.testing.assert_close(rows.sum(-1), torch.ones(50, 64))


def test_a_batch_depends_on_seed_and_step():
    first, again, other = begun(seed=1), begun(seed=1), begun(seed=2)
    for found, expected in zip(first.draw_batch(3), again.draw_batch(3), strict=True):
        assert torch.equal(found, expected)
    assert not torch.equal(first.draw_batch(3)[0], first.draw_batch(2)[0])
    assert not torch.equal(first.draw_batch(3)[0], other.draw_batch(3)[0])
    again.first_step = 2
    resumed = list(again.train_dataloader())
    assert len(resumed) == 2
    assert torch.equal(resumed[1][1], first.draw_batch(3)[1])


def test_the_exam_is_the_same_for_every_run():
    batches = [list(begun(seed=seed).evaluation()) for seed in (0, 1)]
    assert len(batches[0]) == 2
    for one, two in zip(*batches, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, two, strict=True))
    assert not torch.equal(batches[0][0][0], batches[0][1][0])
    other = next(iter(begun(evaluation_seed=1).evaluation()))
    assert not torch.equal(other[0], batches[0][0][0])


def test_tokens_are_standard_normal():
    queries, keys, rows = begun(tokens=64, batch_size=100, dimension=8).draw_batch(0)
    assert queries.shape == keys.shape == (100, 64, 8)
    assert rows.shape == (100, 64, 64)
    covariance = torch.cat((queries, keys), 2).flatten(0, 1).T.cov()
    torch.testing.assert_close(covariance, torch.eye(16), rtol=0, atol=0.07)


def test_settings_are_checked_and_named():
    changes = {"batch_size": 0, "steps": -1, "tokens": 0, "dimension": 1, "evaluation_batches": 0}
    for name, bad in changes.items():
        with pytest.raises(ValueError, match=name):
            begun(**{name: bad})
    with pytest.raises(ValueError, match="kernel must be one of exponential, gaussian"):
        begun("cubic")
    assert begun().fingerprints() == {"kernel": "even, 6 tokens of N(0, I_8)"}
    with pytest.raises(RuntimeError, match="prepare"):
        KernelData("even", 1, 1).draw_batch(0)
