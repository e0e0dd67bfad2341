"""The recursion explorer, the splat viewer of a notebook's cell, and notebooks as pages that need no network."""

import base64
import html
import io
import json
import re
import zlib
from types import SimpleNamespace

import nbformat
import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from ipywidgets.embed import embed_data
from PIL import Image

from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.metrics import psnr
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.rasterization import rasterize
from ouroboros_lib.viz.explorer import KINDS, difference_map, explorer_sheet, recursion_explorer
from ouroboros_lib.viz.notebook import show, stepper
from ouroboros_lib.viz.viewer import viewer_iframe
from tools.book import PLOTLY_FILE, write_page

FIELDS = ("noisy", "views", "rgb", "ccm")


def gray(view: int, step: int, field: str, run: int) -> float:
    return (0.2 + 0.5 * view + 0.1 * step + 0.02 * FIELDS.index(field) + 0.01 * run) / 3


def trace(run: int, steps=(0, 1, 2, 3, 4, 5, 6, 7, 8)) -> list:
    """A record per step; every map of every view has a grey of its own."""
    def maps(step, field):
        levels = torch.tensor([gray(view, step, field, run) for view in range(4)])
        return levels.view(1, 4, 1, 1, 1).expand(1, 4, 3, 32, 32)
    return [SimpleNamespace(index=i, sigma=9.0 - i, **{field: maps(i, field) for field in FIELDS}) for i in steps]


def picture(widget) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(widget.value)).convert("RGB"), dtype=float) / 255


def controls(explorer):
    kind, view, step, below = explorer.children
    return kind, view, step, below.children[0].children[1]


def test_every_choice_shows_its_own_page_with_all_runs():
    explorer = recursion_explorer({"on": trace(0), "off": trace(1)}, views=(0, 1, 3), steps=5)
    kind, view, step, pages = controls(explorer)
    assert kind._options_labels == tuple(KINDS) and len(view.options) == 3
    assert [option.split(",")[0] for option in step.options] == ["1 of 9", "3 of 9", "5 of 9", "7 of 9", "9 of 9"]
    for k, name in enumerate(KINDS):
        for v, shown_view in enumerate((0, 1, 3)):
            for s, shown_step in enumerate((0, 2, 4, 6, 8)):
                page = picture(pages.children[k].children[v].children[s])
                for run, x in enumerate((10, -10)):
                    if KINDS[name] is None:
                        levels = [gray(shown_view, shown_step, field, run) for field in ("views", "rgb")]
                        expected = 1 - 4 * abs(levels[0] - levels[1])
                    else:
                        expected = gray(shown_view, shown_step, KINDS[name], run)
                    assert page[16, x].mean() == pytest.approx(expected, abs=0.012)


def test_all_stacks_follow_a_control_without_a_kernel():
    truth = torch.rand(4, 3, 32, 32)
    explorer = recursion_explorer({"on": trace(0), "off": trace(1)}, views=(0, 2), steps=4, truth=truth)
    state = embed_data(explorer)["manager_state"]["state"]
    kind, view, step, _ = (widget.model_id for widget in controls(explorer))
    links = {record["state"]["target"][0].removeprefix("IPY_MODEL_"): record["state"]["source"]
             for record in state.values() if record["model_name"] == "LinkModel"
             and record["state"]["target"][1] == "selected_index"}
    children = explorer.children[3].children[0].children[1]
    for stack, control in [(children, kind), *((s, view) for s in children.children),
                           *((s, step) for by_view in children.children for s in by_view.children),
                           (explorer.children[3].children[1].children[1], view)]:
        assert links[stack.model_id] == [f"IPY_MODEL_{control}", "index"]
        assert stack.selected_index == state[control]["state"]["index"]


def test_runs_with_other_steps_are_refused():
    with pytest.raises(ValueError, match="same steps"):
        recursion_explorer({"on": trace(0), "off": trace(1, steps=(0, 2, 4))})
    with pytest.raises(ValueError, match="return_trace"):
        explorer_sheet({"on": []}, view=0)


def test_difference_map_is_white_where_equal_and_black_a_quarter_away():
    views = torch.full((2, 3, 4, 4), 0.5)
    assert (difference_map(views, views) == 1).all()
    assert (difference_map(views, views + 0.125) == 0.5).all() and (difference_map(views, views - 0.3) == 0).all()


def test_static_sheet_has_a_row_per_step_and_a_group_per_run(monkeypatch):
    import ouroboros_lib.viz.explorer as explorer

    seen = {}
    monkeypatch.setattr(explorer, "image_grid", lambda rows, path, labels, columns, groups: seen.update(
        rows=rows, labels=labels, columns=columns, groups=groups))
    explorer_sheet({"on": trace(0), "off": trace(1)}, view=1, steps=3, kinds=("estimate", "CCM"))
    values = torch.tensor([[float(tile[0, 0, 0]) for tile in row] for row in seen["rows"]])
    expected = [[gray(1, step, field, run) for run in (0, 1) for field in ("views", "ccm")] for step in (0, 4, 8)]
    assert torch.allclose(values, torch.tensor(expected)) and seen["groups"] == [("on", 2), ("off", 2)]


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
    back, kept = Gaussians.load_splat(tmp_path / "back.splat"), blob[blob.opacities > 0.1]
    assert back.shape == kept.shape and len(packed) < 24 * len(records)
    rig = evenly_spaced_orbit(3, 10.0)
    assert psnr(rasterize(back, rig, 128).rgb, rasterize(kept, rig, 128).rgb).min() > 40


# ---- pages -----------------------------------------------------------------------------------------------------------


def notebook_with(widget=None, output=None, source="1 + 1", markdown="") -> nbformat.NotebookNode:
    cell = nbformat.v4.new_code_cell(source)
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(markdown), cell])
    if widget is not None:
        output = {"application/vnd.jupyter.widget-view+json": {"model_id": widget.model_id, "version_major": 2,
                                                               "version_minor": 0}}
        nb.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json":
                                  embed_data(widget)["manager_state"]}
    if output is not None:
        cell.outputs = [nbformat.v4.new_output("display_data", output)]
    return nb


def loaded_from_elsewhere(page: str) -> list[str]:
    return re.findall(r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"'>\s]+)", page)


def test_a_page_loads_nothing_and_links_to_pages(tmp_path):
    pages = [Image.new("RGB", (96, 96), color) for color in ("red", "blue")]
    (tmp_path / "figures").mkdir()
    (tmp_path / "notebooks").mkdir()
    Image.new("RGB", (8, 8), "green").save(tmp_path / "figures" / "dot.png")
    text = "see [00](00_quickstart.ipynb#top) ![dot](../figures/dot.png), 5 $ and [x](x.md)"
    nb = notebook_with(stepper(pages), markdown=text)
    nbformat.write(nb, tmp_path / "notebooks" / "a.ipynb")
    write_page(tmp_path / "notebooks" / "a.ipynb", tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert not loaded_from_elsewhere(page) and "require.min.js" not in page
    assert 'href="00_quickstart.html#top"' in page and 'href="x.md"' in page and "data:image/png;base64," in page
    assert page.index("static-widgets") > 0 and not (tmp_path / PLOTLY_FILE).exists()


def test_formulas_ask_for_mathjax_and_nothing_else(tmp_path):
    nbformat.write(notebook_with(markdown="$x_t$"), tmp_path / "a.ipynb")
    write_page(tmp_path / "a.ipynb", tmp_path / "a.html")
    (address,) = loaded_from_elsewhere((tmp_path / "a.html").read_text())
    assert "mathjax" in address.lower()


def test_plotly_figures_draw_from_the_file_beside(tmp_path):
    figure = go.Figure(go.Scatter3d(x=[0, 1], y=[0, 1], z=[0, 1], name="<a & b>"))
    output = {"application/vnd.plotly.v1+json": json.loads(figure.to_json()), "text/plain": "Figure"}
    nbformat.write(notebook_with(output=output), tmp_path / "a.ipynb")
    write_page(tmp_path / "a.ipynb", tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert f'<script src="{PLOTLY_FILE}">' in page and (tmp_path / PLOTLY_FILE).stat().st_size > 1_000_000
    data = json.loads(html.unescape(re.search(r"""data-figure=(["'])(.*?)\1""", page)[2]))
    assert data["data"][0]["name"] == "<a & b>" and not loaded_from_elsewhere(page)


def test_what_a_page_cannot_show_is_bad_input(tmp_path):
    import ipywidgets as widgets

    nb = notebook_with(widgets.VBox([widgets.Text("needs a kernel")]))
    nbformat.write(nb, tmp_path / "text.ipynb")
    with pytest.raises(InputError, match="text.ipynb: shows a TextModel"):
        write_page(tmp_path / "text.ipynb", tmp_path / "a.html")
    del nb.metadata["widgets"]
    nbformat.write(nb, tmp_path / "bare.ipynb")
    with pytest.raises(InputError, match="not saved; execute it"):
        write_page(tmp_path / "bare.ipynb", tmp_path / "a.html")
    with pytest.raises(InputError, match="none.ipynb: cannot be read"):
        write_page(tmp_path / "none.ipynb", tmp_path / "a.html")
    nbformat.write(notebook_with(markdown="![x](gone.png)"), tmp_path / "picture.ipynb")
    with pytest.raises(InputError, match="shows gone.png, which is not there"):
        write_page(tmp_path / "picture.ipynb", tmp_path / "a.html")
    (tmp_path / "broken.ipynb").write_text("{")
    with pytest.raises(InputError, match="broken.ipynb: not a notebook"):
        write_page(tmp_path / "broken.ipynb", tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()
