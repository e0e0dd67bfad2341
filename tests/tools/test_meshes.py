"""`python -m tools.meshes`: what it writes, with a figure in the place of what random weights generate."""

import csv
import json

import pytest
from gaussian_inputs import figure
from PIL import Image

from ouroboros_lib.evaluation import geometry
from ouroboros_lib.export import mesh, surface
from ouroboros_lib.export.mesh import write_mesh
from tools import meshes
from tools.hero import SAMPLE


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(meshes, "generate", lambda *_: figure())
    for module, name, value in ((surface, "GRID", 48), (surface, "VIEWS", 12), (mesh, "COLOR_SIZE", 64),
                                (geometry, "SIZE", 48), (geometry, "MESH_SAMPLES", 5000)):
        monkeypatch.setattr(module, name, value)


def test_the_mesh_is_measured_beside_its_splat(tmp_path):
    (tmp_path / "scans").mkdir()
    write_mesh(tmp_path / "scans" / "figure.glb", figure(), faces=2000)
    meshes.main(["--preset", "tiny", "--faces", "2000", "measure", "--objects", "1", "--scans", str(tmp_path / "scans"),
                 "--out", str(tmp_path / "found")])
    with open(tmp_path / "found_geometry.csv") as file:
        rows = {(row["protocol"], row["method"]): row for row in csv.DictReader(file)}
    assert [*rows] == [(kind, method) for kind in ("procedural", "scans") for method in ("splat", "mesh")]
    record = json.loads((tmp_path / "found.json").read_text())
    assert "--faces 2000 measure --objects 1 --scans scans" in record["command"]
    gain = float(rows["scans", "mesh"]["f_score"]) - float(rows["scans", "splat"]["f_score"])
    assert record["shapes"]["scans"]["mesh minus splat, f_score"] == {
        "objects": 1, "mean": pytest.approx(gain, abs=1e-4), "worst": pytest.approx(gain, abs=1e-4), "of": "figure"}
    assert all(made["watertight"] and made["faces"] <= 2000 for made in record["meshes"])


def test_the_figure_is_drawn(tmp_path):
    meshes.main(["--preset", "tiny", "--faces", "400", "show", str(SAMPLE), "--out",
                 str(tmp_path / "meshes.png")])
    width, height = Image.open(tmp_path / "meshes.png").size
    assert width > 13 * meshes.TILE and height > meshes.TILE
