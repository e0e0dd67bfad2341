"""Splat files by the end of their names, and the axes that they are written in."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import InputError
from .ply import gsply, read_ply, write_compressed_ply, write_ply
from .sog import read_sog, write_sog
from .splat import read_splat, write_splat
from .spz import read_spz, write_spz

# The turn (wxyz) from this library's world, y up and the front towards +z, to that of a file. y-down is what 3DGS,
# SuperSplat and the converters take: x right, y down, the front towards -z. z-up is Blender's: the front towards -y.
AXES = {"y-up": (1.0, 0.0, 0.0, 0.0), "y-down": (0.0, 1.0, 0.0, 0.0), "z-up": (0.5**0.5, 0.5**0.5, 0.0, 0.0)}
OTHER_FORMATS = {".ksplat": "mkkellogg's viewer", ".lcc": "XGRIDS", ".lcc2": "XGRIDS", ".spx": "the gsbox tools",
                 ".sogs": "an older .sog"} | dict.fromkeys((".glb", ".gltf", ".obj", ".stl", ".usdz"), "meshes")


@dataclass(frozen=True)
class SplatFormat:
    """what: for --help. write: fields and axes to bytes; read: bytes and path to fields and what they say of their
    axes, see `write_ply` and `read_ply`. unstated: the axes of files that do not say. plain: it takes quaternions of
    any length, and there may be no Gaussian. check: raises InputError where the package that it needs is missing."""

    what: str
    write: Callable[[list[Tensor], str], bytes]
    read: Callable[[bytes, Path], tuple[list[Tensor], str | None]]
    unstated: str = "y-down"
    plain: bool = False
    check: Callable[[], object] = lambda: None


FORMATS = {
    ".compressed.ply": SplatFormat("PlayCanvas's compressed .ply", write_compressed_ply, read_ply, "y-up", check=gsply),
    ".ply": SplatFormat("3D Gaussian splatting's own", write_ply, read_ply, "y-up", True),
    ".splat": SplatFormat("the first web viewers' 32 bytes a Gaussian", write_splat, read_splat),
    ".spz": SplatFormat("Niantic's compressed", write_spz, read_spz, check=gsply),
    ".sog": SplatFormat("PlayCanvas's smallest", write_sog, read_sog),
}


def splat_format(path: Path) -> SplatFormat:
    """The format of a file by its name. Raises InputError."""
    name = path.name.lower()
    for suffix, found in FORMATS.items():
        if name.endswith(suffix):
            return found
    suffix = Path(name).suffix
    of = f" is a file of {OTHER_FORMATS[suffix]}," if suffix in OTHER_FORMATS else ""
    raise InputError(f"{path}:{of} {suffix or 'no suffix'} is no splat format that is read or written here: use one of "
                     f"{', '.join(FORMATS)}")


def check_axes(axes: str) -> None:
    """Raise InputError for unknown ones."""
    if axes not in AXES:
        raise InputError(f"axes {axes}: expected one of {', '.join(AXES)}")
