"""The one exception for bad input: a single line that says what, where and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something the user gave cannot be used. The command line prints it as one line and exits with code 2."""


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
