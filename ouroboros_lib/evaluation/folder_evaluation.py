"""Any method on a folder of rendered objects, under a protocol: rows like those of heldout.py, a sheet of pictures.

Each object's rows are kept in `OUT.parts/` as soon as they are measured, so that an interrupted evaluation goes on
where it stopped. An object that cannot be measured is skipped, with its reason, and the others are measured all the
same.
"""

from __future__ import annotations

import io
import json
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..cameras import FOV, RADIUS, field_of_view, orbit_cameras
from ..data.folders import MultiviewObject, find_objects, read_object
from ..data.meshes import TexturedMesh, load_mesh
from ..data.renders import find_meshes
from ..errors import InputError
from ..files import replace_file
from ..pipeline import Ouroboros3DPipeline
from .alignment import align_pictures, align_shape, check_alignment
from .folder_results import PartialResults, contact_sheet, stamp, summarize_folder, weights_checksum
from .geometry import GEOMETRY_COLUMNS, HOW_MEASURED, SIZE, compare_surfaces, mesh_surface, surrounding_cameras
from .heldout import (
    COLUMNS,
    KEYS,
    Metrics,
    Variant,
    arguments_of,
    how_made,
    image_rows,
    summarize_geometry,
    write_rows,
)
from .methods import Method, Shape, check_views, resized, splat_shape, zoomed
from .metrics import psnr, ssim
from .protocols import Protocol, load_protocol

SHEET_OBJECTS, SHEET_VIEWS, TILE = 12, 3, 96
Images = dict[int, Tensor]  # view -> (3, S, S)


@dataclass
class Ours:
    """The pipeline as a method: it sees the input view of each object, and nothing else."""

    pipeline: Ouroboros3DPipeline
    preset: str = "small"
    variants: tuple[Variant, ...] = (Variant("both"), Variant("none"))
    seeds: tuple[int, ...] = (0,)


@dataclass
class Part:
    """One method's pictures of one object. target: what they are compared with, the truth by default."""

    method: str
    seed: int
    kind: str
    images: Images
    target: Images | None = None
    shape: Shape | None = None
    alignment: tuple[float, float] | None = None


@dataclass
class Evaluation:
    """What to measure. meshes: true meshes by object name; splats and meshes are then compared with them as well."""

    data: Path
    protocol: Protocol
    label: str
    method: Ours | Method
    align: str = "none"
    metrics: Metrics = field(default_factory=dict)
    meshes: dict[str, Path] | None = None

    def settings(self) -> dict:
        """All that the figures depend on."""
        measured = ["psnr", "ssim", *(f"{name} ({f.backbone})" if hasattr(f, "backbone") else name
                                      for name, f in self.metrics.items())]
        missing = [name for name in self.protocol.metrics  # plain lpips: the backbone is not stated
                   if name not in measured and not (name == "lpips" and "lpips" in self.metrics)]
        entry = {"protocol": self.label, "align": self.align, "metrics": measured,
                 "metrics of the protocol that were not measured": missing,
                 "geometry": HOW_MEASURED if self.meshes is not None else None}
        if isinstance(self.method, Method):
            return entry | {"method": self.method.name, "convention": self.method.convention.record(),
                            "pictures of another size": "bilinear, averaged over pixels where they become smaller"}
        pipeline = self.method.pipeline
        weights = weights_checksum(part for part in pipeline.components.values() if isinstance(part, torch.nn.Module))
        return entry | {"method": "ours", "preset": self.method.preset, "weights": weights,
                        "seeds": list(self.method.seeds),
                        "variants": arguments_of(self.method.variants, pipeline),
                        "model's pixels": pipeline.image_size, "views of F": "enlarged bilinearly to the "
                        "protocol's size; the splat is drawn at that size"}


def evaluate_folder(data: str | Path, out: str | Path, method: Ours | Method, protocol: Protocol | None = None,
                    align: str = "none", metrics: Metrics | None = None, meshes: Iterable[Path] | None = None,
                    all_objects: bool = False) -> tuple[dict, dict[str, str]]:
    """Measure a method on the objects below `data`; returns the summary, and the objects that were skipped with why.

    protocol: what the data must have been rendered for; by default what it says itself. align: let the truth choose an
    azimuth and a scale, see alignment.py; the row's method then ends in -aligned-KIND. metrics: beside PSNR and SSIM,
    for the columns lpips and flip. meshes: the true meshes, for `out`_geometry.csv. all_objects: whatever the folder
    holds, instead of the protocol's list; the row's protocol then ends in -all.
    Writes `out`.csv (COLUMNS of heldout.py, object being a name), `out`.json and `out`.png. Raises InputError when
    nothing can be measured.
    """
    started, data, out = time.monotonic(), Path(data), Path(out)
    names = find_objects(data)
    protocol, label, size = _agree(data, names, protocol, method)
    names, skipped = _choose(data, names, protocol, all_objects)
    job = Evaluation(data, protocol, label + ("-all" if all_objects and protocol.objects else ""), method, align,
                     dict(metrics or {}), None if meshes is None else find_meshes(meshes))
    check_alignment(align, method.kind if isinstance(method, Method) else "splat")
    if isinstance(method, Method) and method.kind == "images" and protocol.azimuths:
        check_views(method, protocol.cameras(""), protocol.primary_views, protocol.name)
    if isinstance(method, Ours):
        method.pipeline.set_progress_bar_config(disable=True)
    settings, done = job.settings(), []
    parts = PartialResults(out, settings)
    for name in tqdm(names, unit=" objects", disable=not sys.stderr.isatty(), leave=False):
        try:
            made_from = stamp(_files(job, name))
            if not parts.holds(name, made_from):
                parts.write(name, made_from, *_measure(job, name, size))
            done.append(name)
        except InputError as error:
            skipped[name] = str(error) if name in str(error) else f"{name}: {error}"
            _say(f"skipped: {skipped[name]}")
    if not done:
        parts.remove()
        raise InputError(f"{data}: none of {len(skipped)} objects could be measured; the first: "
                         f"{next(iter(skipped.values()))}")
    summary = _finish(job, settings, out, parts, done, skipped, started)
    if not skipped:
        parts.remove()
    return summary, skipped


# ---- before ---------------------------------------------------------------------------------------------------------


def _agree(data: Path, names: list[str], wanted: Protocol | None, method) -> tuple[Protocol, str, int]:
    """The protocol that the data was rendered for, its label and size. Raises InputError if another was asked for."""
    first, reason = None, ""
    for name in names:
        try:
            first = read_object(data / name, depth=False)
            break
        except InputError as error:
            reason = reason or str(error)
    if first is None:
        raise InputError(f"{data}: no object in it can be read; the first: {reason}")
    label, size = _label(first), first.rgba.shape[-1]
    if label is None:
        if wanted is not None:
            raise InputError(f"{data}: does not say for which protocol it was rendered; render it with `ouroboros data "
                             f"render --protocol {wanted.name}`, or leave --protocol out to take its cameras as they "
                             "are")
        radius, fov = float(first.cameras.positions[0].norm()), float(field_of_view(first.cameras)[0])
        return Protocol("folder", 1, "the cameras of the folder, view 0 the input", (), None, radius, fov, (), (size,),
                        0, tuple(range(1, first.num_orbit_views)) or (0,), "white", None, ("psnr", "ssim", "lpips"),
                        "", ("whatever the folder does not say",)), f"folder-{size}", size
    base = wanted or load_protocol(label.rsplit("-v", 1)[0].split("@")[0])
    candidates = [base] if not isinstance(method, Method) else [base, base.at(method.convention)] \
        if isinstance(method.convention.views, dict) and isinstance(base.elevation, float) else [base]
    for candidate in candidates:
        if size in candidate.sizes and candidate.label(size) == label:
            return candidate, label, size
    expected = " or ".join(candidate.label(candidate.sizes[0]) for candidate in candidates)
    raise InputError(f"{data}: was rendered for {label}, not for {expected}; choose --protocol and --convention "
                     "accordingly, or render it again")


def _label(truth: MultiviewObject) -> str | None:
    render = truth.info.get("render")
    label = render.get("protocol") if isinstance(render, dict) else None
    return label if isinstance(label, str) and "-v" in label else None


def _choose(data: Path, names: list[str], protocol: Protocol, everything: bool) -> tuple[list[str], dict[str, str]]:
    if protocol.objects is None or everything:
        return names, {}
    chosen = [name for name in protocol.objects if name in names]
    if not chosen:
        raise InputError(f"{data}: holds none of the {len(protocol.objects)} objects of protocol {protocol.name} "
                         f"({', '.join(protocol.objects[:3])}, ...); --all-objects measures what is there")
    return chosen, {name: f"{name}: not in {data}" for name in protocol.objects if name not in names}


def _say(line: str) -> None:
    tqdm.write(" ".join(line.split()), file=sys.stderr)


# ---- one object -----------------------------------------------------------------------------------------------------


def _files(job: Evaluation, name: str) -> list[Path]:
    """What the figures of an object are made from, beside the model."""
    return [job.data / name, *(job.method.files(name) if isinstance(job.method, Method) else ()),
            *([job.meshes[name]] if job.meshes and name in job.meshes else ())]


def _measure(job: Evaluation, name: str, size: int) -> tuple[dict, dict[str, np.ndarray]]:
    """What is kept of one object: rows and alignment, and tiles for the sheet by method and group."""
    truth = read_object(job.data / name, depth=False, name=name)
    if truth.rgba.shape[-1] != size or _label(truth) != (job.label.removesuffix("-all")
                                                         if job.protocol.azimuths else None):
        raise InputError(f"{job.data / name}: was rendered for {_label(truth) or 'no protocol'} at "
                         f"{truth.rgba.shape[-1]} pixels, not for {job.label}")
    surface = None if job.meshes is None else mesh_surface(_true_mesh(job, truth), surrounding_cameras())
    primary = job.protocol.primary_views
    shown = [primary[len(primary) * (2 * i + 1) // (2 * SHEET_VIEWS)] for i in range(SHEET_VIEWS)]
    rows, shapes, alignment, tiles = [], [], {}, {"truth": _tiles(dict(enumerate(truth.images)), shown)}
    tiles["input"] = _tiles(dict(enumerate(truth.images)), [job.protocol.input_view])
    functions = {"psnr": psnr, "ssim": ssim} | job.metrics
    for part in _parts(job, truth):
        views = sorted(part.images)
        prediction = torch.stack([part.images[view] for view in views])
        target = torch.stack([part.target[view] for view in views]) if part.target else truth.images[views]
        scores = {metric: f(prediction[None], target[None]) for metric, f in functions.items()}
        keys = (job.label, part.method, part.seed)
        rows += image_rows(keys, [name], part.kind, scores, views, job.protocol.input_view)
        if part.alignment is not None:
            alignment[part.method] = {"azimuth": round(part.alignment[0], 2), "scale": round(part.alignment[1], 4)}
        if surface is not None and part.shape is not None:
            rig = surrounding_cameras()
            _, alpha, depth = part.shape.seen(rig, SIZE)
            record = compare_surfaces(torch.where(alpha > 0.5, depth, 0.0), surface, rig)
            shapes.append((*keys, name, *(round(record[column], 5) for column in GEOMETRY_COLUMNS)))
        if part.target is None and f"{part.method}/{part.kind}" not in tiles:
            tiles[f"{part.method}/{part.kind}"] = _tiles(part.images, shown)
    return {"rows": rows, "shapes": shapes, "alignment": alignment, "shown": shown}, tiles


def _true_mesh(job: Evaluation, truth: MultiviewObject) -> TexturedMesh:
    source = truth.info.get("source", {})
    if truth.name not in job.meshes:
        raise InputError(f"{truth.name}: no true mesh of this name among those of --meshes")
    render = truth.info.get("render", {})
    texture = render.get("texture")  # where it lay then; only the shape matters here
    mesh = load_mesh(job.meshes[truth.name], render.get("up", "auto"),
                     texture if texture and Path(texture).is_file() else None, render.get("yaw", 0.0))
    if not np.allclose(mesh.to_world, source.get("to_world", np.nan), atol=1e-6):
        raise InputError(f"{mesh.path}: is not the mesh that {truth.name} was rendered from, or placed otherwise")
    return mesh


def _parts(job: Evaluation, truth: MultiviewObject) -> Iterator[Part]:
    if isinstance(job.method, Ours):
        yield from _our_parts(job, truth)
        return
    method, primary = job.method, job.protocol.primary_views
    name = method.name + (f"-aligned-{job.align}" if job.align != "none" else "")
    if method.kind == "images":
        pictures, alignment = method.pictures(truth), None
        if job.align != "none":
            alignment = 0.0, align_pictures(pictures, truth, primary)
            pictures = {view: zoomed(picture, alignment[1]) for view, picture in pictures.items()}
        yield Part(name, 0, "multiview", pictures, alignment=alignment)
        return
    shape = method.shape(truth)
    for note in shape.notes:
        _say(f"note: {truth.name}: {note}")
    yield _drawn(Part(name, 0, "render", {}, shape=shape), job, truth)


def _drawn(part: Part, job: Evaluation, truth: MultiviewObject) -> Part:
    """The part with its shape aligned, if it must be, and drawn from all of the truth's cameras."""
    shape = part.shape
    if job.align != "none":
        part = replace(part, alignment=align_shape(shape, truth, job.protocol.primary_views, job.align))
        shape = shape.turned(*part.alignment)
    rgb, _, _ = shape.seen(truth.cameras, truth.rgba.shape[-1])
    return replace(part, shape=shape, images=dict(enumerate(rgb)))


def _our_parts(job: Evaluation, truth: MultiviewObject) -> Iterator[Part]:
    """The recursion from the input view. Where the protocol's orbit is not the model's rig, the input view is enlarged
    until the object looks as large as the model's cameras see it, the model uses its own rig at the input's elevation,
    and only the splat is measured, from the protocol's cameras."""
    pipe, view, size = job.method.pipeline, job.protocol.input_view, truth.rgba.shape[-1]
    orbit = truth.cameras.views(slice(truth.num_orbit_views))
    position = orbit.positions[view].double()
    elevation = float(torch.rad2deg(torch.asin(position[1] / position.norm())))
    own = orbit_cameras([0.0], elevation)
    focal = orbit.intrinsics[view, 0, 0] / position.norm()
    same = (truth.num_orbit_views == pipe.num_views
            and torch.allclose(orbit.positions.norm(dim=-1), torch.tensor(RADIUS), atol=5e-3)
            and torch.allclose(field_of_view(orbit), torch.tensor(FOV), atol=0.05))
    factor = 1.0 if same else float(own.intrinsics[0, 0, 0] / RADIUS / focal)
    picture = resized(zoomed(truth.images[view], factor), pipe.image_size)[None].to(pipe.device)
    suffix = f"-aligned-{job.align}" if job.align != "none" else ""
    for seed, variant in product(job.method.seeds, job.method.variants):
        number = (1_000_003 * seed + zlib.crc32(truth.name.encode())) % 2**63
        result = pipe(picture, elevation=elevation, cameras=orbit[None].to(pipe.device) if same else None,
                      generator=torch.Generator(pipe.device).manual_seed(number), **variant.arguments)
        name = variant.method + suffix
        part = _drawn(Part(name, seed, "render", {}, shape=splat_shape(result.gaussians[0])), job, truth)
        if same:
            views = dict(enumerate(resized(result.views[0].cpu(), size)))
            yield Part(name, seed, "multiview", views)
            if job.align == "none":  # an aligned splat need not agree with the views it came from
                yield Part(name, seed, "self-consistency", {v: part.images[v] for v in views}, target=views)
        yield part


def _tiles(images: Images, views: list[int]) -> np.ndarray:
    """(len(views), 3, TILE, TILE) uint8; white where there is no picture."""
    blank = torch.ones(3, TILE, TILE)
    small = [resized(images[view], TILE).cpu() if view in images else blank for view in views]
    return (255 * torch.stack(small)).round().byte().numpy()


def _finish(job: Evaluation, settings: dict, out: Path, parts: PartialResults, names: list[str],
            skipped: dict[str, str], started: float) -> dict:
    records = {name: parts.read(name) for name in names}
    rows = [tuple(row) for record in records.values() for row in record["rows"]]
    shapes = [tuple(row) for record in records.values() for row in record["shapes"]]
    orbit = len(job.protocol.azimuths) or max(job.protocol.primary_views) + 1
    summary = summarize_folder(rows, job.protocol.primary_views, job.protocol.input_view, orbit)
    if shapes:
        summary["geometry"] = summarize_geometry(shapes)
    device = job.method.pipeline.device if isinstance(job.method, Ours) else torch.device("cpu")
    record = how_made(device, started) | {"settings": settings, "protocol": job.protocol.record(),
                                          "objects": len(names), "skipped": skipped, "summary": summary}
    if job.align != "none":
        record["alignment"] = {name: entry["alignment"] for name, entry in records.items()}
    write_rows(out.with_suffix(".csv"), COLUMNS, rows)
    if shapes:
        write_rows(out.with_name(out.name + "_geometry.csv"), (*KEYS, *GEOMETRY_COLUMNS), shapes)
    buffer = io.BytesIO()
    contact_sheet({name: parts.tiles(name) for name in names[:SHEET_OBJECTS]}, records[names[0]]["shown"],
                  job.protocol.input_view).save(buffer, "PNG")
    replace_file(out.with_suffix(".png"), buffer.getvalue())
    replace_file(out.with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())
    return summary
