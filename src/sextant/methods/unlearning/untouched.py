"""The model as it is, to compare with: the trained one, or one that never saw what is forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sextant.contracts import Streams
from sextant.methods.unlearning.epochs import working_copy
from sextant.methods.unlearning.problem import Needs, Problem, Unlearned, Watch


@dataclass(frozen=True, kw_only=True)
class Untouched:
    """Changes nothing and asks for nothing."""

    needs: ClassVar[Needs] = Needs(forget=False)

    def __call__(
        self, model: nn.Module, problem: Problem, streams: Streams, watch: Watch | None = None
    ) -> Unlearned:
        """See `problem.Method`; it takes no time."""
        return Unlearned(working_copy(model).eval(), {}, {}, [])
