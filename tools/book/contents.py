"""Which pages the site has, and in which order."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

PAGES = ["notebooks/*.ipynb", "notebooks/solutions/*.ipynb", "notebooks/README.md", "docs/*.md", "results/*.md",
         "ouroboros_lib/presets/weights/*/README.md"]  # and README.md, as index
GLOSSARY = "docs/glossary"


def toctree(docname: str, found: set[str], source: Path) -> str:
    """What the page `docname` is the parent of, as a hidden table of contents in MyST's markdown; "" for most pages.

    README.md is the parent of all, in the order in which it names docs; each notebook of its solutions.
    """
    if docname == "index":
        readme = (source / "index.md").read_text(encoding="utf-8")

        def place(page: str) -> tuple[int, str]:
            at = readme.find(f"({page}.md")
            return (at if at >= 0 else len(readme), page)

        parts = {
            "Notebooks": ["notebooks/README", *(page for page in sorted(found) if is_lesson(page)), GLOSSARY],
            "Guides": sorted((page for page in found if page.startswith("docs/") and page != GLOSSARY), key=place),
            "Results": sorted((page for page in found if page.startswith("results/")), key=place),
            "Weights": [page for page in sorted(found) if page.startswith("ouroboros_lib/")],
        }
        return "".join(_directive([page for page in pages if page in found], source, caption)
                       for caption, pages in parts.items())
    if is_lesson(docname):
        number = docname.partition("/")[2][:2]
        return _directive([page for page in sorted(found) if page.startswith(f"notebooks/solutions/{number}_")], source)
    return ""


def is_lesson(docname: str) -> bool:
    """Whether a page is a notebook of the course, and not the solutions of one."""
    return docname.startswith("notebooks/") and docname.count("/") == 1 and not docname.endswith("README")


def _directive(pages: list[str], source: Path, caption: str = "") -> str:
    if not pages:
        return ""
    lines = chain([":hidden:"], [f":caption: {caption}"] * bool(caption),
                  (f"{_short_title(page, source)} </{page}>" for page in pages))
    return "\n\n```{toctree}\n" + "\n".join(lines) + "\n```\n"


def _short_title(page: str, source: Path) -> str:
    """A page's first heading, up to its colon; the number alone for solutions."""
    if page.startswith("notebooks/solutions/"):
        return f"Solutions to {page.rpartition('/')[2][:2]}"
    markdown, notebook = source / f"{page}.md", source / f"{page}.ipynb"
    if markdown.is_file():
        text = markdown.read_text(encoding="utf-8")
    else:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        text = "".join("".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "markdown")
    headings = [line.lstrip("# ") for line in text.splitlines() if line.startswith("# ")]
    return headings[0].partition(":")[0].replace("`", "") if headings else page.rpartition("/")[2]
