"""What only the published checkpoint needs: the released code's departures from the paper, bug for bug.

The published weights were trained with these, so they need them; everything else in this library does without.

==================  ==========================================================  ====================================
what                released                                                    where
==================  ==========================================================  ====================================
camera embedding    rows and columns of the pixels swapped, points multiplied   `ReleasedMultiviewUNet.camera_rays`
                    by the transpose of c2w: too narrow a field of view
temporal attention  under guidance, half of the pixels of both estimates see    `ReleasedMultiviewUNet`
                    the token of the other one (a bug of older diffusers)
coordinate map      pixel indices meet normalised intrinsics; accumulated       `models/feedback.py`, as
                    depth, not divided by alpha; times 0.001 plus 0.5, clamped  `coordinate_map="released"`
rotations of G      normalised over the Gaussians, not over their components,   `ReleasedReconstructor`
                    and rendered as they are
cameras             the last one at 337.5, not 315 degrees; poses relative to   `released_orbit`,
                    view 0, which stands at elevation 0 whatever the orbit's    `relative_to_first`
inference           the cameras are always those of the orbit of elevation 0:   `leaning_orbit`
                    for a picture from 10 degrees above, the orbit leans by 10
views that G gets   decoded views are not clamped to [0, 1]                     `ReleasedPipeline.in_range`
clean views         G gets c_noise = 0 with ground-truth views, that of         `ReleasedPipeline.clean_sigma`
                    sigma = 1, not that of a small sigma
image token         in training of the noised condition view, at inference of   `ReleasedPipeline.encode_condition`
                    the clean one
==================  ==========================================================  ====================================

Guidance from 1 in view 0 to 3 in the last, and G reading views 0, 2, 4, 6 only, are the paper's as well: settings.
"""

import functools

import torch
import torch.nn.functional as F
from diffusers import ModelMixin  # noqa: F401  diffusers looks here for it when it loads the classes below
from torch import Tensor

from ..cameras import Cameras, orbit_cameras, relative_to_first
from ..gaussians import Gaussians, moved, principal_axes
from ..models.condition import Condition
from ..models.image_token import image_token
from ..pipeline import Ouroboros3DOutput, Ouroboros3DPipeline
from .lgm import LGMReconstructor
from .svd import SVDMultiviewUNet

RELEASED_AZIMUTHS = (0.0, 45.0, 90.0, 135.0, 180.0, 225.0, 270.0, 337.5)  # frames 0, 2, ..., 12, 15 of a 16-frame orbit
RELEASED_RADIUS, RELEASED_FOV = 1.7416968, 39.597754  # of its renders; this library rounds to 1.742 and 39.6


class ReleasedMultiviewUNet(SVDMultiviewUNet):
    """F as released: other rays, and tokens of a batch of two mixed up in the temporal attention."""

    @functools.wraps(SVDMultiviewUNet.__init__)  # diffusers reads the sizes that a config may hold off the signature
    def __init__(self, *args, **config):
        super().__init__(*args, **config)
        for module in self.modules():
            if type(module).__name__ == "TemporalBasicTransformerBlock":
                module.register_forward_pre_hook(_mix_tokens, with_kwargs=True)

    def camera_rays(self, cameras: Cameras, size: int) -> Tensor:
        """Wrong by 15.7 degrees on average: the pixel's row is taken for x, and c2w is transposed.

        On an orbit relative to view 0 the rotations are symmetric, so that their transpose does no harm. But it also
        loses the translation, and the camera's position is subtracted from the points all the same: which adds the
        radius to their depth and makes the field of view 1 + 1.742 times as narrow.
        """
        centres = (torch.arange(size, device=cameras.device, dtype=cameras.c2w.dtype) + 0.5) / size
        u, v = torch.meshgrid(centres, centres, indexing="ij")
        k = cameras.intrinsics[..., None, None, :, :]
        x, y = (u - k[..., 0, 2]) / k[..., 0, 0], (v - k[..., 1, 2]) / k[..., 1, 1]
        local = torch.stack([x, y, torch.ones_like(x)], dim=-1)
        transposed = cameras.c2w[..., None, None, :3, :3].transpose(-1, -2)
        points = (transposed * local[..., None, :]).sum(-1)
        origins = cameras.positions[..., None, None, :].expand_as(points)
        directions = F.normalize(points - origins, dim=-1)
        return torch.cat([torch.linalg.cross(origins, directions), directions], dim=-1).movedim(-1, -3)


def _mix_tokens(module, args, kwargs):
    """Tokens come as (batch, pixel), like the activations; older diffusers laid them out as (pixel, batch)."""
    tokens = kwargs["encoder_hidden_states"]  # (B h w, 1, C)
    batch = args[0].shape[0] // kwargs["num_frames"]
    mixed = tokens.unflatten(0, (batch, -1)).transpose(0, 1).flatten(0, 1)
    return args, kwargs | {"encoder_hidden_states": mixed}


class ReleasedReconstructor(LGMReconstructor):
    """G as released. Its Gaussians look the same as there and are proper ones: rotations of unit length.

    `gaussians` has the numbers of the released code: quaternions of about 1 / sqrt(N) length.
    """

    def forward(self, images: Tensor, cameras: Cameras, c_noise: Tensor) -> Gaussians:
        return as_rasterized(self.gaussians(images, cameras, c_noise))  # the whole world is relative to view 0

    def normalise_rotations(self, rotations: Tensor) -> Tensor:
        """(B, N, 4), each component divided by its norm over all N Gaussians instead of each quaternion by its own."""
        return F.normalize(rotations, dim=1)


def as_rasterized(gaussians: Gaussians) -> Gaussians:
    """Proper Gaussians with the covariances that the released code's rasterizer builds without normalising.

    It takes R(q) S S R(q)^T, where R(q) for a q of 0.007 length is nearly the identity: almost axis-aligned Gaussians.
    """
    quaternions, scales = principal_axes(gaussians.quaternions, gaussians.scales)
    return Gaussians(gaussians.means, gaussians.opacities, scales, quaternions, gaussians.colors)


def released_orbit(elevation: float | Tensor = 0.0) -> Cameras:
    """The 8 released cameras at one elevation (...) in degrees, in this library's world: (..., 8)."""
    elevation = torch.as_tensor(elevation, dtype=torch.float32)
    return orbit_cameras(torch.tensor(RELEASED_AZIMUTHS), elevation[..., None], RELEASED_RADIUS, RELEASED_FOV)


def leaning_orbit(elevation: float | Tensor = 0.0) -> Cameras:
    """The 8 cameras of released inference for a picture taken at an elevation (...) in degrees: (..., 8).

    The released script knows no elevation. It uses the orbit of elevation 0 in the frame of the input camera: seen from
    this library's world, that orbit leans with the input camera, and the view from behind stands at -elevation.
    """
    _, lean = relative_to_first(released_orbit(elevation))
    level = released_orbit(0.0).to(lean.device)
    c2w = lean[..., None, :, :] @ level.c2w
    return Cameras(c2w, level.intrinsics.expand(*c2w.shape[:-2], 3, 3))


class ReleasedPipeline(Ouroboros3DPipeline):
    """The published checkpoint: by default the released script's cameras, computed with in a world relative to view 0.

    Cameras that are given, and cameras and Gaussians that come back, are in this library's world as everywhere.
    """

    clean_sigma = 1.0  # c_noise(1) = 0

    def in_range(self, images: Tensor) -> Tensor:
        """Views as the decoder made them: the released code does not clamp them for G."""
        return images

    def __call__(self, images, elevation: float | Tensor = 10.0, cameras: Cameras | None = None,
                 return_dict: bool = True, **options) -> Ouroboros3DOutput | tuple:
        """As `Ouroboros3DPipeline.__call__`. elevation: of the picture; F and G see the same cameras for each."""
        rig = leaning_orbit(elevation) if cameras is None else cameras
        relative, back = relative_to_first(rig)
        if cameras is None:
            relative = released_orbit(0.0).expand(*rig.shape[:-1])  # the same but for rounding
        result = super().__call__(images, cameras=relative, **options)
        batch, device = result.gaussians.shape[0], result.gaussians.device
        result.cameras = rig.to(device).expand(batch)
        result.gaussians = moved(result.gaussians, back.to(device).expand(batch, 4, 4))
        return result if return_dict else result.to_tuple()

    def encode_condition(self, images: Tensor, generator: torch.Generator | list[torch.Generator] | None = None,
                         augmentation: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `Ouroboros3DPipeline.encode_condition`; in training, when `augmentation` is given, CLIP sees the noise."""
        if augmentation is None:
            return super().encode_condition(images, generator)
        noised = self.autoencoder.augment(images, generator, augmentation)
        return (self.autoencoder.encode_condition(noised, augmentation=0.0),
                image_token(self.image_encoder, noised))

    def estimate(self, x_t: Tensor, sigma: Tensor, cond: Condition, cameras: Cameras,
                 self_cond: dict[str, Tensor] | None = None) -> Tensor:
        """As `Ouroboros3DPipeline.estimate`, one object at a time: in one batch they would see each other's tokens."""
        sigma = sigma.to(x_t.device, non_blocking=True).expand(len(x_t))

        def one(index: int) -> Tensor:
            rows = slice(index, index + 1)
            return super(ReleasedPipeline, self).estimate(
                x_t[rows], sigma[rows], cond[rows], cameras[rows],
                self_cond and {name: maps[rows] for name, maps in self_cond.items()})

        return torch.cat([one(index) for index in range(len(x_t))])
