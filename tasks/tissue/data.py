"""The tissue data module: solved grasps to learn from, to tune on and to be examined on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from sextant.contracts import Grasps, Material, Parent, Streams, TissueMesh
from tasks.shared.stepwise import EpochOrder, StepwiseData
from tasks.tissue.bodies import Anatomy, BallLiver, Body
from tasks.tissue.grasps import GraspLaw, synthetic
from tasks.tissue.laws import LawName
from tasks.tissue.simulations import BLOCK, Solved, SolveLaw, Workplace, solved

SPACINGS = {800: 17.8, 2200: 12.3, 10400: 7.05}  # millimetres, for about so many nodes

Batch = tuple[Grasps, Tensor]


def liver(nodes: int) -> Body:
    """The liver of the data set "anatomy" at about so many nodes; at 129 the synthetic one.

    Raises:
        ValueError: for another size.
    """
    if nodes == 129:
        return BallLiver(2)
    if nodes not in SPACINGS:
        sizes = ", ".join(map(str, (129, *SPACINGS)))
        raise ValueError(f"nodes must be one of {sizes}, got {nodes}")
    return Anatomy("liver_fine_surface", 1e-3, SPACINGS[nodes])


def organ(name: str) -> Body:
    """Another organ at about a thousand nodes, in the size of a real one.

    Raises:
        ValueError: for an unknown name.
    """
    organs = {
        "heart": Anatomy("heart_surface", 2e-3, 7.2),
        "second_liver": Anatomy("liver_tet_507", 0.1, 14.5),
        "synthetic_liver": BallLiver(3),
    }
    if name not in organs:
        raise ValueError(f"organ must be one of {', '.join(organs)}, got {name!r}")
    return organs[name]


class TissueData(StepwiseData):
    """Solved grasps of one body: batches (grasps, displacement (B, N, 3) in metres).

    The sets depend on the settings alone, so all methods and run seeds see the same grasps; the
    run's seed orders them. The last tenth of the training grasps is kept out for validation.

    Args:
        batch_size, steps: of training.
        nodes: size of the liver, see `liver`.
        law: "linear", "neo_hookean" or "mooney_rivlin".
        tools: graspers at once.
        train, test: how many solved grasps.
        young, poisson: of the material, Pa and 1.
        train_side, test_side: where grasps are drawn: "any", "left" or "right".
        others: further test sets by name, each with what differs from the test set: `reach` of
            the tools (metres, least and most), `law`, `poisson`, `body` (see `organ`).
        others_each: solved grasps of each of them; with 0 there are none.
        paths: paths of a tool, 25 frames each, for the exam of temporal stability.
    """

    def __init__(
        self,
        batch_size: int,
        steps: int,
        nodes: int,
        law: LawName,
        tools: int,
        train: int,
        test: int,
        young: float = 2100.0,
        poisson: float = 0.45,
        train_side: str = "any",
        test_side: str = "any",
        others: Mapping[str, Mapping[str, Any]] | None = None,
        others_each: int = 0,
        paths: int = 0,
    ) -> None:
        super().__init__(batch_size, steps)
        material = Material(young, poisson)
        self.train_law = SolveLaw(liver(nodes), GraspLaw(tools, side=train_side), law, material)
        self.test_law = replace(self.train_law, grasps=GraspLaw(tools, side=test_side), part="test")
        self.counts, self.others_each, self.path_count = (train, test), others_each, paths
        self.other_laws = {
            name: self.other_law(**settings) for name, settings in (others or {}).items()
        }

    def other_law(
        self,
        reach: Sequence[float] | None = None,
        law: LawName | None = None,
        poisson: float | None = None,
        body: str | None = None,
    ) -> SolveLaw:
        """The law of a further test set that differs in what is named."""
        like = self.test_law
        grasps = like.grasps if reach is None else replace(like.grasps, reach=tuple(reach))
        material = like.material if poisson is None else replace(like.material, poisson=poisson)
        place = like.body if body is None else organ(body)
        return replace(like, body=place, grasps=grasps, law=law or like.law, material=material)

    def prepare(self, streams: Streams, parents: Mapping[str, Parent]) -> None:
        """Finds the solved grasps, or makes them in this process; on several,
        `python -m tasks.tissue.simulations` makes them beforehand."""
        super().prepare(streams, parents)
        train, test = self.counts
        self.mesh, self.material = self.train_law.body.mesh(), self.train_law.material
        self._workplaces: dict[Any, Workplace] = {}
        everything = solved(self.train_law, train, 1)
        held_out = max(1, train // 10)
        self.train = _rows(everything, slice(0, train - held_out))
        self.validation = _rows(everything, slice(train - held_out, train))
        self.test = solved(self.test_law, test, 1)
        self.paths = solved(replace(self.test_law, part="paths"), BLOCK * self.path_count, 1)
        self.others = {
            name: (law.body.mesh(), law.material, solved(law, self.others_each, 1))
            for name, law in self.other_laws.items()
            if self.others_each
        }
        sets = {"train": everything, "test": self.test, "paths": self.paths}
        sets |= {name: part for name, (_, _, part) in self.others.items()}
        self.content = {name: part.content for name, part in sets.items() if len(part.grasps)}
        self.order = EpochOrder(train - held_out, self.batch_size, streams)

    def draw_batch(self, step: int) -> Batch:
        """Grasps and their displacement of a training step."""
        rows = self.order.rows(step)
        return self.train.grasps.rows(rows), self.train.displacement[rows]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, index: int) -> Any:
        """Grasps and tensors to the trainer's device."""
        if isinstance(batch, tuple) and isinstance(batch[0], Grasps):
            grasps, displacement = batch
            moved = Grasps(grasps.nodes.to(device), grasps.displacement.to(device))
            return moved, displacement.to(device)
        return pl.LightningDataModule.transfer_batch_to_device(self, batch, device, index)

    def synthetic_grasps(self, count: int, seed: int) -> Grasps:
        """Grasps anywhere on the training body, without solutions."""
        law = GraspLaw(self.train_law.grasps.tools)
        return synthetic(self.mesh, law, count, seed)

    def solver(
        self, mesh: TissueMesh, material: Material, law: LawName | None = None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """A finite element solver: held nodes (n,), -1 for none, and their displacement (n, 3) to
        the displacement (N, 3), float32; by the task's law where none is named."""
        key = (id(mesh), material, law or self.train_law.law)
        if key not in self._workplaces:
            self._workplaces[key] = Workplace(mesh, key[2], material)
        workplace = self._workplaces[key]

        def solve(nodes: Tensor, displacement: Tensor) -> Tensor:
            real = nodes >= 0
            held, moves = nodes[real].numpy(), displacement[real].double().numpy()
            return torch.from_numpy(workplace.solve(held, moves)[0]).float()

        return solve

    def fingerprints(self) -> dict[str, str]:
        """The bytes of the sets and of what the bodies are made of."""
        sets = {f"tissue {part}": content for part, content in self.content.items()}
        bodies = [law.body.data() for law in (self.train_law, *self.other_laws.values())]
        return sets | {name: value for body in bodies for name, value in body.items()}


def _rows(part: Solved, rows: slice) -> Solved:
    return Solved(
        part.grasps.rows(rows),
        part.displacement[rows],
        part.failures,
        part.iterations[rows],
        part.content,
    )
