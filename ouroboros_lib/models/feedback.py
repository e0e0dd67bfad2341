"""3D-aware self-conditioning: what of the reconstruction is fed back to F, and the encoders that take it in."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cameras import Cameras, to_canonical
from ..errors import InputError
from ..gaussians import Gaussians
from ..rasterization import Rendering, rasterize
from .layers import ResBlock, zero_init

# The maps that can be fed back, (B, V, 3, S, S) of about [0, 1]: name -> what it is of a rendering whose extra channels
# are canonical coordinates. A new map is an entry here; the small F gets an encoder for each name in its `feedback`.
FEEDBACK_MAPS: dict[str, Callable[[Rendering, Cameras], Tensor]] = {
    "rgb": lambda rendering, cameras: rendering.rgb,
    "ccm": lambda rendering, cameras: rendering.extra,
}
PATCH = 8  # side of the squares that encoders fold into channels; the autoencoders' factor
CoordinateMap = Literal["canonical", "released"]


def feedback_names(feedback: str) -> tuple[str, ...]:
    """The maps that "both" (the paper's: rgb+ccm), "none", or names joined by + stand for. Raises InputError."""
    names = {"both": ("rgb", "ccm"), "none": ()}.get(feedback, tuple(feedback.split("+")))
    if unknown := [name for name in names if name not in FEEDBACK_MAPS]:
        raise InputError(f"unknown feedback {unknown[0]!r}: expected both, none, or some of {', '.join(FEEDBACK_MAPS)} "
                         "joined by +")
    return names


class Renders(dict):
    """G's renders at the V cameras: each map of `FEEDBACK_MAPS` by its name (B, V, 3, H, W), alpha (B, V, 1, H, W).

    `renders["rgb"]` and `renders.rgb` are the same. Colours are on white, coordinates on 0.
    """

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def keep(self, feedback: str) -> dict[str, Tensor] | None:
        """The maps that `feedback` names, as F takes them; None for none. Those left out are zero maps to F."""
        # laid out alike: compiled models would be compiled again for another layout
        return {name: self[name].contiguous() for name in feedback_names(feedback)} or None


def render_feedback(gaussians: Gaussians, cameras: Cameras, size: int, coordinate_map: str = "canonical") -> Renders:
    """Render all maps of Gaussians (B, N) at cameras (B, V), in one rasterization.

    coordinate_map: what is fed back as CCM. "canonical", the blend of the canonical coordinates of the Gaussians'
    centres (paper, section 3.2), or "released", what the released code computes (`released_coordinate_map`).
    """
    rendering = rasterize(gaussians, cameras, size, extra=to_canonical(gaussians.means))
    if coordinate_map == "released":
        rendering.extra = released_coordinate_map(rendering.depth * rendering.alpha, cameras)
    maps = {name: of(rendering, cameras) for name, of in FEEDBACK_MAPS.items()}
    return Renders(maps, alpha=rendering.alpha)


def released_coordinate_map(depth: Tensor, cameras: Cameras) -> Tensor:
    """The released code's map of accumulated depth (..., V, 1, S, S), not divided by alpha: (..., V, 3, S, S).

    It mixes units: pixel *indices* meet intrinsics for an image of side 1, so that "world" points lie S times too far
    out, and the factor 0.001 pulls them back towards 0.5, which is also the background: to within 0.05 for S = 32. The
    values depend on the resolution, and the same surface point has other values in every view. At 512 pixels they leave
    [0, 1] and are clamped.
    """
    index = torch.arange(depth.shape[-1], device=depth.device, dtype=depth.dtype)
    v, u = torch.meshgrid(index, index, indexing="ij")
    directions = cameras.directions(torch.stack([u, v], dim=-1).flatten(0, 1)).unflatten(-2, v.shape).movedim(-1, -3)
    points = cameras.positions[..., None, None] + depth * directions
    return (points * (depth > 0) * 0.001 + 0.5).clamp(0, 1)


class FeedbackEncoder(nn.Module):
    """One map (N, 3, S, S) to one feature map per stage of F, the first at S / 8. All start at zero.

    No map at all is the zero map: the encoder still answers something for it, as in the released code.
    """

    def __init__(self, stage_channels: tuple[int, ...], width: int = 64):
        super().__init__()
        self.embed = nn.Conv2d(3 * PATCH**2, width, 1)
        self.blocks = nn.ModuleList(ResBlock(width, width) for _ in stage_channels)
        self.downs = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in stage_channels[1:])
        self.outs = nn.ModuleList(zero_init(nn.Conv2d(width, channels, 1)) for channels in stage_channels)

    def forward(self, maps: Tensor) -> list[Tensor]:
        h = self.embed(F.pixel_unshuffle(maps, PATCH))
        features = []
        for stage, (block, out) in enumerate(zip(self.blocks, self.outs, strict=True)):
            h = block(self.downs[stage - 1](h) if stage else h)
            features.append(out(h))
        return features
