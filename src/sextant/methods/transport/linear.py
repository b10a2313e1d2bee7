"""Linear optimal transport: two clouds meet through the points of a fixed reference."""

from __future__ import annotations

import torch
from torch import Tensor

from sextant.methods.transport.exact import exact_pairs
from sextant.methods.transport.pairs import Pairs, in_batch_order


@torch.no_grad()
def linear_pairs(source: Tensor, target: Tensor, reference: Tensor) -> Pairs:
    """Pairs (e_{a(k)}, x_{b(k)}) where a and b match the reference to both sides exactly.

    Here a is the cheapest permutation from the reference to the source, b the one
    from the reference to the target. A bijection, in the order of the source; optimal in one
    dimension, and for a target that is a translated and positively scaled copy of the source.

    Args:
        source, target, reference: (n, *shape) each.

    Raises:
        TypeError, ValueError: as `flat_clouds`.
    """
    to_source = exact_pairs(reference, source).target_index
    to_target = exact_pairs(reference, target).target_index
    return in_batch_order(torch.empty_like(to_target).index_copy_(0, to_source, to_target))
