"""Everything an evaluation can be asked for, with the reason for each default: the options of `ouroboros evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..errors import InputError

CHOICES = {"split": ("val", "test", "heldout"), "lpips": ("alex", "vgg", "off"),
           "align": ("none", "azimuth", "scale", "both"), "mirror": ("yes", "no", "unknown")}
RANGES = {"steps": (1, 1000), "seeds": (1, 1000), "objects": (1, 100_000), "batch": (1, 4096), "geometry": (0, 100_000),
          "guidance": (0, 100), "eta": (0, 1), "sample": (0, 10_000)}
ON_THE_FLY = ("split", "objects", "geometry", "single_view")  # fields for procedural objects alone
OF_FILES = ("convention", "sample", "names", "mirror")  # for another method's outputs
OF_FOLDERS = ("protocol", "all_objects", "method", "align", "meshes", *OF_FILES)  # and for objects of `data` alone


@dataclass
class EvaluationConfig:
    """One evaluation: a source of objects, a method, and what is measured. Raises InputError for what cannot be."""

    # the recursion
    plan: tuple[str, ...] = ()  # to compare; empty: the weights' own and two-stage, to see what the recursion gains
    steps: int = 25  # the paper's
    guidance: float | None = None  # classifier-free guidance, 1: off; None: what the weights were made for
    eta: float | None = None  # share of the noise that a step renews; None: what the weights' scheduler says
    seeds: int = 1  # of the noise, 0 to seeds - 1: intervals then cover their spread as well

    # procedural objects, made on the fly
    split: str = "test"  # val is for choosing settings, heldout is a family that training never sees
    objects: int = 128  # a paired difference of 0.1 dB is then separable
    geometry: int = 0  # of so many objects, the first ones, the splats' shape is measured too: a second each
    single_view: bool = False  # the weights are a G that was trained with single_view=true: only that is measured

    batch: int = 16  # objects at a time, of a folder too; does not change the figures

    # rendered objects of a folder, in place of the procedural ones
    data: str = ""
    protocol: str = ""  # insist that they were rendered for it; empty: what they say themselves
    all_objects: bool = False  # all that is there, whatever the protocol lists; the rows say so
    method: str = "ours"  # or another's outputs: images:DIR, splat:DIR, mesh:DIR
    convention: str = "ouroboros"  # cameras, axes and scale of that method
    sample: int = 0  # of several that the method's release makes an object: the first, so that nobody chooses the best
    names: str = ""  # CSV of file,object for files that a release numbers; empty: in order of the objects' names
    mirror: str = "unknown"  # whether meshes are mirrored that do not say so: then it must be said
    align: str = "none"  # let the truth choose azimuth and scale: an upper bound, and the rows say so
    meshes: tuple[str, ...] = ()  # true meshes, to measure shapes against

    # what is measured, and where
    lpips: str = "alex"  # the backbone, if its weights are here: papers seldom say which they used
    flip: bool = False  # 8 ms a picture
    device: str = "auto"

    def __post_init__(self):
        for name in ("plan", "meshes"):
            value = getattr(self, name)
            setattr(self, name, (value,) if isinstance(value, str) else tuple(value))
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name}={getattr(self, name)}: expected one of {', '.join(allowed)}")
        for name, (low, high) in RANGES.items():
            value, default = getattr(self, name), getattr(EvaluationConfig, name)
            number = isinstance(value, (int, float) if default is None else int) and not isinstance(value, bool)
            if not (value is None and default is None) and not (number and low <= value <= high):
                kind = "whole number" if isinstance(default, int) else "number"
                raise InputError(f"{name}={value}: expected a {kind} from {low} to {high}")
        from ..plans import Plan  # with torch, for which --help does not wait

        self.plan = tuple(str(Plan.parse(text)) for text in self.plan)
        if self.plan and (self.method != "ours" or self.single_view):
            raise InputError(f"plan={' '.join(self.plan)}: is for our recursion, not for other methods or single_view")
        if len(set(self.plan)) < len(self.plan):
            raise InputError(f"plan={' '.join(self.plan)}: two of them are the same")
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
