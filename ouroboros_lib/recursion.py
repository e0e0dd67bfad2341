"""What each step of the recursion does beside F's estimate: reconstruct, feed back, project."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from .errors import InputError
from .models.feedback import FEEDBACKS


@dataclass(frozen=True)
class Recursion:
    """How estimates and reconstructions work on each other; the defaults are Algorithm 2 of the paper.

    feedback: both, rgb, ccm or none. feedback_from_step: the first step whose reconstruction is fed back.
    feedback_share: share of the steps that feed back, evenly spread; after the others F has no feedback, as before the
    first step. feedback_every: of those, only every so many decode and reconstruct anew, F is given the same renders
    until then: faster. feedback_scale: guidance for the feedback, see `Ouroboros3DPipeline.estimate`.
    project_above: while sigma is above it, steps go towards the estimate's own 3D render (design (b) of the paper) or,
    with project_share, towards a point between the two, at this share of the way. project_every: of these, only steps
    so many after the last reconstruction, whatever it was made for, reconstruct anew, the others go towards its render:
    faster. keep_input: view 0 of every estimate is replaced by the input, which is what it should be (as the known
    region in inpainting, Lugmayr et al. 2022).
    """

    feedback: str = "both"
    feedback_from_step: int = 0
    feedback_share: float = 1.0
    feedback_every: int = 1
    feedback_scale: float = 1.0
    project_above: float = math.inf
    project_share: float = 1.0
    project_every: int = 1
    keep_input: bool = False

    def __post_init__(self):
        """Raises InputError for what no recursion can do."""
        if self.feedback not in FEEDBACKS:
            raise InputError(f"unknown feedback {self.feedback!r}: expected one of {', '.join(FEEDBACKS)}")
        for name in ("feedback_every", "project_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1 step, got {getattr(self, name)}")
        for name in ("feedback_share", "project_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")

    @classmethod
    def of(cls, defaults: dict | None, feedback: str, **given) -> Recursion:
        """Of what is given (None: not) and a model's own defaults, which belong to the feedback: not without it.

        Raises InputError for defaults that are none of these fields.
        """
        defaults = dict(defaults or {}) if feedback != "none" else {}
        if unknown := defaults.keys() - {field.name for field in fields(cls)}:
            raise InputError(f"feedback_options: {sorted(unknown)[0]} is nothing that a recursion can be told")
        return cls(feedback, **defaults | {name: value for name, value in given.items() if value is not None})

    def turns(self, sigmas: list[float]) -> list[Turn]:
        """One for each step, at noise levels `sigmas`."""
        turns, due, render_due = [], 0, 0
        for step, sigma in enumerate(sigmas):
            chosen = math.floor((step + 1) * self.feedback_share) > math.floor(step * self.feedback_share)
            feeds_back = self.feedback != "none" and step >= self.feedback_from_step and chosen
            renews = feeds_back and step >= due
            due = step + self.feedback_every if renews else due
            projects = sigma > self.project_above
            reconstructs = renews or (projects and step >= render_due)
            render_due = step + self.project_every if reconstructs else render_due
            turns.append(Turn(feeds_back, renews, projects, reconstructs))
        return turns


@dataclass(frozen=True)
class Turn:
    """feeds_back: F sees renders in the next step; renews: of this step's reconstruction; projects: x_t goes towards
    the last one's renders; reconstructs: this step makes one, for F or x_t."""

    feeds_back: bool
    renews: bool
    projects: bool
    reconstructs: bool
