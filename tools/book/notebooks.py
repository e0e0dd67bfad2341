"""What cells need to be shown on a page: plotly figures, widgets, words for pictures, which code is folded."""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Iterator

WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
PLOTLY = "application/vnd.plotly.v1+json"
PLOTLY_FILE = "plotly.min.js"  # 4.5 MB, once for all pages
DRAWN = {"BoxModel", "HBoxModel", "VBoxModel", "StackModel", "ImageModel", "HTMLModel", "LabelModel", "IntSliderModel",
         "FloatSliderModel", "SelectionSliderModel", "ToggleButtonsModel", "DropdownModel"}  # by widgets.js
KEPT = {"kernelspec", "language_info", "widgets"}  # other metadata, as papermill's, would be shown
NO_KERNEL = '<p class="no-kernel">This control needs a kernel: open the notebook to use it.</p>'
FRAMED = re.compile(r"<(img|iframe|video|canvas|svg)\b")  # in HTML
FOLDED, SHOWN = "hide-input", "shown"  # tags of cells: MyST-NB's, and one for CSS class "tag_shown"
LABELS = {"title", "suptitle", "xlabel", "ylabel", "zlabel", "label", "row_labels", "column_labels"}
SETTERS = {"set_title", "set_xlabel", "set_ylabel", "suptitle", "title", "xlabel", "ylabel"}
LONGEST_ALT = 200


def prepare(notebook: dict) -> None:
    """Change a notebook, in place, into what MyST-NB shows well."""
    notebook["metadata"] = {key: value for key, value in notebook["metadata"].items() if key in KEPT}
    notebook["metadata"].setdefault("language_info", {"name": "python"})
    state = notebook["metadata"].get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    heading = ""
    for cell in notebook["cells"]:
        source = cell["source"] = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = ([heading] + re.findall(r"^#+ (.+)$", source, re.MULTILINE))[-1]
            cell["source"] = _with_attachments(source, cell.pop("attachments", {}))
        if cell["cell_type"] != "code":
            continue
        pictured = [output["data"] for output in cell["outputs"] if shows_a_picture(output)]
        if pictured:
            _describe(cell, heading)
        for data in pictured:
            _show(data, state, cell["metadata"]["mystnb"]["image"]["alt"])
        cell["metadata"]["cell_id"] = cell.get("id", "")
        tags = cell["metadata"].setdefault("tags", [])
        if FOLDED not in tags:
            tags += [FOLDED] if _is_set_up(cell) else [FOLDED, SHOWN]


def shows_a_picture(output: dict) -> bool:
    """Whether an output of a cell is a picture, a plot, a control or a frame with some in it."""
    data = output.get("data", {})
    return bool({PLOTLY, WIDGET_VIEW} & data.keys()) or any(kind.startswith("image/") for kind in data) \
        or FRAMED.search("".join(data.get("text/html", ""))) is not None


def _with_attachments(source: str, attachments: dict[str, dict[str, str]]) -> str:
    """A text with its attached pictures in it, as data: MyST-NB knows no attachments."""
    for name, forms in attachments.items():
        (kind, data), = forms.items()
        link, uri = rf"(?<=\]\()\s*attachment:{re.escape(name)}(?=[\s)])", f"data:{kind};base64,{''.join(data.split())}"
        source = re.sub(link, uri, source)  # before a title or not
    return source


def _show(data: dict, state: dict, alt: str) -> None:
    """One output's forms, with words: of plotly's figures and of widgets that cannot live here only HTML stays."""
    words = html.escape(alt)
    if PLOTLY in data:
        figure = {"data": data[PLOTLY]["data"], "layout": data[PLOTLY].get("layout", {})}
        data.clear()
        data["text/html"] = f'<div class="plotly-figure" role="img" aria-label="{words}" ' \
            f'data-figure="{html.escape(json.dumps(figure))}"></div>'
    elif WIDGET_VIEW in data:
        if _lives(data[WIDGET_VIEW]["model_id"], state):
            data[WIDGET_VIEW] = data[WIDGET_VIEW] | {"alt": alt}  # for widgets.js
        else:
            data.clear()
            data["text/html"] = NO_KERNEL
    elif "text/html" in data:
        data["text/html"] = re.sub(r"<(iframe|video)\b", rf'<\1 aria-label="{words}"', "".join(data["text/html"]))


def _lives(name: str, state: dict) -> bool:
    """Whether a widget was saved with all that is in it, and widgets.js draws it. JupyterLab saves none by default."""
    if name not in state or state[name]["model_name"] not in DRAWN:
        return False
    children = state[name]["state"].get("children", [])
    return all(_lives(child.removeprefix("IPY_MODEL_"), state) for child in children)


def _describe(cell: dict, heading: str) -> None:
    """A text for who does not see the picture: `mystnb.image.alt`, else `mystnb.figure.caption`, else what is on its
    axes and beside its rows, as the code says."""
    words = cell["metadata"].setdefault("mystnb", {})
    image = words.setdefault("image", {})
    caption = re.sub(r"[*`$]", "", words.get("figure", {}).get("caption", ""))
    image.setdefault("alt", caption or _labels(cell["source"], heading))


def _labels(source: str, heading: str) -> str:
    found: list[tuple[int, int, str]] = []
    try:
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    except SyntaxError:  # a cell with magic commands
        calls = []
    for call in calls:
        values = [keyword.value for keyword in call.keywords if keyword.arg in LABELS]
        if isinstance(call.func, ast.Attribute) and call.func.attr in SETTERS:
            values += call.args[:1]
        found += [(text.lineno, text.col_offset, re.sub(r"[$\\\s]+", " ", text.value).strip(" :;,"))
                  for value in values for text in _texts(value)]
    texts = list(dict.fromkeys(text for *_, text in sorted(found) if len(text) > 1))
    alt = f"{re.sub(r'[*`$]', '', heading)}: " + (", ".join(texts) or "the picture that this cell makes")
    return alt if len(alt) <= LONGEST_ALT else alt[:LONGEST_ALT].rsplit(" ", 1)[0] + " ..."


def _texts(node: ast.AST) -> Iterator[ast.Constant]:
    """Strings of an expression, but not what is filled into them, nor how."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node
    elif not isinstance(node, ast.FormattedValue):
        for child in ast.iter_child_nodes(node):
            yield from _texts(child)


def _is_set_up(cell: dict) -> bool:
    """Cells that import and show nothing start folded."""
    return not cell["outputs"] and re.match(r"(import|from) ", cell["source"]) is not None
