"""Fills a closed surface with tetrahedra of bounded quality.

A body-centred cubic lattice is cut along the surface; its outer nodes then move to the surface and
its inner ones to the middle of their neighbours, as far as no tetrahedron becomes worse than
`LEAST_QUALITY`.
"""

from __future__ import annotations

import numpy as np

LEAST_QUALITY = 0.2  # of 1 for a regular tetrahedron; those of the lattice have 0.94
SWEEPS = 40
UNDOINGS = 10


def fill(points: np.ndarray, triangles: np.ndarray, spacing: float) -> tuple[np.ndarray, ...]:
    """Nodes (N, 3) and tetrahedra (T, 4) inside a closed surface.

    Args:
        points: of the surface (V, 3).
        triangles: (F, 3), outward.
        spacing: side of the lattice's cubes, in the unit of the points; N is about twice the
            volume over its cube.
    """
    from scipy.spatial import Delaunay, cKDTree

    low, high = points.min(0) - spacing, points.max(0) + spacing
    axes = [np.arange(a, b, spacing) for a, b in zip(low, high, strict=True)]
    corners = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    nodes = np.concatenate([corners, corners + spacing / 2])
    tetrahedra = Delaunay(nodes).simplices.astype(np.int64)
    tetrahedra = tetrahedra[np.abs(quality(nodes[tetrahedra])) > 0.5]  # the lattice's own
    samples, normals = sampled(points, triangles)
    surface = cKDTree(samples)
    middles = nodes[tetrahedra].mean(1)
    nearest = surface.query(middles)[1]
    inside = ((middles - samples[nearest]) * normals[nearest]).sum(1) < 0
    tetrahedra = tetrahedra[inside]
    tetrahedra = largest_part(tetrahedra)
    used, tetrahedra = np.unique(tetrahedra, return_inverse=True)
    nodes, tetrahedra = nodes[used], tetrahedra.reshape(-1, 4)
    mirrored = quality(nodes[tetrahedra]) < 0
    tetrahedra[mirrored] = tetrahedra[mirrored][:, [0, 2, 1, 3]]
    return fitted(nodes, tetrahedra, surface), tetrahedra


def fitted(nodes: np.ndarray, tetrahedra: np.ndarray, surface: object) -> np.ndarray:
    """The nodes (N, 3) moved towards the surface samples of a KD-tree, as far as quality allows."""
    from scipy.sparse import csr_matrix

    outer = np.unique(boundary(tetrahedra))
    pairs = np.concatenate([tetrahedra[:, [a, b]] for a in range(4) for b in range(4) if a != b])
    ones = np.ones(len(pairs))
    neighbours = csr_matrix((ones, pairs.T), (len(nodes),) * 2)
    neighbours = csr_matrix(neighbours > 0, dtype=float)
    degree = np.asarray(neighbours.sum(1))
    for _ in range(SWEEPS):
        wanted = neighbours @ nodes / degree
        # along the surface too, which evens out its triangles; then back onto it
        nearest = surface.query(0.5 * (wanted[outer] + nodes[outer]))[1]
        wanted[outer] = surface.data[nearest]
        tried = nodes + 0.3 * (wanted - nodes)
        for _ in range(UNDOINGS):
            worse = quality(tried[tetrahedra]) < LEAST_QUALITY
            if not worse.any():
                break
            back = np.unique(tetrahedra[worse])
            tried[back] = nodes[back]
        else:
            continue
        nodes = tried
    return nodes


def quality(corners: np.ndarray) -> np.ndarray:
    """The mean ratio (T,) of tetrahedra (T, 4, 3): 1 for regular ones, 0 for flat ones, negative
    for those of negative volume."""
    sides = corners[:, 1:] - corners[:, :1]
    volume = np.linalg.det(sides) / 6
    squared = np.square(corners[:, :, None] - corners[:, None]).sum((1, 2, 3)) / 2
    return np.sign(volume) * 12 * (3 * np.abs(volume)) ** (2 / 3) / squared


def sampled(points: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (S, 3) of an outward surface, corners and middles of triangles, and their normals."""
    corners = points[triangles]
    areas = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    summed = np.zeros_like(points)
    for corner in range(3):
        np.add.at(summed, triangles[:, corner], areas)
    used = np.unique(triangles)
    return np.concatenate([points[used], corners.mean(1)]), np.concatenate([summed[used], areas])


def largest_part(tetrahedra: np.ndarray) -> np.ndarray:
    """The tetrahedra (T, 4) of the largest part that hangs together by whole faces."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    faces = np.sort(tetrahedra[:, [[1, 2, 3], [0, 3, 2], [0, 1, 3], [0, 2, 1]]], 2).reshape(-1, 3)
    _, face = np.unique(faces, axis=0, return_inverse=True)
    owner = np.repeat(np.arange(len(tetrahedra)), 4)
    touches = csr_matrix((np.ones(len(owner)), (owner, face.ravel())))
    _, part = connected_components(touches @ touches.T, directed=False)
    return tetrahedra[part == np.bincount(part).argmax()]


def boundary(tetrahedra: np.ndarray) -> np.ndarray:
    """The triangles (F, 3) that one tetrahedron (T, 4) of positive volume has, outward."""
    faces = tetrahedra[:, [[1, 2, 3], [0, 3, 2], [0, 1, 3], [0, 2, 1]]].reshape(-1, 3)
    _, first, count = np.unique(np.sort(faces, 1), axis=0, return_index=True, return_counts=True)
    return faces[np.sort(first[count == 1])]
