"""The pictures in the notebooks' texts, put into the notebooks themselves: `python -m tools.attach`.

Attached, they are seen wherever a notebook is opened and from whatever folder. `attachment:ring.png` is the course's
ring with the notebook's own part lit, `attachment:NAME.png` a file of figures/, `attachment:NAME.webp` a small copy of
figures/NAME.png.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import inspect
import io
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ouroboros_lib.course import diagram, ring
from ouroboros_lib.course.ring import LESSONS, lesson_ring
from ouroboros_lib.errors import InputError
from ouroboros_lib.files import one_line, read_bytes, read_json, replace_file
from ouroboros_lib.viz.encoding import as_png, as_webp

from . import one_line_for_bad_input

RING = "ring.png"
LINK = re.compile(r"""\]\(\s*(<?attachment:.*?)(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)""", re.DOTALL)  # a title is left out
NAMED = re.compile(r"attachment:([\w.-]+\.(?:png|webp))", re.ASCII)  # others are escaped, and not found
WIDTH = 1100  # pixels of a small copy: six views of 160
ALIKE = 2.0  # of 255, mean difference


def attach(notebook: Path, figures: Path) -> bool:
    """Fill the attachments of a notebook's texts. Returns whether anything changed. Raises InputError."""
    content, changed = read_json(notebook), False
    for cell in _cells(content, notebook):
        if cell["cell_type"] == "markdown":
            names = [_name(link, notebook) for link in LINK.findall("".join(cell["source"]))]
            old = cell.get("attachments", {})
            new = {name: _attachment(name, _picture(notebook, name, figures), old.get(name, {})) for name in names}
            if new != old:
                cell["attachments"], changed = new, True
            if not names:
                cell.pop("attachments", None)
    if changed:
        replace_file(notebook, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return changed


def _cells(content: object, notebook: Path) -> list[dict]:
    cells = content.get("cells") if isinstance(content, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) and {"cell_type", "source"} <= cell.keys()
                                              for cell in cells):
        raise InputError(f"{notebook}: not a notebook (no cells with a type and a source); give .ipynb files")
    return cells


def _name(link: str, notebook: Path) -> str:
    if found := NAMED.fullmatch(link):
        return found[1]
    raise InputError(f"{notebook}: {link}: write attachment:NAME.png or attachment:NAME.webp, with a name of plain "
                     "letters, digits, dots, - and _")


def ring_picture(lesson: str) -> bytes:
    """The ring of a notebook, "00" to "07", as a PNG of few colours that tells by what code it was drawn."""
    figure = lesson_ring(lesson)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    plt.close(figure)
    about = PngInfo()
    about.add_text("Source", _drawn_by())
    again, drawn = io.BytesIO(), Image.open(io.BytesIO(as_png(Image.open(buffer))))
    drawn.save(again, "png", optimize=True, pnginfo=about)
    return again.getvalue()


def _drawn_by() -> str:
    """A checksum of the code: letters differ from one matplotlib to the next by more than a few words do."""
    return hashlib.sha256("".join(map(inspect.getsource, (ring, diagram))).encode()).hexdigest()[:16]


def _attachment(name: str, data: bytes, old: dict[str, str]) -> dict[str, str]:
    kind = f"image/{name.rpartition('.')[2]}"
    if kind in old and (name == RING or kind == "image/webp") and _alike(base64.b64decode(old[kind]), data):
        return old
    return {kind: base64.b64encode(data).decode()}


def _alike(one: bytes, other: bytes) -> bool:
    """Whether two pictures are drawn by the same code, or differ by no more than versions of WebP do."""
    try:
        pictures = [Image.open(io.BytesIO(data)) for data in (one, other)]
        sources = [picture.info.get("Source") for picture in pictures]
        first, second = (np.asarray(picture.convert("RGB"), np.float32) for picture in pictures)
    except (OSError, SyntaxError):  # what was attached is no picture
        return False
    if any(sources):
        return sources[0] == sources[1]
    return first.shape == second.shape and float(np.abs(first - second).mean()) < ALIKE


def _picture(notebook: Path, name: str, figures: Path) -> bytes:
    if name == RING:
        lesson = notebook.name[:2]
        if lesson not in LESSONS:
            raise InputError(f"{notebook}: attachment:{name}: the ring is of a notebook whose name begins with one of "
                             + ", ".join(LESSONS))
        return ring_picture(lesson)
    try:
        data = read_bytes((figures / name).with_suffix(".png"))
        with Image.open(io.BytesIO(data)) as picture:
            picture.thumbnail((WIDTH, WIDTH))
            return data if name.endswith(".png") else as_webp(picture)
    except InputError as error:
        raise InputError(f"{notebook}: attachment:{name}: {error}") from None
    except (OSError, SyntaxError) as error:  # as PIL raises them
        raise InputError(f"{notebook}: attachment:{name}: its file in {figures} is no picture ({one_line(error)})"
                         ) from None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.attach", description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    arguments = parser.parse_args()
    with one_line_for_bad_input():
        for notebook in arguments.notebooks or sorted(Path("notebooks").glob("*.ipynb")):
            if attach(notebook, Path("figures")):
                print(notebook)


if __name__ == "__main__":
    main()
