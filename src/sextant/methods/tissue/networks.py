"""Networks from the ten channels of every node to three numbers.

All are called as network(inputs (B, N, 10), held (B, N) bool, geometry) and return (B, N, 3). Those
whose `any_nodes` is true take any subset of the nodes; the others need the whole mesh.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from sextant.methods.tissue.geometry import CHANNELS, Channel, Geometry


def mlp(widths: Sequence[int], last: bool = False) -> nn.Sequential:
    """Linear layers with ReLU between them, and after the last one where `last` says so."""
    layers: list[nn.Module] = []
    for inside, outside in pairwise(widths):
        layers += [nn.Linear(inside, outside), nn.ReLU()]
    return nn.Sequential(*layers[: None if last else -1])


class PointNet(nn.Module):
    """PointNet as released for this paper: no input transform, no batch norm.

    Args:
        point: width of a node's own features.
        deep: widths up to the global feature, which is the largest over the nodes.
        head: widths of the head on [global, own].
        transform: whether a small network turns the features of each grasp first (T-Net).

    The defaults are the released network, 2,684,163 weights.
    """

    any_nodes = True

    def __init__(
        self,
        point: int = 64,
        deep: Sequence[int] = (128, 1024),
        head: Sequence[int] = (512, 256),
        transform: bool = True,
    ) -> None:
        super().__init__()
        self.first = mlp([CHANNELS, point], last=True)
        self.look = mlp([point, 64, 128, 1024], last=True) if transform else None
        self.turn = mlp([1024, 512, 256, point * point]) if transform else None
        self.deep = mlp([point, *deep])
        self.head = mlp([deep[-1] + point, *head])
        self.last = nn.Sequential(nn.ReLU(), nn.Linear(head[-1], 3))
        self.penalty: Tensor | None = None

    def forward(self, inputs: Tensor, held: Tensor, geometry: Geometry) -> Tensor:
        """See the module; `penalty` is then the mean of |T T^T - I| over the batch, or None."""
        own = self.first(inputs)
        if self.look is not None and self.turn is not None:
            identity = torch.eye(own.shape[-1]).to(own)
            turn = self.turn(self.look(own).amax(1)).unflatten(-1, identity.shape) + identity
            own = own @ turn
            self.penalty = torch.linalg.matrix_norm(turn @ turn.mT - identity).mean()
        whole = self.deep(own).amax(1, keepdim=True)
        # the head's first layer on [global, own], without building that array
        first = self.head[0]
        split = whole.shape[-1]
        mixed = functional.linear(own, first.weight[:, split:], first.bias)
        mixed = mixed + functional.linear(whole, first.weight[:, :split])
        return self.last(self.head[1:](mixed))


class Transolver(nn.Module):
    """Attention between a few slices of the nodes (Wu et al. 2024, physics attention).

    Args:
        width, layers, heads: as in a transformer.
        slices: soft groups of nodes a head makes.
    """

    any_nodes = True

    def __init__(self, width: int = 128, layers: int = 4, heads: int = 8, slices: int = 32) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width must be a multiple of heads = {heads}, got {width}")
        self.first = mlp([CHANNELS, width, width])
        self.blocks = nn.ModuleList(SliceBlock(width, heads, slices) for _ in range(layers))
        self.last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3))

    def forward(self, inputs: Tensor, held: Tensor, geometry: Geometry) -> Tensor:
        """See the module."""
        nodes = self.first(inputs)
        for block in self.blocks:
            nodes = block(nodes)
        return self.last(nodes)


class SliceBlock(nn.Module):
    """Nodes (B, N, width) to slices, attention among the slices, back to the nodes, and an MLP."""

    def __init__(self, width: int, heads: int, slices: int) -> None:
        super().__init__()
        self.heads, inner = heads, width // heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.values = nn.Linear(width, width)
        self.keys = nn.Linear(width, width)
        self.sharpness = nn.Parameter(torch.full((heads, 1, 1), 2.0))
        self.assign = nn.Linear(inner, slices)
        self.mix = nn.ModuleList(nn.Linear(inner, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.after = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, nodes: Tensor) -> Tensor:
        normed = self.before(nodes)
        values, keys = (
            layer(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.values, self.keys)
        )
        share = (self.assign(keys) * self.sharpness).softmax(-1)  # (B, heads, N, slices)
        slices = share.mT @ values / (share.sum(2)[..., None] + 1e-5)
        queries, keys, slices = (layer(slices) for layer in self.mix)
        slices = functional.scaled_dot_product_attention(queries, keys, slices)
        nodes = nodes + self.out((share @ slices).transpose(1, 2).flatten(2))
        return nodes + self.after(self.between(nodes))


class MeshGraphNet(nn.Module):
    """Messages along the edges of the mesh (Pfaff et al. 2021) and along a few long ones.

    Args:
        width: of node and edge features.
        blocks: rounds of messages.
        length: edge vectors are divided by it, metres.
    """

    any_nodes = False

    def __init__(self, width: int = 128, blocks: int = 12, length: float = 0.02) -> None:
        super().__init__()
        self.length = length
        self.first, self.edge = mlp([CHANNELS, width, width]), mlp([4, width, width])
        self.send = nn.ModuleList(mlp([3 * width, width, width]) for _ in range(blocks))
        self.take = nn.ModuleList(mlp([2 * width, width, width]) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * blocks))
        self.last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3))

    def forward(self, inputs: Tensor, held: Tensor, geometry: Geometry) -> Tensor:
        """See the module."""
        nodes, sides = self.first(inputs), geometry.sides / self.length
        along = self.edge(torch.cat([sides, sides.norm(dim=1, keepdim=True)], 1))
        along = along.expand(len(nodes), -1, -1)
        source, target = geometry.edges
        for round_, (send, take) in enumerate(zip(self.send, self.take, strict=True)):
            # the first layer on [edge, source, target], its node parts computed once a node
            first, width = send[0], nodes.shape[-1]
            ahead = functional.linear(nodes, first.weight[:, width : 2 * width])
            behind = functional.linear(nodes, first.weight[:, 2 * width :])
            joined = functional.linear(along, first.weight[:, :width], first.bias)
            joined = joined + ahead.index_select(1, source) + behind.index_select(1, target)
            along = along + self.norms[2 * round_](send[1:](joined))
            arrived = torch.zeros_like(nodes).index_add(1, target, along)
            change = take(torch.cat([nodes, arrived], -1))
            nodes = nodes + self.norms[2 * round_ + 1](change)
        return self.last(nodes)


class DeepONet(nn.Module):
    """Sums of learned fields of space with weights that the grasp decides (Lu et al. 2021).

    The branch reads position and displacement of every held node and adds up; the trunk reads the
    position of the node that is asked for.

    Args:
        width: of the hidden layers.
        modes: fields for each axis.
    """

    any_nodes = True

    def __init__(self, width: int = 256, modes: int = 128) -> None:
        super().__init__()
        self.held = mlp([CHANNELS, width, width], last=True)
        self.branch = mlp([width, width, 3 * modes])
        self.trunk = mlp([3, width, width, width, modes])
        self.last = nn.Linear(modes, 3, bias=True)  # the weight scales modes, one row an axis

    def forward(self, inputs: Tensor, held: Tensor, geometry: Geometry) -> Tensor:
        """See the module."""
        most = int(held.sum(1).max())
        rows = held.float().topk(most, dim=1).indices[..., None]
        picked = inputs.gather(1, rows.expand(-1, -1, CHANNELS))
        real = held.gather(1, rows[..., 0])[..., None]
        grasp = (self.held(picked) * real).sum(1)
        weights = self.branch(grasp).unflatten(-1, (3, -1)) * self.last.weight
        return self.trunk(inputs[..., : Channel.NORMAL]) @ weights.mT + self.last.bias


def zero_last_layer(network: nn.Module) -> None:
    """Makes a network's output zero, so that a residual student starts as its prior."""
    last = network.last[-1] if isinstance(network.last, nn.Sequential) else network.last
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
