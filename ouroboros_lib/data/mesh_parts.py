"""What readers of mesh files share: triangles of one material, colours in sRGB, files that a mesh names."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from ..errors import InputError
from ..files import one_line
from .pictures import LFS, POINTER, eight_bit, open_picture, to_linear, to_srgb

PLAIN = 178  # 0..255, the grey of surfaces without any colour
FOLDERS = ("mesh", "meshes", "model", "models", "scan", "source", "obj", "gltf", "glb", "visual", "google_16k",
           "google_64k", "google_512k", "poisson", "tsdf")  # of an object's folder
PICTURE_FOLDERS = ("image", "images", "material", "materials", "tex", "texture", "textures", "map", "maps")
MISSING = ("error", "grey", "skip")  # what to do about a texture that is missing
FAR = 1e4  # repeats of a texture away from its first place
MOST_TEXELS = 2**29  # of all textures of a mesh: 32 of 4096 x 4096
TURNS = 3  # folders upwards, at most, to a folder of pictures


class MissingFile(InputError):
    """A texture or material file that a mesh names is not there."""


@dataclass
class Part:
    """Triangles of one material.

    vertices (N, 3) float64 in the file's frame; faces (F, 3) int64; uv (N, 2), v upwards; texture (H, W, 3 or 4) uint8;
    colors (N, 3 or 4) float32 in [0, 1]. A texture needs uv; with both, colours multiply the texture. A fourth channel
    is opacity; cutoff: what is less opaque is not there, and the rest is opaque. clamp: whether u and v stop at the
    texture's edge instead of repeating it.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray | None = None
    texture: np.ndarray | None = None
    colors: np.ndarray | None = None
    cutoff: float | None = None
    clamp: tuple[bool, bool] = (False, False)

    @property
    def see_through(self) -> bool:
        return any(colors is not None and colors.shape[-1] == 4 for colors in (self.texture, self.colors))


def scaled_texture(texture: np.ndarray, factor: np.ndarray, linear: bool) -> np.ndarray:
    """A texture (H, W, C) uint8 times a factor a channel, where colours are linear or not."""
    if (factor >= 1).all():
        return texture
    x = np.arange(256, dtype=np.float32)[:, None] / 255
    levels = to_srgb(to_linear(x) * factor) if linear else x * factor
    levels[:, 3:] = x * factor[3:]
    levels = np.rint(255 * levels.clip(0, 1)).astype(np.uint8)
    return np.stack([levels[:, c][texture[..., c]] for c in range(texture.shape[-1])], -1)


def as_unit(values: np.ndarray) -> np.ndarray:
    """Colours of whole numbers or floats as float32 in [0, 1]; floats beyond 1 count to 255, or to 65535."""
    values = np.asarray(values)
    whole = {"uint8": 255, "uint16": 65535}.get(values.dtype.name)
    values = np.nan_to_num(values.astype(np.float32), nan=-1)  # no number: white
    top = values.max(initial=0)
    values = values / (whole or (1 if top <= 1.001 else 255 if top <= 255 else 65535))
    return np.where(values < 0, 1, values).clip(0, 1)


def decode_texture(data: bytes, alpha: bool = False, room: int = MOST_TEXELS) -> np.ndarray:
    """An image file's contents as (H, W, 3) uint8, with `alpha` (H, W, 4) where it has some. room: for so many pixels.
    Raises InputError and what PIL raises."""
    if data.startswith(LFS):
        raise ValueError(POINTER)
    with open_picture(data) as image:
        if image.width * image.height > room:
            raise InputError(f"all textures together have more than {MOST_TEXELS >> 20} million pixels; reduce them")
        return eight_bit(image, alpha)


def check_part(part: Part) -> None:
    """Raise InputError for numbers that are none, vertices that are not there and lists of other lengths. Coordinates
    of a texture that lie too far out for its texels to be told apart are brought in."""
    if not np.isfinite(part.vertices).all():
        raise InputError("vertices with coordinates that are not numbers")
    if len(part.faces) and (part.faces.min() < 0 or part.faces.max() >= len(part.vertices)):
        raise InputError("triangles that refer to vertices which are not there")
    for what, values in (("texture coordinates", part.uv), ("colours", part.colors)):
        if values is not None and len(values) != len(part.vertices):
            raise InputError(f"{len(values)} {what} for {len(part.vertices)} vertices")
    if part.texture is not None:
        part.uv = np.nan_to_num(part.uv, nan=0).clip(-FAR, FAR)
    if part.colors is not None:
        part.colors = np.nan_to_num(part.colors, nan=1).clip(0, 1)


class Files:
    """Files that a mesh names: in its folder, its object's or a folder of pictures at most three levels up; no others.

    missing: one of MISSING; with "grey", what is missing becomes a note and None.
    """

    def __init__(self, mesh: Path, missing: str, notes: set[str]):
        self.missing, self.notes, self.textures, self.room = missing, notes, {}, MOST_TEXELS
        self.folder = mesh.absolute().parent.resolve()
        self.root = self.folder.parent if self.folder.name.lower() in FOLDERS else self.folder

    def find(self, name: str) -> Path | None:
        clean = name.strip().strip('"').replace("\\", "/")
        # as it stands; as a URI; without folders of its author's machine; without options such as `-s 1 1 1`
        texts = list(dict.fromkeys((clean, unquote(clean), unquote(clean).rsplit("/", 1)[-1],
                                    clean.split()[-1] if clean else "")))
        near = [self.folder, self.root / "materials" / "textures", self.root]
        return self._first(near, texts) or self._first(
            [entry for place in (self.folder, self.root) for entry in _pictures(place)], texts)

    def _first(self, places: list[Path], texts: list[str]) -> Path | None:
        for text in texts:
            for place in places:
                path = _without_case(place, text.lstrip("/"))
                if path is not None and self._may_read(path):
                    return path
        return None

    def _may_read(self, path: Path) -> bool:
        above = [place for place in list(self.folder.parents)[:TURNS] if path.is_relative_to(place)]
        return path.is_relative_to(self.root) or any(path.relative_to(place).parts[0].lower() in PICTURE_FOLDERS
                                                     for place in above)

    def get(self, name: str, what: str) -> bytes | None:
        """The contents of a file. Raises MissingFile."""
        path = self.find(name)
        if path is None:
            message = f"the {what} that it names, {one_line(name)}, is missing"
            if what == "file":  # of the shape's numbers
                raise InputError(message)
            if self.missing != "grey":
                raise MissingFile(message)
            self.notes.add(f"{message}: drawn without it")
            return None
        return path.read_bytes()

    def decode(self, data: bytes, alpha: bool) -> np.ndarray:
        """As `decode_texture`, as long as all textures together are of at most MOST_TEXELS."""
        texture = decode_texture(data, alpha, self.room)
        self.room -= texture.shape[0] * texture.shape[1]
        return texture

    def texture(self, name: str, alpha: bool = False) -> np.ndarray | None:
        """A texture as `decode_texture` gives it. Raises InputError, MissingFile."""
        if (name, alpha) in self.textures:
            return self.textures[name, alpha]
        data = self.get(name, "texture")
        try:
            self.textures[name, alpha] = None if data is None else self.decode(data, alpha)
            return self.textures[name, alpha]
        except Exception as error:  # decoders raise many kinds
            raise InputError(f"its texture {one_line(name)} cannot be read ({one_line(error)})") from None


def _pictures(place: Path) -> list[Path]:
    return sorted(entry for entry in place.iterdir() if entry.name.lower() in PICTURE_FOLDERS and entry.is_dir())


def _same(name: str) -> str:
    """Names of one case, and with accents as Windows and Linux write them, not the Mac."""
    return unicodedata.normalize("NFC", name).casefold()


def _without_case(folder: Path, name: str) -> Path | None:
    """The file of this name, relative to a folder; of another case, as names from Windows are, if need be."""
    path = folder
    try:
        if name and (folder / name).is_file():
            return (folder / name).resolve()
        for step in re.split("/+", name):
            if step in ("", ".", ".."):
                path = path / step
                continue
            path = next(entry for entry in path.iterdir() if _same(entry.name) == _same(step))
        return path.resolve() if path.is_file() else None
    except (OSError, ValueError, StopIteration):  # no such folder, or no name for a file
        return None
