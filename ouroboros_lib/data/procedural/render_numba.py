"""The renderer on the CPU: one ray at a time, parallel over image rows. `render_triton.py` does the same arithmetic.

All arithmetic is float32; constants are typed so that numba does not widen to float64.
"""

import math

import numpy as np
from numba import njit, prange

from ...rasterization.kernels import CACHED
from . import packing as L

_f = np.float32
ZERO, HALF, ONE, TWO = _f(0), _f(0.5), _f(1), _f(2)
TINY = _f(1e-6)
STEP_CAP = _f(0.5)
HIT, LATE_HIT, NORMAL_STEP = _f(L.HIT_DISTANCE), _f(L.LATE_HIT_DISTANCE), _f(L.NORMAL_STEP)
SHADE_BASE, SHADE_GAIN = _f(L.SHADE_BASE), _f(L.SHADE_GAIN)
SPOT_LEVEL, SPOT_SHARP, STRIPE_SHARP, CHECK_SHARP, BAND_SHARP = _f(1.2), _f(2), _f(3), _f(8), _f(8)
FAR = _f(9)
BYTE = _f(255)

_options = {"cache": CACHED, "fastmath": {"contract", "nsz", "arcp"}}


@njit(**_options)
def _localize(row, x, y, z):
    """World of the object to the primitive's frame, folding first."""
    if row[L.MIRROR_X] > ZERO:
        x = abs(x)
    if row[L.MIRROR_Z] > ZERO:
        z = abs(z)
    x, y, z = x - row[L.CENTER], y - row[L.CENTER + 1], z - row[L.CENTER + 2]
    r = L.ROTATION
    return (row[r] * x + row[r + 3] * y + row[r + 6] * z, row[r + 1] * x + row[r + 4] * y + row[r + 7] * z,
            row[r + 2] * x + row[r + 5] * y + row[r + 8] * z)


@njit(**_options)
def _distance(row, x, y, z):
    """Signed distance of one primitive from a point of the object's frame; see packing.py."""
    x, y, z = _localize(row, x, y, z)
    kind = int(row[L.KIND])
    a, b, c = row[L.SIZE], row[L.SIZE + 1], row[L.SIZE + 2]
    g = L.DERIVED
    if kind == L.BOX:
        r = row[L.ROUND]
        qx = (abs(x) - a - row[g] * y) * row[g + 2] + r
        qy = abs(y) - b + r
        qz = (abs(z) - c - row[g + 1] * y) * row[g + 3] + r
        d = max(qx, max(qy, qz))
        if d > ZERO:
            px, py, pz = max(qx, ZERO), max(qy, ZERO), max(qz, ZERO)
            d = max(d, math.sqrt(px * px + py * py + pz * pz) * row[g + 4])
        d -= r
    elif kind == L.ELLIPSOID:
        ux, uy, uz = x / a, y / b, z / c
        vx, vy, vz = ux / a, uy / b, uz / c
        f = math.sqrt(ux * ux + uy * uy + uz * uz)
        slope = math.sqrt(vx * vx + vy * vy + vz * vz)
        d = max((f - ONE) * (f + TINY) / (slope + TINY), -row[g])
        if row[L.SHELL] > ZERO and f < ONE:
            d = (f - ONE) * row[g]
    elif kind == L.CONE:
        q = math.sqrt(x * x + z * z)
        bottom, height, top, widening = row[g], row[g + 1], row[g + 2], row[g + 3]
        ax = q - min(q, bottom if y < ZERO else top)
        ay = abs(y) - height
        s = ((top - q) * widening + (height - y) * TWO * height) * row[g + 4]
        s = min(max(s, ZERO), ONE)
        bx, by = q - top + widening * s, y - height + TWO * height * s
        d = math.sqrt(min(ax * ax + ay * ay, bx * bx + by * by))
        if bx < ZERO and ay < ZERO:
            d = -d
        d -= row[L.ROUND]
    elif kind == L.TORUS:
        q = math.sqrt(x * x + y * y) - a
        d = math.sqrt(q * q + z * z) - b
    else:
        q = math.sqrt(x * x + z * z)
        y += b
        k = y * row[g + 1] - q * row[g]
        if k < ZERO:
            d = math.sqrt(q * q + y * y) - a
        elif k > row[g + 1] * row[g + 2]:
            y -= row[g + 2]
            d = math.sqrt(q * q + y * y) - c
            y += row[g + 2]
        else:
            d = q * row[g + 1] + y * row[g] - a
        y -= b
    if row[L.SHELL] > ZERO:
        d = abs(d) - row[L.SHELL]
    return max(d, max(row[L.CUT_LOW] - y, y - row[L.CUT_HIGH]))


@njit(**_options)
def _mix_of(row, x, y, z):
    """How much of COLOR2 there is at a point of the object's frame, in [0, 1]."""
    kind = int(row[L.TEXTURE])
    if kind == L.PLAIN:
        return ZERO
    x, y, z = _localize(row, x, y, z)
    wx, wy, wz = row[L.WAVE] * x, row[L.WAVE + 1] * y, row[L.WAVE + 2] * z
    phase = row[L.PHASE]
    if kind == L.STRIPES:
        m = math.sin(wx + wy + wz + phase) * STRIPE_SHARP + HALF
    elif kind == L.CHECKS:
        m = math.cos(wx) * math.cos(wy + phase) * math.cos(wz) * CHECK_SHARP + HALF
    elif kind == L.SPOTS:
        m = (math.cos(wx) + math.cos(wy + phase) + math.cos(wz) - SPOT_LEVEL) * SPOT_SHARP + HALF
    elif kind == L.GRADIENT:
        m = wx + wy + wz + phase + HALF
    else:
        m = (ONE - abs(wx + wy + wz + phase)) * BAND_SHARP + HALF
    return min(max(m, ZERO), ONE)


@njit(**_options)
def _candidates(rows, ox, oy, oz, dx, dy, dz, found):
    """Primitives whose ball the ray meets, into `found`; how many, first entry and last exit."""
    count, first, last = 0, FAR, ZERO
    for k in range(rows.shape[0]):
        row = rows[k]
        if row[L.KIND] < ZERO:
            break
        hit = False
        radius = row[L.BOUND + 3]
        for copy in range(4):
            cx, cz = row[L.BOUND], row[L.BOUND + 2]
            if copy & 1:
                if row[L.MIRROR_X] == ZERO:
                    continue
                cx = -cx
            if copy & 2:
                if row[L.MIRROR_Z] == ZERO:
                    continue
                cz = -cz
            px, py, pz = ox - cx, oy - row[L.BOUND + 1], oz - cz
            along = px * dx + py * dy + pz * dz
            inside = along * along - (px * px + py * py + pz * pz - radius * radius)
            if inside > ZERO:
                half = math.sqrt(inside)
                hit = True
                first, last = min(first, -along - half), max(last, half - along)
        if hit:
            found[count] = k
            count += 1
    return count, first, last


@njit(**_options)
def _union(rows, found, count, x, y, z):
    """Distance of the union of the found primitives; those whose ball is farther than the least so far are skipped."""
    d = STEP_CAP
    for i in range(count):
        row = rows[found[i]]
        px, pz = x, z
        if row[L.MIRROR_X] > ZERO:
            px = abs(px)
        if row[L.MIRROR_Z] > ZERO:
            pz = abs(pz)
        px, py, pz = px - row[L.BOUND], y - row[L.BOUND + 1], pz - row[L.BOUND + 2]
        reach = d + row[L.BOUND + 3]
        if reach <= ZERO or px * px + py * py + pz * pz < reach * reach:
            d = min(d, _distance(row, x, y, z))
    return d


@njit(**_options)
def _trace(rows, found, count, ox, oy, oz, dx, dy, dz, t, last):
    """Sphere tracing: the ray parameter of the first surface, or -1."""
    d = STEP_CAP
    for _ in range(L.MAX_STEPS):
        d = _union(rows, found, count, ox + t * dx, oy + t * dy, oz + t * dz)
        if d < HIT:
            return t
        t += d
        if t > last:
            return -ONE
    return t if d < LATE_HIT else -ONE


@njit(**_options)
def _shade(rows, found, count, x, y, z):
    """Color of the surface point (x, y, z): the nearest primitive's albedo, lit once."""
    e = NORMAL_STEP
    best, winner = FAR, 0
    n0, n1, n2, n3 = FAR, FAR, FAR, FAR
    for i in range(count):
        row = rows[found[i]]
        d = _distance(row, x, y, z)
        if d < best:
            best, winner = d, found[i]
        n0 = min(n0, _distance(row, x + e, y - e, z - e))
        n1 = min(n1, _distance(row, x - e, y - e, z + e))
        n2 = min(n2, _distance(row, x - e, y + e, z - e))
        n3 = min(n3, _distance(row, x + e, y + e, z + e))
    nx, ny, nz = n0 - n1 - n2 + n3, -n0 - n1 + n2 + n3, -n0 + n1 - n2 + n3
    row = rows[winner]
    m = _mix_of(row, x, y, z)
    return (row[L.COLOR] * (ONE - m) + row[L.COLOR2] * m, row[L.COLOR + 1] * (ONE - m) + row[L.COLOR2 + 1] * m,
            row[L.COLOR + 2] * (ONE - m) + row[L.COLOR2 + 2] * m, nx, ny, nz)


@njit(**_options)
def _light(nx, ny, nz, light):
    length = math.sqrt(nx * nx + ny * ny + nz * nz) + _f(1e-12)
    return SHADE_BASE + SHADE_GAIN * ((nx * light[0] + ny * light[1] + nz * light[2]) / length)


@njit(parallel=True, **_options)
def render_colors(parameters, lights, rays, supersample, rgba):
    """parameters (B, K, P), lights (B, 3) in the object's frame, rays (B, V, 16) -> rgba (B, V, 4, S, S) uint8."""
    objects, views, _, size, _ = rgba.shape
    n = supersample
    samples = _f(n * n)
    for job in prange(objects * views * size):
        b, v, i = job // (views * size), (job // size) % views, job % size
        rows, light, cam = parameters[b], lights[b], rays[b, v]
        found = np.empty(L.SLOTS, np.int64)
        for j in range(size):
            red, green, blue, alpha = ZERO, ZERO, ZERO, ZERO
            for s in range(n * n):
                u = (_f(j) + (_f(s % n) + HALF) / _f(n)) / _f(size)
                w = (_f(i) + (_f(s // n) + HALF) / _f(n)) / _f(size)
                dx, dy, dz, _unused = _direction(cam, u, w)
                count, t, last = _candidates(rows, cam[0], cam[1], cam[2], dx, dy, dz, found)
                if count > 0:
                    t = _trace(rows, found, count, cam[0], cam[1], cam[2], dx, dy, dz, t, last)
                    if t > ZERO:
                        r, g, bl, nx, ny, nz = _shade(rows, found, count, cam[0] + t * dx, cam[1] + t * dy,
                                                      cam[2] + t * dz)
                        shade = _light(nx, ny, nz, light)
                        red += r * shade
                        green += g * shade
                        blue += bl * shade
                        alpha += ONE
            white = samples - alpha
            rgba[b, v, 0, i, j] = _byte((red + white) / samples)
            rgba[b, v, 1, i, j] = _byte((green + white) / samples)
            rgba[b, v, 2, i, j] = _byte((blue + white) / samples)
            rgba[b, v, 3, i, j] = _byte(alpha / samples)


@njit(parallel=True, **_options)
def render_depth(parameters, rays, depth):
    """z-depth at the pixel centers into depth (B, V, 1, S, S) float32; 0 where there is no surface."""
    objects, views, _, size, _ = depth.shape
    for job in prange(objects * views * size):
        b, v, i = job // (views * size), (job // size) % views, job % size
        rows, cam = parameters[b], rays[b, v]
        found = np.empty(L.SLOTS, np.int64)
        for j in range(size):
            dx, dy, dz, forward = _direction(cam, (_f(j) + HALF) / _f(size), (_f(i) + HALF) / _f(size))
            count, t, last = _candidates(rows, cam[0], cam[1], cam[2], dx, dy, dz, found)
            if count > 0:
                t = _trace(rows, found, count, cam[0], cam[1], cam[2], dx, dy, dz, t, last)
                count = 1 if t > ZERO else 0
            depth[b, v, 0, i, j] = t * forward if count > 0 else ZERO


@njit(parallel=True, **_options)
def distances(parameters, points, result):
    """Signed distances of points (B, N, 3) in the object's frame into result (B, N)."""
    for b in range(points.shape[0]):
        for i in prange(points.shape[1]):
            d = FAR
            for k in range(parameters.shape[1]):
                if parameters[b, k, L.KIND] < ZERO:
                    break
                d = min(d, _distance(parameters[b, k], points[b, i, 0], points[b, i, 1], points[b, i, 2]))
            result[b, i] = d


@njit(**_options)
def _direction(cam, u, v):
    """Unit direction in the object's frame through image point (u, v), and its z-depth per unit of length."""
    x, y = (u - cam[14]) / cam[12], (v - cam[15]) / cam[13]
    forward = ONE / math.sqrt(x * x + y * y + ONE)
    return ((cam[3] * x + cam[4] * y + cam[5]) * forward, (cam[6] * x + cam[7] * y + cam[8]) * forward,
            (cam[9] * x + cam[10] * y + cam[11]) * forward, forward)


@njit(**_options)
def _byte(value):
    return np.uint8(min(max(value, ZERO), ONE) * BYTE + HALF)
