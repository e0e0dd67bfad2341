"""Polygons as triangles: fans where they are convex, ears cut off one by one where they are not; and strips."""

import numpy as np

from ..errors import InputError

MOST = 2048  # corners of a polygon that is not convex; cutting ears takes time with their square
TRIES = 16  # corners looked at per ear, on average, before the polygon is taken for one that crosses itself


def triangulate(corners: np.ndarray) -> np.ndarray:
    """(M, n - 2, 3) numbers of corners, 0 to n - 1, for M polygons of n corners (M, n, 3). Raises InputError."""
    count, n = corners.shape[:2]
    fan = np.stack([np.zeros(n - 2, np.int64), np.arange(1, n - 1), np.arange(2, n)], 1)
    result = np.tile(fan, (count, 1, 1))
    if n > 3 and count:
        edges = np.roll(corners, -1, 1) - corners
        turns = np.cross(np.roll(edges, 1, 1), edges)
        normals = np.cross(corners, np.roll(corners, -1, 1)).sum(1)  # Newell's: twice the area
        bent = (turns * normals[:, None]).sum(-1)
        concave = np.nonzero((bent < -1e-6 * np.abs(bent).max(1, keepdims=True)).any(1))[0]  # never where one is nan
        if len(concave) and n > MOST:
            raise InputError(f"a polygon of {n} corners that is not convex; triangulate it first")
        for m in concave:
            result[m] = _cut_ears(corners[m], normals[m])
    return result


def of_strip(corners: np.ndarray) -> np.ndarray:
    """(n - 2, 3) corners of the triangles of a strip (n,), none where there are fewer than three."""
    triangles = np.stack([corners[:-2], corners[1:-1], corners[2:]], 1)
    triangles[1::2] = triangles[1::2, [1, 0, 2]]  # every second one goes round the other way
    return triangles


def _cut_ears(corners: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """(n - 2, 3) for one polygon, seen along its normal. What crosses itself gets some triangles, too."""
    drop = np.abs(normal).argmax()
    axes = [(1, 2), (2, 0), (0, 1)][drop]
    flat = corners[:, axes] * (1, np.sign(normal[drop]))  # counter-clockwise
    left, ears = list(range(len(flat))), []
    start = tries = 0
    while len(left) > 3 and tries < TRIES * len(flat):
        size = len(left)
        places = flat[left]
        bends = _cross(places - np.roll(places, 1, 0), np.roll(places, -1, 0) - places)
        reflex = places[bends <= 0]
        for step in range(size):
            tries += 1
            i = (start + step) % size
            a, b, c = places[i - 1], places[i], places[(i + 1) % size]
            if bends[i] <= 0:
                continue
            inside = (_cross(b - a, reflex - a) >= 0) & (_cross(c - b, reflex - b) >= 0) & (
                _cross(a - c, reflex - c) >= 0)
            own = (reflex == a).all(1) | (reflex == b).all(1) | (reflex == c).all(1)  # bridges to holes repeat corners
            if not (inside & ~own).any():
                break
        else:
            i = int(np.abs(bends).argmin())
        ears.append((left[i - 1], left[i], left[(i + 1) % size]))
        del left[i]
        start = i % len(left)
    return np.array(ears + [(left[0], left[k], left[k + 1]) for k in range(1, len(left) - 1)])


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
