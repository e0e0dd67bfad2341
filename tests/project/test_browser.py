"""In a real browser: a stepper and the splat viewer in JupyterLab, and on a page of the book without network.

They need Chromium ($CHROMIUM, or one on the path) and playwright, and are skipped without; with
OUROBOROS_REQUIRE_BROWSER=1 they fail instead.
"""

import base64
import io
import subprocess
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import warm
from jupyter_lab import KERNEL, jupyter_lab, run_all
from PIL import Image

from ouroboros_lib.cameras import orbit_cameras
from ouroboros_lib.evaluation.metrics import psnr
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.rasterization import rasterize
from tools.book.site import build

SIDE = 256

SETUP = """
from PIL import Image
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.viz.notebook import splat_viewer, stepper

stepper([Image.new("RGB", (64, 64), (50 + 60 * step, 100, 150)) for step in range(4)])
"""
SPLAT = f'splat_viewer(Gaussians.load_ply("blob.ply"), elevation=10.0, side={SIDE})'


@pytest.fixture(scope="module")
def blob() -> Gaussians:
    """1,200 flat Gaussians on a sphere, in colours by direction and a red patch in front."""
    generator = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(1200, 3, generator=generator), dim=-1)
    colors = torch.where(normals[:, 2:] > 0.8, torch.tensor([0.9, 0.1, 0.1]), 0.5 + 0.4 * normals)
    scales = torch.tensor([0.03, 0.02, 0.01]).expand(1200, 3)
    quaternions = torch.nn.functional.normalize(torch.randn(1200, 4, generator=generator), dim=-1)
    return Gaussians(normals * torch.tensor([0.45, 0.3, 0.4]), torch.full((1200,), 0.9), scales, quaternions, colors)


def expect_step(page, selector: str, step: int):
    """Wait until the one picture that is visible is the page of this step."""
    deadline = time.monotonic() + 10
    while True:
        color = page.locator(f"{selector} >> visible=true").first.evaluate("""image => {
            const context = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d");
            context.drawImage(image, 0, 0);
            return Array.from(context.getImageData(0, 0, 1, 1).data); }""")
        if color[:3] == pytest.approx([50 + 60 * step, 100, 150], abs=8):
            return
        assert time.monotonic() < deadline, f"expected step {step}, saw {color}"
        page.wait_for_timeout(100)


def canvas_image(canvas) -> torch.Tensor:
    data = canvas.evaluate("node => node.toDataURL('image/png')").split(",", 1)[1]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).movedim(-1, 0)


def drag_and_compare(page, canvas, blob: Gaussians):
    """Turn the splat with the mouse; the canvas must show what the rasterizer renders from there, and nowhere else."""
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    before, box = canvas_image(canvas), canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 90, y + 20, steps=6)
    page.mouse.up()
    page.wait_for_timeout(800)
    azimuth, elevation = (float(canvas.get_attribute(f"data-{name}")) for name in ("azimuth", "elevation"))
    assert (azimuth, elevation) == pytest.approx((45, 20), abs=2)  # half a degree per pixel, from (0, 10)
    drawn = canvas_image(canvas)
    assert drawn.shape == (3, SIDE, SIDE) and psnr(drawn, before) < 25

    def agreement(azimuth):
        return float(psnr(drawn, rasterize(blob, orbit_cameras([azimuth], elevation), SIDE).rgb[0].clamp(0, 1)))

    assert agreement(azimuth) > 35
    assert agreement(azimuth + 15) < 25


def test_stepper_and_splat_viewer_in_jupyterlab(browser, blob, tmp_path):
    blob.save_ply(tmp_path / "blob.ply")
    cells = [nbformat.v4.new_code_cell(source) for source in (SETUP, SPLAT)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), tmp_path / "steps.ipynb")
    with jupyter_lab(tmp_path) as (address, token):
        page = browser.new_page(viewport={"width": 1200, "height": 1400})
        page.goto(f"{address}/lab/tree/steps.ipynb?token={token}")
        page.wait_for_selector(".jp-NotebookPanel-toolbar", timeout=60_000)
        run_all(page, address, token)
        page.wait_for_selector(".noUi-handle", timeout=60_000)
        expect_step(page, "img.widget-image", 3)
        page.locator(".noUi-handle").first.focus()
        page.keyboard.press("ArrowLeft")
        expect_step(page, "img.widget-image", 2)
        drag_and_compare(page, page.frame_locator("iframe.splat-viewer").locator("canvas"), blob)
        page.close()


def offline_page(browser, path: Path):
    """A page from a file, without network; gives it and the list of requests that it made in vain."""
    context = browser.new_context(offline=True, viewport={"width": 1100, "height": 1400})
    page, failed = context.new_page(), []
    # fonts of icons are no part of it: older themes ask for them in a way that Chromium refuses to pages from files
    page.on("requestfailed", lambda request: request.url.endswith(".woff2") or failed.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(path.as_uri())
    return page, failed


def test_static_export_steps_through_without_network(browser, blob, tmp_path):
    blob.save_ply(tmp_path / "blob.ply")
    cells = [nbformat.v4.new_markdown_cell("# 00"), *map(nbformat.v4.new_code_cell, (SETUP, SPLAT))]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "in.ipynb")
    papermill = warm.command(["kernels_over_ipc", "--no-progress-bar", "--log-level", "WARNING", "-k", "python3",
                              "--cwd", tmp_path, tmp_path / "in.ipynb", tmp_path / "out.ipynb"])
    subprocess.run(papermill, check=True, capture_output=True, timeout=120)
    (tmp_path / "repository" / "notebooks").mkdir(parents=True)
    (tmp_path / "repository" / "README.md").write_text("# A book of one notebook\n")
    (tmp_path / "out.ipynb").rename(tmp_path / "repository" / "notebooks" / "00_out.ipynb")
    build(tmp_path / "repository", tmp_path / "book")

    page, failed = offline_page(browser, tmp_path / "book" / "notebooks" / "00_out.html")
    expect_step(page, ".static-widgets img", 3)
    page.locator(".static-widgets input[type=range]").focus()
    page.keyboard.press("ArrowLeft")
    expect_step(page, ".static-widgets img", 2)
    drag_and_compare(page, page.frame_locator("iframe.splat-viewer").locator("canvas"), blob)
    assert not failed
    page.context.close()
