"""The IDX reader and the sampling of rows by class."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant.data.sources import write_idx
from tasks.shared.idx import read_idx
from tasks.shared.mnist import stratified


@pytest.mark.parametrize("shape", [(5,), (2, 3), (3, 4, 5), (0, 28, 28)])
def test_what_was_written_is_read(tmp_path, shape):
    values = torch.arange(torch.Size(shape).numel()).to(torch.uint8)
    write_idx(tmp_path / "x", shape, [bytes(values.tolist())])
    assert torch.equal(read_idx(tmp_path / "x"), values.reshape(shape))


def test_sizes_are_big_endian(tmp_path):
    (tmp_path / "x").write_bytes(b"\0\0\x08\x01\0\0\x01\x01" + bytes(257))
    assert read_idx(tmp_path / "x").shape == (257,)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no IDX file"),
        (b"\x1f\x8b\x08\x00 zipped", "no IDX file"),
        (b"\0\0\x0d\x01\0\0\0\0", "type 0x0d"),
        (b"\0\0\x08\x03\0\0\0\x01", "inside its header"),
        (b"\0\0\x08\x00", "inside its header"),
        (b"\0\0\x08\x01\0\0\0\x03ab", "states shape \\(3,\\), so 3 bytes of values, but holds 2"),
        (b"\0\0\x08\x01\0\0\0\x01ab", "but holds 2"),
    ],
)
def test_damaged_files_are_refused_in_words(tmp_path, content, complaint):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        read_idx(tmp_path / "x")


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=10).filter(any),
    fraction=st.floats(0.01, 1),
    seed=st.integers(0, 9),
)
def test_stratified_rows_keep_the_class_shares(sizes, fraction, seed):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    count = max(1, int(fraction * len(labels)))
    rows = stratified(labels, count, torch.Generator().manual_seed(seed))
    assert len(rows.unique()) == len(rows) == count
    counts = torch.bincount(labels[rows], minlength=len(sizes)).double()
    exact = torch.tensor(sizes).double() * count / len(labels)
    assert (counts - exact).abs().max() < 1


@pytest.mark.parametrize("count", [0, 4])
def test_impossible_counts_are_refused(count):
    with pytest.raises(ValueError, match=r"evaluation_points must lie in 1\.\.3"):
        stratified(torch.tensor([0, 1, 1]), count, torch.Generator())
