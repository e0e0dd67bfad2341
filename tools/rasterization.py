"""Time the rasterizer; with CUDA, also compare gsplat and numba: `python -m tools.rasterization`.

Times are the median of 9 runs after one that compiles or warms up, in milliseconds.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ouroboros_lib.cameras import Cameras, evenly_spaced_orbit, to_canonical
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.rasterization import Rendering, rasterize
from tools.benchmark import median_seconds

RUNS = 9


def bumpy_sphere(count: int, seed: int = 0) -> Gaussians:
    """`count` Gaussians on a bumpy, colourful, partly transparent sphere; about one pixel wide at 128 px."""
    generator = torch.Generator().manual_seed(seed)
    direction = F.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    radius = 0.45 * (1 + 0.15 * torch.sin(5 * direction[:, :1]) * torch.cos(4 * direction[:, 1:2]))
    return Gaussians(means=direction * radius,
                     opacities=torch.sigmoid(1 + torch.randn(count, generator=generator)),
                     scales=0.005 + 0.01 * torch.rand(count, 3, generator=generator),
                     quaternions=F.normalize(torch.randn(count, 4, generator=generator), dim=-1),
                     colors=0.5 + 0.5 * torch.sin(6 * direction))


def values_and_gradients(gaussians: Gaussians, cameras: Cameras, size: int, backend: str | None = None,
                         ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Render with the CCM's channels as extra ones, and differentiate a fixed random weighting of all four outputs.

    Returns the outputs and the gradients by name, on the CPU.
    """
    leaves = gaussians.map(lambda tensor: tensor.detach().clone().requires_grad_())
    poses = cameras.c2w.detach().clone().requires_grad_()
    extra = to_canonical(gaussians.means.detach()).requires_grad_()
    rendering = rasterize(leaves, Cameras(poses, cameras.intrinsics), size, extra=extra, backend=backend)
    generator = torch.Generator().manual_seed(1)
    weighted = 0
    for output in vars(rendering).values():
        weighted = weighted + (torch.rand(output.shape, generator=generator).to(output) * output).sum()
    weighted.backward()
    gradients = {name: leaf.grad.cpu() for name, leaf in vars(leaves).items()}
    outputs = {name: output.detach().cpu() for name, output in vars(rendering).items()}
    return outputs, gradients | {"extra": extra.grad.cpu(), "c2w": poses.grad.cpu()}


def relative_error(value: Tensor, reference: Tensor) -> float:
    """||value - reference|| / ||reference||."""
    return float((value - reference).norm() / reference.norm())


def _milliseconds(function, device: torch.device) -> float:
    function()
    return 1000 * median_seconds(function, RUNS, device)


def _loss(rendering: Rendering) -> Tensor:
    return sum(output.square().mean() for output in vars(rendering).values() if output is not None)


def _report_times(device: torch.device, backend: str) -> None:
    for count, views, channels in ((16384, 1, 0), (32768, 8, 3)):
        gaussians = bumpy_sphere(count).to(device).map(lambda tensor: tensor.requires_grad_())
        cameras = evenly_spaced_orbit(views).to(device)
        extra = to_canonical(gaussians.means.detach()) if channels else None

        def forward(gaussians=gaussians, cameras=cameras, extra=extra):
            with torch.no_grad():
                rasterize(gaussians, cameras, 128, extra=extra)

        def both(gaussians=gaussians, cameras=cameras, extra=extra):
            _loss(rasterize(gaussians, cameras, 128, extra=extra)).backward()

        print(f"{backend:6} {count} Gaussians, {views} view(s), 128 px, {3 + channels} channels + depth: "
              f"forward {_milliseconds(forward, device):.1f} ms, with backward {_milliseconds(both, device):.1f} ms")


def _report_agreement() -> None:
    gaussians, cameras = bumpy_sphere(16384), evenly_spaced_orbit(4)
    cuda = torch.device("cuda")
    outputs, gradients = values_and_gradients(gaussians.to(cuda), cameras.to(cuda), 128, "gsplat")
    reference, reference_gradients = values_and_gradients(gaussians, cameras, 128, "numba")
    for name, output in outputs.items():
        print(f"gsplat - numba, {name}: at most {float((output - reference[name]).abs().max()):.1e}")
    for name, gradient in gradients.items():
        print(f"gsplat - numba, gradient of {name}: {relative_error(gradient, reference_gradients[name]):.1e} relative")


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    _report_times(torch.device("cpu"), "numba")
    if torch.cuda.is_available():
        _report_times(torch.device("cuda"), "gsplat")
        _report_agreement()
    else:
        print("no CUDA device: gsplat not run")


if __name__ == "__main__":
    main()
