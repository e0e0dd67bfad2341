"""In a real browser: the recursion explorer and the splat viewer in JupyterLab, and the static export without network.

They need Chromium ($CHROMIUM, or one on the path) and playwright, and are skipped without; with
OUROBOROS_REQUIRE_BROWSER=1 they fail instead.
"""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from ouroboros_lib.cameras import orbit_cameras
from ouroboros_lib.evaluation.metrics import psnr
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.rasterization import rasterize
from tools.book.site import build

SIDE = 256

SETUP = """
from types import SimpleNamespace
import torch
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.viz.explorer import recursion_explorer
from ouroboros_lib.viz.notebook import splat_viewer

def trace(blue):  # every step, view and map a colour of its own
    def maps(i, kind):
        red = torch.tensor([[0.1 * v + 0.05, 0.2 * i + 0.1, blue + 0.1 * kind] for v in range(4)])
        return red.view(1, 4, 3, 1, 1).expand(1, 4, 3, 32, 32)
    return [SimpleNamespace(index=i, sigma=8.0 / (i + 1), noisy=maps(i, 0), views=maps(i, 1), rgb=maps(i, 2),
                            ccm=maps(i, 3)) for i in range(4)]

recursion_explorer({"on": trace(0.1), "off": trace(0.5)}, views=(0, 1, 2, 3))
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


@contextmanager
def jupyter_lab(folder: Path):
    """A JupyterLab of its own in `folder`; gives the address of its API and the token."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = "for-this-test-only"
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(folder / "config"), "OMP_WAIT_POLICY": "passive",
                                "JUPYTER_RUNTIME_DIR": str(folder / "runtime"), "HOME": str(folder),
                                "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
                                "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces")}
    environment["NUMBA_CACHE_DIR"] = os.environ.get("NUMBA_CACHE_DIR", str(folder / "numba"))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
               "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}",
               "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{address}/api/status?token={token}", timeout=2)
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail("JupyterLab did not start:\n" + (folder / "lab.log").read_text()[-2000:])
                time.sleep(0.3)
        yield address, token
    finally:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:  # its kernels notice that it is gone, and end
            server.kill()
            server.wait()


def wait_for_kernel(page, sessions: str):
    """Until the page's kernel is connected and idle: a cell run earlier makes JupyterLab ask which kernel to take."""
    deadline = time.monotonic() + 60
    while True:
        found = json.load(urllib.request.urlopen(sessions, timeout=10))
        if found and found[0]["kernel"]["connections"] and found[0]["kernel"]["execution_state"] == "idle":
            page.wait_for_timeout(500)
            return
        assert time.monotonic() < deadline, f"no kernel: {found}"
        page.wait_for_timeout(200)


def shown_color(page, selector: str, part: float) -> torch.Tensor:
    """Colour in [0, 1] at `part` of the width of the one visible picture, halfway down."""
    return torch.tensor(page.locator(f"{selector} >> visible=true").first.evaluate("""(image, part) => {
        const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
        canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
        context.drawImage(image, 0, 0);
        const [x, y] = [Math.floor(part * canvas.width), Math.floor(canvas.height / 2)];
        return Array.from(context.getImageData(x, y, 1, 1).data).slice(0, 3).map(value => value / 255); }""", part))


def color_of(view: int, step: int, kind: int, blue: float) -> torch.Tensor:
    return torch.tensor([0.1 * view + 0.05, 0.2 * step + 0.1, blue + 0.1 * kind])


def expect_page(page, selector: str, view: int, step: int, kind: int):
    """Wait until the page for these choices is shown, left and right."""
    wanted, deadline = [color_of(view, step, kind, blue) for blue in (0.1, 0.5)], time.monotonic() + 10
    while True:
        found = [shown_color(page, selector, part) for part in (0.25, 0.75)]
        error = max(float((a - b).abs().max()) for a, b in zip(wanted, found, strict=True))
        if error < 0.04:  # the next colour is 0.1 away
            return
        assert time.monotonic() < deadline, f"expected {wanted}, saw {found}"
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


def test_explorer_and_splat_viewer_in_jupyterlab(browser, blob, tmp_path):
    blob.save_ply(tmp_path / "blob.ply")
    cells = [nbformat.v4.new_code_cell(source) for source in (SETUP, SPLAT)]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "explorer.ipynb")
    with jupyter_lab(tmp_path) as (address, token):
        page = browser.new_page(viewport={"width": 1200, "height": 1400})
        page.goto(f"{address}/lab/tree/explorer.ipynb?token={token}")
        page.wait_for_selector(".jp-NotebookPanel-toolbar", timeout=60_000)
        wait_for_kernel(page, f"{address}/api/sessions?token={token}")
        page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
        page.locator("#jp-mainmenu-run").get_by_text("Run All Cells", exact=True).click()
        page.wait_for_selector(".noUi-handle", timeout=60_000)

        images = "img.widget-image"
        expect_page(page, images, view=1, step=3, kind=1)  # starts at the last step of view 1, F's estimate
        page.locator(".noUi-handle").first.focus()
        page.keyboard.press("ArrowLeft")
        expect_page(page, images, view=1, step=2, kind=1)
        page.get_by_role("button", name="CCM").click()
        expect_page(page, images, view=1, step=2, kind=3)
        page.get_by_role("button", name="3 (270").click()
        expect_page(page, images, view=3, step=2, kind=3)

        drag_and_compare(page, page.frame_locator("iframe.splat-viewer").locator("canvas"), blob)
        page.close()


def offline_page(browser, path: Path):
    """A page from a file, without network; gives it and the list of requests that it made in vain."""
    context = browser.new_context(offline=True, viewport={"width": 1100, "height": 1400})
    page, failed = context.new_page(), []
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(path.as_uri())
    return page, failed


def test_static_export_steps_through_without_network(browser, blob, tmp_path):
    blob.save_ply(tmp_path / "blob.ply")
    cells = [nbformat.v4.new_markdown_cell("# 00"), *map(nbformat.v4.new_code_cell, (SETUP, SPLAT))]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "in.ipynb")
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-level", "WARNING", "-k", "python3",
               "--cwd", str(tmp_path), str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (tmp_path / "repository" / "notebooks").mkdir(parents=True)
    (tmp_path / "repository" / "README.md").write_text("# A book of one notebook\n")
    (tmp_path / "out.ipynb").rename(tmp_path / "repository" / "notebooks" / "00_out.ipynb")
    build(tmp_path / "repository", tmp_path / "book")

    page, failed = offline_page(browser, tmp_path / "book" / "notebooks" / "00_out.html")
    images = ".static-widgets img"
    expect_page(page, images, view=1, step=3, kind=1)
    page.locator(".static-widgets input[type=range]").focus()
    page.keyboard.press("ArrowLeft")
    expect_page(page, images, view=1, step=2, kind=1)
    page.keyboard.press("ArrowLeft")
    page.get_by_role("button", name="RGB render").click()
    page.get_by_role("button", name="0 (0").click()
    expect_page(page, images, view=0, step=1, kind=2)
    drag_and_compare(page, page.frame_locator("iframe.splat-viewer").locator("canvas"), blob)
    assert not failed
    page.context.close()
