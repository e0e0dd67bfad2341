"""Reading PLY files: text or binary, with colours of vertices or faces, with textures of vertices or corners."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import one_line
from .mesh_parts import Files, Part, as_unit
from .polygons import of_strip, triangulate

TYPES = {"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
         "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
         "double": "f8", "float64": "f8"}
COLORS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
COORDINATES = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"), ("texture_s", "texture_t"), ("tu", "tv"))


class _Lists:
    """A list a row: `values` one after the other, `counts` (N,) of them."""

    def __init__(self, counts: np.ndarray, values: np.ndarray):
        self.counts, self.values, self.first = counts, values, np.cumsum(counts) - counts


def read_ply(path: Path, files: Files, textured: bool) -> list[Part]:
    """The parts of a file. Raises InputError and, for broken files, other exceptions."""
    data = path.read_bytes()
    elements, comments, order, start = _header(data)
    table = _text(data[start:], elements) if order is None else _binary(data[start:], elements, order)
    vertex, face = table.get("vertex", {}), table.get("face", table.get("faces", {}))
    points = np.stack([np.asarray(vertex[axis], np.float64) for axis in "xyz"], 1)
    loops = next((face[name] for name in ("vertex_indices", "vertex_index") if name in face), None)
    if loops is None:
        loops = next((values for values in face.values() if isinstance(values, _Lists)
                      and values.values.dtype.kind in "iu"), None)
    strips = next((values for values in table.get("tristrips", {}).values() if isinstance(values, _Lists)), None)
    if loops is None and strips is None:
        if "f_dc_0" in vertex:
            raise InputError("holds Gaussians, no triangles: it is a splat file, not a mesh")
        return []
    if loops is None:
        faces = _strips(strips.values)
        face, owner, corner = {}, np.arange(len(faces)), None
    else:
        faces, owner, corner = _polygons(loops, points)
    if len(faces) and (faces.min() < 0 or faces.max() >= len(points)):
        raise InputError("triangles that refer to vertices which are not there")
    if not textured:
        uv = _columns(vertex, COORDINATES)
        return [Part(points, faces, None if uv is None else uv.astype(np.float64))]
    names = [match[1].strip() for comment in comments
             if (match := re.match(r"(?:texturefile|texture)[ :]+(.+)", comment, re.IGNORECASE))]
    return _painted(points, faces, owner, corner, vertex, face, names, files)


def _painted(points, faces, owner, corner, vertex, face, names, files) -> list[Part]:
    """A part for each texture, or one without."""
    color, per_face = _columns(vertex, COLORS), _columns(face, COLORS)
    uv = _columns(vertex, COORDINATES)
    uv = None if uv is None else uv.astype(np.float64)
    wedges = next((face[name] for name in ("texcoord", "texcoords") if name in face), None)
    corner_uv = None if uv is None else uv[faces]
    if isinstance(wedges, _Lists) and corner is not None and len(wedges.values):
        place = wedges.first[owner][:, None] + 2 * corner
        has = wedges.counts[owner] >= 2 * (corner.max(1) + 1)
        corner_uv = np.full((len(faces), 3, 2), np.nan)
        corner_uv[has] = np.stack([wedges.values[place[has]], wedges.values[place[has] + 1]], -1)
    if names and corner_uv is None:
        files.notes.add(f"names a texture ({one_line(names[0], 40)}) but has no texture coordinates: drawn without it")
        names = []
    if not names and color is None and per_face is None:
        files.notes.add("has no colours and is drawn in plain grey" if corner_uv is None else
                        "has texture coordinates but names no texture: drawn in plain grey (--texture gives it one)")
    if not names and per_face is None:
        return [Part(points, faces, uv, colors=color)]
    corners = points[faces]
    tint = None if color is None else color[faces]
    if tint is None and per_face is not None:
        tint = np.repeat(per_face[owner][:, None], 3, 1)
    which = np.zeros(len(faces), np.int64)
    if len(names) > 1:
        number, of_vertex = face.get("texnumber"), vertex.get("texnumber", vertex.get("tex_index"))
        which = (number.astype(np.int64)[owner] if number is not None else which if of_vertex is None else
                 of_vertex.astype(np.int64)[faces[:, 0]])
    usable = np.isfinite(corner_uv).all((1, 2)) if names else np.zeros(len(faces), bool)
    which = np.where(usable & (which >= 0) & (which < len(names)), which, -1)
    if names and (which < 0).any():
        files.notes.add(f"has {(which < 0).sum()} triangles without a texture: drawn without it")
    parts = []
    for number in np.unique(which):
        mine = which == number
        part = Part(corners[mine].reshape(-1, 3), np.arange(3 * mine.sum()).reshape(-1, 3))
        part.colors = None if tint is None else tint[mine].reshape(-1, tint.shape[-1])
        if corner_uv is not None:
            part.uv = corner_uv[mine].reshape(-1, 2)
        if number >= 0:
            part.texture = files.texture(names[number])
        parts.append(part)
    return parts


def _columns(element: dict, choices: tuple) -> np.ndarray | None:
    """(N, 2) coordinates or (N, 3) colours in [0, 1] under the first of the names that are there."""
    names = next((names for names in choices if all(isinstance(element.get(name), np.ndarray) for name in names)), None)
    if names is None:
        return None
    values = np.stack([element[name] for name in names], 1)
    return as_unit(values) if len(names) == 3 else values


def _polygons(loops: _Lists, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Triangles (F, 3) in the order of the file, the polygon (F,) of each, and its corners there (F, 3)."""
    if len(loops.values) and (loops.values.min() < 0 or loops.values.max() >= len(points)):
        raise InputError("triangles that refer to vertices which are not there")
    faces, owner, corner = [np.empty((0, 3), np.int64)], [np.empty(0, np.int64)], [np.empty((0, 3), np.int64)]
    for n in np.unique(loops.counts[loops.counts >= 3]):
        mine = np.nonzero(loops.counts == n)[0]
        rows = loops.values[loops.first[mine, None] + np.arange(n)].astype(np.int64)
        local = triangulate(points[rows]) if n > 3 else np.tile(np.arange(3), (len(mine), 1, 1))
        faces.append(np.take_along_axis(rows[:, None], local, 2).reshape(-1, 3))
        owner.append(np.repeat(mine, n - 2))
        corner.append(local.reshape(-1, 3))
    order = np.argsort(np.concatenate(owner), kind="stable")
    return tuple(np.concatenate(some)[order] for some in (faces, owner, corner))


def _strips(values: np.ndarray) -> np.ndarray:
    """(F, 3) of strips that -1 ends."""
    strips = np.split(values.astype(np.int64), np.nonzero(values < 0)[0])
    return np.concatenate([of_strip(strip[strip >= 0]) for strip in strips])


# ---- the file's numbers ---------------------------------------------------------------------------------------------


def _header(data: bytes) -> tuple[dict, list[str], str | None, int]:
    """Elements {name: (count, [(property, type, type of its count or None)])}, comments, byte order (None: text), and
    where the numbers start."""
    match = re.match(rb"ply[ \t]*\r?\n(.*?)(?:^|(?<=\n))end_header[ \t]*\r?\n", data, re.DOTALL)
    if match is None:
        match = re.match(rb"ply[ \t]*\r(.*?)(?<=\r)end_header[ \t]*\r", data, re.DOTALL)
    if match is None:
        raise InputError("cannot be read as a mesh (no PLY header)")
    elements, comments, order, properties = {}, [], "", None
    for line in re.split(r"\r\n|\n|\r", match[1].decode("utf-8", "replace")):
        words = line.split()
        if not words:
            continue
        if words[0] == "format":
            order = {"ascii": None, "binary_little_endian": "<", "binary_big_endian": ">"}[words[1]]
        elif words[0] in ("comment", "obj_info"):
            comments.append(line.split(None, 1)[1] if len(words) > 1 else "")
        elif words[0] == "element":
            properties = []
            elements[words[1]] = int(words[2]), properties
        elif words[0] == "property" and words[1] == "list":
            properties.append((words[4], TYPES[words[3]], TYPES[words[2]]))
        elif words[0] == "property":
            properties.append((words[2], TYPES[words[1]], None))
    if order == "":
        raise InputError("its PLY header names no format")
    return elements, comments, order, match.end()


def _binary(data: bytes, elements: dict, order: str) -> dict:
    table, at = {}, 0
    for name, (count, properties) in elements.items():
        table[name], at = _element(data, at, count, properties, order)
    return table


def _element(data: bytes, at: int, count: int, properties: list, order: str) -> tuple[dict, int]:
    """Columns of one element, and where the next one starts. Lists of one length are read at once."""
    lengths = {name: 0 for name, _, of_count in properties if of_count is not None}
    if count and lengths:
        lengths = _row(data, at, properties, order)[1]  # those of the first
    fields = []
    for name, kind, of_count in properties:
        fields += [(name + " count", order + of_count)] if of_count is not None else []
        fields.append((name, order + kind, (lengths[name],)) if of_count is not None else (name, order + kind))
    dtype = np.dtype(fields)
    size = dtype.itemsize * count
    if at + size <= len(data):
        rows = np.frombuffer(data, dtype, count, at)
        if all((rows[name + " count"] == length).all() for name, length in lengths.items()):
            return {name: rows[name].astype(kind) if of_count is None else
                    _Lists(np.full(count, lengths[name]), rows[name].reshape(-1).astype(kind))
                    for name, kind, of_count in properties}, at + size
    elif not lengths:
        raise InputError("the file is cut off")
    columns: dict[str, list] = {name: [] for name, _, _ in properties}
    for _ in range(count):
        row, _, at = _row(data, at, properties, order)
        for name, values in row.items():
            columns[name].append(values)
    return {name: _lists(columns[name], kind) if of_count is not None else np.array(columns[name], kind).reshape(-1)
            for name, kind, of_count in properties}, at


def _row(data: bytes, at: int, properties: list, order: str) -> tuple[dict, dict[str, int], int]:
    values, lengths = {}, {}
    for name, kind, of_count in properties:
        n = 1
        if of_count is not None:
            n = lengths[name] = int(np.frombuffer(data, order + of_count, 1, at)[0])
            at += np.dtype(of_count).itemsize
        if n < 0 or at + n * np.dtype(kind).itemsize > len(data):
            raise InputError("the file is cut off")
        values[name] = np.frombuffer(data, order + kind, n, at)
        at += n * np.dtype(kind).itemsize
    return values, lengths, at


def _text(data: bytes, elements: dict) -> dict:
    lines = data.decode("ascii", "replace").split("\n")
    lines = [line for line in lines if line.strip()]
    table, first = {}, 0
    for name, (count, properties) in elements.items():
        rows = lines[first:first + count]
        first += count
        if len(rows) < count:
            raise InputError("the file is cut off")
        table[name] = _text_element(rows, properties)
    return table


def _text_element(rows: list[str], properties: list) -> dict:
    widths = np.array([len(row.split()) for row in rows], np.int64)
    if not len(rows) or (widths == widths[0]).all():
        flat = np.array(" ".join(rows).split(), np.float64).reshape(len(rows), -1)
        at, result = 0, {}
        for name, kind, of_count in properties:
            if of_count is None:
                result[name] = flat[:, at].astype(kind) if len(rows) else np.empty(0, kind)
                at += 1
                continue
            n = int(flat[0, at]) if len(rows) else 0
            if len(rows) and (flat[:, at] != n).any():
                break
            result[name] = _Lists(np.full(len(rows), n), flat[:, at + 1:at + 1 + n].reshape(-1).astype(kind))
            at += 1 + n
        else:
            return result
    columns: dict[str, list] = {name: [] for name, _, _ in properties}
    for row in rows:
        words, at = row.split(), 0
        for name, _kind, of_count in properties:
            n = 1 if of_count is None else int(words[at])
            at += of_count is not None
            columns[name].append([float(word) for word in words[at:at + n]])
            if len(columns[name][-1]) < n:
                raise InputError("the file is cut off")
            at += n
    return {name: _lists(columns[name], kind) if of_count is not None else np.array(columns[name], kind).reshape(-1)
            for name, kind, of_count in properties}


def _lists(rows: list, kind: str) -> _Lists:
    return _Lists(np.array([len(row) for row in rows], np.int64),
                  np.concatenate([np.asarray(row, kind) for row in rows] or [np.empty(0, kind)]))
