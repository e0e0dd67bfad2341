"""From a repository to a folder of web pages."""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from itertools import chain
from pathlib import Path

from ouroboros_lib.errors import InputError
from ouroboros_lib.files import new_folder, read_json

from .contents import PAGES
from .links import faults
from .notebooks import PLOTLY, PLOTLY_FILE

STATIC = Path(__file__).with_name("static")
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s:]+)\)")
ANSI = re.compile(r"\x1b\[[\d;]*m")


def build(root: Path, out: Path) -> None:
    """Build the site of the repository at `root` into the folder `out`, which is replaced when the whole site is good.

    Raises InputError for what Sphinx warns of, and for a link, anchor or picture that leads nowhere.
    """
    root = root.resolve()
    if not (root / "README.md").is_file() or not any(root.glob("notebooks/*.ipynb")):
        raise InputError(f"{root}: has no README.md or no notebooks/*.ipynb; give the root of the repository")
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(out) as site, tempfile.TemporaryDirectory() as place:
        source = Path(place, "source")
        _stage(root, source)
        _run_sphinx(source, site, _settings(root, Path(place)))
        if wrong := faults(site):
            raise InputError(f"{root}: {wrong[0]}" + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""))


def _stage(root: Path, source: Path) -> None:
    """Copy the pages and their pictures, each to where it lies in the repository; but README.md is the page `index`."""
    for path in chain([root / "README.md"], *(root.glob(pattern) for pattern in PAGES)):
        text = path.read_text(encoding="utf-8")
        for picture in (Path(os.path.normpath(path.parent / name)) for name in PICTURE.findall(text)):
            if picture.is_file() and picture.is_relative_to(root):
                _copy(picture, source / picture.relative_to(root))
        page = path.relative_to(root)
        if path.suffix == ".ipynb" and "cells" not in (read_json(path) or {}):
            raise InputError(f"{path}: not a notebook; save it in format 4")
        _copy(path, source / ("index.md" if page == Path("README.md") else page))


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, to)


def _settings(root: Path, place: Path) -> dict:
    static = [str(STATIC)]
    if any(PLOTLY in path.read_text(encoding="utf-8") for path in root.glob("notebooks/**/*.ipynb")):
        from plotly.offline import get_plotlyjs

        (place / "plotly").mkdir()
        (place / "plotly" / PLOTLY_FILE).write_text(get_plotlyjs(), encoding="utf-8")
        static.append(str(place / "plotly"))
    title = (root / "README.md").read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
    return {
        "project": title, "html_title": title.partition(",")[0], "language": "en", "root_doc": "index",
        "extensions": ["myst_nb", "tools.book.extension"],
        "book_root": str(root),
        "myst_enable_extensions": ["dollarmath"], "myst_dmath_double_inline": True, "myst_heading_anchors": 4,
        "myst_url_schemes": ["http", "https", "mailto", "repository"],
        "nb_execution_mode": "off", "nb_ipywidgets_js": {}, "nb_render_markdown_format": "myst",
        "nb_merge_streams": True,
        "suppress_warnings": ["mystnb.unknown_mime_type", "config.cache", "myst.header"],
        "smartquotes": False, "html_math_renderer": "mathml",
        "html_theme": "sphinx_book_theme", "html_theme_options": _theme(root),
        "html_static_path": static, "html_css_files": ["book.css"], "html_js_files": ["widgets.js", "book.js"],
        "html_use_index": False, "html_copy_source": True, "html_context": {"default_mode": "auto"},
    }


def _theme(root: Path) -> dict:
    """Buttons for Colab and Binder are there once `tools.publish` has given the repository its public address."""
    options = {"home_page_in_toc": True, "show_toc_level": 2, "use_fullscreen_button": False,
               "navigation_with_keys": False, "navbar_persistent": [], "footer_content_items": []}
    citation = root / "CITATION.cff"
    found = re.search(r"^repository-code: (\S+)$", citation.read_text() if citation.is_file() else "", re.MULTILINE)
    if found:
        options |= {"repository_url": found[1], "repository_branch": "main", "use_repository_button": True,
                    "launch_buttons": {"colab_url": "https://colab.research.google.com",
                                       "binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"}}
    return options


def _run_sphinx(source: Path, site: Path, settings: dict) -> None:
    from sphinx.application import Sphinx
    from sphinx.errors import SphinxError
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    warnings = io.StringIO()
    try:
        with patch_docutils(), docutils_namespace():
            app = Sphinx(source, None, site, source.with_name("doctrees"), "html", settings, None, warnings)
            app.build(force_all=True)
    except SphinxError as error:
        raise InputError(_one(str(error), source)) from None
    if lines := warnings.getvalue().splitlines():
        raise InputError(_one(lines[0], source))


def _one(message: str, source: Path) -> str:
    """Sphinx's words, with paths as in the repository."""
    return ANSI.sub("", message).replace(f"{source}/", "").replace("index.md", "README.md").strip()
