"""Notebooks as pages that need no network, and all of them as a book."""

import html
import json
import re

import nbformat
import plotly.graph_objects as go
import pytest
from ipywidgets.embed import embed_data
from PIL import Image

from ouroboros_lib.errors import InputError
from ouroboros_lib.viz.notebook import stepper
from tools.book import PLOTLY_FILE, write_book, write_page


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


def test_the_book_holds_every_notebook_and_the_index(tmp_path):
    folder = tmp_path / "notebooks"
    (folder / "solutions").mkdir(parents=True)
    (folder / "README.md").write_text("# Course\n\n[one](00_one.ipynb)")
    for name, source in (("00_one", "See [these](solutions/00_solutions.ipynb)."),
                         ("solutions/00_solutions", "42")):
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(source)]),
                       folder / f"{name}.ipynb")
    pages = write_book(folder, tmp_path / "book")
    assert [str(page.relative_to(tmp_path / "book")) for page in pages] == [
        "00_one.html", "solutions/00_solutions.html", "index.html"]
    assert 'href="00_one.html"' in pages[2].read_text()
    assert 'href="solutions/00_solutions.html"' in pages[0].read_text() and "42" in pages[1].read_text()
    with pytest.raises(InputError, match="no notebooks"):
        write_book(tmp_path / "book", tmp_path / "other")
