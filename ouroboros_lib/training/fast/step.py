"""The losses of each stage; `joint_losses` is Algorithm 1."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from pytorch_msssim import ssim
from torch import Tensor

from ...data.batches import MultiviewBatch
from ...models.feedback import SelfConditioning, render_feedback
from ...noise import EDMNoise, c_noise, denoise
from ...rasterization import rasterize
from ...speed.compiling import uncompiled
from ..conditions import Condition, drop_conditions  # noqa: F401  the second for those who build a step by hand
from ..config import TrainingConfig
from .cuda_graphs import Graphs

Perceptual = Callable[[Tensor, Tensor], Tensor] | None  # of images (N, 3, S, S), see perceptual.py
Backward = Callable[[Tensor], object] | None  # of a loss, such as accelerate's


def autoencoder_losses(autoencoder, batch: MultiviewBatch, config: TrainingConfig) -> dict[str, Tensor]:
    """Reconstruction and KL of all views of a few objects; a decoder alone learns from the posterior's mean."""
    images = batch.images.flatten(0, 1)
    reconstruction, kl = autoencoder(images, sample=config.train_encoder)
    return {"reconstruction": image_loss(reconstruction, images, squared=20.0), "kl": 1e-4 * kl}


def reconstructor_losses(reconstructor, batch: MultiviewBatch, config: TrainingConfig,
                         perceptual: Perceptual = None) -> dict[str, Tensor]:
    """G alone, from clean views: what the two-stage pipeline trains. Or from the condition view alone."""
    sigma = torch.full((len(batch.rgba),), config.clean_sigma, device=batch.rgba.device)
    views = batch.condition_everywhere if config.single_view else batch.orbit_images
    gaussians = reconstructor(views, batch.orbit_cameras, c_noise(sigma))
    return {"reconstruction": reconstruction_loss(gaussians, batch, config, perceptual)}


def multiview_losses(multiview, noise: EDMNoise, batch: MultiviewBatch, config: TrainingConfig,
                     condition: Condition | None = None) -> dict[str, Tensor]:
    """F alone: denoising of the latents of all views."""
    x = batch.latents
    sigma = noise.sample_sigma(len(x), device=x.device)
    noisy_x = noise.add_noise(x, torch.randn_like(x), sigma)
    cond = (condition or Condition(x[:, 0])).dropped(config.condition_dropout)
    pred_x = denoise(multiview, noisy_x, sigma, cond.latents, batch.orbit_cameras, **cond.embeddings)
    return {"multiview": denoising_loss(noise, pred_x, x, sigma)}


def joint_losses(multiview, reconstructor, decode: Callable[[Tensor], Tensor], noise: EDMNoise, batch: MultiviewBatch,
                 config: TrainingConfig, condition: Condition | None = None, chance: float = 0.5,
                 perceptual: Perceptual = None, backward: Backward = None, graphs: Graphs | None = None
                 ) -> dict[str, Tensor]:
    """Algorithm 1. The batch is in random order, so its first part stands for "with probability 0.5" of line 5.

    `multiview` and `reconstructor` may be wrapped for several GPUs: each takes part in one backward pass.
    decode: the autoencoder's, latents to images. condition: of F, the latents of view 0 by default. chance: uniform in
    [0, 1), for an example that the share of line 5 splits, such as the only one; the same in all processes.
    backward: is called with each loss as soon as it stands, unless they share a part of their graph: what G kept for
    its gradients is freed before F needs memory. The losses are then returned without a graph. graphs: record F's
    passes and replay them. F must not be wrapped then: who calls sets gradients to zero in place, and exchanges F's.
    Raises ValueError for graphs without `backward`, or if the losses share a part of their graph.
    """
    x, cameras, size = batch.latents, batch.orbit_cameras, batch.rgba.shape[-1]
    count = len(x)
    again = int(count * config.self_conditioning_probability + chance) if config.feedback != "none" else 0
    recon = min(config.reconstruction_batch, count)

    sigma = noise.sample_sigma(count, device=x.device)
    noisy_x = noise.add_noise(x, torch.randn_like(x), sigma)  # line 1
    cond = (condition or Condition(x[:, 0])).dropped(config.condition_dropout)

    # no feedback is zero maps; a compiled F sees them as such, so that it is not compiled for each case
    zeros = x.new_zeros(count, x.shape[1], 3, size, size)
    fixed = config.compile or config.cuda_graphs
    blank = SelfConditioning(zeros, zeros, zeros[:, :, :1]) if fixed and config.feedback != "none" else None
    together = config.decoder_gradient or not config.detach_feedback  # the losses share a part of their graph
    if graphs and (backward is None or together):
        raise ValueError("graphs: need backward, detach_feedback=True and decoder_gradient=False")
    run = graphs or (lambda name, function, *arguments: function(*arguments))

    def first_estimate(noisy_x: Tensor, sigma: Tensor, cond: Condition, cameras, self_cond: SelfConditioning | None):
        network = multiview if config.decoder_gradient else unwrapped(multiview)
        pred_x = denoise(network, noisy_x, sigma, cond.latents, cameras, self_cond, **cond.embeddings)  # line 2
        return decode(pred_x).clamp(0, 1)  # line 3

    def second_estimate(noisy_x: Tensor, sigma: Tensor, cond: Condition, cameras, self_cond: SelfConditioning | None,
                        x: Tensor) -> Tensor:
        pred_x = denoise(multiview, noisy_x, sigma, cond.latents, cameras, self_cond, **cond.embeddings)
        return learn_from(denoising_loss(noise, pred_x, x, sigma))

    def learn_from(loss: Tensor) -> Tensor:
        if backward is None or together:
            return loss
        backward(loss)
        return loss.detach()

    def eager(learns: bool) -> AbstractContextManager:
        return nullcontext() if learns or not config.compile else uncompiled(unwrapped(multiview))

    first = max(again, recon if config.joint else 0)  # examples whose first estimate is looked at
    pred_i = batch.orbit_images[:0]
    if first:  # not for nothing: attention on CUDA fails on empty batches
        with torch.set_grad_enabled(config.decoder_gradient), eager(config.decoder_gradient):
            pred_i = run("first estimate", first_estimate, noisy_x[:first], sigma[:first], cond[:first],
                         cameras[:first], blank and blank.map(lambda maps: maps[:first]))
        torch.clear_autocast_cache()  # older torch would reuse F's weights in half precision as cast without gradient

    # loss_recon, on estimates and once more on clean views, comes before the second estimate, which it does not need:
    # splatting waits for the GPU, while behind F's long pass the optimizer and the next step can be launched
    clean = torch.full_like(sigma, config.clean_sigma)
    estimated, rows = (recon if config.joint else 0), [*range(count - recon, count)]
    truth = batch.select([*range(estimated), *rows])
    views = torch.cat([pred_i[:estimated], truth.orbit_images[estimated:]])
    levels = torch.cat([sigma[:estimated], clean[rows]])
    gaussians = reconstructor(views, truth.orbit_cameras, c_noise(levels))
    loss_recon = learn_from(reconstruction_loss(gaussians, truth, config, perceptual))

    self_cond = blank
    if again:
        with torch.set_grad_enabled(not config.detach_feedback), eager(not config.detach_feedback):  # line 4
            gaussians = unwrapped(reconstructor)(pred_i[:again], cameras[:again], c_noise(sigma[:again]))
            self_cond = render_feedback(gaussians, cameras[:again], size, config.coordinate_map).keep(config.feedback)
            self_cond = self_cond.map(lambda maps: pad_with_zeros(maps, count))
    # line 5; line 2 where self_cond is zero
    loss_mv = run("second estimate", second_estimate, noisy_x, sigma, cond, cameras, self_cond, x)
    return {"multiview": loss_mv, "reconstruction": loss_recon}  # line 6


def denoising_loss(noise: EDMNoise, pred_x: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """loss_mv: mean squared error of the estimate, weighted by lambda(sigma) (EDM, section 5)."""
    per_object = (pred_x - x).square().mean(dim=(1, 2, 3, 4))
    return (noise.loss_weight(sigma) * per_object).mean()


def reconstruction_loss(gaussians, batch: MultiviewBatch, config: TrainingConfig,
                        perceptual: Perceptual = None) -> Tensor:
    """loss_recon of Gaussians (B, N) at a share of the orbit views, drawn at random, and all novel ones.

    The paper's is MSE and LPIPS at all of them. The structural term of the mixed loss stands in for LPIPS, whose
    backbone's weights cannot be had everywhere.
    """
    orbit, views = batch.num_orbit_views, batch.rgba.shape[1]
    share = int(orbit * config.orbit_supervision)
    chosen = torch.cat([torch.randperm(orbit)[:share], torch.arange(orbit, views)]).to(batch.rgba.device)
    rendering = rasterize(gaussians.float(), batch.cameras.views(chosen), batch.rgba.shape[-1])
    renders, images = rendering.rgb.flatten(0, 1), batch.images[:, chosen].flatten(0, 1)
    if config.image_loss == "mixed":
        loss = image_loss(renders, images, structure=0.2)
        loss = loss + 0.5 * (rendering.alpha - batch.alpha[:, chosen]).abs().mean()
    elif config.image_loss == "mse":
        loss = (renders - images).square().mean()
    else:
        loss = (renders - images).abs().mean()
    return loss if perceptual is None else loss + perceptual(renders, images)


def image_loss(prediction: Tensor, target: Tensor, squared: float = 2.0, structure: float = 0.0) -> Tensor:
    """L1 + squared MSE + structure (1 - SSIM) of images (N, 3, H, W)."""
    with torch.autocast(prediction.device.type, enabled=False):
        prediction, target = prediction.float(), target.float()
        error = prediction - target
        loss = error.abs().mean() + squared * error.square().mean()
        if structure:
            window = min(11, target.shape[-1] // 4 * 2 - 1)
            loss = loss + structure * (1 - ssim(prediction, target, data_range=1.0, win_size=window))
        return loss


def pad_with_zeros(maps: Tensor, count: int) -> Tensor:
    """(b, ...) to (count, ...): the examples without feedback get zero maps."""
    return torch.cat([maps, maps.new_zeros(count - len(maps), *maps.shape[1:])]).contiguous()


def unwrapped(network):
    """The network itself: passes without gradient must not trigger the synchronisation of several GPUs."""
    return getattr(network, "module", network)
