"""Materials of glTF: base colour, its texture and where it lies, opacity. Colours are linear in the file, sRGB in a
`Part`; trimesh writes the sRGB values that it has into linear fields, and its own files are read as they were meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..files import one_line
from .mesh_parts import Files, MissingFile, Part, scaled_texture
from .pictures import to_srgb

TRANSFORM, GLOSS = "KHR_texture_transform", "KHR_materials_pbrSpecularGlossiness"
WEBP, AVIF, KTX, DDS = "EXT_texture_webp", "EXT_texture_avif", "KHR_texture_basisu", "MSFT_texture_dds"
CLAMP, MIRROR, NEAREST = 33071, 33648, 9728
SMALL = 128  # texels a side up to which textures that are not to be smoothed are enlarged, so that they stay sharp
DARK, BRIGHT = 16, 64  # 0..255: a metal's diffuse colour is below, its specular colour above


@dataclass
class Material:
    """factor (4,) linear; texture (H, W, 3 or 4) uint8 sRGB; coordinates: of set `uv_set` times `matrix` (2, 3)."""

    factor: np.ndarray | None = None
    texture: np.ndarray | None = None
    uv_set: int = 0
    matrix: np.ndarray | None = None
    clamp: tuple[bool, bool] = (False, False)
    cutoff: float | None = None
    opaque: bool = True


class Materials:
    """The materials of a file, decoded when they are asked for."""

    def __init__(self, record: dict, files: Files, view_bytes: Callable[[int], bytes],
                 uri_bytes: Callable[[str, str], bytes | None]):
        self.record, self.files, self.view_bytes, self.uri_bytes = record, files, view_bytes, uri_bytes
        self.linear = "trimesh" not in str(record["asset"].get("generator", ""))
        self.made: dict[int, Material] = {}

    def paint(self, part: Part, number: int | None, color: np.ndarray | None,
              get_uv: Callable[[int], np.ndarray | None]) -> None:
        """Give a part its colours. color (N, 3 or 4): of its vertices, as in the file; get_uv: a set (N, 2)."""
        material = self.material(number) if number is not None else Material()
        uv = get_uv(material.uv_set)
        if uv is not None:
            u, v = np.asarray(uv, np.float64).T[:2]
            if material.matrix is not None:
                u, v = material.matrix @ np.stack([u, v, np.ones_like(u)])
            part.uv = np.stack([u, 1 - v], 1)
        channels = 3 if material.opaque else 4
        if color is not None:
            part.colors = color[:, :channels].copy()
            if self.linear:
                part.colors[:, :3] = to_srgb(part.colors[:, :3])
        factor, texture = material.factor, material.texture
        if texture is not None and part.uv is not None and not np.isfinite(part.uv).all():
            self.files.notes.add("has texture coordinates that are not numbers: drawn with the texture's first texel")
            part.uv = np.nan_to_num(part.uv, nan=0, posinf=0, neginf=0)
        if texture is not None and part.uv is None:
            self.files.notes.add(f"has a texture but no texture coordinates (TEXCOORD_{material.uv_set}): drawn plain")
            texture = None
        if texture is not None:
            part.texture, part.clamp = texture, material.clamp
        elif factor is not None:
            plain = factor[:channels].astype(np.float32)
            plain[:3] = to_srgb(plain[:3]) if self.linear else plain[:3]
            if part.colors is None:
                part.colors = np.ones((len(part.vertices), channels), np.float32)
            if part.colors.shape[1] < channels:
                part.colors = np.pad(part.colors, ((0, 0), (0, 1)), constant_values=1)
            part.colors = part.colors * plain[:part.colors.shape[1]]
        elif part.colors is None:
            self.files.notes.add("has no colours and is drawn in plain grey" if number is None else
                                 "has a material without colour: drawn in plain grey")
        if part.see_through:
            part.cutoff = material.cutoff

    def material(self, number: int) -> Material:
        if number not in self.made:
            self.made[number] = self._read(self.record["materials"][number], number)
        return self.made[number]

    def _read(self, told: dict, number: int) -> Material:
        """Raises InputError where its texture cannot be had."""
        where = f"the texture of material {told.get('name', number)!r}"
        mode = told.get("alphaMode", "OPAQUE")
        material = Material(opaque=mode == "OPAQUE", cutoff=told.get("alphaCutoff", 0.5) if mode == "MASK" else None)
        pbr, extensions = told.get("pbrMetallicRoughness"), told.get("extensions", {})
        specular = None
        if GLOSS in extensions:
            gloss = extensions[GLOSS]
            factor, reference = gloss.get("diffuseFactor", [1, 1, 1, 1]), gloss.get("diffuseTexture")
            specular = gloss.get("specularGlossinessTexture")
            if reference is None and max(factor[:3]) < 0.04:  # a metal
                factor = [*gloss.get("specularFactor", [1, 1, 1]), *factor[3:]]
        else:
            pbr = pbr or {}
            reference = pbr.get("baseColorTexture")
            factor = pbr.get("baseColorFactor", [1, 1, 1, 1] if reference is not None else None)
        self._say(told, extensions)
        if factor is not None:
            material.factor = np.clip(np.array(factor, np.float64), 0, 1)
        if reference is None:
            return material
        self._place(material, reference)
        texture = self._texture(reference["index"], where, not material.opaque)
        if texture is None:
            return material
        if specular is not None:
            shine = self._texture(specular["index"], where, False)
            if shine is not None and shine.shape[:2] == texture.shape[:2]:
                metal = (texture[..., :3].max(-1) < DARK) & (shine.max(-1) > BRIGHT)
                texture = texture.copy()
                texture[metal, :3] = shine[metal]
        texture = scaled_texture(texture, material.factor[:texture.shape[-1]], self.linear)
        if not material.opaque and texture.shape[-1] == 3 and material.factor[3] < 1:
            alpha = np.full((*texture.shape[:2], 1), round(255 * material.factor[3]), np.uint8)
            texture = np.concatenate([texture, alpha], -1)
        if texture.shape[-1] == 4 and (texture[..., 3] == 255).all():
            texture = np.ascontiguousarray(texture[..., :3])
        material.texture = self._sampled(material, texture, reference["index"])
        return material

    def _say(self, told: dict, extensions: dict) -> None:
        if max(told.get("emissiveFactor", [0])) > 0:
            self.files.notes.add("has a material that gives off light (emissiveFactor), which is not drawn")
        for name, factor in (("KHR_materials_transmission", "transmissionFactor"),
                             ("KHR_materials_diffuse_transmission", "diffuseTransmissionFactor")):
            if extensions.get(name, {}).get(factor, 0) > 0:
                self.files.notes.add(f"has a material that lets light through ({name}): drawn opaque")

    def _place(self, material: Material, reference: dict) -> None:
        """Which set of coordinates, and where it is moved to."""
        transform = reference.get("extensions", {}).get(TRANSFORM)
        material.uv_set = reference.get("texCoord", 0)
        if transform is None:
            return
        material.uv_set = transform.get("texCoord", material.uv_set)
        angle = transform.get("rotation", 0)
        (x, y), (right, down), c, s = (transform.get("scale", (1, 1)), transform.get("offset", (0, 0)), np.cos(angle),
                                       np.sin(angle))
        material.matrix = np.array([[c * x, s * y, right], [-s * x, c * y, down]])

    def _texture(self, number: int, where: str, alpha: bool) -> np.ndarray | None:
        """(H, W, 3 or 4) uint8. Raises InputError, MissingFile."""
        try:
            told = self.record["textures"][number]
            extensions = told.get("extensions", {})
            sources = [told.get("source"), *(extensions.get(name, {}).get("source") for name in (WEBP, AVIF))]
            source = next((source for source in sources if source is not None), None)
            if source is None and (name := next((name for name in (KTX, DDS) if name in extensions), None)):
                raise InputError(f"{where} is compressed ({name}), which cannot be read; export it as PNG or JPEG")
            image = self.record["images"][source]
            data = self.view_bytes(image["bufferView"]) if "bufferView" in image else self.uri_bytes(image["uri"],
                                                                                                    "texture")
        except MissingFile:
            raise MissingFile(f"{where} is missing ({one_line(image['uri'])})") from None
        except (LookupError, TypeError):
            raise InputError(f"{where} is not in the file") from None
        try:
            return None if data is None else self.files.decode(data, alpha)
        except Exception as error:  # decoders raise many kinds
            raise InputError(f"{where} cannot be read ({one_line(error)})") from None

    def _sampled(self, material: Material, texture: np.ndarray, number: int) -> np.ndarray:
        """The texture as its sampler wants it: mirrored where it repeats mirrored, sharp where it is not smoothed."""
        told = self.record["textures"][number]
        sampler = self.record["samplers"][told["sampler"]] if "sampler" in told else {}
        wraps = sampler.get("wrapS"), sampler.get("wrapT")
        material.clamp = wraps[0] == CLAMP, wraps[1] == CLAMP
        if sampler.get("magFilter") == NEAREST and max(texture.shape[:2]) <= SMALL:
            texture = texture.repeat(8, 0).repeat(8, 1)
        shrink = [0.5 if wrap == MIRROR else 1.0 for wrap in wraps]
        if shrink != [1, 1]:
            matrix = np.eye(2, 3) if material.matrix is None else material.matrix
            material.matrix = matrix * np.array(shrink)[:, None]
            for axis, wrap in ((1, wraps[0]), (0, wraps[1])):
                texture = np.concatenate([texture, np.flip(texture, axis)], axis) if wrap == MIRROR else texture
        return texture
