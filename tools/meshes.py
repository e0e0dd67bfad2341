"""Meshes of generated splats: their shape measured beside the splat's, and a figure of them from four sides.

`python -m tools.meshes measure --objects 16 --scans FOLDER --out results/meshes` writes a CSV of the columns of
`evaluate --geometry` and a JSON. `python -m tools.meshes show PICTURE|MESH ... --out figures/meshes.png` draws.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ouroboros_lib.cameras import Cameras, evenly_spaced_orbit
from ouroboros_lib.data.batches import held_out_objects
from ouroboros_lib.data.mesh_files import mesh_files
from ouroboros_lib.data.meshes import load_mesh, render_mesh
from ouroboros_lib.data.photo import load_photo
from ouroboros_lib.data.procedural import sample_objects
from ouroboros_lib.evaluation.geometry import (
    HOW_MEASURED,
    Surface,
    measure_shape,
    mesh_surface,
    procedural_surface,
    surrounding_cameras,
)
from ouroboros_lib.evaluation.results import how_made
from ouroboros_lib.evaluation.rows import GEOMETRY, ShapeRow, write_rows
from ouroboros_lib.evaluation.shapes import SAME, mesh_shape, splat_shape
from ouroboros_lib.export.mesh import glb_bytes, splat_to_mesh
from ouroboros_lib.export.views import normals
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.viz.sheets import image_grid

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
ELEVATION, SIDES, TILE = 20.0, 4, 128


def generate(pipe: Ouroboros3DPipeline, image: torch.Tensor, cameras: Cameras) -> Gaussians:
    """The splat of one condition view (3, S, S), with noise of seed 0."""
    return pipe(image[None], cameras=cameras.expand(1), generator=torch.Generator().manual_seed(0)).gaussians[0]


def objects(pipe: Ouroboros3DPipeline, count: int, scans: Path | None) -> Iterator[tuple[str, str, Gaussians, Surface]]:
    """Kind, name, splat and true surface of held-out procedural objects and of the meshes in a folder."""
    truth = held_out_objects("test", count, pipe.image_size, pipe.num_views)
    for number in range(count):
        splat = generate(pipe, truth.images[number, 0], truth.orbit_cameras[number])
        yield "procedural", f"test {number}", splat, procedural_surface(sample_objects("test", [number]))
    rig = evenly_spaced_orbit(pipe.num_views, ELEVATION)
    for path in mesh_files(scans) if scans else ():
        mesh = load_mesh(path)
        image = render_mesh(mesh, rig.views([0]), pipe.image_size).images[0]
        yield "scans", path.stem, generate(pipe, image, rig), mesh_surface(mesh, surrounding_cameras())


def measure(options: argparse.Namespace) -> None:
    started, rows, meshes = time.monotonic(), [], []
    pipe = Ouroboros3DPipeline.from_pretrained(options.preset)
    pipe.set_progress_bar_config(disable=True)
    with tempfile.TemporaryDirectory() as folder:
        for kind, name, splat, truth in objects(pipe, options.objects, options.scans):
            before = time.monotonic()
            mesh = splat_to_mesh(splat, options.faces)
            meshes.append({"object": name, "faces": len(mesh.faces), "watertight": mesh.is_watertight,
                           "seconds": round(time.monotonic() - before, 2)})
            path = Path(folder) / "object.glb"
            path.write_bytes(glb_bytes(mesh))
            for method, shape in (("splat", splat_shape(splat)), ("mesh", mesh_shape(path, SAME, supersample=1))):
                record = measure_shape(shape, truth)
                rows.append(ShapeRow.measured(kind, method, 0, name, **record))
            print(*rows[-2:], sep="\n", flush=True)
    write_rows(options.out.with_name(options.out.name + "_geometry.csv"), ShapeRow._fields, rows)
    record = how_made(torch.device("cpu"), started) | {"settings": {"preset": options.preset, "faces": options.faces,
                                                                    "geometry": HOW_MEASURED}}
    scans = f" --scans {options.scans.name}" if options.scans else ""
    record |= {"command": f"python -m tools.meshes --faces {options.faces} measure --objects {options.objects}{scans}",
               "shapes": summary(rows), "meshes": meshes}
    options.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["shapes"], indent=1))


def summary(rows: list[ShapeRow]) -> dict:
    """Means of each kind and method, and of the mesh's F-score minus the splat's, with the worst object's."""
    found: dict = {}
    for kind in dict.fromkeys(row.protocol for row in rows):
        of = {method: [row for row in rows if (row.protocol, row.method) == (kind, method)]
              for method in ("splat", "mesh")}
        found[kind] = {method: {key: round(float(np.mean([getattr(row, key) for row in mine if row.seen])), 4)
                                for key in GEOMETRY} for method, mine in of.items()}
        gains = {mesh.object: mesh.f_score - splat.f_score for splat, mesh in zip(*of.values(), strict=True)}
        worst = min(gains, key=lambda name: gains[name])
        found[kind]["mesh minus splat, f_score"] = {
            "objects": len(gains), "mean": round(float(np.mean([*gains.values()])), 4),
            "worst": round(gains[worst], 4), "of": str(worst)}
    return found


def show(options: argparse.Namespace) -> None:
    pipe = Ouroboros3DPipeline.from_pretrained(options.preset)
    pipe.set_progress_bar_config(disable=True)
    rows = [row_of(pipe, path, options.elevation, options.faces) for path in options.sources]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    groups = [("input", 1), ("splat", SIDES), ("its mesh", SIDES), ("the mesh, lit, without colours", SIDES)]
    image_grid(rows, None, None, None, groups).quantize(256).save(options.out)
    print(f"wrote {options.out}")


def row_of(pipe: Ouroboros3DPipeline, path: Path, elevation: float, faces: int) -> list[torch.Tensor]:
    """The input, then splat, mesh and the mesh's shape from four sides, TILE pixels each."""
    rig = evenly_spaced_orbit(pipe.num_views, elevation)
    if path.suffix.lower() in PICTURES:
        image = load_photo(path, pipe.image_size).image
    else:
        texture = next(path.parent.glob("*.png"), None) if path.suffix == ".obj" else None
        image = render_mesh(load_mesh(path, texture=texture, yaw=30), rig.views([0]), pipe.image_size).images[0]
    splat = generate(pipe, image, rig)
    sides = evenly_spaced_orbit(SIDES, elevation)
    with tempfile.TemporaryDirectory() as folder:
        mesh = Path(folder) / "object.glb"
        mesh.write_bytes(glb_bytes(splat_to_mesh(splat, faces)))
        colors, _, depth = mesh_shape(mesh, SAME).seen(sides, TILE)
    lit = [torch.where(plane > 0, 0.15 + 0.8 * normals(plane, sides[view:view + 1])[2:], 1.0).expand(3, -1, -1)
           for view, plane in enumerate(depth)]
    small = torch.nn.functional.interpolate(image[None], (TILE, TILE), mode="area")[0]
    return [small, *splat_shape(splat).seen(sides, TILE)[0], *colors, *lit]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.meshes", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="small")
    parser.add_argument("--faces", type=int, default=20_000)
    commands = parser.add_subparsers(required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("--objects", type=int, default=16, help="held-out procedural ones")
    measuring.add_argument("--scans", type=Path, help="a folder of meshes")
    measuring.add_argument("--out", type=Path, default=Path("outputs/meshes"))
    measuring.set_defaults(run=measure)
    showing = commands.add_parser("show")
    showing.add_argument("sources", nargs="+", type=Path, metavar="PICTURE|MESH")
    showing.add_argument("--elevation", type=float, default=ELEVATION)
    showing.add_argument("--out", type=Path, default=Path("outputs/meshes.png"))
    showing.set_defaults(run=show)
    options = parser.parse_args(arguments)
    options.run(options)


if __name__ == "__main__":
    main()
