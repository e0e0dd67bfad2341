"""The Sphinx extension that joins the parts: what happens to a page when it is read, and when it is written."""

from __future__ import annotations

import json
import os
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from . import mathml, minutes, repository
from .contents import GLOSSARY, toctree
from .glossary import Glossary, Term, depart_term, read_glossary, visit_term
from .notebooks import FRAMED, PLOTLY_FILE, SHOWN, WIDGET_VIEW, prepare

WIDE = 8  # columns; such a table is set smaller


def setup(app: Sphinx) -> dict:
    app.add_config_value("book_root", "", "env", types=[str])
    app.add_html_math_renderer("mathml", (mathml.visit_inline, None), (mathml.visit_block, None))
    app.add_node(Term, html=(visit_term, depart_term))
    app.add_transform(Finish)
    app.connect("builder-inited", _begin)
    app.connect("source-read", _read)
    app.connect("html-collect-pages", _collect)
    app.connect("html-page-context", _page, priority=600)  # after the theme has listed its buttons
    return {"parallel_read_safe": False, "parallel_write_safe": True}


def _begin(app: Sphinx) -> None:
    from myst_nb.sphinx_ import HideCodeCellNode

    root = Path(app.config.book_root)
    app.env.book_glossary = Glossary(read_glossary(root / f"{GLOSSARY}.md"))
    app.env.book_seconds = minutes.recorded(root)
    app.env.book_linked = set()
    app.add_node(HideCodeCellNode, override=True, html=(_visit_fold, _depart_fold))


def _read(app: Sphinx, docname: str, content: list[str]) -> None:
    root, pages = Path(app.config.book_root), set(app.env.found_docs)

    def relinked(text: str) -> str:
        return repository.relink(text, os.path.dirname(docname), pages, root)

    parent_of = toctree(docname, pages, Path(app.srcdir))
    if app.env.doc2path(docname, base=False).suffix != ".ipynb":
        content[0] = relinked(content[0]) + parent_of
        return
    notebook = json.loads(content[0])
    prepare(notebook)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = relinked(cell["source"])
    if parent_of:
        notebook["cells"][-1]["source"] += parent_of
    content[0] = json.dumps(notebook)


class Finish(SphinxTransform):
    """What is done to a page that was read: links into the repository, the glossary's words, minutes."""

    default_priority = 600

    def apply(self, **_) -> None:
        env, document = self.env, self.document
        docname = env.docname
        up = "../" * docname.count("/")
        for link in document.findall(nodes.reference):
            if (target := link.get("refuri", "")).startswith(repository.SCHEME):
                env.book_linked.add(target)
                link["refuri"] = up + repository.page_of(target, Path(env.config.book_root))
                link["internal"] = True
        for cell in document.findall(nodes.container):
            if cell.get("nb_element") == "cell_code_output":
                _one_caption(cell)
        for table in document.findall(nodes.table):
            if sum(1 for _ in table.findall(nodes.colspec)) >= WIDE:
                table["classes"].append("wide")
        notebook = docname.startswith("notebooks/") and not docname.endswith("README")
        minutes.mark(document, env.book_seconds.get(docname.removeprefix("notebooks/"), {}), sections=notebook)
        if docname == GLOSSARY:
            env.book_glossary.number_rows(document)
        else:
            env.book_glossary.mark(document, f"{up}{GLOSSARY}.html")


def _one_caption(outputs: nodes.container) -> None:
    """MyST-NB writes a cell's caption under each of its outputs: leave that under the last picture."""
    figures = list(outputs.findall(nodes.figure))
    kept = max((number for number, figure in enumerate(figures) if _is_pictured(figure)), default=-1)
    for number, figure in enumerate(figures):
        if number != kept:
            for caption in list(figure.findall(nodes.caption)):
                figure.remove(caption)


def _is_pictured(figure: nodes.figure) -> bool:
    bundle = [raw.astext() for raw in figure.findall(nodes.raw)]
    return any(True for _ in figure.findall(nodes.image)) \
        or any(FRAMED.search(text) or "plotly-figure" in text or WIDGET_VIEW in text for text in bundle)


def _collect(app: Sphinx):
    return list(repository.collect(app.env.book_linked, Path(app.config.book_root), Path(app.outdir)))


def _page(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: nodes.document | None) -> None:
    if doctree is None:
        return
    if any("plotly-figure" in raw.astext() for raw in doctree.findall(nodes.raw)):
        app.add_js_file(PLOTLY_FILE, priority=400)
    if any(node.get("nb_element") == "cell_code" for node in doctree.findall(nodes.container)):
        context["header_buttons"].insert(0, {
            "type": "javascript", "javascript": "toggleCode()", "tooltip": "Fold or unfold all code",
            "icon": "fas fa-code", "label": "code"})


def _visit_fold(translator, node: nodes.Element) -> None:
    lines = len(node.astext().strip().splitlines())
    shown = " open" if f"tag_{SHOWN}" in node.parent["classes"] else ""
    text = "1 line of code" if lines == 1 else f"{lines} lines of code"
    translator.body.append(f'<details class="fold"{shown}><summary>{text}</summary>\n')


def _depart_fold(translator, node: nodes.Element) -> None:
    translator.body.append("</details>\n")
