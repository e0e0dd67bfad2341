"""What SVD's F is given of the condition view in training: its latents with noise, and how strong that noise is."""

import torch
from torch import Tensor

from ..models.condition import Condition
from ..paper.svd import ADDED_TIME_IDS
from ..pipeline import Ouroboros3DPipeline
from .config import TrainingConfig


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
