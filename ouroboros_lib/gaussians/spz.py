"""Niantic's `.spz`: about 20 bytes a Gaussian, compressed. Plain tensors in and out, through gsply."""

import gzip
import io
import struct
import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor

from ..errors import InputError
from .ply import check_count, gsply, loaded, stored

MOST_BITS = 16  # behind the point of a position, of 24: 1.5e-5, as far as 128; gsply's 12 is for scenes in metres
FARTHEST = 2**22  # what 24 bits hold with one behind the point
LARGEST = np.exp(255 / 16 - 10)  # scale that 8 bits hold: sixteenths of its logarithm, from -10 on
MOST_BYTES = 2**30  # unpacked
TOO_MUCH = f"unpacks to more than {MOST_BYTES >> 30} GB, too much to be read"


def write_spz(fields: list[Tensor], axes: str = "") -> bytes:
    """Version 3, which every reader knows; fields as in `write_ply`. Raises InputError."""
    means, opacities, scales, quaternions, harmonics = stored(fields)
    if np.abs(means).max() >= FARTHEST:
        raise InputError(f"an .spz holds positions up to {FARTHEST}, these go up to {np.abs(means).max():g}")
    if np.exp(scales.max()) > LARGEST * 1.03:  # half a step is rounded
        raise InputError(f"an .spz holds scales up to {LARGEST:.0f}, these go up to {np.exp(scales.max()):g}")
    bits = max(1, min(MOST_BITS, int(23 - np.log2(np.abs(means).max() + 1e-9))))
    data = gsply().GSData.from_arrays(means, scales, quaternions, opacities, harmonics, np.zeros((len(means), 0, 3)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "out.spz")
        gsply().write_spz(path, data, version=3, fractional_bits=bits)
        return path.read_bytes()


def read_spz(data: bytes, path: Path) -> tuple[list[Tensor], None]:
    """The fields. Raises InputError."""
    package = gsply()
    if data.startswith(b"\x1f\x8b"):
        with gzip.open(io.BytesIO(data)) as unpacked:
            if unpacked.seek(MOST_BYTES + 1) > MOST_BYTES:
                raise InputError(f"{path}: {TOO_MUCH}")
            unpacked.seek(8)
            check_count(int.from_bytes(unpacked.read(4), "little"), path)
    elif data.startswith(b"NGSP"):  # version 4 says in a table what each of its streams unpacks to
        streams, table = struct.unpack_from("<BI", data, 15)
        if sum(struct.unpack_from("<Q", data, table + 16 * number + 8)[0] for number in range(streams)) > MOST_BYTES:
            raise InputError(f"{path}: {TOO_MUCH}")
        check_count(int.from_bytes(data[8:12], "little"), path)
    return loaded(package.read_spz(path)), None
