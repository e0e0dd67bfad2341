"""Muon (Jordan et al. 2024): momentum whose matrices are made orthogonal, for the hidden layers of F and G."""

import math

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration: singular values end up between 0.7 and 1.2


class Muon(torch.optim.Optimizer):
    """For matrices, and convolutions as matrices (out, in k k). Steps are as large as AdamW's on average, so that its
    learning rate and weight decay fit (Liu et al. 2025, "Muon is scalable for LLM training")."""

    def __init__(self, parameters, lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = {}  # all of a shape at once: few and large operations
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in alike.items():
                for parameter in parameters:
                    self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                gradients = [parameter.grad for parameter in parameters]
                momenta = [self.state[parameter]["momentum"] for parameter in parameters]
                torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
                ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
                steps = orthogonal(torch.stack([one.flatten(1) for one in ahead]))
                size = group["lr"] * 0.2 * math.sqrt(max(steps.shape[1:]))
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, list(steps.view(-1, *shape).to(parameters[0].dtype)), alpha=-size)


def orthogonal(matrices: Tensor, iterations: int = 5) -> Tensor:
    """(N, m, n) to the nearest matrices with orthogonal rows or columns, about; in half precision on GPUs."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    if tall := x.shape[1] > x.shape[2]:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).float().contiguous()


def is_hidden(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is for Muon: matrices between the first layer and the last."""
    return parameter.ndim >= 2 and name.split(".")[0] not in ("input", "output")
