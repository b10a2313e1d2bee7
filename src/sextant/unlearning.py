"""A classifier forgets: CovarNav and the methods it is compared with, behind `unlearn`.

Names are imported when they are first used.
"""

from sextant.library import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "Report": "sextant.methods.unlearning.library",
        "unlearn": "sextant.methods.unlearning.library",
    },
)
