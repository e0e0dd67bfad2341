"""One part of joint training that a CPU can do in a minute: F's feedback encoders learn, from zero, to read renders."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..cameras import Cameras
from ..data.batches import MultiviewBatch
from ..losses import psnr
from ..models.condition import Condition
from ..models.feedback import FeedbackEncoder
from ..noise import EDMNoise
from ..pipeline import Ouroboros3DPipeline

FED = {"own": "its own renders", "zero": "zero maps", "other": "another object's renders"}


@dataclass
class Examples:
    """What lines 1 to 4 of Algorithm 1 leave for line 5, of B objects: clean latents x and noisy ones (B, V, c, h, w),
    their levels sigma (B,), cameras (B, V), the true views (B, V, 3, S, S), and the renders, a map by its name."""

    x: Tensor
    noisy_x: Tensor
    sigma: Tensor
    cameras: Cameras
    views: Tensor
    maps: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Tensor | Sequence[int]) -> Examples:
        return Examples(self.x[rows], self.noisy_x[rows], self.sigma[rows], self.cameras[rows], self.views[rows],
                        {name: values[rows] for name, values in self.maps.items()})

    def renoised(self, low: float, high: float) -> Examples:
        """The same objects and renders with new noise, its levels drawn evenly in log sigma."""
        sigma = levels(len(self), low, high).to(self.x)
        return Examples(self.x, noised(self.x, sigma), sigma, self.cameras, self.views, self.maps)


def levels(count: int, low: float, high: float) -> Tensor:
    """(count,) noise levels between two, even in log sigma, by the global generator."""
    return low * (high / low) ** torch.rand(count)


def noised(x: Tensor, sigma: Tensor) -> Tensor:
    return EDMNoise.add_noise(x, torch.randn(x.shape).to(x), sigma)


@torch.no_grad()
def lines_1_to_4(pipe: Ouroboros3DPipeline, objects: MultiviewBatch, low: float, high: float) -> Examples:
    """Noise, F's estimate with the condition view, its pictures, G's Gaussians and their renders; one object at a
    time. low, high: of the noise levels."""
    x = pipe.autoencoder.encode(objects.orbit_images)
    sigma, cameras = levels(len(x), low, high).to(x), objects.orbit_cameras
    noisy_x, maps = noised(x, sigma), []
    for i in range(len(x)):
        one = slice(i, i + 1)
        pred_x = pipe.estimate(noisy_x[one], sigma[one], Condition(x[one, 0]), cameras[one])
        gaussians = pipe.reconstruct(pipe.decode(pred_x), cameras[one], sigma[one])
        maps.append(pipe.render(gaussians, cameras[one]).keep("both") or {})
    together = {name: torch.cat([each[name] for each in maps]) for name in pipe.multiview.feedbacks}
    return Examples(x, noisy_x, sigma, cameras, objects.orbit_images, together)


def line_5(pipe: Ouroboros3DPipeline, examples: Examples, maps: dict[str, Tensor] | None) -> Tensor:
    """F's estimate given maps, and *no condition view*: what it draws, it can only know from the noisy latents and
    from the maps. (B, V, c, h, w)."""
    nothing = Condition(torch.zeros_like(examples.x[:, 0]))
    return pipe.estimate(examples.noisy_x, examples.sigma, nothing, examples.cameras, maps)


def forget(pipe: Ouroboros3DPipeline) -> nn.ModuleDict:
    """Give F new feedback encoders, which answer zero to everything, freeze all else, and return the encoders."""
    F, device = pipe.multiview, pipe.device
    for part in (F, pipe.autoencoder, pipe.reconstructor):
        part.requires_grad_(False)
    F.feedback_encoders = nn.ModuleDict({
        name: FeedbackEncoder(tuple(F.config.channels), F.config.feedback_width) for name in F.feedbacks}).to(device)
    return F.feedback_encoders


def fed(examples: Examples) -> dict[str, dict[str, Tensor] | None]:
    """The maps that each name of `FED` stands for: "other" are those of the object before."""
    return {"own": examples.maps, "zero": None,
            "other": {name: values.roll(1, 0) for name, values in examples.maps.items()}}


@torch.no_grad()
def answers(pipe: Ouroboros3DPipeline, examples: Examples) -> dict[str, Tensor]:
    """F's views (B, V, 3, S, S) for each name of `FED`."""
    return {name: pipe.decode(line_5(pipe, examples, maps)).clamp(0, 1) for name, maps in fed(examples).items()}


def measures(examples: Examples, views: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """PSNR in dB of what F draws, for each name of `FED`: against the true views ("quality"), and against the renders
    that it was given, for zero maps the object's own ("agreement")."""
    given = fed(examples)
    found: dict[str, dict[str, float]] = {"quality": {}, "agreement": {}}
    for name, drawn in views.items():
        renders = (given[name] or examples.maps)["rgb"].clamp(0, 1)
        found["quality"][name] = float(psnr(drawn, examples.views).mean())
        found["agreement"][name] = float(psnr(drawn, renders).mean())
    return found


def draw_measures(log: Sequence[tuple[int, dict[str, dict[str, float]]]]) -> bytes:
    """A PNG of what `measures` gave after each number of steps: three curves in two panels."""
    figure = Figure(figsize=(8.4, 2.8), dpi=72, layout="constrained")
    titles = {"quality": "F's views against the truth", "agreement": "F's views against the renders it was given"}
    for axis, (kind, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        for (name, label), style in zip(FED.items(), ("-o", "--s", ":^"), strict=True):
            axis.plot([step for step, _ in log], [found[kind][name] for _, found in log], style, markersize=4,
                      label=label)
        axis.set(title=title, xlabel="step of training", ylabel="PSNR, dB" if kind == "quality" else "")
        axis.grid(alpha=0.3)
    figure.axes[0].legend(title="F is given", fontsize=8, title_fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
