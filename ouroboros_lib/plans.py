"""What a run of the recursion changes in Algorithm 2: one frozen `Plan`, and the plans that have a name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated

import torch
from torch import Tensor

from .errors import InputError
from .models.feedback import Renders, feedback_names
from .values import Between, Natural, changed, check_fields


@dataclass(frozen=True)
class Plan:
    """How estimates and reconstructions work on each other. The defaults are Algorithm 2 of the paper.

    feedback: the maps that F is given back, see `feedback_names`: both (rgb+ccm), rgb, ccm, none.
    every: steps between two reconstructions; until the next one, F and the solver keep the renders of the last.
    from_step: renders of earlier steps are not fed back.
    project_above: while sigma is above it, the solver goes towards the estimate's own 3D render (design (b) of the
    paper), by the share project_share of the way; inf: never.
    keep_input: view 0 of every estimate is replaced by the input, as the known region in inpainting is (Lugmayr et al.
    2022). Raises InputError for values that no run can follow.
    """

    feedback: str = "both"
    every: Annotated[int, Between(1)] = 1
    from_step: Natural = 0
    project_above: Annotated[float, Between(0)] = math.inf
    project_share: Annotated[float, Between(0, 1)] = 1.0
    keep_input: bool = False

    def __post_init__(self):
        check_fields(self, "plan: ")
        feedback_names(self.feedback)

    @classmethod
    def parse(cls, text: str | Plan) -> Plan:
        """From "NAME", "NAME,field=value,..." or "field=value,...", which changes the paper's. Raises InputError."""
        if isinstance(text, Plan):
            return text
        name, *changes = (part.strip() for part in str(text).split(","))
        if "=" in name:
            name, changes = "paper", [name, *changes]
        if name not in PLANS:
            raise InputError(f"plan {name!r}: expected one of {', '.join(PLANS)}, and changes such as calm,every=3")
        return changed(PLANS[name], changes, f"plan {text!r}, ")

    def __str__(self) -> str:
        """The shortest text that `parse` reads back: the named plan with the fewest changes."""
        def differences(base: Plan) -> list[str]:
            values = [(field.name, getattr(self, field.name), getattr(base, field.name)) for field in fields(self)]
            return [f"{name}={str(own).lower().removesuffix('.0')}" for name, own, other in values if own != other]
        return min((",".join([name, *differences(base)]) for name, base in PLANS.items()),
                   key=lambda text: text.count(","))

    def reconstructs(self, t: int, sigmas: Sequence[float] | Tensor) -> bool:
        """Whether step t decodes, reconstructs and renders, sigmas (T + 1,) being those of the run.

        It does where its renders are used. The last step always does: it is the result.
        """
        used = bool(self.feedback != "none" and t >= self.from_step or sigmas[t] > self.project_above)
        return t == len(sigmas) - 2 or (used and t % self.every == 0)

    def views(self, decoded: Tensor, cond) -> Tensor:
        """pred_i (B, V, 3, H, W), as G and the user get it."""
        return _with_first_view(decoded, cond.image[:, None]) if self.keep_input else decoded

    def feeds_back(self, renders: Renders, t: int) -> dict[str, Tensor] | None:
        """self_cond: what F is given of the last renders in step t + 1; None is zero maps."""
        return renders.keep(self.feedback) if t >= self.from_step else None

    def prior(self, renders: Renders, sigma: Tensor, pipe) -> Tensor | None:
        """The renders' latents, where the solver goes towards them from noise level sigma on."""
        return pipe.autoencoder.encode(renders.rgb.clamp(0, 1)) if sigma > self.project_above else None

    def target(self, pred_x: Tensor, sigma: Tensor, prior: Tensor | None, cond) -> Tensor:
        """What the solver goes towards (B, V, c, h, w). prior: latents of the last renders."""
        if prior is not None and sigma > self.project_above:
            pred_x = pred_x.lerp(prior, self.project_share)
        return _with_first_view(pred_x, cond.first_view) if self.keep_input else pred_x


PLANS = {
    "paper": Plan(),  # Algorithm 2 as printed
    "calm": Plan(every=5, project_above=0.3, project_share=0.25, keep_input=True),  # what the shipped weights do
    "two-stage": Plan(feedback="none"),  # design (a): reconstruct once, at the end
    "projection": Plan(feedback="none", project_above=1.0),  # design (b): iterate at inference, nothing is trained
}


def _with_first_view(views: Tensor, first: Tensor) -> Tensor:
    return torch.cat([first, views[:, 1:]], dim=1)
