"""IMDb reviews as bytes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tasks.lra.documents import Documents, as_documents


def read_reviews(path: Path) -> tuple[Documents, Tensor]:
    """The reviews of `train.parquet` or `test.parquet` and their labels int64 (n,), 1 positive.

    Raises:
        ValueError: for a label other than 0 and 1.
    """
    # Late: it takes as long as the rest of the family together.
    import pyarrow.parquet as parquet

    table = parquet.read_table(path, columns=["text", "label"])
    labels = torch.tensor(table.column("label").to_pylist(), dtype=torch.int64)
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError(f"{path} must hold labels 0 and 1 only")
    return as_documents(text.encode() for text in table.column("text").to_pylist()), labels


def held_out(labels: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Row numbers of a training and a held-out part, `share` of every class held out; sorted.

    Raises:
        ValueError: for a share that leaves one of the parts empty.
    """
    held = []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        count = round(share * len(members))
        if not 0 < count < len(members):
            raise ValueError(f"share must leave rows of every class in both parts, got {share}")
        held.append(members[torch.randperm(len(members), generator=generator)[:count]])
    validation = torch.cat(held).sort().values
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[validation] = False
    return kept.nonzero().flatten(), validation
