"""A playground without its controls: runs of a few steps that are kept, and paint on what was fed back to F."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from PIL import Image
from torch import Tensor

from ..algorithms import Step
from ..cameras import Cameras, evenly_spaced_orbit
from ..errors import InputError
from ..models.condition import Condition
from ..pipeline import Ouroboros3DPipeline
from ..plans import PLANS, Plan
from ..values import Between, check_fields
from ..viz.explorer import difference_map
from ..viz.sheets import image_grid

PRESETS = ("calm", "paper", "two-stage")
SIDE = 160  # pixels of a picture on the sheet
GAIN = 20.0  # of the differences that are shown: black is a mean change of 1 / 20 of the range


@dataclass(frozen=True)
class Stroke:
    """Discs of one colour: their centres (x, y) and radius in pixels of the picture, red, green and blue in [0, 1]."""

    centres: tuple[tuple[float, float], ...]
    radius: float = 6.0
    colour: tuple[float, float, float] = (0.9, 0.1, 0.1)

    def covers(self, picture: Tensor) -> Tensor:
        """(H, W): the pixels of a picture (..., H, W) whose centre lies in one of the discs."""
        places = [torch.arange(side, device=picture.device) + 0.5 for side in picture.shape[-2:]]
        y, x = torch.meshgrid(*places, indexing="ij")
        inside = torch.zeros_like(x, dtype=torch.bool)
        for across, down in self.centres:
            inside |= (x - across) ** 2 + (y - down) ** 2 <= self.radius**2
        return inside


@dataclass(frozen=True)
class Choice:
    """What the controls say. projection: the share of the way to the render, as `Plan.project_share`; 0 for none."""

    plan: str = "paper"
    every: Annotated[int, Between(1)] = 1
    from_step: Annotated[int, Between(0)] = 0
    projection: Annotated[float, Between(0, 1)] = 0.0
    elevation: Annotated[float, Between(-90, 90)] = 10.0
    seed: Annotated[int, Between(0, 2**32 - 1)] = 0

    def __post_init__(self):
        check_fields(self, "playground: ")
        if self.plan not in PRESETS:
            raise InputError(f"playground: plan {self.plan!r}: expected one of {', '.join(PRESETS)}")

    @classmethod
    def preset(cls, name: str, **others) -> Choice:
        """The controls' places for a plan of `PRESETS`."""
        if name not in PRESETS:
            return cls(name)  # which refuses it
        plan = PLANS[name]
        share = plan.project_share if plan.project_above < math.inf else 0.0
        return cls(name, plan.every, plan.from_step, share, **others)

    def as_plan(self) -> Plan:
        """Projection where the named plan has none begins where design (b) of the paper does here."""
        plan = PLANS[self.plan]
        above = plan.project_above if plan.project_above < math.inf else PLANS["projection"].project_above
        return replace(plan, every=self.every, from_step=self.from_step, project_share=self.projection or 1.0,
                       project_above=above if self.projection else math.inf)


@dataclass
class Moment:
    """One step of a run, with what F was given in it (name -> (1, V, 3, S, S), None for nothing) and its estimate as
    pictures (V, 3, S, S)."""

    step: Step
    given: dict[str, Tensor] | None
    views: Tensor


@dataclass
class Playground:
    """A pipeline, one condition view (1, 3, S, S), and the last run.

    steps: of each run. `moments` is empty before the first `run`; `strokes` lie on the render that F was given in
    step `moment`, in view `view`.
    """

    pipe: Ouroboros3DPipeline
    image: Tensor
    steps: int = 6
    moments: list[Moment] = field(default_factory=list)
    strokes: list[Stroke] = field(default_factory=list)
    moment: int = 1
    view: int = 1
    _cond: Condition = field(init=False, repr=False)
    _cameras: Cameras = field(init=False, repr=False)

    @torch.no_grad()
    def run(self, choice: Choice) -> None:
        """Algorithm 2 with the chosen plan, from the start; what was painted is gone."""
        pipe, plan = self.pipe, choice.as_plan()
        device = self.image.device
        self._cameras = evenly_spaced_orbit(pipe.num_views, torch.tensor([float(choice.elevation)])).to(device)
        self._cond = pipe.condition(self.image, self._cameras, plan, pipe.config.guidance_scale)
        generator = torch.Generator(device).manual_seed(choice.seed)
        moments, given = [], None
        for step in pipe.iterate(self._cond, self._cameras, plan, self.steps, generator):
            views = pipe.decode(step.pred_x) if step.views is None else step.views
            moments.append(Moment(step, given, views[0].clamp(0, 1)))
            if step.renders is not None:  # as line 5 of the algorithm goes on
                given = plan.feeds_back(step.renders, step.t)
        self.moments, self.strokes = moments, []

    @property
    def can_paint(self) -> bool:
        """Whether F was given a render in the chosen step: there is none in the first, nor without feedback."""
        return bool(self.moments) and self.moments[self.moment].given is not None

    def choose(self, moment: int, view: int) -> None:
        """Another place to paint on, empty. Raises InputError for a step or a view that there is not."""
        for name, value, count in (("step", moment, self.steps), ("view", view, self.pipe.num_views)):
            if not 0 <= value < count:
                raise InputError(f"playground: there is no {name} {value}: choose one from 0 to {count - 1}")
        if (moment, view) != (self.moment, self.view):
            self.moment, self.view, self.strokes = moment, view, []

    def paint(self, stroke: Stroke) -> None:
        """Raises InputError where there is no render to paint on."""
        if not self.can_paint:
            raise InputError(f"playground: nothing was fed back to F in step {self.moment + 1}, so there is nothing to "
                             "paint on: choose a later step, or a plan with feedback")
        self.strokes.append(stroke)

    def clean(self) -> None:
        """Take all paint away."""
        self.strokes = []

    def painted(self) -> dict[str, Tensor]:
        """What F is given, with the strokes on the RGB render of the view; the coordinate map is left as it is."""
        given = self.moments[self.moment].given if self.moments else None
        if given is None:
            raise InputError(f"playground: nothing was fed back to F in step {self.moment + 1}")
        rgb = given["rgb"].clone()
        rgb[0, self.view] = torch.where(self.covered(), self._colours(), rgb[0, self.view])
        return given | {"rgb": rgb}

    def covered(self) -> Tensor:
        """(S, S): which pixels of the view lie under paint."""
        size = self.image.shape[-1]
        nothing = torch.zeros(size, size, dtype=torch.bool, device=self.image.device)
        return torch.stack([nothing, *(stroke.covers(nothing) for stroke in self.strokes)]).any(0)

    def _colours(self) -> Tensor:
        """(3, S, S): of the paint, where there is some; later strokes lie on earlier ones."""
        colours = self.image.new_zeros(3, *self.image.shape[-2:])
        for stroke in self.strokes:
            colour = colours.new_tensor(stroke.colour)[:, None, None]
            colours = torch.where(stroke.covers(colours[0]), colour, colours)
        return colours

    @torch.no_grad()
    def estimates(self) -> tuple[Tensor, Tensor]:
        """F's estimate without and with the paint, (V, 3, S, S) each: the same noise, weights and moment."""
        now = self.moments[self.moment]
        if not self.strokes:
            return now.views, now.views
        estimates = [self.pipe.estimate(now.step.x_t, now.step.sigma, self._cond, self._cameras, given)
                     for given in (now.given, self.painted())]
        # both without what the plan does to an estimate afterwards, such as showing the input at view 0
        without, painted = (self.pipe.decode(pred_x)[0].clamp(0, 1) for pred_x in estimates)
        return without, painted

    def changes(self, without: Tensor, painted: Tensor) -> dict[str, float]:
        """Mean absolute change of F's estimate: under the paint, beside it in that view, in the other views."""
        change, covered = (painted - without).abs().mean(1), self.covered()
        others = [v for v in range(len(change)) if v != self.view]
        return {"under the paint": float(change[self.view][covered].mean()) if covered.any() else 0.0,
                "beside it": float(change[self.view][~covered].mean()), "in other views": float(change[others].mean())}

    def sheet(self) -> Image.Image:
        """The run, a column for each step, in the chosen view; below it what the paint changes, in this view, its
        neighbours and the opposite one."""
        nothing = torch.zeros_like(self.image[0])
        fed = [nothing if moment.given is None else moment.given["rgb"][0, self.view] for moment in self.moments]
        run = image_grid([fed, [moment.views[self.view] for moment in self.moments]],
                         row_labels=["fed back", "F: estimate"], title=f"the run, view {self.view}",
                         column_labels=[f"step {m.step.t + 1}, sigma {float(m.step.sigma):.2g}" for m in self.moments],
                         side=SIDE)
        if not self.can_paint:
            return run
        without, painted = self.estimates()
        rows = [self.painted()["rgb"][0], without, painted, difference_map(without, painted, GAIN)]
        changes = [f"{100 * value:.2f} % {where}" for where, value in self.changes(without, painted).items()]
        views = self.pipe.num_views
        shown = list(dict.fromkeys((self.view + turn) % views for turn in (0, 1, -1, views // 2)))
        labels = ["fed back,\npainted", "F without\nthe paint", "F with it", f"changed\nx {GAIN:g}"]
        below = image_grid([[row[v] for v in shown] for row in rows], row_labels=labels,
                           column_labels=[f"view {v}" for v in shown], side=SIDE,
                           title=f"step {self.moment + 1}, changed: " + ", ".join(changes))
        sheet = Image.new("RGB", (max(run.width, below.width), run.height + below.height), "white")
        sheet.paste(run, (0, 0))
        sheet.paste(below, (0, run.height))
        return sheet
