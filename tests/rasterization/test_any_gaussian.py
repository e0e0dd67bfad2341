"""Every finite Gaussian is drawn or left out, never a crash or a NaN; what is not finite is refused."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ouroboros_lib.cameras import Cameras, evenly_spaced_orbit
from ouroboros_lib.errors import InputError
from ouroboros_lib.gaussians import Gaussians, quaternion_to_matrix
from ouroboros_lib.rasterization import rasterize, tiles
from ouroboros_lib.rasterization.projection import project

SIZE, VIEWS = 40, 2  # not a whole number of tiles


def _floats(low, high):
    return st.floats(low, high, width=32)


def _magnitudes(low, high):
    """Numbers of any order of magnitude from 10^low to 10^high."""
    return st.builds(lambda power, digits: digits * 10.0**power, st.integers(low, high), _floats(1, 9.5))


_SIGNED = st.builds(lambda size, sign: size * sign, _magnitudes(-30, 30), st.sampled_from([-1.0, 1.0]))
_POSITION = st.tuples(*3 * [_floats(-2, 2)]) | st.tuples(*3 * [_SIGNED])
_SCALE = st.tuples(*3 * [_magnitudes(-4, 0)]) | st.tuples(*3 * [_magnitudes(-30, 30)])
_GAUSSIAN = st.tuples(_POSITION, _floats(0, 1), _SCALE, st.tuples(*4 * [_floats(-1, 1)]),
                      st.tuples(*3 * [_floats(0, 1)]))


def gaussians_of(rows) -> Gaussians:
    means, opacities, scales, quaternions, colors = (torch.tensor(column, dtype=torch.float32)
                                                     for column in zip(*rows, strict=True))
    length = quaternions.norm(dim=-1, keepdim=True)
    unit = torch.where(length > 1e-3, quaternions / length.clamp_min(1e-3), torch.tensor([1.0, 0, 0, 0]))
    return Gaussians(means, opacities, scales, unit, colors)


@settings(max_examples=150, deadline=None)
@given(st.lists(_GAUSSIAN, min_size=1, max_size=5))
def test_finite_gaussians_give_finite_pictures_and_gradients(rows):
    """And the dense picture, wherever float32 holds the Gaussians' shapes."""
    gaussians, cameras = gaussians_of(rows), evenly_spaced_orbit(VIEWS, 20.0)
    drawn = {}
    for backend in ("numba", "dense"):
        leaves = gaussians.map(lambda value: value.clone().requires_grad_())
        drawing = rasterize(leaves, cameras, SIZE, backend=backend)
        (drawing.rgb.sum() + drawing.alpha.square().sum() + drawing.depth.clamp(0, 10).sum()).backward()
        assert all(value.isfinite().all() for value in (drawing.rgb, drawing.alpha, drawing.depth))
        assert all(value.grad.isfinite().all() for value in vars(leaves).values())
        assert 0 <= drawing.alpha.min() and drawing.alpha.max() <= 1
        drawn[backend] = drawing.rgb.detach()
    p = project(gaussians[None], cameras.expand(1), SIZE)
    product, lost = p.conic_uu * p.conic_vv, p.conic_uv.square()
    if (product - lost > 1e-2 * product)[p.radius_u > 0].all():
        assert ((drawn["numba"] - drawn["dense"]).abs() > 1e-3).float().mean() < 0.01  # an edge falls on either side


_LENS = st.tuples(_magnitudes(-6, 6), _magnitudes(-6, 6), _floats(-3, 3), _floats(-3, 3))
_ANY_LENS = st.tuples(*4 * [_SIGNED])
_TURN = st.tuples(*4 * [_floats(-1, 1)])
_ANY_POSE = st.tuples(*16 * [_floats(-2, 2) | _SIGNED | st.just(0.0)])  # singular ones included


def cameras_of(rows) -> Cameras:
    """Views of (quaternion, position, lens) or (matrix, None, lens)."""
    c2w, lenses = torch.eye(4).repeat(len(rows), 1, 1), torch.eye(3).repeat(len(rows), 1, 1)
    for pose, lens, (turn, position, (fx, fy, cx, cy)) in zip(c2w, lenses, rows, strict=True):
        if position is None:
            pose[:] = torch.tensor(turn, dtype=torch.float32).view(4, 4)
        else:
            length = torch.tensor(turn).norm()
            pose[:3, :3] = quaternion_to_matrix(torch.tensor(turn if length > 1e-3 else (1.0, 0, 0, 0)))
            pose[:3, 3] = torch.tensor(position)
        lens[0, 0], lens[1, 1], lens[0, 2], lens[1, 2] = fx, fy, cx, cy
    return Cameras(c2w, lenses)


@settings(max_examples=80, deadline=None)
@given(st.lists(_GAUSSIAN, min_size=1, max_size=4), st.sampled_from([1, 2, 17, SIZE]),
       st.lists(st.tuples(_TURN, _POSITION, _LENS | _ANY_LENS) | st.tuples(_ANY_POSE, st.none(), _LENS | _ANY_LENS),
                min_size=1, max_size=3))
def test_finite_cameras_give_finite_pictures_and_gradients(rows, size, views):
    """Of any lens, any place and any matrix, for pictures from one pixel on; numba draws what dense draws."""
    gaussians, cameras = gaussians_of(rows), cameras_of(views)
    drawn = {}
    for backend in ("numba", "dense"):
        leaves = gaussians.map(lambda value: value.clone().requires_grad_())
        rig = Cameras(cameras.c2w.clone().requires_grad_(), cameras.intrinsics.clone().requires_grad_())
        drawing = rasterize(leaves, rig, size, backend=backend)
        (drawing.rgb.sum() + drawing.alpha.square().sum() + drawing.depth.clamp(0, 10).sum()).backward()
        assert all(value.isfinite().all() for value in (drawing.rgb, drawing.alpha, drawing.depth))
        assert all(value.grad.isfinite().all() for value in (*vars(leaves).values(), *vars(rig).values()))
        assert 0 <= drawing.alpha.min() and drawing.alpha.max() <= 1
        drawn[backend] = drawing.rgb.detach()
    p = project(gaussians[None], cameras[None], size)
    product, lost = p.conic_uu * p.conic_vv, p.conic_uv.square()
    if (product - lost > 1e-2 * product)[p.radius_u > 0].all():
        assert ((drawn["numba"] - drawn["dense"]).abs() > 1e-3).float().mean() < max(0.02, 1.5 / size**2)


def test_a_million_gaussians_take_bounded_memory():
    """As many as there may be, most of them in one place: lists of tiles, not pictures, grow with them."""
    count = 10**6
    gaussians = gaussians_of([((0.1, 0, 0), 0.5, (0.01, 0.01, 0.01), (1, 0, 0, 0), (0.2, 0.4, 0.6))]).map(
        lambda value: value.expand(count, *value.shape[1:]))
    gaussians.means = gaussians.means + torch.linspace(-0.3, 0.3, count)[:, None]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    drawing = rasterize(gaussians, evenly_spaced_orbit(1, 20.0), 64)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert drawing.rgb.isfinite().all() and drawing.alpha.max() > 0.99 and grown < 1000 * count


def test_needles():
    """20,000 times as long as wide, at every angle: a line, of the brightness that dense draws."""
    angles = torch.linspace(0, 3.1, 8)
    rows = [((0, 0, 0), 0.9, (2, 1e-4, 1e-4), (float(a.cos()), 0, 0, float(a.sin())), (0, 0, 0)) for a in angles]
    for row in rows:
        drawings = [rasterize(gaussians_of([row]), evenly_spaced_orbit(VIEWS, 20.0), 64, backend=backend).alpha
                    for backend in ("numba", "dense")]
        assert drawings[0].max() > 0.5 and (drawings[0] - drawings[1]).abs().mean() < 1e-2


@pytest.mark.parametrize(("what", "value"), [("means", torch.nan), ("scales", torch.inf), ("colors", torch.nan)])
def test_what_is_not_finite_is_refused(what, value):
    gaussians = gaussians_of([((0, 0, 0), 0.9, (0.1, 0.1, 0.1), (1, 0, 0, 0), (0, 0, 0))])
    getattr(gaussians, what)[0, 0] = value
    with pytest.raises(InputError, match=f"of the {what}, 1 numbers are not finite"):
        rasterize(gaussians, evenly_spaced_orbit(VIEWS, 20.0), SIZE)


def test_more_than_fits_into_memory_is_refused(monkeypatch):
    monkeypatch.setattr(tiles, "MAX_ENTRIES", 10)
    gaussians = gaussians_of(2 * [((0, 0, 0), 0.9, (1, 1, 1), (1, 0, 0, 0), (0, 0, 0))])
    with pytest.raises(InputError, match="fewer views at once"):
        rasterize(gaussians, evenly_spaced_orbit(VIEWS, 20.0), SIZE)


def test_two_threads_draw_where_there_is_no_openmp():
    """numba's own thread pool aborts a process that enters it twice."""
    program = """
import threading, torch
from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.rasterization import rasterize
from tools.rasterization import bumpy_sphere
splat, cameras = bumpy_sphere(8000), evenly_spaced_orbit(4, 20.0)
threads = [threading.Thread(target=lambda: [rasterize(splat, cameras, 128) for _ in range(6)]) for _ in range(4)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
import numba; assert numba.threading_layer() == "workqueue"
"""
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True,
                         env={"PATH": "", "PYTHONPATH": str(root), "NUMBA_THREADING_LAYER": "workqueue",
                              "NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"})
    assert run.returncode == 0, run.stderr
