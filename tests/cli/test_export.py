"""`ouroboros export`, `ouroboros view` and `generate --export`."""

import base64
import json
import re
import webbrowser

import pytest
import torch
from gaussian_inputs import figure

from ouroboros_lib.data.folders import read_object
from ouroboros_lib.export import mesh, surface
from ouroboros_lib.gaussians import Gaussians


@pytest.fixture
def splat(tmp_path):
    figure().save(tmp_path / "figure.ply")
    return tmp_path / "figure.ply"


@pytest.fixture
def result(tmp_path):
    """What `generate` leaves, as far as it matters here."""
    (tmp_path / "result").mkdir()
    figure().save(tmp_path / "result" / "gaussians.ply")
    (tmp_path / "result" / "result.json").write_text('{"settings": {"elevation": 25.0}}')
    return tmp_path / "result"


def test_one_file_by_its_suffix(run, splat, tmp_path):
    code, text, errors = run("export", splat, "--out", tmp_path / "deep" / "Small.SPZ")
    assert (code, errors) == (0, "") and text == f"{splat} -> {tmp_path / 'deep' / 'Small.SPZ'}\n"
    torch.testing.assert_close(Gaussians.load(tmp_path / "deep" / "Small.SPZ").means, figure().means, atol=2e-5, rtol=0)
    code, _, _ = run("export", splat, "--out", tmp_path / "up.ply", "--axes", "y-up")
    assert code == 0 and b"comment Vertical axis: 0 1 0\n" in (tmp_path / "up.ply").read_bytes()
    assert run("export", tmp_path / "up.ply", "--out", tmp_path / "up.ply", "--axes", "y-down")[0] == 0  # in place
    assert torch.equal(Gaussians.load(tmp_path / "up.ply").means, figure().means)


def test_several_formats_of_several_sources(run, splat, result, tmp_path):
    code, text, _ = run("export", splat, result, "--out", tmp_path / "out", "--format", "spz, sog,.compressed.ply")
    names = {"gaussians.spz", "gaussians.sog", "gaussians.compressed.ply"}
    assert code == 0 and text.count("->") == 6
    for name in ("figure", "result"):
        assert {path.name for path in (tmp_path / "out" / name).iterdir()} == names
    assert run("export", result, "--out", result, "--format", "splat")[0] == 0  # beside the results
    assert {path.name for path in result.iterdir()} == {"gaussians.ply", "result.json", "gaussians.splat"}


def test_axes_of_files_that_do_not_say(run, tmp_path):
    figure().save(tmp_path / "up.splat", axes="y-up")
    assert run("export", tmp_path / "up.splat", "--out", tmp_path / "a.ply", "--source-axes", "y-up")[0] == 0
    torch.testing.assert_close(Gaussians.load(tmp_path / "a.ply").means.sum(0), figure().means.sum(0))


@pytest.fixture
def coarse(monkeypatch):
    """Meshes from few and small views, quickly."""
    for module, name, value in ((surface, "GRID", 48), (surface, "VIEWS", 12), (mesh, "COLOR_SIZE", 64)):
        monkeypatch.setattr(module, name, value)


def test_a_mesh_and_views(run, result, tmp_path, coarse):
    trimesh = pytest.importorskip("trimesh")
    assert run("export", result, "--out", tmp_path / "x.glb", "--faces", 400) == (
        0, f"{result} -> {tmp_path / 'x.glb'}\n", "")
    written = trimesh.load(tmp_path / "x.glb", force="mesh")
    assert written.is_watertight and 300 < len(written.faces) <= 400
    code, _, errors = run("export", result, "--out", tmp_path / "out", "--format", "views,colmap", "--views", 3,
                          "--size", 32, "--maps", "depth, normals")
    assert (code, errors) == (0, "")
    found = read_object(tmp_path / "out" / "views")
    assert found.images.shape == (3, 3, 32, 32) and (found.depth > 0).any()
    assert found.cameras.c2w[0, 1, 3] / found.cameras.c2w[0, :3, 3].norm() == pytest.approx(0.4226, abs=1e-3)  # 25 up
    assert len([*(tmp_path / "out" / "views").glob("normal_*.png")]) == 3
    assert len([*(tmp_path / "out" / "colmap" / "images").iterdir()]) == 3


BAD = {
    "odd_size": (("{splat}", "--out", "{tmp}/out.mp4", "--size", "33"), "size 33: an mp4 needs an even one"),
    "unknown_map": (("{splat}", "--out", "{tmp}/out", "--format", "views", "--maps", "normal"), "maps 'normal'"),
    "no_faces": (("{splat}", "--out", "{tmp}/out.glb", "--faces", "3"), "--faces"),
    "no_suffix": (("{splat}", "--out", "{tmp}/out"), "no suffix of a format; or say --format"),
    "unknown_suffix": (("{splat}", "--out", "{tmp}/out.xyz"), "no suffix of a format"),
    "unknown_format": (("{splat}", "--out", "{tmp}/out", "--format", "spz,usd"), "format 'usd': expected some of"),
    "file_and_format": (("{splat}", "--out", "{tmp}/out.obj", "--format", "glb"), "leave out one of the two"),
    "two_into_one": (("{splat}", "{result}", "--out", "{tmp}/out.spz"), "one file for 2 sources"),
    "same_names": (("{splat}", "{splat}", "--out", "{tmp}/out", "--format", "spz"), "same folder"),
    "no_result": (("{tmp}/empty", "--out", "{tmp}/out.spz"), "no result of `ouroboros generate`"),
    "missing_result": (("{tmp}/none", "--out", "{tmp}/out.spz"), "none: no such file or folder; name a splat"),
    "missing": (("{tmp}/none.ply", "--out", "{tmp}/out.spz"), "none.ply: no such file"),
    "other_format": (("{tmp}/a.ksplat", "--out", "{tmp}/out.spz"), "mkkellogg's viewer"),
    "axes": (("{splat}", "--out", "{tmp}/out.spz", "--axes", "up"), "axes up: expected one of"),
    "source_axes": (("{splat}", "--out", "{tmp}/out.spz", "--source-axes", "up"), "axes up: expected one of"),
    "out_is_a_folder": (("{splat}", "--out", "{tmp}/folder.spz"), "is a folder where a result must go"),
    "empty": (("{tmp}/faint.ply", "--out", "{tmp}/out.spz"), "there is nothing to write"),
    "no_elevation": (("{tmp}/odd", "--out", "{tmp}/out.spz"), "odd/result.json: expected an object, got a list"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_line(refused, splat, result, tmp_path, kind):
    for name in ("empty", "folder.spz", "odd"):
        (tmp_path / name).mkdir()
    (tmp_path / "odd" / "gaussians.ply").write_bytes(splat.read_bytes())
    (tmp_path / "odd" / "result.json").write_text("[]")
    (tmp_path / "a.ksplat").touch()
    faint = figure()
    faint.opacities[:] = 0
    faint.save(tmp_path / "faint.ply")
    arguments, words = BAD[kind]
    before = set(tmp_path.rglob("*"))
    refused(["export", *(text.format(tmp=tmp_path, splat=splat, result=result) for text in arguments)], words)
    assert set(tmp_path.rglob("*")) == before


def shown(page):
    """What the page draws, as a splat in this library's axes; and the rest of its scene."""
    scene = json.loads(re.search(r'type="application/json">(.*?)</script>', page.read_text(), re.S)[1])
    back = page.with_suffix(".splat")
    back.write_bytes(base64.b64decode(scene["splat"]))
    return Gaussians.load(back, axes="y-up"), scene


def test_view_opens_a_page(run, splat, result, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    code, text, errors = run("view", splat)
    assert (code, errors) == (0, "")
    (page,) = tmp_path.glob("ouroboros-*/figure.ply.html")
    assert opened == [page.as_uri()] and str(page) in text
    drawn, scene = shown(page)
    assert drawn.shape == (3000,) and drawn.means[:, 1].max() > 0.45 and scene["elevation"] == 10
    assert run("view", result, "--out", tmp_path / "out.html", "--no-open")[0] == 0
    assert len(opened) == 1 and shown(tmp_path / "out.html")[1]["elevation"] == 25
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    assert "open that page" in run("view", splat, "--out", tmp_path / "out.html")[1]


def test_view_frames_what_others_have_made(run, tmp_path):
    far = figure()
    far.means, far.scales = far.means * 20 + torch.tensor([300.0, 0.0, 5.0]), far.scales * 20
    far.save(tmp_path / "far.spz")
    assert run("view", tmp_path / "far.spz", "--out", tmp_path / "far.html", "--no-open")[0] == 0
    drawn, _ = shown(tmp_path / "far.html")
    assert drawn.means.norm(dim=-1).quantile(0.95) == pytest.approx(0.55, abs=0.01)
    ours = figure()
    size = ours.scales.max() / (ours.means - ours.means.median(0).values).norm(dim=-1).quantile(0.95)
    assert drawn.scales.max() / 0.55 == pytest.approx(float(size), rel=0.1)


def test_view_refuses(refused, tmp_path, splat):
    (tmp_path / "a.glb").write_bytes(b"glTF")
    refused(["view", tmp_path / "a.glb", "--no-open"], "a.glb", "meshes")
    refused(["view", tmp_path / "none.ply", "--no-open"], "none.ply: no such file")
    refused(["view", splat, "--out", tmp_path, "--no-open"], "is a folder")


def test_generate_exports(run, photo, tmp_path, quick):
    code, text, _ = run("generate", photo, "--out", tmp_path / "out", "--preset", "tiny", "--steps", 1, "--device",
                        "cpu", "--export", "spz,sog")
    assert code == 0 and str(tmp_path / "out" / "gaussians.sog") in text
    files = json.loads((tmp_path / "out" / "result.json").read_text())["files"]
    assert {"gaussians.spz", "gaussians.sog"} < set(files) == {path.name for path in (tmp_path / "out").iterdir()}
    assert Gaussians.load(tmp_path / "out" / "gaussians.sog").shape == Gaussians.load(
        tmp_path / "out" / "gaussians.ply").shape


def test_generate_exports_a_mesh(run, photo, tmp_path, coarse, quick, monkeypatch):
    from ouroboros_lib.export import formats

    arguments = ["generate", photo, "--out", tmp_path / "out", "--preset", "tiny", "--steps", 1, "--device", "cpu",
                 "--export", "glb"]
    code, _, errors = run(*arguments)
    assert code == 2 and errors == f"error: {photo}: no opaque Gaussian: no mesh\n"  # of random weights
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(formats, "write_mesh", lambda path, _, *others: mesh.write_mesh(path, figure(), *others))
    code, text, _ = run(*arguments)
    assert code == 0 and str(tmp_path / "out" / "object.glb") in text
    assert (tmp_path / "out" / "object.glb").read_bytes()[:4] == b"glTF"


def test_generate_refuses_unknown_formats(refused, photo, tmp_path, no_weights):
    for names in ("usd", "", "spz,"):
        refused(["generate", photo, "--out", tmp_path / "out", "--export", names], "expected some of")
    assert not (tmp_path / "out").exists()
