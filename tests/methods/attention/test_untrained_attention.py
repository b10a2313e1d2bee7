"""Attentions made anew for every length are those of the class, drawn by seed and length alone."""

import pytest
import torch

from sextant.contracts import Streams
from sextant.methods.attention.bigbird import BigBirdAttention
from sextant.methods.attention.linformer import LinformerAttention
from sextant.methods.attention.luna.attention import LunaAttention
from sextant.methods.attention.nystromformer import NystromformerAttention
from sextant.methods.attention.softmax import SoftmaxAttention
from sextant.methods.attention.untrained import UntrainedAttention

SIZES = {"heads": 2, "head_dimension": 8, "length": 16}


def begun(attention, seed=0, **settings):
    student = UntrainedAttention(attention, **settings)
    student.prepare(Streams(seed), {}, None)
    return student


def test_an_attention_is_made_for_its_length():
    student = begun(LinformerAttention(**SIZES, features=128))
    assert student.attention(24).projection.shape == (2, 128, 24)
    assert student.attention(24).training
    blocks = begun(BigBirdAttention(**SIZES))
    assert blocks.attention(640).places.shape[1] == 10


def test_weights_depend_on_seed_and_length_alone():
    one, again, other = (begun(LunaAttention(**SIZES), seed) for seed in (0, 0, 1))
    again.attention(32)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    weights = [student.attention(64).state_dict() for student in (one, again, other)]
    assert torch.equal(torch.get_rng_state(), before)
    key = next(name for name in weights[0] if "projection" in name)
    assert torch.equal(weights[0][key], weights[1][key])
    assert not torch.equal(weights[0][key], weights[2][key])
    assert not torch.equal(weights[0][key], one.attention(32).state_dict()[key])


def test_defaults_may_be_spelled_out():
    begun(LunaAttention(**SIZES, features=128, channels=8, hidden=64))
    begun(NystromformerAttention(**SIZES, features=128))


@pytest.mark.parametrize(
    ("attention", "place"),
    [
        (lambda: LunaAttention(**SIZES, hidden=32), "feature_map"),
        (lambda: LunaAttention(**SIZES, learn_projection=False), "projection"),
        (lambda: NystromformerAttention(**SIZES, features=64), "features"),
        (lambda: LinformerAttention(**SIZES, features=64), "projection"),
        (lambda: BigBirdAttention(**SIZES, random_blocks=2), "places, random_blocks"),
    ],
)
def test_other_settings_are_refused(attention, place):
    """They would be lost at every length but the first."""
    with pytest.raises(ValueError, match=f"default settings of its class, got others at .*{place}"):
        UntrainedAttention(attention())


def test_settings_are_checked_and_named():
    with pytest.raises(ValueError, match="longest must be at least 1, got 0"):
        UntrainedAttention(SoftmaxAttention(**SIZES), longest=0)
    for name in SIZES:
        with pytest.raises(ValueError, match=f"attention must be made with {name}, got None"):
            UntrainedAttention(SoftmaxAttention(**SIZES | {name: None}))
    short = begun(SoftmaxAttention(**SIZES), longest=32)
    assert short.attention(32).length == 32
    with pytest.raises(ValueError, match="length must be at most 32, got 33"):
        short.attention(33)
    with pytest.raises(RuntimeError, match="prepare"):
        UntrainedAttention(SoftmaxAttention(**SIZES)).attention(4)
