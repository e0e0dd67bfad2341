"""Links to files of the repository that are no pages: code gets a page with numbered lines, others are copied."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from html import escape
from pathlib import Path

LINK = re.compile(r"(?:(?<=\]\()|(?<=\]: ))([^)\s:#]+)(#[\w-]*)?(?=[)\s]|$)")
NETWORK_PICTURE = re.compile(r"\[?!\[[^\]]*\]\(https?://[^)\s]*\)(?:\]\([^)\s]*\))?[ ]?")
SCHEME = "repository:"
FOLDER = "repository"  # of the site


def relink(text: str, folder: str, pages: set[str], root: Path) -> str:
    """Markdown of a page in `folder`, with `repository:PATH` for its links to files and folders that are no `pages`.

    Pictures from the network, README's badges, are left out: a page loads nothing from elsewhere.
    """
    def replace(match: re.Match) -> str:
        path = os.path.normpath(os.path.join(folder, match[1]))
        anchor = match[2] or ""
        if path == "README.md":
            return os.path.relpath("index.md", folder or ".") + anchor
        place = root / path
        if os.path.splitext(path)[0] in pages or not place.exists() or _is_picture(match):
            return match[0]
        return f"{SCHEME}{path}{anchor}"

    return LINK.sub(replace, NETWORK_PICTURE.sub("", text))


def _is_picture(match: re.Match) -> bool:
    before = match.string[:match.start()]
    return before[before.rfind("["):].count("]") == 1 and before[:before.rfind("[")].endswith("!")


def page_of(target: str, root: Path) -> str:
    """Where a `repository:` link leads to, below the site's root: ouroboros_lib/noise.py#L62 has a page of code."""
    path, _, anchor = target.removeprefix(SCHEME).partition("#")
    if (root / path).is_dir():
        return f"{FOLDER}/{path}/index.html"
    if path.endswith(".py"):
        return f"{FOLDER}/{path}.html" + (f"#{anchor}" if anchor else "")
    return f"{FOLDER}/{path}"


def collect(targets: set[str], root: Path, site: Path) -> Iterator[tuple[str, dict, str]]:
    """What Sphinx makes pages of, as its event html-collect-pages wants it; other files are copied."""
    waiting, done = {target.removeprefix(SCHEME).partition("#")[0] for target in targets}, set()
    while waiting:
        path = waiting.pop()
        done.add(path)
        if (root / path).is_dir():
            names = sorted(item.name for item in (root / path).iterdir() if item.is_file())
            waiting |= {f"{path}/{name}" for name in names} - done
            links = (f'<li><a href="{re.sub("[.]py$", ".py.html", name)}">{escape(name)}</a></li>' for name in names)
            yield _page(f"{FOLDER}/{path}/index", path, f"<ul>{''.join(links)}</ul>")
        elif path.endswith(".py"):
            yield _page(f"{FOLDER}/{path}", path, _numbered((root / path).read_text(encoding="utf-8")))
        else:
            (site / FOLDER / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path, site / FOLDER / path)


def _page(name: str, path: str, body: str) -> tuple[str, dict, str]:
    return name, {"title": path, "body": f"<h1>{escape(path)}</h1>{body}"}, "page.html"


def _numbered(code: str) -> str:
    """Python with an anchor for each line, named as on GitHub."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    numbered = highlight(code, PythonLexer(stripnl=False), HtmlFormatter(linenos="inline", lineanchors="L"))
    return '<div class="numbered">' + numbered.replace('"L-', '"L') + "</div>"
