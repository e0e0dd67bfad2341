"""Niantic's `.spz`: about 20 bytes a Gaussian, compressed. Plain tensors in and out, through gsply."""

import tempfile
import zlib
from pathlib import Path

import numpy as np
from torch import Tensor

from ..errors import InputError
from .ply import gsply, loaded, stored

MOST_BITS = 16  # behind the point of a position, of 24: 1.5e-5, as far as 128; gsply's 12 is for scenes in metres


def write_spz(fields: list[Tensor], axes: str = "") -> bytes:
    """Version 3, which every reader knows; fields as in `write_ply`. Raises InputError."""
    means, opacities, scales, quaternions, harmonics = stored(fields)
    bits = max(1, min(MOST_BITS, int(23 - np.log2(np.abs(means).max() + 1e-9))))
    data = gsply().GSData.from_arrays(means, scales, quaternions, opacities, harmonics, np.zeros((len(means), 0, 3)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "out.spz")
        gsply().write_spz(path, data, version=3, fractional_bits=bits)
        return path.read_bytes()


def read_spz(data: bytes, path: Path) -> tuple[list[Tensor], None]:
    """The fields. Raises InputError."""
    package = gsply()
    try:
        return loaded(package.read_spz(path)), None
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: not an .spz that can be read ({error})") from None
