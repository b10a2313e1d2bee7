"""A GPT-type model as a recurrent one."""

from __future__ import annotations

import pytest
import torch

from sextant.conversion import StreamingCache, convert
from tests.methods.conversion.models import decoder, encoder


def test_only_a_causal_attention_is_let_into_a_decoder():
    for name in ("softmax", "hedgehog"):
        with pytest.raises(ValueError, match=f"causal for a decoder, one of luna; {name}"):
            convert(decoder(), name)


def test_the_future_is_not_seen():
    converted = convert(decoder(), "luna")
    ids = torch.randint(1, 60, (2, 12))
    other = ids.clone()
    other[:, 7:] = 1
    first, second = converted(ids).logits, converted(other).logits
    torch.testing.assert_close(first[:, :7], second[:, :7])
    assert not torch.allclose(first[:, 8:], second[:, 8:])


@pytest.mark.parametrize("cached", ["streaming", "keys kept"])
def test_cached_generation_equals_the_parallel_form_token_for_token(cached):
    converted = convert(decoder(), "luna")
    ids = torch.randint(1, 60, (3, 5))
    options = {"max_new_tokens": 14, "do_sample": False, "output_logits": True,
               "return_dict_in_generate": True, "attention_mask": torch.ones_like(ids)}  # fmt: skip
    if cached == "streaming":
        options["past_key_values"] = StreamingCache(converted)
    with torch.no_grad():
        answer = converted.generate(ids, **options)
        parallel = converted(answer.sequences).logits[:, 4:-1]
        plain = converted.generate(ids, use_cache=False, **{**options, "past_key_values": None})
    assert answer.sequences.shape == (3, 19)
    assert torch.equal(answer.sequences, plain.sequences)
    assert torch.equal(parallel.argmax(-1), answer.sequences[:, 5:])
    torch.testing.assert_close(torch.stack(answer.logits, 1), parallel, atol=1e-5, rtol=1e-4)


def test_padding_on_the_left_and_beams():
    converted = convert(decoder(), "luna")
    ids = torch.randint(1, 60, (1, 4))
    padded = torch.cat((torch.zeros(1, 3, dtype=torch.long), ids), 1)
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": 2}
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    cache = StreamingCache(converted)
    left = converted.generate(padded, attention_mask=mask, past_key_values=cache, **options)
    alone = converted.generate(ids, attention_mask=torch.ones_like(ids), **options)
    assert torch.equal(left[:, 7:], alone[:, 4:])
    assert cache.layers[0].state.summary.shape == (2, 2, 128, 8)


def test_what_a_state_cannot_do_is_refused():
    converted = convert(decoder(), "luna")
    ids = torch.randint(1, 60, (1, 6))
    with pytest.raises(ValueError, match="output_attentions must be False"):
        converted(ids, output_attentions=True)
    cache = StreamingCache(converted)
    converted(ids, past_key_values=cache)
    with pytest.raises(ValueError, match="cannot be cropped"):
        cache.crop(2)
    with pytest.raises(ValueError, match="a static cache does not"):
        converted.generate(ids, max_new_tokens=3, cache_implementation="static")
    with pytest.raises(ValueError, match="must be a decoder that was converted"):
        StreamingCache(encoder())
