"""What is measured: our pipeline under several plans, a G of single views, or another method's files."""

import math
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from ..cameras import FOV, RADIUS, Cameras, field_of_view, orbit_cameras
from ..data.batches import MultiviewBatch
from ..data.folders import MultiviewObject, collate
from ..data.mesh_files import SUFFIXES
from ..data.renders import find_meshes
from ..errors import InputError
from ..gaussians import Gaussians
from ..noise import c_noise
from ..pipeline import Ouroboros3DPipeline
from ..plans import Plan
from .conventions import Convention, load_convention
from .pictures import SUFFIXES as PICTURES
from .pictures import read_picture, resized, zoomed
from .protocols import Protocol
from .results import weights_checksum
from .shapes import Shape, mesh_shape, splat_shape
from .sources import Source

KINDS = ("images", "splat", "mesh")
Images = dict[int, Tensor]  # view -> (3, S, S)


@dataclass
class Part:
    """What a method made of object number `index` of those that it was given: pictures, or a shape to draw.

    kind as in the rows; views: pictures that the shape was reconstructed from, which it is compared with as well.
    """

    index: int
    method: str
    seed: int
    kind: str
    images: Images | None = None
    shape: Shape | None = None
    views: Images | None = None


class Method(ABC):
    """kind: what it makes, images, splat or mesh; name: of the rows, or of the record; device: where it computes."""

    kind: str
    name: str
    device: torch.device

    @abstractmethod
    def parts(self, objects: list[MultiviewObject], source: Source, plans: Sequence[Plan]) -> Iterator[Part]:
        """Everything that it makes of some objects of a source. Raises InputError."""

    @abstractmethod
    def settings(self, plans: Sequence[Plan]) -> dict:
        """All that the figures depend on, for the record."""

    def check(self, source: Source) -> None:
        """Raise InputError when it cannot be measured on a source that has been prepared."""
        return None

    def plans(self, wanted: Sequence[Plan | str]) -> list[Plan]:
        """The plans to run; by default its own choice."""
        return []

    def own_protocols(self, base: Protocol) -> list[Protocol]:
        """Protocols for which truth may have been rendered in place of `base`, for cameras that it cannot choose."""
        return []

    def files(self, name: str) -> list[Path]:
        """Its output for an object, which is measured again when they change. Raises InputError."""
        return []


# ---- our models -----------------------------------------------------------------------------------------------------


@dataclass
class Ours(Method):
    """The recursion, which sees the input view of each object and nothing else.

    preset: what the record calls the weights; guidance as in the pipeline; seeds: of the noise. components: where the
    truth has the model's own cameras and size, the autoencoder and G on clean views are measured as well.
    """

    pipeline: Ouroboros3DPipeline
    preset: str = "small"
    steps: int = 25
    guidance: float | None = None
    seeds: Sequence[int] = (0,)
    components: bool = False
    kind = "splat"
    name = "ours"

    def __post_init__(self):
        self.pipeline.set_progress_bar_config(disable=True)

    @property
    def device(self) -> torch.device:
        return self.pipeline.device

    def plans(self, wanted: Sequence[Plan | str]) -> list[Plan]:
        """By default what the weights do by themselves, and two-stage."""
        return list(dict.fromkeys(map(Plan.parse, wanted or (self.pipeline.config.plan, "two-stage"))))

    def settings(self, plans: Sequence[Plan]) -> dict:
        pipe = self.pipeline
        return {"method": self.name, "preset": self.preset,
                "weights": weights_checksum(part for part in pipe.components.values()
                                            if isinstance(part, torch.nn.Module)),
                "plans": {str(plan): {name: None if value == math.inf else value  # JSON has no infinity
                                      for name, value in asdict(plan).items()} for plan in plans},
                "num_inference_steps": self.steps,
                "guidance_scale": pipe.config.guidance_scale if self.guidance is None else self.guidance,
                "eta": pipe.scheduler.config.eta, "seeds": list(self.seeds), "model's pixels": pipe.image_size,
                "views of F": "enlarged bilinearly to the protocol's size; the splat is drawn at that size"}

    @torch.no_grad()
    def parts(self, objects: list[MultiviewObject], source: Source, plans: Sequence[Plan]) -> Iterator[Part]:
        pipe, batch = self.pipeline, collate(objects)
        size, own_rig = batch.rgba.shape[-1], self._has_own_rig(batch)
        if self.components and own_rig and size == pipe.image_size:
            yield from self._components(batch)
        picture, elevation = self._input(batch, source.input_view, own_rig)
        own = [name if isinstance(name, int) else zlib.crc32(name.encode()) for name in (o.name for o in objects)]
        for seed, plan in product(self.seeds, plans):
            # one generator an object, so that its noise does not depend on the batch; the same for every plan
            generators = [torch.Generator(pipe.device).manual_seed((1_000_003 * seed + number) % 2**63)
                          for number in own]
            result = pipe(picture, elevation, batch.orbit_cameras.to(pipe.device) if own_rig else None, self.steps,
                          plan, self.guidance, generators)
            views = resized(result.views, size)
            for i in range(len(objects)):
                seen = dict(enumerate(views[i])) if own_rig else None
                if own_rig:
                    yield Part(i, str(plan), seed, "multiview", seen)
                yield Part(i, str(plan), seed, "render", shape=splat_shape(result.gaussians[i]), views=seen)

    def _has_own_rig(self, batch: MultiviewBatch) -> bool:
        """Whether the truth's orbit is one that F and G were made for; else they use their own."""
        orbit = batch.orbit_cameras
        return (batch.num_orbit_views == self.pipeline.num_views
                and torch.allclose(orbit.positions.norm(dim=-1), torch.tensor(RADIUS), atol=5e-3)
                and torch.allclose(field_of_view(orbit), torch.tensor(FOV), atol=0.05))

    def _input(self, batch: MultiviewBatch, view: int, own_rig: bool) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, S, S) of the input view, and its elevations (B,).

        For another rig, the view is enlarged until the object looks as large as the model's cameras see it. Then only
        the splat is measured, from the protocol's cameras. All objects of such a batch have the first one's rig.
        """
        cameras = batch.cameras.views(view)
        position = cameras.positions.double()
        elevation = torch.rad2deg(torch.asin(position[:, 1] / position.norm(dim=-1))).float()
        focal = cameras.intrinsics[0, 0, 0] / position[0].norm()
        own = orbit_cameras([0.0], 0.0).intrinsics[0, 0, 0] / RADIUS
        enlarged = zoomed(batch.images[:, view], 1.0 if own_rig else float(own / focal))
        return resized(enlarged, self.pipeline.image_size).to(self.device), elevation

    def _components(self, batch: MultiviewBatch) -> Iterator[Part]:
        views = batch.orbit_images.to(self.device)
        decoded = self.pipeline.autoencoder.decode(self.pipeline.autoencoder.encode(views)).clamp(0, 1)
        gaussians = self._from_clean_views(views, batch.orbit_cameras)
        for i in range(len(views)):
            yield Part(i, "autoencoder", 0, "autoencoder", dict(enumerate(decoded[i])))
            yield Part(i, "G-clean", 0, "render", shape=splat_shape(gaussians[i]))

    def _from_clean_views(self, views: Tensor, cameras: Cameras) -> Gaussians:
        clean = c_noise(torch.full((len(views),), self.pipeline.clean_sigma, device=self.device))
        return self.pipeline.reconstructor(views, cameras.to(self.device), clean)


class SingleView(Ours):
    """A G that was trained with single_view=true: from the condition view alone, in one pass."""

    def plans(self, wanted: Sequence[Plan | str]) -> list[Plan]:
        return []

    @torch.no_grad()
    def parts(self, objects: list[MultiviewObject], source: Source, plans: Sequence[Plan]) -> Iterator[Part]:
        batch = collate(objects)
        gaussians = self._from_clean_views(batch.condition_everywhere.to(self.device), batch.orbit_cameras)
        for i in range(len(objects)):
            yield Part(i, "single-view", 0, "render", shape=splat_shape(gaussians[i]))


# ---- files ----------------------------------------------------------------------------------------------------------


@dataclass
class Files(Method):
    """Another method's outputs, one an object, that lie in a folder in a convention of their own."""

    kind: str
    folder: Path
    convention: Convention
    device = torch.device("cpu")

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.convention.name.replace(' ', '-')}"

    def settings(self, plans: Sequence[Plan]) -> dict:
        return {"method": self.name, "convention": self.convention.record(),
                "pictures of another size": "bilinear, averaged over pixels where they become smaller"}

    def own_protocols(self, base: Protocol) -> list[Protocol]:
        fixed = isinstance(self.convention.views, dict) and isinstance(base.elevation, (int, float))
        return [base.at(self.convention)] if fixed else []

    def check(self, source: Source) -> None:
        """Raise InputError unless there is a picture at every primary view of the protocol."""
        protocol = source.protocol
        if self.kind != "images" or protocol is None or not protocol.azimuths:
            return
        if missing := set(protocol.primary_views) - set(matching_views(self.convention, protocol.cameras(""))):
            name = self.convention.name
            raise InputError(f"{name} has no picture from the cameras of views {', '.join(map(str, sorted(missing)))} "
                             f"of {protocol.name}: render the truth from its own cameras, `ouroboros data render "
                             f"--protocol {protocol.name} --convention \"{name}\"`")

    def parts(self, objects: list[MultiviewObject], source: Source, plans: Sequence[Plan]) -> Iterator[Part]:
        for i, truth in enumerate(objects):
            if self.kind == "images":
                yield Part(i, self.name, 0, "multiview", self.pictures(truth))
            else:
                yield Part(i, self.name, 0, "render", shape=self.shape(truth))

    def shape(self, truth: MultiviewObject) -> Shape:
        """The splat or mesh of an object. Raises InputError, naming object and file."""
        (path,) = self.files(truth.name)
        to_ours = self.convention.world(truth.cameras.views([0]), truth.info.get("source", {}).get("to_world"))
        if self.kind == "mesh":
            given = truth.info.get("render", {}).get("texture") if self.convention.frame == "source" else None
            return mesh_shape(path, to_ours, texture=None if given is None else Path(given))
        gaussians = Gaussians.load_ply(path, self.convention.unit_quaternions)
        if len(gaussians.means) == 0:
            raise InputError(f"{path}: a splat without Gaussians")
        if not torch.isfinite(gaussians.to_tensor()).all():
            raise InputError(f"{path}: holds numbers that are not finite")
        return splat_shape(gaussians, to_ours)

    def pictures(self, truth: MultiviewObject) -> dict[int, Tensor]:
        """View -> (3, S, S) at the truth's size, for all views that the method has a picture of.

        Raises InputError, naming object and file, for a wrong number of pictures or one that cannot be read.
        """
        paths, size, total = self.files(truth.name), truth.rgba.shape[-1], len(truth.rgba)
        views = matching_views(self.convention, truth.cameras)
        if self.convention.views == "protocol":
            named = {f"view_{view:03d}": view for view in range(total)}
            if paths and all(path.stem in named for path in paths):  # as in our folders: the name says which it is
                views = [named[path.stem] for path in paths]
                if missing := sorted(set(range(truth.num_orbit_views)) - set(views)):
                    raise InputError(f"{truth.name}: {self.folder / truth.name}: view_{missing[0]:03d} is missing")
            else:
                views = views[: total if len(paths) == total else truth.num_orbit_views]
        if len(paths) != len(views):
            raise InputError(f"{truth.name}: {len(paths)} pictures in {self.folder / truth.name}, expected "
                             f"{len(views)} for {self.convention.name}")
        by_view = {view: path for view, path in zip(views, paths, strict=True) if view is not None}
        pictures = {view: read_picture(path) for view, path in by_view.items()}
        first = next(iter(pictures), None)
        for view, picture in pictures.items():
            if picture.shape != pictures[first].shape:
                raise InputError(f"{by_view[view]}: {picture.shape[-1]} pixels a side, but {by_view[first].name} has "
                                 f"{pictures[first].shape[-1]}")
        return {view: resized(picture, size) for view, picture in pictures.items()}

    def files(self, name: str) -> list[Path]:
        """An object's pictures in order, or its one file, as far as they are known by name. Raises InputError."""
        if self.kind == "images":
            return self._picture_files(name)
        if self.kind == "splat":
            path, inside = self.folder / f"{name}.ply", sorted((self.folder / name).glob("*.ply"))
            if not path.is_file() and len(inside) != 1:
                raise InputError(f"{name}: neither {path} nor a folder {path.with_suffix('')} with one .ply in it")
            return [path] if path.is_file() else inside
        there = [path for path in (self.folder / f"{name}{suffix}" for suffix in SUFFIXES) if path.is_file()]
        if (self.folder / name).is_dir():
            there.append(self.folder / name)
        found = there[0] if there else find_meshes([self.folder]).get(name)
        if found is None:
            raise InputError(f"{name}: no mesh of this name in {self.folder} ({', '.join(SUFFIXES)}, or a folder)")
        return [found]

    def _picture_files(self, name: str) -> list[Path]:
        folder = self.folder / name
        if not folder.is_dir():
            raise InputError(f"{name}: no folder {folder} with its pictures")
        found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file()]
        ours = [path for path in found if path.name.startswith("view_")]  # beside which there may be ccm_000.png
        return sorted(ours or found, key=lambda path: [int(part) if part.isdigit() else part
                                                       for part in re.split(r"(\d+)", path.name)])


def parse_method(text: str, convention: str) -> Files:
    """`images:DIR`, `splat:DIR` or `mesh:DIR`. Raises InputError."""
    kind, separator, folder = text.partition(":")
    if kind not in KINDS or not separator or not folder:
        raise InputError(f"method={text}: expected ours, images:DIR, splat:DIR or mesh:DIR")
    path = Path(folder)
    if not path.is_dir() or not any(path.iterdir()):
        raise InputError(f"method={text}: {path} is {'an empty' if path.is_dir() else 'no'} folder")
    return Files(kind, path, load_convention(convention, kind))


def matching_views(convention: Convention, cameras: Cameras) -> list[int | None]:
    """For each picture of a method, which of the truth's (V,) cameras sees the same; None if none does.

    Same: within 0.2 degrees, 1 % of the distance and 1 % of the focal length.
    """
    if convention.views == "protocol":
        return list(range(len(cameras.c2w)))
    theirs = convention.view_cameras(cameras.views([0]))
    rotation = torch.einsum("aij,bij->ab", theirs.c2w[:, :3, :3], cameras.c2w[:, :3, :3])
    angle = torch.rad2deg(torch.acos(((rotation - 1) / 2).clamp(-1, 1)))
    apart = torch.cdist(theirs.positions, cameras.positions) / cameras.positions.norm(dim=-1)
    focal = (theirs.intrinsics[:, None, 0, 0] / cameras.intrinsics[None, :, 0, 0] - 1).abs()
    same = (angle < 0.2) & (apart < 0.01) & (focal < 0.01)
    return [int(row.nonzero()[0]) if row.any() else None for row in same]
