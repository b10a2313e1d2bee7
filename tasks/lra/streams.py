"""Random numbers for many examples at once, each with a stream of its own."""

from __future__ import annotations

import numpy as np

GOLDEN, FIRST_MIX, SECOND_MIX = (
    np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), uint64 to uint64."""
    values = (values ^ (values >> np.uint64(30))) * FIRST_MIX
    values = (values ^ (values >> np.uint64(27))) * SECOND_MIX
    return values ^ (values >> np.uint64(31))


class Numbers:
    """Random numbers of many images, each image with its own stream (SplitMix64).

    Args:
        seed: of all images.
        indices: int64 (n,), the images' numbers.
    """

    def __init__(self, seed: int, indices: np.ndarray) -> None:
        start = _mixed(np.array([seed], np.uint64) + GOLDEN)
        self.state = _mixed(start ^ (np.asarray(indices, np.uint64) * GOLDEN + FIRST_MIX))

    def only(self, rows: np.ndarray) -> Numbers:
        """The streams of some images, going on where they are."""
        part = object.__new__(Numbers)
        part.state = self.state[rows]
        return part

    def uniform(self, rows: np.ndarray) -> np.ndarray:
        """The next number in [0, 1) of each of the images `rows` (k, different)."""
        state = self.state[rows] + GOLDEN
        self.state[rows] = state
        return (_mixed(state) >> np.uint64(11)) * 2.0**-53

    def below(self, rows: np.ndarray, n: int | np.ndarray) -> np.ndarray:
        """The next whole number in 0..n-1 of each of the images `rows`."""
        return (self.uniform(rows) * n).astype(np.int64)
