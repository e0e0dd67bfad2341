"""The pictures in the notebooks' texts, put into the notebooks themselves: `python -m tools.attach`.

Attached, they are seen wherever a notebook is opened and from whatever folder. `attachment:ring.png` is the course's
ring with the notebook's own part lit, `attachment:NAME.png` a file of figures/, `attachment:NAME.webp` a small copy of
figures/NAME.png.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from ouroboros_lib.course.ring import lesson_ring
from ouroboros_lib.errors import InputError
from ouroboros_lib.files import replace_file
from ouroboros_lib.viz.encoding import as_png, as_webp

from . import one_line_for_bad_input

RING = "ring.png"
WIDTH = 900  # pixels of a small copy
ALIKE = 2.0  # of 255, mean difference


def attach(notebook: Path, figures: Path) -> bool:
    """Fill the attachments of a notebook's texts. Returns whether anything changed. Raises InputError."""
    content, changed = json.loads(notebook.read_text()), False
    for cell in content["cells"]:
        if cell["cell_type"] == "markdown":
            names = re.findall(r"\]\(attachment:([\w.-]+)\)", "".join(cell["source"]))
            old = cell.get("attachments", {})
            new = {name: _attachment(name, _picture(notebook, name, figures), old.get(name, {})) for name in names}
            if new != old:
                cell["attachments"], changed = new, True
            if not names:
                cell.pop("attachments", None)
    if changed:
        replace_file(notebook, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return changed


def ring_picture(lesson: str) -> bytes:
    """The ring of a notebook, "00" to "06", as a PNG of few colours."""
    figure = lesson_ring(lesson)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    plt.close(figure)
    return as_png(Image.open(buffer))


def _attachment(name: str, data: bytes, old: dict[str, str]) -> dict[str, str]:
    kind = f"image/{name.rpartition('.')[2]}"
    if kind in old and (name == RING or kind == "image/webp") and _alike(base64.b64decode(old[kind]), data):
        return old  # letters and WebP differ in a few bits from one version of a library to the next
    return {kind: base64.b64encode(data).decode()}


def _alike(one: bytes, other: bytes) -> bool:
    first, second = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32) for data in (one, other))
    return first.shape == second.shape and float(np.abs(first - second).mean()) < ALIKE


def _picture(notebook: Path, name: str, figures: Path) -> bytes:
    if name == RING:
        return ring_picture(notebook.name[:2])
    path = (figures / name).with_suffix(".png")
    if not path.is_file():
        raise InputError(f"{notebook}: attachment:{name}: there is no {path}")
    if name.endswith(".png"):
        return path.read_bytes()
    with Image.open(path) as picture:
        picture.thumbnail((WIDTH, WIDTH))
        return as_webp(picture)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.attach", description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    arguments = parser.parse_args()
    with one_line_for_bad_input():
        for notebook in arguments.notebooks or sorted(Path("notebooks").glob("**/*.ipynb")):
            if attach(notebook, Path("figures")):
                print(notebook)


if __name__ == "__main__":
    main()
