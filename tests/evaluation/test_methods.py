"""Any method on a folder: ground truth fed back, every camera convention, alignment, geometry, faults, resuming."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from ouroboros_lib import cli
from ouroboros_lib.cameras import FOV, RADIUS, Cameras, field_of_view, orbit_cameras
from ouroboros_lib.data.folders import MultiviewObject, read_object, write_object
from ouroboros_lib.data.meshes import load_mesh, render_mesh
from ouroboros_lib.data.renders import render_meshes
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation import folder_evaluation
from ouroboros_lib.evaluation.conventions import convention_names, load_convention
from ouroboros_lib.evaluation.folder_evaluation import Ours, evaluate_folder
from ouroboros_lib.evaluation.heldout import COLUMNS, Variant
from ouroboros_lib.evaluation.methods import Method, Shape, parse_method, splat_shape, transformed_cameras, zoomed
from ouroboros_lib.evaluation.protocols import FOLDER, load_protocol
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.rasterization import rasterize
from ouroboros_lib.rasterization.fitting import fit_gaussians

SIZE, ELEVATION = 64, 20.0


@pytest.fixture(scope="module")
def protocol(tmp_path_factory):
    """Like ouroboros-orbit, small and looking further down."""
    path = tmp_path_factory.mktemp("protocol") / "small.json"
    record = json.loads((FOLDER / "ouroboros-orbit.json").read_text()) | {
        "name": "small", "sizes": [SIZE], "elevation": ELEVATION, "azimuths": [0, 90, 180, 270],
        "primary_views": [1, 2, 3], "novel": [[45, 5]]}
    path.write_text(json.dumps(record))
    return load_protocol(path)


def asymmetric_mesh():
    """Boxes of different colours, alike from no two sides, in the ball of radius 0.55."""
    parts = []
    for extents, centre, color in (((0.6, 0.3, 0.3), (0, 0, 0), (200, 60, 40)), ((0.2, 0.2, 0.2), (0.25, 0.2, 0.07),
                                   (40, 90, 200)), ((0.1, 0.3, 0.1), (-0.2, 0.25, -0.12), (40, 170, 60)),
                                   ((0.15, 0.1, 0.3), (0.1, -0.12, 0.25), (230, 200, 30))):
        box = trimesh.creation.box(extents)
        box.apply_translation(centre)
        box.visual.vertex_colors = np.tile(np.uint8([*color, 255]), (len(box.vertices), 1))
        parts.append(box)
    whole = trimesh.util.concatenate(parts)
    whole.apply_translation(-whole.bounds.mean(0))
    whole.apply_scale(0.55 / np.linalg.norm(whole.vertices, axis=1).max())
    return whole


def asymmetric_splat(count=400):
    generator = torch.Generator().manual_seed(0)
    means = (torch.rand(count, 3, generator=generator) - 0.5) * torch.tensor([0.7, 0.5, 0.4])
    return Gaussians(means, torch.full((count,), 0.9), 0.01 + 0.03 * torch.rand(count, 3, generator=generator),
                     torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1),
                     (means + 0.4).clamp(0, 1))


def splat_views(gaussians, cameras, size, name="thing", label=None, orbit=None):
    drawn = rasterize(gaussians, cameras, size)
    rgba = (255 * torch.cat([drawn.rgb.clamp(0, 1), drawn.alpha], 1)).round().byte()
    return MultiviewObject(name, rgba, cameras, orbit or len(rgba), None, {"render": {"protocol": label}})


@pytest.fixture(scope="module")
def mesh_data(tmp_path_factory, protocol):
    """Two objects, the second a mirrored copy of the first, rendered for the protocol; and their meshes."""
    folder = tmp_path_factory.mktemp("mesh")
    (folder / "meshes").mkdir()
    mesh = asymmetric_mesh()
    mesh.export(folder / "meshes" / "thing.ply")
    mesh.apply_scale([-1, 1, 1])
    mesh.export(folder / "meshes" / "other.ply")
    errors = []
    render_meshes({name: folder / "meshes" / f"{name}.ply" for name in ("thing", "other")}, folder / "views",
                  protocol.render_settings(), 1, lambda *done: errors.append(done[2]))
    assert errors == [None, None]
    return folder


@pytest.fixture(scope="module")
def splat_data(tmp_path_factory, protocol):
    folder = tmp_path_factory.mktemp("splat")
    cameras = protocol.cameras("thing")
    write_object(folder / "thing", splat_views(asymmetric_splat(), cameras, SIZE, label=protocol.label(SIZE), orbit=4))
    return folder


def rows_of(out):
    with open(out.with_suffix(".csv"), newline="") as file:
        return list(csv.DictReader(file))


def scores(data, method, out, protocol, kind, **options):
    """PSNR by view of object `thing`."""
    evaluate_folder(data, out, method, protocol, **options)
    return {int(row["view"]): float(row["psnr"]) for row in rows_of(out)
            if row["object"] == "thing" and row["kind"] == kind}


# --- the truth fed back ---

def test_true_images_and_meshes_score_as_they_must(mesh_data, protocol, tmp_path):
    images = scores(mesh_data / "views", parse_method(f"images:{mesh_data / 'views'}", "ouroboros"), tmp_path / "a",
                    protocol, "multiview")
    assert images == dict.fromkeys(range(5), 100.0)  # no error at all: where PSNR is capped
    for number, convention in enumerate(("source", "ouroboros")):  # in these files, both are the same
        method = parse_method(f"mesh:{mesh_data / 'meshes'}", convention)
        meshes = scores(mesh_data / "views", method, tmp_path / f"b{number}", protocol, "render")
        assert len(meshes) == 5 and min(meshes.values()) > 40


def test_true_meshes_in_their_own_units(protocol, tmp_path):
    mesh = asymmetric_mesh()
    mesh.vertices = 3 * mesh.vertices @ np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]) + [0.2, 0.5, 7]  # z is up
    mesh.export(tmp_path / "thing.ply")
    render_meshes({"thing": tmp_path / "thing.ply"}, tmp_path / "views", protocol.render_settings(up="z"), 1,
                  lambda *done: None)
    right, wrong = (scores(tmp_path / "views", parse_method(f"mesh:{tmp_path}", convention), tmp_path / convention,
                           protocol, "render") for convention in ("source", "ouroboros"))
    assert min(right.values()) > 40 and np.mean(list(wrong.values())) < 25


def test_true_meshes_whose_texture_was_given_by_hand(protocol, tmp_path, capsys):
    (tmp_path / "meshes").mkdir()
    ball = trimesh.creation.uv_sphere(count=[24, 24])
    lines = [f"v {x} {y} {z}\nvt {0.5 + x / 3} {0.5 + y / 3}" for x, y, z in ball.vertices]
    lines += ["f " + " ".join(f"{i}/{i}" for i in face + 1) for face in ball.faces]
    (tmp_path / "meshes" / "thing.obj").write_text("\n".join(lines))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 4, 3), np.uint8)).resize((64, 64))
    noise.save(tmp_path / "skin.png")
    render_meshes({"thing": tmp_path / "meshes" / "thing.obj"}, tmp_path / "views",
                  protocol.render_settings(texture=str(tmp_path / "skin.png")), 1, lambda *done: None)
    right, grey = (scores(tmp_path / "views", parse_method(f"mesh:{tmp_path / 'meshes'}", convention),
                          tmp_path / convention, protocol, "render") for convention in ("source", "ouroboros"))
    assert min(right.values()) > 40 and max(grey.values()) < 25
    assert "note: thing: has texture coordinates but names no texture" in capsys.readouterr().err


def test_a_fitted_splat_scores_well(mesh_data, protocol, tmp_path):
    mesh = load_mesh(mesh_data / "meshes" / "thing.ply")
    index = torch.arange(24)
    views = render_mesh(mesh, orbit_cameras(index * 15.0, torch.tensor([-5.0, 20.0, 40.0])[index % 3]), SIZE)
    fitted = fit_gaussians(views.images, views.alpha, views.cameras, count=3000, steps=400)
    (tmp_path / "splats").mkdir()
    fitted.save_ply(tmp_path / "splats" / "thing.ply")
    data = tmp_path / "views"
    write_object(data / "thing", read_object(mesh_data / "views" / "thing"))
    found = scores(data, parse_method(f"splat:{tmp_path / 'splats'}", "ouroboros"), tmp_path / "out", protocol,
                   "render")
    assert np.mean([found[view] for view in protocol.primary_views]) > 30


# --- conventions: files written here by hand, as each method's release would ---

SEEN_AS = math.tan(math.radians(FOV / 2)) * RADIUS  # half the picture's width at the object, in our units
INPUT_PITCH = math.radians(ELEVATION)
UPRIGHT, LEANING = np.eye(3), np.array([[1, 0, 0], [0, math.cos(INPUT_PITCH), -math.sin(INPUT_PITCH)],
                                        [0, math.sin(INPUT_PITCH), math.cos(INPUT_PITCH)]])
Z_UP_X_FRONT = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])  # (x right, y up, z front) to (front, right, up)
SHAPES = {  # name: from our coordinates to those of its files
    "ouroboros": UPRIGHT,
    "Ouroboros3D": LEANING,
    "LGM": LEANING * (1.5 * math.tan(math.radians(49.1 / 2)) / SEEN_AS),
    "VideoMV (GS)": LEANING * (1.7 * math.tan(math.radians(39.6 / 2)) / SEEN_AS),
    "TripoSR": Z_UP_X_FRONT * (1.9 * math.tan(math.radians(20)) / SEEN_AS),
    "InstantMesh": Z_UP_X_FRONT * (4 * math.tan(math.radians(15)) / SEEN_AS),
}
VIEWS = {  # name: azimuths, elevations, field of view
    "SyncDreamer": (np.arange(16) * 22.5, 30.0, math.degrees(2 * math.atan(16 / 35))),  # a 35 mm lens, a sensor of 32
    "SV3D": ((np.arange(21) + 1) * 360 / 21, ELEVATION, 33.8),
    "VideoMV": (np.arange(24) * 15.0, ELEVATION, FOV),
    "Ouroboros3D": (np.array([0, 45, 90, 135, 180, 225, 270, 337.5]), ELEVATION, FOV),
    "LGM": (np.arange(4) * 90.0, ELEVATION, 49.1),
    "InstantMesh": (30 + np.arange(6) * 60.0, np.array([20.0, -10] * 3), 30.0),
}


def test_every_convention_has_its_test():
    tested = {*SHAPES, *VIEWS, "source"}
    assert tested == set(convention_names())
    for name in convention_names():
        convention = load_convention(name)
        assert convention.recipe and convention.licence
        assert ("images" in convention.outputs) == (convention.views is not None)
        if convention.axes is not None:
            assert np.linalg.det(np.array(convention.axes)) == pytest.approx(1)


def moved(gaussians, matrix):
    """Means, sizes and axes of Gaussians mapped by a similarity, on the covariance: independent of the library."""
    scale = np.linalg.det(matrix) ** (1 / 3)
    turn = torch.from_numpy(matrix / scale).float() @ gaussians.rotations()
    quaternions = torch.from_numpy(np.stack([trimesh_quaternion(rotation) for rotation in turn.numpy()]))
    return replace(gaussians, means=gaussians.means @ torch.from_numpy(matrix.T).float(),
                   scales=gaussians.scales * float(scale), quaternions=quaternions.float())


def trimesh_quaternion(rotation):
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    return trimesh.transformations.quaternion_from_matrix(matrix)  # wxyz


@pytest.mark.parametrize("name", [name for name in SHAPES if "splat" in load_convention(name).outputs])
def test_splats_of_a_convention_land_pixel_on_pixel(splat_data, protocol, tmp_path, name):
    (tmp_path / "splats").mkdir()
    moved(asymmetric_splat(), SHAPES[name]).save_ply(tmp_path / "splats" / "thing.ply")
    method = parse_method(f"splat:{tmp_path / 'splats'}", name)
    assert min(scores(splat_data, method, tmp_path / "right", protocol, "render").values()) > 45
    wrong = parse_method(f"splat:{tmp_path / 'splats'}", "LGM" if name == "ouroboros" else "ouroboros")
    found = scores(splat_data, wrong, tmp_path / "wrong", protocol, "render")
    assert np.mean(list(found.values())) < 25


@pytest.mark.parametrize("name", [name for name in SHAPES if "mesh" in load_convention(name).outputs])
def test_meshes_of_a_convention_land_pixel_on_pixel(mesh_data, protocol, tmp_path, name):
    for stem in ("thing", "other"):
        mesh = trimesh.load(mesh_data / "meshes" / f"{stem}.ply")
        mesh.vertices = mesh.vertices @ SHAPES[name].T
        (tmp_path / "meshes").mkdir(exist_ok=True)
        mesh.export(tmp_path / "meshes" / f"{stem}.obj", include_color=True)
    method = parse_method(f"mesh:{tmp_path / 'meshes'}", name)
    assert min(scores(mesh_data / "views", method, tmp_path / "right", protocol, "render").values()) > 40
    wrong = parse_method(f"mesh:{tmp_path / 'meshes'}", "TripoSR" if name == "ouroboros" else "ouroboros")
    found = scores(mesh_data / "views", wrong, tmp_path / "wrong", protocol, "render")
    assert np.mean(list(found.values())) < 20


@pytest.mark.parametrize("name", VIEWS)
def test_views_of_a_convention_land_pixel_on_pixel(protocol, tmp_path, name):
    """Truth from the method's own cameras; its pictures rendered from cameras written down here."""
    convention = replace(load_convention(name), size=SIZE)
    own = protocol.at(convention)
    write_object(tmp_path / "data" / "thing",
                 splat_views(asymmetric_splat(), own.cameras("thing"), SIZE, label=own.label(SIZE)))
    angles, elevation, fov = VIEWS[name]
    cameras = orbit_cameras(torch.from_numpy(angles), torch.as_tensor(elevation), fov=fov,
                            radius=SEEN_AS / math.tan(math.radians(fov / 2)))
    pictures = splat_views(asymmetric_splat(), cameras, SIZE)
    (tmp_path / "out" / "thing").mkdir(parents=True)
    for number, image in enumerate((255 * pictures.images).byte()):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "out" / "thing" / f"{number}.png")
    method = Method("images", tmp_path / "out", convention)
    right = scores(tmp_path / "data", method, tmp_path / "right", own, "multiview")
    assert set(right) >= set(own.primary_views) and min(right.values()) > 45
    # read in the wrong order, the pictures score badly
    shuffled = convention.views | {"azimuths": convention.views["azimuths"][2:] + convention.views["azimuths"][:2]}
    wrong = scores(tmp_path / "data", replace(method, convention=replace(convention, views=shuffled)),
                   tmp_path / "wrong", own, "multiview")
    assert np.mean(list(wrong.values())) < 25


def test_truth_from_other_cameras_is_refused(splat_data, protocol, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "y").write_text("")
    for name in ("InstantMesh", "SV3D"):
        with pytest.raises(InputError, match=f"--convention \"{name}\""):
            evaluate_folder(splat_data, tmp_path / "out", parse_method(f"images:{tmp_path / 'x'}", name), protocol)


def test_cameras_taken_to_another_world_see_the_same():
    cameras = orbit_cameras([0.0, 70.0, 200.0], 15.0)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = 1.7 * torch.from_numpy(LEANING @ Z_UP_X_FRONT)
    matrix[:3, 3] = torch.tensor([0.3, -0.2, 0.5])
    points = torch.rand(20, 3) - 0.5
    there = points @ matrix[:3, :3].T.float() + matrix[:3, 3].float()
    moved_cameras = transformed_cameras(cameras, matrix)
    (uv, depth), (uv_there, depth_there) = cameras.project(points), moved_cameras.project(there)
    torch.testing.assert_close(uv_there, uv, atol=1e-5, rtol=0)
    torch.testing.assert_close(depth_there, 1.7 * depth, atol=1e-5, rtol=0)
    assert isinstance(moved_cameras, Cameras)
    torch.testing.assert_close(field_of_view(moved_cameras), field_of_view(cameras))


# --- alignment ---

def test_alignment_finds_azimuth_and_scale_and_says_so(splat_data, protocol, tmp_path):
    (tmp_path / "splats").mkdir()
    angle, size = math.radians(-32), 1.2
    turn = size * np.array([[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]])
    moved(asymmetric_splat(), turn).save_ply(tmp_path / "splats" / "thing.ply")
    method = parse_method(f"splat:{tmp_path / 'splats'}", "ouroboros")
    as_it_is = scores(splat_data, method, tmp_path / "none", protocol, "render")
    aligned = scores(splat_data, method, tmp_path / "both", protocol, "render", align="both")
    assert max(as_it_is.values()) < 25 and min(aligned.values()) > 33
    assert {row["method"] for row in rows_of(tmp_path / "both")} == {"splat-ouroboros-aligned-both"}
    record = json.loads((tmp_path / "both.json").read_text())
    found = record["alignment"]["thing"]["splat-ouroboros-aligned-both"]
    assert found["azimuth"] == pytest.approx(32, abs=0.6) and found["scale"] == pytest.approx(1 / size, rel=0.01)
    assert record["settings"]["align"] == "both"


def test_pictures_can_be_scaled_but_not_turned(splat_data, protocol, tmp_path):
    views = read_object(splat_data / "thing")
    (tmp_path / "out" / "thing").mkdir(parents=True)
    for number, image in enumerate((255 * zoomed(views.images, 0.8)).round().byte()):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "out" / "thing" / f"{number}.png")
    method = parse_method(f"images:{tmp_path / 'out'}", "ouroboros")
    before = scores(splat_data, method, tmp_path / "a", protocol, "multiview")
    after = scores(splat_data, method, tmp_path / "b", protocol, "multiview", align="scale")
    assert np.mean(list(after.values())) > np.mean(list(before.values())) + 6
    with pytest.raises(InputError, match="cannot be turned"):
        evaluate_folder(splat_data, tmp_path / "c", method, protocol, align="azimuth")


@pytest.mark.parametrize("align", ["azimuth", "scale"])
def test_what_fits_already_is_left_alone(mesh_data, protocol, tmp_path, align):
    """The search sees 64 pixels and finite steps; at full size nothing it finds beats the mesh as it is."""
    method = parse_method(f"mesh:{mesh_data / 'meshes'}", "source")
    before, after = (evaluate_folder(mesh_data / "views", tmp_path / name, method, protocol, align=name)[0]["means"]
                     for name in ("none", align))
    assert next(iter(before.values())) == next(iter(after.values()))


def test_turning_a_shape_goes_the_way_it_says():
    ball = Gaussians(torch.tensor([[0.0, 0, 0.3]]), torch.tensor([0.99]), torch.full((1, 3), 0.05),
                     torch.tensor([[1.0, 0, 0, 0]]), torch.zeros(1, 3))
    turned: Shape = splat_shape(ball).turned(90.0, 1.5)  # from +z to +x, and further out
    _, alpha, depth = turned.seen(orbit_cameras([90.0], 0.0), 32)
    assert alpha[0, 0, 15:17, 15:17].min() > 0.8
    assert depth[0, 0, 16, 16] == pytest.approx(RADIUS - 0.45, abs=0.01)


# --- geometry ---

def test_a_mesh_against_itself_and_shifted(mesh_data, protocol, tmp_path):
    method = parse_method(f"mesh:{mesh_data / 'meshes'}", "source")
    summary, skipped = evaluate_folder(mesh_data / "views", tmp_path / "same", method, protocol,
                                       meshes=[mesh_data / "meshes"])
    same = summary["geometry"]["mesh-source"]
    assert "0.02" in json.loads((tmp_path / "same.json").read_text())["settings"]["geometry"]["f_score"]
    assert not skipped and same["chamfer"] < 1e-3 and same["f_score"] > 0.999 and same["iou"] > 0.99
    for stem in ("thing", "other"):
        mesh = trimesh.load(mesh_data / "meshes" / f"{stem}.ply")
        mesh.apply_translation([0.05, 0, 0])
        (tmp_path / "shifted").mkdir(exist_ok=True)
        mesh.export(tmp_path / "shifted" / f"{stem}.ply")
    method = parse_method(f"mesh:{tmp_path / 'shifted'}", "ouroboros")
    summary, _ = evaluate_folder(mesh_data / "views", tmp_path / "off", method, protocol,
                                 meshes=[mesh_data / "meshes"])
    off = summary["geometry"]["mesh-ouroboros"]
    assert 0.005 < off["chamfer"] < 0.05 and off["f_score"] < 0.9 and off["iou"] < 0.85
    with pytest.raises(InputError, match="not the mesh that"):
        evaluate_folder(mesh_data / "views", tmp_path / "wrong", method, protocol, meshes=[tmp_path / "shifted"])


# --- our own model ---

def test_the_pipeline_sees_the_input_view_alone(_tiny, mesh_data, protocol, tmp_path):
    ours = Ours(_tiny, "tiny", (Variant("both", steps=1), Variant("none", steps=1)), (0, 1))
    summary, skipped = evaluate_folder(mesh_data / "views", tmp_path / "out", ours, protocol)
    rows = rows_of(tmp_path / "out")
    assert not skipped and tuple(rows[0]) == COLUMNS
    settings = json.loads((tmp_path / "out.json").read_text())["settings"]
    assert settings["metrics of the protocol that were not measured"] == ["lpips"]
    counts = {}
    for row in rows:
        counts[row["kind"]] = counts.get(row["kind"], 0) + 1
        assert row["protocol"] == f"small-v1-{SIZE}" and row["is_input_view"] == str(int(row["view"] == "0"))
    assert counts == {"multiview": 2 * 4 * 4, "render": 2 * 4 * 5, "self-consistency": 2 * 4 * 4}
    assert set(summary["means"]) == {"feedback-both-steps-1", "feedback-none-steps-1"}
    assert Image.open(tmp_path / "out.png").width > 500 and not (tmp_path / "out.parts").exists()


def test_other_cameras_than_the_models_show_its_splat(_tiny, tmp_path, protocol):
    rig = replace(protocol, name="near", radius=1.5, fov=49.1)
    write_object(tmp_path / "data" / "thing", splat_views(asymmetric_splat(), rig.cameras("thing"), SIZE,
                                                          label=rig.label(SIZE), orbit=4))
    evaluate_folder(tmp_path / "data", tmp_path / "out", Ours(_tiny, "tiny", (Variant("none", steps=1),)), rig)
    assert {row["kind"] for row in rows_of(tmp_path / "out")} == {"render"}


def test_folders_of_no_protocol_are_taken_as_they_are(_tiny, splat_data, tmp_path):
    views = read_object(splat_data / "thing")
    views.info = {}
    write_object(tmp_path / "data" / "thing", views)
    evaluate_folder(tmp_path / "data", tmp_path / "out", parse_method(f"images:{tmp_path / 'data'}", "ouroboros"))
    assert {row["protocol"] for row in rows_of(tmp_path / "out")} == {f"folder-{SIZE}"}
    with pytest.raises(InputError, match="does not say"):
        evaluate_folder(tmp_path / "data", tmp_path / "b", Ours(_tiny), load_protocol("released"))


# --- interruption, faults, the command line ---

def test_interrupted_and_resumed_nothing_is_lost_or_repeated(mesh_data, protocol, tmp_path, monkeypatch):
    method = parse_method(f"images:{mesh_data / 'views'}", "ouroboros")
    evaluate_folder(mesh_data / "views", tmp_path / "whole", method, protocol)
    measure, seen = folder_evaluation._measure, []

    def breaks_off(job, name, size):
        seen.append(name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return measure(job, name, size)

    monkeypatch.setattr(folder_evaluation, "_measure", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        evaluate_folder(mesh_data / "views", tmp_path / "out", method, protocol)
    assert not (tmp_path / "out.csv").exists()
    with pytest.raises(InputError, match="parts of another evaluation"):
        evaluate_folder(mesh_data / "views", tmp_path / "out", method, protocol, align="scale")
    evaluate_folder(mesh_data / "views", tmp_path / "out", method, protocol)
    assert seen == ["other", "thing", "thing"]
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_what_was_measured_on_other_files_is_measured_again(mesh_data, protocol, tmp_path):
    for name in ("thing", "other"):
        write_object(tmp_path / "pictures" / name, read_object(mesh_data / "views" / name))
    method, lost = parse_method(f"images:{tmp_path / 'pictures'}", "ouroboros"), tmp_path / "pictures" / "thing"
    (lost / "view_001.png").rename(tmp_path / "kept.png")
    _, skipped = evaluate_folder(mesh_data / "views", tmp_path / "out", method, protocol)
    assert list(skipped) == ["thing"]
    (tmp_path / "kept.png").rename(lost / "view_001.png")
    worse = tmp_path / "pictures" / "other" / "view_001.png"
    Image.new("RGB", Image.open(worse).size).save(worse)  # the method was run again, and this came out
    evaluate_folder(mesh_data / "views", tmp_path / "out", method, protocol)
    found = {(row["object"], row["view"]): float(row["psnr"]) for row in rows_of(tmp_path / "out")}
    assert found["other", "1"] < 10 and min(value for key, value in found.items() if key != ("other", "1")) == 100


@pytest.fixture
def run(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in ("evaluate", "--lpips", "off", *arguments)])
        return caught.value.code, *capsys.readouterr()
    return call


def spoil_missing(folder):
    (folder / "thing" / "view_002.png").unlink()


def spoil_size(folder):
    Image.new("RGB", (30, 40)).save(folder / "thing" / "view_001.png")


def spoil_one_size(folder):
    Image.open(folder / "thing" / "view_002.png").resize((32, 32)).save(folder / "thing" / "view_002.png")


def spoil_picture(folder):
    (folder / "thing" / "view_001.png").write_bytes(b"no picture")


def spoil_number(folder):
    for path in (folder / "thing").glob("view_*.png"):
        path.rename(path.with_name(path.name.replace("view", "picture")))
    (folder / "thing" / "picture_002.png").unlink()
    (folder / "thing" / "picture_003.png").unlink()


@pytest.mark.parametrize(("spoil", "word"), [(spoil_missing, "view_002 is missing"),
                                             (spoil_number, "thing: 3 pictures"),
                                             (spoil_size, "view_001.png: 30 x 40"),
                                             (spoil_one_size, "view_002.png: 32 pixels a side, but view_000.png"),
                                             (spoil_picture, "view_001.png: cannot be read")])
def test_bad_pictures_are_skipped_and_named(run, mesh_data, protocol, tmp_path, spoil, word):
    for name in ("thing", "other"):
        write_object(tmp_path / "out" / name, read_object(mesh_data / "views" / name))
    spoil(tmp_path / "out")
    path = tmp_path / "protocol.json"
    path.write_text(json.dumps(protocol.record() | {"objects": "all"}))
    code, text, error = run("--data", mesh_data / "views", "--method", f"images:{tmp_path / 'out'}", "--protocol", path,
                            "--out", tmp_path / "figures")
    assert code == 1 and error.startswith("skipped: ") and error.count("\n") == 1 and word in error
    assert "1 skipped: thing" in text and {row["object"] for row in rows_of(tmp_path / "figures")} == {"other"}
    assert json.loads((tmp_path / "figures.json").read_text())["skipped"].keys() == {"thing"}
    assert (tmp_path / "figures.parts").is_dir()  # `other` will not be measured again


def test_bad_splats_meshes_and_data_are_skipped_and_named(mesh_data, protocol, tmp_path):
    for folder, suffix in (("splats", ".ply"), ("meshes", ".obj")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"thing{suffix}").write_text("nothing of the kind")
        method = parse_method(f"{folder[:-1].replace('meshe', 'mesh')}:{tmp_path / folder}", "ouroboros")
        with pytest.raises(InputError, match="none of 2 objects") as caught:
            evaluate_folder(mesh_data / "views", tmp_path / f"out{suffix}", method, protocol)
        assert "\n" not in str(caught.value) and not list(tmp_path.glob("out*"))
    data = tmp_path / "views"
    for name in ("thing", "other"):
        write_object(data / name, read_object(mesh_data / "views" / name))
    (data / "other" / "view_001.png").unlink()
    method = parse_method(f"images:{mesh_data / 'views'}", "ouroboros")
    _, skipped = evaluate_folder(data, tmp_path / "c", method, protocol)
    assert "view_001.png: this view is missing" in skipped["other"] and list(skipped) == ["other"]


def test_objects_that_the_protocol_lists_and_the_folder_lacks(mesh_data, protocol, tmp_path):
    method = parse_method(f"images:{mesh_data / 'views'}", "ouroboros")
    listed = replace(protocol, objects=("thing", "lamp"))
    _, skipped = evaluate_folder(mesh_data / "views", tmp_path / "a", method, listed)
    assert list(skipped) == ["lamp"]
    with pytest.raises(InputError, match="--all-objects"):
        evaluate_folder(mesh_data / "views", tmp_path / "b", method, replace(protocol, objects=("lamp",)))
    _, skipped = evaluate_folder(mesh_data / "views", tmp_path / "c", method, listed, all_objects=True)
    assert not skipped and {row["protocol"] for row in rows_of(tmp_path / "c")} == {f"small-v1-{SIZE}-all"}


BAD_OPTIONS = {
    "method": (["--method", "video:x"], "images:DIR"), "no folder": (["--method", "images:nowhere"], "is no folder"),
    "empty": (["--method", "images:{empty}"], "empty folder"), "align": (["--align", "pose"], "azimuth"),
    "convention": (["--method", "mesh:{here}", "--convention", "x"], "SyncDreamer"),
    "kind": (["--method", "mesh:{here}", "--convention", "SV3D"], "makes images"),
    "ours otherwise": (["--convention", "LGM"], "--method ours"), "protocol": (["--protocol", "gso"], "released"),
    "no data": (["--data", "nowhere"], "no such folder"), "geometry": (["--geometry", "2"], "--meshes"),
    "procedural": (["--method", "images:{here}", "--split", "val"], "--split"),
    "empty data": (["--data", "{empty}", "--method", "images:{here}"], "no multi-view folder"),
    "ending": (["--out", "{here}.csv"], "without a dot"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options(run, mesh_data, tmp_path, name):
    options, word = BAD_OPTIONS[name]
    (tmp_path / "empty").mkdir()
    options = [option.format(empty=tmp_path / "empty", here=mesh_data / "views") for option in options]
    code, _, error = run("--data", mesh_data / "views", "--out", tmp_path / "out" / "figures", *options)
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1 and word in error
    assert not list(tmp_path.glob("out/figures.*sv"))


def test_options_that_need_data(run, tmp_path):
    code, _, error = run("--method", "images:x", "--out", tmp_path / "figures")
    assert code == 2 and "needs --data" in error
