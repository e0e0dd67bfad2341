"""Pictures as this library keeps them: 8 bits, composited on white, alpha beside the colour."""

import io
import warnings
from contextlib import suppress
from importlib import import_module

import numpy as np
from PIL import Image
from torch import Tensor

from ..errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")  # bitmaps: none starts a program
PLUGINS = ("Png", "Jpeg", "WebP", "Bmp", "Gif", "Tiff", "Avif")  # PIL's, of some versions; HEIF registers itself
SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")  # of the pictures in folders that others made
MAX_SIDE = 16_384  # pixels, the largest side WebP allows
MAX_PIXELS = 100_000_000

LFS = b"version https://git-lfs"  # how a file begins that only says where Git keeps the real one
POINTER = "a Git LFS pointer, not the file: git lfs pull fetches it"  # such a file


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


def open_picture(data: bytes) -> Image.Image:
    """A picture whose pixels are still to be read, in one of FORMATS. Raises InputError for one that is too large,
    before there is room for its pixels, and what PIL raises for others."""
    for name in PLUGINS:  # by itself PIL would load forty others, which takes longer than most pictures
        with suppress(ImportError):
            import_module(f"PIL.{name}ImagePlugin")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limits here are stricter
        try:
            image = Image.open(io.BytesIO(data), formats=[kind for kind in FORMATS if kind in Image.OPEN])
        except Image.DecompressionBombError:
            raise InputError(f"more than {2 * Image.MAX_IMAGE_PIXELS // 10**6} megapixels are too many, reduce it to "
                             f"at most {MAX_PIXELS // 10**6}") from None
    check_pixels(*image.size)
    return image


def check_pixels(width: int, height: int) -> None:
    """Raise InputError for more than MAX_SIDE a side or MAX_PIXELS."""
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise InputError(f"{width} x {height} pixels are too many, reduce it to at most {MAX_SIDE} a side and "
                         f"{MAX_PIXELS // 10**6} megapixels")


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "La", "RGBa", "PA") or "transparency" in image.info


def is_deep(image: Image.Image) -> bool:
    """Whether it has grey values of more than 8 bits, which PIL's own conversion would clip at 255."""
    return image.mode[0] in "IF"


def deep_grey(image: Image.Image) -> tuple[np.ndarray, bool]:
    """16-bit, 32-bit or float grey as (H, W) float32 in [0, 1], and whether values beyond the usual white (65535, 1.0)
    had to be stretched. Raises ValueError."""
    values = np.asarray(image).astype(np.float64)  # in which no difference of two floats is infinite
    if not np.isfinite(values).all():
        raise ValueError("the picture holds values that are not finite numbers")
    white = 1.0 if image.mode == "F" else 65535.0
    if values.min() >= 0 and values.max() <= white:
        return (values / white).astype(np.float32), False
    return ((values - values.min()) / (np.ptp(values) or 1.0)).astype(np.float32), True


def to_srgb(x: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, values in [0, 1], float32."""
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-9) ** (1 / 2.4) - 0.055).astype(np.float32)


def to_linear(x: np.ndarray) -> np.ndarray:
    """The inverse."""
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4).astype(np.float32)


def eight_bit(image: Image.Image, alpha: bool = False) -> np.ndarray:
    """Any picture as (H, W, 3) uint8, with `alpha` (H, W, 4) where it has some. Raises what PIL raises."""
    if is_deep(image):
        image = Image.fromarray(np.rint(255 * deep_grey(image)[0]).astype(np.uint8))
    return np.asarray(image.convert("RGBA" if alpha and has_alpha(image) else "RGB"))
