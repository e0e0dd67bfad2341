"""Big files read from a server as they come, from the first byte to the last, without a copy on the disk.

A line that breaks or falls silent is told on stderr and taken up where it ended, with growing pauses. What is told is
one line that names the address, the trouble and the pause.
"""

import multiprocessing
import sys
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from urllib.parse import quote, urlsplit, urlunsplit

from tqdm import tqdm

from ..errors import InputError
from .buckets import Bucket, is_bucket
from .fetching import Fetch, is_address, open_address, trouble


def say(text: str) -> None:
    """A line on stderr, above the progress bar of this process if it is the first."""
    if multiprocessing.parent_process() is None:
        tqdm.write(text, file=sys.stderr)
    else:  # a reader, whose line comes after the first one's bar
        sys.stderr.write("\n" * sys.stderr.isatty() + text + "\n")
        sys.stderr.flush()


PATIENCE = Fetch(tries=10, timeout=30, pause=0.5, report=say)  # pauses of 1, 2, 4, ... 60 seconds, 4 minutes together


def is_remote(text: str) -> bool:
    """Whether a text is the address of a folder on a server or in an object store, rather than a path."""
    return is_address(text) or is_bucket(text)


def folder_address(text: str) -> str:
    """The address of a folder, without the slash at its end. Raises InputError for one with a query or a password,
    which would stand in every record of a run."""
    if is_bucket(text):
        return Bucket(text).address
    try:
        parts = urlsplit(text)
        fits = parts.hostname and parts.port != 0 and not (parts.query or parts.fragment or "@" in parts.netloc)
    except ValueError:  # of the port, or of brackets
        fits = False
    if not fits:
        raise InputError("the address of a folder is https://HOST/PATH/ or http://HOST:PORT/PATH/, without a password "
                         "and without ? or #")
    return urlunsplit(parts._replace(path=quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")))


class RemoteFile:
    """A file of `size` bytes at an address, to be read in order.

    Raises InputError at once if the server has it in another size or not at all, and Unreachable after how.tries
    failures without a byte between them. Servers that know no ranges send again what was read, which is passed over.
    """

    def __init__(self, url: str, size: int):
        self.url, self.size, self.how = url, size, PATIENCE
        self.place = 0  # of the next byte
        self.response: HTTPResponse | None = None

    def read(self, count: int) -> bytes:
        """The next bytes, at most `count`, as many as are there; none at the end."""
        count, failures = min(count, self.size - self.place), 0
        while count:
            try:
                self.response = self.response or self._open()
                data = _some(self.response, count)
            except (OSError, HTTPException) as error:
                self.close()
                failures += 1
                text = f"{self.url}: {trouble(self.url, error, self.how)}, at byte {self.place:,} of {self.size:,}"
                self.how.wait(failures, text)
                continue
            self.place += len(data)
            if failures and self.how.report:
                self.how.report(f"{self.url}: goes on; failed tries: {failures}")
            return data
        return b""

    def close(self) -> None:
        """Hang up."""
        if self.response is not None:
            with suppress(OSError):
                self.response.close()
        self.response = None

    def _open(self) -> HTTPResponse:
        """The answer that begins with the next byte."""
        response = open_address(self.url, self.how, self.place)
        try:
            span, slash, size = response.headers.get("Content-Range", "").partition("/")
            if not slash:
                size = response.headers.get("Content-Length", "")
            if size.isdigit() and int(size) != self.size:
                raise InputError(f"{self.url}: {size} bytes, expected {self.size} as the index says")
            if slash and not span.startswith(f"bytes {self.place}-"):
                raise ConnectionError(f"the server sent {span} instead of those asked for")
            passed = self.place if slash else 0
            while passed < self.place:
                passed += len(_some(response, min(self.place - passed, 2**16)))
        except BaseException:
            response.close()
            raise
        return response


def _some(response: HTTPResponse, count: int) -> bytes:
    """What has come, at most `count` bytes, at least one. Raises OSError or HTTPException."""
    if data := response.read1(count):
        return data
    raise ConnectionError("broken off")
