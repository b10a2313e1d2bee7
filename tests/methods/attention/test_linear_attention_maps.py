"""The linear methods against dense weights written out from their formulas."""

import math

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax

from sextant.methods.attention.cosformer import CosformerAttention
from sextant.methods.attention.hedgehog import HedgehogAttention
from sextant.methods.attention.linear_transformer import LinearTransformerAttention
from sextant.methods.attention.performer import PerformerAttention, orthogonal_gaussian
from sextant.methods.attention.polaformer import PolaformerAttention
from sextant.methods.attention.t2r import T2RAttention

B, H, N, M, D, V = 2, 3, 7, 9, 5, 4


@pytest.fixture
def rows():
    torch.manual_seed(0)
    shapes = (B, H, N, D), (B, H, M, D), (B, H, M, V)
    mask = torch.tensor([[True] * 6 + [False] + [True] * 2, [False] + [True] * 7 + [False]])
    return *(torch.randn(shape, dtype=torch.float64) for shape in shapes), mask


def dense(kernel, rows):
    """Row-normalised attention by a double loop; `kernel(head, i, q, j, k)` is a weight."""
    queries, keys, values, mask = (row.numpy() for row in rows)
    output = np.zeros((B, H, N, V))
    for entry in range(B):
        for head in range(H):
            for i, query in enumerate(queries[entry, head]):
                weights = np.array(
                    [
                        kernel(head, i, query, j, key) * mask[entry, j]
                        for j, key in enumerate(keys[entry, head])
                    ]
                )
                if weights.any():
                    output[entry, head, i] = weights @ values[entry, head] / weights.sum()
    return torch.tensor(output)


def elu_plus_1(x):
    return np.where(x > 0, x + 1, np.exp(x))


def test_linear_transformer(rows):
    expected = dense(lambda _, i, q, j, k: elu_plus_1(q) @ elu_plus_1(k), rows)
    torch.testing.assert_close(LinearTransformerAttention()(*rows), expected)


def test_linear_transformer_without_a_denominator(rows):
    queries, keys, values, mask = (row.numpy() for row in rows)
    queries = elu_plus_1(queries) / N**0.25
    keys = elu_plus_1(keys) / M**0.25 * mask[:, None, :, None]
    expected = queries @ keys.swapaxes(-1, -2) @ values
    found = LinearTransformerAttention(normaliser="length")(*rows)
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize(("length", "longest"), [(None, M), (20, 20)])
def test_cosformer(rows, length, longest):
    def kernel(_, i, q, j, k):
        return np.maximum(q, 0) @ np.maximum(k, 0) * math.cos(math.pi / 2 * (i - j) / longest)

    attend = CosformerAttention(length=length)
    torch.testing.assert_close(attend(*rows), dense(kernel, rows))


@pytest.mark.parametrize(("scaling", "power"), [("once", -0.25), ("twice", -0.5)])
def test_performer(rows, scaling, power):
    """The maxima cancel where nothing is added to the features, so that they are left out here."""
    attend = PerformerAttention(D, features=11, scaling=scaling, feature_epsilon=0.0).double()
    projection = attend.projection.numpy()

    def kernel(_, i, q, j, k):
        features = [np.exp(projection @ x - x @ x / 2) for x in (q * D**power, k * D**power)]
        return features[0] @ features[1]

    torch.testing.assert_close(attend(*rows), dense(kernel, rows))


def test_performer_adds_epsilon_below_the_maxima(rows):
    """The maxima are those of each query, and of all real keys of a batch entry and head."""
    attend = PerformerAttention(D, features=11, feature_epsilon=0.1).double()
    # Negative for every real key, so that a masked key, which is 0, would be the largest.
    rows[1].abs_()
    attend.projection.abs_().neg_()
    projection, mask = attend.projection.numpy(), rows[3].numpy()
    keys = rows[1].numpy() * D**-0.25
    largest = [
        [(keys[entry, head][mask[entry]] @ projection.T).max() for head in range(H)]
        for entry in range(B)
    ]

    def features(x, most):
        return (np.exp(projection @ x - x @ x / 2 - most) + 0.1) / math.sqrt(11)

    found = attend.key_features(rows[1], rows[3])
    for entry, head, j in np.ndindex(B, H, M):
        key = keys[entry, head, j]
        expected = features(key, largest[entry][head]) * mask[entry, j]
        torch.testing.assert_close(found[entry, head, j], torch.tensor(expected))
    found = attend.query_features(rows[0])
    query = rows[0][1, 2, 3].numpy() * D**-0.25
    expected = features(query, (projection @ query).max())
    torch.testing.assert_close(found[1, 2, 3], torch.tensor(expected))


@pytest.mark.parametrize(("scaling", "factor"), [("once", D**-0.5), ("twice", D**-1.0)])
def test_performer_estimates_a_softmax(rows, scaling, factor):
    torch.manual_seed(1)
    queries, keys, values, mask = rows
    scores = queries @ keys.transpose(-1, -2) * factor
    expected = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1) @ values
    errors = {
        option: abs(
            PerformerAttention(D, features=20_000, scaling=option, feature_epsilon=0.0)
            .double()(*rows)
            .sub(expected)
        ).mean()
        for option in ("once", "twice")
    }
    assert errors.pop(scaling) < 0.05
    # The bound tells the two scalings apart.
    assert min(errors.values()) > 0.1


def test_orthogonal_gaussian():
    torch.manual_seed(0)
    matrix = orthogonal_gaussian(4 * 300 + 2, 4)
    assert matrix.shape == (1202, 4)
    blocks = matrix[:1200].unflatten(0, (-1, 4))
    products = blocks @ blocks.transpose(1, 2)
    assert (products - torch.diag_embed(products.diagonal(dim1=1, dim2=2))).abs().max() < 1e-5
    # Each row is standard normal: mean 0, covariance I, and length by the chi distribution.
    assert matrix.mean(0).abs().max() < 0.1
    assert (matrix.T @ matrix / 1202 - torch.eye(4)).abs().max() < 0.15
    expected = math.sqrt(2) * math.gamma(2.5) / math.gamma(2)
    assert abs(matrix.norm(dim=1).mean() - expected) < 0.06


def test_hedgehog(rows):
    attend = HedgehogAttention(H, D).double()
    for parameter in attend.parameters():
        assert torch.equal(parameter, torch.eye(D).double().expand(H, D, D))
        torch.nn.init.normal_(parameter)
    query_maps, key_maps = (p.detach().numpy() for p in attend.parameters())

    def features(weight, x):
        return np.concatenate((softmax(weight @ x), softmax(-weight @ x)))

    def kernel(head, i, q, j, k):
        return features(query_maps[head], q) @ features(key_maps[head], k)

    torch.testing.assert_close(attend(*rows), dense(kernel, rows))


def test_hedgehog_in_the_exponential_form(rows):
    attend = HedgehogAttention(H, D, form="exponential").double()
    bound = 0.5 * math.sqrt(6 / (2 * D))
    assert 0 < attend.query_weight.abs().max() <= bound
    torch.nn.init.normal_(attend.query_weight, std=4.0)
    torch.nn.init.normal_(attend.bias)
    weight, bias = (p.detach().numpy() for p in (attend.query_weight, attend.bias))

    def features(head, x):
        return np.exp(np.clip(weight[head] @ x + bias[head, 0], -10, 10))

    expected = dense(lambda head, i, q, j, k: features(head, q) @ features(head, k), rows)
    torch.testing.assert_close(attend(*rows), expected)


def test_t2r(rows):
    torch.manual_seed(0)
    attend = T2RAttention(H, D, features=16).double()
    weight, bias = (p.detach().numpy() for p in (attend.weight, attend.bias))

    def features(head, x):
        return np.maximum(weight[head] @ x + bias[head, 0], 0)

    expected = dense(lambda head, i, q, j, k: features(head, q) @ features(head, k), rows)
    torch.testing.assert_close(attend(*rows), expected)


@pytest.mark.parametrize("alpha", [3.0, 7.0])
@pytest.mark.parametrize("gated", [False, True])
def test_polaformer(rows, alpha, gated):
    torch.manual_seed(0)
    attend = PolaformerAttention(H, D, alpha=alpha, gated=gated, value_dimension=V).double()
    torch.nn.init.normal_(attend.scale)
    torch.nn.init.normal_(attend.power)
    scale = np.log1p(np.exp(attend.scale.detach().numpy()))[:, 0]
    power = 1 + alpha * expit(attend.power.detach().numpy())[:, 0]

    def signs(head, x):
        x = x / scale[head]
        return np.maximum(x, 0) ** power[head], np.maximum(-x, 0) ** power[head]

    def same(head, i, q, j, k):
        (q1, q2), (k1, k2) = signs(head, q), signs(head, k)
        return q1 @ k1 + q2 @ k2

    def opposite(head, i, q, j, k):
        (q1, q2), (k1, k2) = signs(head, q), signs(head, k)
        return q1 @ k2 + q2 @ k1

    halves = dense(same, rows)[..., : V // 2], dense(opposite, rows)[..., V // 2 :]
    expected = torch.cat(halves, -1)
    if gated:
        expected = expected * torch.einsum("bhnd,hdv->bhnv", rows[0], attend.gate)
    torch.testing.assert_close(attend(*rows), expected)


@pytest.mark.parametrize(
    "attend",
    [
        LinearTransformerAttention(),
        PerformerAttention(D),
        HedgehogAttention(H, D),
        HedgehogAttention(H, D, form="exponential"),
        T2RAttention(H, D),
    ],
    ids=lambda attend: type(attend).__name__,
)
def test_features_are_what_the_output_is_made_of(attend, rows):
    """They are not negative and 0 for masked keys, and their products are the weights."""
    queries, keys, values, mask = rows
    attend = attend.double()
    first, second = attend.query_features(queries), attend.key_features(keys, mask)
    assert first.min() >= 0
    assert second.min() >= 0
    assert (second[~mask[:, None].expand(-1, H, -1)] == 0).all()
    weights = first @ second.transpose(-1, -2)
    expected = weights / weights.sum(-1, keepdim=True) @ values
    torch.testing.assert_close(attend(*rows), expected)


def test_bad_settings_are_named(rows):
    for kind, arguments, name in (
        (LinearTransformerAttention, {"normaliser": "column"}, "normaliser"),
        (LinearTransformerAttention, {"epsilon": 0.0}, "epsilon"),
        (CosformerAttention, {"epsilon": 0.0}, "epsilon"),
        (PerformerAttention, {"head_dimension": D, "features": 0}, "features"),
        (PerformerAttention, {"head_dimension": D, "scaling": "thrice"}, "scaling"),
        (PerformerAttention, {"head_dimension": D, "feature_epsilon": -1.0}, "feature_epsilon"),
        (HedgehogAttention, {"heads": H, "head_dimension": D, "form": "relu"}, "form"),
        (T2RAttention, {"heads": H, "head_dimension": D, "features": 0}, "features"),
        (T2RAttention, {"heads": H, "head_dimension": D, "epsilon": 0.0}, "epsilon"),
        (PolaformerAttention, {"heads": H, "head_dimension": D, "alpha": 0.0}, "alpha"),
        (PolaformerAttention, {"heads": H, "head_dimension": 0}, "head_dimension"),
    ):
        with pytest.raises(ValueError, match=name):
            kind(**arguments)
    with pytest.raises(ValueError, match="values must be 5 wide"):
        PolaformerAttention(H, D).double()(*rows)
