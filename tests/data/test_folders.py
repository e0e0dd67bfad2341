"""Multi-view folders: what is written comes back, foreign formats land in our world, faults are named."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from camera_files import write_opengl_cameras
from PIL import Image

from ouroboros_lib.cameras import evenly_spaced_orbit, opengl_to_opencv, orbit_cameras
from ouroboros_lib.data.folder_formats import ZERO123_FOV
from ouroboros_lib.data.folders import MultiviewObject, collate, find_objects, read_object, write_object
from ouroboros_lib.data.procedural import render_objects, sample_objects
from ouroboros_lib.errors import InputError

SIZE, VIEWS = 24, 5
RELEASED_VIEWS = (0, 2, 4, 6, 8, 10, 12, 15)  # of the 16-frame orbit; the last stands at azimuth 337.5, not 315
Z_UP = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # ours to Blender's world


def rendered(cameras, count=1, size=SIZE, first=0):
    objects = sample_objects("val", range(first, first + count))
    views = render_objects(objects, cameras.expand(count), size, depth=True)
    return [MultiviewObject(f"val_{first + i}", views.rgba[i], cameras, VIEWS - 1, views.depth[i], {"seed": i})
            for i in range(count)]


@pytest.fixture(scope="module")
def views():
    return rendered(evenly_spaced_orbit(VIEWS, 20.0))[0]


@pytest.fixture
def folder(tmp_path, views):
    write_object(tmp_path / "data" / "thing", views)
    return tmp_path / "data" / "thing"


def test_what_is_written_comes_back(folder, views):
    assert {f"view_{i:03d}.png" for i in range(VIEWS)} | {f"depth_{i:03d}.npy" for i in range(VIEWS)} | {
        "cameras.json", "object.json"} == {path.name for path in folder.iterdir()}
    again = read_object(folder)
    assert torch.equal(again.rgba, views.rgba) and torch.equal(again.depth, views.depth)  # 8 bits, and yet exact
    assert torch.equal(again.cameras.c2w, views.cameras.c2w)
    assert torch.allclose(again.cameras.intrinsics, views.cameras.intrinsics)
    assert (again.name, again.num_orbit_views, again.info) == ("thing", VIEWS - 1, {"seed": 0})


def test_colour_on_disk_is_straight(folder, views):
    """Another program that composites the file on black sees no white fringe."""
    picture = np.asarray(Image.open(folder / "view_000.png")).astype(float)
    alpha = picture[..., 3:] / 255
    edge = (alpha[..., 0] > 0.2) & (alpha[..., 0] < 0.8)
    assert edge.sum() > 5
    on_white = picture[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(on_white - views.rgba[0, :3].permute(1, 2, 0).numpy()).max() <= 0.5
    inside = picture[alpha[..., 0] == 1][:, :3]
    assert picture[edge][:, :3].max() <= 255 and picture[edge][:, :3].mean() < inside.max()
    assert (picture[alpha[..., 0] == 0][:, :3] == 255).all()


def test_every_value_survives_the_way_through_straight_colour():
    from ouroboros_lib.data.folders import _straight, on_white

    alpha, color = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    possible = color >= 255 - alpha  # what can be seen on white at this alpha
    rgba = np.stack([color, color, color, alpha], -1).astype(np.uint8)
    assert np.array_equal(on_white(_straight(rgba))[possible], rgba[possible])


def test_writing_replaces_the_whole_folder_or_nothing(folder, views, monkeypatch):
    (folder / "view_009.png").write_bytes(b"of an older run")
    write_object(folder, views)
    assert not (folder / "view_009.png").exists()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    bad = dataclasses.replace(views, info={"not for": object()})
    with pytest.raises(TypeError):
        write_object(folder, bad)
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_object(folder, views)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["thing"]


def test_views_sizes_and_depth_can_be_chosen(folder, views):
    some = read_object(folder, views=[3, 1], novel_views=1, depth=False)
    assert some.num_orbit_views == 2 and some.depth is None
    assert torch.equal(some.rgba, views.rgba[[3, 1, 4]])
    assert torch.equal(some.cameras.c2w, views.cameras.c2w[[3, 1, 4]])
    small = read_object(folder, image_size=SIZE // 2)
    mean = views.rgba.float().unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).mean((-1, -3))
    assert (small.rgba.float() - mean).abs().max() <= 0.5
    assert read_object(folder, image_size=17).rgba.shape == (VIEWS, 4, 17, 17)
    for settings, word in (({"image_size": 25}, "too small"), ({"views": [9]}, "has 5 views"), ({"up": "w"}, "auto"),
                           ({"novel_views": 4}, "novel"), ({"image_size": 12, "depth": True}, "resized")):
        with pytest.raises(InputError, match=word):
            read_object(folder, **settings)


def released_folder(folder, frames, cameras, suffix="webp"):
    folder.mkdir(parents=True)
    names = [f"render_{i:04d}.{suffix}" for i in range(len(frames))]
    for name, rgba in zip(names, frames, strict=True):
        buffer = _straight_picture(rgba)
        buffer.save(folder / name, lossless=True, exact=True)
    write_opengl_cameras(folder / "meta.json", cameras, names)
    return folder


def _straight_picture(rgba):
    from ouroboros_lib.data.folders import _straight

    return Image.fromarray(_straight(rgba.permute(1, 2, 0).numpy()))


def test_released_format_lands_in_our_world(tmp_path):
    """Sixteen frames in Blender's world, z up, the first at any azimuth: view 0 ends at azimuth 0."""
    azimuth = torch.arange(16) * 22.5
    ours = orbit_cameras(azimuth, 12.0)
    frames = rendered(ours)[0].rgba
    spun = orbit_cameras(azimuth + 77.0, 12.0)  # the same views of the same object, turned with its world
    spun.c2w = Z_UP @ spun.c2w
    folder = released_folder(tmp_path / "a" / "000-001", frames, spun)
    views = read_object(folder, views=RELEASED_VIEWS)
    assert torch.allclose(views.cameras.c2w, ours.c2w[list(RELEASED_VIEWS)], atol=1e-5)
    assert torch.allclose(views.cameras.intrinsics[0], ours.intrinsics[0], atol=1e-6)
    assert torch.equal(views.rgba, frames[list(RELEASED_VIEWS)])
    assert views.num_orbit_views == 8 and views.depth is None
    again = read_object(folder, views=RELEASED_VIEWS, novel_views=4)
    assert len(again.rgba) == 12 and again.num_orbit_views == 8
    with pytest.raises(InputError, match="depth"):
        read_object(folder, depth=True)


def test_cameras_that_cannot_be_inverted(tmp_path):
    for number in range(2):
        np.save(tmp_path / f"{number:03d}.npy", np.zeros((3, 4)))
    with pytest.raises(InputError, match="000.npy: the pose of view 0 is no rotation"):
        read_object(tmp_path)


def test_objaverse_renders_of_zero123_and_nerf_files(tmp_path):
    ours = evenly_spaced_orbit(4, 25.0, fov=ZERO123_FOV, radius=1.5)
    frames = rendered(ours)[0].rgba
    blender = Z_UP @ ours.c2w
    zero, nerf = tmp_path / "set" / "zero", tmp_path / "set" / "nerf"
    zero.mkdir(parents=True)
    nerf.mkdir()
    poses = opengl_to_opencv(blender)
    for i in range(4):
        _straight_picture(frames[i]).save(zero / f"{i:03d}.png")
        _straight_picture(frames[i]).save(nerf / f"r_{i}.png")
        np.save(zero / f"{i:03d}.npy", torch.linalg.inv(poses[i].double())[:3].numpy())
    record = {"camera_angle_x": math.radians(ZERO123_FOV),
              "frames": [{"file_path": f"./r_{i}", "transform_matrix": poses[i].tolist()} for i in range(4)]}
    (nerf / "transforms.json").write_text(json.dumps(record))
    assert find_objects(tmp_path / "set") == ["nerf", "zero"]
    for views in (read_object(nerf), read_object(zero)):
        assert torch.allclose(views.cameras.c2w, ours.c2w, atol=1e-5)
        assert torch.allclose(views.cameras.intrinsics, ours.intrinsics, atol=1e-5)
        assert torch.equal(views.rgba, frames)


def test_upward_axis_that_cannot_be_told(tmp_path):
    frames = rendered(evenly_spaced_orbit(2, 0.0))[0].rgba
    sideways = evenly_spaced_orbit(2, 0.0)
    roll = torch.tensor([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    sideways.c2w = sideways.c2w @ roll
    folder = released_folder(tmp_path / "x", frames, sideways)
    with pytest.raises(InputError, match="which axis is up"):
        read_object(folder)
    assert read_object(folder, up="y").num_orbit_views == 2


def test_objects_make_training_batches(tmp_path):
    objects = rendered(evenly_spaced_orbit(VIEWS, 10.0), count=3)
    for views in objects:
        write_object(tmp_path / "set" / views.name, views)
    names = find_objects(tmp_path / "set")
    assert names == ["val_0", "val_1", "val_2"]
    batch = collate([read_object(tmp_path / "set" / names[index]) for index in (2, 0)])
    assert batch.rgba.shape == (2, VIEWS, 4, SIZE, SIZE) and batch.num_orbit_views == VIEWS - 1
    assert torch.equal(batch.rgba[0], objects[2].rgba) and batch.cameras.shape == (2, VIEWS)
    assert batch.orbit_images.shape == (2, VIEWS - 1, 3, SIZE, SIZE)
    (tmp_path / "linked").symlink_to(tmp_path / "set", target_is_directory=True)
    assert find_objects(tmp_path / "linked") == names
    small = rendered(evenly_spaced_orbit(VIEWS, 10.0), size=12)[0]
    with pytest.raises(InputError, match="val_0: .* 12 pixels.*val_1: .* 24 pixels"):
        collate([small, objects[1]])


# ---- faults ---------------------------------------------------------------------------------------------------------


def edit_json(path, **changes):
    record = json.loads(path.read_text())
    record.update(changes)
    path.write_text(json.dumps(record))


def save_depth(path, value):
    depth = np.load(path)
    depth[3, 3] = value
    np.save(path, depth)


FAULTS = {
    "missing view": (lambda f: (f / "view_002.png").unlink(), "view_002.png: this view is missing"),
    "one view too many": (lambda f: (f / "view_005.png").write_bytes(b""), "6 pictures"),
    "empty view": (lambda f: (f / "view_001.png").write_bytes(b""), "view_001.png: cannot be read"),
    "cut view": (lambda f: (f / "view_001.png").write_bytes((f / "view_001.png").read_bytes()[:300]),
                 "view_001.png: cannot be read"),
    "other size": (lambda f: Image.new("RGBA", (12, 12)).save(f / "view_003.png"), "view_003.png: 12 pixels"),
    "all of another size": (lambda f: edit_json(f / "cameras.json", size=48), "view_000.png: 24 pixels a side"),
    "not square": (lambda f: Image.new("RGBA", (24, 20)).save(f / "view_003.png"), "view_003.png: 24 x 20"),
    "no alpha": (lambda f: Image.new("RGB", (24, 24)).save(f / "view_003.png"), "view_003.png: has no alpha"),
    "NaN depth": (lambda f: save_depth(f / "depth_001.npy", np.nan), "depth_001.npy: depths"),
    "negative depth": (lambda f: save_depth(f / "depth_001.npy", -1), "depth_001.npy: depths"),
    "missing depth": (lambda f: (f / "depth_004.npy").unlink(), "depth_004.npy: this depth map is missing"),
    "depth of another size": (lambda f: np.save(f / "depth_004.npy", np.zeros((3, 3))), "depth_004.npy: float64"),
    "pickled depth": (lambda f: np.save(f / "depth_004.npy", np.array([{}])), "depth_004.npy: not a NumPy array"),
    "no cameras": (lambda f: (f / "cameras.json").unlink(), "cameras.json"),
    "cameras cut": (lambda f: (f / "cameras.json").write_text("{"), "cameras.json: not a JSON file"),
    "NaN camera": (lambda f: edit_json(f / "cameras.json", c2w=[[[math.nan] * 4] * 4] * VIEWS), "NaN is not a finite"),
    "fewer cameras": (lambda f: edit_json(f / "cameras.json", c2w=[], intrinsics=[]), "cameras.json"),
    "orbit beyond": (lambda f: edit_json(f / "object.json", num_orbit_views=9), "9 orbit views"),
    "cameras without end": (lambda f: (f / "cameras.json").write_text('{"c2w": ' + "[" * 100_000), "not a JSON file"),
    "cameras of a number": (lambda f: (f / "cameras.json").write_text("5"), "expected an object, got 5"),
    "text for numbers": (lambda f: edit_json(f / "cameras.json", intrinsics=[["1"] * 3] * 3), "intrinsics: no 3 x 3"),
    "too large a number": (lambda f: edit_json(f / "cameras.json", c2w=[[[10**400] * 4] * 4] * VIEWS), "c2w: no 4 x 4"),
    "scaled cameras": (lambda f: edit_json(f / "cameras.json", c2w=[np.diag([2, 2, 2, 1]).tolist()] * VIEWS),
                       "the pose of view 0 is no rotation"),
    "mirrored cameras": (lambda f: edit_json(f / "cameras.json", c2w=[np.diag([-1, 1, 1, 1]).tolist()] * VIEWS),
                         "the pose of view 0 is no rotation"),
    "singular cameras": (lambda f: edit_json(f / "cameras.json", c2w=[np.zeros((4, 4)).tolist()] * VIEWS),
                         "the pose of view 0 is no rotation"),
    "no focal length": (lambda f: edit_json(f / "cameras.json", intrinsics=np.zeros((3, 3)).tolist()), "focal lengths"),
    "size of a list": (lambda f: edit_json(f / "cameras.json", size=[24]), "size: expected a whole number"),
    "object of a list": (lambda f: (f / "object.json").write_text("[]"), "expected an object, got a list"),
    "half a letter": (lambda f: edit_json(f / "object.json", name="\ud800"), "name: expected a text"),
    "orbit in words": (lambda f: edit_json(f / "object.json", num_orbit_views="all"), "object.json"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named_in_one_line(folder, name):
    spoil, reason = FAULTS[name]
    spoil(folder)
    with pytest.raises(InputError) as caught:
        read_object(folder)
    message = str(caught.value)
    assert reason in message and str(folder) in message and "\n" not in message


def test_empty_folders(tmp_path):
    (tmp_path / "empty" / "leaf").mkdir(parents=True)
    for path, word in ((tmp_path / "none", "no such folder"), (tmp_path / "empty" / "leaf", "no multi-view folder")):
        with pytest.raises(InputError, match=word):
            find_objects(path)
    assert find_objects(tmp_path / "empty") == ["leaf"]
    with pytest.raises(InputError, match="leaf: an empty folder"):
        read_object(tmp_path / "empty" / "leaf")


# ---- as other programs and zips leave them --------------------------------------------------------------------------


def nerf_folder(folder, frames, cameras, file_path, lens, picture, marker="transforms.json"):
    """Blender's, nerfstudio's and instant-ngp's: where they say that a view is, and where it is."""
    record = lens | {"frames": [{"file_path": file_path.format(i), "transform_matrix": pose.tolist()}
                                for i, pose in enumerate(opengl_to_opencv(cameras.c2w))]}
    for i, rgba in enumerate(frames):
        path = folder / picture.format(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        _straight_picture(rgba).save(path)
    (folder / marker).write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize("file_path, picture", [
    ("./images/r_{}.png", "images/r_{}.png"), ("images\\r_{}.png", "images/r_{}.png"),
    ("./train/r_{}", "train/r_{}.png"), ("/elsewhere/x/images/r_{}.png", "images/r_{}.png"),
    ("C:\\x\\r_{}.png", "r_{}.png"), ("../x/r_{}.png", "r_{}.png")])
def test_views_lie_where_other_programs_put_them(tmp_path, file_path, picture):
    views = rendered(evenly_spaced_orbit(3, 0.0))[0]
    lens = {"camera_angle_x": 2 * math.atan(0.5 / float(views.cameras.intrinsics[0, 0, 0]))}
    folder = nerf_folder(tmp_path / "set" / "thing", views.rgba, views.cameras, file_path, lens, picture)
    assert find_objects(tmp_path / "set") == ["thing"]
    again = read_object(folder)
    assert torch.equal(again.rgba, views.rgba) and torch.allclose(again.cameras.c2w, views.cameras.c2w, atol=1e-5)


def test_lenses_in_pixels_of_all_or_of_each_and_those_that_distort(tmp_path):
    views = rendered(evenly_spaced_orbit(3, 0.0))[0]
    k = SIZE * float(views.cameras.intrinsics[0, 0, 0])
    pixels = {"fl_x": k, "fl_y": k, "cx": SIZE / 2, "cy": SIZE / 2, "w": SIZE, "h": SIZE, "k1": 0}
    folder = nerf_folder(tmp_path / "thing", views.rgba, views.cameras, "r_{}", pixels, "r_{}.png")
    assert torch.allclose(read_object(folder).cameras.intrinsics, views.cameras.intrinsics, atol=1e-5)
    record = json.loads((folder / "transforms.json").read_text())
    record["frames"][1] |= {"fl_x": 2 * k, "cx": 0}
    edit_json(folder / "transforms.json", **record)
    lens = read_object(folder).cameras.intrinsics
    assert lens[1, 0].tolist() == pytest.approx([2 * k / SIZE, 0, 0]) and torch.allclose(lens[2],
                                                                                         views.cameras.intrinsics[2])
    for change, word in (({"k1": 0.1}, "k1: the lens distorts"), ({"camera_model": "OPENCV_FISHEYE"}, "FISHEYE"),
                         ({"w": 0}, "w: expected a number above 0, got 0")):
        edit_json(folder / "transforms.json", **({"k1": 0, "camera_model": "OPENCV"} | change))
        with pytest.raises(InputError, match=word):
            read_object(folder)


def test_splits_are_taken_together(tmp_path):
    views = rendered(evenly_spaced_orbit(4, 0.0))[0]
    lens = {"camera_angle_x": 2 * math.atan(0.5 / float(views.cameras.intrinsics[0, 0, 0]))}
    for split, some in (("train", [0, 1]), ("test", [2, 3])):
        nerf_folder(tmp_path / "set" / "lego", views.rgba[some], views.cameras.views(some), f"./{split}/r_{{}}", lens,
                    f"{split}/r_{{}}.png", f"transforms_{split}.json")
    assert find_objects(tmp_path / "set") == ["lego"]
    assert torch.equal(read_object(tmp_path / "set" / "lego").rgba, views.rgba)


def test_nothing_is_read_from_outside_the_folder(tmp_path):
    views = rendered(evenly_spaced_orbit(2, 0.0))[0]
    folder = nerf_folder(tmp_path / "thing", views.rgba, views.cameras, "../other/r_{}.png", {"camera_angle_x": 0.7},
                         "../other/r_{}.png")
    with pytest.raises(InputError, match="this view is missing"):
        read_object(folder)


def test_stray_folders_are_left_out_with_a_note(tmp_path, caplog):
    root = tmp_path / "set"
    write_object(root / "thing", rendered(evenly_spaced_orbit(2, 0.0))[0])
    (root / "__MACOSX" / "thing").mkdir(parents=True)
    (root / "__MACOSX" / "thing" / "._view_000.png").write_bytes(b"x")
    (root / "notes").mkdir()
    (root / "notes" / "readme.txt").write_text("hello")
    (root / "loop").symlink_to(root, target_is_directory=True)
    assert find_objects(root) == ["thing"]
    assert [record.getMessage() for record in caplog.records] == [f"{root}: no views in notes: left out"]
    (root / "lost").mkdir()
    (root / "lost" / "view_000.png").write_bytes(b"x")  # its cameras are gone
    assert find_objects(root) == ["lost", "thing"]
