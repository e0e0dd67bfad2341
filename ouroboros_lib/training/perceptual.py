"""LPIPS as a loss: with gradient, unlike the metric of evaluation/metrics.py."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..evaluation.backbones import lpips_network
from ..loading import channels_last


def perceptual_loss(backbone: str, device, largest: int = 256, weight: float = 1.0, compiled: bool = False
                    ) -> Callable[[Tensor, Tensor], Tensor]:
    """`weight` times the mean LPIPS (Zhang et al. 2018) of images (N, 3, S, S) in [0, 1]; with gradient for the first.

    backbone: alex or vgg. largest: pixels a side that are compared at most. Raises InputError as `lpips_network` does.
    """
    network = lpips_network(backbone, device)
    if compiled:
        channels_last(network)
        network = torch.compile(network, dynamic=False)

    def distance(prediction: Tensor, target: Tensor) -> Tensor:
        if prediction.shape[-1] > largest:
            prediction, target = (F.interpolate(images, (largest, largest), mode="bilinear", align_corners=False)
                                  for images in (prediction, target))
        return weight * network(prediction * 2 - 1, target * 2 - 1).mean()

    return distance
