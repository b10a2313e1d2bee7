"""Softmax attention among tokens that hash alike (Kitaev et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sextant.methods.attention.base import Attention
from sextant.methods.attention.bigbird import same_number
from sextant.ranges import at_least

SELF_SCORE = -1e5
"""Score of a token with itself: it looks at itself only where it can look at nothing else."""

MASKED_SCORE = -1e9
"""Score of what must not be seen."""


class ReformerAttention(Attention):
    """Locality-sensitive hashing with shared queries and keys (arXiv 2001.04451).

    Queries serve as keys too, scaled to length 1 there; **the keys that come in are not used**, and
    a network that makes them by a layer of its own trains nothing there. In each round the tokens
    are hashed by random rotations, sorted by bucket and cut into chunks; a chunk sees itself and
    the one before. Rounds are weighed by the sums of their exponentials.

    The number of buckets is 2 N / chunk rounded down to a power of 2, made of two smaller hashes
    where it exceeds 2 chunk. Rotations are drawn afresh in every training step and are those of a
    buffer in evaluation. Chunks are cut by position among the sorted tokens, masked ones last, so
    that a mask is not the same as deleting the masked tokens. At most `chunk` tokens all see each
    other.

    O(hashes N (chunk + c) (D + D_v)) time, O(hashes N (chunk + D + c)) memory a head, where the c
    columns of the rotations are at most chunk, or about sqrt(2 N / chunk) if that is more.

    Args:
        heads: H.
        head_dimension: D.
        length: the most tokens that may come.
        hashes: rounds.
        chunk: tokens of a chunk.
        within_buckets: also hide what is in a chunk but hashed to another bucket, as the paper's
            equation 5 has it; the libraries behind the printed rows do not.

    Raises:
        ValueError: for fewer than 1 round or tokens of a chunk.
    """

    masking = "by position"
    learns_through = ("queries",)

    rotations: Tensor

    def __init__(
        self,
        heads: int,
        head_dimension: int,
        length: int,
        hashes: int = 2,
        chunk: int = 64,
        within_buckets: bool = False,
    ) -> None:
        super().__init__(heads, head_dimension, length)
        at_least(1, hashes=hashes, chunk=chunk)
        self.hashes, self.chunk, self.within_buckets = hashes, chunk, within_buckets
        columns = max(sum(self.buckets(n)) // 2 for n in range(chunk, length + chunk, chunk))
        self.register_buffer("rotations", torch.empty(heads, head_dimension, hashes, columns))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the rotations anew from torch's global generator."""
        self.rotations.normal_()

    def buckets(self, number: int) -> tuple[int, ...]:
        """Buckets of each partial hash for that many tokens, powers of 2; their product counts."""
        power = max(1, (2 * (-(-number // self.chunk))).bit_length() - 1)
        if 2**power <= 2 * self.chunk or power < 2:
            return (2**power,)
        return (2 ** (power // 2), 2 ** (power - power // 2))

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """As `Attention.attend`.

        Raises:
            ValueError: unless there are as many queries as keys.
        """
        number = same_number(queries, keys)
        missing = -number % self.chunk
        if missing and key_mask is None:
            key_mask = torch.ones(len(keys), number, dtype=torch.bool, device=keys.device)
        if key_mask is not None:
            key_mask = functional.pad(key_mask, (0, missing), value=False)
        shared = functional.pad(queries, (0, 0, 0, missing))
        values = functional.pad(values, (0, 0, 0, missing))
        bucket = self.hashed(shared.detach(), key_mask)
        order = bucket.argsort(dim=-1, stable=True)
        outputs, weights = self._chunked(shared, values, key_mask, order, bucket)
        back = order.argsort(-1)
        outputs = outputs.take_along_dim(back[..., None], 3)
        weights = weights.take_along_dim(back, 3).softmax(2)
        return (outputs * weights[..., None]).sum(2)[:, :, :number]

    @torch.no_grad()
    def hashed(self, shared: Tensor, mask: Tensor | None) -> Tensor:
        """Buckets (B, H, hashes, N) of vectors (B, H, N, D); masked ones get one more, the last."""
        rotations = torch.randn_like(self.rotations) if self.training else self.rotations
        rotated = torch.einsum("bhnd,hdrc->bhrnc", shared, rotations.to(shared.dtype))
        bucket, buckets, start = 0, 1, 0
        for size in self.buckets(shared.shape[2]):
            part = rotated[..., start : start + size // 2]
            bucket = bucket + buckets * torch.cat((part, -part), -1).argmax(-1)
            buckets, start = buckets * size, start + size // 2
        return bucket if mask is None else bucket.masked_fill(~mask[:, None, None, :], buckets)

    def _chunked(
        self, shared: Tensor, values: Tensor, mask: Tensor | None, order: Tensor, bucket: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Outputs (B, H, hashes, N, D_v) and log-sums (B, H, hashes, N) in the sorted order."""
        queries = self._chunks(_sorted(shared, order))
        # The root mean square, as the libraries have it; over sqrt(D) it makes keys of length 1.
        size = (queries.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * queries.shape[-1] ** -0.5
        near_keys = self._with_previous(queries * size)
        near_values = self._with_previous(self._chunks(_sorted(values, order)))
        place = self._chunks(order)
        near_place = self._with_previous(place)
        scores = queries @ near_keys.transpose(-1, -2)
        if mask is not None:
            real = mask[:, None, None, :].expand_as(order).gather(-1, order)
            real = self._with_previous(self._chunks(real))
            scores = scores.masked_fill(~real[..., None, :], MASKED_SCORE)
        if self.within_buckets:
            own = self._chunks(bucket.gather(-1, order))
            other = own[..., :, None] != self._with_previous(own)[..., None, :]
            scores = scores.masked_fill(other, MASKED_SCORE)
        itself = place[..., :, None] == near_place[..., None, :]
        scores = scores.masked_fill(itself, SELF_SCORE)
        outputs = scores.softmax(-1) @ near_values
        rounds = (self.hashes, -1)
        return (
            outputs.flatten(2, 3).unflatten(2, rounds),
            scores.logsumexp(-1).flatten(2, 3).unflatten(2, rounds),
        )

    def _chunks(self, rows: Tensor) -> Tensor:
        """(B, H, hashes, N, ...) to (B, H, hashes N / chunk, chunk, ...)."""
        return rows.flatten(2, 3).unflatten(2, (-1, self.chunk))

    def _with_previous(self, chunks: Tensor) -> Tensor:
        """Each chunk with the one before it, across the rounds; the first follows the last."""
        if chunks.shape[2] == self.hashes:
            return chunks
        return torch.cat((chunks.roll(1, 2), chunks), 3)


def _sorted(rows: Tensor, order: Tensor) -> Tensor:
    """Rows (B, H, N, D) in each order (B, H, hashes, N): (B, H, hashes, N, D)."""
    return rows[:, :, None].take_along_dim(order[..., None], 3)
