import copy
import pickle

import pytest
import torch

from sextant.methods.backbones.velocity import VelocityMLP


@pytest.mark.parametrize("classes", [0, 4])
def test_shapes_and_state(classes):
    network = VelocityMLP(3, 8, 2, 4, classes=classes)
    z, t, h = torch.randn(5, 3), torch.rand(5), torch.rand(5)
    labels = torch.arange(5) % 4
    assert network(z, t, h, labels).shape == (5, 3)
    again = pickle.loads(pickle.dumps(copy.deepcopy(network)))
    assert torch.equal(again(z, t, h, labels), network(z, t, h, labels))
    expected = 8 * (3 + 16 + 32 * bool(classes)) + 8 + 8 * 8 + 8 + 3 * 8 + 3 + 32 * classes
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_the_ends_of_the_unit_interval_differ():
    """One step over the whole interval (h = 1) must not look like a velocity (h = 0)."""
    torch.manual_seed(0)
    network, z = VelocityMLP(2, 32, 2, 4), torch.zeros(1, 2)
    zero, one = torch.zeros(1), torch.ones(1)
    assert (network(z, one, zero) - network(z, one, one)).abs().max() > 1e-3
    assert (network(z, zero, zero) - network(z, one, zero)).abs().max() > 1e-3
    assert (network(z, one, zero) - network(z, zero, one)).abs().max() > 1e-3


def test_labels_matter_only_where_there_are_classes():
    z, t, h = torch.randn(4, 2), torch.rand(4), torch.rand(4)
    labels = torch.tensor([0, 1, 2, 0])
    plain, conditional = VelocityMLP(2, 8), VelocityMLP(2, 8, classes=3)
    assert torch.equal(plain(z, t, h, labels), plain(z, t, h))
    assert not torch.allclose(conditional(z, t, h, labels), conditional(z, t, h, 2 - labels))
    with pytest.raises(ValueError, match="labels are missing"):
        conditional(z, t, h)


def test_rows_do_not_see_each_other():
    network = VelocityMLP(2, 8, classes=3).double()
    z, t, h = torch.randn(6, 2).double(), torch.rand(6).double(), torch.rand(6).double()
    labels, order = torch.arange(6) % 3, torch.randperm(6)
    found = network(z[order], t[order], h[order], labels[order])
    torch.testing.assert_close(found, network(z, t, h, labels)[order])


def test_bad_input_is_named():
    for name in ("dimension", "width", "depth", "frequencies", "class_width"):
        with pytest.raises(ValueError, match=name):
            VelocityMLP(**({"dimension": 2} | {name: 0}))
    with pytest.raises(ValueError, match="classes"):
        VelocityMLP(2, classes=-1)
    with pytest.raises(ValueError, match="z must be"):
        VelocityMLP(2, 8)(torch.rand(3, 3), torch.rand(3), torch.rand(3))
