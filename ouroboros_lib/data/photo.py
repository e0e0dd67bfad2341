"""From any picture file to what the model expects: one object, cut out, centred on white.

The steps: decode (any mode, EXIF rotation, colour profile) -> matte (alpha channel, rembg, or the border's colours)
-> crop to the object -> scale it to the share of the frame that training objects have -> composite on white.
"""

import importlib.util
import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import InputError
from ..files import one_line

BACKGROUNDS = ("auto", "alpha", "keep")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # bitmaps only: no format that starts another program
MAX_SIDE = 16_384  # pixels, the largest side WebP allows
MAX_PIXELS = 100_000_000
MIN_SIDE = 8  # pixels, of the picture and of the object in it
WORKING_SIDE = 1024  # larger pictures are reduced to this first; models see at most 512
# Diameter of the circle round the silhouette, as a share of the frame: the mean of 160 objects of the validation split,
# with a spread of 9 % (their longest side spreads by 12 %). The ball that they fit in spans 0.92.
OBJECT_SHARE = 0.8
SEEN = 0.1  # alpha above this counts as object when it is cropped

_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)


@dataclass
class Photo:
    """What the model sees. image: (3, S, S) in [0, 1] on white; alpha: (1, S, S); original_size: (width, height).

    matte: how the object was found: "alpha", "rembg", "border" or "keep". notes: one line each for the user to read.
    """

    image: Tensor
    alpha: Tensor
    original_size: tuple[int, int]
    matte: str
    notes: list[str] = field(default_factory=list)

    def to_pil(self) -> Image.Image:
        return Image.fromarray((self.image * 255).round().byte().movedim(0, -1).numpy())


@dataclass
class Cutout:
    """An object cut out of a picture, at its own resolution. rgba: (H, W, 4) float32, colour premultiplied by alpha."""

    rgba: np.ndarray
    original_size: tuple[int, int]
    matte: str
    notes: list[str]

    def frame(self, size: int) -> Photo:
        """Centre it in a square of `size` pixels, in a circle of OBJECT_SHARE of it ("keep": the whole picture)."""
        height, width = self.rgba.shape[:2]
        if self.matte == "keep":  # the picture's own edge is no silhouette: nothing may mix with it
            shape = [max(1, round(length * size / max(height, width))) for length in (height, width)]
            planes = _resize(self.rgba, shape)
            top, left = ((size - length) // 2 for length in shape)
            rgba = np.zeros((4, size, size), np.float32)
            rgba[:, top:top + shape[0], left:left + shape[1]] = planes
            return self._photo(rgba)
        y, x = np.nonzero(self.rgba[..., 3] > 0.5 * self.rgba[..., 3].max())
        radii = np.hypot(y + 0.5 - height / 2, x + 0.5 - width / 2)
        side = 2 * (np.quantile(radii, 0.99) + 0.5) / OBJECT_SHARE  # not the largest: mattes have specks
        # a margin wider than the filter's support, so that it sees transparency outside and not a repeated edge
        pad = int(np.ceil((side - min(height, width)) / 2 + 4 * max(1.0, side / size)))
        canvas = np.pad(self.rgba, ((pad, pad), (pad, pad), (0, 0)))
        top, left = pad + height / 2 - side / 2, pad + width / 2 - side / 2
        box = (left, top, left + side, top + side)
        return self._photo(_resize(canvas, (size, size), box))

    def _photo(self, planes: np.ndarray) -> Photo:
        """Premultiplied (4, S, S) onto white."""
        rgba = torch.from_numpy(planes)
        alpha = rgba[3:].clamp(0, 1)
        image = (rgba[:3].clamp_min(0).minimum(alpha) + 1 - alpha).clamp(0, 1)
        return Photo(image, alpha, self.original_size, self.matte, self.notes)


def _resize(planes: np.ndarray, shape: Sequence[int], box: tuple | None = None) -> np.ndarray:
    """(H, W, C) float32 to (C, *shape), antialiased."""
    resized = [Image.fromarray(np.ascontiguousarray(planes[..., i])).resize(tuple(shape)[::-1], Image.LANCZOS, box=box)
               for i in range(planes.shape[-1])]
    return np.stack([np.asarray(plane) for plane in resized])


def load_photo(path: str | Path, size: int, background: str = "auto") -> Photo:
    """Read a picture file and return the object in it, (3, size, size) on white.

    background: "auto" uses the alpha channel if it says anything, else `rembg` if installed, else the colours of the
    border; "alpha" insists on the alpha channel; "keep" takes the whole picture as it is. Raises InputError.
    """
    return cut_out(path, background).frame(size)


def cut_out(path: str | Path, background: str = "auto") -> Cutout:
    """The part of `load_photo` that does not depend on the model's image size. Raises InputError."""
    if background not in BACKGROUNDS:
        raise InputError(f"unknown background {background!r}: expected one of {', '.join(BACKGROUNDS)}")
    rgba, original_size, notes = read_rgba(path)
    alpha = rgba[..., 3]
    if alpha.max() < SEEN:
        raise InputError(f"{path}: the picture is fully transparent, there is no object to see")
    has_alpha = (alpha < 0.5).mean() > 1e-3
    matte = "keep" if background == "keep" else "alpha"
    if background == "alpha" and not has_alpha:
        raise InputError(f"{path}: has no transparent background; use --background auto to estimate one, or keep")
    if background == "auto" and not has_alpha:
        matte, alpha = _estimate_matte(path, rgba, notes)
    rgba = np.concatenate([rgba[..., :3], np.ones_like(alpha)[..., None]], axis=-1) * alpha[..., None]
    if matte != "keep":
        rgba = _crop(path, rgba)
    return Cutout(rgba, original_size, matte, notes)


def read_rgba(path: str | Path) -> tuple[np.ndarray, tuple[int, int], list[str]]:
    """Decode a picture: (H, W, 4) float32 in [0, 1] (not premultiplied), its upright size before reduction, and notes.

    Sides above WORKING_SIDE are reduced. Raises InputError for whatever cannot be used.
    """
    path = Path(path)
    notes: list[str] = []
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a picture file")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not data:
        raise InputError(f"{path}: the file is empty")
    Image.init()  # PIL registers WebP and TIFF only then
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limits below are stricter
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise InputError(f"{path}: not a picture that can be read (PNG, JPEG, WebP, BMP, GIF or TIFF)") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: too large, more than {MAX_PIXELS // 10**6} megapixels; reduce it first") from None
    except _DAMAGED as error:
        raise InputError(f"{path}: the picture is damaged ({one_line(error)})") from None
    _check_size(path, *image.size)
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # phones put previews in the other frames of MPO
        notes.append(f"{path.name} has {image.n_frames} frames, the first one is used")
    try:
        image.load()
        profile = image.info.get("icc_profile")
        image = ImageOps.exif_transpose(image)
        original_size = image.size
        rgba = _to_rgba(path, image, profile, notes)
    except InputError:
        raise
    except _DAMAGED as error:
        raise InputError(f"{path}: the picture is truncated or damaged ({one_line(error)})") from None
    return rgba, original_size, notes


def _check_size(path: Path, width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise InputError(f"{path}: {width} x {height} pixels are too few, at least {MIN_SIDE} x {MIN_SIDE} are needed")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise InputError(f"{path}: {width} x {height} pixels are too many, reduce it to at most {MAX_SIDE} a side "
                         f"and {MAX_PIXELS // 10**6} megapixels")


def _to_rgba(path: Path, image: Image.Image, profile: bytes | None, notes: list[str]) -> np.ndarray:
    """Any PIL mode to (H, W, 4) float32."""
    if image.mode[0] in "IF":  # 16-bit, 32-bit and float grey; PIL's own conversion would clip at 255
        grey = _reduce(Image.fromarray(_deep_grey(path, image, notes)))
        grey = np.asarray(grey).clip(0, 1)
        return np.stack([grey, grey, grey, np.ones_like(grey)], axis=-1)
    if profile and image.mode in ("RGB", "RGBA", "CMYK", "L"):
        image = _to_srgb(image, profile, notes)
    if image.mode not in ("RGBA", "LA", "La", "RGBa", "PA") and "transparency" not in image.info:
        image = image.convert("RGB")
    image = _reduce(image.convert("RGBA"))
    return np.asarray(image, dtype=np.float32) / 255


def _reduce(image: Image.Image) -> Image.Image:
    scale = WORKING_SIDE / max(image.size)
    if scale >= 1:
        return image
    size = tuple(max(MIN_SIDE, round(side * scale)) for side in image.size)
    return image.resize(size, Image.LANCZOS, reducing_gap=3.0)


def _deep_grey(path: Path, image: Image.Image, notes: list[str]) -> np.ndarray:
    values = np.asarray(image).astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{path}: the picture holds values that are not finite numbers")
    white = 1.0 if image.mode == "F" else 65535.0
    if values.min() >= 0 and values.max() <= white:
        return values / white
    notes.append(f"{path.name}: values outside 0 to {white:g} were stretched to the full range")
    return (values - values.min()) / (np.ptp(values) or 1.0)


def _to_srgb(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image:
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        colour = image.convert("RGB") if alpha is not None else image
        converted = ImageCms.profileToProfile(colour, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        notes.append("the picture's colour profile cannot be used, its colours are taken as sRGB")
        return image
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _crop(path: str | Path, rgba: np.ndarray) -> np.ndarray:
    rows, columns = (np.flatnonzero((rgba[..., 3] > SEEN).any(axis)) for axis in (1, 0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    if max(height, width) < MIN_SIDE:
        raise InputError(f"{path}: the object is only {width} x {height} pixels large, at least {MIN_SIDE} are needed; "
                         "crop the picture or use --background keep")
    return rgba[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]


def _estimate_matte(path: str | Path, rgba: np.ndarray, notes: list[str]) -> tuple[str, np.ndarray]:
    """A matte (H, W) for a picture without one, and how it was made."""
    if importlib.util.find_spec("rembg") is not None:
        return "rembg", _rembg_matte(path, rgba)
    alpha = border_matte(rgba[..., :3])
    share = (alpha > 0.5).mean()
    if not 0.002 < share < 0.97:
        raise InputError(f"{path}: no object stands out from the border of the picture; give one with a transparent "
                         "background, install rembg (pip install -e '.[photo]') or use --background keep")
    notes.append("no alpha channel and no rembg: the background was guessed from the border of the picture, "
                 "look at input.png")
    return "border", alpha


def _rembg_matte(path: str | Path, rgba: np.ndarray) -> np.ndarray:
    picture = Image.fromarray((rgba[..., :3] * 255).round().astype(np.uint8))
    try:
        from rembg import remove

        mask = remove(picture, only_mask=True)
    # anything may go wrong in there: no network for its weights, no onnxruntime (it then calls sys.exit)
    except (Exception, SystemExit) as error:
        raise InputError(f"{path}: rembg is installed but failed ({one_line(error)}); run `rembg d u2net` once with a "
                         "network, give a picture with a transparent background, or use --background keep") from error
    return np.asarray(mask.convert("L"), dtype=np.float32) / 255


def border_matte(rgb: np.ndarray) -> np.ndarray:
    """Guess the object in (H, W, 3) sRGB in [0, 1]: whatever differs from the border and is enclosed by it.

    A quadratic in x and y is fitted to the CIELAB colours of the border, robustly, so that gradients and a few
    foreign pixels do no harm. Background is what lies close to it *and* hangs together with the border; holes are
    filled. Returns a soft matte (H, W) float32. It works for plain backgrounds, not for busy ones.
    """
    from scipy import ndimage

    height, width = rgb.shape[:2]
    lab = _to_lab(rgb)
    lab[..., 0] *= 0.6  # shadows change lightness more than hue
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).astype(np.float32)
    ring = np.zeros((height, width), bool)
    band = max(1, round(0.02 * min(height, width)))
    ring[:band] = ring[-band:] = ring[:, :band] = ring[:, -band:] = True

    design, colors = terms[ring], lab[ring]
    kept = np.linalg.norm(colors - np.median(colors, axis=0), axis=-1)
    kept = kept <= max(np.quantile(kept, 0.7), 12.0)
    for _ in range(8):
        weights, *_ = np.linalg.lstsq(design[kept], colors[kept], rcond=None)
        residuals = np.linalg.norm(colors - design @ weights, axis=-1)
        spread = max(float(np.median(residuals[kept])), 0.5)
        kept = residuals <= max(3 * spread, np.quantile(residuals, 0.5))
    threshold = max(3.5 * spread, 5.0)

    smoothing = 0.5 + min(spread, 4.0) / 4  # noise blurs away, edges move little
    residual = ndimage.gaussian_filter(lab - terms @ weights, (smoothing, smoothing, 0))
    distance = np.linalg.norm(residual, axis=-1)
    # averaging over the filter's support shrinks noise, and the threshold may follow it
    threshold = max(threshold / (2 * smoothing), 5.0)
    labels, _ = ndimage.label(distance < threshold)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    background = np.isin(labels, np.unique(edge[edge > 0]))
    mask = ndimage.binary_fill_holes(~background)
    # the blur moved the edge of a distinct object outwards by about its own width
    mask = ndimage.binary_erosion(mask, iterations=max(1, round(smoothing)), border_value=1)
    radius = max(1, round(0.003 * max(height, width)))
    mask = ndimage.binary_opening(mask, iterations=radius)
    labels, count = ndimage.label(mask)
    if count == 0:
        return np.zeros((height, width), np.float32)
    areas = np.bincount(labels.ravel())[1:]
    mask = np.isin(labels, 1 + np.flatnonzero(areas >= 0.1 * areas.max()))
    soft = ndimage.gaussian_filter(mask.astype(np.float32), 1.0)
    return np.clip(2 * soft - 0.7, 0, 1)  # half a pixel inwards, where the object's own colour begins


def _to_lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB (..., 3) in [0, 1] to CIELAB with the D65 white point."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array([[0.4124564, 0.2126729, 0.0193339], [0.3575761, 0.7151522, 0.1191920],
                             [0.1804375, 0.0721750, 0.9503041]]) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])],
                    axis=-1).astype(np.float32)
