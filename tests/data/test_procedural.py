"""The procedural universe: the same object everywhere, exact views of it, and CPU and CUDA that agree."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from ouroboros_lib.cameras import OBJECT_RADIUS, evenly_spaced_orbit, orbit_cameras
from ouroboros_lib.data.procedural import (
    FAMILIES,
    HELD_OUT_FAMILY,
    render_numba,
    render_objects,
    sample_objects,
    signed_distance,
)
from ouroboros_lib.data.procedural import packing as L
from ouroboros_lib.data.procedural.randomness import Draws, stream_keys
from ouroboros_lib.errors import InputError

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def every_family():
    """One object of each family, its depth from four sides and the cameras."""
    objects = [sample_objects("train", [11], family=name) for name in FAMILIES]
    objects = type(objects[0])(*(torch.cat([getattr(o, field) for o in objects])
                                 for field in ("parameters", "pose", "family_ids")))
    cameras = evenly_spaced_orbit(4, 15.0).expand(len(objects))
    return objects, cameras, render_objects(objects, cameras, 64, depth=True)


def test_families():
    assert len(set(FAMILIES)) == len(FAMILIES) >= 16
    assert "abstract" in FAMILIES and HELD_OUT_FAMILY in FAMILIES and HELD_OUT_FAMILY != "abstract"


def test_an_object_does_not_depend_on_its_batch():
    together = sample_objects("train", range(60), seed=5)
    shuffled = np.random.default_rng(0).permutation(60)
    other_order = sample_objects("train", shuffled, seed=5)
    assert torch.equal(together.parameters[shuffled], other_order.parameters)
    assert torch.equal(together.pose[shuffled], other_order.pose)
    for i in (0, 17, 59):
        alone = sample_objects("train", [i], seed=5)
        assert alone.families == [together.families[i]]
        assert torch.equal(alone.parameters[0], together.parameters[i])
        assert torch.equal(alone.pose[0], together.pose[i])


def test_known_objects():
    """The universe itself: results of others rest on it, so a change of the generator must be deliberate."""
    assert stream_keys("train", 0, np.arange(2)).tolist() == [2391539541053276776, 15703761562794949698]
    assert Draws(stream_keys("test", 1, np.arange(1))).unit().item() == pytest.approx(0.5008467470389214, abs=1e-15)
    assert sample_objects("train", range(4)).families == ["house", "chair", "rocket", "truck"]


def test_splits_and_seeds_are_disjoint():
    keys = [stream_keys(split, 0, np.arange(20_000)) for split in ("train", "val", "test", "heldout")]
    assert len(np.unique(np.concatenate(keys))) == 80_000
    parameters = {(split, seed): sample_objects(split, range(40), seed=seed).parameters
                  for split in ("train", "val", "test", "heldout") for seed in (0, 1)}
    rows = torch.cat([p.flatten(1) for p in parameters.values()])
    assert len(torch.unique(rows, dim=0)) == len(rows)


def test_held_out_family_is_only_in_heldout():
    for split in ("train", "val", "test"):
        names = set(sample_objects(split, range(2000)).families)
        assert names == set(FAMILIES) - {HELD_OUT_FAMILY}
    assert set(sample_objects("heldout", range(50)).families) == {HELD_OUT_FAMILY}


def test_every_object_is_inside_the_ball_and_fills_it():
    objects = sample_objects("val", range(400))
    directions = torch.nn.functional.normalize(torch.randn(1, 1500, 3, generator=torch.Generator().manual_seed(0)),
                                               dim=-1).expand(len(objects), -1, -1)
    assert signed_distance(objects, OBJECT_RADIUS * directions).min() > -1e-3
    # the outermost point of the surface, to the spacing of the directions, is near the ball's
    nearest = signed_distance(objects, OBJECT_RADIUS * directions).amin(1)
    assert nearest.max() < 0.1


def test_depth_lies_on_the_zero_of_the_distance(every_family):
    objects, cameras, views = every_family
    points = cameras.unproject(views.depth).movedim(2, -1)  # (B, V, S, S, 3)
    distance = signed_distance(objects, points.flatten(1, 3)).reshape(views.depth.shape)
    seen = views.depth > 0
    assert seen.float().mean(dim=(1, 2, 3, 4)).min() > 0.05
    assert distance[seen].abs().quantile(0.999) < 2e-4
    assert distance[seen].abs().max() < 2e-3
    # and nothing lies in front of it
    t = torch.linspace(0.6, 0.99, 30)[:, None]
    before = cameras.positions[:, 0, None, None] + t * (points[:, 0].flatten(1, 2)[:, ::7, None]
                                                        - cameras.positions[:, 0, None, None])
    free = signed_distance(objects, before.flatten(1, 2)).reshape(before.shape[:-1])
    assert free[seen[:, 0].flatten(1)[:, ::7]].min() > 0


def test_distance_is_a_lower_bound_and_lipschitz(every_family):
    objects, cameras, views = every_family
    generator = torch.Generator().manual_seed(1)
    points = (torch.rand(len(objects), 400, 3, generator=generator) - 0.5) * 1.4
    distance = signed_distance(objects, points)
    assert distance.min() < 0 < distance.max()
    surface = cameras.unproject(views.depth).movedim(2, -1).flatten(1, 3)
    for i in range(len(objects)):
        seen = surface[i][views.depth[i].flatten() > 0]
        true_or_more = torch.cdist(points[i], seen).amin(1)
        outside = distance[i] > 0
        assert (distance[i] <= true_or_more + 2e-3)[outside].all(), objects.families[i]
    nudge = 0.01 * torch.nn.functional.normalize(torch.randn(points.shape, generator=generator), dim=-1)
    moved = signed_distance(objects, points + nudge)
    outside = (distance > 0.01) & (moved > 0.01)
    assert ((moved - distance).abs() <= 0.0101)[outside].float().mean() > 0.995


def test_one_surface_point_has_one_ccm_value(every_family):
    """Points seen in view 0, projected to a neighboring view: where the depth agrees, so does the CCM."""
    objects = every_family[0]
    cameras = orbit_cameras([0.0, 20.0], [10.0, 10.0]).expand(len(objects))
    views = render_objects(objects, cameras, 128, depth=True)
    maps = cameras.canonical_map(views.depth)
    points = cameras.unproject(views.depth)[:, 0].flatten(2).transpose(1, 2)
    pixels, depth = cameras.project(points)
    seen = views.depth[:, 0].flatten(1) > 0
    column, row = (pixels[:, 1] * 128).floor().long().clamp(0, 127).unbind(-1)
    b = torch.arange(len(objects))[:, None].expand_as(column)
    # the ray of the other view through its pixel's center hits up to a pixel beside the point
    same = seen & ((views.depth[b, 1, 0, row, column] - depth[:, 1]).abs() < 0.004)
    assert same.sum() > 20_000
    difference = (maps[b, 1, :, row, column] - maps[:, 0].flatten(2).transpose(1, 2)).abs().amax(-1)
    assert difference[same].max() < 0.02


def test_alpha_and_depth_see_the_same_object(every_family):
    objects, cameras, views = every_family
    alpha, covered = views.rgba[:, :, 3:], views.depth > 0
    assert (covered[alpha == 255].float().mean()) > 0.999
    assert (covered[alpha == 0].float().mean()) < 0.001
    once = render_objects(objects, cameras, 64, supersample=1, depth=True)
    assert torch.equal(once.rgba[:, :, 3:] == 255, covered)  # one sample, at the center, is the depth's own ray
    assert ((once.rgba[:, :, 3:] == 0) | (once.rgba[:, :, 3:] == 255)).all()


def test_color_is_on_white(every_family):
    _, _, views = every_family
    background = (views.rgba[:, :, 3:] == 0).expand(-1, -1, 3, -1, -1)
    assert (views.rgba[:, :, :3][background] == 255).all()
    assert views.rgb.shape == (len(FAMILIES), 4, 3, 64, 64) and views.alpha.max() == 1
    assert (views.rgb >= 1 - views.alpha - 2 / 255).all()
    whitest = views.rgb.amin(2, keepdim=True)[views.alpha == 1]
    assert (whitest > 0.93).float().mean() < 0.01


def test_supersampling_is_the_mean_of_a_finer_picture(every_family):
    objects, cameras, views = every_family
    fine = render_objects(objects[:6], cameras[:6], 128, supersample=1)
    mean = torch.nn.functional.avg_pool2d(fine.rgba.flatten(0, 1).float(), 2).unflatten(0, (6, 4))
    assert (mean - views.rgba[:6]).abs().max() <= 1.5


def test_yaw_turns_the_object():
    """Turning the object by -30 degrees and the camera by 30 gives the same silhouette as turning neither."""
    objects = sample_objects("train", range(3))
    turned = objects[:]
    angle = torch.atan2(objects.pose[:, 1], objects.pose[:, 0]) + torch.deg2rad(torch.tensor(30.0))
    turned.pose = torch.cat([angle.cos()[:, None], angle.sin()[:, None], objects.pose[:, 2:]], 1)
    at = render_objects(objects, orbit_cameras([0.0], [10.0]).expand(3), 64).rgba[:, :, 3].float()
    same = render_objects(turned, orbit_cameras([30.0], [10.0]).expand(3), 64).rgba[:, :, 3].float()
    other = render_objects(turned, orbit_cameras([-30.0], [10.0]).expand(3), 64).rgba[:, :, 3].float()
    assert (at - same).abs().mean() < 0.1 < (at - other).abs().mean()


def test_objects_container():
    objects = sample_objects("train", range(5))
    assert len(objects) == 5 and len(objects[1:4]) == 3 and len(objects[2]) == 1
    assert objects[1:4].families == objects.families[1:4]
    assert torch.equal(objects.to("cpu").parameters, objects.parameters)
    used = objects.parameters[:, :, L.KIND] >= 0
    assert (used[:, 1:] <= used[:, :-1]).all()  # used slots come first


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="unknown split 'dev'"):
        sample_objects("dev", [0])
    with pytest.raises(InputError, match="unknown object family 'unicorn'"):
        sample_objects("train", [0], family="unicorn")
    with pytest.raises(ValueError, match="indices"):
        sample_objects("train", [-1])
    objects = sample_objects("train", [0])
    with pytest.raises(ValueError, match="cameras must have shape"):
        render_objects(objects, evenly_spaced_orbit(4), 32)
    with pytest.raises(ValueError, match="supersample"):
        render_objects(objects, evenly_spaced_orbit(4).expand(1), 32, supersample=3)


def test_compiled_code_is_not_stale():
    """numba's cache does not see changes of packing.py: if this fails, delete __pycache__ beside render_numba.py."""
    objects = sample_objects("val", range(60))
    rng = np.random.default_rng(0)
    light = np.array([0.6, 0.0, 0.8], np.float32)
    for rows in objects.parameters.numpy():
        for row in rows[rows[:, L.KIND] >= 0]:
            point = rng.uniform(-0.5, 0.5, 3).astype(np.float32)
            for function in (render_numba._distance, render_numba._mix_of):
                assert function(row, *point) == pytest.approx(float(function.py_func(row, *point)), abs=1e-4)
    normal = [np.float32(v) for v in (0.5, -0.5, 0.7)]
    assert render_numba._light(*normal, light) == pytest.approx(float(render_numba._light.py_func(*normal, light)))


_INTERPRETED = """
import torch
from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.data.procedural import render_numba, render_triton, rendering, sample_objects
numba_backend = rendering._backend
triton_backend = lambda device: (render_triton, lambda tensor: tensor)

objects = sample_objects("train", [3], family="bowl")
cameras = evenly_spaced_orbit(8).views([1]).expand(1)
ours = rendering.render_objects(objects, cameras, 7)  # within one tile, which is larger
rendering._backend = triton_backend
theirs = rendering.render_objects(objects, cameras, 7)
assert 4 < (ours.rgba[:, :, 3] > 0).sum() < 45
assert ((ours.rgba.int() - theirs.rgba.int()).abs() <= 2).all()

objects = sample_objects("train", range(12))
points = torch.rand(12, 100, 3) - 0.5
distance = rendering.signed_distance(objects, points)
rendering._backend = numba_backend
assert (distance - rendering.signed_distance(objects, points)).abs().max() < 1e-5
print("agree")
"""


def test_triton_kernels_under_the_interpreter():
    """The CUDA kernels' arithmetic on a machine without CUDA: a tiny picture, by Triton's interpreter."""
    triton = pytest.importorskip("triton")
    older = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9)
    if older and tuple(map(int, np.__version__.split(".")[:2])) >= (2, 5):
        pytest.skip("the interpreter of Triton 3.6 uses conversions that NumPy 2.5 refuses; 3.9 is known to work")
    run = subprocess.run([sys.executable, "-c", _INTERPRETED], capture_output=True, text=True,
                         env={**os.environ, "TRITON_INTERPRET": "1"})
    assert run.returncode == 0 and "agree" in run.stdout, run.stderr[-2000:]


@needs_cuda
@pytest.mark.parametrize("size, supersample", [(128, 2), (50, 1), (64, 4)])
def test_cuda_agrees_with_cpu(size, supersample):
    objects = sample_objects("val", range(24))
    cameras = evenly_spaced_orbit(6, 12.0).expand(24)
    ours = render_objects(objects, cameras, size, supersample, depth=True)
    theirs = render_objects(objects.to("cuda"), cameras.to("cuda"), size, supersample, depth=True)
    assert theirs.rgba.is_cuda and theirs.depth.is_cuda
    difference = (ours.rgba.int() - theirs.rgba.cpu().int()).abs()
    assert (difference <= 2).double().mean() > 0.995
    both = (ours.depth > 0) & (theirs.depth.cpu() > 0)
    assert (both == (ours.depth > 0)).double().mean() > 0.999
    assert (ours.depth - theirs.depth.cpu()).abs()[both].quantile(0.99) < 1e-4


@needs_cuda
def test_cuda_distances_agree_with_cpu():
    objects = sample_objects("val", range(24))
    points = torch.rand(24, 1000, 3, generator=torch.Generator().manual_seed(2)) * 1.4 - 0.7
    theirs = signed_distance(objects.to("cuda"), points.to("cuda"))
    assert torch.allclose(signed_distance(objects, points), theirs.cpu(), atol=1e-5)
