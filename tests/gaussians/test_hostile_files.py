"""Splat files that claim more than they hold, unpack to far more than they are, or make parsers raise whatever."""

import gzip
import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from gaussian_inputs import random_gaussians
from PIL import Image

from ouroboros_lib.errors import InputError
from ouroboros_lib.gaussians import Gaussians, sog, spz


def refused(path: Path, data: bytes, words: str) -> None:
    path.write_bytes(data)
    with pytest.raises(InputError, match=words) as caught:
        Gaussians.load(path)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("line", [b"element vertex 1000000000000", b"element vertex %d" % 2**63,
                                  b"element face 10000000000\nproperty list uchar int vertex_index\nelement vertex 40",
                                  b"element nothing 1000000000000\nelement vertex 40"])
def test_headers_that_claim_more_than_the_file_has(tmp_path, line):
    whole = random_gaussians(40).to_bytes("g.ply")
    for data in (whole, whole.replace(b"binary_little_endian", b"ascii")):
        refused(tmp_path / "g.ply", data.replace(b"element vertex 40", line), "more than its bytes")
    packed = random_gaussians(40).to_bytes("g.compressed.ply").replace(b"element vertex 40", line)
    refused(tmp_path / "g.compressed.ply", packed, "more than its bytes")


def changed_sog(**files: bytes) -> bytes:
    """A sound .sog in which members have other contents."""
    out = io.BytesIO()
    with (zipfile.ZipFile(io.BytesIO(random_gaussians(40).to_bytes("g.sog"))) as sound,
          zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive):
        for name in sound.namelist():
            archive.writestr(name, files.get(name.split(".")[0], sound.read(name)))
    return out.getvalue()


def meta(**changes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(random_gaussians(40).to_bytes("g.sog"))) as archive:
        return json.dumps(json.loads(archive.read("meta.json")) | changes).encode()


def picture(kind: str, side: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side)).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("files", [
    {"meta": b"[]"}, {"meta": b"null"}, {"meta": b"[" * 100_000}, {"meta": meta(count="40")},
    {"meta": meta(scales={"codebook": [10**400] * 256, "files": ["scales.webp"]})},
    {"meta": meta(scales={"codebook": [[1, 2, 3]] * 256, "files": ["scales.webp"]})},
    {"quats": picture("eps", 8)}, {"quats": b"RIFF"}])
def test_sogs_of_any_contents(tmp_path, files):
    refused(tmp_path / "g.sog", changed_sog(**files), "not PlayCanvas's smallest, or not a whole one")


def test_damaged_zips(tmp_path):
    whole = changed_sog()
    for place in range(30, len(whole), 97):
        data = bytearray(whole)
        data[place] ^= 255
        (tmp_path / "g.sog").write_bytes(data)
        try:
            Gaussians.load(tmp_path / "g.sog")  # where the byte means nothing
        except InputError as error:
            assert "g.sog" in str(error)


def test_what_unpacks_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(sog, "MOST_BYTES", 2**20)
    monkeypatch.setattr(spz, "MOST_BYTES", 2**20)
    refused(tmp_path / "g.sog", changed_sog(meta=meta() + b" " * 2**21), "unpacks to more than 1 MB")
    refused(tmp_path / "g.spz", gzip.compress(gzip.decompress(random_gaussians(40).to_bytes("g.spz")) + bytes(2**21)),
            "unpacks to more than")


def test_counts_beyond_what_memory_has_room_for(tmp_path):
    for count in (2**24 + 1, 2**31):
        words = f"unpacks to {count} Gaussians, more than 16777216"
        refused(tmp_path / "g.sog", changed_sog(meta=meta(count=count)), words)
        data = bytearray(gzip.decompress(random_gaussians(40).to_bytes("g.spz")))
        data[8:12] = count.to_bytes(4, "little")
        refused(tmp_path / "g.spz", gzip.compress(data), words)
        data = b"NGSP" + struct.pack("<IIBBBBI", 4, count, 0, 12, 0, 0, 32).ljust(60, b"\0")
        refused(tmp_path / "g.spz", data, words)
    refused(tmp_path / "g.sog", changed_sog(quats=picture("png", 260)), "quats is a picture of 260 x 260 pixels")


def test_what_a_format_cannot_hold(tmp_path):
    large = random_gaussians(5)
    large.scales[0, 0] = 400
    with pytest.raises(InputError, match="an .spz holds scales up to 379, these go up to 400"):
        large.save(tmp_path / "g.spz")
    far = random_gaussians(5)
    far.means[0, 0] = 1e7
    with pytest.raises(InputError, match="an .spz holds positions up to 4194304, these go up to 1e"):
        far.save(tmp_path / "g.spz")
    assert not any(tmp_path.iterdir())
    with pytest.raises(InputError, match="cannot be the name of a file"):
        Gaussians.load("a\0b.ply")


@pytest.mark.parametrize("suffix", [".ply", ".splat", ".spz", ".sog", ".compressed.ply"])
def test_half_precision(tmp_path, suffix):
    import torch

    random_gaussians(300).to(torch.bfloat16).save(tmp_path / f"g{suffix}")
    assert np.isfinite(Gaussians.load(tmp_path / f"g{suffix}").means.numpy()).all()
