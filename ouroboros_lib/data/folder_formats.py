"""Formats of multi-view folders: which files hold the views and the cameras, recognised by the files that are there.

    ours       view_000.png ... (RGBA)    cameras.json    optional depth_000.npy ..., object.json
    released   render_0000.webp ...       meta.json       the released code's Objaverse renders (OpenGL axes)
    nerf       as the file says           transforms.json `frames[].file_path`                  (OpenGL axes)
                                          or transforms_train.json, _val, _test; intrinsics as camera_angle_x or fl_x
    zero123    000.png ...                000.npy ...     (3, 4) world to camera, OpenGL axes, fov 49.1 degrees
"""

import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypedDict

import numpy as np
import torch

from ..cameras import Cameras, cameras_from_record, check_rigid, normalised_intrinsics, opengl_to_opencv
from ..errors import InputError
from ..files import one_line, parse_json
from ..values import Between, checked

ZERO123_FOV = math.degrees(2 * math.atan(16 / 35))  # a 35 mm lens on Blender's 32 mm sensor
UPS = ("auto", "y", "z")
SPLITS = tuple(f"transforms_{split}.json" for split in ("train", "val", "test"))  # taken together
MARKERS = {"ours": ("cameras.json",), "released": ("meta.json",), "nerf": ("transforms.json", *SPLITS),
           "zero123": ("000.npy",)}
PAPERS = (".txt", ".md", ".pdf", ".html", ".htm", ".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".xml", ".doc",
          ".docx", ".rtf", ".log", ".gz", ".zip", ".tar", ".py", ".sh", ".db", ".ini", "")  # no part of an object
NOT_OURS = ("__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")


Row = tuple[float, float, float, float]


class Render(TypedDict, total=False):
    """How an object was rendered, as far as it is asked for."""

    up: Literal["auto", "y", "z"]
    yaw: float
    texture: str | None
    protocol: str


class Source(TypedDict, total=False):
    """Where an object came from."""

    to_world: tuple[Row, Row, Row, Row]
    yaw: float


class About(TypedDict, total=False):
    """What is read of `object.json`."""

    name: str
    num_orbit_views: Annotated[int, Between(1)]
    render: Render
    source: Source


def find_format(files: Iterable[str]) -> str | None:
    """Which format a folder with these file names has."""
    names = set(files)
    return next((name for name, markers in MARKERS.items() if not names.isdisjoint(markers)), None)


def subfolders(folder: Path, followed: set[Path] | None = None) -> list[Path]:
    """Folders in a folder, by name, but for hidden ones, those that systems add, and links to folders above.

    followed: where links have led to on a walk, which is added to: no link leads there again, however links go round.
    """
    found = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
                   and entry.name not in NOT_OURS)
    followed = set() if followed is None else followed
    chosen = []
    for entry in found:
        if entry.is_symlink():
            target = entry.resolve()
            if target in followed or folder.resolve().is_relative_to(target):
                continue
            followed.add(target)
        chosen.append(entry)
    return chosen


def is_stray(folder: Path) -> bool:
    """Whether all that a folder and those below hold is papers, and there are some."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return bool(files) and all(path.suffix.lower() in PAPERS for path in files)


def read_format(files: Mapping[str, bytes], where: Path) -> tuple[str, list[str], Cameras, dict]:
    """Format, picture names and cameras (V,) of the views, and what object.json says ({} without it).

    files: contents by name; where: the folder, for messages. Raises InputError.
    """
    kind = find_format(files)
    if kind is None:
        what = "an empty folder" if not len(files) else (
            f"none of {', '.join(markers[0] for markers in MARKERS.values())} here")
        raise InputError(f"{where}: {what}; expected a multi-view folder")
    return kind, *_READERS[kind](files, where)


def _ours(files, where):
    record = parse_json(files["cameras.json"], where / "cameras.json")
    cameras = cameras_from_record(record, where / "cameras.json")
    names = [f"view_{i:03d}.png" for i in range(cameras.shape[0])]
    found = sum(name.startswith("view_") and name.endswith(".png") for name in files)
    if found > len(names):
        raise InputError(f"{where}: {found} pictures view_*.png, but cameras.json has {len(names)} views")
    about = about_object(files["object.json"], where / "object.json") if "object.json" in files else {}
    return names, cameras, {**about, "size": record["size"]} if "size" in record else about


def about_object(data: bytes, path: Path) -> dict:
    """What object.json says. Raises InputError."""
    return checked(parse_json(data, path), About, path)


def _released(files, where, marker="meta.json"):
    record = parse_json(files[marker], where / marker)
    cameras = cameras_from_record(record, where / marker)
    names = []
    for number, view in enumerate(record.get("locations") or record["frames"]):
        frames = view.get("frames")
        frame = frames[0] if isinstance(frames, list) and frames and isinstance(frames[0], dict) else {}
        name = frame.get("name") or view.get("file_path")
        names.append(_picture(str(name), files) if name else f"render_{number:04d}.webp")
    return names, cameras, {}


def _picture(name: str, files: Mapping[str, bytes]) -> str:
    """The name under which a picture is there: as told, beside the cameras or in images/; with a suffix if need be."""
    told = name.replace("\\", "/")
    while told.startswith("./"):
        told = told[2:]
    base = told.rsplit("/", 1)[-1]
    for text in dict.fromkeys((told, base, "images/" + base)):
        for end in ("", ".png", ".webp", ".avif", ".jpg", ".jpeg"):
            if text + end in files:
                return text + end
    return told if Path(told).suffix else told + ".png"


def _nerf(files, where):
    names, poses, intrinsics = [], [], []
    for marker in [name for name in MARKERS["nerf"] if name in files]:
        more, cameras, _ = _released(files, where, marker)
        names += more
        poses.append(cameras.c2w)
        intrinsics.append(cameras.intrinsics)
        if marker == "transforms.json":  # the splits repeat it
            break
    return names, Cameras(torch.cat(poses), torch.cat(intrinsics)), {}


def _zero123(files, where):
    names, poses = [], []
    while f"{len(names):03d}.npy" in files:
        name = f"{len(names):03d}"
        pose = load_array(files[name + ".npy"], where / (name + ".npy"))
        if pose.shape != (3, 4) or pose.dtype.kind != "f":
            raise InputError(f"{where / name}.npy: expected a (3, 4) camera matrix, got {pose.shape}")
        poses.append(np.concatenate([pose, [[0, 0, 0, 1]]]))
        names.append(name + ".png")
    to_camera = torch.from_numpy(np.stack(poses))
    lenses = normalised_intrinsics(ZERO123_FOV).expand(len(names), 3, 3)
    check_rigid(Cameras(to_camera, lenses), where / "000.npy")  # before it is inverted
    c2w = torch.linalg.inv(to_camera.double()).float()
    c2w[:, 3] = torch.tensor([0.0, 0, 0, 1])  # but for the last digit
    cameras = Cameras(opengl_to_opencv(c2w), lenses)
    check_rigid(cameras, where / "000.npy")  # positions may have become infinite
    return names, cameras, {}


_READERS = {"ours": _ours, "released": _released, "nerf": _nerf, "zero123": _zero123}


def load_array(data: bytes, path: Path) -> np.ndarray:
    """A .npy file's contents; `path` is for messages. Raises InputError, before there is room for more numbers than the
    file has."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(stream)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
            raise ValueError(f"its header says {dtype} of shape {shape}, which its {len(data)} bytes are not")
        values = np.frombuffer(data, dtype, math.prod(shape), stream.tell())
        return values.reshape(shape, order="F" if fortran_order else "C")
    except Exception as error:  # the header is a text in Python, and what reads it raises many kinds
        raise InputError(f"{path}: not a NumPy array ({one_line(error)})") from None


def into_our_world(cameras: Cameras, up: str, where: Path) -> Cameras:
    """Turn the world so that y is up and the first camera stands at azimuth 0; distances stay as they are."""
    c2w = cameras.c2w.double()
    if up == "auto":  # cameras of an orbit hold their heads up
        heads = -c2w[:, :3, 1].mean(0)
        up = "y" if heads[1] > heads[2] else "z"
        if heads[1:].max() < 0.5:
            raise InputError(f"{where}: cannot tell from its cameras which axis is up; say y or z")
    turn = torch.eye(4, dtype=torch.float64)
    if up == "z":
        turn[:3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    x, _, z = (turn @ c2w[0])[:3, 3].tolist()
    length = math.hypot(x, z)
    if length > 1e-6:  # else it looks straight down
        c, s = z / length, x / length
        turn = torch.tensor([[c, 0, -s, 0], [0, 1, 0, 0], [s, 0, c, 0], [0, 0, 0, 1]], dtype=torch.float64) @ turn
    return Cameras((turn @ c2w).float(), cameras.intrinsics)
