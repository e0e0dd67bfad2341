"""Every camera convention: files written here by hand, as each method's release would, land pixel on pixel."""

import math
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from evaluation_inputs import (
    LEANING,
    SEEN_AS,
    SIZE,
    VIEWS,
    Z_UP_X_FRONT,
    asymmetric_splat,
    moved,
    release_cameras,
    scores,
    splat_views,
)
from PIL import Image

from ouroboros_lib.data.folders import write_object
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.conventions import convention_names, load_convention
from ouroboros_lib.evaluation.evaluate import evaluate
from ouroboros_lib.evaluation.methods import Files, parse_method
from ouroboros_lib.evaluation.sources import Folder

SHAPES = {  # name: from our coordinates to those of its files
    "ouroboros": np.eye(3),
    "Ouroboros3D": LEANING,
    "LGM": LEANING * (1.5 * math.tan(math.radians(49.1 / 2)) / SEEN_AS),
    "VideoMV (GS)": LEANING * (1.7 * math.tan(math.radians(39.6 / 2)) / SEEN_AS),
    "SyncDreamer": Z_UP_X_FRONT * (1.5 * 16 / 35 / SEEN_AS),
    "TripoSR": Z_UP_X_FRONT * (1.9 * math.tan(math.radians(20)) / SEEN_AS),
    "InstantMesh": Z_UP_X_FRONT * (4 * math.tan(math.radians(15)) / SEEN_AS),
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
    method = parse_method(f"mesh:{tmp_path / 'meshes'}", name, mirror="no" if name == "InstantMesh" else "unknown")
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
    pictures = splat_views(asymmetric_splat(), release_cameras(name), SIZE)
    (tmp_path / "out" / "thing").mkdir(parents=True)
    for number, image in enumerate((255 * pictures.images).byte()):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "out" / "thing" / f"{number}.png")
    method = Files("images", tmp_path / "out", convention)
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
            evaluate(Folder(splat_data, protocol), parse_method(f"images:{tmp_path / 'x'}", name), out=tmp_path / "out")
