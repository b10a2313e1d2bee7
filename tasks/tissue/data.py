"""The tissue data module: solved grasps to learn from, to tune on and to be examined on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from sextant.contracts import Grasps, Material, Parent, Streams
from tasks.shared.stepwise import EpochOrder, StepwiseData
from tasks.tissue.bodies import Anatomy, BallLiver, Body
from tasks.tissue.grasps import GraspLaw, synthetic
from tasks.tissue.laws import LawName
from tasks.tissue.simulations import Solved, SolveLaw, Workplace, solved

SPACINGS = {800: 17.8, 2200: 12.3, 10400: 7.05}  # millimetres, for about so many nodes

Batch = tuple[Grasps, Tensor]


def liver(nodes: int) -> Body:
    """The liver of the data set "anatomy" at about so many nodes; at 141 the synthetic one.

    Raises:
        ValueError: for another size.
    """
    if nodes == 141:
        return BallLiver(2)
    if nodes not in SPACINGS:
        sizes = ", ".join(map(str, (141, *SPACINGS)))
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
        test_reach: metres (least, most) that test tools move, where that differs.
        test_law, test_poisson, test_organ: of the test set, where they differ.
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
        test_reach: tuple[float, float] | None = None,
        test_law: LawName | None = None,
        test_poisson: float | None = None,
        test_organ: str | None = None,
    ) -> None:
        super().__init__(batch_size, steps)
        material = Material(young, poisson)
        self.train_law = SolveLaw(liver(nodes), GraspLaw(tools, side=train_side), law, material)
        self.test_law = SolveLaw(
            liver(nodes) if test_organ is None else organ(test_organ),
            GraspLaw(tools, tuple(test_reach or (-0.01, 0.02)), side=test_side),
            test_law or law,
            Material(young, poisson if test_poisson is None else test_poisson),
            part="test",
        )
        self.counts = train, test

    def prepare(self, streams: Streams, parents: Mapping[str, Parent]) -> None:
        """Finds or makes the solved grasps."""
        super().prepare(streams, parents)
        train, test = self.counts
        self.mesh, self.material = self.train_law.body.mesh(), self.train_law.material
        self.test_mesh = self.test_law.body.mesh()
        everything = solved(self.train_law, train)
        held_out = max(1, train // 10)
        self.train = _rows(everything, slice(0, train - held_out))
        self.validation = _rows(everything, slice(train - held_out, train))
        self.test = solved(self.test_law, test)
        self.content = {"train": everything.content, "test": self.test.content}
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

    def workplace(self, law: LawName | None = None) -> Workplace:
        """Finite elements of the test body and material, of another law where one is named."""
        wanted = self.test_law
        return Workplace(
            SolveLaw(wanted.body, wanted.grasps, law or wanted.law, wanted.material, part="test")
        )

    def fingerprints(self) -> dict[str, str]:
        """The bytes of the sets and of what the bodies are made of."""
        sets = {f"tissue {part}": content for part, content in self.content.items()}
        return sets | self.train_law.body.data() | self.test_law.body.data()


def _rows(part: Solved, rows: slice) -> Solved:
    return Solved(
        part.grasps.rows(rows),
        part.displacement[rows],
        part.failures,
        part.iterations[rows],
        part.content,
    )
