"""Building objects from primitives, many objects of a family at a time, and fitting them into the ball."""

from dataclasses import dataclass

import numpy as np

from . import packing as L

FIT_RADIUS = 0.525  # of the ball around the estimated outline, which is good to 4 %: within cameras.OBJECT_RADIUS


@dataclass
class Pattern:
    """A texture that mixes COLOR and COLOR2, in the primitive's own coordinates, so that it goes all the way round."""

    kind: np.ndarray | int
    wave: tuple = (0.0, 0.0, 0.0)  # radians per unit along x, y, z
    phase: np.ndarray | float = 0.0


PLAIN = Pattern(L.PLAIN)


def stripes(period, axis=1, phase=0.0) -> Pattern:
    """Stripes across an axis; axis 1 (y) gives rings around anything round."""
    wave = [0.0, 0.0, 0.0]
    wave[axis] = 2 * np.pi / period
    return Pattern(L.STRIPES, tuple(wave), phase)


def checks(period) -> Pattern:
    return Pattern(L.CHECKS, (2 * np.pi / period,) * 3)


def spots(period_x, period_y=None, period_z=None, phase=0.0) -> Pattern:
    """Round spots on a grid; with periods that divide the half sizes of a box, windows on all of its faces."""
    periods = (period_x, period_x if period_y is None else period_y, period_x if period_z is None else period_z)
    return Pattern(L.SPOTS, tuple(2 * np.pi / p for p in periods), phase)


def gradient(length) -> Pattern:
    """From COLOR to COLOR2 over `length` along y, centered."""
    return Pattern(L.GRADIENT, (0.0, 1.0 / length, 0.0))


def band(center, half_width) -> Pattern:
    """COLOR2 where |y - center| < half_width: a label, a line of windows, a dipped end."""
    return Pattern(L.BAND, (0.0, 1.0 / half_width, 0.0), -center / half_width)


_DEFAULTS = np.zeros((L.WIDTH, 1))
_DEFAULTS[L.ROTATION:L.ROTATION + 9, 0] = np.eye(3).ravel()


class Parts:
    """The primitives of n objects of one family. Numbers given to the methods are scalars or (n,) arrays.

    center, size, axis, color: triples of such numbers, or (n, 3) arrays. mirror: "", "x", "z" or "xz" (copies on the
    other side of the plane x = 0, z = 0 or both). active: (n,) bool, which of the objects have this part.
    rotate: degrees about x, then y (the primitive's tilt, then its turn). axis: where the primitive's y axis points.
    """

    def __init__(self, count: int):
        self.count = count
        self.rows: list[np.ndarray] = []

    def add(self, kind, center, size, *, color, color2=None, pattern=PLAIN, rotate=None, axis=None, round=0.0,
            taper=(0.0, 0.0), shell=0.0, cut=(-L.NO_CUT, L.NO_CUT), mirror="", active=True):
        row = np.empty((L.WIDTH, self.count))  # one line per number, so that assignment is contiguous
        row[:] = _DEFAULTS
        row[L.KIND] = kind if active is True else np.where(active, kind, -1)
        row[L.MIRROR_X], row[L.MIRROR_Z] = "x" in mirror, "z" in mirror
        for start, values in ((L.CENTER, center), (L.SIZE, size), (L.COLOR, color)):
            row[start], row[start + 1], row[start + 2] = _triple(values)
        if color2 is not None:
            row[L.COLOR2:L.COLOR2 + 3] = _triple(color2)
        if pattern is not PLAIN:
            row[L.WAVE], row[L.WAVE + 1], row[L.WAVE + 2] = pattern.wave
            row[L.TEXTURE], row[L.PHASE] = pattern.kind, pattern.phase
        row[L.ROUND], row[L.SHELL] = round, shell
        row[L.TAPER_X], row[L.TAPER_Z] = taper
        row[L.CUT_LOW], row[L.CUT_HIGH] = cut
        if axis is not None or rotate is not None:
            rotation = _tilt_and_turn(rotate) if axis is None else _axis_rotation(axis)
            for i, value in enumerate(rotation):
                row[L.ROTATION + i] = value
        self.rows.append(row)

    def box(self, center, half, **kwargs):
        self.add(L.BOX, center, half, **kwargs)

    def ellipsoid(self, center, radii, **kwargs):
        self.add(L.ELLIPSOID, center, radii, **kwargs)

    def ball(self, center, radius, **kwargs):
        self.add(L.ELLIPSOID, center, (radius, radius, radius), **kwargs)

    def cone(self, center, bottom, half_height, top, **kwargs):
        self.add(L.CONE, center, (bottom, half_height, top), **kwargs)

    def cylinder(self, center, radius, half_height, **kwargs):
        self.add(L.CONE, center, (radius, half_height, radius), **kwargs)

    def torus(self, center, major, minor, **kwargs):
        self.add(L.TORUS, center, (major, minor, 0.0), **kwargs)

    def capsule(self, start, end, radius, end_radius=None, **kwargs):
        """From the point `start` to the point `end`."""
        start, end = _triple(start), _triple(end)
        axis = [b - a for a, b in zip(start, end, strict=True)]
        middle = [(a + b) / 2 for a, b in zip(start, end, strict=True)]
        half = np.sqrt(sum(a * a for a in axis)) / 2
        self.add(L.CAPSULE, middle, (radius, half, radius if end_radius is None else end_radius), axis=axis, **kwargs)

    def packed(self) -> np.ndarray:
        """(n, SLOTS, WIDTH) float64, before `finish`."""
        if len(self.rows) > L.SLOTS:
            raise ValueError(f"{len(self.rows)} primitives, at most {L.SLOTS} fit")
        result = np.zeros((self.count, L.SLOTS, L.WIDTH))
        result[:, :, L.KIND] = -1
        for slot, row in enumerate(self.rows):
            result[:, slot] = row.T
        return result


def _triple(values):
    return values.T if isinstance(values, np.ndarray) and values.ndim == 2 else values


def _tilt_and_turn(rotate):
    """Row-major rotation matrix, nine numbers or arrays."""
    tilt, turn = (np.deg2rad(a) for a in rotate)
    ct, st, cu, su = np.cos(tilt), np.sin(tilt), np.cos(turn), np.sin(turn)
    return cu, su * st, su * ct, 0.0, ct, -st, -su, cu * st, cu * ct


def _axis_rotation(axis):
    """Row-major, the columns are x, y, z: y along `axis`, z as near to the object's z axis as can be (along that: its y
    axis)."""
    a, b, c = _triple(axis)
    length = np.sqrt(a * a + b * b + c * c)
    a, b, c = a / length, b / length, c / length
    along_z = np.abs(c) > 0.95
    up, ahead = along_z * 1.0, 1.0 - along_z
    dot = b * up + c * ahead
    zx, zy, zz = -dot * a, up - dot * b, ahead - dot * c
    length = np.sqrt(zx * zx + zy * zy + zz * zz)
    zx, zy, zz = zx / length, zy / length, zz / length
    return b * zz - c * zy, a, zx, c * zx - a * zz, b, zy, a * zy - b * zx, c, zz


def _outline_templates() -> np.ndarray:
    """(kinds, 26, 3): unit points whose images under SIZE, with a ball around each, enclose the primitive (nearly)."""
    signs = (-1.0, 0.0, 1.0)
    around = np.array([[x, y, z] for x in signs for y in signs for z in signs if x or y or z])
    corners = around[np.abs(around).sum(1) == 3]
    ball = around / np.sqrt((around * around).sum(1, keepdims=True))
    turn = np.arange(13) * 2 * np.pi / 13
    circle = 1.02 * np.stack([np.cos(turn), np.sin(turn)], 1)
    rims = np.concatenate([np.insert(circle, 1, y, axis=1) for y in (-1, 1)])
    turn = np.arange(26) * 2 * np.pi / 26
    ring = np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1)
    ends = np.array([[0, -1, 0], [0, 1, 0]], dtype=float)
    return np.stack([np.resize(corners, (26, 3)), ball, rims, ring, np.resize(ends, (26, 3))])


_TEMPLATES = _outline_templates()


def finish(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move used slots to the front, scale to the ball and fill in BOUND and DERIVED.

    raw: (n, SLOTS, WIDTH) float64, changed in place. Returns it and the center (n, 3) of each object in its frame.
    """
    order = np.argsort(raw[:, :, L.KIND] < 0, axis=1, kind="stable")
    raw[:] = np.take_along_axis(raw, order[:, :, None], axis=1)
    used = raw[:, :, L.KIND] >= 0
    rows = raw[used]  # (m, WIDTH): only what is there
    owner = np.nonzero(used)[0]
    points, balls = _outline(rows)
    center, radius = _fit(points, balls, rows, owner, len(raw))

    scale = FIT_RADIUS / radius
    center *= scale[:, None]
    by_row = scale[owner]
    for columns in (slice(L.CENTER, L.CENTER + 3), slice(L.SIZE, L.SIZE + 3), slice(L.ROUND, L.ROUND + 1),
                    slice(L.SHELL, L.SHELL + 1), slice(L.CUT_LOW, L.CUT_HIGH + 1)):
        rows[:, columns] *= by_row[:, None]
    rows[:, L.WAVE:L.WAVE + 3] /= by_row[:, None]
    _derive(rows)
    _bound(rows)
    raw[used] = rows
    return raw, center


def _outline(rows):
    """Outline points (m, 26, 3) in the object's frame and ball radii (m, 26) around them."""
    kind = rows[:, L.KIND].astype(int)
    a, b, c = rows[:, L.SIZE:L.SIZE + 3].T
    edge = rows[:, L.ROUND]
    is_box, is_ellipsoid, is_cone, is_torus, is_capsule = (kind == k for k in range(5))
    mean = (a + c) / 2
    slope = np.where(is_cone | is_capsule, (c - a) / np.maximum(a + c, 1e-9), 0)
    half_x = np.select([is_box, is_cone, is_ellipsoid | is_torus], [a - edge, mean - edge, a], 0)
    half_y = np.select([is_box | is_cone, is_torus], [b - edge, a], b)
    half_z = np.select([is_box, is_cone, is_ellipsoid], [c - edge, mean - edge, c], 0)
    unit = _TEMPLATES[kind]
    ux, uy, uz = unit[..., 0], unit[..., 1], unit[..., 2]
    widen_x = 1 + uy * np.where(is_box, rows[:, L.TAPER_X], slope)[:, None]
    widen_z = 1 + uy * np.where(is_box, rows[:, L.TAPER_Z], slope)[:, None]
    local = np.stack([ux * half_x[:, None] * widen_x,
                      np.clip(uy * half_y[:, None], rows[:, L.CUT_LOW, None], rows[:, L.CUT_HIGH, None]),
                      uz * half_z[:, None] * widen_z], -1)
    balls = np.select([is_box | is_cone, is_torus, is_capsule], [edge, b, mean], 0)[:, None] + rows[:, L.SHELL, None]
    balls = np.where(is_capsule[:, None], balls * (1 + slope[:, None] * uy), balls)
    rotation = rows[:, L.ROTATION:L.ROTATION + 9].reshape(-1, 3, 3)
    return np.einsum("mij,mpj->mpi", rotation, local) + rows[:, None, L.CENTER:L.CENTER + 3], balls


def _fit(points, balls, rows, owner, count):
    """Center (n, 3) of the axis-aligned box around each object, and the radius (n,) of the ball there around it all."""
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    mirrored = np.stack([rows[:, L.MIRROR_X] > 0, np.zeros(len(rows), dtype=bool), rows[:, L.MIRROR_Z] > 0], -1)
    top = (points + balls[..., None]).max(1)
    bottom = (points - balls[..., None]).min(1)
    reach = np.maximum(top, -bottom)
    top, bottom = np.where(mirrored, reach, top), np.where(mirrored, -reach, bottom)
    starts = np.searchsorted(owner, np.arange(count))  # rows are sorted by owner, and every object has some
    high, low = np.maximum.reduceat(top, starts), np.minimum.reduceat(bottom, starts)
    center = (low + high) / 2
    offset = points - center[owner][:, None]
    away = np.abs(points) + np.abs(center[owner])[:, None]
    squares = np.where(mirrored[:, None], away, offset) ** 2
    distance = (np.sqrt(squares.sum(-1)) + balls).max(1)
    return center, np.maximum.reduceat(distance, starts)


def _derive(rows):
    """What the distance functions need beside SIZE, made here once so that both renderers share it."""
    kind = rows[:, L.KIND].astype(int)
    a, b, c = rows[:, L.SIZE:L.SIZE + 3].T
    edge = rows[:, L.ROUND] = np.where((kind == L.BOX) | (kind == L.CONE), rows[:, L.ROUND], 0)
    derived = np.zeros((len(rows), 5))
    # box: slopes of the x and z faces, their cosines, and 1 / Lipschitz constant of the corner distance (Gershgorin)
    slope_x, slope_z = rows[:, L.TAPER_X] * a / b, rows[:, L.TAPER_Z] * c / b
    cos_x, cos_z = 1 / np.sqrt(1 + slope_x**2), 1 / np.sqrt(1 + slope_z**2)
    lean_x, lean_z = np.abs(slope_x) * cos_x, np.abs(slope_z) * cos_z
    steepest = 1 + np.maximum(lean_x + lean_z, np.maximum(lean_x, lean_z) + lean_x * lean_z)
    box = np.stack([slope_x, slope_z, cos_x, cos_z, 1 / np.sqrt(steepest)], -1)
    # ellipsoid: its smallest radius
    ellipsoid = np.stack([np.minimum(a, np.minimum(b, c))] + [0 * a] * 4, -1)
    # frustum: core radii and half height (within the rounding), radius difference, 1 / squared slant length
    bottom, height, top = a - edge, b - edge, c - edge
    cone = np.stack([bottom, height, top, top - bottom,
                     1 / np.maximum((top - bottom)**2 + 4 * height**2, 1e-12)], -1)
    # capsule: sine and cosine of the side's slope (Quilez, "Distance functions": round cone), full length
    sine = np.clip((a - c) / np.maximum(2 * b, 1e-9), -0.99, 0.99)
    capsule = np.stack([sine, np.sqrt(1 - sine**2), 2 * b, 0 * a, 0 * a], -1)
    for k, values in ((L.BOX, box), (L.ELLIPSOID, ellipsoid), (L.CONE, cone), (L.CAPSULE, capsule)):
        derived[kind == k] = values[kind == k]
    rows[:, L.DERIVED:L.DERIVED + 5] = derived


def _bound(rows):
    """A ball that surely encloses each primitive, shell and cut included."""
    kind = rows[:, L.KIND].astype(int)
    a, b, c = rows[:, L.SIZE:L.SIZE + 3].T
    wide_x, wide_z = a * (1 + np.abs(rows[:, L.TAPER_X])), c * (1 + np.abs(rows[:, L.TAPER_Z]))
    widest = np.maximum(a, c)
    is_box, is_ellipsoid, is_cone, is_torus, is_capsule = (kind == k for k in range(5))
    shell = rows[:, L.SHELL]
    # half width across y, and lowest and highest y
    across = np.select([is_box, is_torus], [np.hypot(wide_x, wide_z), np.hypot(a + b, b)], widest) + shell
    up = np.select([is_torus, is_capsule], [a + b, b + c], b) + shell
    down = np.select([is_torus, is_capsule], [a + b, b + a], b) + shell
    low, high = np.maximum(-down, rows[:, L.CUT_LOW]), np.minimum(up, rows[:, L.CUT_HIGH])
    middle, radius = (low + high) / 2, np.hypot(across, (high - low) / 2)
    round_one = shell + np.select([is_ellipsoid, is_torus, is_capsule],
                                  [np.maximum(widest, b), a + b, b + widest], np.inf)
    middle, radius = np.where(round_one < radius, 0, middle), np.minimum(radius, round_one)
    rotation = rows[:, L.ROTATION:L.ROTATION + 9].reshape(-1, 3, 3)
    rows[:, L.BOUND:L.BOUND + 3] = rows[:, L.CENTER:L.CENTER + 3] + rotation[:, :, 1] * middle[:, None]
    rows[:, L.BOUND + 3] = radius + L.BALL_MARGIN
