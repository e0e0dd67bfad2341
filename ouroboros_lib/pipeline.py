"""Algorithm 2 of the paper: the recursion of F and G, as a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .cameras import Cameras, evenly_spaced_orbit
from .compiling import compile_network, network_of
from .errors import InputError
from .gaussians import Gaussians
from .models.camera_features import CameraFeatures
from .models.feedback import SelfConditioning, render_feedback
from .models.image_token import image_token
from .noise import c_noise, denoise
from .presets import load_preset, preset_names, random_models
from .recursion import Recursion

HUB_OPTIONS = {"revision", "cache_dir", "token", "local_files_only", "force_download", "proxies"}
SETTINGS = ("image_size", "num_views", "reconstructor_sigma_min", "reconstructor_sigma_max", "coordinate_map",
            "guidance_scale", "feedback_options")  # what a pipeline is, beside its components
HALF_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}
RANDOM_PRESETS = ("tiny", "narrow")  # for tests: `from_pretrained` gives random weights


@dataclass
class Step:
    """What one step of the recursion saw and made; images on the CPU. Recorded steps always reconstruct."""

    index: int
    sigma: float
    noisy: Tensor  # (B, V, 3, H, W) the noisy latents, scaled to unit variance and decoded, to look at
    views: Tensor  # (B, V, 3, H, W) pred_i, F's estimate
    rgb: Tensor  # (B, V, 3, H, W) renders of G's Gaussians
    ccm: Tensor  # (B, V, 3, H, W)


@dataclass
class Ouroboros3DOutput(BaseOutput):
    """views (B, V, 3, H, W) in [0, 1]; Gaussians (B, N); their renders at `cameras` (B, V); the trace if asked for."""

    views: Tensor
    gaussians: Gaussians
    renders: SelfConditioning
    cameras: Cameras
    trace: list[Step] | None = None


class Ouroboros3DPipeline(DiffusionPipeline):
    """One image in; V views and a set of 3D Gaussians out.

    autoencoder: VAE; multiview: F; reconstructor: G; scheduler: noise levels and solver step. image_encoder: CLIP, for
    an F that takes the condition view as a token too. guidance_scale: the default of `__call__`.
    reconstructor_sigma_min: G is told at least this noise level. The last estimates look clean but do not agree in 3D,
    unlike the ground-truth views that G has seen at noise level 0. reconstructor_sigma_max: and at most this one; it
    wins over the least. For a G that knows no other level, having learnt from ground-truth views alone.
    coordinate_map: what F was trained to take as CCM, see `render_feedback`. feedback_options: fields of `Recursion`
    beside the feedback itself: what `__call__` does with these weights when it is told nothing else.
    """

    model_cpu_offload_seq = "image_encoder->autoencoder->multiview->reconstructor"
    _optional_components = ["image_encoder"]
    _callback_tensor_inputs = ["x_t", "pred_x", "pred_i"]
    _compiled = False

    def __init__(self, autoencoder, multiview, reconstructor, scheduler, image_encoder=None, image_size: int = 128,
                 num_views: int = 8, reconstructor_sigma_min: float = 1.0, coordinate_map: str = "canonical",
                 guidance_scale: float | list[float] = 1.0, reconstructor_sigma_max: float | None = None,
                 feedback_options: dict | None = None):
        super().__init__()
        if image_encoder is None and getattr(multiview, "takes_image_token", False):
            raise InputError(f"{type(multiview).__name__} takes an image token: give the pipeline an image_encoder")
        self.register_modules(autoencoder=autoencoder, multiview=multiview, reconstructor=reconstructor,
                              scheduler=scheduler, image_encoder=image_encoder)
        self.register_to_config(image_size=image_size, num_views=num_views,
                                reconstructor_sigma_min=reconstructor_sigma_min, coordinate_map=coordinate_map,
                                guidance_scale=guidance_scale, reconstructor_sigma_max=reconstructor_sigma_max,
                                feedback_options=feedback_options)

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
        models["scheduler"] = models.pop("noise")
        return cls(**models, image_size=preset.image_size, num_views=preset.num_views, **preset.pipeline)

    @classmethod
    def from_pretrained(cls, name: str | Path, **kwargs) -> Ouroboros3DPipeline:
        """Load a preset by name, a folder written by `save_pretrained`, or a hub id.

        "small" has weights that ship with the library; "tiny" and "narrow" have random ones, for tests. Raises
        InputError when there is no such thing or when its files are damaged or foreign.
        """
        if str(name) in RANDOM_PRESETS:
            return cls.from_preset(str(name))
        if str(name) in preset_names():
            folder = load_preset(str(name)).weights
            if folder is None:
                raise InputError(f"preset {str(name)!r} ships no weights: give a folder or a hub id of trained weights")
        else:
            folder = Path(name)
            if not folder.exists() and str(name).count("/") != 1:
                raise InputError(f"{name}: neither a preset ({', '.join(preset_names())}) nor a folder nor a hub id "
                                 "of the form owner/name")
            if folder.exists() and not (folder / "model_index.json").is_file():
                raise InputError(f"{name}: no model_index.json in it, so not a pipeline folder; "
                                 "give the folder that `ouroboros train` or `save_pretrained` wrote")
        try:
            where = {key: kwargs[key] for key in HUB_OPTIONS & kwargs.keys()}
            kind = _import_classes(cls.load_config(str(folder), **where)) or cls
            pipeline = super(Ouroboros3DPipeline, kind).from_pretrained(str(folder), **kwargs)
            _check_complete({name: model for name, model in pipeline.components.items() if name not in kwargs})
        # SafetensorError derives from Exception alone; the rest is what diffusers raises for files it cannot use
        except (SafetensorError, OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
            if not folder.exists():
                raise InputError(f"{name}: no such folder, and not to be had from the hub either "
                                 f"({type(error).__name__}); check the name and the network") from error
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"{name}: cannot be loaded as Ouroboros3D weights ({reason}); "
                             "is a file damaged, missing or of another model?") from error
        if not isinstance(pipeline, cls):
            raise InputError(f"{name}: holds a {type(pipeline).__name__}, not an Ouroboros3DPipeline")
        for model in pipeline.components.values():
            if isinstance(model, torch.nn.Module):
                if not kwargs.keys() & {"torch_dtype", "dtype"}:  # files hold half precision, CPUs want float32
                    torch.nn.Module.float(model)
                channels_last(model.eval())
        return pipeline

    @torch.no_grad()
    def __call__(self, images: Tensor | list, elevation: float | Tensor = 10.0, cameras: Cameras | None = None,
                 num_inference_steps: int = 25, guidance_scale: float | tuple[float, float] | None = None,
                 feedback: str = "both", feedback_from_step: int | None = None, feedback_share: float | None = None,
                 feedback_every: int | None = None, feedback_scale: float | None = None,
                 project_above: float | None = None, project_share: float | None = None,
                 project_every: int | None = None, keep_input: bool | None = None, eta: float | None = None,
                 generator: torch.Generator | list[torch.Generator] | None = None,
                 return_trace: bool | Collection[int] = False,
                 callback_on_step_end: Callable | None = None,
                 callback_on_step_end_tensor_inputs: tuple[str, ...] = ("x_t",)) -> Ouroboros3DOutput:
        """Run the recursion for a batch of images.

        images: (B, 3, S, S) in [0, 1] on white, S the pipeline's image size, or a list of PIL images.
        elevation: degrees, of the condition view and so of the whole orbit; a number or (B,).
        cameras: (B, V) instead of the orbit. guidance_scale: one number, or (first, last) for scales that grow
        linearly from view 0 to view V - 1; by default the pipeline's. feedback: both, rgb, ccm or none; this and what
        follows are the fields of `Recursion`. By default they are the pipeline's feedback_options, and without those,
        or without feedback, Algorithm 2 as it stands. eta: the share of the noise that each step renews, 0 (the
        paper's Euler steps) to 1; by default the scheduler's. return_trace: record every step, or those with the given
        indices.
        callback_on_step_end(pipeline, step, sigma, tensors) may return changed tensors.
        """
        recursion = Recursion.of(self.config.feedback_options, feedback, feedback_from_step=feedback_from_step,
                                 feedback_share=feedback_share, feedback_every=feedback_every,
                                 feedback_scale=feedback_scale, project_above=project_above,
                                 project_share=project_share, project_every=project_every, keep_input=keep_input)
        if num_inference_steps < 1:
            raise InputError(f"the number of steps must be at least 1, got {num_inference_steps}")
        eta = self.scheduler.config.eta if eta is None else eta
        if not 0 <= eta <= 1:
            raise InputError(f"eta must lie between 0 and 1, got {eta}")
        device = self._execution_device
        cond_image = self._prepare_images(images).to(device)
        batch = len(cond_image)
        if cameras is None:
            cameras = evenly_spaced_orbit(self.num_views, torch.as_tensor(elevation, dtype=torch.float32))
        cameras = cameras.to(device).expand(batch)

        cond_latents, image_embeds = self.encode_condition(cond_image, generator)
        known = self.autoencoder.encode(cond_image[:, None]) if recursion.keep_input else None
        seen = self.multiview.embed_cameras(cameras, cond_latents.shape[-1])
        sigmas = self.scheduler.sigmas(num_inference_steps, device)
        turns = recursion.turns(sigmas[:-1].tolist())
        guidance_scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        guidance = self._guidance(guidance_scale, cameras.shape[-1], device)
        shape = (batch, cameras.shape[-1], *cond_latents.shape[1:])
        recorded = range(num_inference_steps) if return_trace is True else return_trace or ()
        # no feedback is zero maps; compiled models see them as such, so that F is not compiled twice
        blank = self.zero_maps(cameras) if self._compiled and feedback != "none" else None
        self_cond, trace, fed, rendered = blank, [] if recorded else None, None, None
        shows = callback_on_step_end is not None and "pred_i" in callback_on_step_end_tensor_inputs
        x_t = randn_tensor(shape, generator=generator, device=device) * sigmas[0]

        for step in self.progress_bar(range(num_inference_steps)):  # Algorithm 2
            sigma, turn = sigmas[step].expand(batch), turns[step]
            noisy = x_t
            pred_x = self.estimate(x_t, sigma, cond_latents, seen, self_cond, guidance, image_embeds,
                                   recursion.feedback_scale)  # line 3
            last = step + 1 == num_inference_steps
            reconstructs = turn.reconstructs or last or step in recorded
            if reconstructs or shows:  # else nobody looks at it
                pred_i = self.autoencoder.decode(pred_x).clamp(0, 1)  # line 4
                if recursion.keep_input:
                    pred_i = torch.cat([cond_image[:, None], pred_i[:, 1:]], dim=1)
            if reconstructs:
                gaussians = self.reconstruct(pred_i, cameras, sigma)  # line 5
                renders = render_feedback(gaussians, cameras, self.image_size, self.config.coordinate_map)
            if turn.renews:  # laid out like zero maps: compiled models would be compiled again for another layout
                fed = renders.keep(feedback).map(Tensor.contiguous)
            self_cond = fed if turn.feeds_back else blank
            if turn.projects:
                if turn.reconstructs:
                    rendered = self.autoencoder.encode(renders.rgb.clamp(0, 1))
                pred_x = pred_x.lerp(rendered, recursion.project_share)
            if recursion.keep_input:
                pred_x = torch.cat([known, pred_x[:, 1:]], dim=1)
            noise = randn_tensor(shape, generator=generator, device=device) if eta else None
            x_t = self.scheduler.step(x_t, pred_x, sigmas[step], sigmas[step + 1], eta, noise)  # line 6
            if step in recorded:
                trace.append(self._record(step, sigmas[step], noisy, pred_i, renders))
            if callback_on_step_end is not None:
                pictures = {"pred_i": pred_i} if shows else {}
                tensors = {name: value for name, value in ({"x_t": x_t, "pred_x": pred_x} | pictures).items()
                           if name in callback_on_step_end_tensor_inputs}
                x_t = (callback_on_step_end(self, step, sigmas[step], tensors) or tensors).get("x_t", x_t)
        self.maybe_free_model_hooks()
        return Ouroboros3DOutput(views=pred_i, gaussians=gaussians, renders=renders, cameras=cameras, trace=trace)

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

        options: of `torch.compile`; without any, CUDA graphs are recorded ("reduce-overhead"), which pays most for
        small models and few objects, where a GPU waits for the next kernel to be launched.
        """
        options = options or {"mode": "reduce-overhead"}
        self._compiled = True
        compile_network(self.multiview, **options)
        compile_network(self.autoencoder, "decode", **options)
        compile_network(self.reconstructor, network_of(self.reconstructor), **options)

    def encode_condition(self, images: Tensor, generator: torch.Generator | list[torch.Generator] | None = None,
                         augmentation: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Condition views (B, 3, S, S) in [0, 1] to latents (B, c, h, w) and tokens (B, 1, D), or None without CLIP.

        augmentation: (B,) noise of SVD's training, see `SVDAutoencoder.encode_condition`; None for that of inference.
        """
        tokens = image_token(self.image_encoder, images) if self.image_encoder is not None else None
        options = {} if augmentation is None else {"augmentation": augmentation}
        return self.autoencoder.encode_condition(images, generator, **options), tokens

    def estimate(self, x_t: Tensor, sigma: Tensor, cond_latents: Tensor, cameras: Cameras | CameraFeatures,
                 self_cond: SelfConditioning | None = None, guidance: Tensor | None = None,
                 image_embeds: Tensor | None = None, feedback_scale: float = 1.0) -> Tensor:
        """pred_x = F(x_t, ...), with classifier-free guidance (Ho & Salimans 2022) if `guidance` (1, V, 1, 1, 1).

        The unconditional estimate has no condition view, in latents and token, but keeps cameras and feedback. Both
        are computed in one batch. feedback_scale other than 1: the same between estimates with and without feedback.
        """
        if self_cond is not None and feedback_scale != 1:
            fed, unfed = (self.estimate(x_t, sigma, cond_latents, cameras, seen, guidance, image_embeds)
                          for seen in (self_cond, None))
            return unfed + feedback_scale * (fed - unfed)
        token = {} if image_embeds is None else {"image_embeds": image_embeds}
        if guidance is None:
            return denoise(self.multiview, x_t, sigma, cond_latents, cameras, self_cond, **token)
        cond_latents, *token_pair = (torch.cat([torch.zeros_like(value), value])
                                     for value in (cond_latents, *token.values()))
        twice = torch.arange(len(x_t), device=x_t.device).repeat(2)
        unconditional, conditional = denoise(
            self.multiview, x_t[twice], sigma[twice], cond_latents, cameras[twice],
            self_cond and self_cond.map(lambda maps: maps[twice]), **dict(zip(token, token_pair, strict=True))).chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    def reconstruct(self, views: Tensor, cameras: Cameras, sigma: Tensor) -> Gaussians:
        """G: views (B, V, 3, H, W) of noise level sigma (B,) to Gaussians (B, N)."""
        told = sigma.clamp(self.config.reconstructor_sigma_min, self.config.reconstructor_sigma_max)
        return self.reconstructor(views, cameras, c_noise(told))

    def zero_maps(self, cameras: Cameras) -> SelfConditioning:
        """What F is told when nothing is fed back, for cameras (B, V)."""
        maps = torch.zeros((*cameras.shape, 3, self.image_size, self.image_size), device=cameras.device)
        return SelfConditioning(maps, maps, maps[:, :, :1])

    def _record(self, index: int, sigma: Tensor, x_t: Tensor, pred_i: Tensor, renders: SelfConditioning) -> Step:
        noisy = self.autoencoder.decode(x_t / (sigma**2 + 1).sqrt()).clamp(0, 1)
        return Step(index, float(sigma), noisy.cpu(), pred_i.cpu(), renders.rgb.clamp(0, 1).cpu(),
                    renders.ccm.clamp(0, 1).cpu())

    def _prepare_images(self, images: Tensor | list) -> Tensor:
        size = self.image_size
        if len(images) == 0:
            raise InputError("no image to start from: give at least one")
        if not torch.is_tensor(images):
            images = torch.stack([_to_tensor(image, size) for image in images])
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise InputError(f"images must be (B, 3, {size}, {size}), got {tuple(images.shape)}")
        return images.float()

    @staticmethod
    def _guidance(scale: float | tuple[float, float], views: int, device) -> Tensor | None:
        first, last = scale if isinstance(scale, (tuple, list)) else (scale, scale)
        if first == last == 1:
            return None
        return torch.linspace(first, last, views, device=device)[None, :, None, None, None]


def convert_weights(pipeline: Ouroboros3DPipeline, dtype: torch.dtype) -> None:
    """Weights to another type, in place; those that must stay in single precision (SVD's encoder) are not touched.

    For the paper's models, which take inputs of any type and give single precision back. Random noise, noise levels,
    the solver's steps, guidance, Gaussians and splatting are in single precision always. Raises InputError for others.
    """
    if dtype != torch.float32 and not takes_half_weights(pipeline):
        raise InputError("weights in half precision are for the paper's models; small ones run under autocast (bf16)")
    for model in pipeline.components.values():
        if isinstance(model, torch.nn.Module):
            convert_model(model, dtype)


def takes_half_weights(pipeline: Ouroboros3DPipeline) -> bool:
    """Whether these are the paper's models; converting the few weights of small ones would gain nothing."""
    return getattr(pipeline.multiview, "takes_image_token", False)


def convert_model(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """One model of `convert_weights`."""
    exact = [module for name, module in model.named_modules()
             if name.split(".")[-1] in (getattr(model, "_keep_in_fp32_modules", None) or ())]
    keep = {id(tensor) for module in exact for tensor in (*module.parameters(), *module.buffers())}

    def converted(tensor: Tensor) -> Tensor:
        wanted = torch.float32 if id(tensor) in keep else dtype
        return tensor.to(wanted) if tensor.is_floating_point() else tensor

    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            parameter.data = converted(parameter).data
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = converted(buffer)
    return model


def channels_last(model: torch.nn.Module) -> None:
    """Lay out the weights of 2D and 3D convolutions as the fast kernels want them, in place."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in model.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.to(memory_format=formats[parameter.ndim])


def _import_classes(index: dict) -> type[Ouroboros3DPipeline] | None:
    """Import the library's classes that a model_index.json names: diffusers takes only those imported already.

    Returns the class of the pipeline itself if it is one of the library's.
    """
    library = import_module("ouroboros_lib")
    named = {index["_class_name"], *(entry[1] for entry in index.values() if isinstance(entry, (list, tuple))
                                     and len(entry) == 2 and str(entry[0]).split(".")[0] == "ouroboros_lib")}
    for name in named & set(library.__all__):
        getattr(library, name)
    kind = getattr(library, index["_class_name"], None)
    return kind if isinstance(kind, type) and issubclass(kind, Ouroboros3DPipeline) else None


def _check_complete(components: dict) -> None:
    """Raise ValueError unless the files of each model hold its tensors and no others: diffusers only warns."""
    for name, model in components.items():
        if isinstance(model, torch.nn.Module):
            files = Path(model.config._name_or_path).glob("*.safetensors")
            stored = {key for file in files for key in safe_open(file, "pt").keys()}
            if odd := sorted(stored ^ model.state_dict().keys()):
                raise ValueError(f"{name} and its file differ in {odd[0]} and {len(odd) - 1} more tensors")


def _to_tensor(image, size: int) -> Tensor:
    """A square PIL image, composited on white if it has alpha, to (3, size, size) in [0, 1]. Raises InputError."""
    if image.width != image.height:
        raise InputError(f"a picture of {image.width} x {image.height} pixels would be squashed to a square: frame the "
                         "object with ouroboros_lib.data.photo.load_photo(path, pipe.image_size).image[None]")
    rgba = torch.from_numpy(np.array(image.convert("RGBA").resize((size, size)))).movedim(-1, 0) / 255
    return rgba[:3] * rgba[3:] + 1 - rgba[3:]
