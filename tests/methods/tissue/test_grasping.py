"""The joint solve for all graspers, and the field it makes."""

import pytest
import torch

from sextant.methods.tissue import grasping
from sextant.methods.tissue.kelvinlets import normalised_kernel


def draw(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


CENTRES = draw(2, 5, 3, scale=0.05)
TOOLS = draw(2, 5, 3, seed=1, scale=0.01)
POINTS = draw(40, 3, seed=2, scale=0.08)


@pytest.mark.parametrize("poisson", [0.3, 0.45, 0.5])
def test_the_matrix_between_centres_is_symmetric_and_positive(poisson):
    kernel = grasping.constraint_matrix(CENTRES, 0.03, poisson)
    torch.testing.assert_close(kernel, kernel.mT)
    assert torch.linalg.eigvalsh(kernel).min() > 0
    block = normalised_kernel(CENTRES[0, 1] - CENTRES[0, 3], 0.03, poisson)
    torch.testing.assert_close(kernel[0, 3:6, 9:12], block)


@pytest.mark.parametrize("scales", ["single", "bi", "tri"])
def test_superposition_is_the_sum_of_the_kernels(scales):
    radius = torch.tensor([0.02, 0.03, 0.04, 0.03, 0.05], dtype=torch.float64)
    for width in (0.03, radius):
        kernels = normalised_kernel(POINTS[None, :, None] - CENTRES[:, None], width, 0.45, scales)
        direct = torch.einsum("bnmij,bmj->bni", kernels, TOOLS)
        ours = grasping.superpose(POINTS, CENTRES, TOOLS, width, 0.45, scales)
        torch.testing.assert_close(ours, direct, rtol=1e-9, atol=1e-12)


def test_without_a_ridge_the_field_is_what_the_tools_prescribe():
    for radius in (0.03, torch.tensor([0.02, 0.03, 0.04, 0.03, 0.05], dtype=torch.float64)):
        field = grasping.kelvinlet_field(CENTRES, CENTRES, TOOLS, radius, 0.45, ridge=0.0)
        torch.testing.assert_close(field, TOOLS, rtol=0, atol=1e-12)


def test_the_ridge_solution_is_where_the_objectives_gradient_vanishes():
    strengths = grasping.solve_constraints(CENTRES, TOOLS, 0.03, 0.45, 1e-3).requires_grad_()
    kernel = grasping.constraint_matrix(CENTRES, 0.03, 0.45)
    misfit = TOOLS.flatten(1) - (kernel @ strengths.flatten(1)[..., None])[..., 0]
    objective = misfit.square().sum() / 15 + 1e-3 * strengths.square().sum()
    (slope,) = torch.autograd.grad(objective, strengths)
    assert slope.abs().max() < 1e-14
    at_patch = grasping.kelvinlet_field(CENTRES, CENTRES, TOOLS, 0.03, 0.45)
    assert (at_patch - TOOLS).norm() < 0.1 * TOOLS.norm()


def test_the_field_is_linear_in_the_tools():
    other = draw(2, 5, 3, seed=7, scale=0.01)

    def field(tools):
        return grasping.kelvinlet_field(POINTS, CENTRES, tools, 0.03, 0.45)

    torch.testing.assert_close(field(2 * TOOLS - other), 2 * field(TOOLS) - field(other))


def test_two_graspers_are_solved_together():
    """Each keeps its own patch in place of moving the other's: the sum of two alone does not."""
    first, second = CENTRES[0], CENTRES[0] + torch.tensor([0.06, 0.0, 0.0], dtype=torch.float64)
    tools = torch.tensor([0.0, 0.0, 0.01], dtype=torch.float64).expand(5, 3)
    both = grasping.kelvinlet_field(
        torch.cat([first, second]),
        torch.cat([first, second]),
        torch.cat([tools, -tools]),
        0.03,
        0.45,
        ridge=1e-9,
    )
    torch.testing.assert_close(both, torch.cat([tools, -tools]), rtol=0, atol=1e-4)
    apart = sum(
        grasping.kelvinlet_field(first, centres, way, 0.03, 0.45, ridge=1e-9)
        for centres, way in ((first, tools), (second, -tools))
    )
    assert (apart - tools).norm() > 0.1 * tools.norm()


def test_entries_that_fill_up_a_batch_change_nothing():
    real = torch.tensor([[True, True, True, False, False], [True] * 5])
    strengths = grasping.solve_constraints(CENTRES, TOOLS, 0.03, 0.45, real=real)
    alone = grasping.solve_constraints(CENTRES[:1, :3], TOOLS[:1, :3], 0.03, 0.45)
    torch.testing.assert_close(strengths[:1, :3], alone)
    assert (strengths[0, 3:] == 0).all()
    interpolating = grasping.solve_constraints(CENTRES, TOOLS, 0.03, 0.45, 0.0, real)
    exact = grasping.solve_constraints(CENTRES[:1, :3], TOOLS[:1, :3], 0.03, 0.45, 0.0)
    torch.testing.assert_close(interpolating[:1, :3], exact)


def test_gradients_reach_every_input():
    inputs = (
        POINTS[:3],
        CENTRES[0, :3],
        TOOLS[0, :3],
        torch.tensor(0.03, dtype=torch.float64),
        torch.tensor(0.4, dtype=torch.float64),
    )
    inputs = tuple(value.clone().requires_grad_() for value in inputs)
    assert torch.autograd.gradcheck(grasping.kelvinlet_field, inputs, eps=1e-7, atol=1e-4)


def test_inputs_out_of_range_are_named():
    with pytest.raises(ValueError, match="ridge must be at least 0"):
        grasping.solve_constraints(CENTRES, TOOLS, 0.03, 0.45, -1.0)
    with pytest.raises(ValueError, match="centres and displacement must both be"):
        grasping.solve_constraints(CENTRES, TOOLS[:, :3], 0.03, 0.45)
