"""EDM noise: preconditioning, schedule and the sampler's step."""

import math

import pytest
import torch

from ouroboros_lib.errors import InputError
from ouroboros_lib.noise import EDMNoise, c_in, c_noise, c_out, c_skip, denoise

SIGMAS = torch.tensor([0.002, 0.05, 0.7, 1.0, 13.0, 700.0], dtype=torch.float64)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_preconditioning_by_hand():
    one = torch.tensor(1.0)
    assert c_skip(one) == 0.5
    torch.testing.assert_close(c_out(one), torch.tensor(-(0.5 ** 0.5)))
    torch.testing.assert_close(c_in(one), torch.tensor(0.5 ** 0.5))
    assert c_noise(one) == 0
    torch.testing.assert_close(c_noise(torch.tensor(math.e ** 4)), one)


def test_unit_variances():
    """Of data with variance 1 the network sees variance 1, and so has its target (Karras et al. 2022, appendix B.6)."""
    variance_of_input = c_in(SIGMAS)**2 * (1 + SIGMAS**2)
    torch.testing.assert_close(variance_of_input, torch.ones_like(SIGMAS))
    # target = (x - c_skip (x + sigma n)) / c_out = ((1 - c_skip) x - c_skip sigma n) / c_out
    variance_of_target = ((1 - c_skip(SIGMAS))**2 + (c_skip(SIGMAS) * SIGMAS)**2) / c_out(SIGMAS)**2
    torch.testing.assert_close(variance_of_target, torch.ones_like(SIGMAS))
    torch.testing.assert_close(c_skip(SIGMAS)**2 * (1 + SIGMAS**2) + c_out(SIGMAS)**2, torch.ones_like(SIGMAS))


def test_loss_weight_cancels_the_output_scale():
    torch.testing.assert_close(EDMNoise.loss_weight(SIGMAS) * c_out(SIGMAS)**2, torch.ones_like(SIGMAS))


def test_a_perfect_network_gives_the_clean_image():
    x, noise = normal(6, 2, 3), normal(6, 2, 3, seed=1)
    noisy = EDMNoise.add_noise(x, noise, SIGMAS)
    torch.testing.assert_close(noisy[3], x[3] + noise[3])
    seen = []

    def perfect(scaled, level, shift):
        seen.append((scaled, level, shift))
        s = SIGMAS[:, None, None]
        return (x - c_skip(s) * noisy) / c_out(s)

    # The network's output is rounded to float32, whose error c_out passes on at most unscaled.
    torch.testing.assert_close(denoise(perfect, noisy, SIGMAS, 5), x, atol=1e-5, rtol=0)
    scaled, level, shift = seen[0]
    torch.testing.assert_close(scaled, noisy * c_in(SIGMAS)[:, None, None])
    torch.testing.assert_close(level, SIGMAS.log() / 4)
    assert shift == 5


def test_an_idle_network_returns_the_skip_and_half_precision_is_summed_in_float32():
    noisy, sigma = normal(4, 3, dtype=torch.float32), torch.tensor([0.1, 1.0, 3.0, 9.0])
    torch.testing.assert_close(denoise(lambda x, c: torch.zeros_like(x), noisy, sigma), noisy * c_skip(sigma)[:, None])
    assert denoise(lambda x, c: x.bfloat16(), noisy, sigma).dtype == torch.float32


@pytest.mark.parametrize("steps", [1, 2, 25, 1000])
def test_sigmas_fall_from_max_to_min_and_then_to_zero(steps):
    sigmas = EDMNoise(sigma_min=0.05, sigma_max=80.0).sigmas(steps)
    assert sigmas.shape == (steps + 1,) and sigmas.dtype == torch.float32
    assert (sigmas[1:] < sigmas[:-1]).all() and sigmas[-1] == 0
    torch.testing.assert_close(sigmas[0], torch.tensor(80.0))
    if steps > 1:
        torch.testing.assert_close(sigmas[-2], torch.tensor(0.05))


def test_karras_schedule_by_hand():
    """With rho = 2 the square roots are evenly spaced: 3, 2, 1."""
    torch.testing.assert_close(EDMNoise(sigma_min=1.0, sigma_max=9.0, rho=2.0).sigmas(3),
                               torch.tensor([9.0, 4.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match="at least 1"):
        EDMNoise().sigmas(0)


def test_one_euler_step_with_the_exact_image():
    x, noise = normal(2, 3), normal(2, 3, seed=1)
    sigma, sigma_next = torch.tensor(5.0, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    euler = EDMNoise()
    stepped = euler.step(x + sigma * noise, x, sigma, sigma_next)
    torch.testing.assert_close(stepped, x + sigma_next * noise)
    torch.testing.assert_close(euler.step(x + sigma * noise, x, sigma, 0.0), x)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_a_step_that_renews_noise_keeps_its_level(eta):
    """Around the estimate there is noise of exactly the next level, less of it the old one's the larger eta is."""
    generator = torch.Generator().manual_seed(0)
    x, old, new = torch.randn(3, 200_000, generator=generator)
    sigma, sigma_next = 4.0, 3.0
    scheduler = EDMNoise(eta=eta)
    left = (scheduler.step(x + sigma * old, x, sigma, sigma_next, lambda: new) - x) / sigma_next
    assert float(left.std()) == pytest.approx(1, abs=0.01)
    share = float((left * new).mean())
    assert share == pytest.approx(eta * (1 - (sigma_next / sigma) ** 2) ** 0.5, abs=0.01)
    torch.testing.assert_close(scheduler.step(x + sigma * old, x, sigma, 0.0, lambda: new), x)


def test_renewed_noise_samples_the_same_distribution():
    """With the ideal denoiser of unit Gaussian data, eta = 1 and eta = 0 both end at unit variance."""
    generator = torch.Generator().manual_seed(0)
    for eta in (0.0, 1.0):
        schedule = EDMNoise(sigma_min=0.02, sigma_max=40.0, eta=eta)
        sigmas = schedule.sigmas(200)
        x = torch.randn(100_000, generator=generator) * sigmas[0]
        for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:], strict=True):
            x = schedule.step(x, x / (sigma**2 + 1), sigma, sigma_next,
                              lambda: torch.randn(100_000, generator=generator))
        assert float(x.std()) == pytest.approx(1, abs=0.03)


def test_sampling_data_of_one_point_reaches_it():
    schedule = EDMNoise()
    sigmas = schedule.sigmas(25).double()
    target = normal(3)
    x = target + sigmas[0] * normal(3, seed=1)
    for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:], strict=True):
        x = schedule.step(x, target, sigma, sigma_next)
    torch.testing.assert_close(x, target)


def test_training_noise_is_log_normal():
    schedule = EDMNoise(p_mean=0.7, p_std=1.5)
    generator = torch.Generator().manual_seed(0)
    log_sigma = schedule.sample_sigma(20000, generator).log()
    assert abs(log_sigma.mean() - 0.7) < 0.04 and abs(log_sigma.std() - 1.5) < 0.03
    skewness = ((log_sigma - log_sigma.mean())**3).mean() / log_sigma.std()**3
    assert abs(skewness) < 0.06
    again = schedule.sample_sigma(20000, torch.Generator().manual_seed(0)).log()
    assert torch.equal(again, log_sigma)


def test_configuration_saves_and_loads(tmp_path):
    schedule = EDMNoise(p_mean=0.9, p_std=1.5, sigma_min=0.05, sigma_max=80.0, rho=5.0, eta=0.7)
    schedule.save_pretrained(tmp_path)
    again = EDMNoise.from_pretrained(tmp_path)
    for name in ("p_mean", "p_std", "sigma_min", "sigma_max", "rho", "eta"):
        assert getattr(again.config, name) == getattr(schedule.config, name)
    assert torch.equal(again.sigmas(10), schedule.sigmas(10))


@pytest.mark.parametrize("wrong", [{"sigma_max": 1e308}, {"sigma_min": 1e-300}, {"rho": 1e-9}, {"p_mean": 1e30},
                                   {"p_std": -1.0}, {"eta": 1.5}, {"sigma_min": 9.0, "sigma_max": 9.0}])
def test_levels_that_no_number_holds(wrong):
    with pytest.raises(InputError, match=f"EDMNoise: {next(iter(wrong))}"):
        EDMNoise(**wrong)
