"""Turning and scaling outputs until they fit."""

import json
import math

import numpy as np
import pytest
from evaluation_inputs import asymmetric_splat, moved, rows_of, scores
from PIL import Image

from ouroboros_lib.data.folders import read_object
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.evaluate import evaluate
from ouroboros_lib.evaluation.methods import parse_method
from ouroboros_lib.evaluation.pictures import zoomed
from ouroboros_lib.evaluation.sources import Folder


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
        evaluate(Folder(splat_data, protocol), method, out=tmp_path / "c", align="azimuth")


@pytest.mark.parametrize("align", ["azimuth", "scale"])
def test_what_fits_already_is_left_alone(mesh_data, protocol, tmp_path, align):
    """The search sees 64 pixels and finite steps; at full size nothing it finds beats the mesh as it is."""
    method = parse_method(f"mesh:{mesh_data / 'meshes'}", "source")
    source = Folder(mesh_data / "views", protocol)
    before, after = (evaluate(source, method, out=tmp_path / name, align=name)[0]["means"] for name in ("none", align))
    assert next(iter(before.values())) == next(iter(after.values()))
