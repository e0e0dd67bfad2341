"""What an evaluation of a folder leaves: partial results as it runs, a summary and a sheet of pictures after."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..files import read_json, replace_file
from ..viz.sheets import image_grid
from .heldout import COLUMNS, paired_interval, per_object


def stamp(paths: Iterable[Path]) -> str:
    """Changes when any of the files, or those below the folders, does: of their names, sizes and times."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            about = file.stat()
            digest.update(f"{file}\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def weights_checksum(modules: Iterable[torch.nn.Module]) -> str:
    """CRC-32 of all parameters and buffers."""
    checksum = 0
    for module in modules:
        for value in module.state_dict().values():
            checksum = zlib.crc32(value.detach().cpu().reshape(-1).view(torch.uint8).numpy(), checksum)
    return f"{checksum:08x}"


class PartialResults:
    """What is measured already: a JSON and an .npz file an object, in OUT.parts/.

    Raises InputError when those of another evaluation lie there.
    """

    def __init__(self, out: Path, settings: dict):
        self.folder = out.with_name(out.name + ".parts")
        about = self.folder / "settings.json"
        if about.is_file() and read_json(about) != json.loads(json.dumps(settings)):
            raise InputError(f"{self.folder}: holds parts of another evaluation; remove it or choose another --out")
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(about, json.dumps(settings).encode())

    def _path(self, name: str) -> Path:
        return self.folder / ("object-" + quote(name, safe=""))

    def holds(self, name: str, made_from: str) -> bool:
        """Whether an object was measured on files with this stamp."""
        return Path(f"{self._path(name)}.json").is_file() and self.read(name).get("made from") == made_from

    def write(self, name: str, made_from: str, record: dict, tiles: dict[str, np.ndarray]) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **tiles)
        replace_file(Path(f"{self._path(name)}.npz"), buffer.getvalue())
        data = json.dumps(record | {"made from": made_from}).encode()
        replace_file(Path(f"{self._path(name)}.json"), data)  # the last: with it, it is complete

    def read(self, name: str) -> dict:
        return read_json(f"{self._path(name)}.json")

    def tiles(self, name: str) -> dict[str, Tensor]:
        with np.load(f"{self._path(name)}.npz") as stored:
            return {key: torch.from_numpy(stored[key]).float() / 255 for key in stored.files}

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def summarize_folder(rows: list[tuple], primary: tuple[int, ...], input_view: int, orbit: int) -> dict:
    """Per method and quantity the mean over objects and seeds of each metric with its 95 % bootstrap interval; between
    methods the paired difference of PSNR. Rows as in heldout.COLUMNS; `orbit`: from there on, views are novel."""
    quantities = {"primary views": ("multiview", lambda v: v in primary),
                  "input view": ("multiview", lambda v: v == input_view),
                  "novel": ("multiview", lambda v: v >= orbit),
                  "3D primary views": ("render", lambda v: v in primary),
                  "3D input view": ("render", lambda v: v == input_view),
                  "3D novel": ("render", lambda v: v >= orbit),
                  "self-consistency": ("self-consistency", lambda v: True)}
    measured = [name for name, value in zip(COLUMNS[7:], rows[0][7:], strict=True) if value != ""]
    means, tables = {}, {}
    for method in dict.fromkeys(row[1] for row in rows):
        for name, (kind, keep) in quantities.items():
            chosen = [row for row in rows if row[1] == method and row[6] == kind and keep(row[4])]
            if chosen:
                table = tables[method, name] = per_object(chosen)
                means.setdefault(method, {})[name] = {"objects": len(table)} | {
                    metric: paired_interval(table[..., i], np.zeros_like(table[..., i]), digits=3 if metric == "psnr"
                                            else 4) for i, metric in enumerate(measured)}
    differences, methods = {}, list(means)
    for a, b in ((a, b) for i, a in enumerate(methods) for b in methods[i + 1:]):
        differences[f"{a} minus {b}"] = {name: paired_interval(tables[a, name][..., 0], tables[b, name][..., 0])
                                         for name in means[a] if name in means[b]}
    return {"means": means, "paired differences in dB": differences}


def contact_sheet(tiles: dict[str, dict[str, Tensor]], shown: list[int], input_view: int = 0) -> Image.Image:
    """A row per object and method: the input, the truth, the method's views and renders of its 3D, where it has them.

    tiles: object -> "input", "truth", "METHOD/multiview", "METHOD/render" -> (n, 3, S, S).
    """
    kinds = [kind for kind in ("multiview", "render") if any(key.endswith("/" + kind) for entry in tiles.values()
                                                             for key in entry)]
    rows, labels = [], []
    for name, entry in tiles.items():
        methods = dict.fromkeys(key.split("/")[0] for key in entry if "/" in key)
        for method in methods:
            cells = [*entry["input"], *entry["truth"]]
            for kind in kinds:
                cells += [*entry[f"{method}/{kind}"]] if f"{method}/{kind}" in entry else [None] * len(shown)
            rows.append(cells)
            labels.append("\n".join([name if len(name) <= 24 else name[:23] + "\N{HORIZONTAL ELLIPSIS}", method]))
    groups = [("input", 1), ("truth", len(shown)), *({"multiview": "views", "render": "3D"}[kind]
                                                     for kind in kinds)]
    groups = [(group, len(shown)) if isinstance(group, str) else group for group in groups]
    columns = [f"view {input_view}"] + [f"view {view}" for view in shown] * (1 + len(kinds))
    return image_grid(rows, None, labels, columns, groups)
