"""GLUE tasks as a BERT reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad

from sextant.data import DataNotFound, locate
from tasks.conversion.data import ConversionData, Examples
from tasks.conversion.scoring import Metric

VOCABULARY, LAW = 40, 2512
"""Token numbers of generated sentences, and the seed of all of them."""


class GlueTask(NamedTuple):
    """File, text columns, metric and classes (1 for a number) of a task; hub name and parts."""

    file: str
    texts: tuple[str, ...]
    metric: Metric
    outputs: int
    test: str = "validation"


TASKS = {
    "cola": GlueTask("cola.parquet", ("sentence",), "matthews", 2),
    "sst2": GlueTask("sst2.parquet", ("sentence",), "accuracy", 2),
    "mrpc": GlueTask("mrpc.parquet", ("sentence1", "sentence2"), "f1", 2),
    "rte": GlueTask("rte.parquet", ("sentence1", "sentence2"), "accuracy", 2),
    "stsb": GlueTask("stsb.parquet", ("sentence1", "sentence2"), "pearson_spearman", 1),
    "qnli": GlueTask("qnli_dev_test.parquet", ("question", "sentence"), "accuracy", 2),
    "qqp": GlueTask("qqp", ("question1", "question2"), "accuracy", 2),
    "mnli": GlueTask("mnli", ("premise", "hypothesis"), "accuracy", 3, "validation_matched"),
}
ONLY_ON_THE_HUB = ("qqp", "mnli")
HELD_OUT = 1000
"""Labelled pairs of QNLI's dev part that test, where there is no training part: the last ones."""


class GlueData(ConversionData):
    """A task of GLUE: its training part to learn from, its dev part, which is labelled, to test.

    The files here have no training part of QNLI: there the first 4,463 pairs of its dev part train
    and the last 1,000 test. QQP and MNLI come from the hub alone.

    Args:
        task: a key of `TASKS`.
        length: tokens of an example, longer ones are cut.
        encoder: "minilm", the data set of that name; or a name of the hub. Its tokenizer is used,
            and `start` names it. With None the sentences are made up, see `generated_sentences`.
        train, test: examples at most, the first ones; None takes all.
    """

    def __init__(
        self,
        batch_size: int,
        steps: int,
        task: str,
        length: int,
        encoder: str | None = "minilm",
        train: int | None = None,
        test: int | None = None,
        watched: int = 200,
    ) -> None:
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
        self.task, self.kind = task, TASKS[task]
        super().__init__(batch_size, steps, self.kind.metric, self.kind.outputs, watched)
        self.length, self.encoder = length, encoder
        self.counts = {"train": train, "test": test}

    def read(self) -> dict[str, Examples]:
        """Reads the texts and makes tokens of them."""
        if self.encoder is None:
            return self._generated()
        from transformers import AutoTokenizer

        self.start = self.encoder
        if self.encoder == "minilm":
            folder = locate("minilm")
            self.start = str(folder.path)
            self._fingerprints["minilm"] = folder.fingerprint
        else:
            self._fingerprints["encoder"] = self.encoder
        tokenizer = AutoTokenizer.from_pretrained(self.start)
        frames = self._from_hub() if self.task in ONLY_ON_THE_HUB else self._from_files()
        return {part: self._tokens(tokenizer, frames[part], part) for part in frames}

    def _generated(self) -> dict[str, Examples]:
        if None in self.counts.values():
            raise ValueError(f"train and test must be numbers without an encoder: {self.counts}")
        self._fingerprints["generated sentences"] = f"law {LAW}, {self.counts}, {self.length}"
        generator = torch.Generator().manual_seed(LAW)
        return {
            part: generated_sentences(self.kind, count, self.length, generator)
            for part, count in self.counts.items()
        }

    def _from_files(self) -> dict[str, Any]:
        import pandas

        folder = locate("glue")
        self._fingerprints["glue"] = folder.fingerprint
        frame = pandas.read_parquet(Path(folder.path) / self.kind.file)
        test = frame[frame.split == self.kind.test]
        if self.task == "qnli":
            return {"train": test[:-HELD_OUT], "test": test[-HELD_OUT:]}
        return {"train": frame[frame.split == "train"], "test": test}

    def _from_hub(self) -> dict[str, Any]:
        import datasets

        try:
            found = datasets.load_dataset("nyu-mll/glue", self.task)
        except Exception as error:  # the library raises many unrelated types when it is offline
            raise DataNotFound(
                f"{self.task} of GLUE is read from the hub (nyu-mll/glue), which did not answer: "
                f"{type(error).__name__}"
            ) from error
        self._fingerprints["glue"] = f"nyu-mll/glue {self.task}"
        return {"train": found["train"].to_pandas(), "test": found[self.kind.test].to_pandas()}

    def _tokens(self, tokenizer: Any, frame: Any, part: str) -> Examples:
        frame = frame[: self.counts[part]]
        texts = [frame[name].tolist() for name in self.kind.texts]
        found = tokenizer(
            *texts,
            truncation=True,
            max_length=self.length,
            padding="max_length",
            return_tensors="pt",
            return_token_type_ids=True,
        )
        inputs = {name: found[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        kind = torch.float32 if self.outputs == 1 else torch.int64
        return Examples(inputs, torch.tensor(frame["label"].tolist(), dtype=kind))


def generated_sentences(
    kind: GlueTask, count: int, length: int, generator: torch.Generator
) -> Examples:
    """Made-up sentences of token numbers with the texts and the labels of a task's kind.

    One sentence: class 1 where token 5 comes more often than token 6. Two: the number is five times
    the share of the first one's tokens that the second repeats; the class is which of equally wide
    parts of [0, 1] that share lies in. Tokens 0, 1 and 2 are padding, beginning and end.
    """
    half = (length - 3) // 2
    first, second = torch.randint(3, VOCABULARY, (2, count, half), generator=generator)
    copied = torch.rand(count, half, generator=generator)
    copied = copied < torch.rand(count, 1, generator=generator)
    begin, end = torch.full((count, 1), 1), torch.full((count, 1), 2)
    if len(kind.texts) == 1:
        first = torch.where(copied, 5 + first % 2, first)
        ids = torch.cat((begin, first, end), 1)
        labels = ((first == 5).sum(1) > (first == 6).sum(1)).long()
    else:
        second = torch.where(copied, first, second)
        share = (first == second).float().mean(1)
        ids = torch.cat((begin, first, end, second, end), 1)
        labels = 5 * share
        if kind.outputs > 1:
            labels = (share * kind.outputs).long().clamp(max=kind.outputs - 1)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": (torch.arange(ids.shape[1]) > half + 1).long().repeat(count, 1),
    }
    room = (0, length - ids.shape[1])
    return Examples({name: pad(part, room) for name, part in inputs.items()}, labels)
