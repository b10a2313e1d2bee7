"""Fashion-MNIST: small grey pictures of clothes, some of them hard to tell apart."""

from __future__ import annotations

from sextant.data import locate
from tasks.shared.fashion import fashion_mnist
from tasks.shared.pictures import Pictures
from tasks.unlearning.data import ForgettingData


class FashionForgetting(ForgettingData):
    """Fashion-MNIST, grey values repeated in three channels.

    Args:
        batch_size, steps: of training.
        side: pixels; 28, or a divisor of it, for which squares of pixels are averaged.
        settings: as `ForgettingData`.
    """

    def __init__(self, batch_size: int, steps: int, side: int = 28, **settings: object) -> None:
        super().__init__(batch_size, steps, **settings)
        self.side = side

    def read(self) -> tuple[Pictures, Pictures]:
        """The data set "fashion_mnist"."""
        folder = locate("fashion_mnist")
        self._fingerprints["fashion_mnist"] = folder.fingerprint
        return fashion_mnist(folder, self.side)
