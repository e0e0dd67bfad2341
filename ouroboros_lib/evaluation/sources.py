"""What methods are compared on: procedural objects made on the fly, or rendered objects in a folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..cameras import field_of_view
from ..data.batches import held_out_objects
from ..data.folders import MultiviewObject, find_objects, read_object
from ..data.layouts import find_meshes
from ..data.meshes import load_mesh
from ..data.procedural import sample_objects
from ..errors import InputError
from .geometry import HOW_MEASURED, Surface, mesh_surface, procedural_surface, surrounding_cameras
from .protocols import Protocol, load_protocol
from .rows import Quantities, orbit_quantities, protocol_quantities

if TYPE_CHECKING:
    from .methods import Method


class Source(ABC):
    """Objects with pictures from known cameras. What `prepare` finds out stands in the attributes."""

    label: str  # of the rows' column protocol
    names: list  # of the objects
    skipped: dict[str, str]  # objects that are not there, with the reason
    primary_views: tuple[int, ...]  # those that count
    input_view: int  # the one that a model sees
    quantities: Quantities  # what a summary says
    metrics: tuple[str, ...] = ()  # those that the protocol asks for
    protocol: Protocol | None = None  # what a folder was rendered for
    batch: int = 1  # objects that may be loaded together

    @abstractmethod
    def prepare(self, method: Method) -> None:
        """Find out what there is for a method. Raises InputError when it cannot be measured here."""

    @abstractmethod
    def load(self, names: list) -> list[MultiviewObject]:
        """Some of the objects, at most `batch`; their pictures and cameras are on the CPU. Raises InputError."""

    @abstractmethod
    def surface(self, truth: MultiviewObject) -> Surface | None:
        """The true surface of an object, where shapes are measured. Raises InputError."""

    @abstractmethod
    def settings(self) -> dict:
        """All that the figures depend on, for the record."""

    def files(self, name) -> list[Path]:
        """What an object is made of: it is measured again when they change."""
        return []


class Procedural(Source):
    """Objects number 0 ... `objects` - 1 of a split, at a model's size and rig, with four novel views.

    geometry: of so many of them, the first ones, the shape is measured as well.
    """

    input_view = 0

    def __init__(self, split: str = "test", objects: int = 128, batch: int = 16, geometry: int = 0):
        self.split, self.names, self.batch, self.geometry = split, list(range(objects)), batch, geometry
        self.label, self.skipped = f"procedural-{split}-{objects}", {}

    def prepare(self, method: Method) -> None:
        pipe = getattr(method, "pipeline", None)
        if pipe is None:
            raise InputError(f"method={method.name}: is measured on a folder of rendered objects; give data")
        self.image_size, self.num_views, self.device = pipe.image_size, pipe.num_views, pipe.device
        self.primary_views = tuple(range(1, self.num_views))
        self.quantities = {"PSNR": ("autoencoder", lambda v: True)} | orbit_quantities(self.num_views)

    def load(self, names: list[int]) -> list[MultiviewObject]:
        first, last = min(names), max(names)  # after an interruption, what lies between is made once more
        made = held_out_objects(self.split, last - first + 1, self.image_size, self.num_views, device=self.device,
                                start=first)
        return [MultiviewObject(name, made.rgba[name - first].cpu(), made.cameras[name - first].to("cpu"),
                                self.num_views) for name in names]

    def surface(self, truth: MultiviewObject) -> Surface | None:
        if truth.name >= self.geometry:
            return None
        return procedural_surface(sample_objects(self.split, [truth.name]).to(self.device))

    def settings(self) -> dict:
        return {"split": self.split, "objects": len(self.names), "num_views": self.num_views}


class Folder(Source):
    """Rendered objects below a folder, as `ouroboros data render --protocol` makes them.

    protocol: what they must have been rendered for; by default what they say themselves. all_objects: whatever is
    there, in place of the protocol's list; the label then ends in -all. meshes: true meshes, to measure shapes. batch:
    objects that may be loaded together.
    """

    def __init__(self, data: str | Path, protocol: Protocol | None = None, all_objects: bool = False,
                 meshes: Iterable[str | Path] | None = None, batch: int = 1):
        self.batch, self.data, self.wanted, self.all_objects = batch, Path(data), protocol, all_objects
        self.meshes = find_meshes(map(Path, meshes)) if meshes else {}
        self.shapes = bool(meshes)

    def prepare(self, method: Method) -> None:
        found = find_objects(self.data)
        self.protocol, self.rendered_for, self.size = self._agree(found, method)
        self.primary_views, self.input_view = self.protocol.primary_views, self.protocol.input_view
        self.metrics = self.protocol.metrics
        self.quantities = protocol_quantities(self.primary_views, self.input_view,
                                              len(self.protocol.azimuths) or max(self.primary_views) + 1)
        self.label = self.rendered_for or f"folder-{self.size}"
        self.names, self.skipped = found, {}
        if self.protocol.objects is None:
            return
        if self.all_objects:
            self.label += "-all"
            return
        self.names = [name for name in self.protocol.objects if name in found]
        self.skipped = {name: f"{name}: not in {self.data}" for name in self.protocol.objects if name not in found}
        if not self.names:
            raise InputError(f"{self.data}: holds none of the {len(self.skipped)} objects of protocol "
                             f"{self.protocol.name} ({', '.join(self.protocol.objects[:3])}, ...); --all-objects "
                             "measures what is there")

    def _agree(self, names: list[str], method: Method) -> tuple[Protocol, str | None, int]:
        """The protocol that the data was rendered for, its label and size. Raises InputError if another was wanted."""
        first = self._first_readable(names)
        label, size = _label(first), first.rgba.shape[-1]
        if label is None:
            if self.wanted is not None:
                raise InputError(f"{self.data}: does not say for which protocol it was rendered; render it with "
                                 f"`ouroboros data render --protocol {self.wanted.name}`, or leave --protocol out to "
                                 "take its cameras as they are")
            return _protocol_of(first), None, size
        base = self.wanted or load_protocol(label.rsplit("-v", 1)[0].split("@")[0])
        candidates = [base, *method.own_protocols(base)]
        for candidate in candidates:
            if size in candidate.sizes and candidate.label(size) == label:
                return candidate, label, size
        expected = " or ".join(candidate.label(candidate.sizes[0]) for candidate in candidates)
        raise InputError(f"{self.data}: was rendered for {label}, not for {expected}; choose --protocol and "
                         "--convention accordingly, or render it again")

    def _first_readable(self, names: list[str]) -> MultiviewObject:
        reason = ""
        for name in names:
            try:
                return read_object(self.data / name, depth=False)
            except InputError as error:
                reason = reason or str(error)
        raise InputError(f"{self.data}: no object in it can be read; the first: {reason}")

    def load(self, names: list[str]) -> list[MultiviewObject]:
        objects = [read_object(self.data / name, depth=False, name=name) for name in names]
        for truth in objects:
            if truth.rgba.shape[-1] != self.size or _label(truth) != self.rendered_for:
                raise InputError(f"{self.data / truth.name}: was rendered for {_label(truth) or 'no protocol'} at "
                                 f"{truth.rgba.shape[-1]} pixels, not for {self.label}")
        rigs = {(round(float(truth.cameras.positions[0].norm()), 2), round(float(truth.cameras.intrinsics[0, 0, 0]), 2))
                for truth in objects}
        if len(rigs) > 1:  # each can be measured alone
            raise InputError(f"{self.data}: objects of several rigs")
        return objects

    def surface(self, truth: MultiviewObject) -> Surface | None:
        if not self.shapes:
            return None
        if truth.name not in self.meshes:
            raise InputError(f"{truth.name}: no true mesh of this name among those of --meshes")
        render, source = truth.info.get("render", {}), truth.info.get("source", {})
        texture = render.get("texture")  # where it lay then; only the shape matters here
        mesh = load_mesh(self.meshes[truth.name], render.get("up", "auto"),
                         texture if texture and Path(texture).is_file() else None,
                         source.get("yaw", render.get("yaw", 0.0)))
        if not np.allclose(mesh.to_world, source.get("to_world", np.nan), atol=1e-6):
            raise InputError(f"{mesh.path}: is not the mesh that {truth.name} was rendered from, or placed otherwise")
        return mesh_surface(mesh, surrounding_cameras())

    def files(self, name: str) -> list[Path]:
        return [self.data / name, *([self.meshes[name]] if name in self.meshes else ())]

    def settings(self) -> dict:
        return {"protocol": self.label, "geometry": HOW_MEASURED if self.shapes else None}


def _protocol_of(first: MultiviewObject) -> Protocol:
    """The cameras of a folder that states no protocol, view 0 being the input."""
    radius, fov = float(first.cameras.positions[0].norm()), float(field_of_view(first.cameras)[0])
    return Protocol("folder", 1, "the cameras of the folder, view 0 the input", (), None, radius, fov, (),
                    (first.rgba.shape[-1],), 0, tuple(range(1, first.num_orbit_views)) or (0,), "white", None,
                    ("psnr", "ssim", "lpips"), "", ("whatever the folder does not say",))


def _label(truth: MultiviewObject) -> str | None:
    render = truth.info.get("render")
    label = render.get("protocol") if isinstance(render, dict) else None
    return label if isinstance(label, str) and "-v" in label else None
