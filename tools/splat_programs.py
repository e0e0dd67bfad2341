"""Open splat files in other people's programs and compare with our renders: `python -m tools.splat_programs SPLAT`.

The splat is exported in every format. Each program draws in Chromium as its own examples do, from two sides, with the
camera and the white ground of our rasterizer. Needs node, npm (which fetches the programs once, into a temporary
folder), Chromium and playwright.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ouroboros_lib.cameras import FOV, orbit_cameras
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.gaussians.formats import FORMATS
from ouroboros_lib.losses import psnr
from ouroboros_lib.rasterization import rasterize

PACKAGES = {"@playcanvas/splat-transform": "3.7.0", "@sparkjsdev/spark": "2.2.0",
            "@mkkellogg/gaussian-splats-3d": "0.4.7", "three": "0.187.0", "playcanvas": "2.23.3"}
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
SOFTWARE_GL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # WebGL without a GPU
PROGRAMS = ("SuperSplat", "Spark", "mkkellogg")
SIDE = 256  # pixels
AZIMUTHS, ELEVATION = (0.0, 110.0), 15.0

IMPORTS = """<!DOCTYPE html><meta charset="utf-8"><style>body { margin: 0; overflow: hidden; background: #fff; }</style>
<script type="importmap">{"imports": {"three": "./node_modules/three/build/three.module.js",
  "three/addons/": "./node_modules/three/examples/jsm/",
  "@sparkjsdev/spark": "./node_modules/@sparkjsdev/spark/dist/spark.module.js",
  "@mkkellogg/gaussian-splats-3d": "./node_modules/@mkkellogg/gaussian-splats-3d/build/gaussian-splats-3d.module.js"}}
</script>
<div id="root" style="width: SIDEpx; height: SIDEpx"></div>
<script type="module">
const query = new URLSearchParams(location.search), file = query.get("file"), [x, y, z] = JSON.parse(query.get("eye"));
""".replace("SIDE", str(SIDE))
# as the examples of its README: a half turn about x
SPARK = IMPORTS + """
import * as THREE from "three";
import { SparkRenderer, SplatMesh } from "@sparkjsdev/spark";
const scene = new THREE.Scene(), camera = new THREE.PerspectiveCamera(FOV, 1, 0.01, 100);
const renderer = new THREE.WebGLRenderer({ preserveDrawingBuffer: true });
renderer.setSize(SIDE, SIDE); renderer.setClearColor(0xffffff);
document.getElementById("root").appendChild(renderer.domElement);
scene.add(new SparkRenderer({ renderer }));
const splat = new SplatMesh({ url: file });
splat.quaternion.set(1, 0, 0, 0);
scene.add(splat);
camera.position.set(x, y, z); camera.lookAt(0, 0, 0);
renderer.setAnimationLoop(() => renderer.render(scene, camera));
</script>""".replace("FOV", str(FOV)).replace("SIDE", str(SIDE))
# as the example of its README: up is -y of the file
KELLOGG = IMPORTS + """
import * as GaussianSplats3D from "@mkkellogg/gaussian-splats-3d";
const viewer = new GaussianSplats3D.Viewer({ rootElement: document.getElementById("root"), cameraUp: [0, -1, 0],
  initialCameraPosition: [x, -y, -z], initialCameraLookAt: [0, 0, 0], sharedMemoryForWorkers: false });
viewer.addSplatScene(file, { showLoadingUI: false }).then(() => viewer.start());
</script>"""
PLACE = [0.125, 0.25, -1.875]  # of the camera in the page that is made once for every side
KELLOGG_FOV = 50.0  # of its own camera, which cannot be chosen


class Missing(Exception):
    """What is needed and not here, in a line."""


@dataclass(frozen=True)
class Shot:
    """What a program drew from one side: PSNR against our render, and against that upside down and mirrored, in dB."""

    decibels: float
    upside_down: float
    mirrored: float


def install() -> Path:
    """The folder with PACKAGES in its node_modules, which is kept for the next time. Raises Missing."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            raise Missing(f"no {tool} here")
    named = [f"{name}@{version}" for name, version in PACKAGES.items()]
    name = f"ouroboros-npm-{os.getuid()}-{hashlib.sha256(str(named).encode()).hexdigest()[:8]}"
    folder = Path(tempfile.gettempdir(), name)
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            (Path(made) / "package.json").write_text("{}")
            command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock",
                       "--fetch-retries=1", "--loglevel=error", *named]
            done = subprocess.run(command, cwd=made, capture_output=True, text=True, timeout=300)
            if done.returncode:
                raise Missing(f"npm cannot fetch the programs: {' '.join(done.stderr.split())[:200]}")
            shutil.copytree(made, folder, symlinks=True)
    return folder


def convert(packages: Path, source: Path, target: Path, *options: str) -> None:
    """splat-transform, as its command line is called."""
    cli = packages / "node_modules" / "@playcanvas" / "splat-transform" / "bin" / "cli.mjs"
    subprocess.run(["node", str(cli), "-q", "-w", "-g", "cpu", str(source), str(target), *options], check=True,
                   capture_output=True, timeout=120)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder at an address of this machine."""
    class Quiet(http.server.SimpleHTTPRequestHandler):
        extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
            ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def supersplat_page(packages: Path, folder: Path, file: str, eye: Sequence[float]) -> str:
    """SuperSplat's viewer, as splat-transform makes it. Its world is the file's after a half turn about z."""
    settings = {"version": 2, "tonemapping": "none", "highPrecisionRendering": False, "animTracks": [],
                "background": {"color": [1, 1, 1]}, "annotations": [], "startMode": "default",
                "postEffectSettings": {
                    "sharpness": {"enabled": False, "amount": 0},
                    "bloom": {"enabled": False, "intensity": 0, "blurLevel": 2},
                    "grading": {"enabled": False, "brightness": 1, "contrast": 1, "saturation": 1, "tint": [1, 1, 1]},
                    "vignette": {"enabled": False, "intensity": 0, "inner": 0, "outer": 1, "curvature": 1},
                    "fringing": {"enabled": False, "intensity": 0}},
                "cameras": [{"initial": {"position": PLACE, "target": [0, 0, 0], "fov": FOV}}]}
    made = folder / "pages" / f"{file}.html"
    if not made.exists():
        made.parent.mkdir(exist_ok=True)
        (folder / "settings.json").write_text(json.dumps(settings))
        convert(packages, folder / file, made, "--viewer-settings", str(folder / "settings.json"))
    text, place = made.read_text(encoding="utf-8"), json.dumps(PLACE, separators=(",", ":"))
    assert text.count(place) == 1
    (folder / "page.html").write_text(text.replace(place, json.dumps([-eye[0], eye[1], -eye[2]])), encoding="utf-8")
    return "page.html?webgl&noui&noanim"


def page(program: str, packages: Path, folder: Path, file: str, eye: Sequence[float]) -> str:
    """The page in `folder` that shows the file from a place in this library's world."""
    if program == "SuperSplat":
        return supersplat_page(packages, folder, file, eye)
    (folder / f"{program}.html").write_text({"Spark": SPARK, "mkkellogg": KELLOGG}[program], encoding="utf-8")
    return f"{program}.html?file={file}&eye={json.dumps(list(eye))}"


def draws(browser, packages: Path, folder: Path, program: str, file: str, gaussians: Gaussians,
          patience: float = 10.0) -> list[Shot]:
    """What a program draws of a file in `folder`, from each side. patience: seconds in which something must show."""
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(packages / "node_modules")
    cameras = orbit_cameras(torch.tensor(AZIMUTHS), ELEVATION, fov=KELLOGG_FOV if program == "mkkellogg" else FOV)
    ours, shots = rasterize(gaussians, cameras, SIDE).rgb.clamp(0, 1), []
    with served(folder) as address:
        for eye, expected in zip(cameras.c2w[:, :3, 3].tolist(), ours, strict=True):
            tab = browser.new_page(viewport={"width": SIDE, "height": SIDE})
            tab.goto(f"{address}/{page(program, packages, folder, file, [round(x, 6) for x in eye])}")
            seen = _settled(tab, patience)
            tab.close()
            shots.append(Shot(*(round(float(psnr(seen, other)), 1) for other in (expected, expected.flip(-2),
                                                                               expected.flip(-1)))))
    return shots


def _settled(tab, patience: float) -> Tensor:
    """(3, S, S): the first picture that is not white and hardly changes any more, or the last one."""
    end, last = time.monotonic() + patience, torch.ones(3, SIDE, SIDE)
    while True:
        shot = np.asarray(Image.open(io.BytesIO(tab.screenshot())).convert("RGB"))
        seen = torch.from_numpy(shot.copy()).permute(2, 0, 1) / 255
        if time.monotonic() > end or (seen.min() < 0.9 and psnr(seen, last) > 50):
            return seen
        last = seen
        time.sleep(0.2)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.splat_programs", description=__doc__.splitlines()[0])
    parser.add_argument("splat", type=Path)
    parser.add_argument("--out", type=Path, help="a .json for the figures")
    options = parser.parse_args(arguments)
    from playwright.sync_api import sync_playwright

    gaussians, packages, rows = Gaussians.load(options.splat), install(), []
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder, chromium = Path(name), next(filter(None, map(shutil.which, CHROMIUM)))
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *SOFTWARE_GL])
        files = [f"ours{suffix}" for suffix in FORMATS] + ["converted.spz", "converted.sog"]
        for file in files[:-2]:
            gaussians.save(folder / file)
        convert(packages, folder / "ours.ply", folder / files[-2], "--spz-version", "3")  # 4 is for few programs yet
        convert(packages, folder / "ours.ply", folder / files[-1])
        for program in PROGRAMS:
            for file in files:
                shots = draws(browser, packages, folder, program, file, gaussians)
                rows.append({"program": program, "file": file, "bytes": (folder / file).stat().st_size,
                             "decibels": [shot.decibels for shot in shots],
                             "upright": all(shot.decibels > max(shot.upside_down, shot.mirrored) for shot in shots)})
                print(program, file, rows[-1]["decibels"], "upright" if rows[-1]["upright"] else "-", flush=True)
        browser.close()
    if options.out:
        options.out.write_text(json.dumps({"splat": str(options.splat), "gaussians": gaussians.shape[0], "side": SIDE,
                                           "azimuths": AZIMUTHS, "elevation": ELEVATION, "packages": PACKAGES,
                                           "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
