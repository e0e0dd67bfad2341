"""What F is given of the condition view and of its cameras, in training and inference."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass
class CameraFeatures:
    """What F makes of its cameras alone, computed once: the same in every step of the recursion.

    stages: features (B, V, ...) to be added at the input of each stage of F, in the order in which F takes them.
    """

    stages: list[Tensor]

    def __getitem__(self, index) -> CameraFeatures:
        """Index the batch dimension, as with `Cameras`."""
        return CameraFeatures([features[index] for features in self.stages])


@dataclass
class Condition:
    """The condition view as F takes it, and what an estimate needs beside it.

    latents (B, c, h, w). image_embeds (B, 1, D), CLIP's, and added_time_ids (B, 3): for SVD. image (B, 3, S, S) in
    [0, 1], and first_view (B, 1, c, h, w), its latents as view 0: for plans that keep the input. camera_features: F's
    answers for the cameras, the same in every step. guidance (1, V, 1, 1, 1): a scale for each view, None without.
    """

    latents: Tensor
    image_embeds: Tensor | None = None
    added_time_ids: Tensor | None = None
    image: Tensor | None = None
    first_view: Tensor | None = None
    camera_features: CameraFeatures | None = None
    guidance: Tensor | None = None

    def __getitem__(self, rows) -> Condition:
        """Some of the objects."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "guidance"}
        return replace(self, **{name: value[rows] for name, value in values.items() if value is not None})

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
        chance = torch.rand(len(self.latents), 1, 1, 1, device=self.latents.device)
        if self.image_embeds is None:
            return replace(self, latents=self.latents * (chance >= probability))
        no_token, no_latents = chance < 2 * probability, (chance >= probability) & (chance < 3 * probability)
        return replace(self, latents=self.latents * ~no_latents, image_embeds=self.image_embeds * ~no_token[..., 0])
