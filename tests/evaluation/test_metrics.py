"""Metrics against scikit-image and by hand."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ouroboros_lib.evaluation.metrics import flip, psnr, ssim


@pytest.fixture
def pictures():
    """Two stacks of smooth pictures, (2, 3, 3, 32, 40), and noisy copies."""
    random = np.random.default_rng(0)
    u = np.linspace(0, 1, 40)[None] * random.uniform(1, 9, (2, 3, 3, 1, 1))
    v = np.linspace(0, 1, 32)[:, None] * random.uniform(1, 9, (2, 3, 3, 1, 1))
    clean = 0.5 + 0.4 * np.sin(u) * np.cos(v)
    level = np.linspace(0.01, 0.4, 6).reshape(2, 3, 1, 1, 1)
    noisy = np.clip(clean + level * random.normal(size=clean.shape), 0, 1)
    return torch.from_numpy(clean).float(), torch.from_numpy(noisy).float()


def test_metrics_agree_with_scikit_image(pictures):
    clean, noisy = pictures
    ours = psnr(noisy, clean), ssim(noisy, clean)
    assert ours[0].shape == ours[1].shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        a, b = clean[i, j].numpy(), noisy[i, j].numpy()
        assert abs(float(ours[0][i, j]) - peak_signal_noise_ratio(a, b, data_range=1)) < 1e-4
        theirs = structural_similarity(a, b, data_range=1, channel_axis=0, gaussian_weights=True, sigma=1.5,
                                       use_sample_covariance=False)
        assert abs(float(ours[1][i, j]) - theirs) < 1e-4
    assert (ours[0][0, :-1] > ours[0][0, 1:]).all()  # more noise, lower score


def test_metrics_by_hand():
    black = torch.zeros(2, 3, 16, 16)
    torch.testing.assert_close(psnr(black + 0.1, black), torch.full((2,), 20.0))
    torch.testing.assert_close(psnr(black, black), torch.full((2,), 100.0))
    half = black.clone()
    half[0, :, :8] = 1  # half of the first picture is wrong by 1: 10 log10 2
    torch.testing.assert_close(psnr(half, black), torch.tensor([3.0103, 100.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(ssim(black, black), torch.ones(2))
    # flat pictures have luminance alone: (2 a b + c1) / (a^2 + b^2 + c1), c1 = 1e-4
    torch.testing.assert_close(ssim(black + 0.5, black + 0.25), torch.full((2,), (0.25 + 1e-4) / (0.3125 + 1e-4)),
                               atol=1e-4, rtol=0)


def test_one_picture_is_measured_as_one_of_many(pictures):
    clean, noisy = pictures
    for metric in (psnr, ssim, flip):
        alone, among = metric(noisy[0, 1], clean[0, 1]), metric(noisy, clean)[0, 1]
        assert alone.shape == () and float(alone) == pytest.approx(float(among), abs=1e-5), metric.__name__


def test_flip_by_hand_and_in_order(pictures):
    clean, noisy = pictures
    errors = flip(noisy, clean)
    assert errors.shape == (2, 3) and (errors[0].diff() > 0).all()  # more noise, larger error
    assert (flip(clean, clean) == 0).all()
    black = torch.zeros(1, 3, 24, 24)
    assert float(flip(black + 1, black)) > 0.9  # black for white is as wrong as it gets
