"""One evaluation: rows, record and summary on procedural objects; interrupted and resumed; shapes."""

import json
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest
import torch
import trimesh
from evaluation_inputs import rows_of
from PIL import Image

from ouroboros_lib.data.folders import read_object, write_object
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.evaluate import evaluate
from ouroboros_lib.evaluation.methods import Ours, parse_method
from ouroboros_lib.evaluation.metrics import flip
from ouroboros_lib.evaluation.results import TILE, contact_sheet, partial_results
from ouroboros_lib.evaluation.rows import ImageRow, read_shapes
from ouroboros_lib.evaluation.sources import Folder, Procedural

PLANS = PAPER, TWO_STAGE = "paper", "two-stage"
SEEDS = 0, 3


def measure(pipeline, folder, batch):
    summary, skipped = evaluate(Procedural("test", 3, batch), Ours(pipeline, "tiny", 2, seeds=SEEDS, components=True),
                                PLANS, out=folder / "figures")
    assert not skipped and not (folder / "figures.parts").exists()
    return summary, rows_of(folder / "figures"), json.loads((folder / "figures.json").read_text())


@pytest.fixture(scope="module")
def measured(_tiny, tmp_path_factory):
    return {batch: measure(_tiny, tmp_path_factory.mktemp(f"batch{batch}") / "new", batch) for batch in (2, 3)}


def test_there_is_a_row_for_every_image(measured, _tiny):
    _, rows, _ = measured[2]
    assert tuple(rows[0]) == ImageRow._fields
    views, novel = _tiny.num_views, 4
    counts = {("autoencoder", "0", "autoencoder"): views, ("G-clean", "0", "render"): views + novel}
    for method in PLANS:
        for seed in SEEDS:
            counts |= {(method, str(seed), "multiview"): views, (method, str(seed), "render"): views + novel,
                       (method, str(seed), "self-consistency"): views}
    keys = [(row["method"], row["seed"], row["kind"], row["object"], row["view"]) for row in rows]
    assert sorted(keys) == sorted((*key, str(i), str(v)) for key, count in counts.items() for i in range(3)
                                  for v in range(count))
    for row in rows:
        assert row["protocol"] == "procedural-test-3" and row["lpips"] == row["flip"] == ""
        assert row["is_input_view"] == str(int(row["view"] == "0"))
        assert 0 < float(row["psnr"]) <= 100 and -1 <= float(row["ssim"]) <= 1


def test_the_record_says_how_the_figures_were_made(measured):
    summary, _, record = measured[2]
    assert record["summary"] == summary and record["objects"] == 3 and record["skipped"] == {}
    settings = record["settings"]
    assert settings.pop("plans") == {plan: {
        "feedback": feedback, "every": 1, "from_step": 0, "project_above": None, "project_share": 1.0,
        "keep_input": False} for plan, feedback in zip(PLANS, ("both", "none"), strict=True)}
    expected = {"split": "test", "objects": 3, "num_views": 4, "method": "ours", "preset": "tiny", "align": "none",
                "num_inference_steps": 2, "guidance_scale": 1.0, "eta": 0.0, "seeds": list(SEEDS),
                "metrics": ["psnr", "ssim"]}
    assert {name: settings[name] for name in expected} == expected
    assert {"command", "date", "commit", "device", "versions", "minutes"} <= record.keys()
    assert record["device"] == "cpu" and record["versions"]["torch"] == version("torch")


def test_every_plan_is_a_method_of_its_own(_tiny, tmp_path):
    summary, _ = evaluate(Procedural("val", 1), Ours(_tiny, steps=2), [PAPER, "paper,project_above=0.5"],
                          out=tmp_path / "figures")
    assert list(summary["means"]) == [PAPER, "paper,project_above=0.5"]
    assert summary["means"]["paper,project_above=0.5"] != summary["means"][PAPER]
    assert list(summary["paired differences in dB"]) == ["paper minus paper,project_above=0.5"]


def test_plans_and_steps_by_default(tiny):
    tiny.register_to_config(num_inference_steps=3)
    assert [Ours(tiny, steps=steps).settings([])["num_inference_steps"] for steps in (None, 2)] == [3, 2]
    assert list(map(str, Ours(tiny).plans([]))) == [PAPER, TWO_STAGE]
    tiny.register_to_config(plan="calm")
    assert list(map(str, Ours(tiny).plans([]))) == ["calm", TWO_STAGE]
    tiny.register_to_config(plan=TWO_STAGE)
    assert list(map(str, Ours(tiny).plans([]))) == [TWO_STAGE]
    assert list(map(str, Ours(tiny).plans(["every=5", PAPER]))) == ["paper,every=5", PAPER]


def test_further_metrics_and_geometry(_tiny, tmp_path):
    summary, _ = evaluate(Procedural("val", 2, geometry=1), Ours(_tiny, steps=1, components=True), [PAPER],
                          out=tmp_path / "figures",
                          metrics={"flip": flip, "lpips": lambda a, b: (a - b).abs().mean((-3, -2, -1))})
    assert all(row["flip"] and row["lpips"] for row in rows_of(tmp_path / "figures"))
    assert [(row.method, row.object) for row in read_shapes(tmp_path / "figures_geometry.csv")] == [
        ("G-clean", "0"), (PAPER, "0")]
    assert set(summary["means"]["G-clean"]["3D novel"]) == {"objects", "psnr", "ssim", "lpips", "flip"}
    assert summary["geometry"].keys() == {"G-clean", PAPER}


def test_figures_do_not_depend_on_the_batch(measured):
    (_, rows, _), (_, others, _) = measured[2], measured[3]

    def table(entries):
        return {tuple(row[name] for name in ImageRow._fields[1:7]): (float(row["psnr"]), float(row["ssim"]))
                for row in entries}

    a, b = table(rows), table(others)
    assert a.keys() == b.keys()
    assert max(abs(a[key][0] - b[key][0]) for key in a) < 0.02 and max(abs(a[key][1] - b[key][1]) for key in a) < 1e-3


def test_summary_is_the_mean_of_the_rows(measured):
    summary, rows, _ = measured[3]

    def mean(method, kind, views):
        return np.mean([float(row["psnr"]) for row in rows
                        if row["method"] == method and row["kind"] == kind and int(row["view"]) in views])

    means = summary["means"]
    assert means.keys() == {"autoencoder", "G-clean", PAPER, TWO_STAGE}
    for method, name, kind, views in (
            ("autoencoder", "PSNR", "autoencoder", range(4)), ("G-clean", "3D novel", "render", range(4, 8)),
            (PAPER, "views 0", "multiview", [0]), (PAPER, "views 1+", "multiview", [1, 2, 3]),
            (TWO_STAGE, "3D view 0", "render", [0]), (TWO_STAGE, "3D views 1+", "render", [1, 2, 3]),
            (TWO_STAGE, "self-consistency", "self-consistency", range(4))):
        assert means[method][name]["psnr"]["mean"] == pytest.approx(mean(method, kind, views), abs=1e-3), (method, name)
    difference = summary["paired differences in dB"][f"{PAPER} minus {TWO_STAGE}"]["views 1+"]
    expected = mean(PAPER, "multiview", [1, 2, 3]) - mean(TWO_STAGE, "multiview", [1, 2, 3])
    assert difference["mean"] == pytest.approx(expected, abs=0.001)
    assert difference["low"] <= difference["mean"] <= difference["high"]
    other = [np.mean([float(row["ssim"]) for row in rows if row["method"] == method and row["kind"] == "multiview"
                      and int(row["view"]) in (1, 2, 3)]) for method in (PAPER, TWO_STAGE)]
    difference = summary["paired differences of ssim"][f"{PAPER} minus {TWO_STAGE}"]["views 1+"]
    assert difference["mean"] == pytest.approx(other[0] - other[1], abs=1e-4)


def test_a_failure_leaves_nothing_that_looks_finished(_tiny, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("ouroboros_lib.evaluation.evaluate.contact_sheet", full)  # once the rows are written
    with pytest.raises(InputError, match="disk full"):
        evaluate(Procedural("test", 1), Ours(_tiny, steps=1), [TWO_STAGE], out=tmp_path / "figures")
    assert not [path.name for path in tmp_path.iterdir() if path.is_file() and path.name.startswith("figures")]


def test_interrupted_and_resumed_nothing_is_lost_or_repeated(mesh_data, protocol, tmp_path):
    method, seen = parse_method(f"images:{mesh_data / 'views'}", "ouroboros"), []

    class BreaksOff(Folder):
        def load(self, names):
            seen.extend(names)
            if len(seen) == 2:
                raise KeyboardInterrupt
            return super().load(names)

    evaluate(Folder(mesh_data / "views", protocol), method, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        evaluate(BreaksOff(mesh_data / "views", protocol), method, out=tmp_path / "out")
    assert not (tmp_path / "out.csv").exists()
    with pytest.raises(InputError, match="parts of another evaluation"):
        evaluate(Folder(mesh_data / "views", protocol), method, out=tmp_path / "out", align="scale")
    evaluate(BreaksOff(mesh_data / "views", protocol), method, out=tmp_path / "out")
    assert seen == ["other", "thing", "thing"]
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_procedural_objects_are_resumed_in_the_middle_of_a_batch(_tiny, tmp_path):
    method = Ours(_tiny, steps=1)
    evaluate(Procedural("test", 3), method, [TWO_STAGE], out=tmp_path / "whole")

    class Two(Procedural):  # stops after two objects
        def load(self, names):
            if names != [0, 1]:
                raise KeyboardInterrupt
            return super().load(names)

    with pytest.raises(KeyboardInterrupt):
        evaluate(Two("test", 3, batch=2), method, [TWO_STAGE], out=tmp_path / "out")
    assert len(list((tmp_path / "out.parts").glob("object-*.json"))) == 2
    evaluate(Procedural("test", 3, batch=3), method, [TWO_STAGE], out=tmp_path / "out")
    first, second = (rows_of(tmp_path / name) for name in ("whole", "out"))
    assert [row["object"] for row in first] == [row["object"] for row in second]
    assert max(abs(float(a["psnr"]) - float(b["psnr"])) for a, b in zip(first, second, strict=True)) < 0.02


def test_what_was_measured_on_other_files_is_measured_again(mesh_data, protocol, tmp_path):
    for name in ("thing", "other"):
        write_object(tmp_path / "pictures" / name, read_object(mesh_data / "views" / name))
    method, lost = parse_method(f"images:{tmp_path / 'pictures'}", "ouroboros"), tmp_path / "pictures" / "thing"
    (lost / "view_001.png").rename(tmp_path / "kept.png")
    _, skipped = evaluate(Folder(mesh_data / "views", protocol), method, out=tmp_path / "out")
    assert list(skipped) == ["thing"]
    (tmp_path / "kept.png").rename(lost / "view_001.png")
    worse = tmp_path / "pictures" / "other" / "view_001.png"
    Image.new("RGB", Image.open(worse).size).save(worse)  # the method was run again, and this came out
    evaluate(Folder(mesh_data / "views", protocol), method, out=tmp_path / "out")
    found = {(row["object"], row["view"]): float(row["psnr"]) for row in rows_of(tmp_path / "out")}
    assert found["other", "1"] < 10 and min(value for key, value in found.items() if key != ("other", "1")) == 100


def test_a_mesh_against_itself_and_shifted(mesh_data, protocol, tmp_path):
    one, true = replace(protocol, objects=("thing",)), [mesh_data / "meshes"]
    method = parse_method(f"mesh:{mesh_data / 'meshes'}", "source")
    summary, skipped = evaluate(Folder(mesh_data / "views", one, meshes=true), method, out=tmp_path / "same")
    same = summary["geometry"]["mesh-source"]
    assert "0.02" in json.loads((tmp_path / "same.json").read_text())["settings"]["geometry"]["f_score"]
    assert not skipped and same["chamfer"] < 1e-3 and same["f_score"] > 0.999 and same["iou"] > 0.99
    mesh = trimesh.load(mesh_data / "meshes" / "thing.ply")
    mesh.apply_translation([0.05, 0, 0])
    (tmp_path / "shifted").mkdir()
    mesh.export(tmp_path / "shifted" / "thing.ply")
    method = parse_method(f"mesh:{tmp_path / 'shifted'}", "ouroboros")
    summary, _ = evaluate(Folder(mesh_data / "views", one, meshes=true), method, out=tmp_path / "off")
    off = summary["geometry"]["mesh-ouroboros"]
    assert 0.005 < off["chamfer"] < 0.05 and off["f_score"] < 0.9 and off["iou"] < 0.85
    with pytest.raises(InputError, match="not the mesh that"):
        evaluate(Folder(mesh_data / "views", one, meshes=[tmp_path / "shifted"]), method, out=tmp_path / "wrong")


def test_the_sheet_shows_each_view_below_its_truth_and_large():
    """160 pixels a view, four of them across, and no wider than the course's pictures."""
    grey = iter(range(40, 200, 10))
    tiles = {key: torch.stack([torch.full((3, TILE, TILE), next(grey) / 255) for _ in range(4)])
             for key in ("truth", "a/multiview", "a/render", "b/render")}
    sheet = np.asarray(contact_sheet({"thing": tiles}, [0, 2, 4, 6]))[..., 0]
    places = [np.argwhere(sheet == value) for value in range(40, 200, 10)]
    assert all(len(found) >= 160 * 160 for found in places) and sheet.shape[1] < 1100
    middles = np.median(np.stack([found[-20_000:] for found in places]), 1).reshape(4, 4, 2).round(-1)
    assert (middles[:, :, 1] == middles[0, :, 1]).all() and (np.diff(middles[0, :, 1]) >= 160).all()
    assert (middles[:, :, 0] == middles[:, :1, 0]).all() and (np.diff(middles[:, 0, 0]) >= 160).all()


def test_what_was_kept_for_a_sheet_of_another_size_is_measured_again(tmp_path):
    with partial_results(tmp_path / "out", {}) as parts:
        for name, side in (("small", 96), ("right", TILE)):
            parts.write(name, "stamp", {"rows": [], "shapes": [], "alignment": {}},
                        {"truth": np.zeros((4, 3, side, side), np.uint8)})
        assert [parts.holds(name, "stamp") for name in ("small", "right")] == [False, True]
        assert not parts.holds("right", "another stamp")
