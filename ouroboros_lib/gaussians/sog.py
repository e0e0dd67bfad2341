"""PlayCanvas's `.sog`, version 2: Gaussians as lossless WebP pictures in a zip. Plain tensors in and out.

Format: https://developer.playcanvas.com/user-manual/gaussian-splatting/formats/sog/
"""

import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..files import dump_json, load_json
from .ply import activated, check_count, stored

MOST_BYTES = 2**28  # of a member
SPARE = 2**16  # pixels of a picture beside one for each Gaussian
OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])  # the components beside the largest one


def write_sog(fields: list[Tensor], axes: str = "") -> bytes:
    """N Gaussians, in 15 bytes each before the WebP: positions of 16 bits in log space, the rest of 8.

    fields as in `write_ply`. The file cannot say in which axes they are.
    """
    means, _, scales, _, harmonics = stored(fields)
    places = np.sign(means) * np.log1p(np.abs(means))
    low, high = places.min(0), places.max(0)
    steps = np.round((places - low) / np.maximum(high - low, 1e-9) * 65535).astype(np.uint16)
    scale_book, scale_index = _codebook(scales)
    color_book, color_index = _codebook(harmonics)
    opaque = np.round(fields[1].detach().float().cpu().numpy().clip(0, 1)[:, None] * 255)
    pictures = {"means_l": steps & 255, "means_u": steps >> 8, "scales": scale_index,
                "quats": _pack_quaternions(fields[3].detach().float().cpu().numpy()),
                "sh0": np.concatenate([color_index, opaque], axis=1)}
    files = {name: [f"{name}.webp"] for name in ("scales", "quats", "sh0")}
    meta = {"version": 2, "count": len(means), "antialias": False,
            "means": {"mins": low.tolist(), "maxs": high.tolist(), "files": ["means_l.webp", "means_u.webp"]},
            "scales": {"codebook": scale_book.tolist(), "files": files["scales"]}, "quats": {"files": files["quats"]},
            "sh0": {"codebook": color_book.tolist(), "files": files["sh0"]}}
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, texels in pictures.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.webp"), _picture(texels))
        archive.writestr(zipfile.ZipInfo("meta.json"), dump_json(meta, indent=None))
    return out.getvalue()


def read_sog(data: bytes, path: Path) -> tuple[list[Tensor], None]:
    """The fields. Raises InputError."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        meta = load_json(_member(archive, "meta.json"))
        if meta.get("version") != 2:
            raise InputError(f"{path}: an .sog of version {meta.get('version', 1)}, read is version 2")
        count = meta["count"]
        check_count(count, path)

        def texels(name: str, place: int = 0) -> np.ndarray:
            data = BytesIO(_member(archive, meta[name]["files"][place]))
            with Image.open(data, formats=["WEBP", "PNG"]) as picture:  # none that starts another program
                if picture.width * picture.height > 2 * count + SPARE:
                    raise ValueError(f"{name} is a picture of {picture.width} x {picture.height} pixels")
                return np.asarray(picture.convert("RGBA")).reshape(-1, 4)[:count]

        steps = texels("means")[:, :3] + 256.0 * texels("means", 1)[:, :3]
        low, high = (np.array(meta["means"][name], float) for name in ("mins", "maxs"))
        places = low + (high - low) * steps / 65535
        scales, harmonics = (np.array(meta[name]["codebook"], float)[texels(name)[:, :3]] for name in ("scales", "sh0"))
        quaternions, opacities = _unpack_quaternions(texels("quats")), texels("sh0")[:, 3] / 255
    if not len(places) == len(scales) == len(quaternions) == len(harmonics) == count:
        raise ValueError("its pictures are too small")
    fields = activated(np.sign(places) * np.expm1(np.abs(places)), opacities, scales, quaternions, harmonics)
    fields[1] = torch.from_numpy(opacities.astype(np.float32))
    return fields, None


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > MOST_BYTES:
        raise ValueError(f"{name} unpacks to more than {MOST_BYTES >> 20} MB")
    return archive.read(name)


def _picture(texels: np.ndarray) -> bytes:
    """(N, 3 or 4) as a square lossless WebP, opaque without a fourth column."""
    side = max(4, int(np.ceil(np.sqrt(len(texels)))))
    canvas = np.full((side * side, 4), 255, np.uint8)
    canvas[:len(texels), :texels.shape[1]] = texels
    out = BytesIO()
    Image.fromarray(canvas.reshape(side, side, 4)).save(out, "webp", lossless=True, exact=True)
    return out.getvalue()


def _codebook(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """256 numbers, ascending, and the nearest one's index for each value: k-means in one dimension, by Lloyd."""
    ordered = np.sort(values, axis=None).astype(np.float64)
    sums = np.concatenate([[0], np.cumsum(ordered)])
    book = np.linspace(ordered[0], ordered[-1], 256)
    for _ in range(20):
        edges = np.concatenate([[0], np.searchsorted(ordered, (book[1:] + book[:-1]) / 2), [len(ordered)]])
        members = np.diff(edges)
        book = np.where(members > 0, np.diff(sums[edges]) / np.maximum(members, 1), book)
    return book, np.searchsorted((book[1:] + book[:-1]) / 2, values)


def _pack_quaternions(quaternions: np.ndarray) -> np.ndarray:
    """(N, 4) wxyz of unit length: the three components beside the largest, in 8 bits, and which one is left out."""
    largest = np.abs(quaternions).argmax(1)
    signed = quaternions * np.where(np.take_along_axis(quaternions, largest[:, None], 1) < 0, -1, 1)
    three = np.take_along_axis(signed, OTHERS[largest], 1) * 2**0.5
    return np.concatenate([np.round((three * 0.5 + 0.5).clip(0, 1) * 255), 252 + largest[:, None]], axis=1)


def _unpack_quaternions(texels: np.ndarray) -> np.ndarray:
    largest = texels[:, 3].astype(int) - 252
    if len(largest) and largest.min() < 0:
        raise ValueError("its rotations are of an unknown kind")
    three = (texels[:, :3] / 255 * 2 - 1) / 2**0.5
    quaternions = np.zeros((len(texels), 4))
    np.put_along_axis(quaternions, OTHERS[largest], three, 1)
    np.put_along_axis(quaternions, largest[:, None], np.sqrt((1 - (three**2).sum(1)).clip(0))[:, None], 1)
    return quaternions
