"""How well elevations are estimated: figures of rows, and a run that is given in parts."""

import json

import pytest
import trimesh

from ouroboros_lib.models.elevation import ElevationEstimator
from tools.elevation import main, summary


def test_figures_of_rows():
    rows = [{"true": 12.5, "estimated": 12.5}, {"true": 22.5, "estimated": 16.5}, {"true": 0.0, "estimated": 11.0,
             "3D": {"given": 20.0, "estimated": 19.0, "guess": 18.0}}]
    found = summary(rows)
    assert found["estimated"] == {"median_error": 6.0, "mean_error": 5.67, "within_5": 0.333, "within_10": 0.667}
    assert found["guess"] == {"median_error": 10.0, "mean_error": 7.5, "within_5": 0.333, "within_10": 0.667}
    assert found["3D"] == {"objects": 1, "given": 20.0, "estimated": 19.0, "guess": 18.0} and "views" not in found


@pytest.fixture
def options(tiny, tmp_path):
    network = ElevationEstimator().eval()
    network.output.weight.data *= 30  # as sure of itself as a trained one
    tiny.register_modules(elevation=network)
    tiny.save_pretrained(tmp_path / "pipeline")
    return ["--preset", str(tmp_path / "pipeline"), "--steps", "1", "--out", str(tmp_path / "out.json"), "--runs"]


def test_what_was_measured_is_kept(options, tmp_path, capsys):
    options.append("1")
    main(["--procedural", "1", *options])
    first = json.loads((tmp_path / "out.json").read_text())["rows"]["procedural"]
    assert list(first) == ["val 0"] and first["val 0"]["3D"].keys() == {"given", "estimated", "guess"}
    assert first["val 0"]["true"] == pytest.approx(12.37, abs=0.01) and -10 < first["val 0"]["estimated"] < 50
    main(["--procedural", "2", *options])
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["rows"]["procedural"]["val 0"] == first["val 0"] and "3D" not in record["rows"]["procedural"]["val 1"]
    assert record["figures"]["procedural"]["objects"] == 2
    assert json.loads(capsys.readouterr().out.split("\n{\n")[-1].join(["{", ""])) == record["figures"]


def test_scans_are_seen_from_20_degrees_too(options, tmp_path):
    (tmp_path / "scans").mkdir()
    trimesh.creation.box((1, 2, 3)).export(tmp_path / "scans" / "box.glb")
    main(["--scans", str(tmp_path / "scans"), *options, "0"])
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert rows["scans at 20"]["box"]["true"] == 20 and -5 <= rows["scans"]["box"]["true"] <= 30
    assert rows["scans at 20"]["box"]["estimated"] != rows["scans"]["box"]["estimated"]
