"""Meshes: what is read from files, where it lands in pictures, and one line for what cannot be used."""

import json
import sys
import time

import numpy as np
import pytest
import torch
import trimesh
from gltf_inputs import CHART, chart, quarters
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from ouroboros_lib.cameras import evenly_spaced_orbit, from_canonical, normalised_intrinsics, orbit_cameras
from ouroboros_lib.data.mesh_files import PLAIN, find_mesh, object_name
from ouroboros_lib.data.meshes import load_mesh, render_mesh
from ouroboros_lib.errors import InputError

FRONT = orbit_cameras([0.0], 0.0)


def square(material=None, **visual):
    """Two triangles in the x-y plane that face +z, with uv from corner to corner."""
    mesh = trimesh.Trimesh([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    if material is not None:
        mesh.visual = TextureVisuals(uv=[[0, 0], [1, 0], [1, 1], [0, 1]], material=material)
    for name, value in visual.items():
        setattr(mesh.visual, name, value)
    return mesh


def obj_square(folder, texture="texture.png", image=None, mtl="square.mtl"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "square.obj").write_text(
        f"mtllib {mtl}\nv -1 -1 0\nv 1 -1 0\nv 1 1 0\nv -1 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nusemtl skin\n"
        "f 1/1 2/2 3/3\nf 1/1 3/3 4/4\n")
    (folder / "square.mtl").write_text(f"newmtl skin\nKd 0.8 0.8 0.8\nmap_Kd {texture}\n")
    if image is not None:
        image.save(folder / texture.rsplit("/", 1)[-1])
    return folder / "square.obj"


def test_textures_stand_upright_in_every_format(tmp_path):
    assert quarters(obj_square(tmp_path / "obj", image=chart())) == CHART
    square(PBRMaterial(baseColorTexture=chart())).export(tmp_path / "square.glb")
    assert quarters(tmp_path / "square.glb") == CHART
    plain = obj_square(tmp_path / "bare")
    plain.write_text("\n".join(line for line in plain.read_text().splitlines() if not line.startswith(("mtl", "use"))))
    chart().save(tmp_path / "chart.png")
    assert quarters(plain, texture=tmp_path / "chart.png") == CHART


def test_texture_where_gso_keeps_it_and_z_up(tmp_path):
    thing = tmp_path / "Thing_1"
    obj = obj_square(thing / "meshes")
    (thing / "materials" / "textures").mkdir(parents=True)
    chart().save(thing / "materials" / "textures" / "texture.png")
    obj.rename(obj.with_name("model.obj"))
    assert find_mesh(thing) == thing / "meshes" / "model.obj" and object_name(find_mesh(thing)) == "Thing_1"
    mesh = load_mesh(thing)
    assert mesh.up == "z"  # what faced +z now faces up: seen from above, the picture's top is away from view 0
    views = render_mesh(mesh, orbit_cameras([0.0], 90.0), 64)
    assert [tuple(views.rgba[0, :3, row, column].tolist()) for row in (26, 37) for column in (26, 37)] == CHART
    assert quarters(thing, up="y") == CHART


def test_colours_of_vertices_faces_and_materials(tmp_path):
    orange, teal = (250, 140, 20), (20, 120, 130)
    square(vertex_colors=np.tile((*orange, 255), (4, 1)).astype(np.uint8)).export(tmp_path / "vertex.ply")
    assert set(quarters(tmp_path / "vertex.ply")) == {orange}
    square(face_colors=np.array([(*orange, 255), (*teal, 255)], np.uint8)).export(tmp_path / "face.ply")
    seen = quarters(tmp_path / "face.ply")  # the diagonal runs from below left to above right
    assert seen[0] == teal and seen[3] == orange
    square(SimpleMaterial(diffuse=(*teal, 255))).export(tmp_path / "kd.obj")
    for got, wanted in zip(quarters(tmp_path / "kd.obj")[0], teal, strict=True):
        assert abs(got - wanted) <= 1
    square(vertex_colors=np.tile((*teal, 255), (4, 1)).astype(np.uint8)).export(tmp_path / "vertex.glb")
    assert set(quarters(tmp_path / "vertex.glb")) == {teal}
    square().export(tmp_path / "plain.ply")
    mesh = load_mesh(tmp_path / "plain.ply")
    assert set(quarters(tmp_path / "plain.ply")) == {(PLAIN,) * 3} and "plain grey" in mesh.notes[0]


def test_gltf_factors_are_linear_unless_trimesh_wrote_them(tmp_path):
    data = square(PBRMaterial(baseColorFactor=[55, 55, 55, 255])).export(file_type="glb")
    (tmp_path / "ours.glb").write_bytes(data)
    assert quarters(tmp_path / "ours.glb")[0] == (55, 55, 55)
    (tmp_path / "theirs.glb").write_bytes(data.replace(b"mikedh/trimesh", b"mikedh/blender"))
    linear = 55 / 255
    expected = round(255 * (1.055 * linear ** (1 / 2.4) - 0.055))
    assert quarters(tmp_path / "theirs.glb")[0] == (expected,) * 3


def test_scene_transforms_and_several_materials(tmp_path):
    red, blue = (square(PBRMaterial(baseColorFactor=[*c, 255])) for c in ((255, 0, 0), (0, 0, 255)))
    scene = trimesh.Scene()
    scene.add_geometry(red, transform=trimesh.transformations.translation_matrix([-1, 0, 0]))
    scene.add_geometry(blue, transform=trimesh.transformations.translation_matrix([1, 0, 0]))
    scene.export(tmp_path / "two.glb")
    rgba = render_mesh(load_mesh(tmp_path / "two.glb"), FRONT, 64).rgba[0]
    assert rgba[:3, 32, 20].tolist() == [255, 0, 0] and rgba[:3, 32, 44].tolist() == [0, 0, 255]


def test_normalised_into_the_ball(tmp_path):
    box = trimesh.creation.box((2, 6, 3))
    box.apply_translation((100, -7, 3))
    box.export(tmp_path / "box.ply")
    for up, tall in (("y", 1), ("z", 2)):
        mesh = load_mesh(tmp_path / "box.ply", up=up)
        assert np.linalg.norm(mesh.vertices, axis=1).max() == pytest.approx(0.55, abs=1e-6)
        assert np.abs(mesh.vertices.min(0) + mesh.vertices.max(0)).max() < 1e-6
        extent = np.ptp(mesh.vertices, axis=0)
        wanted = np.array([2, 6, 3] if tall == 1 else [2, 3, 6])
        assert np.allclose(extent / extent.max(), wanted / 6, atol=1e-6)
        again = np.asarray(trimesh.load(tmp_path / "box.ply", process=False).vertices)
        assert np.allclose(again @ mesh.to_world[:3, :3].T + mesh.to_world[:3, 3], mesh.vertices, atol=1e-6)
    turned = load_mesh(tmp_path / "box.ply", yaw=90).vertices
    assert np.allclose(np.ptp(turned, axis=0)[[2, 1, 0]], np.ptp(load_mesh(tmp_path / "box.ply").vertices, axis=0))


def test_yaw_turns_towards_positive_azimuth(tmp_path):
    marked = trimesh.creation.icosphere(3)
    marked.visual.vertex_colors = np.uint8([(255, 0, 0, 255) if z > 0.6 else (0, 0, 255, 255)
                                            for z in marked.vertices[:, 2]])
    marked.export(tmp_path / "ball.ply")
    rig = orbit_cameras([0.0, 90.0], 0.0)
    for yaw, red in ((0, 0), (90, 1)):
        rgba = render_mesh(load_mesh(tmp_path / "ball.ply", yaw=yaw), rig, 33).rgba
        assert rgba[red, :3, 16, 16].tolist() == [255, 0, 0] and rgba[1 - red, :3, 16, 16].tolist() == [0, 0, 255]


def test_depth_is_along_z_and_alpha_is_coverage(tmp_path):
    square().export(tmp_path / "square.ply")
    mesh = load_mesh(tmp_path / "square.ply")
    views = render_mesh(mesh, FRONT, 50, supersample=4)
    seen = views.depth[0, 0] > 0
    assert torch.allclose(views.depth[0, 0][seen], torch.tensor(1.742), atol=1e-6)  # the plane z = 0, also off the axis
    side = 2 * 0.55 / np.sqrt(2) / 1.742 * float(normalised_intrinsics()[0, 0]) * 50  # pixels
    assert float(views.alpha.sum()) == pytest.approx(side**2, rel=0.01)
    assert torch.equal(views.rgba[0, :3].amin(0) == 255, views.alpha[0, 0] == 0)  # white where nothing is


def test_depth_and_projected_vertices_agree(tmp_path):
    bumpy = trimesh.creation.icosphere(5)
    bumpy.apply_scale((1.0, 0.7, 0.5))
    bumpy.vertices *= 1 + 0.08 * np.sin(5 * bumpy.vertices[:, :1]) * np.cos(4 * bumpy.vertices[:, 1:2])
    bumpy.export(tmp_path / "bumpy.ply")
    mesh = load_mesh(tmp_path / "bumpy.ply")
    assert len(mesh.faces) > 16_000
    errors = pixel_errors(mesh, render_mesh(mesh, evenly_spaced_orbit(6, 20.0, fov=50.0, radius=2.0), 256))
    assert len(errors) > 5000 and np.median(errors) < 0.05


def pixel_errors(mesh, views):
    """How far, in pixels, depth maps and projected vertices disagree, for every vertex that a view sees.

    A vertex's depth is compared with the plane through the depths around the pixel that it falls into, and the
    difference divided by that plane's slope per pixel. Steps between surfaces are left out.
    """
    size, errors = views.depth.shape[-1], []
    image, z = views.cameras.project(torch.from_numpy(mesh.vertices))
    for view in range(len(views.rgba)):
        depth = views.depth[view, 0].double().numpy()
        (x, y), true = (image[view].double() * size).numpy().T, z[view].double().numpy()
        column, row = np.floor(x).astype(int), np.floor(y).astype(int)
        inside = (column > 0) & (column < size - 1) & (row > 0) & (row < size - 1)
        column, row, x, y, true = (values[inside] for values in (column, row, x, y, true))
        here = depth[row, column]
        around = np.stack([depth[row, column - 1], depth[row, column + 1], depth[row - 1, column],
                           depth[row + 1, column]])
        step = 2 / (size * float(views.cameras.intrinsics[view, 0, 0]))
        smooth = (here > 0) & (np.abs(around - here).max(0) < step) & (np.abs(true - here) < step)
        slope_x, slope_y = (around[1] - around[0]) / 2, (around[3] - around[2]) / 2
        expected = here + slope_x * (x - column - 0.5) + slope_y * (y - row - 0.5)
        slope = np.maximum(np.hypot(slope_x, slope_y), step / 8)  # a plane seen head-on says nothing of position
        errors.append((np.abs(expected - true) / slope)[smooth])
    return np.concatenate(errors)


def test_coordinate_maps_are_points_of_the_surface(tmp_path):
    trimesh.creation.icosphere(4).export(tmp_path / "ball.ply")
    views = render_mesh(load_mesh(tmp_path / "ball.ply"), evenly_spaced_orbit(3, 15.0), 48)
    maps = views.cameras.canonical_map(views.depth)
    points = from_canonical(maps)
    radius = points.norm(dim=1, keepdim=True)[views.depth > 0]
    assert radius.min() > 0.545 and radius.max() < 0.5501  # the ball is made of flat triangles
    assert (maps.amax(1, keepdim=True)[views.depth == 0] == 0).all()


def test_far_textures_are_averaged_not_sampled(tmp_path):
    fine = np.zeros((512, 512, 3), np.uint8)
    fine[:, ::2] = 255  # columns of one texel: grey from afar
    path = obj_square(tmp_path, image=Image.fromarray(fine))
    rgb = render_mesh(load_mesh(path), FRONT, 32).rgba[0, :3, 12:20, 12:20].float()
    assert (rgb - 127.5).abs().max() < 3


def test_speed_of_16k_textured_faces(tmp_path):
    ball = trimesh.creation.uv_sphere(count=[90, 92])
    uv = np.random.default_rng(0).random((len(ball.vertices), 2)) * 0.02 + ball.vertices[:, :2] / 2 + 0.5
    ball.visual = TextureVisuals(uv=uv, material=PBRMaterial(baseColorTexture=chart(size=1024)))
    ball.export(tmp_path / "ball.glb")
    mesh = load_mesh(tmp_path / "ball.glb")
    assert len(mesh.faces) > 15_500
    rig = evenly_spaced_orbit(8, 20.0)

    def seconds() -> float:
        start = time.process_time()
        render_mesh(mesh, rig, 256)
        return time.process_time() - start

    assert any(seconds() < 2.0 for _ in range(3))  # of one core: other work on the machine hardly enters


# ---- what cannot be used --------------------------------------------------------------------------------------------


def bad_no_texture(folder):
    return obj_square(folder, image=None), "texture.png", "missing"


def bad_broken_texture(folder):
    path = obj_square(folder)
    (folder / "texture.png").write_bytes(b"no picture")
    return path, "texture.png", "cannot be read"


def bad_cut_texture(folder):
    path = obj_square(folder)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(folder / "texture.png")
    (folder / "texture.png").write_bytes((folder / "texture.png").read_bytes()[:3000])
    return path, "texture.png", "cannot be read"


def bad_no_material(folder):
    return obj_square(folder, image=chart(), mtl="other.mtl"), "other.mtl", "missing"


def bad_texture_outside(folder):
    chart().save(folder.parent / "secret.png")
    return obj_square(folder, texture="../secret.png"), "secret.png", "missing"


def bad_glb_texture(folder):
    folder.mkdir()
    data = square(PBRMaterial(baseColorTexture=chart(), name="skin")).export(file_type="glb")
    place = data.index(b"\x89PNG")
    (folder / "broken.glb").write_bytes(data[:place] + b"\0" * 40 + data[place + 40:])
    return folder / "broken.glb", "skin", "cannot be read"


def bad_gltf_texture(folder):
    folder.mkdir()
    files = square(PBRMaterial(baseColorTexture=chart(), name="skin")).export(file_type="gltf")
    for name, data in files.items():
        (folder / name).write_bytes(data)
    record = json.loads((folder / "model.gltf").read_bytes())
    record["images"] = [{"uri": "gone.png"}]
    (folder / "model.gltf").write_text(json.dumps(record))
    return folder / "model.gltf", "gone.png", "missing"


def bad_noise(folder):
    folder.mkdir()
    (folder / "noise.glb").write_bytes(b"glTF" + bytes(range(200)))
    return folder / "noise.glb", "noise.glb", "cannot be read as a mesh"


def bad_ply(folder):
    folder.mkdir()
    data = square().export(file_type="ply")
    (folder / "short.ply").write_bytes(data[:-20])
    return folder / "short.ply", "short.ply", ""


def bad_points(folder):
    folder.mkdir()
    (folder / "points.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    return folder / "points.obj", "points.obj", "no triangles"


def bad_numbers(folder):
    folder.mkdir()
    (folder / "nan.obj").write_text("v 0 0 0\nv 1 nan 0\nv 0 1 0\nf 1 2 3\n")
    return folder / "nan.obj", "nan.obj", ""


def bad_point(folder):
    folder.mkdir()
    (folder / "dot.obj").write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    return folder / "dot.obj", "dot.obj", "one point"


def bad_empty(folder):
    folder.mkdir()
    (folder / "empty.obj").write_text("")
    return folder / "empty.obj", "empty.obj", ""


BAD = [value for name, value in sorted(globals().items()) if name.startswith("bad_")]


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_bad_meshes_are_named_in_one_line(tmp_path, make):
    path, word, reason = make(tmp_path / "thing")
    with pytest.raises(InputError) as caught:
        load_mesh(path)
    message = str(caught.value)
    assert str(path) in message and word in message and reason in message and "\n" not in message


def test_no_texture_coordinates_and_other_misuse(tmp_path):
    square().export(tmp_path / "square.ply")
    chart().save(tmp_path / "chart.png")
    for settings, word in (({"texture": tmp_path / "chart.png"}, "no texture coordinates"), ({"up": "x"}, "auto, y, z"),
                           ({"texture": tmp_path / "none.png"}, "no such texture")):
        with pytest.raises(InputError, match=word):
            load_mesh(tmp_path / "square.ply", **settings)
    mesh = load_mesh(tmp_path / "square.ply")
    with pytest.raises(ValueError, match="shape"):
        render_mesh(mesh, evenly_spaced_orbit(4).expand(2), 16)


def test_machine_without_embree(tmp_path, monkeypatch):
    square().export(tmp_path / "square.ply")
    for name in ("embreex", "embreex.mesh_construction", "embreex.rtcore_scene"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="pip install -e"):
        render_mesh(load_mesh(tmp_path / "square.ply"), FRONT, 8)
