"""Files over HTTP: what breaks off is tried again with growing pauses, what cannot be had is told in one line."""

import errno
import hashlib
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
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


class Stopped(Exception):
    """The user wants an end."""


@dataclass
class Fetch:
    """How to fetch. The pause before the k-th retry lasts pause * 2^k seconds; `stop` ends all that goes on."""

    workers: int = 8
    tries: int = 6
    timeout: float = 30.0
    pause: float = 0.5
    stop: threading.Event = field(default_factory=threading.Event)


def is_address(text: str) -> bool:
    """Whether a text is an address that can be fetched from, rather than a path."""
    return urllib.parse.urlsplit(text).scheme in ("http", "https")


def get(url: str, how: Fetch, use: Callable[[bytes], T]) -> T:
    """use(bytes of an address), tried again while the line or what it brings is broken. Raises InputError."""
    for number in range(how.tries):
        if number and how.stop.wait(min(how.pause * 2**number, 60)):
            raise Stopped
        try:
            return use(read(url, how))
        except (InputError, Stopped):
            raise
        except urllib.error.HTTPError as error:
            trouble = f"HTTP {error.code} {error.reason}"
            error.close()
            if error.code < 500 and error.code not in (408, 425, 429):
                raise Gone(f"{url}: {trouble}") from None
        except Exception as error:  # a line, a list or an archive can be broken in many ways
            trouble = one_line(error)
    raise InputError(f"{url}: {trouble}; given up after {how.tries} tries")


def read(url: str, how: Fetch) -> bytes:
    """What an address brings, all of it. Raises what urllib raises, InputError or Stopped."""
    request = urllib.request.Request(url, headers={"User-Agent": f"ouroboros-lib/{__version__}"})
    data = bytearray()
    with urllib.request.urlopen(request, timeout=how.timeout) as response:
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
