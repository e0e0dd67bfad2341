"""The released code's departures from the paper, one by one: what each is and what it does.

The released modules' own outputs are compared in test_paper_models.py.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from comparing import gap, seeded
from parity_inputs import NARROW_F, NARROW_G, fill, released_cameras
from torch.testing import assert_close

from ouroboros_lib.cameras import Cameras, evenly_spaced_orbit, orbit_cameras
from ouroboros_lib.evaluation.methods import Ours
from ouroboros_lib.gaussians import (
    Gaussians,
    matrix_to_quaternion,
    quaternion_polynomial,
    quaternion_to_matrix,
)
from ouroboros_lib.models.condition import Condition
from ouroboros_lib.models.feedback import released_coordinate_map, render_feedback
from ouroboros_lib.models.image_token import image_token
from ouroboros_lib.noise import c_noise
from ouroboros_lib.paper.released import (
    ReleasedMultiviewUNet,
    ReleasedPipeline,
    ReleasedReconstructor,
    as_rasterized,
    leaning_orbit,
    moved,
    relative_to_first,
    released_orbit,
)
from ouroboros_lib.pipeline import Ouroboros3DPipeline, guidance_per_view
from ouroboros_lib.presets import load_preset, random_models
from ouroboros_lib.rasterization import rasterize


def angle(a, b):
    return torch.rad2deg(torch.acos((a * b).sum(-1).clamp(-1, 1)))


def random_gaussians(count=200, batch=1, spread=0.3, seed=0):
    g = seeded(seed)
    def draw(*shape):
        return torch.randn(batch, count, *shape, generator=g)
    return Gaussians(spread * draw(3), torch.sigmoid(draw()), 0.02 * draw(3).exp(),
                     torch.nn.functional.normalize(draw(4), dim=-1), torch.sigmoid(draw(3)))


@pytest.fixture(scope="module")
def released(perturb):
    """A narrow released pipeline with random weights."""
    preset = load_preset("narrow")
    parts = random_models(preset, seed=1)
    parts["multiview"] = ReleasedMultiviewUNet.from_config(parts["multiview"].config)
    parts["reconstructor"] = ReleasedReconstructor.from_config(parts["reconstructor"].config)
    for seed, name in enumerate(("autoencoder", "multiview", "reconstructor", "image_encoder")):
        perturb(parts[name].eval(), seed=seed)
    pipe = ReleasedPipeline(**parts, image_size=64, coordinate_map="released", **preset.pipeline)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def right(released):
    """The same weights in the pipeline of the paper."""
    preset, parts = load_preset("narrow"), dict(released.components)
    for name in ("multiview", "reconstructor"):
        parts[name] = preset.create(name).eval()
        parts[name].load_state_dict(released.components[name].state_dict())
    pipe = Ouroboros3DPipeline(**parts, image_size=64, **preset.pipeline)
    pipe.set_progress_bar_config(disable=True)
    return pipe


PICTURE = torch.rand(1, 3, 64, 64, generator=seeded(5))


# --- cameras ---


def test_the_last_released_camera_stands_at_337_5_degrees():
    """Frame 15 of 16 closes the orbit instead of frame 14: the seven others are 45 degrees apart."""
    assert_close(released_orbit(0.0).c2w, released_cameras(1).c2w[0], atol=1e-6, rtol=0)
    assert_close(released_orbit(0.0).intrinsics, released_cameras(1).intrinsics[0], atol=1e-6, rtol=0)
    ours = evenly_spaced_orbit(8, 0.0)
    between = angle(*(torch.nn.functional.normalize(rig.positions, dim=-1) for rig in (released_orbit(0.0), ours)))
    assert_close(between, torch.tensor([0, 0, 0, 0, 0, 0, 0, 22.5]), atol=0.05, rtol=0)


def test_poses_are_relative_to_view_0_which_hides_the_elevation():
    elevations = torch.tensor([-5.0, 0.0, 30.0])
    rigs = released_orbit(elevations)
    relative, back = relative_to_first(rigs)
    upright = orbit_cameras([0.0], 0.0, 1.7416968)
    for rig in range(3):
        assert_close(relative.c2w[rig, :1], upright.c2w, atol=1e-6, rtol=0)
    assert_close(back[:, None] @ relative.c2w, rigs.c2w, atol=1e-6, rtol=0)
    assert_close(relative.c2w[1], rigs.c2w[1], atol=1e-6, rtol=0)  # at elevation 0 nothing moves
    assert gap(relative.c2w[0, 4], relative.c2w[2, 4]) > 0.5  # the view from behind tells it
    assert_close(relative_to_first(released_cameras(1))[0].c2w, released_cameras(1).c2w, atol=1e-5, rtol=0)


def test_released_inference_leans_with_the_picture():
    """By the facts: c2w_input inverse(c2w_0) c2w_i of the orbit of elevation 0."""
    level = released_orbit(0.0).c2w
    for elevation in (10.0, -5.0):
        leaning, upright = leaning_orbit(elevation), released_orbit(elevation)
        assert_close(leaning.c2w, upright.c2w[:1] @ level[:1].inverse() @ level, atol=1e-6, rtol=0)
        height = torch.rad2deg(torch.asin(leaning.positions[:, 1] / leaning.positions.norm(dim=-1)))
        assert_close(height[[0, 2, 4]], torch.tensor([elevation, 0.0, -elevation]), atol=1e-3, rtol=0)
        apart = angle(*(torch.nn.functional.normalize(rig.positions, dim=-1) for rig in (leaning, upright)))
        assert_close(apart.max(), torch.tensor(2 * abs(elevation)), atol=0.05, rtol=0)
    assert leaning_orbit(torch.tensor([0.0, 20.0])).c2w.shape == (2, 8, 4, 4)


def test_gaussians_move_with_their_cameras():
    """A rigid motion of both changes no picture."""
    gaussians, rig = random_gaussians(batch=2), released_orbit(torch.tensor([10.0, 25.0]))
    relative, back = relative_to_first(rig)
    there = rasterize(gaussians, relative, 32)
    here = rasterize(moved(gaussians, back), rig, 32)
    assert_close(here.rgb, there.rgb, atol=2e-3, rtol=0)
    assert gap(rasterize(gaussians, rig, 32).rgb, there.rgb) > 0.05


# --- rays of the camera embedding ---


def released_directions(rig, size):
    """(V, size, size, 3)"""
    return ReleasedMultiviewUNet(**NARROW_F).camera_rays(rig, size)[:, 3:].movedim(1, -1)


def test_rays_of_the_camera_embedding_are_off_by_15_degrees():
    rig = relative_to_first(released_orbit(20.0))[0]
    off = angle(released_directions(rig, 63), rig.pluecker(63)[:, 3:].movedim(1, -1))
    assert_close(off.mean((1, 2)), torch.full((8,), 15.68), atol=0.02, rtol=0)  # the same in every view
    assert off[:, 31, 31].max() < 0.05  # right in the centre alone


def test_released_rays_are_those_of_a_mirrored_camera_with_a_narrower_view():
    """By hand: (y, x, 1) rotated, minus the position -r (0, 0, 1) rotated, is (y, x, 1 + r) rotated."""
    rig, size, radius = relative_to_first(released_orbit(20.0))[0], 16, 1.7416968
    narrow = rig.intrinsics.clone()
    narrow[:, [0, 1], [0, 1]] *= 1 + radius
    expected = Cameras(rig.c2w, narrow).pluecker(size)[:, 3:]
    mirrored = released_directions(rig, size).transpose(1, 2).movedim(-1, 1)
    assert_close(mirrored, expected, atol=1e-6, rtol=0)


def test_the_transpose_harms_only_rotations_that_are_not_symmetric():
    rig = released_orbit(20.0)  # in this library's world, not relative to view 0
    assert gap(rig.c2w[:, :3, :3], rig.c2w[:, :3, :3].mT) > 0.1
    off = angle(released_directions(rig, 63), rig.pluecker(63)[:, 3:].movedim(1, -1))
    assert off[:, 31, 31].max() > 5
    relative = relative_to_first(rig)[0]
    assert gap(relative.c2w[:, :3, :3], relative.c2w[:, :3, :3].mT) < 1e-6


# --- tokens in the temporal attention ---


@torch.no_grad()
def test_guidance_lets_both_estimates_see_half_of_the_other_ones_token(released, right):
    """With the token alone changed, the unconditional estimate changes too; it must not."""
    rig = released_orbit(0.0).expand(1)
    x, latents = torch.randn(1, 8, 4, 8, 8, generator=seeded()), torch.randn(1, 4, 8, 8, generator=seeded(1))
    sigma, zero_scale = torch.tensor([2.0]), torch.zeros(1, 8, 1, 1, 1)  # scale 0: the unconditional estimate
    a, b = (torch.randn(1, 1, 48, generator=seeded(seed)) for seed in (2, 3))
    seen = [released.estimate(x, sigma, Condition(latents, token, guidance=zero_scale), rig) for token in (a, b)]
    assert gap(*seen) > 1e-4
    right_ones = [right.estimate(x, sigma, Condition(latents, token, guidance=zero_scale), rig) for token in (a, b)]
    assert gap(*right_ones) < 1e-5 * float(right_ones[0].abs().max())


@torch.no_grad()
def test_objects_of_a_released_batch_still_do_not_see_each_other(released):
    pictures = torch.rand(2, 3, 64, 64, generator=seeded(7))
    both = released(pictures, num_inference_steps=1, generator=[seeded(1), seeded(2)])
    alone = released(pictures[1:], num_inference_steps=1, generator=[seeded(2)])
    assert gap(both.views[1], alone.views[0]) < 1e-2 and gap(both.views[0], both.views[1]) > 0.05


# --- rotations of G ---


@torch.no_grad()
def test_rotations_are_normalised_over_the_gaussians_and_nearly_vanish():
    images = torch.rand(1, 8, 3, 64, 64, generator=seeded())
    model = fill(ReleasedReconstructor(**NARROW_G))
    published = model.gaussians(images, released_cameras(1), torch.tensor([0.5]))
    lengths = published.quaternions.norm(dim=-1)
    assert_close(published.quaternions.norm(dim=1), torch.ones(1, 4))  # each component over all 4096 Gaussians
    assert lengths.square().mean().sqrt() == pytest.approx((4 / 4096) ** 0.5, rel=1e-3)
    # the matrices built of them without normalising are identities to a thousandth
    matrices = quaternion_polynomial(published.quaternions)
    assert gap(matrices, torch.eye(3).expand_as(matrices)) < 0.05
    tilt = (matrices - torch.eye(3)).square().mean().sqrt()
    assert tilt < 0.002 and (quaternion_to_matrix(published.quaternions) - torch.eye(3)).square().mean().sqrt() > 0.3

    proper = model(images, released_cameras(1), torch.tensor([0.5]))
    assert_close(proper.quaternions.norm(dim=-1), torch.ones(1, 4096))
    half = matrices * published.scales[..., None, :]
    assert_close(proper.covariances(), half @ half.mT, atol=1e-7, rtol=1e-3)
    for name in ("means", "opacities", "colors"):
        assert torch.equal(getattr(proper, name), getattr(published, name))


@dataclass
class Unnormalised(Gaussians):
    """Gaussians whose covariances are built as the rasterizer of the released code does."""

    def covariances(self):
        half = quaternion_polynomial(self.quaternions) * self.scales[..., None, :]
        return half @ half.mT


@pytest.mark.parametrize("length", [0.007, 0.5, 1.0])
def test_proper_gaussians_look_as_the_released_ones_do(length):
    from ouroboros_lib.rasterization.dense import composite
    from ouroboros_lib.rasterization.projection import project

    gaussians = random_gaussians(60)
    gaussians.quaternions = gaussians.quaternions * length
    rig, size = released_orbit(0.0).views([0, 3]).expand(1), 24
    theirs = Unnormalised(*(getattr(gaussians, name) for name in Gaussians.__dataclass_fields__))
    expected, _ = composite(project(theirs, rig, size), theirs.opacities, theirs.colors, size)
    proper = as_rasterized(gaussians)
    found, _ = composite(project(proper, rig, size), proper.opacities, proper.colors, size)
    assert_close(found, expected, atol=2e-3, rtol=1e-3)
    if length != 1:  # what gsplat would draw of the same numbers: it normalises
        normalised, _ = composite(project(gaussians, rig, size), gaussians.opacities, gaussians.colors, size)
        assert gap(normalised, expected) > 0.05


def test_matrices_and_quaternions():
    quaternions = torch.nn.functional.normalize(torch.randn(500, 4, generator=seeded()), dim=-1)
    special = torch.eye(4)  # the identity and half turns, where some formulas divide by zero
    for q in (quaternions, special):
        back = matrix_to_quaternion(quaternion_to_matrix(q))
        assert_close((back * q).sum(-1).abs(), torch.ones(len(q)), atol=1e-6, rtol=0)


# --- feedback ---


def test_at_512_pixels_the_map_leaves_its_range_and_is_clamped():
    """Pixel by pixel from the description: index (0 .. 511) minus 0.5, over a focal length of 1.39, times the depth."""
    rig, size, depth = released_orbit(0.0), 512, 1.742
    found = released_coordinate_map(torch.full((8, 1, size, size), depth), rig)
    focal, extremes = 0.5 / math.tan(math.radians(39.597754 / 2)), []
    for view, row, column in itertools.product(range(8), (0, 200, 511), (0, 100, 511)):
        c2w = rig.c2w[view].double().numpy()
        local = depth * np.array([(column - 0.5) / focal, (row - 0.5) / focal, 1.0])
        value = 0.5 + 0.001 * (c2w[:3, :3] @ local + c2w[:3, 3])
        extremes += [value.min(), value.max()]
        assert_close(found[view, :, row, column].double(), torch.from_numpy(value.clip(0, 1)), atol=1e-5, rtol=0)
    assert min(extremes) < -0.1 and max(extremes) > 1.1  # what F would have been fed
    assert found.min() == 0 and found.max() == 1 and found.std() > 0.15
    nothing = released_coordinate_map(torch.zeros(8, 1, size, size), rig)
    assert torch.equal(nothing, torch.full_like(nothing, 0.5))


def test_depth_is_accumulated_and_not_divided_by_alpha():
    """Through half-transparent Gaussians the released map sees a surface that is nearer than it is."""
    gaussians = random_gaussians(80)
    gaussians.opacities = gaussians.opacities * 0.3
    rig = released_orbit(0.0).expand(1)
    released_maps = render_feedback(gaussians, rig, 32, "released").ccm
    rendering = rasterize(gaussians, rig, 32)
    seen = rendering.alpha > 0
    assert_close(released_maps, released_coordinate_map(rendering.depth * rendering.alpha, rig))
    assert (rendering.depth * rendering.alpha)[seen].mean() < 0.8 * rendering.depth[seen].mean()
    assert gap(released_maps, released_coordinate_map(rendering.depth, rig)) > 1e-3


@torch.no_grad()
def test_g_reads_views_0_2_4_6_so_never_the_last_camera(released):
    views = torch.rand(1, 8, 3, 64, 64, generator=seeded())
    changed = views.clone()
    changed[:, [1, 3, 5, 7]] = 0
    rig, sigma = released_orbit(0.0).expand(1), torch.tensor([1.0])
    assert torch.equal(released.reconstruct(views, rig, sigma).means, released.reconstruct(changed, rig, sigma).means)
    changed[:, 6] = 0
    assert gap(released.reconstruct(views, rig, sigma).means, released.reconstruct(changed, rig, sigma).means) > 1e-3


# --- guidance and image token ---


@torch.no_grad()
def test_guidance_grows_from_1_to_3_over_the_views(released):
    assert released.config.guidance_scale == [1.0, 3.0]
    scale = guidance_per_view(released.config.guidance_scale, 8).flatten()
    assert_close(scale, torch.linspace(1, 3, 8))
    estimates = {}
    for guidance in ((1.0, 3.0), None):
        released(PICTURE, num_inference_steps=1, generator=seeded(), guidance_scale=guidance,
                 callback_on_step_end_tensor_inputs=("pred_x",),
                 callback_on_step_end=lambda _, i, s, tensors, key=guidance: estimates.update({key: tensors["pred_x"]}))
    assert torch.equal(*estimates.values())


@torch.no_grad()
def test_in_training_the_token_is_of_the_noised_view_and_at_inference_of_the_clean_one(released, right):
    clean = image_token(released.image_encoder, PICTURE)
    strength = torch.tensor([0.5])
    assert torch.equal(released.encode_condition(PICTURE, seeded())[1], clean)
    assert torch.equal(right.encode_condition(PICTURE, seeded(), strength)[1], clean)
    latents, token = released.encode_condition(PICTURE, seeded(), strength)
    noised = released.autoencoder.augment(PICTURE, seeded(), strength)
    assert_close(token, image_token(released.image_encoder, noised))
    assert gap(token, clean) > 1e-3
    assert_close(latents, right.encode_condition(PICTURE, seeded(), strength)[0], atol=1e-5, rtol=1e-5)  # as the paper


# --- the whole ---


@torch.no_grad()
def test_results_come_back_in_this_librarys_world(released):
    """Rendering the Gaussians at the cameras that come back gives the renders that were fed back."""
    result = released(PICTURE, elevation=25.0, num_inference_steps=2, generator=seeded())
    assert_close(result.cameras.c2w[0], leaning_orbit(25.0).c2w)
    again = rasterize(result.gaussians, result.cameras, 64)
    difference = (again.rgb - result.renders.rgb).abs().mean()
    assert difference < 0.01  # not 0: many Gaussians are clamped to one plane, where rounding decides who is in front
    in_released_world = rasterize(result.gaussians, relative_to_first(result.cameras)[0], 64)
    assert (in_released_world.rgb - result.renders.rgb).abs().mean() > 5 * difference
    assert gap(result.renders.ccm, torch.full_like(result.renders.ccm, 0.5)) < 0.15  # nearly constant


@torch.no_grad()
def test_f_and_g_see_the_orbit_of_elevation_0_whatever_the_pictures_elevation(released):
    options = {"num_inference_steps": 1}
    results = [released(PICTURE.expand(2, -1, -1, -1), elevation, generator=[seeded(), seeded()], **options)
               for elevation in (0.0, torch.tensor([10.0, 30.0]))]
    assert torch.equal(results[0].views, results[1].views)
    assert_close(results[0].cameras.c2w[1], released_orbit(0.0).c2w)
    level = released(PICTURE, cameras=released_orbit(30.0), generator=seeded(), **options)
    assert gap(level.views[0], results[1].views[1]) > 1e-2  # a level orbit at 30 degrees is asked for by cameras


@torch.no_grad()
def test_g_is_given_decoded_views_as_they_are(released, right, monkeypatch):
    """The released code clamps them nowhere; here they are clamped, for G and for users, who get [0, 1] from both."""
    given = []
    for pipe in (released, right):
        reconstruct = pipe.reconstruct
        monkeypatch.setattr(pipe.autoencoder, "decode", lambda latents: 1.5 * torch.ones(1, 8, 3, 64, 64))
        monkeypatch.setattr(pipe, "reconstruct", lambda views, *rest, of=reconstruct: (given.append(float(views.max())),
                                                                                       of(views, *rest))[1])
        result = pipe(PICTURE, num_inference_steps=1, generator=seeded(), return_trace=True)
        assert result.views.max() == 1 == result.trace[0].views.max()
    assert given == [1.5, 1.0]


@torch.no_grad()
def test_clean_views_come_with_no_noise_level_at_all(released, right):
    """c_noise = 0, which is that of sigma = 1; elsewhere that of a small sigma."""
    assert c_noise(torch.tensor(ReleasedPipeline.clean_sigma)) == 0 != c_noise(torch.tensor(right.clean_sigma))
    levels = []
    for pipe in (released, right):
        method = Ours(pipe, components=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipe.reconstructor, "forward", lambda views, cameras, level: levels.append(float(level[0])))
            method._from_clean_views(PICTURE[:, None].expand(1, 8, -1, -1, -1), released_orbit(0.0).expand(1))
    assert levels == [0.0, pytest.approx(float(c_noise(torch.tensor(0.002))))]


@torch.no_grad()
def test_released_and_right_differ(released, right):
    options = {"num_inference_steps": 1, "generator": seeded(), "cameras": released_orbit(0.0)}
    assert gap(released(PICTURE, **options).views, right(PICTURE, **options | {"generator": seeded()}).views) > 1e-2
