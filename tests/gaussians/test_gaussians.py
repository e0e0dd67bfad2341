"""Gaussians: covariances, packing, rotations."""

import torch
import torch.nn.functional as F
from gaussian_inputs import random_gaussians

from ouroboros_lib.gaussians import Gaussians, matrix_to_quaternion, quaternion_to_matrix


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


def test_matrices_to_quaternions():
    turns = F.normalize(torch.randn(500, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0)), dim=-1)
    turns = torch.cat([turns, torch.eye(4).double()])  # among them half turns, where w is 0
    found = matrix_to_quaternion(quaternion_to_matrix(turns))
    torch.testing.assert_close((found * turns).sum(-1).abs(), torch.ones(504, dtype=torch.double))
    assert (found[:, 0] >= 0).all()
