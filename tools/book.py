"""Executed notebooks as HTML pages that need no network, no server and no kernel: step-through controls live on."""

from __future__ import annotations

import base64
import html
import json
import mimetypes
import re
import sys
import tempfile
from pathlib import Path

from ouroboros_lib.errors import InputError

SCRIPT = Path(__file__).with_name("static_widgets.js")
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
PLOTLY = "application/vnd.plotly.v1+json"
PLOTLY_FILE = "plotly.min.js"  # beside the pages that have a plotly figure: 4.5 MB that they share
DRAWN = {"BoxModel", "HBoxModel", "VBoxModel", "StackModel", "ImageModel", "HTMLModel", "LabelModel", "IntSliderModel",
         "FloatSliderModel", "SelectionSliderModel", "ToggleButtonsModel", "DropdownModel"}
LINKS = {"LinkModel", "DirectionalLinkModel"}
TEMPLATE = """{%- extends 'index.html.j2' -%}
{%- block html_head_js_requirejs -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- if resources.has_math -%}{{ super() }}{%- endif -%}{%- endblock -%}
{%- block extra_css -%}<style>
.static-control { display: flex; flex-wrap: wrap; align-items: center; gap: 4px; margin: 3px 0; font: 13px sans-serif; }
.static-control input { width: 240px; } .static-label { width: 56px; text-align: right; padding-right: 6px; }
.static-control button { border: 0; padding: 5px 12px; background: #eee; }
.static-control button[aria-pressed=true] { background: #bbb; }
.static-row { display: flex; gap: 10px; align-items: flex-start; }
.static-column { display: flex; flex-direction: column; }
.static-widgets img { display: block; } .static-widgets [hidden] { display: none !important; }
.jp-RenderedHTMLCommon .highlight pre { font: 13px/1.3 monospace; padding: 8px; background: #f7f7f7; overflow-x: auto; }
</style>{%- endblock -%}
{%- block footer_js -%}{{ super() }}<script>{{ resources.static_widgets }}</script>{%- endblock -%}"""


def write_page(notebook: str | Path, out: str | Path) -> None:
    """Write one executed notebook as one HTML page: pictures inline, links to other notebooks turned into .html.

    Widgets of the kinds in DRAWN are drawn by `static_widgets.js`, plotly figures by plotly.js from a file beside the
    page. Only formulas, where a notebook has some, ask the network for MathJax; without it they stay readable TeX.
    Raises InputError when the notebook cannot be read, or shows a widget that a page without a kernel cannot.
    """
    import nbformat
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    notebook, out = Path(notebook), Path(out)
    try:
        nb = nbformat.read(notebook, as_version=4)
    except OSError as error:
        raise InputError(f"{notebook}: cannot be read ({error.strerror}); give an executed notebook") from None
    except (ValueError, nbformat.validator.NotebookValidationError) as error:
        raise InputError(f"{notebook}: not a notebook ({str(error).splitlines()[0]})") from None
    _check_widgets(nb, notebook)
    plotly = False
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"(\]\([\w./-]+)\.ipynb(#[\w-]+)?\)", r"\1.html\2)", cell.source)
            cell.source = re.sub(r"(!\[[^\]]*\]\()([\w./-]+)\)", lambda match: _inline(match, notebook), cell.source)
        for output in cell.get("outputs", []):
            if PLOTLY in output.get("data", {}):
                figure = output.data.pop(PLOTLY)
                output.data["text/html"] = _plotly_div(figure)
                output.data.pop("image/png", None)
                plotly = True
    exporter = HTMLExporter(extra_loaders=[DictLoader({"book.html.j2": TEMPLATE})])
    exporter.template_file = "book.html.j2"
    has_math = any(cell.cell_type == "markdown" and re.search(r"\$[^$\s]|\\\(|\\\[|\\begin", cell.source)
                   for cell in nb.cells)
    resources = {"metadata": {"name": notebook.stem, "path": str(notebook.parent)}, "has_math": has_math,
                 "static_widgets": SCRIPT.read_text(encoding="utf-8")}
    page, _ = exporter.from_notebook_node(nb, resources)
    if plotly:
        from plotly.offline import get_plotlyjs

        page = page.replace("</head>", f'<script src="{PLOTLY_FILE}"></script></head>', 1)
        (out.parent / PLOTLY_FILE).write_text(get_plotlyjs(), encoding="utf-8")
    out.write_text(page, encoding="utf-8")


def _check_widgets(nb, path: Path) -> None:
    """Raise InputError unless every widget shown is saved and of a kind that static_widgets.js draws."""
    state = nb.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    waiting = [output.data[WIDGET_VIEW]["model_id"] for cell in nb.cells for output in cell.get("outputs", [])
               if WIDGET_VIEW in output.get("data", {})]
    while waiting:
        name = waiting.pop()
        if name not in state:
            raise InputError(f"{path}: the state of a widget that it shows is not saved; execute it with papermill")
        kind = state[name]["model_name"]
        if kind not in DRAWN:
            raise InputError(f"{path}: shows a {kind}, but a page without a kernel can only show "
                             f"{', '.join(sorted(DRAWN))}")
        waiting += [child.removeprefix("IPY_MODEL_") for child in state[name]["state"].get("children", [])]


def _inline(match: re.Match, notebook: Path) -> str:
    """A markdown picture from a file as one that holds its data; nbconvert only does so below the notebook's folder."""
    path = notebook.parent / match[2]
    if not path.is_file():
        raise InputError(f"{notebook}: shows {match[2]}, which is not there; make the figures first")
    kind = mimetypes.guess_type(path.name)[0]
    return f"{match[1]}data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()})"


def _plotly_div(figure: dict) -> str:
    data = html.escape(json.dumps({"data": figure["data"], "layout": figure.get("layout", {})}))
    draw = ("const node = document.currentScript.previousElementSibling, figure = JSON.parse(node.dataset.figure);"
            "Plotly.newPlot(node, figure.data, figure.layout, {responsive: true});")
    return f'<div class="plotly-figure" data-figure="{data}"></div><script>{draw}</script>'


def write_book(folder: str | Path, out: str | Path) -> list[Path]:
    """All notebooks below `folder` as pages below `out`, its README.md as index.html; returns what was written."""
    import nbformat

    folder, out = Path(folder), Path(out)
    notebooks = sorted(path for path in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
    if not notebooks:
        raise InputError(f"{folder}: no notebooks in it")
    pages = []
    for notebook in notebooks:
        page = out / notebook.relative_to(folder).with_suffix(".html")
        page.parent.mkdir(parents=True, exist_ok=True)
        write_page(notebook, page)
        pages.append(page)
    if (folder / "README.md").is_file():
        cell = nbformat.v4.new_markdown_cell((folder / "README.md").read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as place:
            index = Path(place) / "index.ipynb"
            nbformat.write(nbformat.v4.new_notebook(cells=[cell]), index)
            write_page(index, out / "index.html")
        pages.append(out / "index.html")
    return pages


if __name__ == "__main__":
    for written in write_book(*sys.argv[1:3]):
        print(written)
