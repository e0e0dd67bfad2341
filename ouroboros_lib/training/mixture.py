"""Procedural objects and those of --data in the same batches, from two rings in device memory.

A network takes thousands of objects a second, of which readers bring a hundred: each is used many times.
"""

import threading
from contextlib import suppress
from queue import Empty, Queue

import torch
from torch import Tensor

from ..cameras import Cameras
from ..data.batches import MultiviewBatch
from ..data.buffer import ObjectBuffer
from ..data.folders import MultiviewObject
from ..errors import InputError
from .data import RenderedObjects

FIRST_SHARE = 1 / 16  # of the ring that is waited for; the rest comes while training runs
PERMUTED = 0.4  # share of the objects whose colour channels change places


class GivenBuffer(ObjectBuffer):
    """A ring of what a `RenderedObjects` brings, with other colours, as soon as it comes: what training sees depends on
    how fast that is. All must be seen by the cameras of procedural objects."""

    def __init__(self, given: RenderedObjects, *arguments, **options):
        super().__init__(*arguments, **options)
        self.given, self.waiting, self.closed = given, Queue(self.capacity + self.chunk), False
        given.checks.append(self._check)
        self.thread = threading.Thread(target=self._receive, daemon=True)

    def restart(self, next: int) -> None:
        """Go on with object number `next` in an empty ring."""
        self.first, self.made = next, 0
        self.given.restart(next)

    def place(self) -> int:
        """From the first slot on: batches are drawn from those that were filled, long before all are."""
        return self.made % self.capacity

    def fill(self) -> None:
        self.given.fill()
        self.thread.start()
        while len(self) < self.capacity * FIRST_SHARE:
            self._take_chunk()

    def refresh(self) -> None:
        """Put what has come over the oldest objects."""
        while self.waiting.qsize() >= self.chunk:
            self._take_chunk()

    def close(self) -> None:
        self.closed = True
        while self.thread.is_alive():  # it may wait for a place
            with suppress(Empty):
                self.waiting.get(timeout=0.1)
        self.given.close()

    def _receive(self) -> None:
        """In a thread of its own. What is wrong is handed on, to be raised where objects are taken."""
        try:
            while not self.closed:
                views = self.given.one()
                # copied: what came from another process holds a file open
                self.waiting.put((views.rgba.clone(), views.cameras.c2w.clone()))
        except Exception as error:
            for _ in range(self.chunk):
                self.waiting.put(error)

    def _check(self, views: MultiviewObject) -> None:
        if not torch.allclose(views.cameras.intrinsics, self.intrinsics.cpu(), atol=1e-3):
            raise InputError(f"{views.name}: was rendered with another field of view than procedural objects, and "
                             "cannot be mixed with them; set procedural_share=0")

    def _take_chunk(self) -> None:
        items = []
        for _ in range(self.chunk):
            item = self.waiting.get()
            if isinstance(item, Exception):
                raise item
            items.append(item)
        rgba, c2w = zip(*items, strict=True)
        self.store(recoloured(torch.stack(rgba).to(self.device)), torch.stack(c2w).to(self.device))


class MixedObjects:
    """`share` of each batch from one source, the rest from another one, in random order."""

    def __init__(self, procedural: ObjectBuffer, given: GivenBuffer, share: float):
        self.procedural, self.given, self.share = procedural, given, share
        self.views = procedural.views

    def __len__(self) -> int:
        return len(self.procedural) + len(self.given)

    @property
    def left_out(self) -> int:
        return self.given.given.left_out

    @property
    def encode(self):
        return self.procedural.encode

    @encode.setter
    def encode(self, encode) -> None:
        self.procedural.encode = self.given.encode = encode

    @property
    def next(self) -> list[int]:
        return [self.procedural.next, self.given.next]

    def restart(self, next: list[int]) -> None:
        self.procedural.restart(next[0])
        self.given.restart(next[1])

    def fill(self) -> None:
        self.given.fill()
        self.procedural.fill()

    def refresh(self) -> None:
        self.given.refresh()
        self.procedural.refresh()

    def close(self) -> None:
        self.given.close()

    def batch(self, size: int, images: bool = True) -> MultiviewBatch:
        """As `ObjectBuffer.batch`; chance decides about an object that the share splits."""
        count = int(size * self.share + torch.rand(()))
        both = [source.batch(part, images) for source, part in ((self.procedural, count), (self.given, size - count))]
        order = torch.randperm(size, device=both[0].rgba.device)
        latents = None if self.encode is None else torch.cat([batch.latents for batch in both])[order]
        cameras = Cameras(torch.cat([batch.cameras.c2w for batch in both])[order], self.procedural.intrinsics)
        return MultiviewBatch(torch.cat([batch.rgba for batch in both])[order], cameras, both[0].num_orbit_views,
                              latents)


def recoloured(rgba: Tensor) -> Tensor:
    """Objects (B, V, 4, S, S) uint8 on white with other colours, each its own in all of its views: channels change
    places, all and each become brighter or darker, and a gamma bends them."""
    count, device = len(rgba), rgba.device
    planes = rgba.float() / 255
    alpha = planes[:, :, 3:]
    color = ((planes[:, :, :3] - (1 - alpha)) / alpha.clamp(min=1e-3)).clamp(1e-4, 1)
    order = torch.rand(count, 3, device=device).argsort(1)
    order = torch.where(torch.rand(count, 1, device=device) < PERMUTED, order, torch.arange(3, device=device))
    color = color.gather(2, order[:, None, :, None, None].expand_as(color))
    gain = (0.75 + 0.5 * torch.rand(count, 3, device=device)) * (0.7 + 0.5 * torch.rand(count, 1, device=device))
    gamma = (0.35 * torch.randn(count, 1, 1, 1, 1, device=device)).exp()
    color = (color**gamma * gain[:, None, :, None, None]).clamp(0, 1)
    return (255 * torch.cat([color * alpha + 1 - alpha, alpha], 2)).round().byte()
