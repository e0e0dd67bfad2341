"""Reading OBJ and MTL files, as MeshLab, Blender, scanners and data sets write them.

A texture stands in place of Kd (exporters leave 0.8 there), vertex colours too; with both, the colours multiply the
texture. What a file says about colour and is not drawn becomes a note.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import one_line
from .mesh_parts import PLAIN, Files, Part, as_unit
from .pictures import LFS, POINTER
from .polygons import triangulate

GREY = (PLAIN / 255,) * 3
_OPTIONS = {"-s": 3, "-o": 3, "-t": 3, "-mm": 2, "-bm": 1, "-boost": 1, "-texres": 1, "-blendu": 1, "-blendv": 1,
            "-cc": 1, "-clamp": 1, "-imfchan": 1, "-type": 1}  # of textures, and the most values that each takes


@dataclass(frozen=True)
class Map:
    """A texture of an MTL file; its coordinates are scaled, then moved; its values are base + gain * value."""

    name: str
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    base: float = 0.0
    gain: float = 1.0
    clamp: bool = False


@dataclass(frozen=True)
class Material:
    kd: tuple[float, ...] | None = None
    map_kd: Map | None = None
    map_d: Map | None = None
    ambient: bool = False  # whether it has an ambient texture


def read_obj(path: Path, files: Files, textured: bool) -> list[Part]:
    """The parts of an OBJ file, one a material and way of drawing. textured: whether materials are wanted.

    Raises InputError and, for broken files, other exceptions.
    """
    lines = _lines(path.read_bytes())
    rows: dict[str, list[str]] = {"v": [], "vt": [], "f": []}
    vertices, coordinates, faces = rows.values()
    counts, uses, libraries, free = [], [], [], False
    for line in lines:
        key, _, rest = line.partition(" ")
        if "#" in rest and key in ("f", "fo", *rows):  # names may hold one
            rest = rest.partition(" #")[0]
        if key == "f" or key == "fo":
            faces.append(rest)
            counts.append((len(vertices), len(coordinates)))
        elif key in rows:
            rows[key].append(rest)
        elif key == "usemtl":
            uses.append((len(faces), rest.strip()))
        elif key == "mtllib":
            libraries.append(rest.strip())
        elif key in ("surf", "curv"):
            free = True
    if free:
        files.notes.add("has curves or free-form surfaces, which are not drawn")
    xyz = _table(vertices, 3)
    uv = _table(coordinates, 1)
    uv = uv[:, :2] if uv.shape[1] > 1 else np.pad(uv, ((0, 0), (0, 1)))
    uv[np.isnan(uv[:, 1]) & ~np.isnan(uv[:, 0])] *= np.nan
    corners, owner = _faces(faces, np.array(counts).reshape(-1, 2), xyz[:, :3])
    if (corners[..., 1] >= len(uv)).any():
        raise InputError("triangles that refer to vertices which are not there")
    colors = _vertex_colors(xyz, files.notes)
    materials, names = {}, [name for _, name in uses]
    if textured:
        materials = _materials(libraries, files)
        if not uses and len(materials) == 1:  # as MeshLab does
            uses, names = [(0, next(iter(materials)))], list(materials)
    which = np.searchsorted([first for first, _ in uses], owner, "right") - 1
    ids = {name: number for number, name in enumerate(dict.fromkeys(names))}
    which = np.where(which < 0, -1, np.array([ids[name] for name in names] or [0])[which])
    parts = []
    for name, number in {None: -1, **ids}.items():
        mine = corners[which == number]
        if len(mine):
            parts += _parts(mine, xyz[:, :3], uv, colors, _material(name, materials, files, textured), files, textured)
    return parts


def _lines(data: bytes) -> list[str]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
    return [line.strip() for line in text.replace("\\\n", " ").split("\n")]


def _numbers(text: str) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # for what is no number: the caller counts
        return np.fromstring(text, np.float64, sep=" ")


def _table(rows: list[str], least: int) -> np.ndarray:
    """Rows of numbers as (N, W) float64; shorter rows end in nan. Raises InputError."""
    if not rows:
        return np.empty((0, least))
    widths = np.array([len(row.split()) for row in rows])
    if widths.min() < least:
        raise InputError(f"the line {rows[widths.argmin()]!r} has fewer than {least} numbers")
    try:
        flat = _numbers(" ".join(rows))
    except ValueError:
        flat = np.empty(0)
    if flat.size != widths.sum():
        flat = np.array([_number(text) for row in rows for text in row.split()])
    table = np.full((len(rows), widths.max()), np.nan)
    table[np.arange(widths.max()) < widths[:, None]] = flat
    return table


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        if "nan" in text.lower() or "#" in text or "inf" in text.lower():  # -nan(ind), 1.#QNAN
            return np.nan
        raise InputError(f"{one_line(text, 20)!r} is no number") from None


def _faces(rows: list[str], counts: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangles (F, 3, 2) of numbers of vertices and coordinates from 0, -1 for no coordinates, and the line (F,) that
    each comes from. Raises InputError."""
    widths = np.array([len(row.split()) for row in rows], np.int64)
    text = " ".join(rows)
    kinds = set(re.sub(r"[-+]?\d+", "0", text).split())
    if len(kinds) == 1 and (kind := kinds.pop()) in ("0", "0/0", "0//0", "0/0/0"):
        table = _numbers(text.replace("/", " ")).astype(np.int64).reshape(widths.sum(), -1)
        corners = table[:, :2] if kind in ("0/0", "0/0/0") else np.stack([table[:, 0], 0 * table[:, 0]], 1)
    else:
        split = [token.split("/") for token in text.split()]
        try:
            corners = np.array([(int(one[0]), int(one[1]) if len(one) > 1 and one[1] else 0) for one in split],
                               np.int64).reshape(-1, 2)
        except ValueError:
            bad = next(token for token in text.split() if not re.fullmatch(r"[-+]?\d+(/[-+]?\d*){0,2}", token))
            raise InputError(f"{one_line(bad, 20)!r} is no corner of a face") from None
    if (corners[:, 0] == 0).any():
        raise InputError("triangles that refer to vertex 0; the first is 1")
    lines = np.repeat(np.arange(len(rows)), widths)
    corners = np.where(corners < 0, corners + counts[lines] if len(rows) else corners, corners - 1)
    if (corners < -1).any() or (corners[:, 0] < 0).any() or (corners[:, 0] >= len(points)).any():
        raise InputError("triangles that refer to vertices which are not there")
    first = np.cumsum(widths) - widths
    triangles, owner = [np.empty((0, 3, 2), np.int64)], [np.empty(0, np.int64)]
    for n in np.unique(widths[widths >= 3]):
        mine = np.nonzero(widths == n)[0]
        loops = corners[first[mine, None] + np.arange(n)]  # (M, n, 2)
        local = triangulate(points[loops[..., 0]])
        triangles.append(loops[np.arange(len(mine))[:, None, None], local].reshape(-1, 3, 2))
        owner.append(np.repeat(mine, n - 2))
    owner = np.concatenate(owner)
    order = np.argsort(owner, kind="stable")
    return np.concatenate(triangles)[order], owner[order]


def _vertex_colors(xyz: np.ndarray, notes: set[str]) -> np.ndarray | None:
    """(N, 3) float32 of `v x y z r g b`, or None. Four numbers are x, y, z and a weight."""
    if xyz.shape[1] < 6:
        return None
    if np.isnan(xyz[:, 5]).any():
        notes.add("has vertices without a colour among coloured ones: they are drawn white")
    return as_unit(xyz[:, 3:6])


def _parts(corners: np.ndarray, points: np.ndarray, uv: np.ndarray, colors: np.ndarray | None, material: Material,
           files: Files, textured: bool) -> list[Part]:
    """Triangles (F, 3, 2) of one material: those that can be textured, and those that cannot."""
    has = (corners[..., 1] >= 0).all(1)
    number = has.copy()
    number[has] = np.isfinite(uv[corners[has][..., 1]]).all((1, 2))
    texture = None
    if textured and material.map_kd is not None and number.any():
        texture = _texture(material, files)
    parts = []
    for some, usable in ((corners[number], True), (corners[~number], False)):
        if not len(some):
            continue
        if usable:
            pairs, faces = np.unique(some.reshape(-1, 2) @ [len(uv) + 1, 1], return_inverse=True)
            chosen, places = np.divmod(pairs, len(uv) + 1)
            part = Part(points[chosen], faces.reshape(-1, 3), uv[places])
        else:
            chosen, faces = np.unique(some[..., 0], return_inverse=True)
            part = Part(points[chosen], faces.reshape(-1, 3))
            if textured and material.map_kd is not None:
                files.notes.add(f"has {len(some)} triangles without texture coordinates that are numbers: drawn in "
                                "their material's plain colour")
        if colors is not None:
            part.colors = colors[chosen]
        if usable and texture is not None:
            part.texture, part.clamp = texture, (material.map_kd.clamp,) * 2
            part.uv = part.uv * material.map_kd.scale + material.map_kd.offset
            if texture.shape[-1] == 4:
                part.cutoff = 0.5
        elif part.colors is None and material.kd is not None and textured:
            part.colors = np.tile(np.float32(material.kd), (len(chosen), 1))
        elif part.colors is None and textured and material.map_kd is None:
            files.notes.add("has texture coordinates but names no texture: drawn in plain grey (--texture gives it one)"
                            if usable else "has no colours and is drawn in plain grey")
        parts.append(part)
    return parts


def _texture(material: Material, files: Files) -> np.ndarray | None:
    """(H, W, 3) uint8, or (H, W, 4) where a map says what is cut out."""
    told = material.map_kd
    texture = files.texture(told.name)
    if texture is None:
        return None
    if (told.base, told.gain) != (0, 1):
        texture = np.rint((255 * told.base + told.gain * texture.astype(np.float32)).clip(0, 255)).astype(np.uint8)
    if material.map_d is None:
        return texture
    if replace(material.map_d, name="", base=0, gain=1) != replace(told, name="", base=0, gain=1):
        files.notes.add("has a map of opacity (map_d) that lies otherwise than its texture: drawn opaque")
        return texture
    opacity = files.texture(material.map_d.name, alpha=True)
    if opacity is None or opacity.shape[:2] != texture.shape[:2]:
        files.notes.add("has a map of opacity (map_d) of another size than its texture: drawn opaque")
        return texture
    return np.concatenate([texture, opacity[..., -1:]], -1)


def _material(name: str | None, materials: dict[str, Material], files: Files, textured: bool) -> Material:
    if name is None or not textured:
        return Material()
    close = {known.lower(): material for known, material in materials.items()}
    material = materials.get(name, close.get(name.lower(), close.get(name.partition(" #")[0].strip().lower())))
    if material is None:
        if not materials or not name or name.lower() in ("none", "null", "(null)", "default"):
            return Material()
        files.notes.add(f"names a material that its files lack ({one_line(name, 40)}): drawn in plain grey")
        return Material(GREY)
    if material.ambient and material.map_kd is None:
        files.notes.add("has an ambient texture (map_Ka) and no diffuse one (map_Kd): drawn without it")
    if material.kd is None and material.map_kd is None:
        files.notes.add("has a material without colour: drawn in plain grey")
        return replace(material, kd=GREY)
    return material


def _materials(libraries: list[str], files: Files) -> dict[str, Material]:
    """All materials that the `mtllib` lines bring; the first of a name counts."""
    found: dict[str, Material] = {}
    for line in dict.fromkeys(libraries):
        # one name with spaces, or several names
        for name in [line] if files.find(line) or len(line.split()) < 2 else line.split():
            data = files.get(name, "material file")
            if data is not None:
                if data.startswith(LFS):
                    raise InputError(f"its material file {name} is {POINTER}")
                found = {**read_mtl(data, files.notes), **found}
    return found


def read_mtl(data: bytes, notes: set[str]) -> dict[str, Material]:
    """Materials by name."""
    materials: dict[str, Material] = {}
    name = None
    for line in _lines(data):
        key, _, rest = line.partition(" ")
        key, rest = key.lower(), rest.strip()
        if key == "newmtl":
            name = rest
            materials[name] = Material()
        elif name is not None and rest:
            materials[name] = _with(materials[name], key, rest, notes)
    return materials


def _with(material: Material, key: str, rest: str, notes: set[str]) -> Material:
    if key in ("map_kd", "map_d"):
        return replace(material, **{key: _map(rest, notes)})
    words = rest.split()
    if key == "map_ka":
        return replace(material, ambient=True)
    if key == "kd":
        if words[0].lower() in ("spectral", "xyz"):
            notes.add(f"has a material whose colour is given as Kd {words[0]}, which is not drawn")
            return material
        values = [_number(word) for word in words[:3]]
        values = values if len(values) == 3 else values[:1] * 3
        top = 1 if max(values) <= 2 else 255
        return replace(material, kd=tuple(min(max(value / top, 0), 1) if value == value else 1 for value in values))
    if key == "d" and _number(words[-1]) < 1 or key == "tr" and 0 < _number(words[-1]) < 1:
        notes.add(f"has a material that is not opaque ({key.capitalize() if key == 'tr' else 'd'} {words[-1]}): "
                  "drawn opaque")
    elif key == "map_ke" or key == "ke" and max(_number(word) for word in words[:3]) > 0:
        notes.add("has a material that gives off light (Ke), which is not drawn")
    return material


def _map(text: str, notes: set[str]) -> Map:
    """A texture's name, before, after or without options."""
    words, name, values = text.split(), [], {}
    while words:
        word = words.pop(0)
        if word.lower() not in _OPTIONS:
            name.append(word)
            continue
        taken = values.setdefault(word.lower(), [])
        while words and len(taken) < _OPTIONS[word.lower()] and (
                _OPTIONS[word.lower()] == 1 or re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", words[0])):
            taken.append(words.pop(0))
    if any(float(value) for value in values.get("-t", [])):
        notes.add("has a texture with turbulence (-t), which is not drawn")
    scale, offset, (base, gain) = ([*map(float, values.get(option, [])), *default][:2] for option, default in (
        ("-s", (1, 1)), ("-o", (0, 0)), ("-mm", (0, 1))))
    return Map(" ".join(name), tuple(scale), tuple(offset), base, gain,
               [value.lower() for value in values.get("-clamp", [])] == ["on"])
