"""Softmax attention of trained models exchanged for linear attention: `convert(model, "luna")`.

Names are imported when they are first used.
"""

from sextant.library import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "StreamingCache": "sextant.methods.conversion.decoding",
        "convert": "sextant.methods.conversion.convert",
        "load": "sextant.methods.conversion.registry",
    },
)
