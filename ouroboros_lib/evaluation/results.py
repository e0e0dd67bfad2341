"""What an evaluation leaves: partial results as it runs, then how it was made and a sheet of pictures."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, TypedDict
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..files import dump_json, hidden, load_json, only_writer, read_json, replace_file, settle
from ..values import Between, Natural, cells_of, checked
from ..viz.sheets import image_grid
from .rows import ImageRow, ShapeRow


class EvaluationSettings(TypedDict, total=False):
    method: str
    preset: str
    num_views: Annotated[int, Between(1, 1000)]  # of procedural objects


class Counted(TypedDict):
    primary_views: list[Natural]


class _Settings(TypedDict):
    settings: EvaluationSettings


class Evaluation(_Settings, total=False):
    """What is read of the JSON file of an evaluation."""

    protocol: Counted
    command: str


class Part(TypedDict):
    """What is kept of one object."""

    rows: list[cells_of(ImageRow)]
    shapes: list[cells_of(ShapeRow)]
    alignment: dict


SHOWN = {"multiview": "views", "render": "3D"}  # kinds of pictures on the sheet, and their labels
TILE = 160  # pixels of a picture on it


def stamp(paths: Iterable[Path]) -> str:
    """Changes when any of the files, or those below the folders, does: of their names, sizes and times. Raises
    InputError."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            try:
                about = file.stat()
            except OSError as error:  # a link to nowhere
                raise InputError(f"{file}: cannot be read ({error.strerror})") from None
            digest.update(f"{file}\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def weights_checksum(modules: Iterable[torch.nn.Module]) -> str:
    """CRC-32 of all parameters and buffers."""
    checksum = 0
    for module in modules:
        for value in module.state_dict().values():
            checksum = zlib.crc32(value.detach().cpu().reshape(-1).view(torch.uint8).numpy(), checksum)
    return f"{checksum:08x}"


@contextmanager
def partial_results(out: Path, settings: dict) -> Iterator[PartialResults]:
    """Inside, no other process has the same OUT. Raises InputError if one has, or if those of another evaluation lie
    there."""
    folder = out.with_name(out.name + ".parts")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with only_writer(folder):
            settle(folder)
            yield PartialResults(folder, settings)
    finally:
        with suppress(OSError):  # not empty, or gone
            folder.rmdir()


class PartialResults:
    """What is measured already: a JSON and an .npz file an object, in OUT.parts/."""

    def __init__(self, folder: Path, settings: dict):
        self.folder, about = folder, folder / "settings.json"
        if about.is_file() and read_json(about) != load_json(dump_json(settings)):
            raise InputError(f"{folder}: holds parts of another evaluation; remove it or choose another --out")
        replace_file(about, dump_json(settings, indent=None))

    def _path(self, name: str | int, suffix: str = ".json") -> Path:
        return self.folder / f"object-{quote(str(name), safe='')}{suffix}"

    def holds(self, name: str | int, made_from: str) -> bool:
        """Whether an object was measured on files with this stamp, and what was kept of it is whole."""
        try:
            sides = {tile.shape[-1] for tile in self.tiles(name).values()}
            return self.read(name).get("made from") == made_from and sides == {TILE}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):  # else it is measured again
            return False

    def write(self, name: str | int, made_from: str, record: dict, tiles: dict[str, np.ndarray]) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **tiles)
        replace_file(self._path(name, ".npz"), buffer.getvalue())
        data = dump_json(record | {"made from": made_from}, indent=None)
        replace_file(self._path(name), data)  # the last: with it, it is complete

    def read(self, name: str | int) -> Part:
        """Raises InputError."""
        return checked(read_json(self._path(name)), Part, self._path(name))

    def tiles(self, name: str | int) -> dict[str, Tensor]:
        with np.load(self._path(name, ".npz")) as stored:
            return {key: torch.from_numpy(stored[key]).float() / 255 for key in stored.files}

    def remove(self) -> None:
        with hidden(self.folder.parent) as gone:  # in one step: without their settings, parts could be taken for others
            os.replace(self.folder, gone)


def how_made(device: torch.device, started: float) -> dict:
    """Command, date, commit, device, versions and minutes of a run that began at `started` (time.monotonic)."""
    return {"command": "ouroboros " + " ".join(sys.argv[1:]), "date": date.today().isoformat(), "commit": _commit(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "versions": {name: version(name) for name in ("torch", "diffusers")},
            "minutes": round((time.monotonic() - started) / 60, 2)}


def _commit() -> str:
    if shutil.which("git") is None:
        return "unknown"
    run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                         cwd=Path(__file__).parent)
    return run.stdout.strip() or "unknown"


def contact_sheet(tiles: dict[str | int, dict[str, Tensor]], views: list[int]) -> Image.Image:
    """A column per view, the first of which is the input's. Of each object a row of the truth, then of each method its
    views and the renders of its 3D, where it has them.

    tiles: object -> "truth", "METHOD/multiview", "METHOD/render" -> (len(views), 3, S, S).
    """
    rows, labels = [], []
    for name, entry in tiles.items():
        rows.append(list(entry["truth"]))
        labels.append(f"{_short(str(name))}\ntruth")
        for method in dict.fromkeys(key.split("/")[0] for key in entry if "/" in key):
            for kind, label in SHOWN.items():
                if (key := f"{method}/{kind}") in entry:
                    rows.append(list(entry[key]))
                    labels.append(f"{_short(method)}\n{label}")
    columns = [f"view {view}" for view in views]
    return image_grid(rows, None, labels, columns, [("input", 1), ("", len(views) - 1)])


def _short(text: str) -> str:
    return text if len(text) <= 24 else text[:23] + "\N{HORIZONTAL ELLIPSIS}"
