"""3D Gaussian splatting's `.ply`, and PlayCanvas's compressed one. Plain tensors in and out."""

import re
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

MOST = 2**24  # Gaussians that a small file may unpack to: each takes up to 800 bytes while it is read
FARTHEST = 1e18  # its square is still a number of single precision
SH_C0 = 0.28209479177387814  # the constant spherical harmonic; 3DGS stores (colour - 0.5) / SH_C0
COLUMNS = ("x", "y", "z", "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
           "f_dc_0", "f_dc_1", "f_dc_2")
# What "Vertical axis" says: Brush writes y for y down and reads it so, nerfstudio writes z for z up, a vector is up.
COMMENTS = {"y-down": "y", "z-up": "z", "y-up": "0 1 0"}
SPELLINGS = {"y": "y-down", "-y": "y-down", "0 -1 0": "y-down", "+y": "y-up", "0 1 0": "y-up", "z": "z-up",
             "+z": "z-up", "0 0 1": "z-up"}


def write_ply(fields: list[Tensor], axes: str) -> bytes:
    """N Gaussians as a standard 3DGS `.ply`, float32, lossless after `logit` and `log`.

    fields: means (N, 3), opacities (N,), scales (N, 3), quaternions (N, 4) wxyz, colors (N, 3) RGB. Opacities are
    stored as logits, scales as logarithms, colours as the constant spherical harmonic. axes: what the header says.
    """
    from plyfile import PlyData, PlyElement

    means, opacities, scales, quaternions, colors = stored(fields)
    columns = {name: means[:, i] for i, name in enumerate("xyz")} | dict.fromkeys(("nx", "ny", "nz"), 0)
    columns |= {f"f_dc_{i}": colors[:, i] for i in range(3)} | {"opacity": opacities}
    columns |= {f"scale_{i}": scales[:, i] for i in range(3)} | {f"rot_{i}": quaternions[:, i] for i in range(4)}
    table = np.empty(len(means), dtype=[(name, "<f4") for name in columns])
    for name, values in columns.items():
        table[name] = values
    out = BytesIO()
    PlyData([PlyElement.describe(table, "vertex")], comments=_comments(axes)).write(out)
    return out.getvalue()


def write_compressed_ply(fields: list[Tensor], axes: str) -> bytes:
    """The same as PlayCanvas's compressed `.ply`: 16 bytes a Gaussian, in chunks of 256. Raises InputError."""
    means, opacities, scales, quaternions, colors = stored(fields)
    data = gsply().compress_to_bytes(means, scales, quaternions, opacities, colors)
    said = "".join(f"comment {comment}\n" for comment in _comments(axes)).encode()
    return data.replace(b"element", said + b"element", 1)


def read_ply(data: bytes, path: Path) -> tuple[list[Tensor], str | None]:
    """The fields of either, and what its header says behind "Vertical axis:"; quaternions of whatever length they have.

    Spherical harmonics beyond the constant are ignored. Raises InputError, which names `path`.
    """
    from plyfile import PlyData

    end = data.find(b"end_header") if data.startswith(b"ply") else -1
    if end < 0:
        raise InputError(f"{path}: not a .ply file, or the beginning of one")
    header, body = data[:end].decode("utf-8", "replace"), data[end:]
    said = (re.findall(r"(?mi)^comment +vertical axis:(.*)$", header) or [None])[-1]
    for name, count in re.findall(r"(?m)^element +(\S+) +(\d+)", header):
        if int(count[:20]) > len(body):  # before room is made for so many
            raise InputError(f"{path}: its header says {count[:20]} times {name}, which is more than its bytes")
    plain = re.sub(r"(?m)^(comment|obj_info)\b.*\r?\n", "", header).encode("ascii", "replace") + body
    if re.search(r"(?m)^element chunk ", header):
        return loaded(gsply().decompress_from_bytes(plain)), said
    table = PlyData.read(BytesIO(plain))["vertex"].data
    missing = [name for name in COLUMNS if name not in table.dtype.names]
    if missing:
        raise InputError(f"{path}: a mesh or a point cloud, no splat: its vertices have no {', '.join(missing)}")
    stack = np.stack([table[name].astype(np.float32) for name in COLUMNS], axis=-1)
    return activated(stack[:, :3], stack[:, 3], stack[:, 4:7], stack[:, 7:11], stack[:, 11:]), said


def stored(fields: list[Tensor]) -> list[np.ndarray]:
    """As 3DGS stores them, float32: means, logits, logarithms of scales, quaternions, spherical harmonics (N, 3).

    Raises InputError for numbers that the formats compute infinities from.
    """
    means, opacities, scales, quaternions, colors = (tensor.detach().to("cpu", torch.float64) for tensor in fields)
    if any((values.abs() > FARTHEST).any() for values in (means, scales, colors)):
        raise InputError(f"positions, scales or colours beyond {FARTHEST:g}: splat files cannot hold them")
    return [tensor.float().contiguous().numpy() for tensor in (
        means, torch.logit(opacities, eps=1e-7), scales.clamp_min(1e-12).log(), quaternions, (colors - 0.5) / SH_C0)]


def activated(means, opacities, scales, quaternions, harmonics) -> list[Tensor]:
    """The inverse of `stored`, of arrays that are copied."""
    means, opacities, scales, quaternions, harmonics = (
        torch.from_numpy(np.array(values, dtype=np.float32)) for values in (means, opacities, scales, quaternions,
                                                                           harmonics))
    return [means, torch.sigmoid(opacities.reshape(-1)), scales.exp(), quaternions, harmonics * SH_C0 + 0.5]


def check_count(count: int, path: Path) -> None:
    """Raise InputError for more than MOST, before there is room for them."""
    if count > MOST:
        raise InputError(f"{path}: unpacks to {count} Gaussians, more than {MOST}, too much to be read")


def loaded(data) -> list[Tensor]:
    """The fields of what gsply has read."""
    return activated(data.means, data.opacities, data.scales, data.quats, data.sh0)


def gsply():
    """The package. Raises InputError without it."""
    try:
        import gsply
    except ImportError:
        raise InputError("compressed splat files need the package gsply: pip install -e '.[export]'") from None
    return gsply


def _comments(axes: str) -> list[str]:
    return [f"Vertical axis: {COMMENTS[axes]}", f"Written {axes}: see Gaussians.save of Ouroboros3D"]


def stated_axes(said: str, path: Path) -> str:
    """What a header says behind "Vertical axis:" as the name of axes. Raises InputError."""
    words = " ".join(f"{float(word):g}" if re.fullmatch(r"-?\d+(\.\d*)?", word) else word
                     for word in re.split(r"[\s,\[\]]+", said.lower()) if word)
    if words not in SPELLINGS:
        raise InputError(f"{path}: its header says 'Vertical axis: {said.strip()[:60]}', which is not understood: "
                         f"say in which axes it is, {', '.join(COMMENTS)}")
    return SPELLINGS[words]
