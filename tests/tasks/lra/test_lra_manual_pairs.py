"""Pairs of the manual pages of many packages."""

import os
from collections import Counter

import numpy as np
import pytest
import torch

from sextant import data
from sextant.contracts import Streams
from tasks.lra.manual_pairs import ManualPairs, neighbours, split_packages
from tasks.lra.manuals import ManualPage
from tasks.lra.sequences import PARTS

OWN_CACHE = os.environ.get("SEXTANT_CACHE")


def test_every_part_has_a_share_of_every_package():
    pages = [ManualPage(str(k), "3", "", (), "ab"[k % 2]) for k in range(60)]
    linked = [{(k + 2) % 60, (k - 2) % 60} for k in range(60)]
    parts = split_packages(pages, linked, (0.2, 0.1), torch.Generator().manual_seed(0))
    assert sorted(page for part in parts for page in part) == list(range(60))
    counts = [Counter(pages[k].package for k in part) for part in parts]
    assert counts == [{"a": n, "b": n} for n in (21, 6, 3)]


def test_links_count_in_both_directions():
    pages = [ManualPage(str(k), "3", "", links) for k, links in enumerate([(1,), (), (0, 1)])]
    assert neighbours(pages) == [{1, 2}, {0, 2}, {0, 1}]


def test_the_real_pages(monkeypatch):
    monkeypatch.setenv("SEXTANT_CACHE", OWN_CACHE or "~/.cache/sextant")
    try:
        data.verify("manuals")
    except data.DataNotFound:
        pytest.skip("manuals is not in the cache")
    module = ManualPairs(16, 1)
    module.prepare(Streams(0), {})
    assert module.draw_batch(0)[0].shape == (16, 2, 4096)
    pages = [set(module.parts[split].rows.flatten().tolist()) for split in PARTS]
    assert sum(map(len, pages)) == len(set.union(*pages))
    assert all(module.majority_rate(split) == 0.5 for split in PARTS)
    assert module.count("train") > 15000
    assert min(module.count("validation"), module.count("test")) > 3000
    documents = module.parts["train"].documents
    texts = np.split(documents.values, documents.ends[:-1])
    assert np.mean([b"\nSEE ALSO\n" in bytes(text) for text in texts]) < 0.001


def test_the_release_is_read_as_before(tmp_path):
    for short in ("train", "eval", "test"):
        row = "1\tA\tB\tone text\tanother\n"
        (tmp_path / f"new_aan_pairs.{short}.tsv").write_text(row)
    module = ManualPairs(1, 1, release=tmp_path)
    module.prepare(Streams(0), {})
    assert [module.count(split) for split in PARTS] == [1, 1, 1]
