"""Algorithm 1 for GPUs and several processes: the losses and gradients of `algorithms.joint_losses`, tested.

In less time and memory: only examples whose first estimate is needed get one, without gradient where none is wanted; G
learns from estimates and clean views in one pass; each loss goes backward as soon as it stands; F's passes can be
replayed from recordings.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ...cameras import Cameras
from ...data.batches import MultiviewBatch
from ...losses import Perceptual, denoising_loss, rendering_loss
from ...models.condition import Condition
from ...noise import c_noise, denoise
from ...pipeline import Ouroboros3DPipeline
from ...speed.cuda_graphs import CudaGraphs
from ..config import TrainingConfig

Backward = Callable[[Tensor], object] | None  # of a loss, such as accelerate's


def joint_losses(pipe: Ouroboros3DPipeline, batch: MultiviewBatch, cond: Condition, config: TrainingConfig, again: int,
                 perceptual: Perceptual = None, *, networks: dict | None = None,
                 decode: Callable[[Tensor], Tensor] | None = None, backward: Backward = None,
                 cuda_graphs: CudaGraphs | None = None) -> tuple[Tensor, Tensor]:
    """(loss_mv, loss_recon) as `algorithms.joint_losses` gives them, from the same random numbers.

    networks: the pipeline's multiview and reconstructor as they are wrapped for several processes; each takes part in
    one backward pass. decode: latents to images, if not the autoencoder's. backward: called with each loss as soon as
    it stands, unless the losses share a part of their graph: what G kept is freed before F needs memory. The losses are
    then returned without a graph. cuda_graphs: record F's passes and replay them. F must not be wrapped
    then; the caller sets gradients to zero in place, and exchanges F's.
    Raises ValueError for cuda_graphs without `backward`, or if the losses share a part of their graph.
    """
    x, cameras, count = batch.latents, batch.orbit_cameras, len(batch.latents)
    networks = networks or {"multiview": pipe.multiview, "reconstructor": pipe.reconstructor}
    decode = decode or pipe.autoencoder.decode
    together = config.decoder_gradient or not config.detach_feedback  # the losses share a part of their graph
    if cuda_graphs and (backward is None or together):
        raise ValueError("cuda_graphs: need backward, detach_feedback=True and decoder_gradient=False")
    run = cuda_graphs or (lambda name, function, *arguments: function(*arguments))

    sigma = pipe.scheduler.sample_sigma(count, device=x.device)
    noisy_x = pipe.scheduler.add_noise(x, torch.randn_like(x), sigma)  # line 1
    cond = cond.dropped(config.condition_dropout)
    # a compiled or recorded F always sees maps, so that it is compiled once
    fixed = (config.compile or config.cuda_graphs) and config.feedback != "none"
    blank = pipe.zero_maps(cameras) if fixed else {}

    def estimate(network, noisy_x: Tensor, sigma: Tensor, cond: Condition, cameras: Cameras, self_cond) -> Tensor:
        return denoise(network, noisy_x, sigma, cond.latents, cameras, self_cond, **cond.embeddings)

    def first_estimate(*given) -> Tensor:
        pred_x = estimate(networks["multiview"] if config.decoder_gradient else pipe.multiview, *given)  # line 2
        return pipe.in_range(decode(pred_x))  # line 3

    def second_estimate(x: Tensor, noisy_x: Tensor, sigma: Tensor, *given) -> Tensor:
        pred_x = estimate(networks["multiview"], noisy_x, sigma, *given)
        return learn_from(denoising_loss(pred_x, x, sigma))

    def learn_from(loss: Tensor) -> Tensor:
        if backward is None or together:
            return loss
        backward(loss)
        return loss.detach()

    share = min(config.reconstruction_batch, count)
    estimated = share if config.joint else 0
    first = max(again, estimated)  # examples whose first estimate is needed
    pred_i = batch.orbit_images[:0]
    if first:  # not for nothing: attention on CUDA fails on empty batches
        with torch.set_grad_enabled(config.decoder_gradient):
            pred_i = run("first estimate", first_estimate, noisy_x[:first], sigma[:first], cond[:first],
                         cameras[:first], {name: maps[:first] for name, maps in blank.items()})
        torch.clear_autocast_cache()  # older torch would reuse F's weights in half precision as cast without gradient

    # loss_recon, on estimates and once more on clean views, comes before the second estimate, which it does not need:
    # splatting waits for the GPU, while behind F's long pass the optimizer and the next step can be launched
    truth = batch.select([*range(estimated), *range(count - share, count)])
    views = torch.cat([pred_i[:estimated], truth.orbit_images[estimated:]])
    levels = torch.cat([sigma[:estimated], sigma.new_full((share,), config.clean_sigma)])
    gaussians = networks["reconstructor"](views, truth.orbit_cameras, c_noise(levels))
    loss_recon = learn_from(rendering_loss(gaussians, truth, config, perceptual))

    self_cond = blank
    if again:
        with torch.set_grad_enabled(not config.detach_feedback):  # line 4
            gaussians = pipe.reconstructor(pred_i[:again], cameras[:again], c_noise(sigma[:again]))
            renders = pipe.render(gaussians, cameras[:again]).keep(config.feedback)
            self_cond = blank | {name: pad_with_zeros(maps, count) for name, maps in renders.items()}
    # line 5; line 2 where self_cond is zero
    loss_mv = run("second estimate", second_estimate, x, noisy_x, sigma, cond, cameras, self_cond)
    return loss_mv, loss_recon  # line 6


def pad_with_zeros(maps: Tensor, count: int) -> Tensor:
    """(b, ...) to (count, ...): the examples without feedback get zero maps."""
    return torch.cat([maps, maps.new_zeros(count - len(maps), *maps.shape[1:])]).contiguous()
