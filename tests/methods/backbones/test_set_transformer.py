"""The set transformer against attention written out head by head."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from sextant.methods.backbones.set_transformer import (
    AttentionBlock,
    InducedBlock,
    SetBlock,
    SetTransformer,
)


def by_hand(block, queries, keys):
    """One cloud (n, c) against (m, c), one head and one query at a time."""
    query, key, value = block.query(queries), block.key(keys), block.value(keys)
    width = query.shape[1]
    share = width // block.heads
    columns = []
    for first in range(0, width, share):
        part = slice(first, first + share)
        rows = []
        for row in query[:, part]:
            weights = torch.exp(key[:, part] @ row / math.sqrt(width))
            rows.append((weights / weights.sum()) @ value[:, part])
        columns.append(torch.stack(rows))
    hidden = block.attention_norm(query + torch.cat(columns, 1))
    return block.output_norm(hidden + functional.relu(block.output(hidden)))


def scrambled(block):
    """Norms with weights that are not 1 and 0, so that swapping them shows."""
    for part in block.modules():
        if isinstance(part, nn.LayerNorm):
            nn.init.normal_(part.weight, 1.0, 0.3)
            nn.init.normal_(part.bias, 0.0, 0.3)
    return block.double()


def test_attention_is_what_the_formula_says():
    torch.manual_seed(0)
    block = scrambled(AttentionBlock(3, 5, 12, heads=4))
    queries = torch.randn(7, 3, dtype=torch.float64)
    keys = torch.randn(9, 5, dtype=torch.float64)
    torch.testing.assert_close(block(queries, keys), by_hand(block, queries, keys))


def test_the_whole_network_is_its_blocks():
    torch.manual_seed(1)
    network = scrambled(SetTransformer(2, 3, width=8, heads=2, inducing=4))
    hidden = points = torch.randn(10, 2, dtype=torch.float64)
    first, second, third, fourth = network.blocks
    for block in (first, second):
        summary = by_hand(block.summary, block.inducing, hidden)
        hidden = by_hand(block.attention, hidden, summary)
    for block in (third, fourth):
        hidden = by_hand(block.attention, hidden, hidden)
    torch.testing.assert_close(network(points), network.head(hidden))


def test_a_batch_is_its_sets_one_by_one():
    torch.manual_seed(2)
    network = SetTransformer(3, 2, width=8, heads=4, inducing=3).double()
    sets = torch.randn(2, 4, 6, 3, dtype=torch.float64)
    alone = torch.stack([torch.stack([network(points) for points in row]) for row in sets])
    torch.testing.assert_close(network(sets), alone)


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("inputs", "width", "heads", "inducing"), [(2, 8, 2, 3), (6, 16, 4, 5)])
def test_parameter_counts(inputs, width, heads, inducing):
    def attention(queries, keys):
        linear = (queries + 1) * width + 2 * (keys + 1) * width + (width + 1) * width
        return linear + 4 * width

    induced = attention(width, inputs) + attention(inputs, width) + inducing * width
    assert parameters(InducedBlock(inputs, width, heads, inducing)) == induced
    assert parameters(SetBlock(inputs, width, heads)) == attention(inputs, inputs)
    second = 2 * attention(width, width) + inducing * width
    whole = induced + second + 2 * attention(width, width) + (width + 1) * 3
    assert parameters(SetTransformer(inputs, 3, width, heads, inducing)) == whole


def test_fresh_weights_replace_every_parameter():
    network = SetTransformer(2, 1, width=8, heads=2, inducing=3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(7.0)
    network.reset_parameters()
    assert all((parameter.abs() <= 1).all() for parameter in network.parameters())
    assert all(block.inducing.std() > 0 for block in network.blocks[:2])


def test_bad_sizes_are_named():
    for name in ("query_width", "key_width", "width", "heads"):
        sizes = {"query_width": 2, "key_width": 2, "width": 4, "heads": 2} | {name: 0}
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            AttentionBlock(**sizes)
    with pytest.raises(ValueError, match="multiple of the 3 heads"):
        AttentionBlock(2, 2, 4, 3)
    with pytest.raises(ValueError, match="inducing"):
        InducedBlock(2, 4, 2, 0)
    with pytest.raises(ValueError, match="inputs"):
        SetTransformer(0, 1)
    with pytest.raises(ValueError, match="outputs"):
        SetTransformer(1, 0)
