"""Softmax attention and its sparse relatives against dense references and libraries."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sextant.methods.attention.bigbird import BigBirdAttention
from sextant.methods.attention.informer import InformerAttention
from sextant.methods.attention.reformer import ReformerAttention
from sextant.methods.attention.softmax import SoftmaxAttention

B, H, N, D, V = 2, 2, 24, 4, 3


@pytest.fixture
def rows():
    torch.manual_seed(0)
    mask = torch.ones(B, N, dtype=torch.bool)
    mask[0, [2, 5, 11]] = False
    mask[1, 20:] = False
    return *(torch.randn(B, H, N, width, dtype=torch.float64) for width in (D, D, V)), mask


def dense(queries, keys, values, visible):
    """Softmax attention with True in visible (B, H or 1, N, N) where a query sees a key."""
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
    return scores.masked_fill(~visible, -torch.inf).softmax(-1) @ values


def split(rows):
    return rows.unflatten(-1, (H, -1)).transpose(1, 2)


def test_softmax(rows):
    queries, keys, values, mask = rows
    expected = dense(queries, keys, values, mask[:, None, None])
    torch.testing.assert_close(SoftmaxAttention()(*rows), expected)
    everything = torch.ones_like(mask)[:, None, None]
    found = SoftmaxAttention()(queries[:, :, :5], keys, values)
    expected = dense(queries[:, :, :5], keys, values, everything)
    torch.testing.assert_close(found, expected)


def neighbours(attend, blocks):
    """Which blocks see which, (H, blocks, blocks), written out from the definition."""
    graph = np.zeros((H, blocks, blocks), dtype=bool)
    graph[:, [0, -1]] = True
    graph[:, :, [0, -1]] = True
    for block in range(1, blocks - 1):
        graph[:, block, block - 1 : block + 2] = True
    if blocks > 2:
        seen, once = attend.seen_blocks(blocks)
        for head, row, column in np.ndindex(*seen.shape):
            if once[head, row, column]:
                graph[head, row + 1, seen[head, row, column]] = True
    return graph


@pytest.mark.parametrize("number", [3, 7, 12, 22, 24])
@pytest.mark.parametrize("random_blocks", [0, 2])
def test_bigbird_is_softmax_on_its_graph(rows, number, random_blocks):
    torch.manual_seed(1)
    attend = BigBirdAttention(H, length=N, block=2, random_blocks=random_blocks)
    *tensors, mask = (row[:, :, :number] if row.ndim == 4 else row[:, :number] for row in rows)
    blocks = -(-number // 2)
    graph = neighbours(attend, blocks).repeat(2, 1).repeat(2, 2)[:, :number, :number]
    visible = torch.tensor(graph) & mask[:, None, None]
    torch.testing.assert_close(attend(*tensors, mask), dense(*tensors, visible))


def test_bigbird_draws_further_blocks_without_repetition():
    torch.manual_seed(0)
    attend = BigBirdAttention(H, length=4000, block=4, random_blocks=3)
    seen, once = attend.seen_blocks(1000)
    assert seen.shape == once.shape == (H, 998, 8)
    for head, row in np.ndindex(H, 998):
        blocks = seen[head, row][once[head, row]].tolist()
        assert len(set(blocks)) == len(blocks) == (7 if row in (0, 997) else 8)
        assert {0, row, row + 1, row + 2, 999} <= set(blocks)
    drawn = seen[..., 5:].double()
    # Uniform over the blocks: mean 499.5, deviation 288.5 over 5,988 draws.
    assert abs(drawn.mean() - 499.5) < 15
    assert abs(drawn.std() - 288.5) < 10
    assert not torch.equal(seen[0], seen[1])
    # Where fewer are left, all of them are drawn, and nothing is hidden.
    assert neighbours(attend, 7).all()
    assert not neighbours(attend, 8).all()


@pytest.mark.parametrize("blocks", range(3, 9))
def test_bigbird_may_want_more_blocks_than_there_are(blocks):
    for seed in range(20):
        torch.manual_seed(seed)
        seen, once = BigBirdAttention(H, length=2 * blocks, block=2, random_blocks=5).seen_blocks(
            blocks
        )
        assert 0 <= seen.min() <= seen.max() < blocks
        for head, row in np.ndindex(*seen.shape[:2]):
            assert set(seen[head, row][once[head, row]].tolist()) == set(range(blocks))


def test_bigbird_is_the_library_s(rows):
    from transformers import BigBirdConfig
    from transformers.models.big_bird.modeling_big_bird import (
        BigBirdBlockSparseAttention,
        BigBirdModel,
    )

    config = BigBirdConfig(
        hidden_size=H * V, num_attention_heads=H, block_size=2, num_random_blocks=2
    )
    library = BigBirdBlockSparseAttention(config).double().eval()
    torch.manual_seed(0)
    attend = BigBirdAttention(H, length=N, block=2, random_blocks=2)
    drawn = attend.seen_blocks(N // 2)[0][..., 5:].numpy()
    library._bigbird_block_rand_mask_with_head = lambda **_: list(drawn)
    hidden = torch.randn(B, N, H * V, dtype=torch.float64)
    mask = torch.arange(N) < torch.tensor([[N], [17]])
    masks = BigBirdModel.create_masks_for_block_sparse_attn(mask.double(), 2)
    names = ("from_blocked_mask", "band_mask", "from_mask", "to_mask")
    masks = dict(zip(names, masks, strict=True))
    expected = library(hidden, to_blocked_mask=masks["from_blocked_mask"], **masks)[0]
    parts = (split(layer(hidden)) for layer in (library.query, library.key, library.value))
    found = attend(*parts, mask).transpose(1, 2).flatten(2)
    torch.testing.assert_close(found[mask], expected[mask])


def lsh_reference(attend, shared, values, mask):
    """One batch entry and head after the other, token by token; all numbers are arrays."""
    chunk, rounds = attend.chunk, attend.hashes
    bucket = attend.hashed(torch.tensor(shared), torch.tensor(mask)).numpy()
    output = np.zeros((*shared.shape[:3], values.shape[-1]))
    for entry, head in np.ndindex(*shared.shape[:2]):
        rows, value = shared[entry, head], values[entry, head]
        keys = rows / np.sqrt((rows**2).sum(-1, keepdims=True) + rows.shape[-1] * 1e-6)
        order = []
        for own in bucket[entry, head]:
            order += sorted(range(len(rows)), key=lambda token, own=own: (own[token], token))
        sums, outputs = np.zeros((rounds, len(rows))), np.zeros((rounds, len(rows), value.shape[1]))
        for position, token in enumerate(order):
            this_round, start = position // len(rows), position // chunk * chunk
            near = [p % len(order) for p in range(start - chunk, start + chunk)]
            if len(order) == rounds * chunk:
                near = near[chunk:]
            scores = []
            for other in near:
                key = order[other]
                score = rows[token] @ keys[key]
                same = bucket[entry, head, other // len(rows), key]
                hidden = attend.within_buckets and same != bucket[entry, head, this_round, token]
                # The other round's buckets are numbered alike, and count as the same bucket.
                if hidden or not mask[entry, key]:
                    score = -1e9
                if key == token:
                    score = -1e5
                scores.append(score)
            scores = np.array(scores)
            largest = scores.max()
            weights = np.exp(scores - largest)
            sums[this_round, token] = largest + np.log(weights.sum())
            outputs[this_round, token] = weights @ value[[order[p] for p in near]] / weights.sum()
        weights = np.exp(sums - sums.max(0))
        output[entry, head] = (outputs * (weights / weights.sum(0))[..., None]).sum(0)
    return torch.tensor(output)


@pytest.mark.parametrize("within_buckets", [False, True])
@pytest.mark.parametrize("chunk", [2, 4, N])
def test_reformer_is_its_definition(rows, chunk, within_buckets):
    torch.manual_seed(0)
    attend = ReformerAttention(H, D, N, chunk=chunk, within_buckets=within_buckets).double().eval()
    queries, keys, values, mask = rows
    shared = queries.masked_fill(~mask[:, None, :, None], 0).numpy()
    masked_values = values.masked_fill(~mask[:, None, :, None], 0).numpy()
    expected = lsh_reference(attend, shared, masked_values, mask.numpy())
    kept = mask[:, None].expand(-1, H, -1)
    torch.testing.assert_close(attend(*rows)[kept], expected[kept])
    assert torch.equal(attend(queries, torch.randn_like(keys), values, mask), attend(*rows))


def test_reformer_fills_up_the_last_chunk(rows):
    attend = ReformerAttention(H, D, N, chunk=4).double().eval()
    short = [row[:, :, :21] for row in rows[:3]]
    wide = [nn.functional.pad(row, (0, 0, 0, 3), value=7.0) for row in short]
    mask = (torch.arange(N) < 21).expand(B, N)
    torch.testing.assert_close(attend(*short), attend(*wide, mask)[:, :, :21])


@pytest.mark.parametrize(("buckets", "chunk"), [(8, 6), ([4, 4], 3)])
def test_reformer_is_the_library_s(rows, buckets, chunk):
    from transformers import ReformerConfig
    from transformers.models.reformer.modeling_reformer import LSHSelfAttention

    config = ReformerConfig(
        hidden_size=H * D,
        num_attention_heads=H,
        attention_head_size=D,
        num_hashes=2,
        lsh_attn_chunk_length=chunk,
        num_buckets=buckets,
        hash_seed=5,
        lsh_attention_probs_dropout_prob=0.0,
    )
    library = LSHSelfAttention(config).double().eval()
    attend = ReformerAttention(H, D, N, chunk=chunk).double().eval()
    assert list(attend.buckets(N)) == (buckets if isinstance(buckets, list) else [buckets])
    torch.manual_seed(5)
    attend.rotations.copy_(torch.randn(attend.rotations.shape, dtype=torch.float64))
    hidden = torch.randn(B, N, H * D, dtype=torch.float64)
    mask = rows[3]
    expected = library(hidden, attention_mask=mask).hidden_states
    queries, values = split(library.query_key(hidden)), split(library.value(hidden))
    found = attend(queries, queries, values, mask).transpose(1, 2).flatten(2)
    torch.testing.assert_close(found[mask], expected[mask])


def test_reformer_hashes_by_angle():
    """Close directions share buckets far more often than others; lengths do not matter."""
    torch.manual_seed(0)
    attend = ReformerAttention(1, 16, 512, hashes=64, chunk=64).eval()
    vectors = torch.randn(1, 1, 512, 16)
    near = vectors + 0.1 * torch.randn_like(vectors)
    bucket = attend.hashed(vectors, None)
    assert bucket.min() == 0
    assert bucket.max() == 15
    assert torch.equal(attend.hashed(5 * vectors, None), bucket)
    assert (attend.hashed(near, None) == bucket).double().mean() > 0.8
    assert abs((bucket.roll(1, -1) == bucket).double().mean() - 1 / 16) < 0.02
    attend.train()
    assert not torch.equal(attend.hashed(vectors, None), attend.hashed(vectors, None))


@pytest.mark.parametrize("features", [3, 6])
def test_informer_is_its_definition(rows, features):
    torch.manual_seed(0)
    attend = InformerAttention(length=N, features=features).eval()
    factor = math.ceil(features / math.log(N))
    places, found = attend.places.double().numpy(), attend(*rows).numpy()
    attending = 0
    for entry, head in np.ndindex(B, H):
        mask = rows[3][entry].numpy()
        queries, keys, values = (row[entry, head].numpy()[mask] for row in rows[:3])
        count = min(factor * math.ceil(math.log(len(keys))), len(keys))
        drawn = keys[(places[: factor * math.ceil(math.log(len(keys)))] * len(keys)).astype(int)]
        scores = queries @ drawn.T * D**-0.5
        preference = scores.max(1) - scores.mean(1)
        expected = np.repeat(values.mean(0)[None], len(keys), 0)
        for query in np.argsort(-preference)[:count]:
            weights = np.exp(queries[query] @ keys.T * D**-0.5)
            expected[query] = weights @ values / weights.sum()
            attending += 1
        np.testing.assert_allclose(found[entry, head][mask], expected)
    assert attending < H * rows[3].sum()


def test_informer_with_enough_queries_is_softmax(rows):
    attend = InformerAttention(length=N, features=4 * N)
    queries, keys, values, mask = rows
    expected = dense(queries, keys, values, mask[:, None, None])
    kept = mask[:, None].expand(-1, H, -1)
    torch.testing.assert_close(attend(*rows)[kept], expected[kept])
    torch.testing.assert_close(attend(*rows[:3]), SoftmaxAttention()(*rows[:3]))


def test_informer_draws_anew_only_in_training(rows):
    torch.manual_seed(0)
    attend = InformerAttention(length=N, features=3).double()
    assert any(not torch.equal(attend(*rows), attend(*rows)) for _ in range(5))
    attend.eval()
    assert torch.equal(attend(*rows), attend(*rows))


def test_bad_settings_are_named(rows):
    sizes = {"heads": H, "head_dimension": D, "length": N}
    for kind, changes in (
        (BigBirdAttention, {"block": 0}),
        (BigBirdAttention, {"random_blocks": -1}),
        (ReformerAttention, {"hashes": 0}),
        (ReformerAttention, {"chunk": 0}),
        (InformerAttention, {"features": 0}),
        (InformerAttention, {"length": 0}),
    ):
        with pytest.raises(ValueError, match=next(iter(changes))):
            kind(**(sizes | changes))
    for kind in (BigBirdAttention, ReformerAttention):
        with pytest.raises(ValueError, match="queries must be as many as the keys"):
            kind(**sizes).double()(rows[0][:, :, :5], *rows[1:])
