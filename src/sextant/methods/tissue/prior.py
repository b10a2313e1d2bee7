"""The Kelvinlet displacement of a grasp, as a prior for networks and as a student of its own."""

from __future__ import annotations

from torch import Tensor

from sextant.contracts import Grasps
from sextant.methods.tissue.grasping import kelvinlet_field
from sextant.methods.tissue.kelvinlets import Scales, brush


class KelvinletPrior:
    """What an infinite medium does when the tools hold some of its points.

    All held nodes of all tools are centres of one joint solve in float64. Young's modulus cancels,
    since displacements are prescribed. The medium knows neither fixed nodes nor a surface.

    Args:
        radius: of the brushes, metres.
        scales: "single", "bi" or "tri".
        ridge: of the solve; 1e-3 in the released code.

    Raises:
        ValueError: for a setting out of range.
    """

    def __init__(
        self, radius: float = 0.03, scales: Scales = "single", ridge: float = 1e-3
    ) -> None:
        brush(radius, scales)
        if ridge < 0.0:
            raise ValueError(f"ridge must be at least 0, got {ridge}")
        self.radius, self.scales, self.ridge = radius, scales, ridge

    def __call__(
        self, positions: Tensor, grasps: Grasps, poisson: float, points: Tensor | None = None
    ) -> Tensor:
        """Displacement (B, N, 3), metres, float32, of nodes at rest positions (N, 3), or of
        `points` (B, n, 3)."""
        rest = positions.double()
        centres = rest[grasps.nodes.clamp(min=0)]
        asked = rest if points is None else points.double()
        return kelvinlet_field(
            asked, centres, grasps.displacement, self.radius, poisson, self.ridge, grasps.held,
            self.scales,
        ).float()  # fmt: skip
