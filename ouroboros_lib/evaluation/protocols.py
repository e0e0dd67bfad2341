"""Protocols: what is compared with what, as data. One small JSON file each in protocols/, or one of your own.

A protocol states the cameras (azimuths and elevation of an orbit, radius, field of view, novel cameras), the sizes of
the pictures, which view is the input and which count, the background, the objects and the metrics; `source` says where
this comes from and `not_stated` what its authors left open. Two figures belong into one table only if their protocols,
whose labels stand in every row, are the same.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch

from ..cameras import ELEVATION_RANGE, Cameras, orbit_cameras
from ..data.renders import RenderSettings
from ..errors import InputError
from ..files import read_json
from ..values import Between, Natural, check_fields
from .conventions import Convention, leaning

FOLDER = Path(__file__).with_name("protocols")


@dataclass(frozen=True)
class Protocol:
    """Angles in degrees, radius in world units. elevation: None draws one an object, from its name; or one a view.

    novel: (azimuth, elevation) of cameras off the orbit. sizes: pixels a side, the first is the default. objects:
    names, or None for all that a data set holds. leans: the orbit is the level one, and leans back until its azimuth 0
    stands at `elevation`. object_azimuths: by object, counter-clockwise from above in degrees from its mesh's +x axis,
    where the camera of azimuth 0 stands; other meshes are seen as they are placed.
    """

    name: str
    version: Natural
    about: str
    azimuths: tuple[float, ...]
    elevation: float | None | tuple[float, ...]
    radius: Annotated[float, Between(0.6, 100)]
    fov: Annotated[float, Between(0.1, 170)]
    novel: tuple[tuple[float, float], ...]
    sizes: tuple[Annotated[int, Between(16, 4096)], ...]
    input_view: Natural
    primary_views: tuple[Natural, ...]
    background: Literal["white"]  # nothing else is rendered here
    objects: tuple[str, ...] | None
    metrics: tuple[str, ...]
    source: str
    not_stated: tuple[str, ...] = ()
    leans: bool = False
    object_azimuths: dict[str, float] | None = None

    def cameras(self, name: str) -> Cameras:
        """(V + N,) cameras for the object `name`: the orbit, then the novel ones."""
        elevation = self.elevation
        if elevation is None:
            low, high = ELEVATION_RANGE
            draw = torch.rand(1, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
            elevation = float(low + (high - low) * draw)
        elevations = torch.tensor(0.0 if self.leans else elevation).expand(len(self.azimuths)).tolist()
        angles = [*zip(self.azimuths, elevations, strict=True), *self.novel]
        azimuths, elevations = torch.tensor(angles, dtype=torch.float32).T
        cameras = orbit_cameras(azimuths, elevations, radius=self.radius, fov=self.fov)
        return leaning(cameras, elevation) if self.leans else cameras

    def size(self, wanted: int | None = None) -> int:
        """`wanted` if the protocol is defined for it, its first size by default. Raises InputError."""
        if wanted is not None and wanted not in self.sizes:
            raise InputError(f"--size {wanted}: protocol {self.name} is defined for "
                             f"{' and '.join(map(str, self.sizes))} pixels")
        return wanted or self.sizes[0]

    def label(self, size: int) -> str:
        """What stands in the rows: name, version and pixels."""
        return f"{self.name}-v{self.version}-{size}"

    def at(self, convention: Convention) -> Protocol:
        """The same with the cameras of a method that cannot be asked for others: for its own views there must be truth.

        View 0 stays the input; the method's other views follow and are the primary ones. The method is given the whole
        input view, so its cameras stand where the object looks as large as there (see `Convention.view_cameras`).
        """
        if not isinstance(convention.views, dict):
            return self
        if isinstance(self.elevation, tuple) or self.elevation is None and not convention.leans:
            raise InputError(f"protocol {self.name}: cannot be seen from the cameras of {convention.name}, which needs "
                             "one elevation for all objects")
        first = 0.0 if convention.leans else self.elevation
        angles = [(azimuth, elevation) for azimuth, elevation in convention.angles(first)
                  if azimuth % 360 or elevation != first]
        radius, fov = convention.rig(self.radius, self.fov)
        azimuths, elevations = zip((0.0, first), *angles, strict=True)
        name = f"{self.name}@{convention.name.replace(' ', '-')}" + ("-leaning" if convention.leans else "")
        return replace(self, name=name, azimuths=azimuths, elevation=self.elevation if convention.leans else elevations,
                       leans=convention.leans, radius=radius, fov=fov, novel=(), input_view=0,
                       primary_views=tuple(range(1, len(azimuths))), sizes=(convention.size or self.sizes[0],))

    def render_settings(self, size: int | None = None, **options) -> ProtocolSettings:
        """For `render_meshes`; options: those of RenderSettings that are not about cameras."""
        size = self.size(size)
        return ProtocolSettings(size, len(self.azimuths), len(self.novel), None, self.radius, self.fov, **options,
                                label=self.label(size), protocol=self)

    def record(self) -> dict:
        """What its file says, as JSON holds it."""
        return json.loads(json.dumps(asdict(self)))


@dataclass(frozen=True)
class ProtocolSettings(RenderSettings):
    """How meshes are rendered for a protocol; each folder's object.json then names it."""

    label: str = ""
    protocol: Protocol | None = None

    def cameras(self, name: str) -> Cameras:
        return self.protocol.cameras(name)

    def turn(self, name: str) -> float:
        azimuth = (self.protocol.object_azimuths or {}).get(name)
        return self.yaw if azimuth is None else self.yaw - 90 - azimuth  # +x is azimuth 90 of our world

    def record(self) -> dict:
        record, about = super().record(), self.protocol.record()
        record |= {"leans": True} if self.protocol.leans else {}
        return record | {"protocol": record.pop("label"), "azimuths": about["azimuths"],
                         "elevation": about["elevation"], "novel_cameras": about["novel"]}


def protocol_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_protocol(name: str | Path) -> Protocol:
    """A protocol by its name, or from a JSON file. Raises InputError."""
    path = Path(name)
    if path.suffix != ".json":
        path = FOLDER / f"{name}.json"
        if str(name) not in protocol_names():
            raise InputError(f"--protocol {name}: expected one of {', '.join(protocol_names())}, or a .json file")
    record = read_json(path)
    try:
        return _checked(record)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a protocol ({' '.join(str(error).split())})") from None


def _checked(record: dict) -> Protocol:
    if unknown := record.keys() - Protocol.__dataclass_fields__.keys():
        raise ValueError(f"{sorted(unknown)[0]} is not part of a protocol")
    entry = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
    entry |= {key: None for key, free in (("objects", "all"), ("elevation", "random")) if entry[key] == free}
    protocol = Protocol(**entry | {"novel": tuple(map(tuple, entry["novel"]))})
    check_fields(protocol)
    views, elevation = range(len(protocol.azimuths)), protocol.elevation
    for holds, message in (
            (views and protocol.sizes and protocol.primary_views, "it needs azimuths, sizes and primary_views"),
            ({protocol.input_view, *protocol.primary_views} <= set(views),
             f"input_view and primary_views must be among the {len(views)} views of the orbit"),
            (protocol.azimuths[protocol.input_view:][:1] == (0,), "the input view must stand at azimuth 0"),
            (not isinstance(elevation, tuple) or len(elevation) == len(views),
             "one elevation for all views or one a view"),
            (not protocol.leans or not isinstance(elevation, tuple), "an orbit that leans has one elevation")):
        if not holds:
            raise ValueError(message)
    if not protocol.cameras("").c2w.isfinite().all():
        raise ValueError("azimuths, elevation and novel must be degrees")
    return protocol
