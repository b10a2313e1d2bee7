"""Kelvinlets against the equation they solve, closed forms, symmetries and libigl's brushes."""

import math

import igl
import numpy as np
import pytest
import torch
from torch.func import hessian, jacrev, vmap

from sextant.methods.tissue import kelvinlets
from sextant.methods.tissue.kelvinlets import affine, coefficients, grab, normalised_kernel

EPSILON = 0.03


def draw(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def rotation(seed=0):
    q, _ = torch.linalg.qr(draw(3, 3, seed=seed))
    return q * torch.linalg.det(q)


@pytest.mark.parametrize("scales", ["single", "bi", "tri"])
@pytest.mark.parametrize("poisson", [0.0, 0.3, 0.45, 0.5])
def test_the_normalised_kernel_is_the_identity_at_its_centre_and_symmetric(scales, poisson):
    r = draw(20, 3, scale=0.05)
    kernel = normalised_kernel(r, EPSILON, poisson, scales)
    at_centre = normalised_kernel(torch.zeros(3, dtype=torch.float64), EPSILON, poisson, scales)
    torch.testing.assert_close(at_centre, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(kernel, kernel.mT)
    torch.testing.assert_close(kernel, normalised_kernel(-r, EPSILON, poisson, scales))


def test_stiffness_cancels_in_the_normalised_kernel():
    r, f = draw(20, 3, scale=0.05), draw(3, seed=1)
    ours = normalised_kernel(r, EPSILON, 0.45) @ f
    for shear in (1.0, 724.0, 1e9):
        raw = grab(r, f, EPSILON, 0.45, shear)
        a, b = coefficients(0.45, shear)
        torch.testing.assert_close(raw * 2 * EPSILON / (3 * a - 2 * b), ours, rtol=1e-12, atol=0)


@pytest.mark.parametrize("poisson", [0.0, 0.3, 0.45])
def test_a_grab_solves_naviers_equation(poisson):
    shear, f = 724.0, torch.tensor([1.0, -0.4, 0.7], dtype=torch.float64)
    points = draw(30, 3, scale=0.04)

    def displacement(x):
        return grab(x, f, EPSILON, poisson, shear)

    second = vmap(hessian(displacement))(points)  # (30, 3, 3, 3): [point, component, j, k]
    laplacian = second.diagonal(dim1=2, dim2=3).sum(-1)
    gradient_of_divergence = torch.einsum("piik->pk", second)
    load = 15 * EPSILON**4 / (8 * math.pi * (points.square().sum(-1) + EPSILON**2) ** 3.5)
    terms = shear * laplacian + shear / (1 - 2 * poisson) * gradient_of_divergence
    torch.testing.assert_close(terms, -load[:, None] * f, rtol=1e-9, atol=1e-9 * float(load.max()))


def test_an_incompressible_medium_keeps_its_volume_and_the_tip_moves_rigidly():
    f, points = draw(3), draw(30, 3, seed=1, scale=0.05)
    gradient = vmap(jacrev(lambda x: grab(x, f, EPSILON, 0.5)))
    divergence = gradient(points).diagonal(dim1=1, dim2=2).sum(-1)
    assert divergence.abs().max() < 1e-10 * gradient(points).abs().max()
    assert gradient(torch.zeros(1, 3, dtype=torch.float64)).abs().max() < 1e-12
    loose = vmap(jacrev(lambda x: grab(x, f, EPSILON, 0.3)))(points).diagonal(dim1=1, dim2=2)
    assert loose.sum(-1).abs().max() > 0.1


@pytest.mark.parametrize("poisson", [0.3, 0.5])
def test_affine_brushes_have_the_gradient_at_the_centre_that_was_asked_for(poisson):
    wanted = draw(3, 3, seed=3)
    if poisson == 0.5:
        wanted = wanted - wanted.trace() / 3 * torch.eye(3, dtype=torch.float64)
    matrix = kelvinlets.matrix_of_gradient(wanted, EPSILON, poisson, 724.0)
    found = jacrev(lambda x: affine(x, matrix, EPSILON, poisson, 724.0))(
        torch.zeros(3, dtype=torch.float64)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("poisson", [0.0, 0.45, 0.5])
def test_the_affine_brush_of_f_g_is_the_derivative_of_the_grab_along_g(poisson):
    f, g, points = draw(3), draw(3, seed=1), draw(10, 3, seed=2, scale=0.05)
    slope = vmap(jacrev(lambda x: grab(x, f, EPSILON, poisson)))(points) @ g
    brush = affine(points, torch.outer(f, g), EPSILON, poisson)
    torch.testing.assert_close(brush, slope, rtol=1e-10, atol=1e-10)


def test_named_brushes_do_what_they_are_called():
    points, q = draw(20, 3, scale=0.05), draw(3, seed=4)
    twist = affine(points, kelvinlets.twist_matrix(q), EPSILON, 0.3)
    assert (twist * points).sum(-1).abs().max() < 1e-12 * twist.abs().max()  # no radial part
    other = affine(points, kelvinlets.twist_matrix(q), EPSILON, 0.0)
    torch.testing.assert_close(twist, other)  # the material does not matter
    swell = kelvinlets.scale_matrix(torch.tensor(-1.0, dtype=torch.float64))
    assert affine(points, swell, EPSILON, 0.5).abs().max() < 1e-9
    moved = affine(points, swell, EPSILON, 0.3)
    assert ((moved * points).sum(-1) > 0).all()  # a negative s pushes outwards
    torch.testing.assert_close(torch.linalg.cross(moved, points), torch.zeros_like(points))
    pinch = kelvinlets.pinch_matrix(draw(3, 3, seed=5))
    assert abs(float(pinch.trace())) < 1e-12
    torch.testing.assert_close(pinch, pinch.mT)


def test_turning_moving_and_scaling_space_turns_moves_and_scales_the_field():
    r, f, turn = draw(10, 3, scale=0.05), draw(3, seed=1), rotation()
    turned = grab(r @ turn.T, turn @ f, EPSILON, 0.45)
    torch.testing.assert_close(turned, grab(r, f, EPSILON, 0.45) @ turn.T)
    torch.testing.assert_close(
        normalised_kernel(7.0 * r, 7.0 * EPSILON, 0.45, "tri"),
        normalised_kernel(r, EPSILON, 0.45, "tri"),
    )


@pytest.mark.parametrize(("scales", "slope"), [("single", -1), ("bi", -3), ("tri", -5)])
def test_more_scales_decay_faster(scales, slope):
    distance = torch.linspace(30, 85, 40, dtype=torch.float64)
    r = distance[:, None] * torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    size = normalised_kernel(r, 1.0, 0.45, scales)[:, 0, 0].abs().log()
    fitted = np.polyfit(distance.log().numpy(), size.numpy(), 1)[0]
    assert fitted == pytest.approx(slope, abs=0.05)


def igl_brush(points, force, matrix, kind, scales=1):
    vertices = points.numpy()
    moved = igl.kelvinlets(vertices, np.zeros(3), force, matrix, 1.0, scales, kind)
    return torch.from_numpy(np.asarray(moved)) - points


@pytest.mark.parametrize("kind", ["grab", "twist", "pinch", "scale"])
def test_libigl_draws_the_same_brushes_of_an_incompressible_medium(kind):
    """libigl integrates the brush in time and scales it by a number of its own."""
    points, force = draw(40, 3), 1e-6 * draw(3, seed=1)
    matrix = 1e-6 * draw(3, 3, seed=2)
    matrix = {
        "grab": matrix,
        "twist": 0.5 * (matrix - matrix.T),
        "pinch": kelvinlets.pinch_matrix(matrix),
        "scale": 1e-6 * torch.eye(3, dtype=torch.float64),
    }[kind]
    theirs = igl_brush(points, force.numpy(), matrix.numpy(), getattr(igl.BrushType, kind.upper()))
    poisson = 0.0 if kind == "scale" else 0.5  # ours does not swell at 1/2
    ours = grab(points, force, 1.0, 0.5) if kind == "grab" else affine(points, matrix, 1.0, poisson)
    factor = float((ours * theirs).sum() / ours.square().sum())
    assert factor != 0.0
    assert (theirs - factor * ours).norm() < 2e-6 * theirs.norm()


@pytest.mark.parametrize(("count", "scales"), [(2, "bi"), (3, "tri")])
def test_libigl_combines_scales_as_we_do(count, scales):
    points, force = draw(40, 3), 1e-6 * draw(3, seed=1)
    theirs = igl_brush(points, force.numpy(), np.zeros((3, 3)), igl.BrushType.GRAB, count)
    ours = (normalised_kernel(points, 1.0, 0.5, scales) @ force[:, None])[..., 0]
    factor = float((ours * theirs).sum() / ours.square().sum())
    assert factor != 0.0
    assert (theirs - factor * ours).norm() < 2e-6 * theirs.norm()


def test_external_work_is_the_integral_of_load_times_displacement():
    f, shear, poisson = draw(3), 724.0, 0.45
    radii, weights = np.polynomial.legendre.leggauss(200)
    t = torch.from_numpy((radii + 1) / 2)  # r = e t / (1 - t) covers all distances
    r = EPSILON * t / (1 - t)
    measure = torch.from_numpy(weights / 2) * EPSILON / (1 - t) ** 2 * 4 * math.pi * r**2
    load = 15 * EPSILON**4 / (8 * math.pi * (r**2 + EPSILON**2) ** 3.5)
    # over a sphere r r^T averages to r^2 / 3
    ways = torch.eye(3, dtype=torch.float64)
    mean = sum((grab(r[:, None] * way, f, EPSILON, poisson, shear) @ f) for way in ways) / 3
    work = (measure * load * mean).sum()
    ours = kelvinlets.external_work(f, EPSILON, poisson, shear)
    torch.testing.assert_close(work, ours, rtol=1e-8, atol=0)


def test_inputs_out_of_range_are_named():
    with pytest.raises(ValueError, match="poisson must lie in"):
        coefficients(0.6)
    with pytest.raises(ValueError, match="shear must be positive"):
        coefficients(0.3, 0.0)
    with pytest.raises(ValueError, match="radius must be positive"):
        normalised_kernel(draw(3), 0.0, 0.3)
    with pytest.raises(ValueError, match="scales must be one of single, bi, tri"):
        normalised_kernel(draw(3), 1.0, 0.3, "quad")
