"""Gaussians: covariances, packing, and the .ply and .splat files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from plyfile import PlyData, PlyElement

from ouroboros_lib.errors import InputError
from ouroboros_lib.gaussians import Gaussians, matrix_to_quaternion, quaternion_to_matrix
from ouroboros_lib.gaussians.ply import SH_C0


def random_gaussians(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Gaussians(means=torch.randn(*shape, 3, generator=generator),
                     opacities=0.01 + 0.98 * torch.rand(shape, generator=generator),
                     scales=0.001 + torch.rand(*shape, 3, generator=generator),
                     quaternions=F.normalize(torch.randn(*shape, 4, generator=generator), dim=-1),
                     colors=torch.rand(*shape, 3, generator=generator))


def test_covariance_by_hand():
    """A quarter turn about z takes the x axis to y: the long axis ends up along y."""
    half = 0.5 ** 0.5
    gaussian = Gaussians(torch.zeros(1, 3), torch.ones(1), torch.tensor([[3.0, 2.0, 1.0]]),
                         torch.tensor([[half, 0.0, 0.0, half]]), torch.zeros(1, 3))
    torch.testing.assert_close(gaussian.rotations()[0] @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]))
    torch.testing.assert_close(gaussian.covariances()[0], torch.diag(torch.tensor([4.0, 9.0, 1.0])))


def test_rotations():
    quaternions = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    rotation = quaternion_to_matrix(quaternions)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(100, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(100))
    torch.testing.assert_close(quaternion_to_matrix(-3 * quaternions), rotation)  # length and sign do not matter
    torch.testing.assert_close(quaternion_to_matrix(torch.tensor([1.0, 0, 0, 0])), torch.eye(3))


def test_covariance_eigenvalues_are_the_squared_scales():
    gaussians = random_gaussians(2, 20)
    eigenvalues = torch.linalg.eigvalsh(gaussians.covariances().double())
    torch.testing.assert_close(eigenvalues, gaussians.scales.double().square().sort(-1).values, atol=1e-6, rtol=1e-4)


def test_packing_round_trip_and_indexing():
    gaussians = random_gaussians(2, 5)
    packed = gaussians.to_tensor()
    assert packed.shape == (2, 5, 14) and gaussians.shape == (2, 5)
    assert torch.equal(packed[..., 3], gaussians.opacities)
    for name, tensor in vars(Gaussians.from_tensor(packed)).items():
        assert torch.equal(tensor, getattr(gaussians, name))
    assert gaussians[1].shape == (5,) and torch.equal(gaussians[1].colors, gaussians.colors[1])
    assert gaussians.to(torch.float64).float().means.dtype == torch.float32
    gaussians.means.requires_grad_()
    assert gaussians.means.requires_grad and not gaussians.detach().means.requires_grad


def test_ply_round_trip_is_lossless_to_float32(tmp_path):
    gaussians = random_gaussians(500)
    gaussians.save_ply(tmp_path / "g.ply")
    again = Gaussians.load_ply(tmp_path / "g.ply")
    assert torch.equal(again.means, gaussians.means)
    for name in ("opacities", "scales", "quaternions", "colors"):
        torch.testing.assert_close(getattr(again, name), getattr(gaussians, name), atol=3e-7, rtol=1e-6)


def test_quaternions_can_be_taken_as_stored(tmp_path):
    """As a rasterizer that does not normalise sees them; by hand: the axes of R = I + 2 (w [v] + [v]^2), v the rest."""
    unit = random_gaussians(40)
    length = torch.tensor([1.0, 0.007, 0.6, 1.7]).repeat(10)
    stored = replace(unit, quaternions=unit.quaternions * length[:, None])
    stored.save_ply(tmp_path / "g.ply")
    w, v = stored.quaternions.double().split([1, 3], -1)
    cross = torch.stack([torch.linalg.cross(v, axis.expand_as(v)) for axis in torch.eye(3, dtype=v.dtype)], -1)
    turn = torch.eye(3) + 2 * (w[..., None] * cross + cross @ cross)
    half = turn * unit.scales[:, None].double()
    taken = Gaussians.load_ply(tmp_path / "g.ply", unit_quaternions=False)
    torch.testing.assert_close(taken.covariances().double(), half @ half.mT, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(taken.quaternions.norm(dim=-1), torch.ones(40))
    normalised = Gaussians.load_ply(tmp_path / "g.ply")
    torch.testing.assert_close(normalised.covariances(), unit.covariances(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(taken.to_tensor()[::4], normalised.to_tensor()[::4])  # of length 1: nothing changes
    error = (taken.covariances() - normalised.covariances()).flatten(1).norm(dim=1)
    assert error[1::4].median() > 0.1  # the short ones are nearly unturned


def test_matrices_to_quaternions():
    turns = F.normalize(torch.randn(500, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0)), dim=-1)
    turns = torch.cat([turns, torch.eye(4).double()])  # among them half turns, where w is 0
    found = matrix_to_quaternion(quaternion_to_matrix(turns))
    torch.testing.assert_close((found * turns).sum(-1).abs(), torch.ones(504, dtype=torch.double))
    assert (found[:, 0] >= 0).all()


def test_ply_keeps_extremes_finite(tmp_path):
    gaussians = random_gaussians(4)
    gaussians.opacities[:] = torch.tensor([0.0, 1.0, 0.5, 1e-6])
    gaussians.scales[0] = 0
    gaussians.save_ply(tmp_path / "g.ply")
    again = Gaussians.load_ply(tmp_path / "g.ply")
    assert all(torch.isfinite(tensor).all() for tensor in vars(again).values())
    torch.testing.assert_close(again.opacities, gaussians.opacities, atol=2e-7, rtol=0)


def test_ply_has_the_standard_fields(tmp_path):
    gaussians = random_gaussians(3)
    gaussians.save_ply(tmp_path / "g.ply")
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


def test_splat_round_trip_to_8_bits(tmp_path):
    gaussians = random_gaussians(300)
    gaussians.save_splat(tmp_path / "g.splat")
    assert (tmp_path / "g.splat").stat().st_size == 32 * 300
    again = Gaussians.load_splat(tmp_path / "g.splat")
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
                    torch.tensor([[1.0, 0.0, -0.5, 0.0]]), torch.tensor([[0.0, 0.2, 1.7]]))
    one.save_splat(tmp_path / "g.splat")
    data = (tmp_path / "g.splat").read_bytes()
    assert np.frombuffer(data[:24], "<f4").tolist() == [1, 2, 3, 4, 5, 6]
    assert list(data[24:]) == [0, 51, 255, 255, 255, 128, 64, 128]


def test_files_hold_one_set(tmp_path):
    for save in (random_gaussians(2, 3).save_ply, random_gaussians(2, 3).save_splat):
        with pytest.raises(ValueError, match="index the batch first"):
            save(tmp_path / "g")
    assert list(tmp_path.iterdir()) == []


def bad_ply(tmp_path, kind):
    path = tmp_path / f"{kind}.ply"
    random_gaussians(50).save_ply(path)
    whole = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(whole[:-100])
    elif kind == "header_only_half":
        path.write_bytes(whole[:60])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("hello, this is not a ply\n")
    elif kind == "binary":
        path.write_bytes(bytes(range(256)) * 4)
    elif kind == "mesh":
        PlyData([PlyElement.describe(np.zeros(3, [("x", "f4"), ("y", "f4"), ("z", "f4")]), "vertex")]).write(str(path))
    elif kind == "no_vertices":
        PlyData([PlyElement.describe(np.zeros(3, [("a", "f4")]), "face")]).write(str(path))
    elif kind == "missing":
        path.unlink()
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["truncated", "header_only_half", "empty", "text", "binary", "mesh", "no_vertices",
                                  "missing", "folder"])
def test_bad_ply_files_get_one_line(tmp_path, kind):
    path = bad_ply(tmp_path, kind)
    with pytest.raises(InputError) as caught:
        Gaussians.load_ply(path)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


def test_bad_splat_files_get_one_line(tmp_path):
    random_gaussians(5).save_splat(tmp_path / "g.splat")
    (tmp_path / "truncated.splat").write_bytes((tmp_path / "g.splat").read_bytes()[:-1])
    (tmp_path / "empty.splat").write_bytes(b"")
    (tmp_path / "folder.splat").mkdir()
    for name in ("truncated", "empty", "missing", "folder"):
        with pytest.raises(InputError) as caught:
            Gaussians.load_splat(tmp_path / f"{name}.splat")
        assert name in str(caught.value) and "\n" not in str(caught.value)
