"""How long a page and each of its sections take: from its words, its code and the recorded time of each cell.

`python -m tools.book.minutes FOLDER` records the times of notebooks that papermill executed into FOLDER.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

from docutils import nodes

from ouroboros_lib.errors import InputError
from ouroboros_lib.files import dump_json, read_json, replace_file

from .. import one_line_for_bad_input

RECORD = Path("notebooks", "seconds.json")
WORDS_PER_MINUTE = 150  # of a text to be understood, not skimmed
SECONDS_PER_LINE = 3.0  # of code


def mark(document: nodes.document, seconds: dict[str, float], sections: bool) -> None:
    """Write under a page's heading, and with `sections` under those of its sections, how long it takes.

    `seconds`: of each cell that ran, by its id.
    """
    for section in list(document.findall(nodes.section)):
        depth = sum(isinstance(node, nodes.section) for node in _with_parents(section))
        if depth == 1 or sections and depth == 2:
            text = spelled(reading(section), running(section, seconds))
            section.insert(1, nodes.paragraph("", text, classes=["minutes"]))


def reading(node: nodes.Node) -> float:
    """Seconds for the words and the code; what cells put out is looked at, and not counted."""
    words = lines = 0
    for text in node.findall(nodes.Text):
        above = list(_with_parents(text.parent))
        if any({"cell_output", "minutes"}.intersection(parent["classes"]) or isinstance(parent, nodes.raw)
               for parent in above):
            continue
        if any(isinstance(parent, nodes.literal_block) for parent in above):
            lines += sum(bool(line.strip()) for line in text.splitlines())
        else:
            words += len(text.split())
    return 60 * words / WORDS_PER_MINUTE + SECONDS_PER_LINE * lines


def running(node: nodes.Node, seconds: dict[str, float]) -> float:
    """Seconds of the cells in a node. Times in a notebook's own metadata, of JupyterLab or papermill, do not count:
    they are of anybody's machine, and gone from a clean notebook."""
    cells = (cell.get("cell_metadata", {}) for cell in node.findall(nodes.container))
    return sum(seconds.get(cell.get("cell_id", ""), 0.0) for cell in cells)


def spelled(read: float, run: float) -> str:
    parts = [f"{_minutes(read)} to read"]
    if run >= 1:
        parts.append(f"{_minutes(run) if run >= 60 else f'{run:.0f} s'} to run")
    return ", ".join(parts)


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min"


def _with_parents(node: nodes.Node):
    while node is not None:
        yield node
        node = node.parent


def recorded(root: Path) -> dict[str, dict[str, float]]:
    """{notebook's path below notebooks/, without .ipynb: {cell's id: seconds}}; empty where nothing was recorded."""
    return read_json(root / RECORD)["seconds"] if (root / RECORD).is_file() else {}


def record(executed: Path, root: Path) -> Path:
    """Write what papermill noted in the notebooks below `executed`. Raises InputError where it noted nothing."""
    seconds = {}
    for path in sorted(executed.rglob("*.ipynb")):
        cells = {cell["id"]: cell["metadata"].get("papermill", {}).get("duration") for cell in read_json(path)["cells"]
                 if cell["cell_type"] == "code"}
        if not any(cells.values()):
            raise InputError(f"{path}: papermill did not run it; give a folder of notebooks that papermill wrote")
        name = path.relative_to(executed).with_suffix("").as_posix()
        seconds[name] = {cell: round(time, 1) for cell, time in cells.items() if time and time >= 0.05}
    if not seconds:
        raise InputError(f"{executed}: no notebooks in it")
    about = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    replace_file(root / RECORD, dump_json({"made by": "python -m tools.book.minutes, of notebooks that papermill ran",
                                           "machine": about, "seconds": seconds}))
    return root / RECORD


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.book.minutes", description=record.__doc__.splitlines()[0])
    parser.add_argument("executed", type=Path)
    with one_line_for_bad_input():
        print(record(parser.parse_args().executed, Path()))
