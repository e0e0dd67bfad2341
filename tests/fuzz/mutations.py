"""What is done to a sound file. Everything is drawn from one random.Random, so that a seed repeats it.

Zips, gzips, tars, .glb, .safetensors, .png and JSON are opened, one of their parts is changed, and they are closed
again with right lengths and checksums: what reads the parts is reached, too.
"""

import gzip
import io
import json
import math
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from random import Random

NUMBERS = (0, 1, -1, 2, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 10**12, -2**31, -2**63)
FLOATS = (math.nan, math.inf, -math.inf, 3.4e38, -1e30, 1e-45, 1e10, -0.0)
WORDS = ("nan", "inf", "-inf", "1e400", "-1e400", "1e-400", "0", "-1", "-0.0", "1e30", "9" * 40, "x", "", "0x10", "1_0",
         "\u20ac", "null", "true", "[]", "{}", "../x", "\0", "\u0660", "\r", "\x1b[31m", "a\nb")
VALUES = (None, True, False, 0, -1, 1, 3, 0.5, 1e308, 2**31, 2**63, 10**12, 10**400, math.nan, math.inf, -math.inf, "",
          "x", "../x", "/dev/zero", "\0", "nan", [], {}, [[]], [None], ["x"], {"x": 0}, [1, 2, 3], [[1, 2], [3]],
          [math.nan] * 4)
DEEP = "a place for what is nested deeply"
MOST_NESTED = 100_000
LONGEST = 8_000_000  # bytes that a damaged file may have


def mutate(data: bytes, random: Random) -> bytes:
    """One to three changes to the contents of a file."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        data = _once(data, random)[:LONGEST]
    return data


def _once(data: bytes, random: Random) -> bytes:
    if random.random() < 0.8:
        for opened, closed in CONTAINERS:
            try:
                parts = opened(data)
            except Exception:  # of whatever kind: it is no container of this kind, or was damaged before
                continue
            if parts:
                return closed(_change_parts(parts, random))
        if data.lstrip()[:1] in (b"{", b"["):
            try:
                return change_json(data, random)
            except (ValueError, RecursionError):
                pass
    ways = BYTES if b"\0" in data else (*BYTES, *TEXT, *TEXT, *TEXT)
    return random.choice(ways)(data, random)


def _change_parts(parts: list[tuple[str, bytes]], random: Random) -> list[tuple[str, bytes]]:
    place = random.randrange(len(parts))
    name, data = parts[place]
    what = random.random()
    if what < 0.03:
        return parts[:place] + parts[place + 1:]
    if what < 0.06:
        return [*parts, (name, data)]
    if what < 0.09:
        other = random.choice((name + "x", "../" + name, "/" + name, "a/" + name, name.upper(), "x" * 300))
        return [*parts[:place], (other, data), *parts[place + 1:]]
    if what < 0.12:
        other = random.randrange(len(parts))
        return [*parts[:place], (name, parts[other][1]), *parts[place + 1:]]
    return [*parts[:place], (name, _once(data, random)), *parts[place + 1:]]


# ---- bytes and text -------------------------------------------------------------------------------------------------


def _place(data: bytes, random: Random) -> int:
    """Where headers are, more often than elsewhere."""
    return random.randrange(min(len(data), random.choice((16, 64, 512, len(data), len(data)))) or 1)


def _flip(data: bytes, random: Random) -> bytes:
    changed, place = bytearray(data or b"\0"), _place(data, random)
    changed[place] ^= 1 << random.randrange(8)
    return bytes(changed)


def _set(data: bytes, random: Random) -> bytes:
    changed, place = bytearray(data or b"\0"), _place(data, random)
    changed[place] = random.choice((0, 1, 127, 128, 255, random.randrange(256)))
    return bytes(changed)


def _truncate(data: bytes, random: Random) -> bytes:
    return data[:random.choice((0, 1, len(data) - 1, len(data) // 2, random.randrange(len(data) + 1)))]


def _remove(data: bytes, random: Random) -> bytes:
    start = _place(data, random)
    return data[:start] + data[start + random.choice((1, 4, 16, 1 + random.randrange(len(data) or 1))):]


def _repeat(data: bytes, random: Random) -> bytes:
    start = _place(data, random)
    end = start + random.choice((1, 4, 32, 1000))
    return data[:end] + data[start:end] * random.choice((1, 2, 50)) + data[end:]


def _splice(data: bytes, random: Random) -> bytes:
    """A piece of the file over another of its places."""
    start, place, length = _place(data, random), _place(data, random), random.choice((2, 4, 8, 64))
    return data[:place] + data[start:start + length] + data[place + length:]


def _length(data: bytes, random: Random) -> bytes:
    """A whole number of some width where one may stand."""
    width, place = random.choice((1, 2, 4, 8)), _place(data, random)
    place -= place % width if random.random() < 0.5 else 0
    number = random.choice(NUMBERS) % 2**(8 * width)
    return data[:place] + number.to_bytes(width, random.choice(("little", "big"))) + data[place + width:]


def _float(data: bytes, random: Random) -> bytes:
    place, kind = _place(data, random), random.choice(("<f", "<f", "<d", ">f"))
    place -= place % 4 if random.random() < 0.5 else 0
    number = struct.pack(kind, random.choice(FLOATS))
    return data[:place] + number + data[place + len(number):]


def _word(data: bytes, random: Random) -> bytes:
    """Another word in the place of a number or a name."""
    found = list(re.finditer(rb"[-+.\w]+", data[:20_000]))
    if not found:
        return random.choice(WORDS).encode()
    old = random.choice(found)
    return data[:old.start()] + random.choice(WORDS).encode() + data[old.end():]


def _line(data: bytes, random: Random) -> bytes:
    """A line goes, comes again, or trades places."""
    lines = data.splitlines(keepends=True) or [b"\n"]
    a, b, what = random.randrange(len(lines)), random.randrange(len(lines)), random.randrange(4)
    if what == 0:
        del lines[a]
    elif what == 1:
        lines[a:a] = [lines[b]] * random.choice((1, 1, 100))
    elif what == 2:
        lines[a], lines[b] = lines[b], lines[a]
    else:
        lines[a] = lines[a].rstrip() + b" " + lines[b]
    return b"".join(lines)


BYTES = (_flip, _flip, _set, _truncate, _remove, _repeat, _splice, _length, _length, _float)
TEXT = (_word, _word, _line)


# ---- JSON -----------------------------------------------------------------------------------------------------------


def change_json(data: bytes, random: Random) -> bytes:
    """A value becomes another, of any type; a key goes, comes twice, or gets another name; lists grow or shrink."""
    whole = [json.loads(data)]
    places = list(_places(whole))
    holder, key = random.choice(places)
    what, value = random.random(), holder[key]
    if what < 0.1 and len(places) > 1:
        holder, key = random.choice(places[1:])
        del holder[key]
    elif what < 0.15 and isinstance(holder, dict):
        holder[random.choice(("x", "", str(key).upper()))] = holder.pop(key)
    elif what < 0.25 and isinstance(value, list):
        value[:] = random.choice((value[:-1], value * 2, value + value[:1], value[::-1], [value]))
    elif what < 0.3:
        holder[key] = DEEP
    elif what < 0.4:
        other, at = random.choice(places)
        holder[key] = json.loads(json.dumps(other[at]))
    elif what < 0.5 and isinstance(value, (int, float)) and not isinstance(value, bool):
        holder[key] = random.choice((*NUMBERS, *FLOATS, -value, 1000 * value, value + 1, str(value), [value]))
    else:
        holder[key] = random.choice(VALUES)
    text = json.dumps(whole[0])
    if random.random() < 0.05 and (keys := list(re.finditer(r'"[^"]*": ', text))):
        again = random.choice(keys)
        text = text[:again.start()] + again[0] + json.dumps(random.choice(VALUES)) + ", " + text[again.start():]
    nested = random.choice(("[", '{"a":')), random.choice((50, 500, 3000, MOST_NESTED))
    return text.replace(json.dumps(DEEP), nested[0] * nested[1] + "0" + "]}"[nested[0] != "["] * nested[1]).encode()


def _places(value):
    """Every (holder, key) in nested lists and dicts."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


# ---- files that hold others -----------------------------------------------------------------------------------------


def _open_zip(data: bytes) -> list[tuple[str, bytes]]:
    if not data.startswith(b"PK"):
        return []
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def _close_zip(parts: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in parts:
            archive.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


def _open_gzip(data: bytes) -> list[tuple[str, bytes]]:
    return [("", gzip.decompress(data))] if data.startswith(b"\x1f\x8b") else []


def _close_gzip(parts: list[tuple[str, bytes]]) -> bytes:
    return b"".join(gzip.compress(data, 1, mtime=0) for _, data in parts)


def _open_tar(data: bytes) -> list[tuple[str, bytes]]:
    if data[257:262] != b"ustar":
        return []
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [(member.name, archive.extractfile(member).read()) for member in archive if member.isfile()]


def _close_tar(parts: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in parts:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def _open_glb(data: bytes) -> list[tuple[str, bytes]]:
    parts, at = [], 12
    while data[:4] == b"glTF" and at + 8 <= len(data):
        size, kind = struct.unpack_from("<I4s", data, at)
        parts.append((kind.decode("latin-1"), data[at + 8:at + 8 + size]))
        at += 8 + size
    return parts


def _close_glb(parts: list[tuple[str, bytes]]) -> bytes:
    chunks = b"".join(struct.pack("<I", len(data)) + name.encode("latin-1")[:4].ljust(4) + data for name, data in parts)
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _open_safetensors(data: bytes) -> list[tuple[str, bytes]]:
    length = int.from_bytes(data[:8], "little")
    return [("header", data[8:8 + length]), ("numbers", data[8 + length:])] if data[8:9] == b"{" else []


def _close_safetensors(parts: list[tuple[str, bytes]]) -> bytes:
    header = parts[0][1] if parts else b""
    return len(header).to_bytes(8, "little") + header + b"".join(data for _, data in parts[1:])


PNG = b"\x89PNG\r\n\x1a\n"


def _open_png(data: bytes) -> list[tuple[str, bytes]]:
    parts, at = [], len(PNG)
    while data.startswith(PNG) and at + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        parts.append((kind.decode("latin-1"), data[at + 8:at + 8 + size]))
        at += 12 + size
    return [(kind, zlib.decompress(body)) if kind == "IDAT" else (kind, body) for kind, body in parts]


def _close_png(parts: list[tuple[str, bytes]]) -> bytes:
    whole = PNG
    for name, body in parts:
        kind, body = name.encode("latin-1", "replace")[:4].ljust(4), zlib.compress(body) if name == "IDAT" else body
        whole += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return whole


Parts = list[tuple[str, bytes]]
CONTAINERS: tuple[tuple[Callable[[bytes], Parts], Callable[[Parts], bytes]], ...] = (
    (_open_zip, _close_zip), (_open_gzip, _close_gzip), (_open_tar, _close_tar), (_open_glb, _close_glb),
    (_open_safetensors, _close_safetensors), (_open_png, _close_png))
