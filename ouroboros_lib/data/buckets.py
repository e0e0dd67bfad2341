"""Folders of an object store, s3://BUCKET/PATH, through fsspec and s3fs: a file appears there whole or not at all.

Keys, endpoint and region are those that the environment and the files of AWS's own tools name.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError, needs
from ..files import one_line
from .fetching import Forbidden, Gone, Unreachable

BLOCK = 8 * 2**20  # bytes that are asked for at a time


def is_bucket(text: str) -> bool:
    return text.lower().startswith("s3://")


class Bucket:
    """A folder of an object store. All methods raise InputError, Unreachable among them where no store answers.

    Raises InputError for an address of another form, and where the extra is not installed.
    """

    def __init__(self, address: str):
        self.address = address.rstrip("/")
        if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/[^/\s]+)*", self.address):
            raise InputError(f"{address}: expected s3://BUCKET/PATH")
        with needs("cluster", "s3://"):
            import s3fs  # noqa: F401

    def read(self, name: str) -> bytes:
        """All of a file. Raises Gone if there is none."""
        with _told(f"{self.address}/{name}"):
            return _store().cat_file(f"{self.address}/{name}")

    def write(self, name: str, data: bytes) -> None:
        with _told(f"{self.address}/{name}"):
            _store().pipe_file(f"{self.address}/{name}", data)

    def upload(self, path: Path, name: str) -> None:
        """A file of this machine, in parts if it is large, which become a file when all are there."""
        with _told(f"{self.address}/{name}"):
            _store().put_file(str(path), f"{self.address}/{name}")


class BucketFile:
    """A file of `size` bytes in an object store, to be read in order. Raises InputError if it has another size."""

    def __init__(self, path: str, size: int):
        self.path = path
        with _told(path):
            self.file = _store().open(path, "rb", block_size=BLOCK, cache_type="readahead")
        if self.file.size != size:
            raise InputError(f"{path}: {self.file.size} bytes, expected {size} as the index says")

    def read(self, count: int) -> bytes:
        with _told(self.path):
            return self.file.read(count)

    def close(self) -> None:
        self.file.close()


def _store() -> Any:
    """This process's connection; fsspec keeps it."""
    import s3fs

    return s3fs.S3FileSystem(use_listings_cache=False)


@contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise Gone(f"{path}: no such file or bucket") from None
    except PermissionError as error:
        raise Forbidden(f"{path}: no permission ({one_line(error)})") from None
    except Exception as error:  # of a line, of credentials or of a server, which raise many kinds
        raise Unreachable(f"{path}: {one_line(error)}") from None
