"""What F makes of its cameras alone: the same in every step of the recursion, so computed once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class CameraFeatures:
    """Features (B, V, ...) to be added at the input of each stage of F, in the order in which F takes them."""

    stages: list[Tensor]

    def __getitem__(self, index) -> CameraFeatures:
        """Index the batch dimension, as with `Cameras`."""
        return CameraFeatures([features[index] for features in self.stages])
