"""The Arena's data modules: batches, masks, parts and evaluation, on made and on real data."""

import json
import os

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sextant import data
from sextant.contracts import Streams
from tasks.lra import images as pictures
from tasks.lra.data import ImageData, ListopsData, PathfinderData, RetrievalData, TextData
from tasks.lra.documents import Documents, as_documents
from tasks.lra.listops import ListopsLaw, parse_source
from tasks.lra.pathfinder import PathfinderLaw
from tasks.lra.sequences import PARTS
from tasks.lra.text import held_out
from tasks.shared import cifar10

SHORT = ListopsLaw(max_depth=4, max_args=4, min_length=4, max_length=40)
OWN_CACHE = os.environ.get("SEXTANT_CACHE")
QUICK = PathfinderLaw(contour_length=4, distractor_length=2, distractors=2)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("SEXTANT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def reviews(tmp_path, monkeypatch):
    folder = tmp_path / "imdb"
    folder.mkdir()
    for part, n in (("train", 60), ("test", 20)):
        texts = [f"{part} review {k} é " + "x" * k for k in range(n)]
        labels = [int(k >= n // 2) for k in range(n)]
        table = pyarrow.table({"text": texts, "label": pyarrow.array(labels, pyarrow.int8())})
        pyarrow.parquet.write_table(table, folder / f"{part}.parquet")
    found = data.DataFolder("imdb", folder, "cache", "0123456789ab", "IMDb")
    monkeypatch.setattr("tasks.lra.data.locate", lambda name: found)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    folder = tmp_path / "cifar10"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in (*cifar10.TRAINING_FILES, "test_batch.png"):
        values = random.integers(0, 256, (8, 1024, 3), dtype=np.uint8)
        values[0, :10] = 0
        Image.fromarray(values).save(folder / name)
    for part, n in (("train", 40), ("test", 8)):
        (folder / f"{part}_lables.json").write_text(json.dumps([k % 10 for k in range(n)]))
    found = data.DataFolder("cifar10", folder, "cache", "0123456789ab", "CIFAR-10")
    monkeypatch.setattr("tasks.lra.data.locate", lambda name: found)
    return folder


def begun(module, seed=0):
    module.prepare(Streams(seed), {})
    return module


def listops(seed=0, **changes):
    arguments = {"batch_size": 8, "steps": 20, "law": SHORT, "length": 64} | changes
    arguments = {"train": 50, "validation": 11, "test": 13, "workers": 1} | arguments
    return begun(ListopsData(**arguments), seed)


def paths(seed=0, **changes):
    arguments = {"batch_size": 8, "steps": 20, "law": QUICK, "workers": 1} | changes
    return begun(PathfinderData(**({"train": 20, "validation": 6, "test": 7} | arguments)), seed)


def text(seed=0, **changes):
    arguments = {"batch_size": 8, "steps": 20, "length": 96, "truncate": 48} | changes
    return begun(TextData(**arguments), seed)


def image(seed=0, **changes):
    return begun(ImageData(**({"batch_size": 8, "steps": 20} | changes)), seed)


MAKERS = [listops, paths, text, image]


@pytest.fixture
def every_folder(request, tmp_path):
    for maker, fixture in ((text, "reviews"), (image, "photos")):
        if request.node.callspec.params.get("make") is maker:
            request.getfixturevalue(fixture)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("make", MAKERS)
def test_batches_are_functions_of_seed_and_step(make, every_folder):
    whole = list(make().train_dataloader())
    resumed = make()
    resumed.first_step = 15
    rest = list(resumed.train_dataloader())
    assert len(whole) == 20
    assert all(same(a, b) for a, b in zip(whole[15:], rest, strict=True))
    assert not same(whole[0], whole[1])
    assert not same(whole[0], make(seed=1).draw_batch(0))
    tokens, mask, labels = whole[3]
    module = make()
    assert tokens.shape == mask.shape == (8, module.length)
    assert (tokens.dtype, mask.dtype, labels.dtype) == (torch.int64, torch.bool, torch.int64)
    assert tokens.max() < module.vocabulary
    assert labels.max() < module.classes
    assert not module.two_documents
    assert not tokens[~mask].any()


@pytest.mark.parametrize("make", MAKERS)
def test_evaluation_asks_every_example_once_in_order(make, every_folder):
    one, other = make(), make(seed=5, batch_size=4)
    for split in ("validation", "test"):
        batches = list(one.evaluation(split, 5))
        again = [torch.cat(part) for part in zip(*other.evaluation(split), strict=True)]
        found = [torch.cat(part) for part in zip(*batches, strict=True)]
        assert same(found, again), "neither seed nor batch size matters"
        count = one.count(split)
        assert len(found[2]) == count
        assert [len(batch[2]) for batch in batches[:-1]] == [5] * (len(batches) - 1)
        frequent = found[2].bincount().max() / count
        assert one.majority_rate(split) == pytest.approx(float(frequent))
    few = make(evaluation_limit=3, train_limit=9)
    assert [few.count(split) for split in PARTS] == [9, 3, 3]


@pytest.mark.parametrize("make", MAKERS)
def test_the_mask_switch_changes_the_mask_alone(make, every_folder):
    plain, masked = make().draw_batch(0), make(mask_zero_tokens=True).draw_batch(0)
    assert torch.equal(plain[0], masked[0])
    assert torch.equal(masked[1], masked[0] != 0)
    if make in (listops, text):
        assert torch.equal(plain[1], masked[1])
    else:
        assert plain[1].all()
        assert not masked[1].all()


def test_listops_parts_differ_and_are_the_laws_expressions():
    module = listops()
    whole = {
        split: [
            tuple(row[keep].tolist())
            for tokens, mask, _ in module.evaluation(split)
            for row, keep in zip(tokens, mask, strict=True)
        ]
        for split in PARTS
    }
    expressions = [expression for part in whole.values() for expression in part]
    assert len(set(expressions)) == len(expressions) == 50 + 11 + 13
    assert all(4 < len(expression) < 40 for expression in expressions)
    assert {token for expression in expressions for token in expression} == set(range(1, 16))
    ((name, what),) = module.fingerprints().items()
    assert name == "listops"
    assert "max_depth=4" in what
    assert "seed=2512 content=" in what


def test_dropped_brackets_leave_fourteen_symbols_in_order():
    kept, dropped = listops(), listops(drop_close_brackets=True)
    symbols = set()
    for one, other in zip(kept.evaluation("train"), dropped.evaluation("train"), strict=True):
        assert torch.equal(one[2], other[2])
        for row, short, mask in zip(one[0], other[0], other[1], strict=True):
            row = row[row != 0]
            assert torch.equal(row[row != 15], short[mask])
            symbols |= set(short[mask].tolist())
    assert symbols == set(range(1, 15))


def test_listops_release_is_read(tmp_path):
    for short, sources in (("train", ["( ( ( [MIN 4 ) 2 ) ] )", "7", "1"]), ("val", ["3"])):
        lines = "".join(
            f"{source}\t{source[-1] if len(source) == 1 else 2}\n" for source in sources
        )
        (tmp_path / f"basic_{short}.tsv").write_text("Source\tTarget\n" + lines)
    (tmp_path / "basic_test.tsv").write_text("Source\tTarget\n( ( ( [SM 9 ) 9 ) ] )\t8\n")
    module = listops(release=tmp_path, batch_size=2)
    tokens, mask, labels = next(module.evaluation("test"))
    assert tokens[0][mask[0]].tolist() == parse_source("[SM 9 9 ]").tolist()
    assert labels.tolist() == [8]
    assert [module.count(split) for split in PARTS] == [3, 1, 1]
    assert module.fingerprints()["listops"].startswith("release content=")
    with pytest.raises(ValueError, match="length must be at least 4"):
        listops(release=tmp_path, batch_size=2, length=3)


def test_pathfinder_parts_are_the_laws_images(tmp_path):
    module = paths(mask_zero_tokens=True)
    tokens, mask, _ = next(module.evaluation("train", 20))
    assert tokens.shape == (20, 1024)
    assert (tokens.max(1).values == 255).all()
    assert mask.float().mean() < 0.6
    assert "contour_length=4" in module.fingerprints()["pathfinder"]
    (tmp_path / "metadata").mkdir()
    rows = []
    for number in range(20):
        pixels = tokens[number].reshape(32, 32).numpy().astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"sample_{number}.png")
        rows.append(f". sample_{number}.png {number} {number % 2} 1.0\n")
    (tmp_path / "metadata" / "0.npy").write_text("".join(rows))
    released = paths(release=tmp_path)
    assert [released.count(split) for split in PARTS] == [16, 2, 2]
    found = torch.cat([batch[0] for split in PARTS for batch in released.evaluation(split)])
    assert sorted(found.tolist()) == sorted(tokens.tolist())
    with pytest.raises(ValueError, match="release's side 32, got 36"):
        paths(release=tmp_path, law=PathfinderLaw(side=36))


def test_text_is_bytes_and_a_tenth_of_each_class_is_held_out(reviews):
    module = text(validation_share=0.2)
    assert [module.count(split) for split in PARTS] == [48, 12, 20]
    assert module.majority_rate("validation") == 0.5
    decoded = {
        split: [
            bytes((row[keep] - 1).tolist()).decode(errors="ignore")
            for tokens, mask, _ in module.evaluation(split)
            for row, keep in zip(tokens, mask, strict=True)
        ]
        for split in PARTS
    }
    assert decoded["test"][3] == "test review 3 é xxx"
    assert len(decoded["test"][-1].encode()) <= 48
    numbers = [int(line.split()[2]) for part in ("train", "validation") for line in decoded[part]]
    assert sorted(numbers) == list(range(60))
    official = text(official_dev=True)
    assert [official.count(split) for split in PARTS] == [60, 20, 20]
    assert all(map(same, official.evaluation("validation"), official.evaluation("test")))
    assert module.fingerprints() == {"imdb": "0123456789ab"}
    assert TextData(8, 1).truncate == 4000
    assert TextData(8, 1, length=512).truncate == 512


def test_images_are_grey_pixels_in_reading_order(photos):
    module = image()
    assert [module.count(split) for split in PARTS] == [36, 4, 8]
    tokens, mask, labels = next(module.evaluation("validation"))
    assert mask.all()
    assert labels.tolist() == [6, 7, 8, 9]
    colour = np.asarray(Image.open(photos / "data_batch_5.png"))[4:8].astype(float)
    exact = colour @ np.array([0.2989, 0.587, 0.114]) * 255.5 / 255
    assert np.abs(tokens.numpy() - exact + 0.5).max() < 0.501
    small = image(side=16)
    halves, _, _ = next(small.evaluation("validation"))
    assert (small.length, small.vocabulary) == (256, 256)
    means = torch.nn.functional.avg_pool2d(tokens.reshape(4, 1, 32, 32).double(), 2)
    assert (halves - means.flatten(1)).abs().max() <= 0.5
    with pytest.raises(ValueError, match="side must divide 32"):
        image(side=12)


def test_grey_keeps_grey_values_and_their_order():
    values = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None, None], 3, 3)
    found = pictures.grey(values).ravel().astype(int)
    # The weights add up to 0.9999, and values are rounded down after half a step up.
    assert (np.abs(found - np.arange(256)) <= 1).all()
    assert (np.diff(found) >= 0).all()
    assert found[[0, 255]].tolist() == [0, 255]


def test_files_that_do_not_fit_are_refused(photos):
    (photos / "test_lables.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"label 0\.\.9 for each of the 8 images"):
        image()


def test_retrieval_release_gives_two_documents(tmp_path):
    for short, n in (("train", 9), ("eval", 3), ("test", 2)):
        rows = [f"{k % 2}.0\tA{k}\tB{k}\tone {k}\ttwo {'y' * k}\n" for k in range(n)]
        (tmp_path / f"new_aan_pairs.{short}.tsv").write_text("".join(rows))
    module = begun(RetrievalData(3, 6, release=tmp_path, length=32))
    tokens, mask, labels = module.draw_batch(1)
    assert module.two_documents
    assert tokens.shape == mask.shape == (3, 2, 32)
    first = bytes((tokens[0, 0][mask[0, 0]] - 1).tolist()).decode()
    second = bytes((tokens[0, 1][mask[0, 1]] - 1).tolist()).decode()
    number = int(first.split()[1])
    assert second == f"two {'y' * number}"
    assert labels[0] == number % 2
    assert [module.count(split) for split in PARTS] == [9, 3, 2]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.binary(max_size=12), min_size=1, max_size=8), st.integers(1, 12), st.data())
def test_documents_become_rows_and_come_back(texts, truncate, choose):
    documents = as_documents(texts)
    rows = torch.tensor(choose.draw(st.lists(st.integers(0, len(texts) - 1), max_size=6)))
    tokens, mask = documents.tokens(rows.long(), 12, truncate)
    assert tokens.shape == mask.shape == (len(rows), 12)
    assert torch.equal(mask, tokens != 0), "byte + 1 is never padding"
    for row, line in zip(rows.tolist(), tokens, strict=True):
        assert bytes((line[line != 0] - 1).tolist()) == texts[row][:truncate]
    without = documents.without(7)
    kept = [bytes(np.split(without.values, without.ends[:-1])[k]) for k in range(len(texts))]
    assert kept == [value.replace(b"\x07", b"") for value in texts]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(5, 30), min_size=2, max_size=4), st.integers(0, 9))
def test_held_out_rows_keep_the_class_shares(sizes, seed):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    kept, held = held_out(labels, 0.2, torch.Generator().manual_seed(seed))
    assert sorted(torch.cat((kept, held)).tolist()) == list(range(len(labels)))
    assert torch.bincount(labels[held]).tolist() == [round(0.2 * size) for size in sizes]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: ListopsData(8, 1, length=0), "length must be at least 1"),
        (lambda: ListopsData(8, 1, truncate=4096), "truncate must lie in 1..2048"),
        (lambda: ListopsData(8, 1, vocabulary=15), "vocabulary must be at least 16"),
        (lambda: TextData(8, 1, vocabulary=256), "vocabulary must be at least 257"),
        (lambda: TextData(8, 1, train_limit=0), "train_limit must be at least 1"),
        (lambda: listops(test=0), "test must be at least 1"),
        (lambda: listops(length=20), "length must be at least"),
        (lambda: next(listops().evaluation("dev")), "split must be one of"),
        (lambda: held_out(torch.tensor([0, 0]), 0.01, torch.Generator()), "share must leave"),
    ],
)
def test_bad_settings_are_refused(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()


def test_nothing_is_asked_before_prepare():
    with pytest.raises(RuntimeError, match="prepare"):
        ListopsData(8, 1).majority_rate("test")


def real(name, monkeypatch):
    monkeypatch.setenv("SEXTANT_CACHE", OWN_CACHE or "~/.cache/sextant")
    try:
        data.verify(name)
    except data.DataNotFound:
        pytest.skip(f"{name} is neither in $SEXTANT_DATA nor in the cache")


def test_the_real_reviews(monkeypatch):
    real("imdb", monkeypatch)
    module = begun(TextData(32, 1))
    assert [module.count(split) for split in PARTS] == [22500, 2500, 25000]
    tokens, mask, _ = module.draw_batch(0)
    assert tokens.shape == (32, 4096)
    assert mask.sum(1).max() <= 4000
    assert not tokens[:, 4000:].any()


def test_the_real_photos(monkeypatch):
    real("cifar10", monkeypatch)
    module = begun(ImageData(256, 1))
    assert [module.count(split) for split in PARTS] == [45000, 5000, 10000]
    assert module.parts["train"].labels[:5].tolist() == [6, 9, 9, 4, 1]
    assert module.parts["test"].labels[:5].tolist() == [3, 8, 8, 0, 6]
    assert torch.bincount(module.parts["test"].labels).tolist() == [1000] * 10
    values = module.parts["train"].documents.values
    # The luma of the known channel means.
    mean = 0.2989 * 0.4914 + 0.587 * 0.4822 + 0.114 * 0.4465
    assert values.mean(dtype=np.float64) / 255 == pytest.approx(mean, abs=0.003)


def test_the_real_pages(monkeypatch):
    real("manpages", monkeypatch)
    module = begun(RetrievalData(16, 1))
    assert module.draw_batch(0)[0].shape == (16, 2, 4096)
    pages = [set(module.parts[split].rows.flatten().tolist()) for split in PARTS]
    assert sum(map(len, pages)) == len(set.union(*pages))
    assert all(module.majority_rate(split) == 0.5 for split in PARTS)
    assert module.count("train") > 3500
    assert min(module.count("validation"), module.count("test")) > 500
    documents: Documents = module.parts["train"].documents
    texts = np.split(documents.values, documents.ends[:-1])
    headed = [b"\nSEE ALSO\n" in bytes(text) for text in texts]
    assert sum(headed) <= 1, "one page is about headings"
