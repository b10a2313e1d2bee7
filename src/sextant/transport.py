"""Couplings and plans of optimal transport: exact, entropic, linear, and along one learned slice.

Names are imported when they are first used.
"""

from sextant.library import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "Exact": "sextant.methods.transport.couplings",
        "Independent": "sextant.methods.transport.couplings",
        "LinearOT": "sextant.methods.transport.couplings",
        "MinSlicedPairs": "sextant.methods.transport.sliced.couplings",
        "Sinkhorn": "sextant.methods.transport.couplings",
        "WithinClasses": "sextant.methods.transport.couplings",
        "exact_pairs": "sextant.methods.transport.exact",
        "fit_slicer": "sextant.methods.transport.sliced.fitting",
        "hard_plan": "sextant.methods.transport.sliced.slicers",
        "min_sliced_plan": "sextant.methods.transport.sliced.fitting",
        "sinkhorn_plan": "sextant.methods.transport.sinkhorn",
        "soft_permutation": "sextant.methods.transport.sliced.soft_permutation",
        "take_pairs": "sextant.methods.transport.pairs",
    },
)
