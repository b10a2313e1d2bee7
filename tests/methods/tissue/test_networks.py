"""What holds for every network: shapes, symmetries, gradients, and the released size."""

import pytest
import torch

from sextant.contracts import Grasps, TissueMesh
from sextant.methods.tissue import geometry as seen
from sextant.methods.tissue.networks import (
    DeepONet,
    MeshGraphNet,
    PointNet,
    Transolver,
    zero_last_layer,
)

NETWORKS = {
    "pointnet": lambda: PointNet(8, (16, 32), (16, 8), transform=False),
    "pointnet_turned": lambda: PointNet(4, (16, 32), (16, 8), transform=True),
    "transolver": lambda: Transolver(16, 2, 2, 4),
    "meshgraphnet": lambda: MeshGraphNet(8, 2),
    "deeponet": lambda: DeepONet(16, 8),
}


def mesh():
    corners = torch.tensor([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]).double()
    tetrahedra = torch.tensor(
        [[0, 4, 2, 1], [6, 2, 4, 7], [5, 4, 1, 7], [3, 1, 2, 7], [4, 2, 1, 7]]
    )
    faces = torch.tensor([[0, 1, 2], [0, 4, 1], [0, 2, 4], [7, 2, 3], [7, 6, 2], [7, 3, 1]])
    return TissueMesh(
        (0.05 * corners).numpy(), tetrahedra.numpy(), faces.numpy(), (corners[:, 2] > 0.5).numpy()
    )


GRASPS = Grasps(
    torch.tensor([[0, 2, -1], [4, 6, 2]]),
    torch.tensor([[[0.01, 0, 0], [0.01, 0, 0], [0, 0, 0]], [[0, -0.01, 0.002]] * 3]),
)


def inputs():
    geometry = seen.geometry_of(mesh())
    values = seen.node_inputs(geometry, GRASPS)
    return values / 0.05, values[..., seen.Channel.HELD] > 0.5, geometry


def test_channels_hold_what_their_names_say():
    geometry = seen.geometry_of(mesh())
    values = seen.node_inputs(geometry, GRASPS, with_normals=True)
    torch.testing.assert_close(values[1, :, :3], geometry.positions)
    torch.testing.assert_close(values[0, :, 3:6], geometry.normals)
    assert values[0, :, 9].tolist() == [1, 0, 1, 0, 0, 0, 0, 0]
    torch.testing.assert_close(values[1, 6, 6:9], torch.tensor([0.0, -0.01, 0.002]))
    assert (values[0, 1, 6:] == 0).all()
    assert (seen.node_inputs(geometry, GRASPS)[..., 3:6] == 0).all()


def test_chosen_nodes_hold_all_that_is_held_and_nothing_twice():
    rows = seen.chosen_nodes(GRASPS, 8, 5, torch.Generator().manual_seed(0))
    for row, nodes in zip(rows.tolist(), GRASPS.nodes.tolist(), strict=True):
        assert len(set(row)) == 5
        assert {node for node in nodes if node >= 0} <= set(row)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_answer_for_every_node_and_learn_in_every_weight(name):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    found = network(*inputs())
    assert found.shape == (2, 8, 3)
    found.square().sum().backward()
    for part, weight in network.named_parameters():
        assert weight.grad is not None, part
    zero_last_layer(network)
    assert (network(*inputs()) == 0).all()


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "meshgraphnet"])
def test_the_order_of_the_nodes_does_not_matter(name):
    torch.manual_seed(0)
    network, (values, held, geometry) = NETWORKS[name](), inputs()
    order = torch.randperm(8)
    turned = network(values[:, order], held[:, order], geometry)
    torch.testing.assert_close(turned, network(values, held, geometry)[:, order])


def test_a_mesh_with_other_numbers_gets_the_same_messages():
    torch.manual_seed(0)
    network, (values, held, geometry) = MeshGraphNet(8, 2), inputs()
    order = torch.randperm(8)
    place = order.argsort()
    renamed = seen.Geometry(
        geometry.positions[order], geometry.normals[order], place[geometry.edges], geometry.sides
    )
    found = network(values[:, order], held[:, order], renamed)
    torch.testing.assert_close(found, network(values, held, geometry)[:, order])


def test_messages_are_those_of_the_plain_formula():
    torch.manual_seed(0)
    network, (values, held, geometry) = MeshGraphNet(8, 1), inputs()
    nodes, sides = network.first(values), geometry.sides / network.length
    along = network.edge(torch.cat([sides, sides.norm(dim=1, keepdim=True)], 1)).expand(2, -1, -1)
    source, target = geometry.edges
    joined = torch.cat([along, nodes[:, source], nodes[:, target]], -1)
    along = along + network.norms[0](network.send[0](joined))
    arrived = torch.stack([along[:, target == node].sum(1) for node in range(8)], 1)
    nodes = nodes + network.norms[1](network.take[0](torch.cat([nodes, arrived], -1)))
    torch.testing.assert_close(network(values, held, geometry), network.last(nodes))


def test_nodes_given_twice_change_nothing_in_pointnet():
    torch.manual_seed(0)
    network, (values, held, geometry) = NETWORKS["pointnet_turned"](), inputs()
    twice = network(torch.cat([values, values[:, :3]], 1), held, geometry)
    torch.testing.assert_close(twice[:, :8], network(values, held, geometry))
    assert network.penalty > 0


def test_the_default_pointnet_has_the_released_size():
    assert sum(weight.numel() for weight in PointNet().parameters()) == 2_684_163


def test_settings_out_of_range_are_named():
    with pytest.raises(ValueError, match="width must be a multiple of heads"):
        Transolver(30, 1, 4, 2)
