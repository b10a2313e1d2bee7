"""The laws of the plane that this family's tasks name; they are those of `tasks.shared.plane`."""

from tasks.shared.plane import Checkerboard, EightGaussians, StandardNormal, TwoMoons

__all__ = ["Checkerboard", "EightGaussians", "StandardNormal", "TwoMoons"]
