"""The one exception for bad input: a single line that says what, where and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


LONGEST = 5000  # characters of a message, as long as the longest path
_CONTROL = dict.fromkeys([*range(32), *range(127, 160), 0x2028, 0x2029], " ")  # ends of lines, and what moves cursors


class InputError(ValueError):
    """Something the user gave cannot be used. The command line prints it as one line and exits with code 2.

    One line it is, and not a long one, whatever names and texts of files are part of it.
    """

    def __init__(self, message: object = ""):
        text = str(message)
        if len(text) > LONGEST:
            text = f"{text[:LONGEST // 2]} ... {text[-LONGEST // 2:]}"
        super().__init__(text.translate(_CONTROL))

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the line, without the way to it."""
        return [f"InputError: {self}"]


def attempt(function: Callable[..., T], *arguments, **options) -> T | InputError:
    """What a function returns, or the InputError that it raises: of many objects, one that is bad stops no other."""
    try:
        return function(*arguments, **options)
    except InputError as error:
        return error


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Around the import of packages that only an extra of pyproject.toml brings. what: that which needs them.

    Raises InputError that names the package and the extra when one is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(f"{what} needs the package {error.name}, which is not installed: "
                         f"pip install -e '.[{extra}]' in the repository") from None
