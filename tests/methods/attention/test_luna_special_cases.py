"""Random features inside LUNA's template against kernel attention and FAVOR+ as published."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sextant.methods.attention.luna.feature_map import FeatureMap
from sextant.methods.attention.luna.special_cases import positive_random, random_fourier


def tokens(scale: float = 1.0) -> list[Tensor]:
    torch.manual_seed(0)
    return [scale * torch.randn(2, 2, 30, 8).double() for _ in range(2)] + [
        torch.randn(2, 2, 30, 3).double()
    ]


def test_many_fourier_features_are_gaussian_attention():
    queries, keys, values = tokens(0.7)
    attention = random_fourier(heads=2, head_dimension=8, features=20_000, sigma=1.5).double()
    kernel = torch.exp(-torch.cdist(queries, keys).square() / (2 * 1.5**2))
    expected = kernel @ values / kernel.sum(-1, keepdim=True)
    assert (attention(queries, keys, values) - expected).abs().max() < 0.03
    assert list(attention.parameters()) == []


def test_many_positive_features_are_softmax_attention():
    queries, keys, values = tokens(0.5)
    attention = positive_random(heads=2, head_dimension=8, features=20_000).double()
    expected = torch.nn.functional.scaled_dot_product_attention(queries, keys, values)
    assert (attention(queries, keys, values) - expected).abs().max() < 0.03
    assert list(attention.parameters()) == []


def favor(queries: Tensor, keys: Tensor, values: Tensor, w: Tensor) -> Tensor:
    """FAVOR+ as published: a maximum subtracted a query, and one for all keys of a head."""
    scale = queries.shape[-1] ** -0.25

    def exponents(x: Tensor) -> Tensor:
        return scale * x @ w.T - (scale * x).square().sum(-1, keepdim=True) / 2

    of_queries, of_keys = exponents(queries), exponents(keys)
    of_queries = torch.exp(of_queries - of_queries.amax(-1, keepdim=True))
    of_keys = torch.exp(of_keys - of_keys.amax((-1, -2), keepdim=True))
    weights = of_queries @ of_keys.transpose(-1, -2)
    return weights @ values / weights.sum(-1, keepdim=True)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_positive_features_are_those_of_favor(scale):
    queries, keys, values = tokens(scale)
    attention = positive_random(head_dimension=8, features=64).double()
    attention.epsilon = 1e-300
    expected = favor(queries, keys, values, attention.feature_map.projection)
    torch.testing.assert_close(attention(queries, keys, values), expected, rtol=1e-8, atol=1e-10)


def test_orthogonal_blocks_lower_the_error():
    queries, keys, _ = tokens(0.5)
    kernel = torch.exp(-torch.cdist(queries, keys).square() / 2)

    def error(orthogonal: bool) -> float:
        maps = [
            random_fourier(head_dimension=8, features=64, orthogonal=orthogonal).feature_map
            for _ in range(40)
        ]
        estimates = [m.double()(queries) @ m(keys).transpose(-1, -2) for m in maps]
        return torch.stack([(e - kernel).square().mean() for e in estimates]).mean().item()

    assert error(True) < 0.8 * error(False)


def average(draw: Callable[[], Tensor]) -> Tensor:
    torch.manual_seed(0)
    return torch.stack([draw().detach() for _ in range(2000)]).mean(0)


def test_orthogonal_rows_have_the_mean_0_of_a_gaussian():
    def fourier() -> Tensor:
        attention = random_fourier(head_dimension=8, features=32, sigma=0.5, orthogonal=True)
        return attention.feature_map.projection / 2

    means = average(lambda: positive_random(head_dimension=8, features=16).feature_map.projection)
    assert means.abs().max() < 0.1
    assert average(fourier).abs().max() < 0.1
    again = positive_random(head_dimension=8, features=16)

    def drawn_anew() -> Tensor:
        again.reset_parameters()
        return again.feature_map.projection.clone()

    assert average(drawn_anew).abs().max() < 0.1
    plain = average(lambda: FeatureMap(8, 16, orthogonal=True, scale=1.0).projection)
    assert plain.abs().max() < 0.1


def test_the_mean_of_many_orthogonal_estimates_is_the_kernel():
    queries, keys = (rows[0, 0].float() for rows in tokens(0.5)[:2])
    kernel = torch.exp(queries @ keys.T / 8**0.5)

    def estimate() -> Tensor:
        phi = positive_random(head_dimension=8, features=8).feature_map
        return phi(queries) @ phi(keys).T

    assert (average(estimate) / kernel - 1).abs().mean() < 0.03


def test_rows_are_orthogonal_also_when_they_are_drawn_anew():
    torch.manual_seed(0)
    for attention in (
        positive_random(head_dimension=8, features=20),
        random_fourier(head_dimension=8, features=40, sigma=2.0, orthogonal=True),
    ):
        other = copy.deepcopy(attention)
        other.reset_parameters()
        first, second = attention.feature_map.projection, other.feature_map.projection
        assert (first - second).abs().max() > 0.1
        for rows in (first, second):
            for block in rows.split(8):
                products = block @ block.T
                assert (products - products.diag().diag()).abs().max() < 1e-4
                assert products.diag().min() > 0.1


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="sigma must be positive"):
        random_fourier(sigma=0.0)
    with pytest.raises(ValueError, match="multiple of the 2 channels"):
        random_fourier(features=7)
