"""How long a page and each of its sections take: from words, code and exercises, and the recorded time of each cell.

`python -m tools.book.minutes` writes into each notebook how long it takes as a whole, where it says **Minutes**: the
book shows that line, and adds those of its sections. With a FOLDER it first records the times of notebooks that
papermill executed into it; `make minutes` does both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from docutils import nodes

from ouroboros_lib.errors import InputError
from ouroboros_lib.files import dump_json, read_json, replace_file

from .. import one_line_for_bad_input

RECORD = Path("notebooks", "seconds.json")
WORDS_PER_MINUTE = 150  # of a text to be understood, not skimmed
SECONDS_PER_LINE = 3.0  # of code
SECONDS_PER_EXERCISE = 480.0  # to think, write and try; a guess, as those above are
LINE = re.compile(r"^\*\*Minutes\*\*: (?P<run>.+?) to run on [^\n]*$", re.MULTILINE)


def mark(document: nodes.document, seconds: dict[str, float], sections: bool) -> None:
    """Write under a page's heading, and with `sections` under those of its sections, how long it takes.

    A page that says **Minutes** itself is left to it. `seconds`: of each cell that ran, by its id.
    """
    for section in list(document.findall(nodes.section)):
        depth = sum(isinstance(node, nodes.section) for node in _with_parents(section))
        stated = any(words.astext() == "Minutes" for words in section.findall(nodes.strong))
        if depth == 1 and not stated or sections and depth == 2:
            code = [block.astext() for block in section.findall(nodes.literal_block)]
            text = spelled(reading(section), running(section, seconds), doing(code))
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
            lines += _lines(text)
        else:
            words += len(text.split())
    return _to_read(words, lines)


def doing(code: Sequence[str]) -> float:
    """Seconds for the exercises among code cells: those that check an answer which is still to be written."""
    return SECONDS_PER_EXERCISE * sum('check("' in cell and "..." in cell for cell in code)


def running(node: nodes.Node, seconds: dict[str, float]) -> float:
    """Seconds of the cells in a node. Times in a notebook's own metadata, of JupyterLab or papermill, do not count:
    they are of anybody's machine, and gone from a clean notebook."""
    cells = (cell.get("cell_metadata", {}) for cell in node.findall(nodes.container))
    return sum(seconds.get(cell.get("cell_id", ""), 0.0) for cell in cells)


def spelled(read: float, run: float, do: float = 0.0) -> str:
    parts = [f"{_minutes(read)} to read"]
    if do:
        parts.append(f"{_minutes(do)} for the exercises")
    if run >= 1:
        parts.append(f"{_minutes(run) if run >= 60 else f'{run:.0f} s'} to run")
    return ", ".join(parts)


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min"


def stated(cells: Sequence[dict], run: float | None, cores: int) -> str | None:
    """What a notebook should say in its line **Minutes**; None where it has none. cells: as in its file. run: recorded
    seconds; None: what it says now stays."""
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    if not (line := LINE.search("\n".join(texts))):
        return None
    words = sum(any(map(str.isalnum, word)) for text in texts for word in text.split())
    running = line["run"] if run is None else "less than 1" if run < 60 else f"{run / 60:.0f}"
    read, do = (5 * max(1, round(seconds / 300)) for seconds in (_to_read(words, sum(map(_lines, code))), doing(code)))
    return (f"**Minutes**: {running} to run on {cores} CPU cores, {read} to read"
            + (f", {do} for the exercises." if do else "."))


def state(root: Path) -> list[Path]:
    """Bring the line **Minutes** of each notebook up to date; returns those that changed."""
    seconds, changed = recorded(root), []
    cores = read_json(root / RECORD)["cores"] if seconds else 2
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = read_json(path)
        times = seconds.get(path.stem)
        line = stated(notebook["cells"], sum(times.values()) if times else None, cores)
        for cell in notebook["cells"]:
            source = "".join(cell["source"])
            if line and cell["cell_type"] == "markdown" and LINE.search(source):
                cell["source"] = LINE.sub(lambda match, line=line: line, source).splitlines(keepends=True)
        text = (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()
        if text != path.read_bytes():
            replace_file(path, text)
            changed.append(path)
    return changed


def _to_read(words: int, lines: int) -> float:
    return 60 * words / WORDS_PER_MINUTE + SECONDS_PER_LINE * lines


def _lines(code: str) -> int:
    return sum(bool(line.strip()) for line in code.splitlines())


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
                                           "machine": about, "cores": os.cpu_count(), "seconds": seconds}))
    return root / RECORD


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.book.minutes", description=record.__doc__.splitlines()[0])
    parser.add_argument("executed", type=Path, nargs="?")
    with one_line_for_bad_input():
        if (executed := parser.parse_args().executed) is not None:
            print(record(executed, Path()))
        print(*state(Path()), sep="\n")
