"""Folders and their protocols; objects that are listed, missing or faulty."""

from dataclasses import replace

import pytest
from evaluation_inputs import SIZE, rows_of

from ouroboros_lib.data.folders import read_object, write_object
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.evaluate import evaluate
from ouroboros_lib.evaluation.methods import Ours, parse_method
from ouroboros_lib.evaluation.protocols import load_protocol
from ouroboros_lib.evaluation.sources import Folder


def test_folders_of_no_protocol_are_taken_as_they_are(_tiny, splat_data, tmp_path):
    views = read_object(splat_data / "thing")
    views.info = {}
    write_object(tmp_path / "data" / "thing", views)
    evaluate(Folder(tmp_path / "data"), parse_method(f"images:{tmp_path / 'data'}", "ouroboros"), out=tmp_path / "out")
    assert {row["protocol"] for row in rows_of(tmp_path / "out")} == {f"folder-{SIZE}"}
    with pytest.raises(InputError, match="does not say"):
        evaluate(Folder(tmp_path / "data", load_protocol("released")), Ours(_tiny), out=tmp_path / "b")


def test_bad_splats_meshes_and_data_are_skipped_and_named(mesh_data, protocol, tmp_path):
    for folder, suffix in (("splats", ".ply"), ("meshes", ".obj")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"thing{suffix}").write_text("nothing of the kind")
        method = parse_method(f"{folder[:-1].replace('meshe', 'mesh')}:{tmp_path / folder}", "ouroboros")
        with pytest.raises(InputError, match="none of 2 objects") as caught:
            evaluate(Folder(mesh_data / "views", protocol), method, out=tmp_path / f"out{suffix}")
        assert "\n" not in str(caught.value) and not list(tmp_path.glob("out*"))
    data = tmp_path / "views"
    for name in ("thing", "other"):
        write_object(data / name, read_object(mesh_data / "views" / name))
    (data / "other" / "view_001.png").unlink()
    method = parse_method(f"images:{mesh_data / 'views'}", "ouroboros")
    _, skipped = evaluate(Folder(data, protocol), method, out=tmp_path / "c")
    assert "view_001.png: this view is missing" in skipped["other"] and list(skipped) == ["other"]


def test_objects_that_the_protocol_lists_and_the_folder_lacks(mesh_data, protocol, tmp_path):
    method = parse_method(f"images:{mesh_data / 'views'}", "ouroboros")
    listed = replace(protocol, objects=("thing", "lamp"))
    _, skipped = evaluate(Folder(mesh_data / "views", listed), method, out=tmp_path / "a")
    assert list(skipped) == ["lamp"]
    with pytest.raises(InputError, match="--all-objects"):
        evaluate(Folder(mesh_data / "views", replace(protocol, objects=("lamp",))), method, out=tmp_path / "b")
    _, skipped = evaluate(Folder(mesh_data / "views", listed, all_objects=True), method, out=tmp_path / "c")
    assert not skipped and {row["protocol"] for row in rows_of(tmp_path / "c")} == {f"small-v1-{SIZE}-all"}
