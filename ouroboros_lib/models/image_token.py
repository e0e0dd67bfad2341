"""The condition view as one token: CLIP's image embedding, with SVD's way of shrinking the picture."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import constant

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def image_token(encoder: nn.Module, images: Tensor) -> Tensor:
    """(B, 3, S, S) in [0, 1] to (B, 1, D), float32.

    encoder: transformers' `CLIPVisionModelWithProjection`; SVD's is ViT-H/14 with D = 1024.
    """
    small = resize_as_svd(images.float(), encoder.config.image_size)
    mean, std = (constant(values, small)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return encoder(((small - mean) / std).to(encoder.dtype)).image_embeds[:, None].float()


def resize_as_svd(images: Tensor, size: int) -> Tensor:
    """Bicubic (B, C, S, S) to (B, C, size, size) behind a Gaussian blur: what SVD was trained with in front of CLIP.

    The corners are aligned, and the blur is cut off at about one standard deviation: kept, because the weights know
    no other.
    """
    sigma = max((images.shape[-1] / size - 1) / 2, 0.001)
    width = int(max(4 * sigma, 3)) // 2 * 2 + 1
    offsets = torch.arange(width, device=images.device, dtype=images.dtype) - width // 2
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, width)
    padded = F.pad(images, [width // 2] * 4, mode="reflect")
    blurred = F.conv2d(F.conv2d(padded, kernel, groups=len(kernel)), kernel.movedim(-1, -2), groups=len(kernel))
    return F.interpolate(blurred, (size, size), mode="bicubic", align_corners=True)
