"""Views with cameras: what is written is what the readers of each format make of it."""

import json

import numpy as np
import pytest
import torch
from gaussian_inputs import figure
from PIL import Image, ImageSequence

from ouroboros_lib.cameras import evenly_spaced_orbit, opengl_to_opencv
from ouroboros_lib.data.folders import read_object
from ouroboros_lib.errors import InputError
from ouroboros_lib.export.formats import FORMATS, Settings, Source
from ouroboros_lib.export.views import Y_UP_TO_Y_DOWN, Y_UP_TO_Z_UP, normals, parse_maps
from ouroboros_lib.rasterization import rasterize

SIZE, ELEVATION = 64, 20.0


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folders of both formats, with four views."""
    folder = tmp_path_factory.mktemp("exports")
    for name in ("views", "colmap"):
        FORMATS[name].write(folder / name, Source(figure(), ELEVATION),
                            Settings(views=4, size=SIZE, maps=("depth", "normals")))
    return folder


def test_the_folder_is_read_as_one_of_ours(written):
    rig = evenly_spaced_orbit(4, ELEVATION)
    drawn = rasterize(figure(), rig, SIZE)
    found = read_object(written / "views")
    assert torch.allclose(found.cameras.c2w, rig.c2w, atol=1e-6)
    assert (found.images - drawn.rgb.clamp(0, 1)).abs().max() < 3 / 255 and found.images.shape[-1] == SIZE
    assert Image.open(written / "views" / "view_000.png").mode == "RGBA"
    solid = drawn.alpha > 0.5
    assert torch.allclose(found.depth[solid], drawn.depth[solid]) and (found.depth[~solid] == 0).all()


def test_transforms_as_nerfstudio_and_blender_read_them(written):
    """Their documented meaning, spelt out: pixel = K (OpenGL camera with y and z turned) of a z-up world."""
    record = json.loads((written / "views" / "transforms.json").read_text())
    assert (record["w"], record["h"], record["camera_model"]) == (SIZE, SIZE, "OPENCV")
    assert record["fl_x"] == pytest.approx(0.5 * SIZE / np.tan(record["camera_angle_x"] / 2))
    point = np.array([0.05, -0.4, -0.05, 1])  # of the green ball: in front, that is at -y of Blender, nearest
    for view, frame in enumerate(record["frames"]):
        right, up, back, _ = np.linalg.inv(frame["transform_matrix"]) @ point
        column = int(record["fl_x"] * right / -back + record["cx"])
        row = int(-record["fl_y"] * up / -back + record["cy"])
        depth = np.load(written / "views" / frame["depth_file_path"])
        pixel = Image.open(written / "views" / frame["file_path"]).getpixel((column, row))
        assert pixel[3] > 200
        if view == 0:  # nothing stands before it
            assert pixel[1] > 1.5 * max(pixel[0], pixel[2])
            assert depth[row, column] * record["depth_unit_scale_factor"] == pytest.approx(-back, abs=0.05)


def test_colmap_model(written):
    pycolmap = pytest.importorskip("pycolmap")
    model = pycolmap.Reconstruction(str(written / "colmap" / "sparse" / "0"))
    assert (model.num_cameras(), model.num_images(), model.num_points3D()) == (1, 4, 3000)
    rig = evenly_spaced_orbit(4, ELEVATION)
    means = figure().means
    uv, z = rig.project(means[-1:])
    down = (Y_UP_TO_Y_DOWN[:3, :3] @ means[-1]).double().numpy()
    assert np.allclose(sorted(p.xyz.tolist() for p in model.points3D.values()),
                       sorted((means @ Y_UP_TO_Y_DOWN[:3, :3]).tolist()), atol=1e-6)
    for image in model.images.values():
        view = int(image.name[5:8])
        assert (written / "colmap" / "images" / image.name).is_file()
        local = image.cam_from_world() * down
        assert local[2] == pytest.approx(float(z[view, 0]), abs=1e-5)
        assert np.allclose(model.cameras[1].img_from_cam(local), uv[view, 0] * SIZE, atol=1e-3)


def test_normals_point_to_the_camera_and_outwards(written):
    pixels = np.asarray(Image.open(written / "views" / "normal_000.png"))
    normal = pixels[..., :3] / 127.5 - 1
    (u, v), = evenly_spaced_orbit(4, ELEVATION).views([0]).project(torch.tensor([[0.0, 0.3, 0.0]]))[0][0].numpy() * SIZE
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    x, y, radius = x - u, y - v, 9.5  # pixels, of the yellow ball
    inside = np.hypot(x, y) < 5
    assert (pixels[inside, 3] == 255).all()
    wanted = np.stack([x, -y, np.sqrt(np.maximum(radius**2 - x**2 - y**2, 0))], -1)[inside] / radius
    assert np.median((normal[inside] * wanted).sum(-1)) > 0.95
    flat = normals(torch.full((1, 8, 8), 1.5), evenly_spaced_orbit(1))
    assert torch.allclose(flat, torch.tensor([0.0, 0, 1])[:, None, None].expand(3, 8, 8), atol=1e-5)


def test_worlds_of_other_programs():
    assert torch.equal(Y_UP_TO_Z_UP @ torch.tensor([1.0, 2, 3, 1]), torch.tensor([1.0, -3, 2, 1]))  # as Blender's GLB
    assert torch.equal(Y_UP_TO_Y_DOWN @ torch.tensor([1.0, 2, 3, 1]), torch.tensor([1.0, -2, -3, 1]))  # as our .ply
    pose = evenly_spaced_orbit(3).c2w
    assert torch.equal(opengl_to_opencv(opengl_to_opencv(pose)), pose)


def test_animations(tmp_path):
    for kind in ("gif", "webp"):
        FORMATS[kind].write(tmp_path / f"turn.{kind}", Source(figure()), Settings(size=32))
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(Image.open(tmp_path / f"turn.{kind}"))]
        assert len(frames) == 48 and frames[0].size == (32, 32)
        assert Image.open(tmp_path / f"turn.{kind}").info["loop"] == 0


def test_unknown_maps_are_named():
    assert parse_maps("") == () and parse_maps("depth, normals") == ("depth", "normals")
    with pytest.raises(InputError, match="maps 'normal': expected some of depth, normals"):
        parse_maps("depth,normal")
