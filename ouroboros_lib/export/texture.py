"""An atlas for a mesh: xatlas cuts and places it, and every texel learns which point of the surface it shows."""

import numpy as np
from numba import njit

from ..rasterization.kernels import CACHED

PADDING = 2
_MARGIN = 1e-4  # of barycentric coordinates: neighbours leave no texel out


def unwrap(vertices: np.ndarray, faces: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """xatlas on a mesh (N, 3), (F, 3): for M >= N new vertices the old one (M,), triangles (F, 3), and UV (M, 2) in
    [0, 1], v upwards. size: of the texture, about, for its charts lie PADDING texels apart."""
    import xatlas

    atlas, packing = xatlas.Atlas(), xatlas.PackOptions()
    atlas.add_mesh(vertices.astype(np.float32), faces.astype(np.uint32))
    packing.resolution, packing.padding = size, PADDING
    atlas.generate(pack_options=packing)
    source, triangles, uv = atlas[0]
    return source.astype(np.int64), triangles.astype(np.int64), uv.astype(np.float64)


def texels(uv: np.ndarray, triangles: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Texels whose centre lies in a triangle: rows and columns (T,), the triangle (T,), barycentric coordinates
    (T, 3). Row 0 is at v = 1."""
    corners = np.stack([uv[:, 0] * size, (1 - uv[:, 1]) * size], -1)[triangles]
    owner = np.full((size, size), -1, np.int64)
    weights = np.zeros((size, size, 3))
    _rasterize(corners, owner, weights)
    rows, columns = np.nonzero(owner >= 0)
    return rows, columns, owner[rows, columns], weights[rows, columns]


@njit(cache=CACHED)
def _rasterize(corners, owner, weights):
    size = len(owner)
    for face in range(len(corners)):
        (ax, ay), (bx, by), (cx, cy) = corners[face]
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if area == 0:
            continue
        for row in range(max(0, int(min(ay, by, cy) - 0.5)), min(size, int(max(ay, by, cy) + 1.5))):
            for column in range(max(0, int(min(ax, bx, cx) - 0.5)), min(size, int(max(ax, bx, cx) + 1.5))):
                x, y = column + 0.5, row + 0.5
                b = ((x - ax) * (cy - ay) - (cx - ax) * (y - ay)) / area
                c = ((bx - ax) * (y - ay) - (x - ax) * (by - ay)) / area
                a = 1 - b - c
                if min(a, b, c) >= -_MARGIN:
                    owner[row, column] = face
                    weights[row, column, 0], weights[row, column, 1], weights[row, column, 2] = a, b, c


def fill_gaps(picture: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """(S, S, 3) with the texels that are not filled (S, S) like the nearest one that is: filters reach over edges."""
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(~filled, return_distances=False, return_indices=True)
    return picture[rows, columns]
