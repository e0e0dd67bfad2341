"""Camera conventions of other methods, as data: one small JSON file each in conventions/.

A convention says what a method's release makes (views, splats or meshes), from which cameras its views are seen, and
how its world lies in ours: x_ours = scale * R * x_theirs. `recipe` says in words how the outputs are made, and
`not_stated` what nobody has stated, with what is taken here instead.

    axes     R, rows are our axes in theirs: x to the input camera's right, y up, z towards it
    frame    "world": R as it stands, y upright; "input view": their world leans with the input camera, so its pitch is
             undone; "source": the ground truth's own file
    scale    a number, or "input view": the method was given the input view as it is and takes it for its own camera's,
             so that the object has the size that looks the same there
    unit_quaternions    false where the method's rasterizer does not normalise quaternions, see `Gaussians.load`
    files    images, splat or mesh: how the release's files lie where they do not lie as ours do, see native.py
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..cameras import Cameras, field_of_view, orbit_cameras, relative_to_first
from ..errors import InputError
from ..files import read_json

FOLDER = Path(__file__).with_name("conventions")


@dataclass(frozen=True)
class Convention:
    """views: "protocol" (whatever the protocol asks for), {"azimuths", "elevation"} in degrees counted from the input
    view, the elevation being a number, one a view, "input", or "leaning": the orbit of elevation 0 in a frame that
    leans with the input camera; None if the method makes no views. fov in degrees and radius in the method's units,
    None where they are not stated."""

    name: str
    outputs: tuple[str, ...]
    views: str | dict | None
    fov: float | None
    radius: float | None
    axes: list[list[float]] | None
    frame: str
    scale: float | str
    size: int | None
    background: str
    licence: str
    recipe: str
    not_stated: tuple[str, ...]
    unit_quaternions: bool = True
    files: dict[str, dict] = field(default_factory=dict)

    @property
    def leans(self) -> bool:
        """Whether its orbit is level in a world that leans with the input camera."""
        return isinstance(self.views, dict) and self.views["elevation"] == "leaning"

    def angles(self, elevation: float) -> list[tuple[float, float]]:
        """(azimuth, elevation) of its views for an input view at `elevation`, in the order of its pictures; of an orbit
        that leans, before it leans."""
        elevations = {"input": elevation, "leaning": 0.0}.get(str(self.views["elevation"]), self.views["elevation"])
        if not isinstance(elevations, list):
            elevations = [elevations] * len(self.views["azimuths"])
        return [(float(a), float(e)) for a, e in zip(self.views["azimuths"], elevations, strict=True)]

    def rig(self, radius: float, fov: float) -> tuple[float, float]:
        """Radius in our units and field of view of its cameras, for an input view taken from `radius` with `fov`.

        An object of the size that makes it look alike in both: radius / focal length is the same in our units.
        """
        if self.fov is None:
            return radius, fov
        return radius * math.tan(math.radians(fov) / 2) / math.tan(math.radians(self.fov) / 2), self.fov

    def view_cameras(self, condition: Cameras) -> Cameras:
        """(V,) cameras of its pictures in our world; condition: (1,) the camera of the input view."""
        radius, elevation = _distance_and_elevation(condition)
        azimuths, elevations = zip(*self.angles(elevation), strict=True)
        radius, fov = self.rig(radius, float(field_of_view(condition)[0]))
        cameras = orbit_cameras(torch.tensor(azimuths), torch.tensor(elevations), radius=radius, fov=fov)
        return leaning(cameras, elevation) if self.leans else cameras

    def world(self, condition: Cameras, to_world: list | None = None) -> Tensor:
        """(4, 4) float64, from the coordinates in its files to ours.

        condition: (1,) the camera of the input view. to_world: of the ground truth's file, for frame "source".
        """
        if self.frame == "source":
            if to_world is None:
                raise InputError("the data set does not say where its mesh lies (source.to_world in object.json)")
            return torch.tensor(to_world, dtype=torch.float64)
        rotation = torch.tensor(self.axes, dtype=torch.float64)
        if self.frame == "input view":  # their axes are those of the camera in OpenGL's sense
            opengl = condition.c2w[0, :3, :3].double() * torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
            rotation = opengl @ rotation
        scale = 1.0 if self.scale == "input view" else float(self.scale)
        if self.scale == "input view" and self.radius is not None:
            distance, _ = _distance_and_elevation(condition)
            scale = self.rig(distance, float(field_of_view(condition)[0]))[0] / self.radius
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, :3] = scale * rotation
        return matrix

    def record(self) -> dict:
        """What a result says about it."""
        said = ("name", "frame", "scale", "fov", "radius", "axes", "unit_quaternions")
        return {name: getattr(self, name) for name in said} | {"not_stated": list(self.not_stated)}


def leaning(cameras: Cameras, elevation: float) -> Cameras:
    """Cameras (V,) turned about the x axis by `elevation` degrees, by which the level view at azimuth 0 comes there."""
    _, turn = relative_to_first(orbit_cameras([0.0], elevation))
    return Cameras(turn @ cameras.c2w, cameras.intrinsics)


def _distance_and_elevation(condition: Cameras) -> tuple[float, float]:
    x, y, z = condition.positions[0].double().tolist()
    distance = math.sqrt(x * x + y * y + z * z)
    return distance, math.degrees(math.asin(y / distance))


def _conventions() -> dict[str, Convention]:
    records = (read_json(path) for path in FOLDER.glob("*.json"))
    return {record["name"]: Convention(**record | {key: tuple(record[key]) for key in ("outputs", "not_stated")})
            for record in records}


def convention_names() -> list[str]:
    return sorted(_conventions(), key=str.lower)


def load_convention(name: str, output: str | None = None) -> Convention:
    """A convention by its name, in upper or lower case. output: images, splat or mesh, if it must make that.

    Raises InputError when there is none of this name, or its method makes nothing of the kind.
    """
    found = {known.lower(): convention for known, convention in _conventions().items()}.get(name.lower())
    if found is None:
        raise InputError(f"--convention {name}: expected one of {', '.join(convention_names())}")
    if output is not None and output not in found.outputs:
        raise InputError(f"--convention {found.name}: makes {' and '.join(found.outputs)}, not {output}")
    return found
