"""Data of the flow exams: MNIST latents without their classes.

Pairs of plane laws need no class of their own: `tasks.generation.data.PlaneData` draws them.
"""

from __future__ import annotations

from torch import Generator, Tensor

from tasks.shared.latents import Batch, LatentMnist


class UnlabelledLatents(LatentMnist):
    """MNIST latents for unconditional flows: batches (source (B, L), latents (B, L), None).

    A coupling that sees no labels pairs over all classes at once. Everything else, the exam's
    points included, is as in `LatentMnist`.
    """

    def draw_batch(self, step: int) -> Batch:
        """A normal draw and latents of a step, and no labels."""
        source, latents, _ = super().draw_batch(step)
        return source, latents, None

    def draw_target(self, n: int, generator: Generator, labels: Tensor | None = None) -> Tensor:
        """n training latents of any class, float32 (n, L).

        Raises:
            ValueError: for labels, which these data do not have.
        """
        if labels is not None:
            raise ValueError("labels must be None: these latents are drawn without their classes")
        return super().draw_target(n, generator)

    def evaluation_labels(self) -> None:
        """The exam asks for samples of no class in particular."""
