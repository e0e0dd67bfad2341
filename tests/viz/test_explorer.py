"""Steps of the recursion as a picture, pictures as few bytes, and the splat viewer of a notebook's cell."""

import base64
import html
import inspect
import io
import json
import re
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.metrics import psnr
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.gaussians.page import viewer_iframe
from ouroboros_lib.rasterization import rasterize
from ouroboros_lib.viz.encoding import as_png
from ouroboros_lib.viz.explorer import difference_map, explorer_sheet
from ouroboros_lib.viz.notebook import show

FIELDS = ("noisy", "views", "rgb", "ccm")


def gray(view: int, step: int, field: str, run: int) -> float:
    return (0.2 + 0.5 * view + 0.1 * step + 0.02 * FIELDS.index(field) + 0.01 * run) / 3


def trace(run: int, steps=(0, 1, 2, 3, 4, 5, 6, 7, 8)) -> list:
    """A record per step; every map of every view has a grey of its own."""
    def maps(step, field):
        levels = torch.tensor([gray(view, step, field, run) for view in range(4)])
        return levels.view(1, 4, 1, 1, 1).expand(1, 4, 3, 32, 32)
    return [SimpleNamespace(index=i, sigma=9.0 - i, **{field: maps(i, field) for field in FIELDS}) for i in steps]


@pytest.mark.parametrize(("runs", "options", "message"), [
    ({"on": trace(0), "off": trace(1, steps=(0, 2, 4))}, {}, r"'on' \(9 steps\) and 'off' \(3\) .* same steps"),
    ({"on": []}, {}, "'on' has no trace: .* return_trace"), ({"on": trace(0), "off": None}, {}, "'off' has no trace"),
    ({}, {}, "nothing to show"), ({"on": trace(0)}, {"view": 4}, "no view 4: choose one from 0 to 3"),
    ({"on": trace(0)}, {"index": 1}, "run 'on' has no object 1: choose one from 0 to 0")])
def test_what_cannot_be_drawn_is_refused_in_one_line(runs, options, message):
    with pytest.raises(InputError, match=message):
        explorer_sheet(runs, **{"view": 0, **options})


def test_difference_map_is_white_where_equal_and_black_a_quarter_away():
    views = torch.full((2, 3, 4, 4), 0.5)
    assert (difference_map(views, views) == 1).all()
    assert (difference_map(views, views + 0.125) == 0.5).all() and (difference_map(views, views - 0.3) == 0).all()


def test_static_sheet_has_a_row_per_step_and_a_group_per_run(monkeypatch):
    import ouroboros_lib.viz.explorer as explorer

    seen = {}
    monkeypatch.setattr(explorer, "image_grid", lambda rows, path, labels, columns, groups, side: seen.update(
        rows=rows, labels=labels, columns=columns, groups=groups, side=side))
    explorer_sheet({"on": trace(0), "off": trace(1)}, view=1, steps=3, kinds=("estimate", "CCM"), side=160)
    values = torch.tensor([[float(tile[0, 0, 0]) for tile in row] for row in seen["rows"]])
    expected = [[gray(1, step, field, run) for run in (0, 1) for field in ("views", "ccm")] for step in (0, 4, 8)]
    assert torch.allclose(values, torch.tensor(expected)) and seen["groups"] == [("on", 2), ("off", 2)]
    assert seen["side"] == 160


def test_figures_and_sheets_are_shown_as_one_small_png(monkeypatch):
    import matplotlib.pyplot as plt

    import ouroboros_lib.viz.notebook as notebook

    shown = []
    monkeypatch.setattr(notebook, "display", shown.append)
    figure, axis = plt.subplots(figsize=(4, 2))
    axis.plot([0, 1], [0, 1])
    show(figure)
    image = Image.open(io.BytesIO(shown[0].data))
    assert image.mode == "P" and image.width > 250 and not plt.fignum_exists(figure.number)


def test_a_png_has_the_smallest_palette_that_suffices():
    stripes = Image.fromarray(np.repeat(np.linspace(0, 200, 8).astype(np.uint8), 4)[None].repeat(8, 0)).convert("RGB")
    ramp = np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1)
    ramp = Image.fromarray(np.concatenate([ramp, ramp.sum(-1, keepdims=True) // 2], -1).astype(np.uint8))
    few, many = (Image.open(io.BytesIO(as_png(sheet))) for sheet in (stripes, ramp))
    assert np.array_equal(np.asarray(few.convert("RGB")), np.asarray(stripes)) and len(few.getcolors()) == 8
    assert few.mode == many.mode == "P" and len(few.getcolors()) < len(many.getcolors()) <= 256
    shown, meant = (np.asarray(image.convert("RGB"), float).reshape(32, 8, 32, 8, 3).mean((1, 3))
                    for image in (many, ramp))
    assert np.abs(shown - meant).max() < 6  # no patches: neighbours make up for a pixel's error


def test_the_palette_suffices_for_a_little_that_is_smooth_on_much_black():
    sheet = np.zeros((256, 256, 3), np.uint8)
    red, green = np.meshgrid(np.arange(64, 192, 2), np.arange(64, 192, 2))
    sheet[100:164, 100:164] = np.stack([red, green, np.full_like(red, 100)], -1)
    shown = np.asarray(Image.open(io.BytesIO(as_png(Image.fromarray(sheet)))).convert("RGB"), int)
    assert np.percentile(np.abs(shown - sheet)[100:164, 100:164].max(-1), 95) <= 16 and not shown[:90].any()


def test_a_background_that_is_nearly_white_takes_few_colours():
    """As decoders leave it: colours go to the object, and the file is half as large."""
    y, x = np.mgrid[-128:128, -128:128] / 64
    inside = (x**2 + y**2 < 1)[..., None]
    ball = np.stack([150 + 80 * x, 90 + 60 * y, 70 + 0 * x], -1)
    sheet = np.where(inside, ball, np.random.default_rng(0).integers(251, 256, (256, 256, 1))).round().astype(np.uint8)
    data = as_png(Image.fromarray(sheet))
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int)
    assert np.percentile(np.abs(shown - sheet)[inside[..., 0]].max(-1), 95) <= 8
    plain = io.BytesIO()
    Image.fromarray(sheet).quantize(256, kmeans=1, dither=Image.Dither.NONE).save(plain, "png", optimize=True)
    assert len(data) < 0.7 * len(plain.getvalue())


def test_the_source_of_a_function_is_shown_as_it_stands(monkeypatch):
    import ouroboros_lib.viz.notebook as notebook

    shown = []
    monkeypatch.setattr(notebook, "display", shown.append)
    notebook.show_source(difference_map)
    assert shown[0].data == f"```python\n{inspect.getsource(difference_map)}```"


# ---- the viewer in a cell --------------------------------------------------------------------------------------------


def test_compact_splat_renders_like_the_original(tmp_path):
    generator = torch.Generator().manual_seed(0)
    count = 800
    blob = Gaussians(0.4 * torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1),
                     torch.rand(count, generator=generator), 0.01 + 0.03 * torch.rand(count, 3, generator=generator),
                     torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1),
                     torch.rand(count, 3, generator=generator))
    frame = viewer_iframe(blob, elevation=7.0, side=200, min_opacity=0.1)
    page = html.unescape(re.search(r'srcdoc="([^"]*)"', frame)[1])
    scene = json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.S)[1])
    assert scene["bare"] and scene["side"] == 200 and scene["elevation"] == 7.0
    packed = base64.b64decode(scene["splat"])
    records = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(32, -1).T
    (tmp_path / "back.splat").write_bytes(records.tobytes())
    back, kept = Gaussians.load(tmp_path / "back.splat", axes="y-up"), blob[blob.opacities > 0.1]
    assert back.shape == kept.shape and len(packed) < 24 * len(records)
    rig = evenly_spaced_orbit(3, 10.0)
    assert psnr(rasterize(back, rig, 128).rgb, rasterize(kept, rig, 128).rgb).min() > 40
