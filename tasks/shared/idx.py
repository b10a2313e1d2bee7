"""Reads IDX files, the byte format of the MNIST release."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

UNSIGNED_BYTES = 8


def read_idx(path: str | Path) -> Tensor:
    """The uint8 tensor an IDX file holds, with the shape its header states.

    The header is two zero bytes, the type (8: unsigned bytes), the number of dimensions, then each
    size as a big-endian 32-bit number; the values follow, last dimension fastest.

    Raises:
        ValueError: for a file that is no IDX file of unsigned bytes or has another length.
    """
    content = Path(path).read_bytes()
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ValueError(f"{path} is no IDX file: it must begin with two zero bytes")
    kind, dimensions = content[2], content[3]
    if kind != UNSIGNED_BYTES:
        raise ValueError(f"{path} holds IDX type {kind:#04x}, only unsigned bytes (0x08) are read")
    start = 4 + 4 * dimensions
    if dimensions < 1 or len(content) < start:
        raise ValueError(f"{path} ends inside its header of {dimensions} dimensions")
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4).astype(int).tolist()
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"{path} states shape {tuple(shape)}, so {math.prod(shape)} bytes of values, "
            f"but holds {len(content) - start}"
        )
    # A copy, because a tensor over the file's own bytes would not be writable.
    values = np.frombuffer(content, np.uint8, offset=start).copy()
    return torch.from_numpy(values).reshape(shape)
