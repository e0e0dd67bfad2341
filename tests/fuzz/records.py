"""Weights, pipelines, settings and results."""

import functools
import io
import json
import math
import tempfile
from dataclasses import asdict, fields
from pathlib import Path

import torch
from fuel import gso_zip
from library_inputs import furniture_zip, obj, tarred
from safetensors.torch import save

from ouroboros_lib.data import fetching, gso
from ouroboros_lib.data.archives import unpack
from ouroboros_lib.data.catalogues import objects_in
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation import ablation, native, protocols, rows, tables
from ouroboros_lib.paper.tensor_files import read_tensors
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.training import checkpoints, config, recipe
from ouroboros_lib.training.config import TrainingConfig

from .running import Format, expect

_TENSORS = {"a.weight": torch.arange(24.0).reshape(2, 3, 4), "a.bias": torch.ones(3, dtype=torch.float16),
            "count": torch.tensor(7)}


@functools.cache
def _pickled() -> list[dict[str, bytes]]:
    out = io.BytesIO()
    torch.save(_TENSORS, out)
    return [{"w.pth": out.getvalue()}]


@functools.cache
def _shards() -> list[dict[str, bytes]]:
    index = {"metadata": {"total_size": 112}, "weight_map": dict.fromkeys(_TENSORS, "w-1.safetensors")}
    return [{"w.safetensors.index.json": json.dumps(index).encode(), "w-1.safetensors": save(_TENSORS)}]


def _read_tensors(folder: Path, name: str) -> None:
    tensors = read_tensors(folder / name)
    for value in tensors.values():
        expect(torch.isfinite(value).all(), "weights that are not finite")
        expect(value.numel() < 10**6, "more numbers than the file has")


@functools.cache
def _pipelines() -> list[dict[str, bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        Ouroboros3DPipeline.from_pretrained("tiny").save_pretrained(folder)
        return [{path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*.*")
                 if path.suffix != ".py"}]


def _read_pipeline(folder: Path) -> None:
    pipe = Ouroboros3DPipeline.from_pretrained(folder)
    for model in (pipe.autoencoder, pipe.multiview, pipe.reconstructor):
        expect(all(torch.isfinite(value).all() for value in model.state_dict().values()), "weights that are not finite")
    expect(torch.isfinite(pipe.scheduler.sigmas(5)).all(), "noise levels that are not finite")


# ---- settings -------------------------------------------------------------------------------------------------------


def _protocols() -> list[dict[str, bytes]]:
    return [{"p.json": path.read_bytes()} for path in sorted(protocols.FOLDER.glob("*.json"))]


def _read_protocol(folder: Path) -> None:
    protocol = protocols.load_protocol(folder / "p.json")
    cameras = protocol.cameras("thing")
    expect(cameras.c2w.isfinite().all() and cameras.intrinsics.isfinite().all(), "cameras that are not finite")
    expect(len(cameras.c2w) == len(protocol.azimuths) + len(protocol.novel), "another number of cameras")
    json.dumps(protocol.record(), allow_nan=False)


def _recipes() -> list[dict[str, bytes]]:
    return [{"r.json": path.read_bytes()} for path in sorted(recipe.RECIPES.glob("*.json"))]


def _read_recipe(folder: Path) -> None:
    path = str(folder / "r.json")
    recipe.check_needs(path, data="x", init="x")
    stages = recipe.load_recipe(path, start=str(folder), data="x")
    recipe.choose_stages(stages, "")
    recipe.load_comparisons(path)


def _settings() -> list[dict[str, bytes]]:
    return [{"settings": f"{field.name}={getattr(TrainingConfig, field.name)}".encode()}
            for field in fields(TrainingConfig)]


def _read_settings(folder: Path) -> None:
    made = config.TrainingConfig.from_settings((folder / "settings").read_text(errors="replace")[:500].split("\n"))
    numbers = [value for value in asdict(made).values() if isinstance(value, float)]
    expect(not any(map(math.isnan, numbers)), "settings that are no numbers")


@functools.cache
def _checkpoints() -> list[dict[str, bytes]]:
    settings = asdict(TrainingConfig())
    state = {"step": 3, "seconds": 1.5, "next_object": 4, "summed": 0, "averaged": {}, "scaler": None, "frozen": {},
             "processes": 1, "settings": settings, "preset": "tiny", "data": None}
    marker = {"step": 3, "files": {"state.json": {"bytes": 10, "sha256": "0" * 64}}}
    return [{"checkpoint-0000003/state.json": json.dumps(state).encode(),
             "checkpoint-0000003/complete.json": json.dumps(marker).encode()}]


def _read_checkpoint(folder: Path) -> None:
    found = checkpoints.latest_checkpoint(folder)
    if found is not None:
        expect(len(checkpoints.fault_of(found).splitlines()) <= 1, "a fault in several lines")
        checkpoints.check_settings(found, "tiny", TrainingConfig(), None)


# ---- results --------------------------------------------------------------------------------------------------------


def _evaluation(seed: int) -> dict[str, bytes]:
    header = ",".join(rows.ImageRow._fields)
    lines = [f"procedural-test-3,{method},0,{number},{view},{int(view == 0)},{kind},{20 + seed + view / 7},0.9,0.1,,"
             for method in ("two-stage", "paper") for number in range(3) for view in range(5)
             for kind in ("multiview", "render")]
    shapes = [f"procedural-test-3,two-stage,0,{number},0.1,0.2,0.3,0.9,0.5" for number in range(3)]
    record = {"settings": {"num_views": 4, "preset": "small", "objects": 3}, "summary": {}, "minutes": 1,
              "command": "ouroboros evaluate", "date": "2026-01-01", "commit": "0", "device": "cpu"}
    name = f"both-seed{seed}"
    return {f"{name}.csv": "\n".join([header, *lines, ""]).encode(), f"{name}.json": json.dumps(record).encode(),
            f"{name}_geometry.csv": "\n".join([",".join(rows.ShapeRow._fields), *shapes, ""]).encode()}


@functools.cache
def _results() -> list[dict[str, bytes]]:
    return [_evaluation(0), {**_evaluation(0), **_evaluation(1)}]


def _read_results(folder: Path) -> None:
    _check_tables(folder)
    with tempfile.TemporaryDirectory() as out:
        ablation.collect(folder, Path(out, "ablation"), [["both:paper", "both", "a against b"]])
        expect("NaN" not in Path(out, "ablation.json").read_text(), "NaN in JSON")
        _check_tables(Path(out))


def _check_tables(folder: Path) -> None:
    for table in tables.paper_tables(folder):
        tables.render(table)
        names = [column in ("task", "method", "protocol", "file") for column in table.columns]
        cells = [cell for row in table.rows for cell, name in zip(row, names, strict=True) if not name]
        expect("nan" not in " ".join(cells), "nan in a table")


def _names() -> list[dict[str, bytes]]:
    return [{"names.csv": b"file,object\n000000.mp4,alarm\n000001.mp4,mug\n", "000000.mp4": b"x", "000001.mp4": b"x"}]


def _read_names(folder: Path) -> None:
    found = native.whose(folder, {"numbered": "*.mp4"}, ["alarm", "mug"], folder / "names.csv")
    expect(set(found) == {"alarm", "mug"}, "other objects")


# ---- downloads ------------------------------------------------------------------------------------------------------


def _lists() -> list[dict[str, bytes]]:
    return [{"list": json.dumps([{"name": name, "owner": "GoogleResearch"} for name in ("Mug_1", "Cat_(2)")]).encode()}]



def _served(data: bytes, ask) -> None:
    """What asking gives where the line brings these bytes."""
    before, fetching.read = fetching.read, lambda url, how: data
    try:
        ask(gso.Download(tries=1, pause=0))
    finally:
        fetching.read = before


def _read_list(folder: Path) -> None:
    def ask(how):
        for name in gso.all_objects(how):
            gso.check_name(name)
            expect(name not in (".", "..") and "/" not in name, "a name that leaves its folder")

    _served((folder / "list").read_bytes() if (folder / "list").exists() else b"", ask)


@functools.cache
def _archives() -> list[dict[str, bytes]]:
    return [{"object.zip": gso_zip()}]


def _read_archive(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        out = Path(place, "out")
        try:
            _served((folder / "object.zip").read_bytes(), lambda how: gso.fetch_object("object", out, how))
            expect(gso.complete_record(out / "object") is not None, "an object that is not complete")
            gso.write_manifest(out)
        except InputError:
            expect(not out.exists() or not any(out.iterdir()), "something is left")
            raise
        finally:
            expect(all(path == out for path in Path(place).iterdir()), "files outside of its folder")


@functools.cache
def _packed() -> list[dict[str, bytes]]:
    return [{"archive": furniture_zip()}, {"archive": tarred(obj("crops_pack/Apple_1"))}]


def _unpack(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        try:
            unpack(folder / "archive", Path(place, "a", "b"))
            objects_in(Path(place, "a", "b"), "3DModels", ["sweethome3d/Scopia_desk_table"])
        finally:
            expect(all(path.is_relative_to(Path(place, "a")) for path in Path(place).rglob("*")),
                   "files outside of their folder")


FORMATS = [
    Format("safetensors", lambda: [{"w.safetensors": save(_TENSORS)}],
           functools.partial(_read_tensors, name="w.safetensors")),
    Format("weight-shards", _shards, functools.partial(_read_tensors, name="w.safetensors.index.json")),
    Format("pth", _pickled, functools.partial(_read_tensors, name="w.pth")),
    Format("pipeline", _pipelines, _read_pipeline),
    Format("protocol", _protocols, _read_protocol), Format("recipe", _recipes, _read_recipe),
    Format("settings", _settings, _read_settings), Format("checkpoint", _checkpoints, _read_checkpoint),
    Format("results", _results, _read_results), Format("names", _names, _read_names),
    Format("fuel-list", _lists, _read_list), Format("fuel-zip", _archives, _read_archive),
    Format("library-archive", _packed, _unpack)]
