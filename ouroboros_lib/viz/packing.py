"""The splats of every step of a run in few bytes.

A feed-forward G gives each Gaussian the same place in every step, and from step to step it changes little. So the 14
numbers of each are rounded to a few bits, and what is stored is the change since the step before, deflated: about 2.5
bytes a Gaussian and step. `explorer_scene.js` reads it.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..gaussians import Gaussians
from ..gaussians.page import encode
from .traces import check_finite, recorded

BITS = np.array([11] * 3 + [5] + [5] * 3 + [5] * 4 + [6] * 3)  # position, opacity, log scale, rotation, colour
DEAD_ZONE = 0.8  # rounding steps: a number that has moved by less since it was stored stays as it is
FAINT = 1 / 16  # Gaussians that are fainter in every step are left out


def pack_splats(steps: Sequence[Gaussians], coarser: int = 0) -> dict:
    """Sets of Gaussians (N), one a step, as `explorer_scene.js` takes them.

    coarser: by how many bits every number. Raises InputError for steps with no Gaussians, with other numbers of them,
    and with what is not finite.
    """
    if not steps:
        raise InputError("a run of no steps has nothing to pack: record at least one")
    for number, gaussians in enumerate(steps, 1):
        if not gaussians.shape[-1]:
            raise InputError(f"{recorded(number, len(steps))} has no Gaussians to show: leave this run out")
        for field, values in vars(gaussians).items():
            check_finite(values, f"{recorded(number, len(steps))}, {field}")
    if len({gaussians.shape for gaussians in steps}) != 1:
        raise InputError("the steps of a run need equally many Gaussians to be packed, got "
                         + ", ".join(sorted({str(gaussians.shape[-1]) for gaussians in steps})))
    opaque = torch.stack([gaussians.opacities for gaussians in steps]).amax(0)
    kept = opaque >= min(FAINT, float(opaque.max()))
    values = np.stack([_as_stored(gaussians[kept]) for gaussians in steps])
    _continue_signs(values[..., 7:11])
    low, high = values.min((0, 1)), values.max((0, 1))
    unit = np.where(high > low, high - low, 1) / (2 ** (BITS - coarser) - 1)
    levels = _held((values - low) / unit)
    changes = np.diff(levels, axis=0, prepend=0)
    changes[0] = np.diff(levels[0], axis=0, prepend=0)  # in the first step: since the Gaussian before, its neighbour
    planes = _unsigned(changes).transpose(2, 0, 1).astype("<u2").reshape(-1, 1).view(np.uint8).T  # low bytes, high ones
    return {"count": int(kept.sum()), "low": low.tolist(), "unit": unit.tolist(),
            "data": encode(zlib.compress(planes.tobytes(), 9))}


def unpack_splats(packed: dict) -> Gaussians:
    """What the page draws of `pack_splats`, (T, N)."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), np.uint8).reshape(2, -1)
    folded = np.ascontiguousarray(planes.T).view("<u2").reshape(len(BITS), -1, packed["count"]).astype(np.int64)
    changes = np.where(folded % 2, -(folded + 1) // 2, folded // 2).transpose(1, 2, 0)
    changes[0] = changes[0].cumsum(0)
    values = torch.from_numpy(changes.cumsum(0) * packed["unit"] + packed["low"]).float()
    gaussians = Gaussians.from_tensor(values)
    gaussians.scales = gaussians.scales.exp()
    gaussians.quaternions = torch.nn.functional.normalize(gaussians.quaternions, dim=-1)
    return gaussians


def _as_stored(gaussians: Gaussians) -> np.ndarray:
    """(N, 14), scales as logarithms."""
    values: Tensor = gaussians.to_tensor().double()  # in which no float32 is too far from another
    values[:, 4:7] = values[:, 4:7].clamp_min(1e-8).log()
    return values.numpy()


def _continue_signs(quaternions: np.ndarray) -> None:
    """(T, N, 4), in place: of the two quaternions of a rotation the one that is closer to the step before."""
    turned = np.where((quaternions[1:] * quaternions[:-1]).sum(-1) < 0, -1, 1)
    quaternions[1:] *= np.cumprod(turned, 0)[..., None]


def _held(values: np.ndarray) -> np.ndarray:
    """(T, ...) to whole numbers that stay where they are until they are wrong by the dead zone."""
    levels = [np.rint(values[0])]
    for value in values[1:]:
        levels.append(np.where(np.abs(value - levels[-1]) > DEAD_ZONE, np.rint(value), levels[-1]))
    return np.stack(levels).astype(np.int64)


def _unsigned(changes: np.ndarray) -> np.ndarray:
    """0, -1, 1, -2, 2 ... to 0, 1, 2, 3, 4 ..., whose high bytes are mostly 0."""
    return np.where(changes < 0, -2 * changes - 1, 2 * changes)
