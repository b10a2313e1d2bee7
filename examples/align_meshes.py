"""Matches the surfaces of two meshes with one learned slice, and shows the match as a picture.

    python examples/align_meshes.py                          # a liver and a heart
    python examples/align_meshes.py skull_surface tooth_surface --points 800
    python examples/align_meshes.py left.off right.off --slicer set_transformer --picture out.png

A mesh is the name of one of the anatomy meshes (`sextant data list` says where they are looked
for), or a file: .off, or .npz with `vertices` (n, 3) and `surface` (m, 3). Both meshes are moved to
their centre and scaled to the same size, and points are drawn uniformly by area.

The table compares three matches of the sampled points, all in squared distance: exact optimal
transport, the best of 500 random directions (min-SWGG), and the slicer that was just trained
(min-STP). Its second column asks the same of a fresh sample of both surfaces; exact transport and
the random directions start again there, the slicer only sorts the points.

The picture shows the source and what each of its points is matched to, by colour and by lines, and
the way of the points from one surface to the other.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sextant.data import locate
from sextant.errors import UserError
from sextant.methods.transport.exact import exact_pairs
from sextant.methods.transport.ground import paired_cost
from sextant.methods.transport.plans import SparsePlan
from sextant.methods.transport.sliced.directions import min_sliced, random_directions
from sextant.methods.transport.sliced.fitting import min_sliced_plan

DIRECTIONS = 500
"""Random directions that min-SWGG tries."""

STEPS = (0.0, 1 / 3, 2 / 3, 1.0)
"""Times of the interpolation that are drawn."""


class Mesh(NamedTuple):
    """A triangulated surface: vertices (n, 3) float64, triangles (m, 3) of row numbers."""

    vertices: np.ndarray
    triangles: np.ndarray


class Answer(NamedTuple):
    """One way to match two samples: its name, plan, cost and seconds."""

    name: str
    plan: SparsePlan
    cost: float
    seconds: float


def read_mesh(name: str) -> Mesh:
    """The mesh in a file, or the anatomy mesh of that name.

    Raises:
        SystemExit: for a mesh that is not there or cannot be read.
    """
    path = Path(name)
    if not path.is_file():
        try:
            folder = locate("anatomy").path
        except UserError as error:
            raise SystemExit(str(error)) from None
        path = folder / f"{name}.npz"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in folder.glob("*.npz")))
            raise SystemExit(f"mesh must be a .npz or .off file or one of {known}; got {name!r}")
    if path.suffix == ".off":
        return read_off(path)
    with np.load(path) as arrays:
        if not {"vertices", "surface"} <= set(arrays.files):
            raise SystemExit(f"{path} must hold vertices and surface, got {arrays.files}")
        return Mesh(arrays["vertices"].astype(np.float64), arrays["surface"].astype(np.int64))


def read_off(path: Path) -> Mesh:
    """An Object File Format mesh; polygons are split into triangles around their first corner."""
    words = [line.split("#")[0].split() for line in path.read_text().splitlines()]
    words = [line for line in words if line]
    if not words or not words[0][0].upper().startswith("OFF"):
        raise SystemExit(f"{path} must begin with OFF")
    # Some files have the counts on the first line, right behind the three letters.
    words[0] = " ".join(words[0])[3:].split()
    rows = [line for line in words if line]
    vertices, faces = int(rows[0][0]), int(rows[0][1])
    points = np.array([row[:3] for row in rows[1 : 1 + vertices]], dtype=np.float64)
    triangles = []
    for row in rows[1 + vertices : 1 + vertices + faces]:
        corners = [int(word) for word in row[1 : 1 + int(row[0])]]
        triangles += [(corners[0], *corners[k : k + 2]) for k in range(1, len(corners) - 1)]
    return Mesh(points, np.array(triangles, dtype=np.int64))


def areas(mesh: Mesh) -> np.ndarray:
    """The area of each triangle (m,)."""
    first, second, third = (mesh.vertices[mesh.triangles[:, corner]] for corner in range(3))
    return np.linalg.norm(np.cross(second - first, third - first), axis=1) / 2


def standard_size(mesh: Mesh) -> Mesh:
    """The mesh moved to its centre of area, at a root mean square distance of 1 from it."""
    share = areas(mesh) / areas(mesh).sum()
    middles = mesh.vertices[mesh.triangles].mean(1)
    centre = share @ middles
    size = np.sqrt(share @ np.square(middles - centre).sum(1))
    return Mesh((mesh.vertices - centre) / size, mesh.triangles)


def sample(mesh: Mesh, count: int, generator: np.random.Generator) -> Tensor:
    """Points (count, 3) drawn uniformly by area from the surface."""
    share = areas(mesh)
    chosen = mesh.triangles[generator.choice(len(share), count, p=share / share.sum())]
    corners = mesh.vertices[chosen]
    # The square root makes the points uniform inside a triangle.
    outward, along = np.sqrt(generator.random(count)), generator.random(count)
    weights = np.stack([1 - outward, outward * (1 - along), outward * along], axis=1)
    return torch.from_numpy(np.einsum("nc,ncd->nd", weights, corners))


def timed(name: str, match: Callable[[], SparsePlan], source: Tensor, target: Tensor) -> Answer:
    """Runs a match and writes down what it cost."""
    started = time.perf_counter()
    plan = match()
    seconds = time.perf_counter() - started
    return Answer(name, plan, plan.cost(source, target, "sqeuclidean").item(), seconds)


def exact_plan(source: Tensor, target: Tensor) -> SparsePlan:
    """The plan of exact optimal transport between equally many points."""
    pairs = exact_pairs(source, target)
    mass = torch.full((len(source),), 1 / len(source), dtype=torch.float64)
    return SparsePlan(pairs.source_index, pairs.target_index, mass, (len(source), len(target)))


def searched_plan(source: Tensor, target: Tensor, seed: int) -> SparsePlan:
    """The best plan of many random directions."""
    directions = random_directions(DIRECTIONS, 3, torch.Generator().manual_seed(seed))
    return min_sliced(source, target, directions.to(source), "sqeuclidean").plan


def print_table(rows: dict[str, list[tuple[float, float | None]]]) -> None:
    """Costs and times, one line a method."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="mean squared distance between matched points")
    table.add_column("method")
    for column in ("this sample", "seconds", "a fresh sample", "seconds"):
        table.add_column(column, justify="right")
    for name, cells in rows.items():
        words = [name]
        for cost, seconds in cells:
            words += [f"{cost:.3f}", "" if seconds is None else f"{seconds:.3f}"]
        table.add_row(*words)
    Console().print(table)


def colours_of(points: Tensor) -> np.ndarray:
    """A colour (n, 3) for each point: hue by its rank along the longest axis of the cloud, and
    darker towards the lower end of the second."""
    from matplotlib import colormaps

    axes = torch.linalg.svd(points - points.mean(0), full_matrices=False).Vh
    ranks = (points @ axes[:2].T).argsort(0).argsort(0).double() / (len(points) - 1)
    along, across = ranks.numpy().T
    return colormaps["turbo"](0.05 + 0.9 * along)[:, :3] * (0.6 + 0.4 * across)[:, None]


def seen(points: Tensor) -> Tensor:
    """Points (n, 3) as a viewer sees them: right, up, and towards the viewer."""
    turn, tilt = np.radians(-72.0), np.radians(18.0)
    towards = torch.tensor([np.cos(tilt) * np.cos(turn), np.cos(tilt) * np.sin(turn), np.sin(tilt)])
    right = torch.tensor([-np.sin(turn), np.cos(turn), 0.0])
    return points @ torch.stack((right, torch.linalg.cross(towards, right), towards), 1)


def draw(
    path: Path,
    names: tuple[str, str],
    source: Tensor,
    target: Tensor,
    learned: Answer,
    exact: Answer,
) -> None:
    """Saves the picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.collections import LineCollection

    plan, colours = learned.plan, colours_of(source)
    figure = plt.figure(figsize=(15, 8), facecolor="white")
    grid = figure.add_gridspec(
        2, 12, left=0.01, right=0.99, top=0.94, bottom=0.07, hspace=0.08, wspace=0.05
    )
    reach = 1.05 * torch.cat((seen(source), seen(target)))[:, :2].abs().amax(0)

    def panel(row: int, columns: slice, title: str, room: float = 1.0) -> plt.Axes:
        axes = figure.add_subplot(grid[row, columns])
        right, up = reach.tolist()
        axes.set(xlim=(-room * right, room * right), ylim=(-up, up), aspect="equal")
        axes.set_axis_off()
        axes.set_title(title, fontsize=13)
        return axes

    def dots(axes: plt.Axes, places: Tensor, shades: np.ndarray) -> None:
        order = places[:, 2].argsort()
        depth = places[order, 2].numpy()
        nearness = (depth - depth.min()) / (np.ptp(depth) or 1.0)
        # What is far away is smaller and paler.
        haze = 0.55 * (1 - nearness)[:, None]
        axes.scatter(
            *places[order, :2].numpy().T,
            s=14 + 30 * nearness,
            c=(1 - haze) * shades[order.numpy()] + haze,
            edgecolors="white",
            linewidths=0.3,
            zorder=3,
        )

    def carried(by: SparsePlan) -> np.ndarray:
        shades = np.empty_like(colours)
        shades[by.target_index.numpy()] = colours[by.source_index.numpy()]
        return shades

    wide = panel(0, slice(0, 8), f"{names[0]}, matched to {names[1]} by one learned slice", 2.2)
    shift = torch.tensor([1.15 * reach[0].item(), 0.0, 0.0])
    left, right = seen(source) - shift, seen(target) + shift
    # Some entries of the plan, evenly spaced in the order of the slicer's scores.
    shown = torch.linspace(0, len(plan.mass) - 1, min(120, len(plan.mass))).long()
    chosen = plan.source_index[shown]
    ends = torch.stack((left[chosen], right[plan.target_index[shown]]), 1)[..., :2]
    wide.add_collection(
        LineCollection(ends.numpy(), colors=colours[chosen.numpy()], linewidths=0.8, alpha=0.5)
    )
    dots(wide, left, colours)
    dots(wide, right, carried(plan))
    best = panel(0, slice(8, 12), f"{names[1]}, by exact transport", 1.1)
    dots(best, seen(target), carried(exact.plan))
    for place, moment in enumerate(STEPS):
        points = plan.interpolate(source, target, moment)
        title = f"{moment:.0%} of the way" if 0 < moment < 1 else names[int(moment)]
        axes = panel(1, slice(3 * place, 3 * place + 3), title)
        dots(axes, seen(points), colours[plan.source_index.numpy()])
    figure.text(
        0.5,
        0.025,
        "every point keeps its colour; mean squared distance of the learned match "
        f"{learned.cost:.3f}, of exact transport {exact.cost:.3f}",
        ha="center",
        fontsize=12,
        color="0.3",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def arguments() -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", nargs="?", default="liver_smooth_surface", help="a mesh")
    parser.add_argument("target", nargs="?", default="heart_surface", help="another mesh")
    parser.add_argument("--points", type=int, default=500, help="points on each surface (500)")
    parser.add_argument(
        "--slicer",
        choices=("mlp", "linear", "set_transformer"),
        default="mlp",
        help="the function that orders the points (mlp)",
    )
    parser.add_argument("--iterations", type=int, default=400, help="training steps (400)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples and the slicer (0)")
    parser.add_argument(
        "--picture", type=Path, default=Path("align_meshes.png"), help="where the picture goes"
    )
    chosen = parser.parse_args()
    if chosen.points < 2:
        parser.error(f"--points must be at least 2, got {chosen.points}")
    return chosen


def main() -> None:
    """Matches two meshes, prints what it costs and saves a picture."""
    chosen = arguments()
    meshes = [standard_size(read_mesh(name)) for name in (chosen.source, chosen.target)]
    generator = np.random.default_rng(chosen.seed)
    source, target = (sample(mesh, chosen.points, generator) for mesh in meshes)
    started = time.perf_counter()
    transport = min_sliced_plan(
        source,
        target,
        chosen.slicer,
        iterations=chosen.iterations,
        seed=chosen.seed,
        progress=True,
    )
    learned = Answer(
        "min-STP (learned slice)", transport.plan, transport.cost, time.perf_counter() - started
    )
    fresh = [sample(mesh, chosen.points, generator) for mesh in meshes]
    rows: dict[str, list[tuple[float, float | None]]] = {}
    for points in ((source, target), tuple(fresh)):
        exact = timed("exact transport", lambda pair=points: exact_plan(*pair), *points)
        searched = timed(
            f"min-SWGG ({DIRECTIONS} directions)",
            lambda pair=points: searched_plan(*pair, chosen.seed),
            *points,
        )
        sliced = learned
        if points[0] is source:
            known = exact
        else:
            sliced = timed(
                learned.name, lambda pair=points: transport.slicer.transfer(*pair).plan, *points
            )
        for answer in (exact, sliced, searched):
            rows.setdefault(answer.name, []).append((answer.cost, answer.seconds))
        # The mean over all pairs is what a random matching costs on average.
        random = paired_cost(points[0][:, None], points[1][None], "sqeuclidean").mean().item()
        rows.setdefault("random", []).append((random, None))
    print_table(rows)
    names = tuple(
        Path(name).stem.replace("_surface", "").replace("_", " ")
        for name in (chosen.source, chosen.target)
    )
    draw(chosen.picture, names, source, target, learned, known)
    print(f"picture: {chosen.picture}")


if __name__ == "__main__":
    main()
