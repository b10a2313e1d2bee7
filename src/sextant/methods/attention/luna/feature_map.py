"""LUNA's learned kernel feature map phi, with every switch of its specification."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sextant.methods.attention.luna.channels import (
    Activation,
    Fixed,
    FixedChannels,
    LearnedChannels,
    hold,
)
from sextant.methods.attention.luna.piecewise import Table, evaluate, tabulate
from sextant.methods.attention.performer import orthogonal_gaussian
from sextant.methods.numerics import widened
from sextant.ranges import at_least

Nonnegative = Literal["relu", "softplus", "exp", "none"]
Envelope = Literal["none", "softplus", "expnorm"]

CAP_EPSILON = 1e-6
"""What the channel cap adds to mean squares and to root mean squares."""


class FeatureMap(nn.Module):
    """phi(x) = h(x) / sqrt(m) (psi_l(w_i . x + b_i)) for i = 1..m and l = 1..L, one row a token.

    arXiv 2512.08061, equation 11. The same map serves queries and
    keys, all heads and all tokens. With a ReLU hidden layer the channel functions are evaluated
    from a table (`piecewise`) wherever that is cheaper, with the same values and gradients.

    Args:
        dimension: d of the tokens.
        projections: m.
        channels: L; the cosine and exponential functions bring their own.
        hidden: width of the channel functions' hidden layer.
        separate: one perceptron a channel, in the place of one for all.
        activation: of the hidden layer.
        nonnegative: what makes features non-negative: relu, softplus, exp, or none, which leaves
            the denominators of attention without a sign. Fixed functions are left as they are.
        cap: the largest root mean square of a channel over batch, heads, tokens and projections
            (the paper's code has 0.1), or None. It makes every token depend on all the others.
        envelope: h. none is 1; softplus is softplus(a . x + c), learnt, 1 at the start; expnorm is
            exp(-|x|^2 / 2).
        learn_projection: whether w and b are parameters, or buffers that stay as they were drawn.
        learn_channels: the same for the channel functions.
        bias: whether there is a b. It starts at 0, uniform in [0, 2 pi) for `cosine`.
        output_bias: what the last biases of the channel functions start at; None draws them.
        functions: learned, or the fixed `cosine_sine`, `cosine` or `exponential`.
        orthogonal: draws w in blocks of d orthogonal rows, each of them Gaussian.
        scale: standard deviation of w's entries; None is d^(-1/2), as in the paper's code.
        input_scale: multiplies x first; d^(-1/4) for features of exp(q . k / sqrt(d)).

    Raises:
        ValueError: for a size below 1, a scale that is not positive or an unknown choice.
    """

    projection: Tensor
    bias: Tensor | None
    envelope_weight: nn.Parameter
    envelope_bias: nn.Parameter

    def __init__(
        self,
        dimension: int,
        projections: int = 16,
        channels: int = 8,
        hidden: int = 64,
        separate: bool = False,
        activation: Activation = "relu",
        nonnegative: Nonnegative = "relu",
        cap: float | None = None,
        envelope: Envelope = "none",
        learn_projection: bool = True,
        learn_channels: bool = True,
        bias: bool = True,
        output_bias: float | None = None,
        functions: Literal["learned"] | Fixed = "learned",
        orthogonal: bool = False,
        scale: float | None = None,
        input_scale: float = 1.0,
    ) -> None:
        super().__init__()
        at_least(1, dimension=dimension, projections=projections)
        if nonnegative not in ("relu", "softplus", "exp", "none"):
            raise ValueError(
                f"nonnegative must be 'relu', 'softplus', 'exp' or 'none', got {nonnegative!r}"
            )
        if envelope not in ("none", "softplus", "expnorm"):
            raise ValueError(f"envelope must be 'none', 'softplus' or 'expnorm', got {envelope!r}")
        scale = dimension**-0.5 if scale is None else scale
        for name, number in {"cap": cap, "scale": scale, "input_scale": input_scale}.items():
            if number is not None and not 0 < number < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {number}")
        self.dimension, self.projections, self.cap = dimension, projections, cap
        self.envelope, self.orthogonal, self.functions = envelope, orthogonal, functions
        self.scale, self.input_scale = scale, input_scale
        if functions == "learned":
            self.nonnegative = nonnegative
            self.channel_functions: LearnedChannels | FixedChannels = LearnedChannels(
                channels, hidden, separate, activation, output_bias, learn_channels
            )
        else:
            self.nonnegative = "none"
            self.channel_functions = FixedChannels(functions)
        self.channels = self.channel_functions.channels
        self.features = projections * self.channels
        hold(self, "projection", torch.empty(projections, dimension), learn_projection)
        if bias:
            hold(self, "bias", torch.empty(projections), learn_projection)
        else:
            self.bias = None
        if envelope == "softplus":
            self.envelope_weight = nn.Parameter(torch.empty(dimension))
            self.envelope_bias = nn.Parameter(torch.empty(()))
        self._draw()

    def reset_parameters(self) -> None:
        """Draws the projection and the channel functions from torch's global generator."""
        if isinstance(self.channel_functions, LearnedChannels):
            self.channel_functions.reset_parameters()
        self._draw()

    @torch.no_grad()
    def _draw(self) -> None:
        draw = orthogonal_gaussian if self.orthogonal else torch.randn
        self.projection.copy_(self.scale * draw(self.projections, self.dimension))
        if self.bias is not None:
            self.bias.zero_()
            if self.functions == "cosine":
                self.bias.uniform_(0, 2 * math.pi)
        if self.envelope == "softplus":
            self.envelope_weight.zero_()
            self.envelope_bias.fill_(math.log(math.e - 1))

    @property
    def nonnegative_features(self) -> bool:
        """Whether no feature can be below 0, and rows of attention are so mixtures."""
        return self.nonnegative != "none" or self.functions == "exponential"

    @property
    def piecewise_linear(self) -> bool:
        """Whether psi, with what makes it non-negative, is a table of straight lines."""
        return self._tabulated and self.nonnegative in ("relu", "none") and self.cap is None

    @property
    def _tabulated(self) -> bool:
        functions = self.channel_functions
        return isinstance(functions, LearnedChannels) and functions.activation == "relu"

    def forward(self, tokens: Tensor, table: Table | None = None) -> Tensor:
        """The features (..., N, m L) of tokens (..., N, d), float32 (float64 for float64).

        Projection i and channel l stand at i L + l. `table` is what `tabulate` gave, for those who
        call this often with the same weights. O(N m (d + hidden L)) time and, with a graph,
        O(N m hidden) memory; O(N m (d + L)) and O(N m L) with a table.

        Raises:
            ValueError: for tokens of another width.
        """
        arguments = self.project(tokens)
        values = self.values(arguments, table)
        if self.cap is not None:
            values = self._capped(values)
        if self.envelope == "none":
            return (values / math.sqrt(self.projections)).flatten(-2)
        if self.envelope == "expnorm" and self.functions == "exponential":
            # One exponential of the difference: exp(u) alone overflows where the product is small.
            exponents = arguments - self._half_norm(tokens)[..., None]
            return exponents.exp() / math.sqrt(self.projections)
        scale = self.scale_of(tokens)[..., None, None] / math.sqrt(self.projections)
        return (values * scale).flatten(-2)

    def project(self, tokens: Tensor) -> Tensor:
        """The arguments u = w . x + b (..., m) of the channel functions.

        Raises:
            ValueError: for tokens of another width than `dimension`.
        """
        if tokens.shape[-1] != self.dimension:
            raise ValueError(f"tokens must be {self.dimension} wide, got {tokens.shape[-1]}")
        tokens = widened(tokens)
        projection = self.projection.to(tokens.dtype) * self.input_scale
        bias = None if self.bias is None else self.bias.to(tokens.dtype)
        return functional.linear(tokens, projection, bias)

    def values(self, arguments: Tensor, table: Table | None = None) -> Tensor:
        """psi (..., L) of arguments (...), non-negative unless `nonnegative` is none."""
        values = self.channel_functions(arguments) if table is None else evaluate(arguments, table)
        if self.nonnegative == "relu":
            return functional.relu(values)
        if self.nonnegative == "softplus":
            return functional.softplus(values)
        return values.exp() if self.nonnegative == "exp" else values

    def tabulate(self, dtype: torch.dtype = torch.float32) -> Table | None:
        """The channel functions as a table, before softplus or exp; None where they are curved."""
        if not self._tabulated or not isinstance(self.channel_functions, LearnedChannels):
            return None
        layers = self.channel_functions.layers()
        return tabulate(*layers, rectified=self.nonnegative == "relu", dtype=dtype)

    def scale_of(self, tokens: Tensor) -> Tensor:
        """The envelope h (...) of tokens (..., d)."""
        tokens = widened(tokens)
        if self.envelope == "softplus":
            tokens = tokens * self.input_scale
            along = tokens @ self.envelope_weight.to(tokens.dtype)
            return functional.softplus(along + self.envelope_bias.to(tokens.dtype))
        if self.envelope == "expnorm":
            return torch.exp(-self._half_norm(tokens))
        return tokens.new_ones(tokens.shape[:-1])

    def _half_norm(self, tokens: Tensor) -> Tensor:
        return (widened(tokens) * self.input_scale).square().sum(-1) / 2

    def _capped(self, values: Tensor) -> Tensor:
        """Channels (..., m, L) whose root mean square is above the cap, shrunk to it."""
        squares = values.square().flatten(0, -2).mean(0)
        size = torch.sqrt(squares + CAP_EPSILON)
        return values * (self.cap / (size + CAP_EPSILON)).clamp(max=1)

    @torch.no_grad()
    def dead_channel_fraction(self, low: float = -3.0, high: float = 3.0) -> float:
        """The part of the channels that are 0 at 601 equal steps of [low, high].

        A dead channel of an outer ReLU has no gradient from arguments in there.
        """
        grid = torch.linspace(low, high, 601, device=self.projection.device)
        return (self.values(grid) == 0).all(0).float().mean().item()

    @torch.no_grad()
    def norms(self) -> dict[str, float]:
        """The numbers that bounds on the generalisation depend on.

        `projection` is the spectral norm of w, `lipschitz` a bound of psi's (absent where the
        functions are fixed), before what makes it non-negative.
        """
        projection = self.projection.float() * self.input_scale
        found = {"projection": torch.linalg.matrix_norm(projection, 2).item()}
        if isinstance(self.channel_functions, LearnedChannels):
            found["lipschitz"] = self.channel_functions.lipschitz_bound()
        return found
