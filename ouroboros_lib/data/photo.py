"""From any picture file to what the model expects: one object, cut out, centred on white.

The steps: decode (any mode, EXIF rotation, colour profile) -> matte (alpha channel, else mattes.py) -> drop specks,
crop to the object -> scale it to the share of the frame that training objects have -> composite on white.
"""

import importlib
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import InputError
from ..files import one_line, read_bytes
from .mattes import estimate_matte
from .pictures import LFS, POINTER, check_pixels, deep_grey, has_alpha, is_deep, open_picture

BACKGROUNDS = ("auto", "alpha", "keep", "u2net")
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")
MIN_SIDE = 8  # pixels, of the picture and of the object in it
WORKING_SIDE = 1024  # larger pictures are reduced to this first; models see at most 512
# Diameter of the circle round the silhouette, as a share of the frame: the mean of 160 objects of the validation split,
# with a spread of 9 % (their longest side spreads by 12 %). The ball that they fit in spans 0.92.
OBJECT_SHARE = 0.8
SEEN = 0.1  # alpha above this counts as object when it is cropped
SPECK = 0.05  # parts that weigh less than this share of the heaviest (area times alpha) are no part of the object
HAZE = 0.3  # alpha below this share of the largest is haze, unless it is an edge:
VEIL = 0.5  # the same where haze lies along most of the picture's rim
EDGE = 0.02  # share of the picture's longer side that soft edges may reach beyond what is denser


@dataclass
class Photo:
    """What the model sees. image: (3, S, S) in [0, 1] on white; alpha: (1, S, S); original_size: (width, height).

    matte: how the object was found: "alpha", "u2netp", "u2net", "border" or "keep". notes: a line each for the user.
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
        pad = max(0, int(np.ceil((side - min(height, width)) / 2 + 4 * max(1.0, side / size))))
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


def load_photo(picture: str | Path | Image.Image, size: int, background: str = "auto") -> Photo:
    """Read a picture and return the object in it, (3, size, size) on white.

    picture: a file, or one that PIL has opened or made. background: "auto" uses the alpha channel if it says anything,
    else the remover that ships, "u2net" else rembg's larger one; "alpha" insists on the alpha channel; "keep" takes the
    whole picture as it is. Raises InputError.
    """
    return cut_out(picture, background).frame(size)


def cut_out(picture: str | Path | Image.Image, background: str = "auto", name: str | None = None) -> Cutout:
    """The part of `load_photo` that does not depend on the model's image size. Raises InputError.

    name: what errors and notes call a picture that has no file.
    """
    if background not in BACKGROUNDS:
        raise InputError(f"unknown background {background!r}: expected one of {', '.join(BACKGROUNDS)}")
    name = name or picture_name(picture)
    return cut_out_pixels(name, *read_rgba(picture, name), background)


def cut_out_pixels(name: str, rgba: np.ndarray, original_size: tuple[int, int], notes: list[str],
                   background: str = "auto") -> Cutout:
    """The part of `cut_out` after `read_rgba`."""
    alpha = rgba[..., 3]
    if alpha.max() < SEEN:
        raise InputError(f"{name}: the picture is fully transparent, there is no object to see")
    transparent = (alpha < 0.5).mean() > 1e-3
    matte = "keep" if background == "keep" else "alpha"
    if background == "alpha" and not transparent:
        raise InputError(f"{name}: has no transparent background; use --background auto to estimate one, or keep")
    if background in ("auto", "u2net") and not transparent:
        matte, alpha, said = estimate_matte(name, rgba[..., :3], background)
        notes = notes + said
    if matte != "keep":
        alpha, said = _object_alone(name, alpha)
        notes = notes + said
    rgba = np.concatenate([rgba[..., :3], np.ones_like(alpha)[..., None]], axis=-1) * alpha[..., None]
    if matte != "keep":
        rgba = _crop(name, rgba)
    return Cutout(rgba, original_size, matte, notes)


def picture_name(picture: str | Path | Image.Image, otherwise: str = "the picture") -> str:
    """A file's path, or what to call a picture that was not read from one."""
    return str(getattr(picture, "filename", "") or otherwise) if isinstance(picture, Image.Image) else str(picture)


def read_rgba(picture: str | Path | Image.Image, name: str | None = None
              ) -> tuple[np.ndarray, tuple[int, int], list[str]]:
    """Decode a picture: (H, W, 4) float32 in [0, 1] (not premultiplied), its upright size before reduction, and notes.

    Sides above WORKING_SIDE are reduced. Raises InputError for whatever cannot be used.
    """
    name = name or picture_name(picture)
    notes: list[str] = []
    image = picture if isinstance(picture, Image.Image) else _open(Path(picture))
    check_size(name, *image.size)
    try:
        # phones put previews in the other frames of MPO; how many there are would have to be counted, all of them
        if getattr(image, "is_animated", False) and image.format != "MPO":
            notes.append(f"{Path(name).name} has several frames, the first one is used")
        image.load()
        profile = image.info.get("icc_profile")
        image = ImageOps.exif_transpose(image)
        original_size = image.size
        rgba = _to_rgba(name, image, profile, notes)
    except InputError:
        raise
    except Exception as error:  # decoders raise many kinds
        raise InputError(f"{name}: the picture is truncated or damaged ({one_line(error)})") from None
    return rgba, original_size, notes


def _open(path: Path) -> Image.Image:
    """A picture file whose pixels are still to be read. Raises InputError."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a picture file")
    data = read_bytes(path)
    if not data:
        raise InputError(f"{path}: the file is empty")
    if _format_of(data) == "HEIC":
        with suppress(ImportError):
            importlib.import_module("pillow_heif").register_heif_opener()  # on the user's own account
    try:
        return open_picture(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except UnidentifiedImageError:
        kind = _format_of(data)
        what = f", it is {kind}: convert it to PNG or JPEG first" if kind else ""
        what += ", or pip install pillow-heif" if kind == "HEIC" else ""
        if data.startswith(LFS):
            what = f", it is {POINTER}"
        raise InputError(f"{path}: not a picture that can be read (PNG, JPEG, WebP, BMP, GIF or TIFF){what}") from None
    except Exception as error:  # decoders raise many kinds
        raise InputError(f"{path}: the picture is damaged ({one_line(error)})") from None


def _format_of(data: bytes) -> str | None:
    """The name of a format that browsers or phones use and PIL may not read."""
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "JPEG XL"
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if brand and (b"avif" in data[8:64] or b"avis" in data[8:64]):
        return "AVIF"
    return "HEIC" if brand in HEIC_BRANDS else None


def check_size(name: str, width: int, height: int) -> None:
    """Raise InputError for a picture that is too small or too large."""
    if min(width, height) < MIN_SIDE:
        raise InputError(f"{name}: {width} x {height} pixels are too few, at least {MIN_SIDE} x {MIN_SIDE} are needed")
    try:
        check_pixels(width, height)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _to_rgba(name: str, image: Image.Image, profile: bytes | None, notes: list[str]) -> np.ndarray:
    """Any PIL mode to (H, W, 4) float32."""
    if is_deep(image):
        grey = _reduce(Image.fromarray(_deep_grey(name, image, notes)))
        grey = np.asarray(grey).clip(0, 1)
        return np.stack([grey, grey, grey, np.ones_like(grey)], axis=-1)
    if profile and image.mode in ("RGB", "RGBA", "CMYK", "L"):
        image = _to_srgb(image, profile, notes)
    if not has_alpha(image):
        image = image.convert("RGB")
    image = _reduce(image.convert("RGBA"))
    return np.asarray(image, dtype=np.float32) / 255


def _reduce(image: Image.Image) -> Image.Image:
    scale = WORKING_SIDE / max(image.size)
    if scale >= 1:
        return image
    size = tuple(max(MIN_SIDE, round(side * scale)) for side in image.size)
    return image.resize(size, Image.LANCZOS, reducing_gap=3.0)


def _deep_grey(name: str, image: Image.Image, notes: list[str]) -> np.ndarray:
    try:
        grey, stretched = deep_grey(image)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None
    if stretched:
        white = "1" if image.mode == "F" else "65535"
        notes.append(f"{Path(name).name}: values outside 0 to {white} were stretched to the full range")
    return grey


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


def _object_alone(name: str, alpha: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Alpha (H, W) without haze and without what is far smaller than the object and apart from it, and notes."""
    from scipy import ndimage

    notes = []
    labels, count = ndimage.label(alpha > SEEN, np.ones((3, 3)))
    weights = np.bincount(labels.ravel(), alpha.ravel(), minlength=count + 1)
    kept = weights >= SPECK * weights[1:].max(initial=0)
    kept[0] = True  # what is hardly seen, such as a soft edge
    if not kept.all():
        alpha = alpha * kept[labels]
        notes.append(f"{name}: specks beside the object were left out ({(~kept).sum()} of them)")
    rim = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
    veiled = ((rim > SEEN) & (rim < VEIL * alpha.max())).mean() > 0.5
    dense = alpha >= (VEIL if veiled else HAZE) * alpha.max()
    soft = (alpha > SEEN) & ~dense
    if soft.any():
        away = ndimage.distance_transform_edt(~dense)
        if (soft & (away > max(2.0, EDGE * max(alpha.shape)))).sum() > SPECK * dense.sum():
            alpha = np.where(soft & (away > 1.5), 0, alpha)  # nothing is left of it at the object's edge
            notes.append(f"{name}: haze around the object was left out; make its background fully transparent")
    return alpha, notes


def _crop(name: str, rgba: np.ndarray) -> np.ndarray:
    rows, columns = (np.flatnonzero((rgba[..., 3] > SEEN).any(axis)) for axis in (1, 0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    if max(height, width) < MIN_SIDE:
        raise InputError(f"{name}: the object is only {width} x {height} pixels large, at least {MIN_SIDE} are needed; "
                         "crop the picture or take it whole (--background keep)")
    return rgba[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
