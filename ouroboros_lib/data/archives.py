"""Archives of many meshes: zip and tar files, and zip files in them, unpacked as far as meshes need it."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..errors import InputError
from ..files import one_line
from .fetching import NO_ROOM
from .mesh_files import SUFFIXES

MOST_FILES, MOST_BYTES = 50_000, 2**32  # of those that are unpacked
INNER = (".zip", ".sh3f")  # unpacked in their turn; .sh3f: a furniture library of Sweet Home 3D
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
KEPT = (*SUFFIXES, *PICTURES, *INNER, ".bin", ".mtl", ".properties")
DEPTH = 3  # archives in archives
_BROKEN = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, tarfile.TarError,
           zlib.error)


class _Room:
    """What may still be unpacked."""

    def __init__(self):
        self.files, self.bytes = MOST_FILES, MOST_BYTES

    def take(self, size: int) -> None:
        self.files -= 1
        self.bytes -= size
        if self.files < 0 or self.bytes < 0:
            raise InputError(f"unpacks to more than {MOST_FILES} files or {MOST_BYTES} bytes; refused")


def unpack(archive: Path, folder: Path, room: _Room | None = None, depth: int = DEPTH) -> None:
    """Meshes and what belongs to them, with their folders, into `folder`; what is zipped in the archive comes into a
    folder of its name. Nothing leaves `folder`, links are not followed. Raises InputError, which names the archive,
    and OSError where there is no room."""
    room = room or _Room()
    try:
        with archive.open("rb") as file:
            for name, size, data in _members(file):
                inside = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part.strip("./")]
                if not inside or PurePosixPath(inside[-1]).suffix.lower() not in KEPT:
                    continue
                room.take(size)
                path = folder.joinpath(*inside)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data())
                if path.suffix.lower() in INNER and depth:
                    unpack(path, path.with_suffix(""), room, depth - 1)
                    path.unlink()
    except InputError as error:
        raise InputError(f"{archive.name}: {error}") from None
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        raise InputError(f"{archive.name}: this archive cannot be unpacked ({one_line(error)})") from None


def check_archive(archive: BinaryIO) -> None:
    """Read all that is in a zip or tar file. Raises what zipfile and tarfile raise where it is not sound."""
    for _, _, data in _members(archive):
        data()


def _members(archive: BinaryIO) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """Name, size and contents of the plain files of an archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for member in file.infolist():
                if not member.is_dir():
                    yield member.filename, member.file_size, lambda member=member: file.read(member)
        return
    archive.seek(0)  # where it ends it would be an empty tar file
    with tarfile.open(fileobj=archive) as file:
        for member in file:
            if member.isfile() and (contents := file.extractfile(member)) is not None:
                yield member.name, member.size, contents.read
