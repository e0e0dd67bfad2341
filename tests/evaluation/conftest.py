"""Objects rendered for a small protocol: two meshes that mirror each other, and a splat."""

import json

import pytest
from evaluation_inputs import ELEVATION, SIZE, asymmetric_mesh, asymmetric_splat, splat_views

from ouroboros_lib.data.folders import write_object
from ouroboros_lib.data.renders import render_meshes
from ouroboros_lib.evaluation.protocols import FOLDER, load_protocol


@pytest.fixture(scope="module")
def protocol(tmp_path_factory):
    """Like ouroboros-orbit, small and looking further down."""
    path = tmp_path_factory.mktemp("protocol") / "small.json"
    record = json.loads((FOLDER / "ouroboros-orbit.json").read_text()) | {
        "name": "small", "sizes": [SIZE], "elevation": ELEVATION, "azimuths": [0, 90, 180, 270],
        "primary_views": [1, 2, 3], "novel": [[45, 5]]}
    path.write_text(json.dumps(record))
    return load_protocol(path)


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
