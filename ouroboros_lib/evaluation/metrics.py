"""Image metrics, one number per image."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import InputError, needs
from ..losses import psnr as psnr
from .backbones import BACKBONES, lpips_network


def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004; 11 x 11 Gaussian window, no padding): (..., 3, H, W) twice to (...)."""
    with needs("eval", "SSIM"):
        from pytorch_msssim import ssim as windowed

    lead, image = prediction.shape[:-3], prediction.shape[-3:]
    values = windowed(prediction.float().reshape(-1, *image), target.float().reshape(-1, *image), data_range=1.0,
                      size_average=False)
    return values.view(lead)


def flip(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean LDR-FLIP error (Andersson et al. 2020), 0 is best: (..., 3, H, W) twice to (...) on the CPU.

    By flip-evaluator, for its default viewer at 67 pixels per degree; about 8 ms an image of 128 pixels.
    """
    with needs("eval", "FLIP"):
        from flip_evaluator import evaluate

    flat = (images.detach().float().clamp(0, 1).cpu().reshape(-1, *images.shape[-3:])
            for images in (target, prediction))
    pairs = zip(*(images.movedim(1, -1).contiguous().numpy() for images in flat), strict=True)
    errors = [evaluate(reference, test, "LDR", applyMagma=False)[1] for reference, test in pairs]
    return torch.tensor(errors).view(prediction.shape[:-3])


def load_lpips(backbone: str = "alex", device="cpu") -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS (Zhang et al. 2018) of images in [0, 1], 0 is best: a function (..., 3, H, W) twice to (...).

    The function's attribute `backbone` says which. It raises InputError for pictures that the backbone is too coarse
    for: less than 31 pixels a side (alex) or 16 (vgg). Raises InputError as `lpips_network` does.
    """
    network = lpips_network(backbone, device)

    @torch.no_grad()
    def distance(prediction: Tensor, target: Tensor) -> Tensor:
        lead, side = prediction.shape[:-3], min(prediction.shape[-2:])
        if side < (least := BACKBONES[backbone].smallest):
            raise InputError(f"LPIPS ({backbone}) needs pictures of {least} pixels, not {side}; --lpips off leaves "
                             "it out")
        pair = (images.float().to(device).flatten(0, -4) * 2 - 1 for images in (prediction, target))
        return network(*pair).view(lead)

    distance.backbone = backbone
    return distance
