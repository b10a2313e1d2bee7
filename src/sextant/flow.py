"""Losses, samplers and closed forms of flow matching and Mean Flow.

Names are imported when they are first used.
"""

from sextant.library import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "FlowMatching": "sextant.methods.flow.objectives",
        "FlowModule": "sextant.methods.flow.module",
        "MeanFlow": "sextant.methods.flow.objectives",
        "conditional_velocity": "sextant.methods.flow.paths",
        "flow_matching_loss": "sextant.methods.flow.flow_matching",
        "interpolate": "sextant.methods.flow.paths",
        "mean_flow_loss": "sextant.methods.flow.mean_flow",
        "sample": "sextant.methods.flow.sampling",
        "velocity_and_derivative": "sextant.methods.flow.mean_flow",
    },
)
