"""One registry of what `ouroboros export` and `generate --export` write: splat files here, and what other rooms add."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..files import read_json
from ..gaussians import Gaussians
from ..gaussians.formats import FORMATS as SPLATS


@dataclass(frozen=True)
class Source:
    """What is exported: Gaussians (N,) in this library's axes; the elevation of the input camera, degrees."""

    gaussians: Gaussians
    elevation: float = 10.0


@dataclass(frozen=True)
class Settings:
    """axes: of splat files, see `Gaussians.save`."""

    axes: str = "y-down"


@dataclass(frozen=True)
class Format:
    """what: for --help. name: of the file or folder in a folder of results. write: makes it at a path, which does not
    exist, whatever its name. check: raises InputError, before long work, where a package is missing."""

    what: str
    name: str
    write: Callable[[Path, Source, Settings], None]
    check: Callable[[], object] = lambda: None

    @property
    def suffix(self) -> str | None:
        """Of a single file that can be asked for by its name; None for folders."""
        return "." + self.name.partition(".")[2] if "." in self.name else None


def _write_splat(path: Path, source: Source, settings: Settings) -> None:
    source.gaussians.save(path, settings.axes)


FORMATS = {suffix[1:]: Format(splat.what, f"gaussians{suffix}", _write_splat, splat.check)
           for suffix, splat in SPLATS.items()}


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


def load_source(path: Path, axes: str | None = None) -> Source:
    """A splat file, or a folder that `generate` has written. axes: of the file, see `Gaussians.load`.

    Raises InputError.
    """
    if not path.is_dir():
        return Source(Gaussians.load(path, axes))
    if not (path / "gaussians.ply").is_file():
        raise InputError(f"{path}: no result of `ouroboros generate`: it has no gaussians.ply; or name a splat file")
    gaussians = Gaussians.load(path / "gaussians.ply", axes)
    record = read_json(path / "result.json") if (path / "result.json").is_file() else {}
    try:
        return Source(gaussians, float(record["settings"]["elevation"]) if record else 10.0)
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path / 'result.json'}: states no elevation in degrees: {json.dumps(record)[:60]}") from None
