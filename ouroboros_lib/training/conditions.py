"""What F is told of the condition view in training: latents, and for SVD a token and the strength of its noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.svd import ADDED_TIME_IDS
from ..pipeline import Ouroboros3DPipeline
from .config import TrainingConfig


@dataclass
class Condition:
    """latents (B, c, h, w) of the condition view; image_embeds (B, 1, D), CLIP's, and added_time_ids (B, 3) for SVD."""

    latents: Tensor
    image_embeds: Tensor | None = None
    added_time_ids: Tensor | None = None

    def __getitem__(self, rows) -> Condition:
        return Condition(*(None if value is None else value[rows]
                           for value in (self.latents, self.image_embeds, self.added_time_ids)))

    @property
    def embeddings(self) -> dict[str, Tensor]:
        """What F takes by name, beside the latents."""
        named = {"image_embeds": self.image_embeds, "added_time_ids": self.added_time_ids}
        return {name: value for name, value in named.items() if value is not None}

    def dropped(self, probability: float) -> Condition:
        """Without the condition in a share of the examples, for classifier-free guidance (Ho & Salimans 2022).

        With a token: in one share without the token, in one without the latents, in one without both. Zeros stand for
        what is left out, at inference as well (`Ouroboros3DPipeline.estimate`).
        """
        if self.image_embeds is None:
            return Condition(drop_conditions(self.latents, probability))
        chance = torch.rand(len(self.latents), 1, 1, 1, device=self.latents.device)
        no_token, no_latents = chance < 2 * probability, (chance >= probability) & (chance < 3 * probability)
        return Condition(self.latents * ~no_latents, self.image_embeds * ~no_token[..., 0], self.added_time_ids)


def drop_conditions(cond_latents: Tensor, probability: float) -> Tensor:
    """Zero the condition of a share of the examples (Ho & Salimans 2022)."""
    keep = torch.rand(len(cond_latents), 1, 1, 1, device=cond_latents.device) >= probability
    return cond_latents * keep


@torch.no_grad()
def noised_condition(pipeline: Ouroboros3DPipeline, images: Tensor, config: TrainingConfig) -> Condition:
    """What SVD's F is told of condition views (B, 3, S, S): noised by its training's log-normal strength, and told so.

    In single precision whatever the training runs in: SVD's encoder overflows in fp16.
    """
    normal = torch.randn(len(images), device=images.device)
    strength = (config.condition_noise_mean + config.condition_noise_std * normal).exp()
    with torch.autocast(images.device.type, enabled=False):
        latents, tokens = pipeline.encode_condition(images, augmentation=strength)
    fixed = strength.new_tensor(ADDED_TIME_IDS[:2]).expand(len(images), 2)
    return Condition(latents, tokens, torch.cat([fixed, strength[:, None]], dim=1))
