"""Splat files: round trips, the bytes by hand, the axes that they are in, and one line for what cannot be read."""

import sys
from dataclasses import replace
from pathlib import Path

import gsply
import numpy as np
import pytest
import torch
from gaussian_inputs import figure, random_gaussians
from plyfile import PlyData, PlyElement

from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.metrics import psnr
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.gaussians.formats import FORMATS
from ouroboros_lib.gaussians.ply import SH_C0
from ouroboros_lib.rasterization import rasterize


def test_ply_round_trip_is_lossless_to_float32(tmp_path):
    gaussians = random_gaussians(500)
    gaussians.save(tmp_path / "g.ply")
    again = Gaussians.load(tmp_path / "g.ply")
    assert torch.equal(again.means, gaussians.means)
    for name in ("opacities", "scales", "quaternions", "colors"):
        torch.testing.assert_close(getattr(again, name), getattr(gaussians, name), atol=3e-7, rtol=1e-6)


@pytest.mark.parametrize("axes", ["y-down", "y-up", "z-up"])
@pytest.mark.parametrize("suffix, decibels", [(".ply", 90), (".compressed.ply", 40), (".splat", 40), (".spz", 40),
                                              (".sog", 40)])
def test_every_format_draws_the_same(tmp_path, suffix, decibels, axes):
    gaussians, rig = figure(), evenly_spaced_orbit(2, 20.0)
    gaussians.save(tmp_path / f"g{suffix}", axes=axes)
    stated = None if suffix.endswith("ply") else axes
    again = Gaussians.load(tmp_path / f"g{suffix}", axes=stated)
    assert again.shape == gaussians.shape
    assert psnr(rasterize(again, rig, 64).rgb, rasterize(gaussians, rig, 64).rgb).min() > decibels
    if axes == "y-down":  # the same without saying so
        assert torch.equal(Gaussians.load(tmp_path / f"g{suffix}").means, again.means)


def test_axes_by_hand(tmp_path):
    """The head is at y = 0.3, the nose at z = 0.4: below and behind in a file whose y axis points down."""
    points = Gaussians(torch.tensor([[0.0, 0.3, 0.0], [0.0, 0.0, 0.4]]), torch.ones(2), torch.full((2, 3), 0.1),
                       torch.tensor([1.0, 0, 0, 0]).expand(2, 4), torch.ones(2, 3))
    for axes, head, nose, comment in (("y-down", [0, -0.3, 0], [0, 0, -0.4], "y"), ("y-up", [0, 0.3, 0], [0, 0, 0.4],
                                      "0 1 0"), ("z-up", [0, 0, 0.3], [0, -0.4, 0], "z")):
        points.save(tmp_path / "g.ply", axes=axes)
        data = PlyData.read(str(tmp_path / "g.ply"))
        rows = np.stack([data["vertex"][name] for name in "xyz"], 1)
        np.testing.assert_allclose(rows, [head, nose], atol=1e-6)
        assert data.comments[0] == f"Vertical axis: {comment}" and axes in data.comments[1]


@pytest.mark.parametrize("comment, height", [
    (None, 0.3), ("Vertical axis: y", -0.3), ("vertical Axis:  -Y", -0.3), ("Vertical axis: 0 1 0", 0.3),
    ("Vertical Axis: [0.0, -1.0, 0.0]", -0.3), ("Vertical axis: +y", 0.3), ("Größe 3, also Vertical axis", 0.3)])
def test_headers_are_read(tmp_path, comment, height):
    """Files that say nothing are taken as they are, whatever language their comments are in."""
    plain(tmp_path / "g.ply", comment)
    assert Gaussians.load(tmp_path / "g.ply").means[0, 1] == pytest.approx(height)
    assert Gaussians.load(tmp_path / "g.ply", axes="y-down").means[0, 1] == pytest.approx(-0.3)


def plain(path: Path, comment: str | None) -> None:
    """One Gaussian at y = 0.3 in a file of others."""
    one = random_gaussians(1)
    one.means[:] = torch.tensor([0.0, 0.3, 0.0])
    data = one.to_bytes(path, axes="y-up")
    start, end = data.index(b"comment"), data.index(b"element")
    path.write_bytes(data[:start] + (f"comment {comment}\n".encode() if comment else b"") + data[end:])


def test_what_a_header_says_in_vain(tmp_path):
    plain(tmp_path / "g.ply", "Vertical axis: north")
    with pytest.raises(InputError, match="g.ply: its header says 'Vertical axis: north'"):
        Gaussians.load(tmp_path / "g.ply")
    assert Gaussians.load(tmp_path / "g.ply", axes="y-up").means[0, 1] == pytest.approx(0.3)
    with pytest.raises(InputError, match="axes up: expected one of y-up, y-down, z-up"):
        Gaussians.load(tmp_path / "g.ply", axes="up")


def test_what_cannot_be_seen_is_left_out(tmp_path):
    gaussians, rig = figure(), evenly_spaced_orbit(2, 20.0)
    gaussians.opacities[::2] = 1 / 255 - 1e-4
    for suffix in FORMATS:
        gaussians.save(tmp_path / f"g{suffix}")
        assert Gaussians.load(tmp_path / f"g{suffix}").shape == (1500,)
    gaussians.save(tmp_path / "g.ply")
    again = Gaussians.load(tmp_path / "g.ply")
    assert (rasterize(again, rig, 64).rgb - rasterize(gaussians, rig, 64).rgb).abs().max() < 1e-5
    gaussians.opacities[:] = 0.003
    gaussians.save(tmp_path / "none.ply")
    assert Gaussians.load(tmp_path / "none.ply").shape == (0,)
    with pytest.raises(InputError, match="none.spz: none of the 3000 Gaussians can be seen"):
        gaussians.save(tmp_path / "none.spz")
    assert not (tmp_path / "none.spz").exists()


def test_quaternions_can_be_taken_as_stored(tmp_path):
    """As a rasterizer that does not normalise sees them; by hand: the axes of R = I + 2 (w [v] + [v]^2), v the rest."""
    unit = random_gaussians(40)
    length = torch.tensor([1.0, 0.007, 0.6, 1.7]).repeat(10)
    stored = replace(unit, quaternions=unit.quaternions * length[:, None])
    stored.save(tmp_path / "g.ply", axes="y-up")
    w, v = stored.quaternions.double().split([1, 3], -1)
    cross = torch.stack([torch.linalg.cross(v, axis.expand_as(v)) for axis in torch.eye(3, dtype=v.dtype)], -1)
    turn = torch.eye(3) + 2 * (w[..., None] * cross + cross @ cross)
    half = turn * unit.scales[:, None].double()
    taken = Gaussians.load(tmp_path / "g.ply", unit_quaternions=False)
    torch.testing.assert_close(taken.covariances().double(), half @ half.mT, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(taken.quaternions.norm(dim=-1), torch.ones(40))
    normalised = Gaussians.load(tmp_path / "g.ply")
    torch.testing.assert_close(normalised.covariances(), unit.covariances(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(taken.to_tensor()[::4], normalised.to_tensor()[::4])  # of length 1: nothing changes
    error = (taken.covariances() - normalised.covariances()).flatten(1).norm(dim=1)
    assert error[1::4].median() > 0.1  # the short ones are nearly unturned


def test_ply_keeps_extremes_finite(tmp_path):
    gaussians = random_gaussians(4)
    gaussians.opacities[:] = torch.tensor([0.004, 1.0, 0.5, 0.1])
    gaussians.scales[0] = 0
    gaussians.save(tmp_path / "g.ply")
    again = Gaussians.load(tmp_path / "g.ply")
    assert all(torch.isfinite(tensor).all() for tensor in vars(again).values())
    torch.testing.assert_close(again.opacities, gaussians.opacities, atol=2e-7, rtol=0)


def test_ply_has_the_standard_fields(tmp_path):
    gaussians = random_gaussians(3)
    gaussians.save(tmp_path / "g.ply", axes="y-up")
    data = PlyData.read(str(tmp_path / "g.ply"))
    assert [element.name for element in data.elements] == ["vertex"] and data.byte_order == "<" and not data.text
    assert [p.name for p in data["vertex"].properties] == [
        "x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity",
        "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    vertex = data["vertex"]
    np.testing.assert_allclose(1 / (1 + np.exp(-vertex["opacity"])), gaussians.opacities, rtol=1e-5)
    np.testing.assert_allclose(np.exp(vertex["scale_1"]), gaussians.scales[:, 1], rtol=1e-5)
    np.testing.assert_allclose(0.5 + SH_C0 * vertex["f_dc_2"], gaussians.colors[:, 2], atol=1e-6)
    np.testing.assert_allclose(vertex["rot_0"], gaussians.quaternions[:, 0], rtol=1e-6)  # w first


def test_gsply_reads_the_same(tmp_path):
    gaussians = random_gaussians(300)
    theirs = gsply.read_spz(saved(gaussians, tmp_path / "g.spz"))
    torch.testing.assert_close(torch.from_numpy(theirs.means), gaussians.means, atol=2e-5, rtol=0)
    package = gsply.decompress_from_bytes(saved(gaussians, tmp_path / "g.compressed.ply").read_bytes())
    assert len(package.means) == 300 and abs(package.means).max() < gaussians.means.abs().max() + 0.01
    gsply.write_spz(tmp_path / "four.spz", theirs, version=4)  # as splat-transform writes it
    torch.testing.assert_close(Gaussians.load(tmp_path / "four.spz", axes="y-up").means, torch.from_numpy(theirs.means),
                               atol=2e-4, rtol=0)


def saved(gaussians: Gaussians, path: Path) -> Path:
    gaussians.save(path, axes="y-up")
    return path


def test_spz_reaches_as_far_as_the_scene(tmp_path):
    far = random_gaussians(20)
    far.means[0] = torch.tensor([900.0, -3.0, 0.0])
    torch.testing.assert_close(Gaussians.load(saved(far, tmp_path / "g.spz"), axes="y-up").means, far.means, atol=2e-4,
                               rtol=0)


def test_sog_packs_to_8_bits(tmp_path):
    gaussians = random_gaussians(700)
    again = Gaussians.load(saved(gaussians, tmp_path / "g.sog"), axes="y-up")
    torch.testing.assert_close(again.means, gaussians.means, atol=3e-4, rtol=0)
    torch.testing.assert_close(again.opacities, gaussians.opacities, atol=0.5001 / 255, rtol=0)
    torch.testing.assert_close(again.colors, gaussians.colors, atol=0.01, rtol=0)
    torch.testing.assert_close(again.scales, gaussians.scales, atol=0, rtol=0.05)
    torch.testing.assert_close(again.rotations(), gaussians.rotations(), atol=0.03, rtol=0)


def test_splat_round_trip_to_8_bits(tmp_path):
    gaussians = random_gaussians(300)
    gaussians.save(tmp_path / "g.splat")
    assert (tmp_path / "g.splat").stat().st_size == 32 * 300
    again = Gaussians.load(tmp_path / "g.splat")
    visible = again.scales.prod(-1) * again.opacities
    assert (visible[1:] <= visible[:-1] * 1.6 + 1e-6).all() and visible[0] > visible[-1]  # 8-bit opacities, sorted
    order = torch.argsort(gaussians.scales.prod(-1) * gaussians.opacities, descending=True, stable=True)
    expected = gaussians[order]
    assert torch.equal(again.means, expected.means) and torch.equal(again.scales, expected.scales)
    torch.testing.assert_close(again.colors, expected.colors, atol=0.5001 / 255, rtol=0)
    torch.testing.assert_close(again.opacities, expected.opacities, atol=0.5001 / 255, rtol=0)
    torch.testing.assert_close(again.rotations(), expected.rotations(), atol=0.03, rtol=0)


def test_splat_record_by_hand(tmp_path):
    one = Gaussians(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1.0]), torch.tensor([[4.0, 5.0, 6.0]]),
                    torch.tensor([[0.6, 0.0, -0.8, 0.0]]), torch.tensor([[0.0, 0.2, 1.7]]))
    one.save(tmp_path / "g.splat", axes="y-up")
    data = (tmp_path / "g.splat").read_bytes()
    assert np.frombuffer(data[:24], "<f4").tolist() == [1, 2, 3, 4, 5, 6]
    assert list(data[24:]) == [0, 51, 255, 255, 205, 128, 26, 128]


def test_files_hold_one_set(tmp_path):
    with pytest.raises(ValueError, match="index the batch first"):
        random_gaussians(2, 3).save(tmp_path / "g.ply")
    assert list(tmp_path.iterdir()) == []


BAD_PLY = {
    "truncated": lambda whole: whole[:-100], "header_only_half": lambda whole: whole[:60], "empty": lambda whole: b"",
    "text": lambda whole: b"hello, this is not a ply", "binary": lambda whole: bytes(range(256)) * 4,
    "no_vertices": lambda whole: whole.replace(b"element vertex", b"element people"),
    "mesh": lambda whole: ply_bytes(["x", "y", "z", "red"]),
    "not_numbers": lambda whole: whole.replace(b"float", b"feet"),
}


def ply_bytes(names: list[str]) -> bytes:
    """Three vertices with these columns."""
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 3\n" + "".join(
        f"property float {name}\n" for name in names) + "end_header\n"
    return header.encode() + bytes(12 * len(names))


@pytest.mark.parametrize("kind", [*BAD_PLY, "missing", "folder"])
def test_bad_ply_files_get_one_line(tmp_path, kind):
    path = tmp_path / f"{kind}.ply"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(BAD_PLY[kind](random_gaussians(50).to_bytes(path)))
    with pytest.raises(InputError) as caught:
        Gaussians.load(path)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)
    if kind == "mesh":
        assert "a mesh or a point cloud, no splat: its vertices have no opacity, scale_0" in str(caught.value)


@pytest.mark.parametrize("suffix", [".splat", ".spz", ".sog", ".compressed.ply"])
def test_bad_files_of_other_formats_get_one_line(tmp_path, suffix):
    whole = random_gaussians(300).to_bytes(suffix)
    (tmp_path / f"truncated{suffix}").write_bytes(whole[:-1])
    (tmp_path / f"half{suffix}").write_bytes(whole[:len(whole) // 2 + 3])
    (tmp_path / f"empty{suffix}").write_bytes(b"")
    (tmp_path / f"noise{suffix}").write_bytes(bytes(range(255)) * 3)
    (tmp_path / f"folder{suffix}").mkdir()
    for name in ("truncated", "half", "empty", "noise", "missing", "folder"):
        with pytest.raises(InputError) as caught:
            Gaussians.load(tmp_path / f"{name}{suffix}")
        assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name, words", [
    ("a.ksplat", "is a file of mkkellogg's viewer, .ksplat is no splat format"), ("a.glb", "is a file of meshes"),
    ("a.txt", ".txt is no splat format that is read or written here: use one of .compressed.ply, .ply"),
    ("a", "no suffix is no splat format")])
def test_other_formats_are_named(tmp_path, name, words):
    for act in (Gaussians.load, random_gaussians(3).save):
        with pytest.raises(InputError, match=words):
            act(tmp_path / name)


def test_numbers_that_no_gaussian_has(tmp_path):
    for name in ("means", "scales", "quaternions", "colors", "opacities"):
        broken = random_gaussians(5)
        getattr(broken, name)[2] = float("nan")
        with pytest.raises(InputError, match="b.ply: holds numbers that are not finite"):
            broken.save(tmp_path / "b.ply")
    assert not any(tmp_path.iterdir())
    for column, value in (("x", np.nan), ("scale_1", 200), ("rot_2", np.inf)):
        data = PlyData.read(str(saved(random_gaussians(5), tmp_path / "g.ply")))
        table = data["vertex"].data.copy()
        table[column][3] = value
        PlyData([PlyElement.describe(table, "vertex")]).write(str(tmp_path / "bad.ply"))
        with pytest.raises(InputError, match="bad.ply: holds numbers that are not finite"):
            Gaussians.load(tmp_path / "bad.ply")
    record = bytearray(random_gaussians(2).to_bytes(".splat"))
    record[12:16] = np.float32(-0.1).tobytes()
    (tmp_path / "g.splat").write_bytes(record)
    with pytest.raises(InputError, match="g.splat: holds negative scales"):
        Gaussians.load(tmp_path / "g.splat")


def test_without_gsply(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gsply", None)
    for suffix in (".spz", ".compressed.ply"):
        with pytest.raises(InputError, match=r"need the package gsply: pip install -e '.\[export\]'"):
            random_gaussians(3).save(tmp_path / f"g{suffix}")
    assert not any(tmp_path.iterdir())
