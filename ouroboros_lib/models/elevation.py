"""The camera's elevation, from one picture: a small network that knows nothing of F and G."""

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from ..errors import InputError
from .layers import constant


class Block(nn.Module):
    """Two 3x3 convolutions and a residual, (N, C, H, W) to the same."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = Convolution(channels, channels), Convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class Convolution(nn.Sequential):
    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1):
        super().__init__(nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
                         nn.BatchNorm2d(channels_out))


class ElevationEstimator(ModelMixin, ConfigMixin):
    """Shares of `bins` elevations from `low` to `high` degrees, whose mean is the estimate.

    A ResNet (He et al. 2016) of one block a resolution, on pictures reduced to `image_size`. The mirror image shows the
    same elevation, and is looked at, too. tools/train_elevation.py trains it, tools/elevation.py measures it.
    """

    @register_to_config
    def __init__(self, image_size: int = 64, channels: tuple[int, ...] = (24, 40, 60, 48), low: float = -10.0,
                 high: float = 50.0, bins: int = 21):
        super().__init__()
        if not (-90 <= low < high <= 90 and bins > 1 and 8 <= image_size <= 1024):
            raise InputError(f"elevation: {bins} bins from {low} to {high} degrees, pictures of {image_size} pixels: "
                             "expected some from -90 to 90, and 8 to 1024 pixels")
        layers: list[nn.Module] = [Convolution(3, channels[0], 5, 2), nn.ReLU()]
        for before, width in zip(channels, channels[1:], strict=False):
            layers += [Convolution(before, width, 3, 2), nn.ReLU(), Block(width)]
        self.features = nn.Sequential(*layers)
        self.output = nn.Linear(channels[-1], bins)

    def logits(self, images: Tensor) -> Tensor:
        """(N, bins), of images (N, 3, S, S)."""
        images = F.adaptive_avg_pool2d(images, self.config.image_size)
        return self.output(self.features((2 * images - 1).to(self.dtype)).mean((2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        """Degrees (N,) in single precision, of images (N, 3, S, S) in [0, 1] on white, framed as the pipeline does."""
        shares = self.logits(torch.cat([images, images.flip(-1)])).float().softmax(-1)
        return (shares @ self.degrees(shares)).unflatten(0, (2, -1)).mean(0)

    def degrees(self, like: Tensor) -> Tensor:
        """(bins,), of each bin."""
        low, high, bins = self.config.low, self.config.high, self.config.bins
        return constant(tuple(low + (high - low) * i / (bins - 1) for i in range(bins)), like)
