"""One registry of what `ouroboros export` and `generate --export` write: splat files here, and what other rooms add."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypedDict

from ..errors import InputError
from ..files import read_json
from ..gaussians import Gaussians
from ..gaussians.formats import FORMATS as SPLATS
from ..values import Between, checked
from .mesh import check_mesh, write_mesh
from .turntable import check_ffmpeg, write_turntable
from .views import write_colmap, write_views


@dataclass(frozen=True)
class Source:
    """What is exported: Gaussians (N,) in this library's axes; elevation of the input camera in degrees; name: what
    the user calls it by."""

    gaussians: Gaussians
    elevation: float = 10.0
    name: str = "this splat"


@dataclass(frozen=True)
class Settings:
    """axes: of splat files, see `Gaussians.save`. faces, texture: of meshes, see `mesh.splat_to_mesh`. views, size,
    maps: see `views.write_views`; size is the turntable's too."""

    axes: str = "y-down"
    faces: int = 20_000
    texture: bool = False
    views: int = 8
    size: int = 512
    maps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """what: for --help. name: of the file or folder in a folder of results. write: makes it at a path, which does not
    exist, whatever its name. check: raises InputError, before long work, where a package is missing."""

    what: str
    name: str
    write: Callable[[Path, Source, Settings], None]
    check: Callable[[], object] = lambda: None

    @property
    def suffix(self) -> str:
        """Of a single file, which can be asked for by it; a folder has none."""
        return self.name[len(self.name.split(".")[0]):]


def _write_splat(path: Path, source: Source, settings: Settings) -> None:
    source.gaussians.save(path, settings.axes)


def _write_mesh(path: Path, source: Source, settings: Settings) -> None:
    try:
        write_mesh(path, source.gaussians, settings.faces, settings.texture)
    except InputError as error:
        raise InputError(f"{source.name}: {error}") from None


def _write_views(path: Path, source: Source, settings: Settings) -> None:
    write_views(path, source.gaussians, source.elevation, settings.views, settings.size, settings.maps)


def _write_colmap(path: Path, source: Source, settings: Settings) -> None:
    write_colmap(path, source.gaussians, source.elevation, settings.views, settings.size)


def _write_turntable(kind: str) -> Callable[[Path, Source, Settings], None]:
    def write(path: Path, source: Source, settings: Settings) -> None:
        write_turntable(path, kind, source.gaussians, source.elevation, settings.size)
    return write


FORMATS = {suffix[1:]: Format(splat.what, f"gaussians{suffix}", _write_splat, splat.check)
           for suffix, splat in SPLATS.items()} | {
    "glb": Format("a mesh, glTF", "object.glb", _write_mesh, check_mesh),
    "obj": Format("a mesh, Wavefront", "object.obj", _write_mesh, check_mesh),
    "views": Format("RGBA views with cameras.json and transforms.json", "views", _write_views),
    "colmap": Format("RGBA views with a COLMAP text model", "colmap", _write_colmap),
    "mp4": Format("once round the object", "turntable.mp4", _write_turntable("mp4"), check_ffmpeg),
    "gif": Format("once round the object", "turntable.gif", _write_turntable("gif")),
    "webp": Format("once round the object", "turntable.webp", _write_turntable("webp")),
}


def parse_formats(text: str) -> list[Format]:
    """Formats by their names, with commas between. Raises InputError."""
    names = [name.strip().lower().lstrip(".") for name in text.split(",")]
    for name in names:
        if name not in FORMATS:
            raise InputError(f"format '{name}': expected some of {', '.join(FORMATS)}, with commas between")
    return [FORMATS[name] for name in dict.fromkeys(names)]


def format_of(path: Path) -> Format | None:
    """The format of a single file by the end of its name."""
    name = path.name.lower()
    return next((known for known in FORMATS.values() if known.suffix and name.endswith(known.suffix)), None)


class Seen(TypedDict):
    elevation: Annotated[float, Between(-90, 90)]


class Record(TypedDict):
    """What is read of `result.json`."""

    settings: Seen


def load_source(path: Path, axes: str | None = None) -> Source:
    """A splat file, or a folder that `generate` has written. axes: of the file, see `Gaussians.load`.

    Raises InputError.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; name a splat file, or a folder that `generate` has written")
    if not path.is_dir():
        return Source(Gaussians.load(path, axes), name=str(path))
    if not (path / "gaussians.ply").is_file():
        raise InputError(f"{path}: no result of `ouroboros generate`: it has no gaussians.ply; or name a splat file")
    gaussians = Gaussians.load(path / "gaussians.ply", axes)
    if not (path / "result.json").is_file():
        return Source(gaussians, name=str(path))
    record = checked(read_json(path / "result.json"), Record, path / "result.json")
    return Source(gaussians, float(record["settings"]["elevation"]), str(path))
