"""Pictures, folders of views in every layout, and shards."""

import functools
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from camera_files import write_opengl_cameras
from PIL import Image
from shard_inputs import write_shards

from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.data.folders import MultiviewObject, encode_object, read_object
from ouroboros_lib.data.mesh_files import read_texture
from ouroboros_lib.data.photo import load_photo
from ouroboros_lib.data.shards import ShardStream
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.native import pictures_in, read_views

from .running import Format, expect

SIZE = 24  # pixels a side of the pictures
KINDS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tiff": "TIFF", "gif": "GIF", "bmp": "BMP"}


def _pixels(channels: int = 3) -> np.ndarray:
    """A disc on white, with alpha in a fourth channel."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    inside = x**2 + y**2 < (SIZE / 3) ** 2
    pixels = np.full((SIZE, SIZE, channels), 255, np.uint8)
    pixels[inside] = (200, 80, 40, 255)[:channels]
    pixels[..., 3:][~inside] = 0
    return pixels


def _encoded(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@functools.cache
def _pictures(suffix: str) -> list[dict[str, bytes]]:
    kind, rgb, rgba = KINDS[suffix], Image.fromarray(_pixels()), Image.fromarray(_pixels(4))
    found = [_encoded(rgb, kind), _encoded(rgb.convert("P"), kind) if kind not in ("JPEG", "WEBP") else
             _encoded(rgb, kind, quality=50), _encoded(rgb.convert("L"), kind)]
    if kind in ("PNG", "WEBP", "TIFF"):
        found.append(_encoded(rgba, kind))
    if kind in ("PNG", "TIFF"):
        deep = Image.fromarray(_pixels()[..., 0].astype(np.uint16) * 257)
        found += [_encoded(deep, kind), _encoded(rgb.convert("1"), kind), _encoded(rgba.convert("LA"), kind)]
    if kind == "TIFF":
        floats = Image.fromarray(_pixels()[..., 0].astype(np.float32) / 255)
        found += [_encoded(floats, kind), _encoded(rgb.convert("CMYK"), kind),
                  _encoded(rgb, kind, compression="tiff_lzw"), _encoded(rgb, kind, compression="jpeg")]
    if kind in ("GIF", "TIFF", "WEBP"):
        found.append(_encoded(rgb, kind, save_all=True, append_images=[rgb.rotate(90)] * 3))
    if kind in ("JPEG", "WEBP", "PNG"):
        exif = Image.Exif()
        exif[0x112] = 6
        found.append(_encoded(rgb, kind, exif=exif.tobytes()))
    return [{f"a.{suffix}": data} for data in found]


def _read_picture(folder: Path, suffix: str) -> None:
    photo = load_photo(folder / f"a.{suffix}", 16, "keep")
    for name in ("image", "alpha"):
        values = getattr(photo, name)
        expect(torch.isfinite(values).all() and values.min() >= 0 and values.max() <= 1, f"{name} beyond 0 to 1")
    texture = read_texture(folder / f"a.{suffix}")
    expect(texture.dtype == np.uint8 and texture.ndim == 3 and texture.shape[-1] == 3, "a texture of another kind")


# ---- folders of views -----------------------------------------------------------------------------------------------


def _object(name: str = "thing", views: int = 3) -> MultiviewObject:
    rgba = torch.from_numpy(_pixels(4)).permute(2, 0, 1).expand(views, 4, SIZE, SIZE)
    depth = (rgba[:, 3:] > 0).float() * 1.7
    about = {"render": {"protocol": "x-v1-24"}}
    return MultiviewObject(name, rgba, evenly_spaced_orbit(views, 20.0), views, depth, about)


@functools.cache
def _ours() -> list[dict[str, bytes]]:
    return [encode_object(_object())]


@functools.cache
def _released() -> list[dict[str, bytes]]:
    return [{"meta.json": _opengl([f"render_{i:04d}.webp" for i in range(3)]),
             **{f"render_{i:04d}.webp": _encoded(Image.fromarray(_pixels(4)), "WEBP") for i in range(3)}}]


@functools.cache
def _nerf() -> list[dict[str, bytes]]:
    record = json.loads(_opengl(["images/0", "images/1.png", "images/2"]))
    frames = [{"file_path": f"./images/{i}", "transform_matrix": place["transform_matrix"]}
              for i, place in enumerate(record["locations"])]
    pictures = {f"images/{i}.png": _encoded(Image.fromarray(_pixels(4)), "PNG") for i in range(3)}
    pinhole = {"fl_x": 33.3, "fl_y": 33.3, "cx": 12.0, "cy": 12.0, "w": 24, "h": 24, "frames": frames}
    return [{"transforms.json": json.dumps(text).encode(), **pictures}
            for text in ({"camera_angle_x": record["camera_angle_x"], "frames": frames}, pinhole)]


@functools.cache
def _zero123() -> list[dict[str, bytes]]:
    files = {}
    for i, place in enumerate(json.loads(_opengl(["0", "1", "2"]))["locations"]):
        pose, buffer = np.linalg.inv(np.array(place["transform_matrix"]))[:3], io.BytesIO()
        np.save(buffer, pose)
        files |= {f"{i:03d}.npy": buffer.getvalue(), f"{i:03d}.png": _encoded(Image.fromarray(_pixels(4)), "PNG")}
    return [files]


def _opengl(names: list[str]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_opengl_cameras(Path(folder, "meta.json"), evenly_spaced_orbit(len(names), 20.0), names)
        return Path(folder, "meta.json").read_bytes()


def sound_object(views: MultiviewObject) -> None:
    count, _, height, width = views.rgba.shape
    expect(views.rgba.dtype == torch.uint8 and height == width and 1 <= views.num_orbit_views <= count, "odd pictures")
    poses, lenses = views.cameras.c2w, views.cameras.intrinsics
    expect(poses.shape == (count, 4, 4) and lenses.shape == (count, 3, 3), "cameras of another number")
    expect(torch.isfinite(poses).all() and torch.isfinite(lenses).all(), "cameras that are not finite")
    turns = poses[:, :3, :3].double()
    expect(torch.allclose(turns @ turns.mT, torch.eye(3, dtype=turns.dtype).expand_as(turns), atol=0.02)
           and (torch.linalg.det(turns) > 0).all(), "cameras that are not turned by a rotation")
    expect((lenses[:, [0, 1], [0, 1]] > 0).all(), "focal lengths that are not positive")
    if views.depth is not None:
        expect(torch.isfinite(views.depth).all() and (views.depth >= 0).all(), "depth that is none")


@functools.cache
def _shards() -> list[dict[str, bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        write_shards([_object("a"), _object("b.c")], folder)
        return [{path.name: path.read_bytes() for path in Path(folder).iterdir()}]


def _read_shards(folder: Path) -> None:
    """What is left out comes as the error that says why."""
    stream = ShardStream(folder)
    found = [views for path in stream.shards for views in stream.objects_of(path)]
    expect(len(found) == len(stream), "another number of objects")
    for views in found:
        if isinstance(views, InputError):
            raise views
        sound_object(views)


@functools.cache
def _views() -> list[dict[str, bytes]]:
    grid = Image.fromarray(np.tile(_pixels(), (2, 3, 1)))
    return [{"grid.png": _encoded(grid, "PNG")}, {"grid.png": _encoded(grid.convert("L"), "PNG")}]


def _read_views(folder: Path) -> None:
    views, _ = read_views(pictures_in(folder), [2, 3, 0], SIZE)
    for view in views:
        expect(view.shape == (3, SIZE, SIZE) and torch.isfinite(view).all(), "odd views")


FORMATS = [
    *(Format(suffix, functools.partial(_pictures, suffix), functools.partial(_read_picture, suffix=suffix))
      for suffix in KINDS),
    *(Format(f"views-{name}", examples, lambda folder: sound_object(read_object(folder))) for name, examples in (
        ("ours", _ours), ("released", _released), ("nerf", _nerf), ("zero123", _zero123))),
    Format("shards", _shards, _read_shards), Format("grid", _views, _read_views)]
