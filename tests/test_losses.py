"""The losses of Algorithm 1 as functions of values."""

import pytest
import torch
from torch.testing import assert_close

from ouroboros_lib.losses import denoising_loss, reconstruction_loss, rendering_loss
from ouroboros_lib.rasterization import rasterize
from ouroboros_lib.training import TrainingConfig


def test_the_estimate_is_weighted_by_its_noise_level():
    x, sigma = torch.zeros(2, 1, 1, 2, 2), torch.tensor([1.0, 2.0])
    assert float(denoising_loss(x + torch.tensor([1.0, 3.0])[:, None, None, None, None], x, sigma)) == pytest.approx(
        (2 * 1 + 1.25 * 9) / 2)


def gaussians_of(tiny, objects):
    with torch.no_grad():
        return tiny.reconstructor(objects.orbit_images, objects.orbit_cameras, torch.full((3,), 0.25 * -6.2146))


def test_losses_of_the_paper_and_of_the_released_code(tiny, objects):
    gaussians, orbit = gaussians_of(tiny, objects), objects.num_orbit_views
    error = rasterize(gaussians, objects.cameras, 32).rgb - objects.images

    def loss(**settings):
        perceptual = settings.pop("perceptual", None)
        config = TrainingConfig(**{"image_loss": "mse", "orbit_supervision": 1.0} | settings)
        return rendering_loss(gaussians, objects, config, perceptual)

    for kind, expected in (("mse", error.square().mean()), ("l1", error.abs().mean())):
        assert_close(loss(image_loss=kind), expected, atol=1e-6, rtol=1e-5)
    added = loss(perceptual=lambda a, b: 3 + 0 * (a - b).mean())
    assert_close(added, 3 + error.square().mean(), atol=1e-5, rtol=1e-5)
    some = loss(orbit_supervision=0.0)  # the novel views alone
    assert_close(some, error[:, orbit:].square().mean(), atol=1e-6, rtol=1e-5)


def test_g_learns_from_as_many_clean_views_as_estimates(tiny, objects):
    """From the first estimates and the last clean views; from these alone in two stages."""
    estimated, seen = gaussians_of(tiny, objects)[torch.tensor([2, 1, 0])], []  # of other objects, to tell them apart

    def reconstructor(views, cameras, c_noise):
        seen.append((len(views), views, c_noise))
        return tiny.reconstructor(views, cameras, c_noise)

    for is_joint in (True, False):
        config = TrainingConfig(reconstruction_batch=2, joint=is_joint, image_loss="mse", orbit_supervision=1.0)
        with torch.no_grad():
            loss = reconstruction_loss(reconstructor, estimated, objects, config)
        assert torch.equal(seen[-1][1], objects.orbit_images[1:]) and (seen[-1][2].exp() ** 4 < 0.0021).all()
        clean = tiny.reconstructor(*(value[1:] for value in (objects.orbit_images, objects.orbit_cameras)), seen[-1][2])
        errors = [(rasterize(clean, objects.cameras[1:], 32).rgb - objects.images[1:]).square().mean()]
        if is_joint:
            errors.append((rasterize(estimated[:2], objects.cameras[:2], 32).rgb - objects.images[:2]).square().mean())
        assert_close(loss, sum(errors) / len(errors), atol=1e-6, rtol=1e-4)
