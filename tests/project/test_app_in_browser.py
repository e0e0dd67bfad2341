"""`ouroboros app` as it is used: a picture goes in, a splat and files come out, and nothing leaves the machine."""

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.viz.app import SAMPLES

ROOT = Path(__file__).parents[2]


@contextmanager
def served(folder: Path):
    """The app with the preset `tiny`; gives its address. At its end `folder`, that of temporary files, is empty."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "ouroboros_lib", "app", "--preset", "tiny", "--device", "cpu", "--port", str(port)]
    environment = os.environ | {"TMPDIR": str(folder), "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    try:
        line = server.stdout.readline()  # or nothing, when it ends
        assert line.startswith(f"http://127.0.0.1:{port} ")
        yield line.split()[0]
    finally:
        server.terminate()
        assert server.wait(timeout=20) == 143
    assert not [*folder.glob("ouroboros-app-*"), *folder.glob("gradio")]


def test_a_picture_becomes_a_splat_and_files(browser, tmp_path):
    pytest.importorskip("gradio", reason="gradio is not installed (pip install -e '.[app]')")
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    with served(tmp_path) as address:
        page, foreign = browser.new_page(viewport={"width": 1300, "height": 1600}), []
        page.on("request", lambda request: request.url.startswith((address, "data:", "blob:", "about:"))
                or foreign.append(request.url))
        page.goto(address)
        upload = page.locator("input[type=file]").first
        upload.set_input_files(tmp_path / "bad.png")
        page.get_by_text("bad.png: not a picture that can be read").first.wait_for()
        page.get_by_label("Remove this file").or_(page.get_by_label("Clear")).first.click()
        upload.set_input_files(SAMPLES / "snowman.png")
        page.locator("img[src*='.webp']").first.wait_for()  # what the model sees, before anything else is asked for
        page.get_by_label("number input for Steps").fill("3")
        page.get_by_role("button", name="Generate").click()
        page.frame_locator("iframe.splat-viewer").locator("canvas").wait_for(timeout=60_000)
        page.get_by_text("no opaque Gaussian: no mesh").wait_for()  # random weights make no surface
        names = ("gaussians.ply", "gaussians.splat", "views.zip")
        links = [page.locator(f"a[download='{name}']").first for name in names]
        for link in links:
            link.wait_for()
        (tmp_path / "back.ply").write_bytes(page.request.get(links[0].get_attribute("href")).body())
        assert Gaussians.load(tmp_path / "back.ply").shape[0] > 100
        page.close()
    assert not foreign
