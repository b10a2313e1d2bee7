"""Constitutive laws: energy density, first Piola-Kirchhoff stress and tangent for many elements.

All take deformation gradients F (T, 3, 3) and give J/m^3 (T,), Pa (T, 3, 3) and Pa
(T, 3, 3, 3, 3), the tangent being dP_ij / dF_kl.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from sextant.contracts import Material

LawName = Literal["linear", "neo_hookean", "mooney_rivlin"]
IDENTITY = np.eye(3)


class Law(Protocol):
    """What the solver asks of a material."""

    def energy(self, gradient: np.ndarray) -> np.ndarray: ...

    def response(self, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stress and tangent."""


def lame(material: Material) -> tuple[float, float]:
    """Shear modulus mu and Lame's lambda, Pa.

    Raises:
        ValueError: outside young > 0, -1 < poisson < 1/2 (finite elements of displacements cannot
            be incompressible).
    """
    if not material.young > 0:
        raise ValueError(f"young must be positive, got {material.young}")
    if not -1.0 < material.poisson < 0.5:
        raise ValueError(f"poisson must lie in (-1, 1/2), got {material.poisson}")
    shear = material.young / (2 * (1 + material.poisson))
    return shear, 2 * shear * material.poisson / (1 - 2 * material.poisson)


@dataclass(frozen=True)
class Linear:
    """Hooke's law of small strains e = (F + F^T)/2 - I: mu e:e + lambda/2 tr(e)^2."""

    shear: float
    lame: float

    def energy(self, gradient: np.ndarray) -> np.ndarray:
        strain = (gradient + gradient.swapaxes(1, 2)) / 2 - IDENTITY
        trace = np.trace(strain, axis1=1, axis2=2)
        return self.shear * np.square(strain).sum((1, 2)) + self.lame / 2 * trace**2

    def response(self, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        strain = (gradient + gradient.swapaxes(1, 2)) / 2 - IDENTITY
        trace = np.trace(strain, axis1=1, axis2=2)
        stress = 2 * self.shear * strain + self.lame * trace[:, None, None] * IDENTITY
        straight = np.einsum("ik,jl->ijkl", IDENTITY, IDENTITY)
        crossed = np.einsum("il,jk->ijkl", IDENTITY, IDENTITY)
        volume = np.einsum("ij,kl->ijkl", IDENTITY, IDENTITY)
        tangent = self.shear * (straight + crossed) + self.lame * volume
        return stress, np.broadcast_to(tangent, (len(gradient), 3, 3, 3, 3))


class Hyperelastic:
    """A law whose energy depends on I1 = |F|^2, I2 = (I1^2 - |F^T F|^2)/2 and J = det F.

    Elements turned inside out have energy infinity.
    """

    def density(self, i1: np.ndarray, i2: np.ndarray, j: np.ndarray) -> np.ndarray:
        """The energy density of the invariants (T,)."""
        raise NotImplementedError

    def derivatives(
        self, i1: np.ndarray, i2: np.ndarray, j: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """First (T, 3) and second (T, 3, 3) derivatives of the density by (I1, I2, J)."""
        raise NotImplementedError

    def energy(self, gradient: np.ndarray) -> np.ndarray:
        i1, i2, j = self._invariants(gradient)[:3]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(j > 0, self.density(i1, i2, j), np.inf)

    @staticmethod
    def _invariants(gradient: np.ndarray) -> tuple[np.ndarray, ...]:
        cauchy = gradient.swapaxes(1, 2) @ gradient
        i1 = np.trace(cauchy, axis1=1, axis2=2)
        i2 = (i1**2 - np.square(cauchy).sum((1, 2))) / 2
        return i1, i2, np.linalg.det(gradient), cauchy

    def response(self, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """By the chain rule; elements must not be turned inside out."""
        i1, i2, j, cauchy = self._invariants(gradient)
        first, second = self.derivatives(i1, i2, j)
        inverse = np.linalg.inv(gradient).swapaxes(1, 2)  # F^-T
        slopes = np.stack(
            [
                2 * gradient,
                2 * (i1[:, None, None] * gradient - gradient @ cauchy),
                j[:, None, None] * inverse,
            ],
            1,
        )
        stress = np.einsum("tm,tmij->tij", first, slopes)
        flat = slopes.reshape(len(gradient), 3, 9)
        tangent = (flat.swapaxes(1, 2) @ second @ flat).reshape(-1, 3, 3, 3, 3)
        straight = np.einsum("ik,jl->ijkl", IDENTITY, IDENTITY)
        tangent += (2 * first[:, 0])[:, None, None, None, None] * straight
        if np.any(first[:, 1]):
            left = gradient @ gradient.swapaxes(1, 2)
            bent = (
                2 * np.einsum("tij,tkl->tijkl", gradient, gradient)
                + i1[:, None, None, None, None] * straight
                - np.einsum("ik,tlj->tijkl", IDENTITY, cauchy)
                - np.einsum("til,tkj->tijkl", gradient, gradient)
                - np.einsum("tik,jl->tijkl", left, IDENTITY)
            )
            tangent += (2 * first[:, 1])[:, None, None, None, None] * bent
        pressure = (first[:, 2] * j)[:, None, None, None, None]
        tangent += pressure * (
            np.einsum("tij,tkl->tijkl", inverse, inverse)
            - np.einsum("til,tkj->tijkl", inverse, inverse)
        )
        return stress, tangent


@dataclass(frozen=True)
class NeoHookean(Hyperelastic):
    """mu/2 (I1 - 3 - 2 ln J) + lambda/2 (ln J)^2."""

    shear: float
    lame: float

    def density(self, i1, i2, j):
        return self.shear / 2 * (i1 - 3 - 2 * np.log(j)) + self.lame / 2 * np.log(j) ** 2

    def derivatives(self, i1, i2, j):
        zero, log = np.zeros_like(j), np.log(j)
        first = np.stack([zero + self.shear / 2, zero, (self.lame * log - self.shear) / j], 1)
        second = np.zeros((len(j), 3, 3))
        second[:, 2, 2] = (self.shear + self.lame - self.lame * log) / j**2
        return first, second


@dataclass(frozen=True)
class MooneyRivlin(Hyperelastic):
    """c1 (J^-2/3 I1 - 3) + c2 (J^-4/3 I2 - 3) + kappa/2 (J - 1)^2; mu = 2 (c1 + c2)."""

    c1: float
    c2: float
    bulk: float

    def density(self, i1, i2, j):
        return (
            self.c1 * (j ** (-2 / 3) * i1 - 3)
            + self.c2 * (j ** (-4 / 3) * i2 - 3)
            + self.bulk / 2 * (j - 1) ** 2
        )

    def derivatives(self, i1, i2, j):
        two, four = self.c1 * j ** (-2 / 3), self.c2 * j ** (-4 / 3)
        volume = -2 / 3 * two * i1 / j - 4 / 3 * four * i2 / j + self.bulk * (j - 1)
        first = np.stack([two, four, volume], 1)
        second = np.zeros((len(j), 3, 3))
        second[:, 0, 2] = second[:, 2, 0] = -2 / 3 * two / j
        second[:, 1, 2] = second[:, 2, 1] = -4 / 3 * four / j
        second[:, 2, 2] = 10 / 9 * two * i1 / j**2 + 28 / 9 * four * i2 / j**2 + self.bulk
        return first, second


def law_of(name: LawName, material: Material) -> Law:
    """The law of a name, for small strains that of the material.

    Mooney-Rivlin splits the shear modulus evenly between its two terms.

    Raises:
        ValueError: for an unknown name or a material out of range.
    """
    shear, first = lame(material)
    if name == "linear":
        return Linear(shear, first)
    if name == "neo_hookean":
        return NeoHookean(shear, first)
    if name == "mooney_rivlin":
        return MooneyRivlin(shear / 4, shear / 4, first + 2 / 3 * shear)
    raise ValueError(f"law must be linear, neo_hookean or mooney_rivlin, got {name!r}")
