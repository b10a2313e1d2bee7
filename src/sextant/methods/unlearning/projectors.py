"""Projectors onto the directions in which a layer's weights may move.

A step (o, d) times the projector of the layer's input covariance (d, d) changes its outputs on the
data of that covariance little, or not at all. Three rules say which directions are free: "nscl"
(Wang et al., CVPR 2021), "gpm" (Saha et al., ICLR 2021) and a smooth one, "soft".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sextant.ranges import at_least, positive_and_finite, within

Rule = Literal["nscl", "gpm", "soft"]
Form = Literal["keep", "remove", "whole"]
ROUNDING = 1e-12
"""Share of a trace that its eigenvalues may miss by rounding."""
ASYMMETRY = 1e-6
"""A covariance may differ from its transpose by this share of its largest entry."""


class Projector:
    """A symmetric matrix P (d, d) that updates (o, d) are multiplied by.

    Args:
        basis: (d, r) orthonormal columns, or P itself (d, d) for the form "whole".
        form: "keep" for P = basis basis^T, "remove" for P = 1 - basis basis^T, "whole".
        scale: factor of the result.

    Attributes:
        dimension: d.
        kept: the trace of P before scaling: the rank of the free space under "nscl" and "gpm".

    Raises:
        ValueError: for an unknown form, or a basis of another shape.
    """

    def __init__(self, basis: Tensor, form: Form, scale: float = 1.0) -> None:
        if form not in ("keep", "remove", "whole"):
            raise ValueError(f"form must be 'keep', 'remove' or 'whole', got {form!r}")
        wide = basis.ndim == 2 and basis.shape[1] > basis.shape[0]
        if basis.ndim != 2 or wide or (form == "whole" and basis.shape[0] != basis.shape[1]):
            raise ValueError(
                f"basis must have at most as many columns as rows, got {tuple(basis.shape)}"
            )
        self.basis, self.form, self.scale = basis, form, scale
        self.dimension = len(basis)
        if form == "whole":
            self.kept = basis.trace().item()
        else:
            self.kept = float(basis.shape[1] if form == "keep" else len(basis) - basis.shape[1])

    def to(self, like: Tensor) -> Projector:
        """The same projector in the dtype and on the device of a tensor."""
        return Projector(self.basis.to(like), self.form, self.scale)

    def apply(self, update: Tensor) -> Tensor:
        """Update (o, d) times P: (o, d), of the update's dtype; never the update itself.

        4 o d r operations for a basis of r columns, r <= d / 2; 2 o d^2 for the form "whole".

        Raises:
            ValueError: for an update of another width.
        """
        if update.ndim != 2 or update.shape[1] != self.dimension:
            raise ValueError(
                f"update must have shape (o, {self.dimension}), got {tuple(update.shape)}"
            )
        basis = self.basis.to(update)
        if self.form == "whole":
            return (update @ basis).mul_(self.scale)
        inside = update @ basis
        if self.form == "keep":
            return (inside @ basis.T).mul_(self.scale)
        return torch.addmm(update, inside, basis.T, beta=self.scale, alpha=-self.scale)

    def dense(self) -> Tensor:
        """P (d, d), scaled, in the dtype of the basis."""
        return self.apply(torch.eye(self.dimension).to(self.basis))


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of a covariance, from which any number of projectors are made.

    Args:
        values: (d,) float64, descending, not negative.
        vectors: (d, d) float64, one column an eigenvalue.
    """

    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, covariance: Tensor) -> Spectrum:
        """Decomposes a covariance (d, d) in float64: O(a^3) for a features that are ever not zero.

        Features that are always zero (units that never fire) are eigenvectors as they stand and are
        left out of the decomposition. Eigenvalues below zero are rounding and become 0.

        Raises:
            ValueError: for a matrix that is not square, symmetric and finite.
        """
        _check_covariance(covariance)
        covariance = covariance.detach().double()
        width = len(covariance)
        active = (covariance.diagonal() > 0).nonzero()[:, 0]
        if len(active) == width:
            values, vectors = torch.linalg.eigh(covariance)
            return cls(values.flip(0).clamp_(min=0), vectors.flip(1))
        some, some_vectors = torch.linalg.eigh(covariance[active][:, active])
        values, vectors = covariance.new_zeros(width), torch.zeros_like(covariance)
        values[: len(active)] = some.flip(0).clamp_(min=0)
        vectors[active, : len(active)] = some_vectors.flip(1)
        silent = (covariance.diagonal() <= 0).nonzero()[:, 0]
        vectors[silent, torch.arange(len(active), width, device=silent.device)] = 1.0
        return cls(values, vectors)

    def projector(self, rule: Rule, normalise: bool = False, **setting: Any) -> Projector:
        """The projector of a rule; nothing is decomposed again.

        Args:
            rule: "nscl", "gpm" or "soft".
            normalise: divide P by its Frobenius norm, as the code of Adam-NSCL does. That makes a
                learning rate of each layer's own, and no projector.
            setting: of the rule, see `nscl`, `gpm` and `soft`.

        Raises:
            ValueError: for an unknown rule or a setting out of range.
            TypeError: for a setting that the rule has not.
        """
        rules = {"nscl": self.nscl, "gpm": self.gpm, "soft": self.soft}
        if rule not in rules:
            raise ValueError(f"rule must be one of {', '.join(rules)}, got {rule!r}")
        made = rules[rule](**setting)
        if not normalise:
            return made
        whole = made.form == "whole"
        norm = torch.linalg.matrix_norm(made.basis).item() if whole else math.sqrt(made.kept)
        return Projector(made.basis, made.form, 1.0 / norm if norm else 1.0)

    def nscl(self, factor: float = 10.0, floor: float = 1e-12) -> Projector:
        """Free are the eigenvectors whose eigenvalue is at most `factor` times the smallest.

        The smallest counts as no less than `floor` times the largest, so that an exact null space
        is found whole. A covariance made of float32 products needs a floor of about 1e-6. Where
        there is no null space the eigenvector of the smallest is free all the same, as in
        Adam-NSCL.
        """
        at_least(1, factor=factor)
        within("[0, 1)", floor=floor)
        smallest = max(self.values[-1].item(), floor * self.values[0].item())
        return self._without(int((self.values > factor * smallest).sum()))

    def gpm(self, energy: float = 0.97) -> Projector:
        """Fixed are the fewest eigenvectors that hold a share `energy` of the trace.

        A sum that misses it by the share `ROUNDING` holds it.
        """
        within("[0, 1]", energy=energy)
        held = self.values.cumsum(0)
        wanted = energy * held[-1]
        return self._without(int((held < wanted * (1 - ROUNDING)).sum()) + 1 if wanted > 0 else 0)

    def soft(self, strength: float = 0.1) -> Projector:
        """Eigenvectors shrink by s / (eigenvalue + s), s = `strength` times the mean eigenvalue."""
        positive_and_finite(strength=strength)
        level = strength * self.values.mean()
        if level == 0:
            return self._without(0)
        shares = level / (self.values + level)
        return Projector((self.vectors * shares) @ self.vectors.T, "whole")

    def _without(self, fixed: int) -> Projector:
        """Frees all but the first eigenvectors, by the thinner of the two bases."""
        if fixed <= len(self.values) - fixed:
            return Projector(self.vectors[:, :fixed].clone(), "remove")
        return Projector(self.vectors[:, fixed:].clone(), "keep")


def projector(covariance: Tensor, rule: Rule, normalise: bool = False, **setting: Any) -> Projector:
    """The projector of a covariance (d, d); for several of one covariance, see `Spectrum`.

    Arguments and errors as `Spectrum.of` and `Spectrum.projector`.
    """
    return Spectrum.of(covariance).projector(rule, normalise, **setting)


def weight_matrix(layer: nn.Module, bias: bool = True) -> Tensor:
    """A layer's weights as (o, d), detached: a copy for a linear layer with bias, else a view.

    Args:
        layer: Conv2d: `weight.flatten(1)`, its bias left out. Linear: [weight | bias].
        bias: False to leave out the bias of a linear layer too.

    Raises:
        TypeError: for another layer.
    """
    return _joined(layer, layer.weight.detach(), _bias(layer, bias))


def gradient_matrix(layer: nn.Module, bias: bool = True) -> Tensor | None:
    """As `weight_matrix`, of the gradients; None where the weight has none."""
    if layer.weight.grad is None:
        return None
    own = _bias(layer, bias)
    return _joined(layer, layer.weight.grad, None if own is None else layer.bias.grad)


@torch.no_grad()
def set_weight_matrix(layer: nn.Module, matrix: Tensor, bias: bool = True) -> None:
    """Writes (o, d), of the form that `weight_matrix` reads, into the layer's weights."""
    _write(matrix, layer.weight, _bias(layer, bias))


@torch.no_grad()
def set_gradient_matrix(layer: nn.Module, matrix: Tensor, bias: bool = True) -> None:
    """Writes (o, d), of the form that `gradient_matrix` reads, into the layer's gradients."""
    own = _bias(layer, bias)
    _write(matrix, layer.weight.grad, None if own is None else layer.bias.grad)


def _bias(layer: nn.Module, wanted: bool) -> Tensor | None:
    if not isinstance(layer, (nn.Conv2d, nn.Linear)):
        raise TypeError(f"layer must be a Conv2d or Linear, got {type(layer).__name__}")
    if isinstance(layer, nn.Conv2d) or not wanted or layer.bias is None:
        return None
    return layer.bias.detach()


def _joined(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> Tensor:
    return weight.flatten(1) if bias is None else torch.cat((weight, bias[:, None]), 1)


def _write(matrix: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if bias is not None:
        bias.copy_(matrix[:, -1])
        matrix = matrix[:, :-1]
    weight.copy_(matrix.reshape(weight.shape))


def _check_covariance(covariance: Tensor) -> None:
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1] or not len(covariance):
        raise ValueError(f"covariance must have shape (d, d), got {tuple(covariance.shape)}")
    largest = covariance.abs().max().item()
    if not math.isfinite(largest):
        raise ValueError("covariance has NaN or infinite entries; every one must be finite")
    if (covariance - covariance.T).abs().max().item() > ASYMMETRY * largest:
        raise ValueError("covariance must be symmetric, and it differs from its transpose")
