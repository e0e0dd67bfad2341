"""What is measured: our pipeline under several plans, a G of single views, or another method's files."""

import math
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from ..cameras import FOV, RADIUS, Cameras, field_of_view, orbit_cameras
from ..data.batches import MultiviewBatch
from ..data.folders import MultiviewObject, collate
from ..data.mesh_files import find_mesh
from ..errors import InputError
from ..gaussians import Gaussians
from ..noise import c_noise
from ..pipeline import Ouroboros3DPipeline
from ..plans import Plan
from . import native
from .conventions import Convention, load_convention
from .misreadings import Images, Misreadings, of_pictures, of_shape
from .pictures import resized, zoomed
from .protocols import Protocol
from .results import weights_checksum
from .shapes import Shape, mesh_shape, splat_shape
from .sources import Source

KINDS = ("images", "splat", "mesh")


@dataclass
class Part:
    """What a method made of object number `index` of those that it was given: pictures, or a shape to draw.

    kind as in the rows; views: pictures that the shape was reconstructed from, which it is compared with as well;
    misreadings: of files.
    """

    index: int
    method: str
    seed: int
    kind: str
    images: Images | None = None
    shape: Shape | None = None
    views: Images | None = None
    misreadings: Misreadings = field(default_factory=list)


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

    preset: what the record calls the weights; steps and guidance as in the pipeline; seeds: of the noise. components:
    where the truth has the model's own cameras and size, the autoencoder and G on clean views are measured as well.
    """

    pipeline: Ouroboros3DPipeline
    preset: str = "small"
    steps: int | None = None
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
                "weights": weights_checksum(part for name, part in pipe.components.items()  # elevations are given here
                                            if isinstance(part, torch.nn.Module) and name != "elevation"),
                "plans": {str(plan): {name: None if value == math.inf else value  # JSON has no infinity
                                      for name, value in asdict(plan).items()} for plan in plans},
                "num_inference_steps": pipe.config.num_inference_steps if self.steps is None else self.steps,
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
        batch, size = collate(objects), self.pipeline.image_size
        if batch.rgba.shape[-1] != size or not self._has_own_rig(batch):
            raise InputError(f"single_view=true: needs pictures of {size} pixels from the models' own cameras, as "
                             f"`ouroboros data render --size {size}` makes them")
        gaussians = self._from_clean_views(batch.condition_everywhere.to(self.device), batch.orbit_cameras)
        for i in range(len(objects)):
            yield Part(i, "single-view", 0, "render", shape=splat_shape(gaussians[i]))


# ---- files ----------------------------------------------------------------------------------------------------------


@dataclass
class Files(Method):
    """Another method's outputs in a convention of their own, as its release writes them or in our layout, by name.

    sample: which of several an object; names: a CSV which says whose the numbered files are, by default as the objects
    are ordered; mirror: whether meshes that do not say so are mirrored, yes, no or unknown.
    """

    kind: str
    folder: Path
    convention: Convention
    sample: int = 0
    names: Path | None = None
    mirror: str = "unknown"
    numbered: dict[str, Path] = field(default_factory=dict)  # by object, once the objects are known
    device = torch.device("cpu")

    @property
    def layout(self) -> dict:
        return self.convention.files.get(self.kind, {})

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.convention.name.replace(' ', '-')}"

    def settings(self, plans: Sequence[Plan]) -> dict:
        return {"method": self.name, "convention": self.convention.record(), "sample": self.sample,
                "mirror": self.mirror, "numbered files": self._whose(),
                "pictures of another size": "bilinear, averaged over pixels where they become smaller"}

    def own_protocols(self, base: Protocol) -> list[Protocol]:
        try:
            return [base.at(self.convention)] if isinstance(self.convention.views, dict) else []
        except InputError:
            return []

    def check(self, source: Source) -> None:
        """Raise InputError unless files have an object, meshes a known side, and primary views a picture each."""
        self.numbered = native.whose(self.folder, self.layout, source.names, self.names)
        if self.numbered:
            print(", ".join(f"{path} = {name}" for name, path in self._whose().items()), file=sys.stderr)
        for name in source.names if "mirrored" in self.layout else ():
            try:
                path = find_mesh(self.files(name)[0])
            except InputError:
                continue  # is told when it is its turn
            self._is_mirrored(path)
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
                images, misreadings = self.pictures(truth)
                yield Part(i, self.name, 0, "multiview", images, misreadings=misreadings)
            else:
                shape = self.shape(truth)
                yield Part(i, self.name, 0, "render", shape=shape, misreadings=of_shape(shape))

    def shape(self, truth: MultiviewObject) -> Shape:
        """The splat or mesh of an object. Raises InputError, naming object and file."""
        (path,) = self.files(truth.name)
        to_ours = self.convention.world(truth.cameras.views([0]), truth.info.get("source", {}).get("to_world"))
        if self.kind == "mesh":
            given = truth.info.get("render", {}).get("texture") if self.convention.frame == "source" else None
            path = find_mesh(path)
            beside = path.with_name(self.layout.get("texture", path.name))
            if beside != path and beside.is_file() and native.obj_marks(path) == {"vt"}:
                given = beside
            if self._is_mirrored(path):
                to_ours[:, self.layout["mirrored"]] *= -1
            return mesh_shape(path, to_ours, texture=None if given is None else Path(given))
        gaussians = Gaussians.load(path, unit_quaternions=self.convention.unit_quaternions)
        if len(gaussians.means) == 0:
            raise InputError(f"{path}: a splat without Gaussians")
        return splat_shape(gaussians, to_ours)

    def _is_mirrored(self, path: Path) -> bool:
        """Raises InputError for a mesh that may be, and for one that cannot be and should."""
        open_question = ("mirrored" in self.layout and path.suffix.lower() == ".obj"
                         and "mtllib" not in native.obj_marks(path))
        if open_question and self.mirror == "unknown":
            raise InputError(f"{path}: without a material, such an OBJ is mirrored by some versions of "
                             f"{self.convention.name} and not by others: say --mirror yes or --mirror no")
        if self.mirror == "yes" and not open_question:
            raise InputError(f"--mirror yes: {path} is never mirrored: only an OBJ without a material is")
        return open_question and self.mirror == "yes"

    def pictures(self, truth: MultiviewObject) -> tuple[Images, Misreadings]:
        """View -> (3, S, S) at the truth's size, for all views that the method has a picture of; and misreadings.

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
        path = self._native(truth.name)
        grid = None if path is None else self.layout.get("grid")
        pictures, unpadded = native.read_views(paths, grid, self.convention.size)
        if len(pictures) != len(views):
            raise InputError(f"{truth.name}: {len(pictures)} pictures in {path or self.folder / truth.name}, expected "
                             f"{len(views)} for {self.convention.name}")
        pictures, unpadded = ([resized(picture, size) for picture in some] for some in (pictures, unpadded))
        images = {view: picture for view, picture in zip(views, pictures, strict=True) if view is not None}
        if not images:
            raise InputError(f"{truth.name}: no view of {self.convention.name} is from a camera of the truth")
        orbit = [k for k, view in enumerate(views) if view is None or view < truth.num_orbit_views]
        return images, of_pictures(*([some[k] for k in orbit if some] for some in (pictures, views, unpadded)))

    def files(self, name: str) -> list[Path]:
        """An object's pictures in order, or its one file, as far as they are known by name. Raises InputError."""
        path = self._native(name)
        if path is None:
            return native.own_files(self.folder, self.kind, name)
        return native.pictures_in(path) if path.is_dir() and self.kind == "images" else [path]

    def _native(self, name: str) -> Path | None:
        """What the release wrote for an object, None where it lies in our own layout. Raises InputError."""
        path = self.numbered.get(name) or native.find(self.folder, self.layout, name, self.sample)
        own = self.folder / name
        if "grid" not in self.layout or path is not None and path.parent != own:
            return path
        count = len(self.convention.views["azimuths"])
        if own.is_dir() and len(native.pictures_in(own)) == count:
            return None  # a grid that somebody has cut
        if path is None:
            expected = self.layout["paths"][-1].format(name=name, sample=self.sample)
            raise InputError(f"{name}: no {expected} in {self.folder}, nor a folder {name} of {count} pictures")
        return path

    def _whose(self) -> dict[str, str]:
        return {name: path.relative_to(self.folder).as_posix() for name, path in self.numbered.items()}


def parse_method(text: str, convention: str, sample: int = 0, names: str = "", mirror: str = "unknown") -> Files:
    """`images:DIR`, `splat:DIR` or `mesh:DIR`; the options as in `Files`. Raises InputError."""
    kind, separator, folder = text.partition(":")
    if kind not in KINDS or not separator or not folder:
        raise InputError(f"method={text}: expected ours, images:DIR, splat:DIR or mesh:DIR")
    path = Path(folder)
    if not path.is_dir() or not any(path.iterdir()):
        raise InputError(f"method={text}: {path} is {'an empty' if path.is_dir() else 'no'} folder")
    method = Files(kind, path, load_convention(convention, kind), sample, Path(names) if names else None, mirror)
    for option, given, has in (("sample", sample, "{sample}" in str(method.layout)), ("names", names, "numbered"
                               in method.layout), ("mirror", mirror != "unknown", "mirrored" in method.layout)):
        if given and not has:
            raise InputError(f"--{option}: is not for the {kind} of {method.convention.name}")
    return method


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
