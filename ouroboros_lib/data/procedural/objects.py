"""The procedural universe: which object has which family and number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from . import abstract, home, living, toys, vehicles
from . import packing as L
from .parts import Parts, finish
from .randomness import MAX_INDEX, SPLITS, Draws, stream_keys

_BUILDERS = {**home.FAMILIES, **vehicles.FAMILIES, **living.FAMILIES, **toys.FAMILIES,
             "abstract": abstract.abstract}
FAMILIES: tuple[str, ...] = tuple(_BUILDERS)
HELD_OUT_FAMILY = "teapot"
_COMMON = tuple(name for name in FAMILIES if name != HELD_OUT_FAMILY)


@dataclass
class Objects:
    """B objects.

    parameters: (B, SLOTS, WIDTH) float32, packed primitives (packing.py) in the object's frame, already in world units.
    pose: (B, 5) float32: cosine and sine of the yaw about y, and the point of the object's frame at the world's origin.
    family_ids: (B,) int64, indices into FAMILIES; always on the CPU.
    """

    parameters: Tensor
    pose: Tensor
    family_ids: Tensor

    def __len__(self) -> int:
        return len(self.parameters)

    def __getitem__(self, index) -> Objects:
        """A slice, a tensor or list of numbers, or one number (which gives one object, still in a batch)."""
        if isinstance(index, int):
            index = [index]
        where = index.cpu() if isinstance(index, Tensor) else index
        return Objects(self.parameters[index], self.pose[index], self.family_ids[where])

    @property
    def families(self) -> list[str]:
        return [FAMILIES[i] for i in self.family_ids.tolist()]

    @property
    def device(self) -> torch.device:
        return self.parameters.device

    def to(self, device, non_blocking: bool = False) -> Objects:
        return Objects(self.parameters.to(device, non_blocking=non_blocking),
                       self.pose.to(device, non_blocking=non_blocking), self.family_ids)


def sample_objects(split: str, indices, seed: int = 0, family: str | None = None) -> Objects:
    """Objects number `indices` (1-D, integers from 0 up to 2^60) of a split: train, val, test or heldout.

    Object i of (split, seed) is the same in every batch and on every machine. train, val and test hold every family but
    HELD_OUT_FAMILY, equally often; heldout holds only that one. `family` forces one family, for figures.
    Raises InputError for an unknown split or family.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    if family is not None and family not in _BUILDERS:
        raise InputError(f"unknown object family {family!r}: choose one of {', '.join(FAMILIES)}")
    indices = np.asarray(indices)
    if indices.ndim != 1 or len(indices) == 0 or indices.dtype.kind not in "iu":
        raise ValueError(f"indices must be a 1-D sequence of integers, got shape {indices.shape}, {indices.dtype}")
    if indices.min() < 0 or indices.max() >= MAX_INDEX:
        raise ValueError("indices must lie in 0 ... 2^60 - 1")
    keys = stream_keys(split, seed, indices)
    draws = Draws(keys)
    which = draws.integer(len(_COMMON))
    yaw = draws.uniform(0, 2 * np.pi)
    if split == "heldout":
        family = family or HELD_OUT_FAMILY
    names = np.array([FAMILIES.index(name) for name in ((family,) if family else _COMMON)])
    family_ids = names[which % len(names)]

    packed = np.zeros((len(keys), L.SLOTS, L.WIDTH))
    for i in np.unique(family_ids):
        mine = np.nonzero(family_ids == i)[0]
        parts = Parts(len(mine))
        _BUILDERS[FAMILIES[i]](parts, Draws(keys[mine], first=draws.counter))
        packed[mine] = parts.packed()
    packed, center = finish(packed)
    pose = np.concatenate([np.cos(yaw)[:, None], np.sin(yaw)[:, None], center], 1)
    return Objects(torch.from_numpy(packed.astype(np.float32)), torch.from_numpy(pose.astype(np.float32)),
                   torch.from_numpy(family_ids))
