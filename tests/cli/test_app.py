"""`ouroboros app`: what it refuses, and what its page is given. In a browser: tests/project/test_app_in_browser.py."""

import socket
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from ouroboros_lib.cli import app
from ouroboros_lib.data.photo import load_photo
from ouroboros_lib.errors import InputError
from ouroboros_lib.export import formats
from ouroboros_lib.models.elevation import ElevationEstimator
from ouroboros_lib.viz.app import SAMPLES, app_page, generate_live


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def test_refusals_come_before_the_weights(refused, monkeypatch, port):
    monkeypatch.setattr(app, "load_pipeline", lambda name: pytest.fail("the weights were loaded"))
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR"):  # which the command sets
        monkeypatch.setenv(name, "")
    monkeypatch.setitem(sys.modules, "gradio", None)
    refused(["app", "--port", 70000], "--port", "65535")
    refused(["app", "--port", port, "--host", "192.0.2.1"], "--host 192.0.2.1", "cannot listen there")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused(["app", "--port", taken.getsockname()[1]], "cannot listen there", "in use")
    refused(["app", "--port", port], "gradio", "pip install -e '.[app]'")


def test_every_reconstruction_is_shown_then_the_splat_then_the_mesh(tiny, tmp_path, monkeypatch):
    picture = SAMPLES / "snowman.png"
    shown, before = [], set(tmp_path.iterdir())
    monkeypatch.setattr(formats, "write_mesh", lambda path, *_: path.write_bytes(b"glTF" * 200))
    for parts in generate_live(tiny, picture, 20.0, "paper,every=2", 4, 0, tmp_path):
        shown.append({name: Path(value).read_bytes() if name == "mesh" else value for name, value in parts.items()})
        if "files" in parts:
            assert all(Path(file).stat().st_size > 500 for file in parts["files"])
            names = [Path(file).name for file in parts["files"]]
            if "views.zip" in names:
                assert "transforms.json" in zipfile.ZipFile(parts["files"][2]).namelist()
    assert set(tmp_path.iterdir()) == before
    assert [set(parts) for parts in shown[:5]] == [{"status", "views", "recursion"}, {"status"}] + [
        {"status", "views", "recursion"}] + [{"status", "views", "recursion"}, {"status", "files", "splat"}]
    assert shown[0]["recursion"].height < shown[2]["recursion"].height and "step 4 of 4" in shown[3]["status"]
    assert "<iframe" in shown[4]["splat"] and "&quot;elevation&quot;: 20.0" in shown[4]["splat"]
    assert shown[5]["mesh"][:4] == b"glTF" and names == ["gaussians.ply", "gaussians.splat", "views.zip", "object.glb"]

    assert set(shown[6]) == {"status"} and len(shown) == 7


def test_the_page_estimates_the_elevation_of_a_picture(tiny, tmp_path):
    gradio = pytest.importorskip("gradio", reason="gradio is not installed (pip install -e '.[app]')")
    picture = str(SAMPLES / "snowman.png")
    for network in (None, ElevationEstimator().eval()):
        tiny.register_modules(elevation=network)
        page = app_page(tiny, tmp_path)
        cut_out = next(listener.fn for listener in page.fns.values() if listener.fn.__name__ == "cut_out")
        framed = load_photo(picture, 32).image[None]
        wanted = round(float(tiny.estimate_elevation(framed))) if network else gradio.skip()
        assert cut_out(picture)[2] == wanted and cut_out(None) == (None, "", gradio.skip())


def test_nothing_of_a_picture_is_kept(tiny, tmp_path):
    """A cut-out picture of 512 x 512 pixels takes 4 MiB."""
    ImageDraw.Draw(picture := Image.new("RGBA", (512, 512))).ellipse((50, 50, 450, 450), fill=(200, 80, 40, 255))
    picture.save(tmp_path / "a.png")
    kept = []
    tracemalloc.start()
    for _ in range(4):
        live = generate_live(tiny, tmp_path / "a.png", 20.0, "paper", 1, 0, tmp_path)
        next(live)
        live.close()
        kept.append(tracemalloc.get_traced_memory()[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak > 4 * 2**20 and kept[3] < kept[0] + 2**20


def test_a_splat_without_a_surface_gives_no_mesh_and_says_so(tiny, tmp_path):
    *_, last = generate_live(tiny, SAMPLES / "snowman.png", 20.0, "two-stage", 1, 0, tmp_path)  # of random weights
    assert "no opaque Gaussian: no mesh" in last["status"] and len(last["files"]) == 3


def test_a_full_disk_is_said_and_leaves_nothing(tiny, tmp_path, monkeypatch):
    def full(path, *_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(formats, "write_mesh", full)
    with pytest.raises(InputError, match=f"{tmp_path}: No space left on device; make room there"):
        list(generate_live(tiny, SAMPLES / "snowman.png", 20.0, "two-stage", 1, 0, tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_run_is_that_of_the_pipeline_and_leaves_nothing_when_it_is_ended(tiny, tmp_path):
    import torch

    from ouroboros_lib.data.photo import load_photo
    from ouroboros_lib.gaussians import Gaussians

    picture = SAMPLES / "snowman.png"
    run = generate_live(tiny, picture, 10.0, "paper", 2, 7, tmp_path)
    files = next(parts["files"] for parts in run if "files" in parts)
    splat = Gaussians.load(files[0])
    run.close()
    assert not list(tmp_path.iterdir())
    wanted = tiny(load_photo(picture, tiny.image_size).image[None], num_inference_steps=2, plan="paper",
                  generator=torch.Generator().manual_seed(7)).gaussians[0]
    wanted.save(tmp_path / "wanted.ply")
    assert torch.equal(splat.means, Gaussians.load(tmp_path / "wanted.ply").means)


def test_bad_pictures_and_plans(tiny, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    for picture, plan, words in ((tmp_path / "bad.png", "paper", "not a picture"), (None, "none", "plan 'none'")):
        with pytest.raises(InputError, match=words):
            next(generate_live(tiny, picture, 10.0, plan, 2, 0, tmp_path))
