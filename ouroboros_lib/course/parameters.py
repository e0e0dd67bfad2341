"""What every notebook of the course begins with: threads, device, and its parameters checked before anything runs."""

from __future__ import annotations

import ast
import difflib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from ..errors import InputError
from ..files import find_file
from ..speed.threads import start
from ..values import Between, checked

if TYPE_CHECKING:
    import torch

MARKER = ".ouroboros-course"


def notebook(device: str = "auto", given: Mapping[str, Any] | None = None, **kinds: Any) -> torch.device:
    """The call at the top of a notebook: settings for threads and memory, parameters checked, the device to work on.

    device: "auto" (the first GPU, or the CPU), "cpu", "cuda" or "cuda:N". given: the notebook's `globals()`, in which
    each name of `kinds` must be of its kind: a type such as str or list[int]; a range of whole numbers; the two ends of
    a slice for numbers between them; `Path`, the folder of a saved pipeline; `find_file`, a file that it finds; a list
    of one kind for one or more of it; or a tuple of what it may be, of these and of plain values. What papermill was
    given beside these and `device` is refused. Warns where torch was imported before, so that the settings for threads
    come too late. Raises InputError, which a notebook shows as one line.
    """
    if given is not None:
        known = [*kinds, "device"]
        for name in _injected(given.get("In", ())):
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                raise InputError(f"parameter {name}: this notebook has none of that name"
                                 f"{f', did you mean {close[0]}?' if close else ''}: {', '.join(known)}")
        for name, kind in kinds.items():
            if name not in given:
                raise InputError(f"parameter {name}: it has no value; run the cell with the parameters first")
            if isinstance(kind, list) and isinstance(given[name], str):  # papermill's -p takes single values
                raise InputError(f"parameter {name}: expected a list, got the text {given[name]!r}; to papermill a "
                                 f"list is given by -y '{name}: [1, 2]'")
            checked(given[name], _kind(kind), f"parameter {name}")
    return start(checked(device, str, "parameter device"))


def empty_folder(name: str) -> Path:
    """A folder for a notebook's outputs, with nothing in it: what an earlier run left there is deleted.

    Only what a notebook made is, which a hidden file in it tells. Raises InputError for another one that holds files.
    """
    folder = Path(name)
    marker = folder / MARKER
    if folder.exists() and not marker.is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"parameter output_folder: {folder} holds what no notebook of this course made; choose "
                         "another name, or delete it yourself")
    if marker.is_file():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    marker.touch()
    return folder


@dataclass(frozen=True)
class _PipelineFolder:
    """Which texts are meant, as `Between` does for numbers."""

    def holds(self, value: str) -> bool:
        return Path(value, "model_index.json").is_file()

    def __str__(self) -> str:
        return " that is the folder of a saved pipeline"


@dataclass(frozen=True)
class _File:
    def holds(self, value: str) -> bool:
        try:
            return find_file(value).is_file()
        except (InputError, OSError, ValueError):  # the last two of what can be no name
            return False

    def __str__(self) -> str:
        return " that is the path of a file, as it stands or from the repository's folder"


@dataclass(frozen=True)
class _Some:
    def holds(self, value: Sequence) -> bool:
        return len(value) > 0

    def __str__(self) -> str:
        return " of one or more"


def _kind(meant: Any) -> Any:
    """In the terms of values.py."""
    if isinstance(meant, tuple):
        plain = tuple(value for value in meant if isinstance(value, (str, int)))
        kinds = [_kind(value) for value in meant if not isinstance(value, (str, int))]
        return Union[tuple([Literal[plain]] * bool(plain) + kinds)]  # noqa: UP007 - of as many as there are
    if isinstance(meant, slice):
        return Annotated[float, Between(meant.start, meant.stop)]
    if isinstance(meant, range):
        return Annotated[int, Between(meant.start, meant.stop - 1)]
    if isinstance(meant, list):
        return Annotated[list[_kind(meant[0])], _Some()]  # type: ignore[misc]
    if meant is find_file:
        return Annotated[str, _File()]
    return Annotated[str, _PipelineFolder()] if meant is Path else meant


def _injected(cells: Sequence[str]) -> list[str]:
    """The names that papermill's cell sets, which begins with a line of its own."""
    lines = [node for cell in cells if cell.startswith("# Parameters\n") for node in ast.parse(cell).body]
    targets = [target for node in lines if isinstance(node, ast.Assign) for target in node.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]
