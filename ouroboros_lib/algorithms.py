"""The paper's two algorithms, line by line (Wen et al., CVPR 2025), and nothing else.

What a run changes in Algorithm 2 is a `Plan` (plans.py). What makes Algorithm 1 fast on GPUs stands in training/fast/
and is tested to give the same losses and gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .cameras import Cameras
from .gaussians import Gaussians
from .losses import Perceptual, denoising_loss, reconstruction_loss
from .models.condition import Condition
from .models.feedback import Renders
from .noise import c_noise
from .plans import Plan

if TYPE_CHECKING:
    from .data.batches import MultiviewBatch


@dataclass
class Step:
    """One step of the recursion: from x_t at noise level sigma, by F's estimate pred_x, to x_next.

    x_t, pred_x, x_next (B, V, c, h, w). Where the plan reconstructs: views (B, V, 3, H, W) for G, Gaussians (B, N)
    and their renders at the V cameras; None elsewhere.
    """

    t: int
    sigma: Tensor
    x_t: Tensor
    pred_x: Tensor
    views: Tensor | None = None
    gaussians: Gaussians | None = None
    renders: Renders | None = None
    x_next: Tensor | None = None


def recursion(pipe, cond: Condition, cameras: Cameras, sigmas: Tensor, plan: Plan, noise: Callable[[], Tensor]
              ) -> Iterator[Step]:
    """Algorithm 2, a generator of steps. sigmas: (T + 1,), decreasing to 0. noise: draws (B, V, c, h, w) of N(0, 1).

    Who iterates may change `step.x_next` before asking for the next step.
    """
    self_cond, prior = None, None                                                      # line 1
    x_t = sigmas[0] * noise()                                                          # line 2
    for t, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        pred_x = pipe.estimate(x_t, sigma, cond, cameras, self_cond)                   # line 3: F
        step = Step(t, sigma, x_t, pred_x)
        if plan.reconstructs(t, sigmas):                                               # the paper's plan: always
            step.views = plan.views(pipe.decode(pred_x), cond)                         # line 4: the decoder
            step.gaussians = pipe.reconstruct(step.views, cameras, sigma)              # line 5: G, and its renders ...
            step.renders = pipe.render(step.gaussians, cameras)
            self_cond = plan.feeds_back(step.renders, t)                               # ... are fed back to F
            prior = plan.prior(step.renders, sigma, pipe)
        target = plan.target(pred_x, sigma, prior, cond)                               # the paper's plan: pred_x
        step.x_next = pipe.scheduler.step(x_t, target, sigma, sigma_next, noise)       # line 6: the solver
        yield step
        x_t = step.x_next


def joint_losses(pipe, batch: MultiviewBatch, cond: Condition, config, again: int, perceptual: Perceptual = None
                 ) -> tuple[Tensor, Tensor]:
    """Algorithm 1: (loss_mv, loss_recon) of a batch of clean latents x, their cameras and images.

    again: how many examples, the first ones of the batch, line 5 is for: the batch is in random order, so that they
    stand for "with probability 0.5". config: a `TrainingConfig`. perceptual: LPIPS of images, or None.
    """
    x, cameras = batch.latents, batch.orbit_cameras
    sigma = pipe.scheduler.sample_sigma(len(x), device=x.device)
    noisy_x = pipe.scheduler.add_noise(x, torch.randn_like(x), sigma)                  # line 1
    cond = cond.dropped(config.condition_dropout)
    pred_x = pipe.estimate(noisy_x, sigma, cond, cameras)                              # line 2: F
    pred_i = pipe.decode(pred_x if config.decoder_gradient else pred_x.detach())       # line 3: the decoder
    gaussians = pipe.reconstructor(pred_i, cameras, c_noise(sigma))                    # line 4: G ...
    self_cond = pipe.render(gaussians.detach() if config.detach_feedback else gaussians, cameras)  # ... and its renders
    if again:                                                                          # line 5: F once more, given them
        given = {name: maps[:again] for name, maps in self_cond.keep(config.feedback).items()}
        second = pipe.estimate(noisy_x[:again], sigma[:again], cond[:again], cameras[:again], given)
        pred_x = torch.cat([second, pred_x[again:]])
    loss_mv = denoising_loss(pred_x, x, sigma)                                         # line 6
    loss_recon = reconstruction_loss(pipe.reconstructor, gaussians, batch, config, perceptual)
    return loss_mv, loss_recon
