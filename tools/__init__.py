"""What measures the library and is not part of it; run from the repository's root, as `python -m tools.NAME`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ouroboros_lib.errors import InputError
from ouroboros_lib.speed.threads import prepare

prepare()  # as the command line does, before a tool imports torch


@contextmanager
def one_line_for_bad_input() -> Iterator[None]:
    """What the command line does about errors."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
