"""What LUNA's attention, and the interface of all attentions, refuse, and in which words."""

import pytest
import torch
from torch import Tensor

from sextant.errors import UserError
from sextant.methods.attention.luna.attention import LunaAttention
from sextant.runs.build import build


def tokens() -> tuple[Tensor, Tensor, Tensor]:
    """Queries (2, 3, 9, 6), keys (2, 3, 13, 6) and values (2, 3, 13, 5)."""
    return torch.randn(2, 3, 9, 6), torch.randn(2, 3, 13, 6), torch.randn(2, 3, 13, 5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"features": 100}, "features must be a positive multiple of the 8 channels, got 100"),
        ({"features": 0}, "features must be a positive multiple"),
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"heads": 0}, "heads must be at least 1 or None"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        LunaAttention(**setting)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"queries": torch.zeros(2, 3, 6)}, ValueError, "queries must be"),
        ({"queries": torch.zeros(2, 3, 9, 6).double()}, TypeError, "keys must be floating point"),
        ({"keys": torch.zeros(2, 2, 13, 6)}, ValueError, "keys must have the batch and heads"),
        ({"keys": torch.zeros(2, 3, 13, 7)}, ValueError, "keys must be as wide"),
        ({"values": torch.zeros(2, 3, 12, 5)}, ValueError, "values must be as many as the keys"),
        ({"values": torch.zeros(2, 3, 13, 5).long()}, TypeError, "values must be floating point"),
        ({"key_mask": torch.ones(2, 13)}, TypeError, "key_mask must be bool"),
        ({"key_mask": torch.ones(2, 9).bool()}, ValueError, "key_mask must be"),
    ],
)
def test_tensors_that_do_not_go_together_are_refused(change, error, message):
    queries, keys, values = tokens()
    inputs = {"queries": queries, "keys": keys, "values": values} | change
    with pytest.raises(error, match=message):
        LunaAttention(head_dimension=6)(**inputs)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"heads": 2}, "2 heads, got 3"), ({"length": 12}, "at most 12 long, got 13")],
)
def test_tokens_that_were_not_announced_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        LunaAttention(head_dimension=6, **setting)(*tokens())
    with pytest.raises(ValueError, match="must be 32 wide, got 6"):
        LunaAttention()(*tokens())


def test_settings_build_it_and_a_misspelt_one_is_refused():
    target = {"_target_": "sextant.methods.attention.luna.attention.LunaAttention"}
    sizes = {"heads": 2, "head_dimension": 8, "features": 16, "channels": 4, "hidden": 8}
    assert build(target | sizes).feature_map.features == 16
    with pytest.raises(UserError, match="hiddn"):
        build(target | sizes | {"hiddn": 3})
    with pytest.raises(UserError, match="dimension"):
        build(target | sizes | {"dimension": 3})
