"""The three rasterizers: against closed forms, finite differences and each other."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from ouroboros_lib.cameras import RADIUS, Cameras, evenly_spaced_orbit, orbit_cameras, to_canonical
from ouroboros_lib.errors import InputError
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.rasterization import cuda, rasterize
from ouroboros_lib.rasterization.projection import BLUR, project
from tools.rasterization import bumpy_sphere, relative_error, values_and_gradients

ON_CPU = ["numba", "dense"]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="gsplat runs on CUDA only")


def scene(count=300, scale=4.0, seed=0):
    gaussians = bumpy_sphere(count, seed)
    return Gaussians(gaussians.means, gaussians.opacities, gaussians.scales * scale, gaussians.quaternions,
                     gaussians.colors)


def one_gaussian(mean=(0.0, 0.0, 0.0), opacity=0.8, scale=0.05, color=(1.0, 0.5, 0.0)):
    return Gaussians(torch.tensor([mean]), torch.tensor([opacity]), torch.full((1, 3), scale),
                     torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([color]))


def stack(*sets):
    return Gaussians(*(torch.cat([getattr(s, name) for s in sets]) for name in vars(sets[0])))


@pytest.mark.parametrize("backend", ON_CPU)
def test_one_gaussian_in_closed_form(backend):
    """A ball of standard deviation s at depth z is a Gaussian of variance (f s / z)^2 + BLUR pixels^2."""
    size, scale, opacity = 33, 0.05, 0.8
    camera = orbit_cameras([0.0], [0.0])
    rendering = rasterize(one_gaussian(opacity=opacity, scale=scale), camera, size, background=0.25, backend=backend)
    variance = (float(camera.intrinsics[0, 0, 0]) * size * scale / RADIUS) ** 2 + BLUR
    offset = torch.arange(size) + 0.5 - size / 2
    alpha = opacity * torch.exp(-(offset[None]**2 + offset[:, None]**2) / (2 * variance))
    alpha = alpha * (alpha >= 1 / 255)
    assert alpha[16, 16] == opacity and 0 < alpha.count_nonzero() < size * size
    torch.testing.assert_close(rendering.alpha[0, 0], alpha, atol=1e-5, rtol=0)
    for channel, color in enumerate((1.0, 0.5, 0.0)):
        expected = alpha * color + (1 - alpha) * 0.25
        torch.testing.assert_close(rendering.rgb[0, channel], expected, atol=1e-5, rtol=0)
    depth = torch.where(alpha > 0, RADIUS, 0.0)
    torch.testing.assert_close(rendering.depth[0, 0], depth, atol=1e-4, rtol=0)
    assert rendering.extra is None


@pytest.mark.parametrize("backend", ON_CPU)
def test_the_nearer_gaussian_covers_the_farther_one(backend):
    near, far = one_gaussian((0, 0, 0.3), 0.6, color=(1, 0, 0)), one_gaussian((0, 0, -0.3), 0.5, color=(0, 1, 0))
    camera = orbit_cameras([0.0], [0.0])
    expected_rgb = torch.tensor([0.6 + 0.2, 0.4 * 0.5 + 0.2, 0.2])  # 0.6, then 0.5 of the rest, then white
    expected_depth = (0.6 * (RADIUS - 0.3) + 0.2 * (RADIUS + 0.3)) / 0.8
    for gaussians in (stack(near, far), stack(far, near)):  # the order in memory does not matter
        rendering = rasterize(gaussians, camera, 33, backend=backend)
        torch.testing.assert_close(rendering.rgb[0, :, 16, 16], expected_rgb, atol=1e-5, rtol=0)
        assert float(rendering.depth[0, 0, 16, 16]) == pytest.approx(expected_depth, abs=1e-5)


@pytest.mark.parametrize("backend", ON_CPU)
def test_a_gaussian_moves_where_its_centre_projects(backend):
    gaussians = one_gaussian((0.2, 0.15, -0.1), 0.9, 0.01)
    cameras = evenly_spaced_orbit(5, 20.0)
    alpha = rasterize(gaussians, cameras, 64, backend=backend).alpha[:, 0]
    centres = (torch.arange(64) + 0.5) / 64
    weight = alpha.sum((-1, -2))
    mean = torch.stack([(alpha.sum(-2) * centres).sum(-1) / weight, (alpha.sum(-1) * centres).sum(-1) / weight], -1)
    torch.testing.assert_close(mean, cameras.project(gaussians.means)[0][:, 0], atol=0.1 / 64, rtol=0)


@pytest.mark.parametrize("backend", ON_CPU)
def test_limits_of_alpha_and_transmittance(backend):
    camera = orbit_cameras([0.0], [0.0])
    def center(*sets):
        return float(rasterize(stack(*sets), camera, 33, backend=backend).alpha[0, 0, 16, 16])
    assert center(one_gaussian(opacity=1.0)) == pytest.approx(0.999, abs=1e-6)
    assert center(one_gaussian(opacity=0.0039)) == 0  # just below 1 / 255
    assert center(one_gaussian(opacity=0.0040)) == pytest.approx(0.004, abs=1e-6)
    # Three layers leave 1.25e-4. A fourth would leave less than 1e-4: it ends the pixel, for all that follow too.
    layers = [one_gaussian((0, 0, -0.1 * i), 0.95) for i in range(4)]
    faint = one_gaussian((0, 0, -0.5), 0.1)
    assert center(*layers[:3]) == pytest.approx(1 - 1.25e-4, abs=1e-6)
    assert center(*layers[:3], faint) == pytest.approx(1 - 1.125e-4, abs=1e-6)
    assert center(*layers, faint) == pytest.approx(1 - 1.25e-4, abs=1e-6)


@pytest.mark.parametrize("backend", ON_CPU)
def test_depth_of_an_opaque_plane(backend):
    """A plane facing the camera: z-depth is the same in the corners as in the middle, where the ray is shorter."""
    axis = torch.linspace(-0.8, 0.8, 81)
    x, y = (t.reshape(-1) for t in torch.meshgrid(axis, axis, indexing="xy"))
    count = len(x)
    plane = Gaussians(torch.stack([x, y, torch.full((count,), 0.2)], -1), torch.full((count,), 0.99),
                      torch.tensor([0.02, 0.02, 0.001]).expand(count, 3), torch.tensor([1.0, 0, 0, 0]).expand(count, 4),
                      torch.full((count, 3), 0.5))
    rendering = rasterize(plane, orbit_cameras([0.0], [0.0]), 32, backend=backend)
    assert rendering.alpha.min() > 0.996
    torch.testing.assert_close(rendering.depth, torch.full_like(rendering.depth, RADIUS - 0.2), atol=1e-5, rtol=0)
    torch.testing.assert_close(rendering.rgb, torch.full_like(rendering.rgb, 0.5), atol=2e-3, rtol=0)


def test_a_dense_splat_of_a_sphere_has_its_depth_alpha_and_ccm():
    radius, size, count = 0.4, 96, 20000
    index = torch.arange(count) + 0.5
    height, turn = 1 - 2 * index / count, math.pi * (1 + 5 ** 0.5) * index
    ring = (1 - height**2).sqrt()
    normal = torch.stack([ring * turn.cos(), height, ring * turn.sin()], -1)
    about = F.normalize(torch.stack([1 + normal[:, 2], -normal[:, 1], normal[:, 0], torch.zeros(count)], -1), dim=-1)
    sphere = Gaussians(radius * normal, torch.full((count,), 0.95), torch.tensor([0.008, 0.008, 1e-4]).expand(count, 3),
                       about, torch.rand(count, 3, generator=torch.Generator().manual_seed(0)))
    cameras = evenly_spaced_orbit(3, 20.0)
    rendering = rasterize(sphere, cameras, size, extra=to_canonical(sphere.means))

    origins, directions = cameras.rays(size)
    along = (origins * directions).sum(-1)
    discriminant = along**2 - (origins**2).sum(-1) + radius**2
    distance = -along - discriminant.clamp_min(0).sqrt()
    points = origins + distance[..., None] * directions
    depth = distance * (directions * cameras.c2w[:, None, None, :3, 2]).sum(-1)
    closest = ((origins**2).sum(-1) - along**2).clamp_min(0).sqrt()  # of the ray to the origin
    inside, outside = closest < 0.8 * radius, closest > 1.1 * radius
    assert inside.sum() > 1000 and outside.sum() > 1000
    alpha = rendering.alpha[:, 0]
    assert alpha[inside].min() > 0.99 and alpha[outside].max() < 0.01
    # A pixel is 0.013 wide. The front of what a pixel blends counts most, so slanted surfaces come out a little near.
    error = (rendering.depth[:, 0] - depth)[inside]
    assert error.abs().max() < 0.015 and error.mean().abs() < 0.008
    ccm = (rendering.extra / rendering.alpha.clamp_min(1e-6)).movedim(1, -1)
    assert (ccm - to_canonical(points))[inside].abs().max() < 0.02
    from_depth = cameras.canonical_map(rendering.depth).movedim(1, -1)
    assert (from_depth - to_canonical(points))[inside].abs().max() < 0.02


@pytest.mark.parametrize(("count", "scale", "size"), [(300, 5.0, 40), (1500, 2.0, 64), (60, 12.0, 17)])
def test_numba_agrees_with_dense_in_values_and_gradients(count, scale, size):
    gaussians, cameras = scene(count, scale), evenly_spaced_orbit(3, 20.0)
    outputs, gradients = values_and_gradients(gaussians, cameras, size, "numba")
    reference, reference_gradients = values_and_gradients(gaussians, cameras, size, "dense")
    assert reference["alpha"].max() > 0.9 and (reference["alpha"] == 0).any()
    for name in ("rgb", "alpha", "extra"):
        torch.testing.assert_close(outputs[name], reference[name], atol=1e-5, rtol=0, msg=name)
    # Depth is divided by alpha, which carries float32's rounding of 1 - transmittance: compare what was summed.
    torch.testing.assert_close(outputs["depth"] * outputs["alpha"], reference["depth"] * reference["alpha"],
                               atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs["depth"], reference["depth"], atol=1e-4, rtol=0)
    for name, gradient in gradients.items():
        assert reference_gradients[name].norm() > 0, name
        assert relative_error(gradient, reference_gradients[name]) < 1e-4, name


def test_gradients_agree_with_finite_differences():
    """In float64, through the dense backend, which the test above ties to the others; random directions."""
    generator = torch.Generator().manual_seed(3)
    gaussians = scene(12, 8.0, seed=5).to(torch.float64)
    # Opacities far from the alpha clamp; every pixel inside every Gaussian's box keeps clear of the 1 / 255 threshold.
    gaussians.scales, gaussians.opacities = 0.3 + gaussians.scales, 0.2 + 0.2 * gaussians.opacities
    cameras = evenly_spaced_orbit(2, 10.0).to(torch.float64)
    extra = torch.rand(12, 2, generator=generator, dtype=torch.float64)
    weights = {}

    def loss(means, opacities, scales, quaternions, colors, extra, c2w, intrinsics):
        rendering = rasterize(Gaussians(means, opacities, scales, quaternions, colors), Cameras(c2w, intrinsics), 8,
                              extra=extra, backend="dense")
        total = 0
        for name, output in vars(rendering).items():
            if name not in weights:
                weights[name] = torch.rand(output.shape, generator=generator, dtype=torch.float64)
            total = total + (weights[name] * output).sum()
        return total

    inputs = [tensor.clone().requires_grad_() for tensor in (*vars(gaussians).values(), extra, cameras.c2w,
                                                             cameras.intrinsics)]
    gradients = torch.autograd.grad(loss(*inputs), inputs)
    for i, (value, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if i == 6:
            # world_to_camera takes the pose as rigid: move it along a translation only
            direction[..., :3], direction[..., 3, :] = 0, 0
        step = 1e-6
        changed = [[t.detach() + sign * step * direction if j == i else t.detach() for j, t in enumerate(inputs)]
                   for sign in (1, -1)]
        numeric = float(loss(*changed[0]) - loss(*changed[1])) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(numeric, rel=1e-4, abs=1e-6), f"input {i}"


@pytest.mark.parametrize("backend", ON_CPU)
def test_leading_batch_dimensions(backend):
    sets = [scene(80, 5.0, seed) for seed in range(6)]
    batch = Gaussians(*(torch.stack([getattr(s, name) for s in sets]).unflatten(0, (2, 3)) for name in vars(sets[0])))
    cameras = evenly_spaced_orbit(2, torch.arange(6.0).view(2, 3) * 5)
    extra = torch.rand(2, 3, 80, 4, generator=torch.Generator().manual_seed(0))
    background = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(1))
    rendering = rasterize(batch, cameras, 24, extra=extra, background=background, backend=backend)
    assert rendering.rgb.shape == (2, 3, 2, 3, 24, 24) and rendering.extra.shape == (2, 3, 2, 4, 24, 24)
    assert rendering.alpha.shape == rendering.depth.shape == (2, 3, 2, 1, 24, 24)
    for i in range(2):
        for j in range(3):
            alone = rasterize(sets[3 * i + j], cameras[i, j], 24, extra=extra[i, j], background=background[i, j],
                              backend=backend)
            for name, output in vars(alone).items():
                torch.testing.assert_close(getattr(rendering, name)[i, j], output, atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", ON_CPU)
def test_backgrounds(backend):
    gaussians, cameras = scene(60, 5.0), evenly_spaced_orbit(2)
    color = torch.tensor([0.1, 0.6, 1.0])
    on_white = rasterize(gaussians, cameras, 24, backend=backend)
    on_black = rasterize(gaussians, cameras, 24, background=0.0, backend=backend)
    on_color = rasterize(gaussians, cameras, 24, background=color, backend=backend)
    torch.testing.assert_close(on_white.rgb, on_black.rgb + 1 - on_black.alpha)
    torch.testing.assert_close(on_color.rgb, on_black.rgb + (1 - on_black.alpha) * color[:, None, None])
    assert torch.equal(on_white.depth, on_black.depth)


@pytest.mark.parametrize("backend", ON_CPU)
def test_extra_channels_are_composited_like_colors(backend):
    gaussians, cameras = scene(60, 5.0), evenly_spaced_orbit(2)
    plain = rasterize(gaussians, cameras, 24, background=0.0, backend=backend)
    assert plain.extra is None
    for channels in (1, 3, 13):
        extra = gaussians.colors.repeat(1, 5)[:, :channels]
        rendering = rasterize(gaussians, cameras, 24, extra=extra, background=0.7, backend=backend)
        torch.testing.assert_close(rendering.extra, plain.rgb.repeat(1, 5, 1, 1)[:, :channels], atol=1e-6, rtol=0)
        torch.testing.assert_close(rendering.depth, plain.depth, atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", ON_CPU)
def test_views_that_see_nothing(backend):
    """The same Gaussians in front of view 0, behind view 1 (which has turned round), and no Gaussians at all."""
    gaussians = scene(40, 5.0).map(lambda tensor: tensor.requires_grad_())
    turned = orbit_cameras([0.0, 0.0], [0.0, 0.0])
    turned.c2w[1, :3, 0] *= -1
    turned.c2w[1, :3, 2] *= -1
    rendering = rasterize(gaussians, turned, 20, extra=gaussians.colors, background=0.3, backend=backend)
    assert rendering.alpha[0].max() > 0.5
    assert (rendering.rgb[1] == 0.3).all()
    for output in (rendering.alpha[1], rendering.depth[1], rendering.extra[1]):
        assert (output == 0).all()
    sum(output.sum() for output in vars(rendering).values()).backward()
    for name, tensor in vars(gaussians).items():
        assert torch.isfinite(tensor.grad).all() and tensor.grad.norm() > 0, name
    nothing = rasterize(gaussians[:0], turned, 20, backend=backend)
    assert (nothing.rgb == 1).all() and (nothing.depth == 0).all()


def test_projection_marks_what_is_not_drawn():
    means = torch.tensor([[0.0, 0, 0], [0, 0, 5], [3, 0, 0], [0, 0, RADIUS - 0.005], [0, 0, 0]])
    gaussians = Gaussians(means, torch.tensor([0.5, 0.5, 0.5, 0.5, 0.001]), torch.full((5, 3), 0.01),
                          torch.tensor([1.0, 0, 0, 0]).expand(5, 4), torch.zeros(5, 3))
    projection = project(gaussians.map(lambda t: t[None]), orbit_cameras([0.0], [0.0]).expand(1), 64)
    assert (projection.radius_u[0, 0] > 0).tolist() == [True, False, False, False, False]
    assert (projection.radius_v[0, 0] > 0).tolist() == [True, False, False, False, False]


def test_a_view_does_not_depend_on_the_others_or_on_threads():
    gaussians, cameras = scene(2000, 2.0), evenly_spaced_orbit(4)
    together = rasterize(gaussians, cameras, 48)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = rasterize(gaussians, cameras.views([2]), 48)
    finally:
        torch.set_num_threads(before)
    # not to the bit: some machines project one camera with other instructions than four
    torch.testing.assert_close(together.alpha[2:3], alone.alpha, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.rgb[2:3], alone.rgb, atol=1e-5, rtol=0)


def test_numba_is_the_default_on_the_cpu_and_float32_under_autocast():
    gaussians, cameras = scene(100), evenly_spaced_orbit(2)
    expected = rasterize(gaussians, cameras, 24, backend="numba")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rendering = rasterize(gaussians.to(torch.float64), cameras, 24)
    assert rendering.rgb.dtype == torch.float32 and torch.equal(rendering.rgb, expected.rgb)
    dense = rasterize(gaussians.to(torch.float64), cameras, 24, backend="dense")
    assert dense.rgb.dtype == torch.float64


def test_bad_arguments():
    gaussians, cameras = scene(10), evenly_spaced_orbit(2)
    with pytest.raises(InputError, match="'gsplat' needs CUDA tensors, these are on cpu"):
        rasterize(gaussians, cameras, 16, backend="gsplat")
    with pytest.raises(InputError, match="'opengl' is unknown: choose one of gsplat, numba, dense"):
        rasterize(gaussians, cameras, 16, backend="opengl")
    with pytest.raises(ValueError, match="cameras.expand"):
        rasterize(gaussians, cameras.expand(3), 16)
    with pytest.raises(ValueError, match="extra must be"):
        rasterize(gaussians, cameras, 16, extra=torch.zeros(9, 3))


# On CUDA


@needs_cuda
@pytest.mark.parametrize(("count", "scale", "size"), [(300, 5.0, 40), (16384, 1.0, 128)])
def test_gsplat_agrees_with_numba_in_values_and_gradients(count, scale, size):
    gaussians, cameras = scene(count, scale), evenly_spaced_orbit(3, 20.0)
    outputs, gradients = values_and_gradients(gaussians.to("cuda"), cameras.to("cuda"), size)
    reference, reference_gradients = values_and_gradients(gaussians, cameras, size)
    for name in ("rgb", "alpha", "extra"):
        torch.testing.assert_close(outputs[name], reference[name], atol=1 / 255, rtol=0, msg=name)
    torch.testing.assert_close(outputs["depth"] * outputs["alpha"], reference["depth"] * reference["alpha"],
                               atol=RADIUS / 255, rtol=0)
    for name, gradient in gradients.items():
        assert relative_error(gradient, reference_gradients[name]) < 1e-2, name


@pytest.mark.parametrize(("at_once", "expected"), [(2**30, [5]), (2 * 80 * 3 * 4, [2, 2, 1]), (1, [1] * 5)])
def test_large_scenes_are_drawn_one_after_the_other(monkeypatch, at_once, expected):
    """What gsplat is given, with a stand-in that draws every pixel of a view in one colour."""
    batches = []

    def rasterization(means, quats, scales, opacities, colors, viewmats, Ks, width, height, **options):
        batches.append(len(means))
        pixels = (len(means), viewmats.shape[1], height, width)
        depth = (viewmats[..., 2, 3] + Ks[..., 0, 0])[..., None] * means[..., 2].mean(1)[:, None, None]
        features = torch.cat([colors.mean(1)[:, None].expand(-1, pixels[1], -1), depth], dim=-1)
        alpha = opacities.mean(1)[:, None, None, None].expand(pixels)
        return features[:, :, None, None].expand(*pixels, -1), alpha[..., None], {}

    monkeypatch.setitem(sys.modules, "gsplat", SimpleNamespace(rasterization=rasterization))
    monkeypatch.setattr(cuda, "PAIRS_AT_ONCE", at_once)
    sets = Gaussians(*(torch.stack(values).requires_grad_() for values in
                       zip(*(vars(scene(80, seed=seed)).values() for seed in range(5)), strict=True)))
    cameras = orbit_cameras([10.0, 20.0, 30.0], [0.0, 40.0, 80.0]).expand(5)
    drawn, left = cuda.splat(sets, cameras, sets.colors, 20)  # 2 x 2 tiles
    assert batches == expected and drawn.shape == (5, 3, 20, 20, 4) and left.shape == (5, 3, 20, 20)
    torch.testing.assert_close(drawn[:, 1, 7, 7, :3], sets.colors.mean(1))
    torch.testing.assert_close(left[:, 2, 7, 7], 1 - sets.opacities.mean(1))
    (drawn.sum() + left.sum()).backward()
    assert all(sets.colors.grad[scene].any() for scene in range(5))


@needs_cuda
@pytest.mark.parametrize("at_once", [cuda.PAIRS_AT_ONCE, 2 * 80 * 2 * 4])
def test_gsplat_batches_and_backgrounds(monkeypatch, at_once):
    monkeypatch.setattr(cuda, "PAIRS_AT_ONCE", at_once)
    sets = [scene(80, 5.0, seed) for seed in range(6)]
    batch = Gaussians(*(torch.stack([getattr(s, name) for s in sets]).unflatten(0, (2, 3)) for name in vars(sets[0])))
    cameras = evenly_spaced_orbit(2, torch.arange(6.0).view(2, 3) * 5)
    background = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(1))
    on_cuda = rasterize(batch.to("cuda"), cameras.to("cuda"), 24, extra=batch.colors.cuda(),
                        background=background.cuda())
    on_cpu = rasterize(batch, cameras, 24, extra=batch.colors, background=background)
    for name in ("rgb", "alpha", "extra"):
        torch.testing.assert_close(getattr(on_cuda, name).cpu(), getattr(on_cpu, name), atol=1 / 255, rtol=0)


@needs_cuda
def test_numba_refuses_cuda_tensors():
    with pytest.raises(InputError, match="'numba' needs CPU tensors"):
        rasterize(scene(10).to("cuda"), evenly_spaced_orbit(2).to("cuda"), 16, backend="numba")
