"""Pictures as this library keeps them: 8 bits, composited on white, alpha beside the colour."""

import numpy as np
from PIL import Image
from torch import Tensor

LFS = b"version https://git-lfs"  # how a file begins that only says where Git keeps the real one


class OnWhite:
    """What has `rgba` (..., 4, S, S) uint8, colour composited on white and alpha, 255 = covered."""

    rgba: Tensor

    @property
    def images(self) -> Tensor:
        """(..., 3, S, S) in [0, 1], on white."""
        return self.rgba[..., :3, :, :].float() / 255

    @property
    def alpha(self) -> Tensor:
        """(..., 1, S, S) in [0, 1]."""
        return self.rgba[..., 3:, :, :].float() / 255


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "La", "RGBa", "PA") or "transparency" in image.info


def is_deep(image: Image.Image) -> bool:
    """Whether it has grey values of more than 8 bits, which PIL's own conversion would clip at 255."""
    return image.mode[0] in "IF"


def deep_grey(image: Image.Image) -> tuple[np.ndarray, bool]:
    """16-bit, 32-bit or float grey as (H, W) float32 in [0, 1], and whether values beyond the usual white (65535, 1.0)
    had to be stretched. Raises ValueError."""
    values = np.asarray(image).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("the picture holds values that are not finite numbers")
    white = 1.0 if image.mode == "F" else 65535.0
    if values.min() >= 0 and values.max() <= white:
        return values / white, False
    return (values - values.min()) / (np.ptp(values) or 1.0), True


def eight_bit(image: Image.Image, alpha: bool = False) -> np.ndarray:
    """Any picture as (H, W, 3) uint8, with `alpha` (H, W, 4) where it has some. Raises what PIL raises."""
    if is_deep(image):
        image = Image.fromarray(np.rint(255 * deep_grey(image)[0]).astype(np.uint8))
    return np.asarray(image.convert("RGBA" if alpha and has_alpha(image) else "RGB"))
