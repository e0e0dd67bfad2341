"""Diffusion in the notation of EDM (Karras et al. 2022), with sigma_data = 1 and Stable Video Diffusion's
v-prediction preconditioning, which the paper inherits."""

from collections.abc import Callable
from typing import Annotated, TypedDict

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from .errors import InputError
from .values import Between, checked

Level = Annotated[float, Between(1e-6, 1e6)]  # beyond these single precision loses the picture, or the noise


class NoiseSettings(TypedDict):
    p_mean: Annotated[float, Between(-10, 10)]
    p_std: Annotated[float, Between(0, 10, above=True)]
    sigma_min: Level
    sigma_max: Level
    rho: Annotated[float, Between(0.1, 100)]
    eta: Annotated[float, Between(0, 1)]


class EDMNoise(SchedulerMixin, ConfigMixin):
    """Noise levels for training and sampling, the preconditioning of F, and the sampler's one step.

    p_mean, p_std: log sigma ~ N(p_mean, p_std^2) in training. sigma_min, sigma_max, rho: Karras schedule of sampling.
    eta: how much of the noise sampling renews in each step, see `step`; 0, the paper's, is deterministic.
    """

    config_name = "scheduler_config.json"

    @register_to_config
    def __init__(self, p_mean: float = 1.0, p_std: float = 1.6, sigma_min: float = 0.002, sigma_max: float = 700.0,
                 rho: float = 7.0, eta: float = 0.0):
        checked({"p_mean": p_mean, "p_std": p_std, "sigma_min": sigma_min, "sigma_max": sigma_max, "rho": rho,
                 "eta": eta}, NoiseSettings, "EDMNoise")
        if sigma_min >= sigma_max:
            raise InputError(f"EDMNoise: sigma_min={sigma_min} must be below sigma_max={sigma_max}")

    def sample_sigma(self, batch: int, generator: torch.Generator | None = None, device=None) -> Tensor:
        """Training noise levels, (batch,): log-normal (Karras et al. 2022, table 1)."""
        normal = torch.randn(batch, generator=generator, device=device)
        return (normal * self.config.p_std + self.config.p_mean).exp()

    def sigmas(self, num_inference_steps: int, device=None) -> Tensor:
        """(num_inference_steps + 1,) decreasing noise levels, the last one 0 (Karras et al. 2022, eq. 5)."""
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {num_inference_steps}")
        low, high = (s ** (1 / self.config.rho) for s in (self.config.sigma_min, self.config.sigma_max))
        ramp = torch.linspace(0, 1, num_inference_steps, dtype=torch.float64)
        levels = (high + ramp * (low - high)) ** self.config.rho
        return torch.cat([levels, levels.new_zeros(1)]).to(device, torch.float32)

    @staticmethod
    def add_noise(x: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """x + sigma * noise; x, noise (B, ...), sigma (B,)."""
        return x + _like(sigma, x) * noise

    @staticmethod
    def loss_weight(sigma: Tensor) -> Tensor:
        """lambda(sigma) = (1 + sigma^2) / sigma^2: gives the loss unit weight on F's raw output."""
        return (1 + sigma**2) / sigma**2

    def step(self, x: Tensor, pred_x: Tensor, sigma: Tensor | float, sigma_next: Tensor | float,
             noise: Callable[[], Tensor] | None = None) -> Tensor:
        """One step of the solver from sigma to sigma_next, towards pred_x; `eta` of the config renews the noise.

        eta = 0: an Euler step of the probability flow (Karras et al. 2022, algorithm 1), which keeps the noise that x
        has. eta = 1 replaces as much of it as possible by `noise()` (like x, unit variance) without changing its level
        (Song et al. 2021, DDIM, eq. 16): errors of earlier estimates, frozen into x, are forgotten on the way.
        """
        eta = self.config.eta
        if not eta:
            return pred_x + (x - pred_x) * (sigma_next / sigma)
        if noise is None:
            raise InputError(f"eta is {eta}: a step renews noise, so it needs some to draw from")
        renewed = eta * sigma_next * (1 - (sigma_next / sigma) ** 2) ** 0.5
        kept = (sigma_next**2 - renewed**2) ** 0.5
        return pred_x + (x - pred_x) * (kept / sigma) + renewed * noise()


def c_skip(sigma: Tensor) -> Tensor:
    """Weight of the noisy input in the estimate, 1 / (sigma^2 + 1)."""
    return 1 / (sigma**2 + 1)


def c_out(sigma: Tensor) -> Tensor:
    """Weight of the network's output, -sigma / sqrt(sigma^2 + 1)."""
    return -sigma / (sigma**2 + 1).sqrt()


def c_in(sigma: Tensor) -> Tensor:
    """Scale of the network's input, 1 / sqrt(sigma^2 + 1): unit variance at every noise level."""
    return 1 / (sigma**2 + 1).sqrt()


def c_noise(sigma: Tensor) -> Tensor:
    """The noise level as the network takes it, log(sigma) / 4."""
    return sigma.log() / 4


def denoise(network, x: Tensor, sigma: Tensor, *args, **kwargs) -> Tensor:
    """pred_x = c_skip x + c_out network(c_in x, c_noise) (Karras et al. 2022, eq. 7).

    x: (B, ...). sigma: (B,). Further arguments go to the network. The sum is float32 whatever the network computes in.
    """
    s = _like(sigma, x)
    output = network(c_in(s) * x, c_noise(sigma), *args, **kwargs)
    return c_skip(s) * x + c_out(s) * output.float()


def _like(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.reshape(-1, *[1] * (x.ndim - 1))
