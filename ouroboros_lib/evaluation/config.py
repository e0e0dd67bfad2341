"""Everything an evaluation can be asked for, with the reason for each default: the options of `ouroboros evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from ..errors import InputError
from ..values import Between, check_fields

ON_THE_FLY = ("split", "objects", "geometry")  # fields for procedural objects alone
OF_FILES = ("convention", "sample", "names", "mirror")  # for another method's outputs
OF_FOLDERS = ("protocol", "all_objects", "method", "align", "meshes", *OF_FILES)  # and for objects of `data` alone


@dataclass
class EvaluationConfig:
    """One evaluation: a source of objects, a method, and what is measured. Raises InputError for what cannot be."""

    # the recursion
    plan: tuple[str, ...] = ()  # to compare; empty: the weights' own and two-stage, to see what the recursion gains
    steps: Annotated[int, Between(1, 1000)] | None = None  # None: the weights' own
    guidance: Annotated[float, Between(0, 100)] | None = None  # classifier-free, 1: off; None: as the weights want it
    eta: Annotated[float, Between(0, 1)] | None = None  # share of the noise that a step renews; None: the scheduler's
    seeds: Annotated[int, Between(1, 1000)] = 1  # of the noise, 0 to seeds - 1: intervals then cover their spread, too

    # procedural objects, made on the fly
    split: Literal["val", "test", "heldout"] = "test"  # val: to choose settings on; heldout: a family never trained on
    objects: Annotated[int, Between(1, 100_000)] = 128  # a paired difference of 0.1 dB is then separable
    geometry: Annotated[int, Between(0, 100_000)] = 0  # of so many objects, the first ones, the shape as well: 1 s each
    single_view: bool = False  # the weights are a G that was trained with single_view=true: only that is measured
    batch: Annotated[int, Between(1, 4096)] = 16  # objects at a time, of a folder too; does not change the figures

    # rendered objects of a folder, in place of the procedural ones
    data: str = ""
    protocol: str = ""  # insist that they were rendered for it; empty: what they say themselves
    all_objects: bool = False  # all that is there, whatever the protocol lists; the rows say so
    method: str = "ours"  # or another's outputs: images:DIR, splat:DIR, mesh:DIR
    convention: str = "ouroboros"  # cameras, axes and scale of that method
    sample: Annotated[int, Between(0, 10_000)] = 0  # of several that a release makes an object: the first, not the best
    names: str = ""  # CSV of file,object for files that a release numbers; empty: in order of the objects' names
    mirror: Literal["yes", "no", "unknown"] = "unknown"  # of meshes that do not say so: then it must be said
    align: Literal["none", "azimuth", "scale", "both"] = "none"  # the truth chooses: an upper bound, told in rows
    meshes: tuple[str, ...] = ()  # true meshes, to measure shapes against

    # what is measured, and where
    lpips: Literal["alex", "vgg", "off"] = "alex"  # its backbone; papers seldom say which, alex ships
    flip: bool = False  # 8 ms a picture
    device: str = "auto"

    def __post_init__(self):
        for name in ("plan", "meshes"):
            if isinstance(value := getattr(self, name), (str, list)):
                setattr(self, name, (value,) if isinstance(value, str) else tuple(value))
        check_fields(self)
        from ..plans import Plan  # with torch, for which --help does not wait

        self.plan = tuple(str(Plan.parse(text)) for text in self.plan)
        if self.plan and (self.method != "ours" or self.single_view):
            raise InputError(f"plan={' '.join(self.plan)}: is for our recursion, not for other methods or single_view")
        if len(set(self.plan)) < len(self.plan):
            raise InputError(f"plan={' '.join(self.plan)}: two of them are the same")
        if self.single_view and self.method != "ours":
            raise InputError(f"single_view=true: is for a G of ours, not for method={self.method}")
        if self.geometry > self.objects:
            raise InputError(f"geometry={self.geometry}: there are only {self.objects} objects")
        where = f"data={self.data}" if self.data else "procedural objects"
        for name in ON_THE_FLY if self.data else OF_FOLDERS:
            if getattr(self, name) != getattr(EvaluationConfig, name):
                hint = "; give the true meshes" if name == "geometry" else "" if self.data else "; it needs data"
                raise InputError(f"{name}={getattr(self, name)}: is not for {where}{hint}")
        for name in OF_FILES:
            if self.method == "ours" and getattr(self, name) != getattr(EvaluationConfig, name):
                raise InputError(f"{name}={getattr(self, name)}: is for other methods' outputs, not for method=ours")

    @classmethod
    def from_options(cls, options: dict) -> EvaluationConfig:
        """From names and values, as a recipe's JSON holds them. Raises InputError."""
        names = [field.name for field in fields(cls)]
        if unknown := [name for name in options if name not in names]:
            raise InputError(f"{unknown[0]}: no option of an evaluation; expected some of {', '.join(names)}")
        return cls(**options)
