"""What networks see of a mesh and a grasp."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from sextant.contracts import Grasps, TissueMesh


class Channel(IntEnum):
    """The input channels of a node, in this order; vectors name their first entry."""

    POSITION = 0
    NORMAL = 3
    TOOL = 6
    HELD = 9


CHANNELS = 10


@dataclass(frozen=True)
class Geometry:
    """A mesh as tensors.

    Args:
        positions: (N, 3) float32, metres.
        normals: outward unit normals (N, 3) of surface nodes, 0 inside.
        edges: (2, E) int64, both directions of every edge and of N random long ones, which carry
            messages across the body.
        sides: from an edge's first to its second node (E, 3), metres.
    """

    positions: Tensor
    normals: Tensor
    edges: Tensor
    sides: Tensor

    def to(self, device: torch.device) -> Geometry:
        """The same on a device."""
        return Geometry(*(value.to(device) for value in vars(self).values()))


def geometry_of(mesh: TissueMesh) -> Geometry:
    """The tensors of a mesh; the long edges are the same at every call."""
    positions = torch.from_numpy(mesh.positions)
    count = len(positions)
    corners = positions[torch.from_numpy(mesh.surface)]
    areas = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = torch.zeros_like(positions)
    for corner in range(3):
        normals.index_add_(0, torch.from_numpy(mesh.surface[:, corner]), areas)
    normals = torch.nn.functional.normalize(normals, dim=1)
    tetrahedra = torch.from_numpy(mesh.tetrahedra)
    near = torch.cat([tetrahedra[:, [a, b]] for a in range(4) for b in range(a)])
    far = torch.randint(count, (count, 2), generator=torch.Generator().manual_seed(0))
    pairs = torch.cat([near, far[far[:, 0] != far[:, 1]]]).sort(1).values.unique(dim=0)
    edges = torch.cat([pairs, pairs.flip(1)]).T.contiguous()
    sides = positions[edges[1]] - positions[edges[0]]
    return Geometry(positions.float(), normals.float(), edges, sides.float())


def node_inputs(geometry: Geometry, grasps: Grasps, with_normals: bool = False) -> Tensor:
    """The channels (B, N, 10) of every node: rest position, normal or zeros, the tool's
    displacement where it holds the node, and whether it does."""
    batch, count = len(grasps), len(geometry.positions)
    inputs = geometry.positions.new_zeros(batch, count + 1, CHANNELS)
    # entries that only fill up the batch go to one node too many
    nodes = torch.where(grasps.held, grasps.nodes, count)[..., None]
    tools = torch.cat([grasps.displacement, torch.ones_like(grasps.displacement[..., :1])], -1)
    inputs[..., Channel.TOOL :].scatter_(1, nodes.expand(-1, -1, 4), tools.to(inputs))
    inputs = inputs[:, :count]
    inputs[..., : Channel.NORMAL] = geometry.positions
    if with_normals:
        inputs[..., Channel.NORMAL : Channel.TOOL] = geometry.normals
    return inputs


def chosen_nodes(grasps: Grasps, count: int, wanted: int, generator: torch.Generator) -> Tensor:
    """Node numbers (B, wanted) without repetition: all held ones, the others at random."""
    order = torch.rand(len(grasps), count + 1, generator=generator).to(grasps.nodes.device)
    order.scatter_(1, torch.where(grasps.held, grasps.nodes, count), -1.0)
    return order[:, :count].topk(wanted, largest=False).indices
