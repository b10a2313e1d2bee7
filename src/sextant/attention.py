"""Attentions behind one call, `attention(queries, keys, values, mask)`: linear ones and rivals.

Names are imported when they are first used.
"""

from sextant.library import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "BigBirdAttention": "sextant.methods.attention.bigbird",
        "CosformerAttention": "sextant.methods.attention.cosformer",
        "DifferentialAttention": "sextant.methods.attention.differential",
        "ESPAttention": "sextant.methods.attention.esp",
        "HedgehogAttention": "sextant.methods.attention.hedgehog",
        "InformerAttention": "sextant.methods.attention.informer",
        "KernelizedAttention": "sextant.methods.attention.kernelized",
        "LOTFormerAttention": "sextant.methods.attention.lotformer",
        "LinearTransformerAttention": "sextant.methods.attention.linear_transformer",
        "LinformerAttention": "sextant.methods.attention.linformer",
        "LunaAttention": "sextant.methods.attention.luna.attention",
        "NystromformerAttention": "sextant.methods.attention.nystromformer",
        "PerformerAttention": "sextant.methods.attention.performer",
        "PolaformerAttention": "sextant.methods.attention.polaformer",
        "ReformerAttention": "sextant.methods.attention.reformer",
        "SinkhornAttention": "sextant.methods.attention.sinkhorn",
        "SkyformerAttention": "sextant.methods.attention.skyformer",
        "SoftmaxAttention": "sextant.methods.attention.softmax",
        "T2RAttention": "sextant.methods.attention.t2r",
        "UniformAttention": "sextant.methods.attention.uniform",
    },
)
