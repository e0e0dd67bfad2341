"""The diffusers face of the recursion: F, G, autoencoder and noise levels as one pipeline, called with pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .algorithms import Step, recursion
from .cameras import Cameras, evenly_spaced_orbit
from .data.condition_views import OUTPUT_TYPES, as_output_type, condition_views
from .errors import InputError
from .gaussians import Gaussians
from .loading import RANDOM_PRESETS, check_components, convert_weights, load
from .models.condition import Condition
from .models.elevation import ElevationEstimator
from .models.feedback import CoordinateMap, Renders, render_feedback
from .models.image_token import image_token
from .noise import c_in, c_noise, denoise
from .plans import Plan
from .presets import load_preset, random_models
from .speed.compiling import compile_network, network_of
from .speed.cuda_graphs import CudaGraphs
from .values import Between, Positive, checked

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

Guidance = float | tuple[float, float]


class PipelineSettings(TypedDict):
    """What a pipeline is, beside its components."""

    image_size: Annotated[int, Between(8, 8192)]
    num_views: Annotated[int, Between(1, 1000)]
    reconstructor_sigma_min: Annotated[float, Between(0)]
    reconstructor_sigma_max: Positive | None
    coordinate_map: CoordinateMap
    guidance_scale: Guidance
    plan: str
    num_inference_steps: Annotated[int, Between(1)]


SETTINGS = tuple(PipelineSettings.__annotations__)


@dataclass
class TraceStep:
    """What one step of the recursion saw and made, on the CPU; reconstructed for the trace where the plan does not."""

    index: int
    sigma: float
    noisy: Tensor  # (B, V, 3, H, W) the noisy latents, scaled to unit variance and decoded, to look at
    views: Tensor  # (B, V, 3, H, W) pred_i, F's estimate
    rgb: Tensor  # (B, V, 3, H, W) renders of G's Gaussians
    ccm: Tensor  # (B, V, 3, H, W)
    gaussians: Gaussians  # (B, N)


@dataclass
class Ouroboros3DOutput(BaseOutput):
    """views (B, V, 3, H, W) in [0, 1], or as `output_type` says; Gaussians (B, N); their renders at `cameras` (B, V);
    input (B, 3, S, S), the condition views; the trace if asked for. A notebook shows it as a picture."""

    views: Tensor | np.ndarray | list[list[Image.Image]]
    gaussians: Gaussians
    renders: Renders
    cameras: Cameras
    input: Tensor
    trace: list[TraceStep] | None = None

    def __repr__(self) -> str:
        batch, views, _, height, width = self.renders.rgb.shape
        trace = f", trace of {len(self.trace)} steps" if self.trace else ""
        return f"{type(self).__name__}({batch} x {views} views of {width} x {height}, {self.gaussians!r}{trace})"

    def _repr_html_(self) -> str:
        from .viz.cells import result_cell

        return result_cell(self)


class Ouroboros3DPipeline(DiffusionPipeline):
    """One image in; V views and a set of 3D Gaussians out.

    autoencoder: VAE; multiview: F; reconstructor: G; scheduler: noise levels and solver step. image_encoder: CLIP, for
    an F that takes the condition view as a token too. elevation: a network that estimates a picture's, or None.
    guidance_scale: the default of `__call__`.
    reconstructor_sigma_min: G is given at least this noise level. The last estimates look clean but do not agree in 3D,
    unlike the ground-truth views that G has seen at noise level 0. reconstructor_sigma_max: and at most this one; it
    wins over the least. For a G that knows no other level, having learnt from ground-truth views alone.
    coordinate_map: what F was trained to take as CCM, see `render_feedback`. plan: what `__call__` does with these
    weights by default, as text that `Plan.parse` reads, in num_inference_steps steps.
    """

    model_cpu_offload_seq = "elevation->image_encoder->autoencoder->multiview->reconstructor"
    _optional_components = ["image_encoder", "elevation"]
    _callback_tensor_inputs = ["x_t", "pred_x", "pred_i"]
    clean_sigma = 0.002  # the noise level that G is given with ground-truth views
    _compiled = False

    def __init__(self, autoencoder, multiview, reconstructor, scheduler, image_encoder=None, image_size: int = 128,
                 num_views: int = 8, reconstructor_sigma_min: float = 1.0, coordinate_map: str = "canonical",
                 guidance_scale: float | list[float] = 1.0, reconstructor_sigma_max: float | None = None,
                 plan: str = "paper", elevation=None, num_inference_steps: int = 25):
        super().__init__()
        if image_encoder is None and getattr(multiview, "takes_image_token", False):
            raise InputError(f"{type(multiview).__name__} takes an image token: give the pipeline an image_encoder")
        if not isinstance(elevation, ElevationEstimator | None):
            raise InputError(f"elevation: expected an ElevationEstimator, got a {type(elevation).__name__}")
        settings = {"image_size": image_size, "num_views": num_views, "coordinate_map": coordinate_map,
                    "reconstructor_sigma_min": reconstructor_sigma_min, "guidance_scale": guidance_scale,
                    "reconstructor_sigma_max": reconstructor_sigma_max, "plan": str(Plan.parse(plan)),
                    "num_inference_steps": num_inference_steps}
        checked(settings, PipelineSettings, type(self).__name__)
        self.register_modules(autoencoder=autoencoder, multiview=multiview, reconstructor=reconstructor,
                              scheduler=scheduler, image_encoder=image_encoder, elevation=elevation)
        self.register_to_config(**settings)

    @property
    def image_size(self) -> int:
        return self.config.image_size

    @property
    def num_views(self) -> int:
        return self.config.num_views

    @classmethod
    def from_preset(cls, name: str, seed: int = 0, device: torch.device | str | None = None,
                    dtype: torch.dtype | None = None) -> Ouroboros3DPipeline:
        """Randomly initialised models of a preset, see `random_models`."""
        preset = load_preset(name)
        models = random_models(preset, seed, device, dtype)
        return cls(**models, image_size=preset.image_size, num_views=preset.num_views, **preset.pipeline)

    @classmethod
    def from_pretrained(cls, name: str | Path, **kwargs) -> Ouroboros3DPipeline:
        """Load a preset by name, a folder written by `save_pretrained`, or a hub id.

        "small" has weights that ship with the library; "tiny" and "narrow" have random ones, for tests. Raises
        InputError when there is no such thing or when its files are damaged or foreign.
        """
        if str(name) not in RANDOM_PRESETS:
            return load(cls, name, **kwargs)
        pipeline = cls.from_preset(str(name))
        if dtype := kwargs.get("torch_dtype") or kwargs.get("dtype"):
            convert_weights(pipeline, dtype)
        return pipeline

    def save_pretrained(self, save_directory: str | Path, **kwargs) -> None:
        """As in diffusers. `DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)`
        finds this class by the pipeline.py in it."""
        super().save_pretrained(save_directory, **kwargs)
        modules = {type(part).__module__ for part in self.components.values() if part is not None}
        lines = [*(f"import {name}" for name in sorted(modules) if name.startswith("ouroboros_lib.")),
                 f"from {type(self).__module__} import {type(self).__name__}"]
        Path(save_directory, "pipeline.py").write_text(
            '"""By `custom_pipeline` diffusers finds the class of these weights here."""\n\n'
            + "".join(f"{line}  # noqa: F401\n" for line in lines))

    @torch.no_grad()
    def __call__(self, images, elevation: float | Tensor = 10.0, cameras: Cameras | None = None,
                 num_inference_steps: int | None = None, plan: str | Plan | None = None,
                 guidance_scale: float | tuple[float, float] | None = None,
                 generator: torch.Generator | list[torch.Generator] | None = None,
                 return_trace: bool | Collection[int] = False,
                 callback_on_step_end: Callable | None = None,
                 callback_on_step_end_tensor_inputs: tuple[str, ...] = ("x_t",),
                 output_type: str = "pt", return_dict: bool = True) -> Ouroboros3DOutput | tuple:
        """Run Algorithm 2 (`algorithms.recursion`) for a picture or a batch of them.

        images: a path, a PIL picture, an array, a tensor or a list of these, cut out and framed if need be, see
        `condition_views`; (B, 3, S, S) in [0, 1], S the pipeline's image size, is taken as it is.
        elevation: degrees, of the condition view and so of the whole orbit; a number or (B,), such as what
        `estimate_elevation` gives.
        cameras: (B, V) instead of the orbit. plan: a `Plan` or its text, such as "paper" or "calm,every=3";
        num_inference_steps: of the solver; both by default the weights' own. guidance_scale: one number, or (first,
        last) for scales that grow linearly from view 0 to view V - 1; by default the pipeline's. return_trace: record
        every step, or those with the given indices.
        callback_on_step_end(pipeline, step, sigma, tensors) may return another x_t; pred_x and pred_i are F's estimate.
        output_type: of the views, "pt", "np" or "pil". return_dict: False for a plain tuple of the output's fields.
        Raises InputError.
        """
        if output_type not in OUTPUT_TYPES:
            raise InputError(f"unknown output_type {output_type!r}: expected one of {', '.join(OUTPUT_TYPES)}")
        if unknown := [name for name in callback_on_step_end_tensor_inputs if name not in self._callback_tensor_inputs]:
            raise InputError(f"callback_on_step_end_tensor_inputs: {unknown[0]!r}: expected some of "
                             + ", ".join(self._callback_tensor_inputs))
        check_components(self)
        plan = Plan.parse(self.config.plan if plan is None else plan)
        if num_inference_steps is None:
            num_inference_steps = self.config.num_inference_steps
        checked(num_inference_steps, Annotated[int, Between(1)], "num_inference_steps")
        guidance = checked(self.config.guidance_scale if guidance_scale is None else guidance_scale,
                           Guidance, "guidance_scale")
        device = self._execution_device
        images = self._prepare_images(images).to(device)
        if cameras is None:
            try:
                degrees = torch.as_tensor(elevation, dtype=torch.float32)
            except (TypeError, ValueError, RuntimeError):
                raise InputError(f"elevation={elevation!r}: expected degrees, a number or one for each picture; "
                                 "pipe.estimate_elevation(images) estimates them") from None
            cameras = evenly_spaced_orbit(self.num_views, degrees)
        if not (cameras.c2w.isfinite().all() and cameras.intrinsics.isfinite().all()):
            raise InputError("elevations or cameras that are not finite numbers")
        if cameras.shape[:-1] not in ((), (1,), (len(images),)):
            raise InputError(f"{len(images)} pictures, but elevations or cameras of shape {tuple(cameras.shape[:-1])}: "
                             "expected one for each or one for all")
        cameras = cameras.to(device).expand(len(images))
        cond = self.condition(images, cameras, plan, guidance, generator)

        recorded = range(num_inference_steps) if return_trace is True else return_trace or ()
        trace: list[TraceStep] = []
        with self.progress_bar(total=num_inference_steps) as bar:
            for step in self.iterate(cond, cameras, plan, num_inference_steps, generator):
                if step.t in recorded:
                    trace.append(self.record(step, plan, cond, cameras))
                if callback_on_step_end is not None:
                    self._call_back(callback_on_step_end, callback_on_step_end_tensor_inputs, step, plan, cond)
                bar.update()
        self.maybe_free_model_hooks()
        assert step.views is not None  # every plan reconstructs in the last step
        output = Ouroboros3DOutput(as_output_type(step.views.clamp(0, 1), output_type), step.gaussians, step.renders,
                                   cameras, images, trace if recorded else None)
        return output if return_dict else output.to_tuple()

    def iterate(self, cond: Condition, cameras: Cameras, plan: Plan, num_inference_steps: int,
                generator: torch.Generator | list[torch.Generator] | None = None) -> Iterator[Step]:
        """Algorithm 2 for cameras (B, V), see `recursion`, with the scheduler's noise levels."""
        shape, device = (*cameras.shape, *cond.latents.shape[1:]), cond.latents.device
        sigmas = self.scheduler.sigmas(num_inference_steps)  # on the CPU: asking a GPU for numbers would make it wait
        return recursion(self, cond, cameras, sigmas, plan,
                         lambda: randn_tensor(shape, generator=generator, device=device))

    @torch.no_grad()
    def estimate_elevation(self, images) -> Tensor:
        """Degrees (B,) by which the camera looked down, on the CPU; images: as for `__call__`. Raises InputError."""
        if self.elevation is None:
            raise InputError("these weights cannot estimate the elevation: give it in degrees")
        images = self._prepare_images(images).to(self.elevation.device)
        return self.elevation(images).cpu()

    def record(self, step: Step, plan: Plan, cond: Condition, cameras: Cameras) -> TraceStep:
        """What the trace keeps of a step."""
        views, gaussians, renders = step.views, step.gaussians, step.renders
        if views is None or gaussians is None or renders is None:
            views = plan.views(self.decode(step.pred_x), cond)
            gaussians = self.reconstruct(views, cameras, step.sigma)
            renders = self.render(gaussians, cameras)
        return TraceStep(step.t, float(step.sigma), self.noisy_views(step).cpu(), views.clamp(0, 1).cpu(),
                         renders.rgb.clamp(0, 1).cpu(), renders.ccm.clamp(0, 1).cpu(), gaussians.detach().to("cpu"))

    def noisy_views(self, step: Step) -> Tensor:
        """x_t of a step, scaled to unit variance and decoded (B, V, 3, H, W), to look at."""
        return self.decode(c_in(step.sigma) * step.x_t).clamp(0, 1)

    def _call_back(self, callback: Callable, names: tuple[str, ...], step: Step, plan: Plan, cond: Condition) -> None:
        """diffusers' callback at the end of a step: x_t is what the next step starts from, and may be replaced."""
        tensors = {"x_t": step.x_next, "pred_x": step.pred_x}
        if "pred_i" in names:
            tensors["pred_i"] = plan.views(self.decode(step.pred_x), cond) if step.views is None else step.views
        tensors = {name: value for name, value in tensors.items() if name in names}
        step.x_next = (callback(self, step.t, step.sigma, tensors) or tensors).get("x_t", step.x_next)

    def enable_low_memory(self, device: torch.device | str, views: int = 2) -> None:
        """For small GPUs: models wait on the CPU for their turn, and SVD's decoder takes so many views at a time.

        That decoder smooths over the views that it is given together: the pictures change a little. F, G and the
        decoder take turns in every step, so each step moves the weights: much slower than where they fit.
        """
        if "decode_chunk" in self.autoencoder.config:
            self.autoencoder.register_to_config(decode_chunk=views)
        self.enable_model_cpu_offload(device=device)

    def compile(self, **options) -> None:
        """Compile F, the decoder and G's network, see `compile_network`; the first call then takes minutes.

        Move the pipeline to its device first. options: of `torch.compile`; without any, CUDA graphs are recorded, since
        a GPU would wait for the next kernel to be launched: by torch ("reduce-overhead"), or for large models, whose
        blocks are compiled one by one, here. Their decoder is not recorded: it keeps a GPU busy, and what a recording
        needs stays allocated. On CUDA, cuDNN also tries which of its algorithms are fastest, in the whole process.
        """
        graphs = None
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            if not options and hasattr(self.multiview, "_repeated_blocks"):
                graphs = CudaGraphs()  # for both: beside recordings of torch's own, replays crash
        if graphs is None:
            options = options or {"mode": "reduce-overhead"}
        self._compiled = True
        compile_network(self.multiview, "forward", graphs, **options)
        compile_network(self.autoencoder, "decode", **options)
        compile_network(self.reconstructor, network_of(self.reconstructor), graphs, **options)

    def condition(self, images: Tensor, cameras: Cameras, plan: Plan, guidance_scale: float | tuple[float, float],
                  generator: torch.Generator | list[torch.Generator] | None = None) -> Condition:
        """What F is given of condition views (B, 3, S, S) in every step, for cameras (B, V)."""
        latents, tokens = self.encode_condition(images, generator)
        first_view = self.autoencoder.encode(images[:, None]) if plan.keep_input else None
        features = self.multiview.embed_cameras(cameras, latents.shape[-1])
        guidance = guidance_per_view(guidance_scale, cameras.shape[-1])
        return Condition(latents, tokens, None, images, first_view, features,
                         None if guidance is None else guidance.to(images.device))

    def encode_condition(self, images: Tensor, generator: torch.Generator | list[torch.Generator] | None = None,
                         augmentation: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Condition views (B, 3, S, S) in [0, 1] to latents (B, c, h, w) and tokens (B, 1, D), or None without CLIP.

        augmentation: (B,) noise of SVD's training, see `SVDAutoencoder.encode_condition`; None for that of inference.
        """
        tokens = image_token(self.image_encoder, images) if self.image_encoder is not None else None
        options = {} if augmentation is None else {"augmentation": augmentation}
        return self.autoencoder.encode_condition(images, generator, **options), tokens

    def estimate(self, x_t: Tensor, sigma: Tensor, cond: Condition, cameras: Cameras,
                 self_cond: dict[str, Tensor] | None = None) -> Tensor:
        """F: pred_x of noisy latents x_t (B, V, c, h, w) at noise level sigma, () or (B,); cameras (B, V).

        self_cond: the maps that are fed back; None is zero maps. With `cond.guidance`, classifier-free guidance (Ho &
        Salimans 2022): the unconditional estimate has no condition view, in latents and token, but keeps cameras and
        feedback. Both are computed in one batch.
        """
        sigma = sigma.to(x_t.device, non_blocking=True).expand(len(x_t))
        seen = cameras if cond.camera_features is None else cond.camera_features
        if self._compiled:  # a compiled F always sees maps, so that it is compiled once
            self_cond = {name: (self_cond or {}).get(name, zero) for name, zero in self.zero_maps(cameras).items()}
        if cond.guidance is None:
            return denoise(self.multiview, x_t, sigma, cond.latents, seen, self_cond, **cond.embeddings)
        latents, *embeddings = (torch.cat([torch.zeros_like(value), value])
                                for value in (cond.latents, *cond.embeddings.values()))
        twice = torch.arange(len(x_t), device=x_t.device).repeat(2)
        unconditional, conditional = denoise(
            self.multiview, x_t[twice], sigma[twice], latents, seen[twice],
            self_cond and {name: maps[twice] for name, maps in self_cond.items()},
            **dict(zip(cond.embeddings, embeddings, strict=True))).chunk(2)
        return unconditional + cond.guidance * (conditional - unconditional)

    def decode(self, pred_x: Tensor) -> Tensor:
        """Latents (B, V, c, h, w) to images (B, V, 3, H, W) as G takes them: in [0, 1] but for `ReleasedPipeline`."""
        return self.in_range(self.autoencoder.decode(pred_x))

    def in_range(self, images: Tensor) -> Tensor:
        """What the decoder made, clamped to [0, 1]; G of the released code takes it as it is."""
        return images.clamp(0, 1)

    def reconstruct(self, views: Tensor, cameras: Cameras, sigma: Tensor) -> Gaussians:
        """G: views (B, V, 3, H, W) of noise level sigma, () or (B,), to Gaussians (B, N)."""
        level = sigma.to(views.device, non_blocking=True)
        level = level.clamp(self.config.reconstructor_sigma_min, self.config.reconstructor_sigma_max)
        return self.reconstructor(views, cameras, c_noise(level.expand(len(views))))

    def render(self, gaussians: Gaussians, cameras: Cameras) -> Renders:
        """All maps that can be fed back, of Gaussians (B, N) at cameras (B, V)."""
        return render_feedback(gaussians, cameras, self.image_size, self.config.coordinate_map)

    def zero_maps(self, cameras: Cameras) -> dict[str, Tensor]:
        """What no feedback is to F, for cameras (B, V)."""
        shape = (*cameras.shape, 3, self.image_size, self.image_size)
        return {name: torch.zeros(shape, device=cameras.device) for name in self.multiview.feedbacks}

    def _prepare_images(self, images) -> Tensor:
        return condition_views(images, self.image_size)


def guidance_per_view(scale: float | tuple[float, float], views: int) -> Tensor | None:
    """(1, V, 1, 1, 1): one scale, or from the first to the last number linearly over the views; None for scale 1."""
    first, last = scale if isinstance(scale, (tuple, list)) else (scale, scale)
    if first == last == 1:
        return None
    return torch.linspace(first, last, views)[None, :, None, None, None]
