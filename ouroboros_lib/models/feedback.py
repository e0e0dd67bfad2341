"""3D-aware self-conditioning: what of the reconstruction is fed back to F, and the encoders that take it in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cameras import Cameras, to_canonical
from ..gaussians import Gaussians
from ..rasterization import rasterize
from .layers import ResBlock, zero_init

FEEDBACKS = {"both": ("rgb", "ccm"), "rgb": ("rgb",), "ccm": ("ccm",), "none": ()}
COORDINATE_MAPS = ("canonical", "released")


@dataclass
class SelfConditioning:
    """G's renders at the V cameras: `rgb` on white and `ccm` on 0, each (B, V, 3, H, W); `alpha` (B, V, 1, H, W)."""

    rgb: Tensor
    ccm: Tensor
    alpha: Tensor

    def map(self, function) -> SelfConditioning:
        return SelfConditioning(function(self.rgb), function(self.ccm), function(self.alpha))

    def detach(self) -> SelfConditioning:
        return self.map(Tensor.detach)

    def keep(self, feedback: str) -> SelfConditioning | None:
        """The same with the maps that `feedback` (both, rgb, ccm or none) leaves out set to zero; None for none."""
        names = FEEDBACKS[feedback]
        if not names:
            return None
        return SelfConditioning(*(value if name in names else torch.zeros_like(value)
                                  for name, value in (("rgb", self.rgb), ("ccm", self.ccm))), self.alpha)


def render_feedback(gaussians: Gaussians, cameras: Cameras, size: int,
                    coordinate_map: str = "canonical") -> SelfConditioning:
    """Render colour and coordinate map of Gaussians (B, N) at cameras (B, V), in one rasterization.

    coordinate_map: "canonical", the blend of the canonical coordinates of the Gaussians' centres (paper, section 3.2),
    or "released", what the released code computes in its place (`released_coordinate_map`).
    """
    if coordinate_map == "released":
        rendering = rasterize(gaussians, cameras, size)
        ccm = released_coordinate_map(rendering.depth * rendering.alpha, cameras)
        return SelfConditioning(rendering.rgb, ccm, rendering.alpha)
    rendering = rasterize(gaussians, cameras, size, extra=to_canonical(gaussians.means))
    return SelfConditioning(rendering.rgb, rendering.extra, rendering.alpha)


def released_coordinate_map(depth: Tensor, cameras: Cameras) -> Tensor:
    """The released code's map of accumulated depth (..., V, 1, S, S), not divided by alpha: (..., V, 3, S, S).

    It mixes units: pixel *indices* meet intrinsics for an image of side 1, so that "world" points lie S times too far
    out, and the factor 0.001 pulls them back towards 0.5, which is also the background: to within 0.05 for S = 32. The
    values depend on the resolution, and the same surface point has other values in every view.
    """
    size, k = depth.shape[-1], cameras.intrinsics[..., None, None, :, :]
    index = torch.arange(size, device=depth.device, dtype=depth.dtype)
    v, u = torch.meshgrid(index, index, indexing="ij")
    local = torch.stack([(u - k[..., 0, 2]) / k[..., 0, 0], (v - k[..., 1, 2]) / k[..., 1, 1],
                         torch.ones_like(u).expand(*cameras.shape, size, size)], dim=-1)
    rotated = (cameras.c2w[..., None, None, :3, :3] * local[..., None, :]).sum(-1).movedim(-1, -3)
    points = cameras.positions[..., None, None] + depth * rotated
    return points * (depth > 0) * 0.001 + 0.5


class FeedbackEncoder(nn.Module):
    """One map (N, 3, S, S) to one feature map per stage of F, the first at S / 8. All start at zero.

    No map at all is the zero map: the encoder still answers something for it, as in the released code.
    """

    def __init__(self, stage_channels: tuple[int, ...], width: int = 64, patch: int = 8):
        super().__init__()
        self.patch = patch
        self.embed = nn.Conv2d(3 * patch**2, width, 1)
        self.blocks = nn.ModuleList(ResBlock(width, width) for _ in stage_channels)
        self.downs = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in stage_channels[1:])
        self.outs = nn.ModuleList(zero_init(nn.Conv2d(width, channels, 1)) for channels in stage_channels)

    def forward(self, maps: Tensor) -> list[Tensor]:
        h = self.embed(F.pixel_unshuffle(maps, self.patch))
        features = []
        for stage, (block, out) in enumerate(zip(self.blocks, self.outs, strict=True)):
            h = block(self.downs[stage - 1](h) if stage else h)
            features.append(out(h))
        return features
