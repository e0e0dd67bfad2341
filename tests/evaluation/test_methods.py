"""Methods on a folder: the truth fed back scores as it must, our model sees the input view alone."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from evaluation_inputs import SIZE, asymmetric_mesh, asymmetric_splat, rows_of, scores, splat_views
from PIL import Image

from ouroboros_lib.cameras import FOV, RADIUS, orbit_cameras
from ouroboros_lib.data.folders import read_object, write_object
from ouroboros_lib.data.meshes import load_mesh, render_mesh
from ouroboros_lib.data.renders import render_meshes
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.evaluate import evaluate
from ouroboros_lib.evaluation.methods import Ours, SingleView, parse_method
from ouroboros_lib.evaluation.rows import ImageRow
from ouroboros_lib.evaluation.sources import Folder, Procedural
from ouroboros_lib.rasterization.fitting import fit_gaussians


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
    fitted = fit_gaussians(views.images, views.alpha, views.cameras, count=1500, steps=180)
    (tmp_path / "splats").mkdir()
    fitted.save_ply(tmp_path / "splats" / "thing.ply")
    data = tmp_path / "views"
    write_object(data / "thing", read_object(mesh_data / "views" / "thing"))
    found = scores(data, parse_method(f"splat:{tmp_path / 'splats'}", "ouroboros"), tmp_path / "out", protocol,
                   "render")
    assert np.mean([found[view] for view in protocol.primary_views]) > 30


def test_the_pipeline_sees_the_input_view_alone(_tiny, mesh_data, protocol, tmp_path):
    ours = Ours(_tiny, "tiny", steps=1, seeds=(0, 1))
    summary, skipped = evaluate(Folder(mesh_data / "views", protocol), ours, ["paper", "two-stage"],
                                out=tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert not skipped and tuple(rows[0]) == ImageRow._fields
    settings = json.loads((tmp_path / "out.json").read_text())["settings"]
    assert settings["metrics of the protocol that were not measured"] == ["lpips"]
    counts = {}
    for row in rows:
        counts[row["kind"]] = counts.get(row["kind"], 0) + 1
        assert row["protocol"] == f"small-v1-{SIZE}" and row["is_input_view"] == str(int(row["view"] == "0"))
    assert counts == {"multiview": 2 * 4 * 4, "render": 2 * 4 * 5, "self-consistency": 2 * 4 * 4}
    assert set(summary["means"]) == {"paper", "two-stage"}
    assert Image.open(tmp_path / "out.png").width > 500 and not (tmp_path / "out.parts").exists()


def test_other_cameras_than_the_models_show_its_splat(_tiny, tmp_path, protocol):
    rig = replace(protocol, name="near", radius=1.5, fov=49.1)
    write_object(tmp_path / "data" / "thing", splat_views(asymmetric_splat(), rig.cameras("thing"), SIZE,
                                                          label=rig.label(SIZE), orbit=4))
    evaluate(Folder(tmp_path / "data", rig), Ours(_tiny, "tiny", steps=1), ["two-stage"], out=tmp_path / "out")
    assert {row["kind"] for row in rows_of(tmp_path / "out")} == {"render"}


def test_a_reconstructor_of_single_views_is_measured_alone(_tiny, tmp_path):
    summary, _ = evaluate(Procedural("val", 1), SingleView(_tiny), out=tmp_path / "figures")
    assert list(summary["means"]) == ["single-view"] and "3D novel" in summary["means"]["single-view"]


@pytest.mark.parametrize("radius, times", [(RADIUS, 1), (1.5, 1), (RADIUS, 2)])
def test_a_reconstructor_of_single_views_needs_its_own_cameras(_tiny, tmp_path, protocol, radius, times):
    own = _tiny.image_size
    size, rig = times * own, replace(protocol, radius=radius, fov=FOV, sizes=(times * own,))
    write_object(tmp_path / "data" / "thing", splat_views(asymmetric_splat(), rig.cameras("thing"), size,
                                                          label=rig.label(size), orbit=4))
    if (radius, times) == (RADIUS, 1):
        evaluate(Folder(tmp_path / "data", rig), SingleView(_tiny), out=tmp_path / "out")
        assert {(row["method"], row["kind"]) for row in rows_of(tmp_path / "out")} == {("single-view", "render")}
        return
    with pytest.raises(InputError, match=f"single_view=true: needs pictures of {own} pixels from the models' own"):
        evaluate(Folder(tmp_path / "data", rig), SingleView(_tiny), out=tmp_path / "out")
