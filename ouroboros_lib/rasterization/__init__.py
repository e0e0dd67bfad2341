"""Draw Gaussians: colour, alpha, depth and any further channels of many views in one differentiable pass."""

import math
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor

from ..cameras import Cameras
from ..errors import InputError
from ..gaussians import Gaussians
from .projection import MIN_ALPHA, project

BACKENDS = ("gsplat", "numba", "dense")


@dataclass
class Rendering:
    """V views of S x S pixels, with any leading batch dimensions.

    rgb (..., V, 3, S, S) on the background. alpha (..., V, 1, S, S). depth (..., V, 1, S, S): the expected z-depth of
    what is seen, 0 where alpha is 0. extra (..., V, C, S, S): further channels times alpha; None if none given.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor
    extra: Tensor | None = None


def rasterize(gaussians: Gaussians, cameras: Cameras, size: int, extra: Tensor | None = None,
              background: float | Tensor = 1.0, backend: str | None = None) -> Rendering:
    """Blend Gaussians front to back (Kerbl et al. 2023, eq. 3) into square images of `size` pixels.

    gaussians: (..., N). cameras: (..., V), the same leading dimensions. extra: (..., N, C) further values per Gaussian,
    drawn in the same pass. background: a number, or a tensor (..., 3) of one colour for each batch element or for all.
    backend: "gsplat" (CUDA), "numba" (CPU), "dense" (plain torch, any device, for small scenes); None takes gsplat for
    CUDA tensors and numba for others, which travel to the CPU and back if need be. gsplat and numba compute and return
    float32, dense the type of the means.
    Gradients reach all five tensors of the Gaussians, `extra`, `background` and the cameras.
    Every finite Gaussian and camera is accepted; Gaussians too large or too thin for float32 are not drawn, nor is what
    cameras see that stretch tenfold or look more than 89.999 degrees aside (projection.py).
    Raises InputError for an unknown backend, one that cannot run on the tensors' device, and on the CPU for Gaussians
    or cameras that are not finite (a GPU would have to wait for that check).
    """
    device = gaussians.device
    if backend is None and device.type not in ("cuda", "cpu"):  # mps: no kernels of its own
        drawn = rasterize(gaussians.to("cpu"), cameras.to("cpu"), size, None if extra is None else extra.to("cpu"),
                          background.to("cpu") if torch.is_tensor(background) else background)
        return Rendering(drawn.rgb.to(device), drawn.alpha.to(device), drawn.depth.to(device),
                         None if drawn.extra is None else drawn.extra.to(device))
    backend = _choose_backend(backend, gaussians.device)
    leading, views = gaussians.shape[:-1], cameras.shape[-1]
    if cameras.shape[:-1] != leading:
        raise ValueError(f"Gaussians {tuple(gaussians.shape)} and cameras {tuple(cameras.shape)} must agree in all "
                         "but the last dimension: use cameras.expand(...) for one rig")
    if extra is not None and extra.shape[:-1] != gaussians.shape:
        raise ValueError(f"extra must be (..., N, C) for Gaussians {tuple(gaussians.shape)}, got {tuple(extra.shape)}")

    if gaussians.device.type == "cpu":
        _check_finite(gaussians, cameras)
    dtype = gaussians.means.dtype if backend == "dense" else torch.float32
    with torch.autocast(gaussians.device.type, enabled=False):  # half precision would move splats by whole pixels
        batch = math.prod(leading)
        flat = gaussians.map(lambda t: t.to(dtype).reshape(batch, *t.shape[len(leading):]))
        rig = Cameras(cameras.c2w.reshape(batch, views, 4, 4), cameras.intrinsics.reshape(batch, views, 3, 3)).to(dtype)
        features = flat.colors
        if extra is not None:
            features = torch.cat([features, extra.to(dtype).reshape(*flat.shape, extra.shape[-1])], dim=-1)
        if backend == "gsplat":
            from .cuda import splat
            accumulated, transmittance = splat(flat, rig, features, size)
        else:
            composite = import_module(".cpu" if backend == "numba" else ".dense", __name__).composite
            accumulated, transmittance = composite(project(flat, rig, size), flat.opacities, features, size)

        accumulated = accumulated.movedim(-1, -3).reshape(*leading, views, features.shape[-1] + 1, size, size)
        transmittance = transmittance.reshape(*leading, views, 1, size, size)
        alpha = 1 - transmittance
        behind = background
        if torch.is_tensor(background):
            behind = background.to(gaussians.device, dtype)
            behind = behind[..., None, :, None, None] if behind.ndim else behind
        covered = alpha > MIN_ALPHA / 2  # the least that is ever drawn is MIN_ALPHA
        depth = accumulated[..., -1:, :, :] / torch.where(covered, alpha, torch.ones_like(alpha))
        return Rendering(rgb=accumulated[..., :3, :, :] + transmittance * behind, alpha=alpha, depth=depth,
                         extra=None if extra is None else accumulated[..., 3:-1, :, :])


def _check_finite(gaussians: Gaussians, cameras: Cameras) -> None:
    for what, values in (*vars(gaussians).items(), *vars(cameras).items()):
        if not values.isfinite().all():
            raise InputError(f"cannot draw: of the {what}, {int((~values.isfinite()).sum())} numbers are not finite")


def _choose_backend(backend: str | None, device: torch.device) -> str:
    if backend is None:
        return "gsplat" if device.type == "cuda" else "numba"
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r} is unknown: choose one of {', '.join(BACKENDS)}")
    needs = {"gsplat": "cuda", "numba": "cpu"}.get(backend, device.type)
    if device.type != needs:
        raise InputError(f"backend {backend!r} needs {needs.upper()} tensors, these are on {device}: "
                         "move them, or leave the backend out")
    return backend
