"""Objects seen by many cameras, as training and evaluation take them: batches, rigs, and the held-out ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cameras import ELEVATION_RANGE, Cameras, evenly_spaced_orbit, orbit_cameras
from .pictures import OnWhite
from .procedural import render_objects, sample_objects


@dataclass
class MultiviewBatch(OnWhite):
    """B objects seen by V cameras of an orbit, then N novel ones.

    rgba (B, V + N, 4, S, S) uint8, colour on white with alpha beside it; cameras (B, V + N); latents (B, V, c, h, w)
    of the orbit if the source encodes.
    """

    rgba: Tensor
    cameras: Cameras
    num_orbit_views: int
    latents: Tensor = None  # type: ignore[assignment]  # None until encoded; Algorithm 1 gets them always

    @property
    def orbit_images(self) -> Tensor:
        return self.rgba[:, : self.num_orbit_views, :3].float() / 255

    @property
    def condition_everywhere(self) -> Tensor:
        """(B, V, 3, S, S): view 0 at every camera of the orbit, for a G that gets no other view."""
        return self.orbit_images[:, :1].expand(-1, self.num_orbit_views, -1, -1, -1)

    @property
    def orbit_cameras(self) -> Cameras:
        return self.cameras.views(slice(self.num_orbit_views))

    def select(self, rows: list[int]) -> MultiviewBatch:
        """Some of the objects, in this order; without latents."""
        return MultiviewBatch(self.rgba[rows], self.cameras[rows], self.num_orbit_views)


def object_cameras(batch: int, num_views: int, novel_views: int, generator: torch.Generator | None = None) -> Cameras:
    """The rig of every object: an orbit at one elevation, and novel views at random, (B, V + N)."""
    low, high = ELEVATION_RANGE
    orbit = evenly_spaced_orbit(num_views, low + (high - low) * torch.rand(batch, generator=generator))
    azimuth = 360 * torch.rand(batch, novel_views, generator=generator)
    elevation = low + (high - low) * torch.rand(batch, novel_views, generator=generator)
    novel = orbit_cameras(azimuth, elevation)
    return Cameras(torch.cat([orbit.c2w, novel.c2w], 1), torch.cat([orbit.intrinsics, novel.intrinsics], 1))


def held_out_cameras(indices, num_views: int, novel_views: int = 4, seed: int = 0) -> Cameras:
    """The fixed rigs (B, V + N) of held-out objects number `indices`."""
    cameras = [object_cameras(1, num_views, novel_views, torch.Generator().manual_seed(1_000_003 * seed + index))
               for index in indices]
    return Cameras(torch.cat([c.c2w for c in cameras]), torch.cat([c.intrinsics for c in cameras]))


def held_out_objects(split: str, count: int, image_size: int, num_views: int, novel_views: int = 4, device="cpu",
                     start: int = 0, family: str | None = None) -> MultiviewBatch:
    """The objects `start` ... `start + count - 1` of a split with fixed cameras: the same on every machine."""
    objects = sample_objects(split, range(start, start + count), family=family)
    rig = held_out_cameras(range(start, start + count), num_views, novel_views)
    rendered = [render_objects(objects[i:i + 32].to(device), rig[i:i + 32].to(device), image_size).rgba
                for i in range(0, count, 32)]
    return MultiviewBatch(torch.cat(rendered), rig.to(device), num_views)
