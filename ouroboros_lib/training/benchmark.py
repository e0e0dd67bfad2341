"""What one step of joint training spends its time on: `python -m ouroboros_lib.training.benchmark [SETTING=VALUE ...]`.

Settings are those of `ouroboros train --set`, for example batch_size=128 compile=true mixed_precision=bf16; preset=tiny
chooses the models and data=DIR rendered objects instead of procedural ones. Prints the median of 9 runs of each part,
in milliseconds, after one that compiles; on CUDA also the most memory that was allocated at a time. Presets that ship
no weights get random ones, drawn on the device.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ..benchmark import median_seconds
from ..models.feedback import render_feedback
from ..noise import c_noise, denoise
from ..presets import load_preset
from .conditions import Condition
from .config import TrainingConfig
from .loop import _Trainer, new_accelerator
from .steps import denoising_loss, pad_with_zeros, reconstruction_loss, unwrapped

RUNS = 9
AT_FULL_SIZE = ["batch_size=1", "reconstruction_batch=1", "objects=8", "refresh_objects=4", "validation_objects=1"]


def parts_of_a_step(trainer: _Trainer) -> dict[str, Callable[[], object]]:
    """Functions that each do one part of `joint_losses`, at the sizes that it has there, and some for whole steps."""
    config, models, noise = trainer.config, trainer.models, trainer.noise
    batch, condition = trainer.next_batch()
    x, cameras, size, count = batch.latents, batch.orbit_cameras, batch.rgba.shape[-1], config.batch_size
    again = int(count * config.self_conditioning_probability + 0.5)
    sigma = noise.sample_sigma(count, device=x.device)
    noisy_x, cond = noise.add_noise(x, torch.randn_like(x), sigma), condition or Condition(x[:, 0])
    multiview, reconstructor = models["multiview"], models["reconstructor"]
    recon = min(config.reconstruction_batch, count)
    truth = batch.select([*range(recon), *range(count - recon, count)])

    @torch.no_grad()
    def first_estimate():
        return denoise(unwrapped(multiview), noisy_x[:again], sigma[:again], cond[:again].latents, cameras[:again],
                       **cond[:again].embeddings)

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
        pred_x = denoise(multiview, noisy_x, sigma, cond.latents, cameras, self_cond, **cond.embeddings)
        trainer.accelerator.backward(denoising_loss(noise, pred_x, x, sigma))

    def train_g():
        levels = c_noise(sigma[:1]).expand(len(truth.rgba))
        gaussians = reconstructor(truth.orbit_images, truth.orbit_cameras, levels)
        trainer.accelerator.backward(reconstruction_loss(gaussians, truth, config, trainer.perceptual))

    def step(**changes):
        def run():
            trainer.config = replace(config, **changes)
            trainer.train_step()
            trainer.config = config
        return run

    return {"F, first estimate": first_estimate, "decoder": decode, "G, without gradient": reconstruct,
            "render feedback": render, "F, forward and backward": train_f, "G, splats, forward and backward": train_g,
            "clip, optimiser, EMA": trainer.update, "draw a batch": trainer.next_batch,
            "render new objects": trainer.source.refresh, "a step without feedback": step(feedback="none"),
            "a step with feedback for all": step(self_conditioning_probability=1.0), "a step as it comes": step()}


def main(settings: list[str]) -> None:
    named = {key: next((s[len(key) + 1:] for s in settings if s.startswith(f"{key}=")), default)
             for key, default in (("preset", "small"), ("data", None))}
    preset, data = named["preset"], named["data"]
    defaults = AT_FULL_SIZE if "image_encoder" in load_preset(preset).components else []
    config = TrainingConfig.from_settings(["stage=joint", *defaults, *(
        s for s in settings if not s.startswith(("preset=", "data=")))])
    with tempfile.TemporaryDirectory() as folder:
        accelerator = new_accelerator(Path(folder), config)
        trainer = _Trainer(accelerator, preset, Path(folder), config, [preset] if preset == "small" else [], data,
                           random_weights_on=accelerator.device)
        trainer.source.fill()
        with accelerator.autocast():
            for name, part in parts_of_a_step(trainer).items():
                seconds, peak = median_seconds(part, accelerator.device, RUNS)
                accelerator.print(f"{name:<36} {1000 * seconds:9.2f} ms" + (
                    "" if peak is None else f"  {peak:.1f} GiB"), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
