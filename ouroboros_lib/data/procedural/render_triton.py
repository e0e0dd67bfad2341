"""The renderer on CUDA: the arithmetic of `render_numba.py`, a tile of pixels per program.

Imported only when there are CUDA tensors to render, since triton does not come with every build of torch. All samples
of a tile walk together; a primitive whose ball none of the tile's rays meets is left out of the whole walk.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import packing as L

KIND, MIRROR_X, MIRROR_Z = tl.constexpr(L.KIND), tl.constexpr(L.MIRROR_X), tl.constexpr(L.MIRROR_Z)
CENTER, ROTATION, SIZE, ROUND = (tl.constexpr(i) for i in (L.CENTER, L.ROTATION, L.SIZE, L.ROUND))
SHELL, CUT_LOW, CUT_HIGH, BOUND = (tl.constexpr(i) for i in (L.SHELL, L.CUT_LOW, L.CUT_HIGH, L.BOUND))
COLOR, COLOR2, TEXTURE, WAVE, PHASE = (tl.constexpr(i) for i in (L.COLOR, L.COLOR2, L.TEXTURE, L.WAVE, L.PHASE))
DERIVED, WIDTH = tl.constexpr(L.DERIVED), tl.constexpr(L.WIDTH)
BOX, ELLIPSOID, CONE, TORUS = (tl.constexpr(i) for i in (L.BOX, L.ELLIPSOID, L.CONE, L.TORUS))
PLAIN, STRIPES, CHECKS, SPOTS, GRADIENT = (tl.constexpr(i) for i in (L.PLAIN, L.STRIPES, L.CHECKS, L.SPOTS, L.GRADIENT))
MAX_STEPS, HIT, LATE_HIT = (tl.constexpr(i) for i in (L.MAX_STEPS, L.HIT_DISTANCE, L.LATE_HIT_DISTANCE))
NORMAL_STEP, SHADE_BASE, SHADE_GAIN = (tl.constexpr(i) for i in (L.NORMAL_STEP, L.SHADE_BASE, L.SHADE_GAIN))
STEP_CAP, FAR, TINY = tl.constexpr(0.5), tl.constexpr(9.0), tl.constexpr(1e-6)

TILE, WARPS = 8, 4  # pixels and warps per program: `benchmark --sweep` tries others


@triton.jit
def _localize(row, x, y, z):
    if tl.load(row + MIRROR_X) > 0:
        x = tl.abs(x)
    if tl.load(row + MIRROR_Z) > 0:
        z = tl.abs(z)
    x, y, z = x - tl.load(row + CENTER), y - tl.load(row + CENTER + 1), z - tl.load(row + CENTER + 2)
    r = row + ROTATION
    return (tl.load(r) * x + tl.load(r + 3) * y + tl.load(r + 6) * z,
            tl.load(r + 1) * x + tl.load(r + 4) * y + tl.load(r + 7) * z,
            tl.load(r + 2) * x + tl.load(r + 5) * y + tl.load(r + 8) * z)


@triton.jit
def _distance(row, x, y, z):
    x, y, z = _localize(row, x, y, z)
    kind = tl.load(row + KIND).to(tl.int32)
    a, b, c = tl.load(row + SIZE), tl.load(row + SIZE + 1), tl.load(row + SIZE + 2)
    shell = tl.load(row + SHELL)
    g = row + DERIVED
    g0, g1, g2 = tl.load(g), tl.load(g + 1), tl.load(g + 2)
    d = x
    if kind == BOX:
        r = tl.load(row + ROUND)
        qx = (tl.abs(x) - a - g0 * y) * g2 + r
        qy = tl.abs(y) - b + r
        qz = (tl.abs(z) - c - g1 * y) * tl.load(g + 3) + r
        m = tl.maximum(qx, tl.maximum(qy, qz))
        px, py, pz = tl.maximum(qx, 0.0), tl.maximum(qy, 0.0), tl.maximum(qz, 0.0)
        corner = tl.sqrt(px * px + py * py + pz * pz) * tl.load(g + 4)
        d = tl.where(m > 0, tl.maximum(m, corner), m) - r
    elif kind == ELLIPSOID:
        ux, uy, uz = x / a, y / b, z / c
        vx, vy, vz = ux / a, uy / b, uz / c
        f = tl.sqrt(ux * ux + uy * uy + uz * uz)
        slope = tl.sqrt(vx * vx + vy * vy + vz * vz)
        d = tl.maximum((f - 1.0) * (f + TINY) / (slope + TINY), -g0)
        if shell > 0:
            d = tl.where(f < 1.0, (f - 1.0) * g0, d)
    elif kind == CONE:
        q = tl.sqrt(x * x + z * z)
        widening = tl.load(g + 3)
        ax, ay = q - tl.minimum(q, tl.where(y < 0, g0, g2)), tl.abs(y) - g1
        s = ((g2 - q) * widening + (g1 - y) * 2.0 * g1) * tl.load(g + 4)
        s = tl.minimum(tl.maximum(s, 0.0), 1.0)
        bx, by = q - g2 + widening * s, y - g1 + 2.0 * g1 * s
        d = tl.sqrt(tl.minimum(ax * ax + ay * ay, bx * bx + by * by))
        d = tl.where((bx < 0) & (ay < 0), -d, d) - tl.load(row + ROUND)
    elif kind == TORUS:
        q = tl.sqrt(x * x + y * y) - a
        d = tl.sqrt(q * q + z * z) - b
    else:
        q = tl.sqrt(x * x + z * z)
        low = y + b
        high = low - g2
        k = low * g1 - q * g0
        d = tl.where(k < 0, tl.sqrt(q * q + low * low) - a,
                     tl.where(k > g1 * g2, tl.sqrt(q * q + high * high) - c, q * g1 + low * g0 - a))
    if shell > 0:
        d = tl.abs(d) - shell
    return tl.maximum(d, tl.maximum(tl.load(row + CUT_LOW) - y, y - tl.load(row + CUT_HIGH)))


@triton.jit
def _mix_of(row, x, y, z):
    kind = tl.load(row + TEXTURE).to(tl.int32)
    m = x * 0.0
    if kind != PLAIN:
        x, y, z = _localize(row, x, y, z)
        wx, wy, wz = tl.load(row + WAVE) * x, tl.load(row + WAVE + 1) * y, tl.load(row + WAVE + 2) * z
        phase = tl.load(row + PHASE)
        if kind == STRIPES:
            m = tl.sin(wx + wy + wz + phase) * 3.0 + 0.5
        elif kind == CHECKS:
            m = tl.cos(wx) * tl.cos(wy + phase) * tl.cos(wz) * 8.0 + 0.5
        elif kind == SPOTS:
            m = (tl.cos(wx) + tl.cos(wy + phase) + tl.cos(wz) - 1.2) * 2.0 + 0.5
        elif kind == GRADIENT:
            m = wx + wy + wz + phase + 0.5
        else:
            m = (1.0 - tl.abs(wx + wy + wz + phase)) * 8.0 + 0.5
    return tl.minimum(tl.maximum(m, 0.0), 1.0)


@triton.jit
def _union(rows, count, candidates, x, y, z):
    d = x * 0.0 + STEP_CAP
    for k in range(count):
        if (candidates >> k) & 1:
            d = tl.minimum(d, _distance(rows + k * WIDTH, x, y, z))
    return d


@triton.jit
def _balls(rows, count, ox, oy, oz, dx, dy, dz):
    """Bits of the primitives whose ball some ray of the tile meets; first entry and last exit of each ray."""
    first, last = dx * 0.0 + FAR, dx * 0.0
    candidates = 0
    for k in range(count):
        row = rows + k * WIDTH
        radius = tl.load(row + BOUND + 3)
        met = first < 0
        for copy in tl.static_range(4):
            use = 1
            cx, cz = tl.load(row + BOUND), tl.load(row + BOUND + 2)
            if copy % 2 == 1:
                cx = -cx
                use = use * (tl.load(row + MIRROR_X) > 0).to(tl.int32)
            if copy // 2 == 1:
                cz = -cz
                use = use * (tl.load(row + MIRROR_Z) > 0).to(tl.int32)
            if use > 0:
                px, py, pz = ox - cx, oy - tl.load(row + BOUND + 1), oz - cz
                along = px * dx + py * dy + pz * dz
                inside = along * along - (px * px + py * py + pz * pz - radius * radius)
                half = tl.sqrt(tl.maximum(inside, 0.0))
                now = inside > 0
                first = tl.where(now, tl.minimum(first, -along - half), first)
                last = tl.where(now, tl.maximum(last, half - along), last)
                met = met | now
        candidates = candidates | (tl.max(met.to(tl.int32), 0) << k)
    return candidates, first, last


@triton.jit
def _render(parameters, counts, lights, rays, rgba, depth, views, size, DEPTH: tl.constexpr, N: tl.constexpr,
            TILE: tl.constexpr, SLOTS: tl.constexpr):
    tiles = (size + TILE - 1) // TILE
    tile = tl.program_id(0) % (tiles * tiles)
    view = tl.program_id(0) // (tiles * tiles)  # of all objects, in order
    b = view // views
    rows = parameters + b * SLOTS * WIDTH
    count = tl.load(counts + b)
    cam = rays + view * 16
    # the N x N samples of a pixel are neighbors, so that they can be summed after a reshape
    lane = tl.arange(0, TILE * TILE * N * N)
    pixel, sample = lane // (N * N), lane % (N * N)
    column = (tile % tiles) * TILE + pixel % TILE
    line = (tile // tiles) * TILE + pixel // TILE
    u = (column.to(tl.float32) + ((sample % N).to(tl.float32) + 0.5) / N) / size
    w = (line.to(tl.float32) + ((sample // N).to(tl.float32) + 0.5) / N) / size
    x = (u - tl.load(cam + 14)) / tl.load(cam + 12)
    y = (w - tl.load(cam + 15)) / tl.load(cam + 13)
    forward = 1.0 / tl.sqrt(x * x + y * y + 1.0)
    dx = (tl.load(cam + 3) * x + tl.load(cam + 4) * y + tl.load(cam + 5)) * forward
    dy = (tl.load(cam + 6) * x + tl.load(cam + 7) * y + tl.load(cam + 8)) * forward
    dz = (tl.load(cam + 9) * x + tl.load(cam + 10) * y + tl.load(cam + 11)) * forward
    ox, oy, oz = tl.load(cam), tl.load(cam + 1), tl.load(cam + 2)

    candidates, t, last = _balls(rows, count, ox, oy, oz, dx, dy, dz)
    d = t * 0.0 + STEP_CAP
    step = 0
    walking = t < last
    more = tl.max(walking.to(tl.int32), 0)
    while (step < MAX_STEPS) & (more > 0):
        now = _union(rows, count, candidates, ox + t * dx, oy + t * dy, oz + t * dz)
        d = tl.where(walking, now, d)
        walking = walking & (d >= HIT)
        t = tl.where(walking, t + d, t)
        walking = walking & (t <= last)
        more = tl.max(walking.to(tl.int32), 0)
        step += 1
    hit = (d < HIT) | (walking & (d < LATE_HIT))

    if DEPTH:
        inside = (column < size) & (line < size)
        z_depth = tl.where(hit, t * forward, 0.0)
        tl.store(depth + view.to(tl.int64) * size * size + line * size + column, z_depth, mask=inside)
    else:
        red, green, blue = t * 0.0, t * 0.0, t * 0.0
        if tl.max(hit.to(tl.int32), 0) > 0:
            x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
            best = t * 0.0 + FAR
            n0, n1, n2, n3 = best, best, best, best
            for k in range(count):
                if (candidates >> k) & 1:
                    row = rows + k * WIDTH
                    d = _distance(row, x, y, z)
                    m = _mix_of(row, x, y, z)
                    nearer = d < best
                    best = tl.minimum(best, d)
                    red = tl.where(nearer, tl.load(row + COLOR) * (1.0 - m) + tl.load(row + COLOR2) * m, red)
                    green = tl.where(nearer, tl.load(row + COLOR + 1) * (1.0 - m) + tl.load(row + COLOR2 + 1) * m,
                                     green)
                    blue = tl.where(nearer, tl.load(row + COLOR + 2) * (1.0 - m) + tl.load(row + COLOR2 + 2) * m, blue)
                    n0 = tl.minimum(n0, _distance(row, x + NORMAL_STEP, y - NORMAL_STEP, z - NORMAL_STEP))
                    n1 = tl.minimum(n1, _distance(row, x - NORMAL_STEP, y - NORMAL_STEP, z + NORMAL_STEP))
                    n2 = tl.minimum(n2, _distance(row, x - NORMAL_STEP, y + NORMAL_STEP, z - NORMAL_STEP))
                    n3 = tl.minimum(n3, _distance(row, x + NORMAL_STEP, y + NORMAL_STEP, z + NORMAL_STEP))
            nx, ny, nz = n0 - n1 - n2 + n3, -n0 - n1 + n2 + n3, -n0 + n1 - n2 + n3
            light = lights + b * 3
            toward = nx * tl.load(light) + ny * tl.load(light + 1) + nz * tl.load(light + 2)
            shade = SHADE_BASE + SHADE_GAIN * (toward / (tl.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12))
            red, green, blue = red * shade, green * shade, blue * shade
        alpha = hit.to(tl.float32)
        white = 1.0 - alpha
        where = tl.arange(0, TILE * TILE)
        column = (tile % tiles) * TILE + where % TILE
        line = (tile // tiles) * TILE + where // TILE
        inside = (column < size) & (line < size)
        out = rgba + view.to(tl.int64) * 4 * size * size + line * size + column
        plane = size * size
        _store_mean(out, tl.where(hit, red, 0.0) + white, inside, TILE * TILE, N * N)
        _store_mean(out + plane, tl.where(hit, green, 0.0) + white, inside, TILE * TILE, N * N)
        _store_mean(out + 2 * plane, tl.where(hit, blue, 0.0) + white, inside, TILE * TILE, N * N)
        _store_mean(out + 3 * plane, alpha, inside, TILE * TILE, N * N)


@triton.jit
def _store_mean(pointers, values, inside, PIXELS: tl.constexpr, SAMPLES: tl.constexpr):
    mean = tl.sum(tl.reshape(values, (PIXELS, SAMPLES)), axis=1) / SAMPLES
    byte = tl.minimum(tl.maximum(mean, 0.0), 1.0) * 255.0 + 0.5
    tl.store(pointers, byte.to(tl.int32).to(tl.uint8), mask=inside)


@triton.jit
def _point_distances(parameters, counts, points, result, number, SLOTS: tl.constexpr, BLOCK: tl.constexpr):
    b = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < number
    p = points + (b * number + i) * 3
    x, y = tl.load(p, mask=inside, other=0.0), tl.load(p + 1, mask=inside, other=0.0)
    z = tl.load(p + 2, mask=inside, other=0.0)
    d = x * 0.0 + FAR
    for k in range(tl.load(counts + b)):
        d = tl.minimum(d, _distance(parameters + (b * SLOTS + k) * WIDTH, x, y, z))
    tl.store(result + b * number + i, d, mask=inside)


def _counts(parameters: Tensor) -> Tensor:
    return (parameters[:, :, L.KIND] >= 0).sum(1, dtype=torch.int32)


def render_colors(parameters: Tensor, lights: Tensor, rays: Tensor, supersample: int, rgba: Tensor) -> None:
    """As render_numba.render_colors, on tensors of one CUDA device; supersample must be a power of 2."""
    _launch(parameters, lights, rays, rgba, rgba, False, supersample, TILE)


def render_depth(parameters: Tensor, rays: Tensor, depth: Tensor) -> None:
    """As render_numba.render_depth."""
    _launch(parameters, rays, rays, depth, depth, True, 1, 2 * TILE)


def _launch(parameters, lights, rays, rgba, depth, want_depth, supersample, tile):
    objects, views, _, size, _ = rgba.shape
    tiles = -(-size // tile)
    _render[(tiles * tiles * objects * views,)](
        parameters, _counts(parameters), lights, rays, rgba, depth, views, size, DEPTH=want_depth, N=supersample,
        TILE=tile, SLOTS=parameters.shape[1], num_warps=WARPS)


def distances(parameters: Tensor, points: Tensor, result: Tensor) -> None:
    """As render_numba.distances."""
    objects, number, _ = points.shape
    _point_distances[(-(-number // 256), objects)](parameters, _counts(parameters), points, result, number,
                                                   SLOTS=parameters.shape[1], BLOCK=256)
