"""Sizes are compared before there is room for them: a small file that claims much costs nothing. See docs/limits.md."""

import io
import json
import os
import resource
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from camera_files import read_cameras
from gaussian_inputs import random_gaussians
from gltf_inputs import Builder, chart, sparse
from pictures import png_header, rgb_image
from PIL import Image, TiffImagePlugin

from ouroboros_lib.data import gltf_files, mesh_parts
from ouroboros_lib.data.folder_formats import load_array
from ouroboros_lib.data.folders import find_objects, read_object, write_object
from ouroboros_lib.data.layouts import find_meshes, holds_meshes
from ouroboros_lib.data.mesh_files import read_parts, read_texture
from ouroboros_lib.data.meshes import load_mesh
from ouroboros_lib.data.photo import load_photo
from ouroboros_lib.data.shards import ShardStream
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation import native
from ouroboros_lib.evaluation.pictures import read_picture
from ouroboros_lib.evaluation.protocols import load_protocol
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.loading import load
from ouroboros_lib.paper.tensor_files import read_tensors
from ouroboros_lib.pipeline import Ouroboros3DPipeline

LIMIT = "pixels are too many, reduce it to at most 16384 a side and 100 megapixels"


def peak_of(function) -> int:
    """Bytes by which a child's memory grows while it calls `function`."""
    receiving, sending = os.pipe()
    if (child := os.fork()) == 0:
        try:
            torch.set_num_threads(1)  # there are no others in a child
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            function()
            os.write(sending, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before).encode())
        finally:
            os._exit(0)
    os.close(sending)
    os.waitpid(child, 0)
    with os.fdopen(receiving) as answer:
        return 1024 * int(answer.read())


# ---- pictures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width, height", [(12_000, 12_000), (8, 16_000_000)])
def test_pictures_wherever_they_are_read(tmp_path, rendered, width, height):
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_header(width, height))
    for read in (lambda: load_photo(bomb, 64), lambda: read_texture(bomb), lambda: read_picture(bomb)):
        with pytest.raises(InputError, match=f"bomb.png.*{width} x {height} {LIMIT}"):
            read()
    write_object(tmp_path / "thing", rendered[0])
    (tmp_path / "thing" / "view_000.png").write_bytes(bomb.read_bytes())
    with pytest.raises(InputError, match=f"view_000.png.*{LIMIT}"):
        read_object(tmp_path / "thing")
    built = Builder()
    built.record["images"] = [{"bufferView": built.view(bomb.read_bytes())}]
    with pytest.raises(InputError, match=f"texture of material 0.*{LIMIT}"):
        read_parts(built.write(tmp_path / "a.glb"))


def test_all_textures_of_a_mesh_together(tmp_path, monkeypatch):
    built = Builder(chart())
    built.record["materials"] *= 3
    built.mesh["primitives"] = [built.primitive | {"material": number} for number in range(3)]
    path = built.write(tmp_path / "a.glb")
    assert len(read_parts(path)[0]) == 3
    monkeypatch.setattr(mesh_parts, "MOST_TEXELS", 2 * 64 * 64)
    with pytest.raises(InputError, match="a.glb: .*all textures together have more than 0 million pixels; reduce them"):
        read_parts(path)


def test_meshes_that_repeat_what_little_they_have(tmp_path, monkeypatch):
    monkeypatch.setattr(gltf_files, "MOST", 1000)
    built = Builder(chart())
    built.mesh["primitives"] = [built.primitive] * 300
    with pytest.raises(InputError, match="a.glb: a scene of more than 1000 vertices"):
        read_parts(built.write(tmp_path / "a.glb"))
    monkeypatch.setattr(gltf_files, "MOST_SPARSE", 3)
    built = Builder(chart())
    sparse(built)
    with pytest.raises(InputError, match="a.glb: a sparse accessor of 4 values, more than 3"):
        read_parts(built.write(tmp_path / "a.glb"))


def test_frames_are_not_counted(tmp_path, monkeypatch):
    """To count those of a TIFF takes minutes: each says where the next one is."""
    rgb_image().save(tmp_path / "a.tiff", save_all=True, append_images=[rgb_image()] * 2)
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "n_frames", property(lambda self: pytest.fail("counted")))
    assert "a.tiff has several frames, the first one is used" in load_photo(tmp_path / "a.tiff", 64, "keep").notes


def test_floats_of_any_size_are_stretched_to_numbers(tmp_path):
    wide = np.linspace(-3e38, 3e38, 400, dtype=np.float32).reshape(20, 20)
    Image.fromarray(wide).save(tmp_path / "wide.tiff")
    image = load_photo(tmp_path / "wide.tiff", 64, "keep").image
    assert image.isfinite().all() and image.min() < 0.05 and image.max() > 0.95


def test_memory_for_a_picture(tmp_path):
    """As the documentation says: 12 bytes a pixel for 8 bits, 30 where they are more."""
    side = 4000
    Image.new("RGB", (side, side), (200, 90, 40)).save(tmp_path / "large.png")
    Image.fromarray(np.full((side, side), 40_000, np.uint16)).save(tmp_path / "deep.png")
    for name, most in (("large.png", 12), ("deep.png", 30)):
        assert 0 < peak_of(lambda name=name: load_photo(tmp_path / name, 64, "keep")) < most * side**2 + 0.13e9, name
    path = Builder(Image.new("RGBA", (side, side), (200, 90, 40, 200))).write(tmp_path / "a.glb")
    assert 0 < peak_of(lambda: load_mesh(path)) < 12 * side**2 + 0.05e9


# ---- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(10**12,), (3, 5), (2**31, 2**31), ()])
def test_arrays_whose_header_claims_another_size(shape):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with pytest.raises(InputError, match=r"a.npy: not a NumPy array \(its header says float32 of shape"):
        load_array(buffer.getvalue() + bytes(24), Path("a.npy"))
    for data in (b"", b"\x93NUMPY\x01\0\xff\xff", buffer.getvalue().replace(b"descr", b"de\0cr")):
        with pytest.raises(InputError, match="a.npy: not a NumPy array"):
            load_array(data, Path("a.npy"))


def test_tensors_of_more_numbers_than_the_file_has(tmp_path):
    for odd, words in ((torch.zeros(1).expand(10**5, 10**5), "has more numbers than the file holds"),
                       (torch.eye(3).to_sparse(), "sparse_coo tensor, expected plain ones"),
                       (torch.empty(3, device="meta"), "expected plain ones")):
        torch.save({"a": odd}, tmp_path / "w.pth")
        with pytest.raises(InputError, match=f"w.pth: .*'a' .*{words}"):
            read_tensors(tmp_path / "w.pth")


@pytest.mark.parametrize("suffix", [".ply", ".splat", ".sog"])
def test_memory_for_a_splat(tmp_path, suffix):
    random_gaussians(100_000).save(tmp_path / f"g{suffix}")
    assert 0 < peak_of(lambda: Gaussians.load(tmp_path / f"g{suffix}")) < 800 * 100_000 + 0.02e9


def test_sparse_members_of_a_shard(tmp_path, rendered_shards):
    for path in rendered_shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    first = sorted(tmp_path.glob("*.tar"))[0]
    member = tarfile.TarInfo("GNUSparseFile.0/thing0.view_000.png")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "thing0.view_000.png",
                          "GNU.sparse.realsize": str(10**12)}
    member.size = 512
    with tarfile.open(first, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(b"0\n".ljust(512, b"\0")))
    first.write_bytes(first.read_bytes().ljust((rendered_shards / first.name).stat().st_size, b"\0"))
    stream = ShardStream(tmp_path)
    found = list(stream.objects_of(next(iter(stream.shards))))
    assert found and all("thing0.view_000.png is sparse, 1000000000000 bytes mostly of holes" in str(error)
                         for error in found)


def test_streams_of_a_new_spz(tmp_path):
    header = struct.pack("<IIIBBBBI", 0x5053474E, 4, 2**28, 0, 12, 0, 5, 32).ljust(32, b"\0")
    table = b"".join(struct.pack("<QQ", 20, size * 2**28) for size in (9, 1, 3, 3, 4))
    (tmp_path / "bomb.spz").write_bytes(header + table + bytes(100))
    with pytest.raises(InputError, match="bomb.spz: unpacks to more than 1 GB"):
        Gaussians.load(tmp_path / "bomb.spz")


# ---- what is no file ------------------------------------------------------------------------------------------------


def test_pipes_and_devices_are_not_waited_for(tmp_path):
    for name in ("a.png", "a.ply", "a.json", "a.csv"):
        os.mkfifo(tmp_path / name)
    for read in (lambda: load_photo(tmp_path / "a.png", 64), lambda: read_picture(tmp_path / "a.png"),
                 lambda: Gaussians.load(tmp_path / "a.ply"), lambda: load_protocol(tmp_path / "a.json"),
                 lambda: native.whose(tmp_path, {}, [], tmp_path / "a.csv"), lambda: read_cameras("/dev/zero")):
        with pytest.raises(InputError, match="is a pipe or a device, not a file"):
            read()


def test_pipes_in_a_pipeline_folder(tmp_path, tiny):
    tiny.save_pretrained(tmp_path)
    os.mkfifo(tmp_path / "multiview" / "more.safetensors")
    with pytest.raises(InputError, match="multiview/more.safetensors: is neither a file nor a folder"):
        load(Ouroboros3DPipeline, tmp_path)


def test_links_in_circles(tmp_path, rendered):
    """Each folder is reached by its own name, and by a link once, however many ways lead round."""
    for name in "abcd":
        write_object(tmp_path / name / f"thing_{name}", rendered[0])
        (tmp_path / name / f"mesh_{name}.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    for one in "abcd":
        for other in "abcd":
            (tmp_path / one / f"to_{other}").symlink_to(tmp_path / other)
    names = find_objects(tmp_path)
    assert {f"{name}/thing_{name}" for name in "abcd"} <= set(names) and len(names) <= 8
    assert len(find_meshes([tmp_path])) == 4
    for path in tmp_path.glob("*/*.obj"):
        path.unlink()
    assert not holds_meshes(tmp_path)


def test_names_that_no_disk_takes(tmp_path, rendered):
    write_object(tmp_path / "thing", rendered[0])
    for path in (tmp_path / "thing").iterdir():
        path.rename(path.with_name(path.name.replace("cameras.json", "not.json")))
    pose = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]]
    for name, words in (("a/" + "x" * 300, "this view is missing"), ("a/\0", "expected a text, got 'a/")):
        record = {"camera_angle_x": 0.7, "frames": [{"file_path": name, "transform_matrix": pose}]}
        (tmp_path / "thing" / "transforms.json").write_text(json.dumps(record))
        with pytest.raises(InputError, match=words):
            read_object(tmp_path / "thing")


def test_errors_are_one_line_whatever_is_in_a_name(tmp_path):
    name = "a\r\n\x1b[2Jb\u2028\x85\x1d.ply"
    with pytest.raises(InputError) as caught:
        Gaussians.load(tmp_path / name)
    assert str(caught.value).splitlines() == [f"{tmp_path}/a   [2Jb   .ply: no such file"]


@pytest.mark.parametrize("key, value", [("depths", [10**9, 1]), ("channels", [10**6, 8]), ("channels", [8] * 2000)])
def test_models_of_a_size_that_no_file_has(tmp_path, tiny, key, value):
    """A model is made before its file is opened: of a thousand million layers it would be made for days."""
    tiny.save_pretrained(tmp_path)
    path = tmp_path / "reconstructor" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(InputError, match=f"reconstructor/config.json: {key} is .*: at most (1000|65536) can be read"):
        load(Ouroboros3DPipeline, tmp_path)


def test_models_that_their_files_cannot_fill(tmp_path, tiny):
    """82 GB by one number of a file of 100 bytes."""
    tiny.save_pretrained(tmp_path)
    path = tmp_path / "reconstructor" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"channels": [32, 48000, 64]}))
    with pytest.raises(InputError, match=r"a model of \d+ numbers, but the files of weights beside it have \d+ bytes"):
        load(Ouroboros3DPipeline, tmp_path)


def test_models_of_lists_that_do_not_fit(tmp_path, tiny):
    tiny.save_pretrained(tmp_path)
    path = tmp_path / "reconstructor" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attention": []}))
    with pytest.raises(InputError, match="cannot be loaded as Ouroboros3D weights"):
        load(Ouroboros3DPipeline, tmp_path)


def test_positions_that_are_infinite_only_once_they_are_inverted(tmp_path):
    np.save(tmp_path / "000.npy", np.hstack([np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0],
                                             np.full((3, 1), 3e38)]))
    rgb_image().save(tmp_path / "000.png")
    with pytest.raises(InputError, match="000.npy: cameras with numbers that are not finite"):
        read_object(tmp_path)
