"""The one exception for bad input: a single line that says what, where and what to do."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something the user gave cannot be used. The command line prints it as one line and exits with code 2."""


@contextmanager
def one_line_for_bad_input() -> Iterator[None]:
    """What the command line does, for modules that are run by themselves."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
