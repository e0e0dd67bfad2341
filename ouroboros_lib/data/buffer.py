"""Rendered procedural objects kept on one device, the oldest replaced as training goes on."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..cameras import Cameras, orbit_cameras
from .batches import MultiviewBatch, object_cameras
from .procedural import render_objects, sample_objects


class ObjectBuffer:
    """A ring buffer of rendered objects on one device; `refresh` replaces the oldest `chunk` of them.

    rank, world_size: of the process; each process sees its own objects. Where `encode` is set, it maps orbit images to
    latents, which are then kept beside the images.
    """

    def __init__(self, image_size: int, num_views: int, capacity: int, device, novel_views: int = 4,
                 seed: int = 0, chunk: int = 32, rank: int = 0, world_size: int = 1):
        self.image_size, self.num_views, self.novel_views = image_size, num_views, novel_views
        self.capacity, self.chunk = max(capacity // chunk, 1) * chunk, chunk
        self.device, self.seed, self.rank, self.world_size = torch.device(device), seed, rank, world_size
        self.encode: Callable[[Tensor], Tensor] | None = None
        self.views = num_views + novel_views
        shape = (self.capacity, self.views)
        self.rgba = torch.empty(*shape, 4, image_size, image_size, dtype=torch.uint8, device=self.device)
        self.c2w = torch.empty(*shape, 4, 4, device=self.device)
        self.intrinsics = orbit_cameras([0.0], 0.0).intrinsics.to(self.device)
        self.latents: Tensor | None = None
        self.first, self.made = 0, 0  # number of the first object; how many this process has rendered since

    def __len__(self) -> int:
        return min(self.made, self.capacity)

    @property
    def next(self) -> int:
        """Number of the object that comes next, counted in this process."""
        return self.first + self.made

    def restart(self, next: int) -> None:
        """Empty the buffer, so that `fill` brings back the objects before `next`, as they were at an interruption."""
        self.first, self.made = max(0, next - self.capacity) // self.chunk * self.chunk, 0

    def fill(self) -> None:
        while len(self) < self.capacity:
            self.refresh()

    def refresh(self) -> None:
        """Render the next `chunk` objects over the oldest ones."""
        indices = (torch.arange(self.next, self.next + self.chunk) * self.world_size + self.rank).numpy()
        objects = sample_objects("train", indices, seed=self.seed).to(self.device)
        # seeded by the object's number: a resumed run sees the same cameras, in the same slots
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + int(indices[0]))
        cameras = object_cameras(self.chunk, self.num_views, self.novel_views, generator).to(self.device)
        self.store(render_objects(objects, cameras, self.image_size).rgba, cameras.c2w)

    @torch.no_grad()
    def store(self, rgba: Tensor, c2w: Tensor) -> None:
        """Put `chunk` objects (chunk, V + N, ...) over the oldest ones, with their latents."""
        slots = slice(self.place(), self.place() + self.chunk)
        self.rgba[slots], self.c2w[slots] = rgba, c2w
        if self.encode is not None:
            latents = self.encode(self.rgba[slots, : self.num_views, :3].float() / 255)
            if self.latents is None:
                self.latents = latents.new_empty(self.capacity, *latents.shape[1:])
            self.latents[slots] = latents
        self.made += self.chunk

    def place(self) -> int:
        """The slot of the next object: after `restart`, too, each is in that in which it was."""
        return self.next % self.capacity

    def close(self) -> None:
        """Nothing to end."""

    def batch(self, size: int, images: bool = True) -> MultiviewBatch:
        """`size` objects drawn with replacement, by the global generator; `images=False` leaves the pictures out."""
        index = torch.randint(len(self), (size,), device=self.device)
        cameras = Cameras(self.c2w[index], self.intrinsics)
        rgba = self.rgba[index] if images else self.rgba.new_empty(size, 0, 4, 0, 0)
        latents = None if self.latents is None else self.latents[index].float()
        return MultiviewBatch(rgba, cameras, self.num_views, latents)
