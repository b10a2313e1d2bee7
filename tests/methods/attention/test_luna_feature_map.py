"""LUNA's feature map against torch's own layers, kernels in closed form and the paper's numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sextant.methods.attention.luna.feature_map import FeatureMap

NONNEGATIVE = ["relu", "softplus", "exp", "none"]
OUTER = {
    "relu": nn.ReLU(),
    "softplus": nn.Softplus(),
    "exp": torch.exp,
    "none": nn.Identity(),
}
INNER = {"relu": nn.ReLU(), "gelu": nn.GELU(), "silu": nn.SiLU(), "tanh": nn.Tanh()}


def listed(feature_map: FeatureMap, tokens: Tensor) -> Tensor:
    """The paper's listing: linear layers on scalars, one number and one channel after the other."""
    functions = feature_map.channel_functions
    first_weight, first_bias, second_weight, second_bias = functions.layers()
    activation = INNER[functions.activation]
    features = []
    for w, b in zip(feature_map.projection, feature_map.bias, strict=True):
        scalar = (tokens @ w + b)[..., None]
        for channel in range(feature_map.channels):
            own = channel if functions.separate else slice(None)
            first = nn.Linear(1, functions.hidden, dtype=tokens.dtype)
            second = nn.Linear(functions.hidden, 1, dtype=tokens.dtype)
            with torch.no_grad():
                first.weight.copy_(first_weight[own][:, None])
                first.bias.copy_(first_bias[own])
                second.weight.copy_(second_weight[channel][None])
                second.bias.copy_(second_bias[channel])
            value = OUTER[feature_map.nonnegative](second(activation(first(scalar))))
            features.append(value[..., 0] / math.sqrt(feature_map.projections))
    return torch.stack(features, -1)


@pytest.mark.parametrize("nonnegative", NONNEGATIVE)
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("activation", sorted(INNER))
def test_features_are_those_of_the_listing(nonnegative, separate, activation):
    feature_map = FeatureMap(
        5, 3, 4, hidden=7, separate=separate, activation=activation, nonnegative=nonnegative
    ).double()
    nn.init.normal_(feature_map.bias)
    tokens = torch.randn(2, 3, 11, 5, dtype=torch.float64)
    features = feature_map(tokens)
    assert features.shape == (2, 3, 11, 12)
    torch.testing.assert_close(features, listed(feature_map, tokens), rtol=1e-12, atol=1e-12)
    if nonnegative != "none":
        assert (features >= 0).all()
    torch.testing.assert_close(
        feature_map(tokens, feature_map.tabulate(torch.float64)), features, rtol=1e-12, atol=1e-12
    )


@given(st.permutations(range(6)))
@settings(max_examples=10, deadline=None)
def test_every_token_stands_for_itself(order):
    feature_map = FeatureMap(4, 3, 2, hidden=5)
    tokens = torch.randn(1, 1, 6, 4)
    torch.testing.assert_close(
        feature_map(tokens)[:, :, order], feature_map(tokens[:, :, order]), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("nonnegative", NONNEGATIVE)
@pytest.mark.parametrize("envelope", ["none", "softplus", "expnorm"])
def test_kernel_is_positive_semidefinite_and_of_low_rank(nonnegative, envelope):
    feature_map = FeatureMap(6, 4, 3, nonnegative=nonnegative, envelope=envelope).double()
    features = feature_map(torch.randn(40, 6, dtype=torch.float64)).detach()
    eigenvalues = torch.linalg.eigvalsh(features @ features.T)
    assert eigenvalues[0] >= -1e-12 * eigenvalues[-1]
    assert torch.linalg.matrix_rank(features @ features.T) <= 12


def test_separate_perceptrons_with_the_shared_weights_are_the_shared_one():
    shared = FeatureMap(6, 4, 3, hidden=9)
    separate = FeatureMap(6, 4, 3, hidden=9, separate=True)
    state = shared.state_dict()
    for name in ("channel_functions.first_weight", "channel_functions.first_bias"):
        state[name] = state[name].expand(3, 9).clone()
    separate.load_state_dict(state)
    tokens = torch.randn(7, 6)
    torch.testing.assert_close(separate(tokens), shared(tokens), rtol=1e-5, atol=1e-6)


def test_parameters_are_as_many_as_computed():
    def count(**settings):
        return sum(p.numel() for p in FeatureMap(32, **settings).parameters())

    assert count() == 1176
    assert count(envelope="softplus") == 1176 + 33
    assert count(learn_projection=False) == 1176 - 16 * 33
    assert count(learn_channels=False) == 16 * 33
    assert count(separate=True) == 16 * 33 + 8 * (64 * 3 + 1)


def test_what_is_frozen_is_kept_with_the_state_and_has_no_gradient():
    frozen = FeatureMap(8, learn_projection=False, learn_channels=False, envelope="softplus")
    assert set(dict(frozen.named_parameters())) == {"envelope_weight", "envelope_bias"}
    assert set(frozen.state_dict()) == set(FeatureMap(8, envelope="softplus").state_dict())


@pytest.mark.parametrize("separate", [False, True])
def test_learnt_parts_start_as_in_torch_and_are_drawn_again(separate):
    torch.manual_seed(3)
    feature_map = FeatureMap(
        64, 256, 8, separate=separate, output_bias=0.5, envelope="softplus", nonnegative="softplus"
    )
    assert feature_map.projection.std().item() == pytest.approx(64**-0.5, rel=0.02)
    assert (feature_map.bias == 0).all()
    functions = feature_map.channel_functions
    assert functions.first_weight.abs().max() <= 1
    assert 0.9 / 8 < functions.second_weight.abs().max() <= 1 / 8
    assert (functions.second_bias == 0.5).all()
    tokens = torch.randn(5, 64)
    torch.testing.assert_close(feature_map.scale_of(tokens), torch.ones(5))
    before = {name: tensor.clone() for name, tensor in feature_map.state_dict().items()}
    feature_map.reset_parameters()
    assert not torch.equal(before["projection"], feature_map.projection)
    torch.manual_seed(11)
    feature_map.reset_parameters()
    again = FeatureMap(64, 256, 8, separate=separate, output_bias=0.5, envelope="softplus")
    torch.manual_seed(11)
    again.reset_parameters()
    for name, tensor in feature_map.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_orthogonal_blocks_have_gaussian_lengths():
    feature_map = FeatureMap(16, 40, orthogonal=True, scale=2.0)
    for block in feature_map.projection.detach().split(16):
        gram = block @ block.T
        torch.testing.assert_close(
            gram - gram.diagonal().diag(), torch.zeros_like(gram), atol=1e-3, rtol=0
        )
    squares = FeatureMap(16, 4000, orthogonal=True, scale=2.0).projection.square().sum(1)
    assert squares.mean().item() == pytest.approx(4 * 16, rel=0.03)
    assert squares.var().item() == pytest.approx(16 * 2 * 16, rel=0.15)  # chi squared


def test_cap_shrinks_only_channels_above_it():
    free = FeatureMap(6, 4, 3, nonnegative="softplus").double()
    tokens = torch.randn(2, 2, 30, 6, dtype=torch.float64)

    def sizes(features):
        channels = 2 * features.unflatten(-1, (4, 3))  # without 1 / sqrt(m)
        return channels.square().flatten(0, -2).mean(0).sqrt()

    before = sizes(free(tokens))
    limit = before.median().item()
    free.cap = limit
    after = sizes(free(tokens))
    assert (after <= before).all()
    assert (after <= limit).all()
    torch.testing.assert_close(after, before.clamp(max=limit), rtol=1e-4, atol=0)
    free.cap = 2 * before.max().item()
    torch.testing.assert_close(sizes(free(tokens)), before, rtol=0, atol=0)


def test_cap_depends_on_the_batch():
    feature_map = FeatureMap(6, 4, 3, cap=0.1)
    tokens = torch.randn(2, 1, 10, 6) * torch.tensor([1.0, 5.0])[:, None, None, None]
    parts = torch.cat([feature_map(part) for part in tokens.split(1)])
    assert (parts - feature_map(tokens)).abs().max() > 1e-3


def test_fixed_functions_estimate_their_kernels():
    torch.manual_seed(0)
    x, y = 0.4 * torch.randn(2, 20, 8).double()
    distance = (x[:, None] - y[None]).square().sum(-1)
    gaussian = torch.exp(-distance / (2 * 1.5**2))
    softmax = torch.exp(x @ y.T)
    many = {"projections": 20_000, "learn_projection": False}
    cases = {
        "rff": (FeatureMap(8, functions="cosine_sine", scale=1 / 1.5, **many), gaussian),
        "phase": (FeatureMap(8, functions="cosine", scale=1 / 1.5, **many), gaussian),
        "positive": (
            FeatureMap(8, functions="exponential", envelope="expnorm", scale=1.0, **many),
            softmax,
        ),
    }
    for name, (feature_map, kernel) in cases.items():
        at_x, at_y = (feature_map.double()(points).unflatten(-1, (20_000, -1)) for points in (x, y))
        draws = 20_000 * torch.einsum("xml,yml->xym", at_x, at_y)
        errors = (draws.mean(-1) - kernel) / (draws.std(-1) / 20_000**0.5)
        assert errors.abs().max() < 5, name
        assert errors.std() > 0.2, name


def test_error_of_a_random_map_falls_with_the_root_of_its_size():
    torch.manual_seed(0)
    x, y = torch.randn(2, 100, 8) / 2
    kernel = torch.exp(-(x - y).square().sum(-1) / 2)
    counts = [2**k for k in range(4, 13)]
    errors = []
    for count in counts:
        draws = []
        for _ in range(20):
            feature_map = FeatureMap(8, count, functions="cosine_sine", scale=1.0)
            estimate = (feature_map(x) * feature_map(y)).sum(-1)
            draws.append((estimate - kernel).abs().mean())
        errors.append(torch.stack(draws).mean().log().item())
    logs = torch.tensor([math.log(count) for count in counts])
    slope = torch.linalg.lstsq(torch.stack((logs, torch.ones(9)), 1), torch.tensor(errors)[:, None])
    assert -0.6 < slope.solution[0].item() < -0.4


def test_positive_features_do_not_overflow_where_their_product_is_small():
    feature_map = FeatureMap(8, 64, functions="exponential", envelope="expnorm", scale=1.0)
    with torch.no_grad():
        feature_map.projection.copy_(9 * torch.ones(64, 8))
    features = feature_map(10 * torch.ones(1, 8))  # exp(720 - 400) = inf, exp(90 - 400) = 0
    assert features.isinf().all()
    with torch.no_grad():
        feature_map.projection.fill_(4.9)
    features = feature_map(10 * torch.ones(1, 8))  # exp(392) exp(-400) = exp(-8)
    torch.testing.assert_close(features, torch.full((1, 64), math.exp(-8) / 8), rtol=1e-3, atol=0)


def test_a_fifth_of_the_channels_is_dead_at_the_start():
    # Measured elsewhere: 18 to 20 % over 300 draws of the listing's initialisation.
    torch.manual_seed(0)
    fractions = [FeatureMap(4, 1, 8).dead_channel_fraction() for _ in range(300)]
    assert 0.16 < sum(fractions) / 300 < 0.22
    assert FeatureMap(4, nonnegative="softplus").dead_channel_fraction() == 0
    assert FeatureMap(4, output_bias=-100.0).dead_channel_fraction() == 1


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("activation", sorted(INNER))
def test_slopes_stay_below_the_lipschitz_bound(separate, activation):
    feature_map = FeatureMap(
        4, activation=activation, nonnegative="none", separate=separate
    ).double()
    grid = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    rises = feature_map.values(grid).diff(dim=0).norm(dim=1) / grid.diff()
    norms = feature_map.norms()
    assert 0.05 * norms["lipschitz"] < rises.max().item() <= norms["lipschitz"]
    expected = torch.linalg.svdvals(feature_map.projection.detach())[0].item()
    assert norms["projection"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"dimension": 0}, "dimension must be at least 1"),
        ({"projections": 0}, "projections must be at least 1"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"activation": "sine"}, "activation must be one of"),
        ({"nonnegative": "square"}, "nonnegative must be"),
        ({"envelope": "gauss"}, "envelope must be"),
        ({"functions": "sine"}, "function must be"),
        ({"cap": 0.0}, "cap must be positive"),
        ({"scale": -1.0}, "scale must be positive"),
        ({"input_scale": math.inf}, "input_scale must be positive and finite"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        FeatureMap(**({"dimension": 4} | setting))


def test_tokens_of_another_width_are_refused():
    with pytest.raises(ValueError, match="tokens must be 4 wide, got 5"):
        FeatureMap(4)(torch.zeros(3, 5))
