"""The losses of each stage of training, of one batch."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import algorithms
from ..cameras import Cameras
from ..data.batches import MultiviewBatch
from ..gaussians import Gaussians
from ..losses import Perceptual, denoising_loss, image_loss, rendering_loss
from ..models.condition import Condition
from ..noise import c_noise, denoise
from ..paper.svd import ADDED_TIME_IDS
from ..pipeline import Ouroboros3DPipeline
from ..speed.cuda_graphs import CudaGraphs
from .config import TrainingConfig
from .fast import step as fast

if TYPE_CHECKING:
    from .run import Run


def next_losses(run: Run, part: int = 0, backward: fast.Backward = None) -> dict[str, Tensor]:
    """Losses of the next batch, by name. part: its number among those whose gradients one step adds up.

    backward: see `fast.step.joint_losses`.
    """
    config, pipe = run.config, run.pipe
    if config.stage == "autoencoder":  # the batch size counts pictures here
        objects = run.source.batch(-(-config.batch_size // run.source.views))
        return autoencoder_losses(run.networks["autoencoder"], objects, config, run.perceptual)
    if config.stage == "reconstructor":
        batch = run.source.batch(config.batch_size)
        return reconstructor_losses(run.networks["reconstructor"], batch, config, run.perceptual)
    batch, cond = next_batch(run)
    if config.stage == "multiview":
        return multiview_losses(pipe, batch, cond, config, run.networks["multiview"], backward, run.cuda_graphs)
    joint_losses = algorithms.joint_losses
    if run.is_fast:  # on GPUs, in several processes, in mixed precision or compiled: the same losses, tested
        joint_losses = partial(fast.joint_losses, networks=run.networks, decode=run.decode, backward=backward,
                               cuda_graphs=run.cuda_graphs if backward else None)
    again = second_passes(config, len(batch.latents), run.step, part)
    loss_mv, loss_recon = joint_losses(pipe, batch, cond, config, again, run.perceptual)
    return {"multiview": loss_mv, "reconstruction": loss_recon}


def second_passes(config: TrainingConfig, count: int, step: int, part: int) -> int:
    """Of `count` examples, how many line 5 of Algorithm 1 is for. Chance decides about one that the share splits, such
    as the only one of a batch; it is the same in all processes."""
    chance = random.Random(f"{config.seed} {step} {part}").random()
    return int(count * config.self_conditioning_probability + chance) if config.feedback != "none" else 0


def next_batch(run: Run) -> tuple[MultiviewBatch, Condition]:
    """Objects with latents, and what F is given of their condition views."""
    config, takes_token = run.config, run.pipe.image_encoder is not None
    batch = run.source.batch(config.batch_size, images=config.stage != "multiview" or takes_token)
    if batch.latents is None:  # the source does not keep them
        batch = replace(batch, latents=run.encode(batch.orbit_images).float())
    if takes_token:
        return batch, noised_condition(run.pipe, batch.images[:, 0], config)
    return batch, Condition(batch.latents[:, 0])


@torch.no_grad()
def noised_condition(pipe: Ouroboros3DPipeline, images: Tensor, config: TrainingConfig) -> Condition:
    """Condition views (B, 3, S, S) with the log-normal noise of SVD's training, whose strength F is given too.

    In single precision whatever the training runs in: SVD's encoder overflows in fp16.
    """
    normal = torch.randn(len(images), device=images.device)
    strength = (config.condition_noise_mean + config.condition_noise_std * normal).exp()
    with torch.autocast(images.device.type, enabled=False):
        latents, tokens = pipe.encode_condition(images, augmentation=strength)
    fixed = strength.new_tensor(ADDED_TIME_IDS[:2]).expand(len(images), 2)
    return Condition(latents, tokens, torch.cat([fixed, strength[:, None]], dim=1))


def autoencoder_losses(autoencoder, batch: MultiviewBatch, config: TrainingConfig,
                       perceptual: Perceptual = None) -> dict[str, Tensor]:
    """Reconstruction and KL of all views of a few objects; a decoder alone learns from the posterior's mean."""
    images = batch.images.flatten(0, 1)
    reconstruction, kl = autoencoder(images, sample=config.train_encoder)
    losses = {"reconstruction": image_loss(reconstruction, images, squared=20.0), "kl": 1e-4 * kl}
    return losses if perceptual is None else losses | {"lpips": perceptual(reconstruction, images)}


def reconstructor_losses(reconstructor, batch: MultiviewBatch, config: TrainingConfig,
                         perceptual: Perceptual = None) -> dict[str, Tensor]:
    """G alone, from clean views: what the two-stage pipeline trains. Or from the condition view alone."""
    return {"reconstruction": rendering_loss(from_clean_views(reconstructor, batch, config), batch, config, perceptual)}


def from_clean_views(reconstructor, batch: MultiviewBatch, config: TrainingConfig) -> Gaussians:
    """G's Gaussians (B, N) of the true views, or of the condition view at all cameras."""
    sigma = torch.full((len(batch.rgba),), config.clean_sigma, device=batch.rgba.device)
    views = batch.condition_everywhere if config.single_view else batch.orbit_images
    return reconstructor(views, batch.orbit_cameras, c_noise(sigma))


def multiview_losses(pipe: Ouroboros3DPipeline, batch: MultiviewBatch, cond: Condition, config: TrainingConfig,
                     network=None, backward: fast.Backward = None, cuda_graphs: CudaGraphs | None = None
                     ) -> dict[str, Tensor]:
    """F alone: denoising of the latents of all views. network: F as wrapped for several processes. cuda_graphs: record
    F's pass and replay it, with `backward`."""
    x = batch.latents
    sigma = pipe.scheduler.sample_sigma(len(x), device=x.device)
    noisy_x = pipe.scheduler.add_noise(x, torch.randn_like(x), sigma)
    cond = cond.dropped(config.condition_dropout)

    def loss(x: Tensor, noisy_x: Tensor, sigma: Tensor, cond: Condition, cameras: Cameras) -> Tensor:
        pred_x = denoise(network or pipe.multiview, noisy_x, sigma, cond.latents, cameras, **cond.embeddings)
        return denoising_loss(pred_x, x, sigma)

    def learn(*given) -> Tensor:
        value = loss(*given)
        backward(value)
        return value.detach()

    given = x, noisy_x, sigma, cond, batch.orbit_cameras
    return {"multiview": cuda_graphs("estimate", learn, *given) if cuda_graphs else loss(*given)}


@torch.no_grad()
def measure_latents(run: Run) -> None:
    """Set the autoencoder's normalisation so that latents have zero mean and unit variance on training objects."""
    autoencoder = run.pipe.autoencoder
    with run.averaged():
        images = run.source.batch(min(256, len(run.source))).orbit_images.flatten(0, 1)
        means = torch.cat([autoencoder.posterior(chunk)[0] for chunk in images.split(128)])
    autoencoder.latent_mean.copy_(means.mean(dim=(0, 2, 3))[:, None, None])
    autoencoder.latent_std.copy_(means.std(dim=(0, 2, 3))[:, None, None])
