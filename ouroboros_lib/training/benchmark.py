"""What one step of joint training spends its time on: `python -m ouroboros_lib.training.benchmark [SETTING=VALUE ...]`.

Settings are those of `ouroboros train --set`, for example batch_size=128 compile=true mixed_precision=bf16; preset=tiny
chooses the models. Prints the median of 9 runs of each part, in milliseconds, after one that compiles.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import torch
from accelerate import Accelerator

from ..models.feedback import render_feedback
from ..noise import c_noise, denoise
from .config import TrainingConfig
from .loop import _Trainer
from .steps import denoising_loss, pad_with_zeros, reconstruction_loss, unwrapped

RUNS = 9


def parts_of_a_step(trainer: _Trainer) -> dict[str, Callable[[], object]]:
    """Functions that each do one part of `joint_losses`, at the sizes that it has there, and one for the whole step."""
    config, models, noise = trainer.config, trainer.models, trainer.noise
    batch = trainer.ring.batch(config.batch_size)
    x, cameras, size, count = batch.latents, batch.orbit_cameras, batch.rgba.shape[-1], config.batch_size
    again = round(count * config.self_conditioning_probability)
    sigma = noise.sample_sigma(count, device=x.device)
    noisy_x, cond = noise.add_noise(x, torch.randn_like(x), sigma), x[:, 0]
    multiview, reconstructor = models["multiview"], models["reconstructor"]
    truth = batch.select(list(range(min(2 * config.reconstruction_batch, count))))

    @torch.no_grad()
    def first_estimate():
        return denoise(unwrapped(multiview), noisy_x[:again], sigma[:again], cond[:again], cameras[:again])

    @torch.no_grad()
    def decode():
        return trainer.decode(x[:again]).clamp(0, 1)

    views = decode()

    @torch.no_grad()
    def reconstruct():
        return unwrapped(reconstructor)(views, cameras[:again], c_noise(sigma[:again]))

    gaussians = reconstruct()

    @torch.no_grad()
    def render():
        return render_feedback(gaussians, cameras[:again], size)

    self_cond = render().map(lambda maps: pad_with_zeros(maps, count))

    def train_f():
        pred_x = denoise(multiview, noisy_x, sigma, cond, cameras, self_cond)
        trainer.accelerator.backward(denoising_loss(noise, pred_x, x, sigma))

    def train_g():
        levels = c_noise(sigma[: len(truth.rgba)])
        trainer.accelerator.backward(reconstruction_loss(reconstructor(truth.orbit_images, truth.orbit_cameras, levels),
                                                         truth))

    def update():
        for name in trainer.trained:
            trainer.accelerator.clip_grad_norm_(models[name].parameters(), config.gradient_clip)
        trainer.optimizer.step()
        for name in trainer.trained:
            trainer.ema[name].step(unwrapped(models[name]).parameters())

    def whole():
        trainer.optimizer.zero_grad()
        trainer.accelerator.backward(sum(trainer.losses().values()))
        update()

    return {"F, first estimate": first_estimate, "decoder": decode, "G, without gradient": reconstruct,
            "render feedback": render, "F, forward and backward": train_f, "G, splats, forward and backward": train_g,
            "clip, optimiser, EMA": update, "draw a batch": lambda: trainer.ring.batch(count),
            "render new objects": trainer.ring.refresh, "a whole step": whole}


def median_milliseconds(function: Callable[[], object]) -> float:
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    times = []
    for _ in range(RUNS + 1):
        synchronize()
        start = time.perf_counter()
        function()
        synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def main(settings: list[str]) -> None:
    preset = next((setting[7:] for setting in settings if setting.startswith("preset=")), "small")
    config = TrainingConfig.from_settings(["stage=joint", *(s for s in settings if not s.startswith("preset="))])
    with tempfile.TemporaryDirectory() as folder:
        accelerator = Accelerator(mixed_precision=config.mixed_precision, project_dir=folder)
        trainer = _Trainer(accelerator, preset, folder, config, [preset] if preset == "small" else [])
        trainer.ring.fill()
        with accelerator.autocast():
            for name, part in parts_of_a_step(trainer).items():
                print(f"{name:<36} {median_milliseconds(part):9.2f} ms", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
