"""Files over HTTP: what breaks off is tried again with growing pauses, what cannot be had is told in one line."""

import errno
import hashlib
import itertools
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path
from typing import TypeVar

from .. import __version__
from ..errors import InputError
from ..files import one_line

T = TypeVar("T")
MAX_BYTES = 2**29  # of one file: it is held in memory
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # which end a command, whatever it fetches next


class Gone(InputError):
    """The server says that there is no such thing: trying again is of no use."""


class Unreachable(InputError):
    """Nothing comes from there, and enough was tried."""


class Forbidden(Unreachable):
    """The server asks for a permission that is not there: this holds for all that it has."""


class Stopped(Exception):
    """The user wants an end."""


@dataclass
class Fetch:
    """How to fetch. The pause before the k-th retry lasts pause * 2^k seconds, a minute at most; `stop` ends all that
    goes on; `report`, if there is one, is told of each failure and pause in one line."""

    workers: int = 8
    tries: int = 6
    timeout: float = 30.0
    pause: float = 0.5
    stop: threading.Event = field(default_factory=threading.Event)
    report: Callable[[str], None] | None = None

    def wait(self, failures: int, trouble: str) -> None:
        """The pause after so many failures in a row, the last of which is `trouble`. Raises Unreachable instead if
        there were enough, or Stopped."""
        if failures >= self.tries:
            raise Unreachable(f"{trouble}; given up after {self.tries} tries")
        seconds = min(self.pause * 2**failures, 60)
        if self.report:
            self.report(f"{trouble}; try {failures + 1} of {self.tries} follows in {seconds:g} s")
        if self.stop.wait(seconds):
            raise Stopped


def is_address(text: str) -> bool:
    """Whether a text is an address that can be fetched from, rather than a path."""
    return text.lower().startswith(("http://", "https://"))


def get(url: str, how: Fetch, use: Callable[[bytes], T]) -> T:
    """use(bytes of an address), tried again while the line or what it brings is broken. Raises InputError."""
    for failures in itertools.count(1):
        try:
            return use(read(url, how))
        except (InputError, Stopped):
            raise
        except Exception as error:  # a line, a list or an archive can be broken in many ways
            how.wait(failures, f"{url}: {trouble(url, error, how)}")
    raise AssertionError  # for type checkers: `wait` ends this


def trouble(url: str, error: Exception, how: Fetch) -> str:
    """What went wrong, in a few words. Raises InputError where trying again is of no use: Gone if the server says so,
    Forbidden if it does not let us, Unreachable if there is no such server, or another one in its place."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        text = f"HTTP {error.code} {error.reason}"
        if error.code in (401, 403):
            raise Forbidden(f"{url}: {text}: no permission to read it (some stores say so of a file that is not there)"
                            ) from None
        if error.code < 500 and error.code not in (408, 425, 429):
            raise Gone(f"{url}: {text}") from None
        return text
    reason = getattr(error, "reason", error) if isinstance(error, urllib.error.URLError) else error
    no_such_host = isinstance(reason, socket.gaierror) and reason.errno != socket.EAI_AGAIN
    if no_such_host or isinstance(reason, ssl.SSLCertVerificationError):
        raise Unreachable(f"{url}: {one_line(reason)}") from None
    return f"nothing came for {how.timeout:g} s" if isinstance(reason, TimeoutError) else one_line(reason)


def open_address(url: str, how: Fetch, start: int = 0) -> HTTPResponse:
    """The answer of an address, asked for its bytes from `start` on. Raises what urllib raises."""
    headers = {"User-Agent": f"ouroboros-lib/{__version__}"} | ({"Range": f"bytes={start}-"} if start else {})
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=how.timeout)


def read(url: str, how: Fetch) -> bytes:
    """What an address brings, all of it. Raises what urllib raises, InputError or Stopped."""
    data = bytearray()
    with open_address(url, how) as response:
        while chunk := response.read(2**16):
            data += chunk
            if how.stop.is_set():
                raise Stopped
            if len(data) > MAX_BYTES:
                raise InputError(f"{url}: more than {MAX_BYTES} bytes; refused")
        if response.length:
            raise ConnectionError(f"broken off after {len(data)} bytes")
    return bytes(data)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
