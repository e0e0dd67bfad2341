"""The training loop: accelerate for devices and precision, EMA weights, atomic checkpoints, pictures on the way."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.training_utils import EMAModel
from tqdm import tqdm

from ..data.ring import ObjectRing, held_out_objects
from ..errors import InputError
from ..pipeline import SETTINGS, Ouroboros3DPipeline
from ..presets import load_preset
from .config import TrainingConfig
from .steps import autoencoder_losses, joint_losses, multiview_losses, reconstructor_losses, unwrapped
from .validation import validate

COMPONENTS = ("autoencoder", "multiview", "reconstructor")
TRAINED = {"autoencoder": ("autoencoder",), "reconstructor": ("reconstructor",), "multiview": ("multiview",),
           "joint": ("multiview", "reconstructor")}
SETTINGS_OF = {"multiview": ("coordinate_map",),  # kept with a model
               "reconstructor": ("reconstructor_sigma_min", "reconstructor_sigma_max")}


def train(preset: str, out: str | Path, config: TrainingConfig, init: list[str] | None = None,
          resume: bool = False) -> dict[str, float]:
    """Train one stage of a preset and write `out`/pipeline, checkpoints, samples and TensorBoard logs.

    init: pipeline folders to start from, PATH for all components or `component=PATH` for one; later ones win.
    resume: go on from the newest checkpoint in `out`. Returns the last figures logged. Raises InputError.
    """
    if preset == "paper":
        raise InputError("--preset paper: training at the paper's scale is not built yet; use small or tiny")
    out = Path(out)
    newest = latest_checkpoint(out)
    if resume and newest is None:
        raise InputError(f"{out}: --resume, but there is no checkpoint in it; start without --resume")
    if newest is not None and not resume:
        raise InputError(f"{out}: holds checkpoints of an earlier run; add --resume to go on, or choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(mixed_precision=config.mixed_precision, log_with="tensorboard", project_dir=out)
    set_seed(config.seed, device_specific=True)
    return _Trainer(accelerator, preset, out, config, init or []).run(newest)


class _Trainer:
    def __init__(self, accelerator: Accelerator, preset_name: str, out: Path, config: TrainingConfig, init: list[str]):
        self.accelerator, self.out, self.config = accelerator, out, config
        self.preset = load_preset(preset_name)
        self.pipeline = initial_pipeline(preset_name, init, config)
        self.noise = self.pipeline.scheduler
        self.models = {name: getattr(self.pipeline, name) for name in COMPONENTS}
        self.trained = TRAINED[config.stage]
        self.step, self.seconds = 0, 0.0

        device = accelerator.device
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = True
        groups = []
        for name, model in self.models.items():
            model.to(device, memory_format=torch.channels_last)
            model.requires_grad_(name in self.trained).train(name in self.trained)
            if name == "autoencoder" and not config.train_encoder:
                model.encoder.requires_grad_(False)
            if name in self.trained:
                is_g = name == "reconstructor"
                rate = config.reconstructor_learning_rate if is_g else config.learning_rate
                groups.append({"params": list(model.parameters()), "lr": rate, "peak": rate})
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=config.weight_decay,
                                      fused=device.type == "cuda")
        self.ema = {name: EMAModel(self.models[name].parameters(), decay=config.ema_decay, use_ema_warmup=True,
                                   power=0.75, foreach=True) for name in self.trained}
        self.optimizer = accelerator.prepare(optimizer)
        for name in self.trained:
            if config.compile:
                self._compile(self.models[name])
            self.models[name] = accelerator.prepare(self.models[name])
        self.decode = self.pipeline.autoencoder.decode
        if config.compile:
            self.decode = torch.compile(self.decode, dynamic=False)
        accelerator.register_for_checkpointing(self, *self.ema.values())

        needs_latents = config.stage in ("multiview", "joint")
        self.ring = ObjectRing(self.preset.image_size, self.preset.num_views, config.objects, device,
                               config.novel_views, seed=config.seed, rank=accelerator.process_index,
                               world_size=accelerator.num_processes, encode=self._encode if needs_latents else None,
                               chunk=min(config.refresh_objects, config.objects))
        self.validation = held_out_objects("val", config.validation_objects, self.preset.image_size,
                                           self.preset.num_views, config.novel_views, device=device)

    def _compile(self, model) -> None:
        if self.accelerator.num_processes > 1:  # splitting graphs for overlap compiles them once more
            torch._dynamo.config.optimize_ddp = False
        part = "network" if hasattr(model, "network") else "forward"  # what follows G's network is cheap
        setattr(model, part, torch.compile(getattr(model, part), dynamic=False))

    @torch.no_grad()
    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        with self.accelerator.autocast():
            return self.pipeline.autoencoder.encode(images).to(
                torch.bfloat16 if images.device.type == "cuda" else torch.float32)

    def losses(self) -> dict[str, torch.Tensor]:
        config, models = self.config, self.models
        if config.stage == "autoencoder":  # the batch size counts pictures here
            objects = self.ring.batch(-(-config.batch_size // self.ring.views))
            return autoencoder_losses(models["autoencoder"], objects, config)
        batch = self.ring.batch(config.batch_size, images=config.stage != "multiview")
        if config.stage == "reconstructor":
            return reconstructor_losses(models["reconstructor"], batch, config)
        if config.stage == "multiview":
            return multiview_losses(models["multiview"], self.noise, batch, config)
        return joint_losses(models["multiview"], models["reconstructor"], self.decode, self.noise, batch, config)

    def run(self, checkpoint: Path | None) -> dict[str, float]:
        accelerator, config = self.accelerator, self.config
        accelerator.init_trackers("logs", config=asdict(config))
        if checkpoint is not None:
            # for processes that the checkpoint does not know; load_state brings the random states of the others back
            set_seed(config.seed + int(checkpoint.name.rpartition("-")[2]), device_specific=True)
            accelerator.load_state(checkpoint)
            for ema in self.ema.values():  # accelerate loads what is not a model onto the CPU
                ema.to(accelerator.device)
        seconds_before, first_step = self.seconds, self.step
        self.ring.fill()
        figures, sums, summed = {}, {}, 0  # a single batch's losses vary with its noise levels: log means
        progress = tqdm(total=config.steps, initial=self.step, disable=not accelerator.is_main_process,
                        mininterval=1.0 if config.steps < 1000 else 10.0)
        while (fraction := self.fraction()) < 1:
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak"] * learning_rate_factor(fraction, config.warmup)
            with accelerator.autocast():
                losses = self.losses()
            self.optimizer.zero_grad()
            accelerator.backward(sum(losses.values()))
            norms = {f"gradient/{name}": accelerator.clip_grad_norm_(self.models[name].parameters(),
                                                                     config.gradient_clip) for name in self.trained}
            self.optimizer.step()
            for name in self.trained:
                self.ema[name].step(unwrapped(self.models[name]).parameters())
            sums = {name: sums.get(name, 0) + value.detach() for name, value in (losses | norms).items()}
            summed += 1
            self.step += 1
            if self.step == first_step + 1:  # the clock starts here: compilation takes minutes, but trains nothing
                started = time.monotonic()
            self.seconds = seconds_before + time.monotonic() - started
            progress.update()

            if self.step % config.refresh_every == 0:
                self.ring.refresh()
            if self.step % config.log_every == 0 or self.step == config.steps:
                figures, sums, summed = {name: float(value) / summed for name, value in sums.items()}, {}, 0
                self._log(figures, progress)
            if config.checkpoint_every and self.step % config.checkpoint_every == 0:
                self.save_checkpoint()
            if config.validate_every and self.step % config.validate_every == 0:
                figures |= self.validate()
        progress.close()
        if config.stage == "autoencoder" and config.train_encoder:
            self.measure_latents()
        figures |= self.validate()
        self.export()
        accelerator.end_training()
        return figures

    def fraction(self) -> float:
        """Share of the run that is done, by steps or by the clock, whichever is further."""
        fraction = self.step / self.config.steps
        if self.config.max_minutes:
            elapsed = torch.tensor(self.seconds / (60 * self.config.max_minutes), device=self.accelerator.device)
            if self.accelerator.num_processes > 1:  # all processes must stop at the same step
                elapsed = self.accelerator.reduce(elapsed, "mean")
            fraction = max(fraction, float(elapsed))
        return fraction

    def _log(self, figures: dict[str, float], progress: tqdm) -> None:
        if not all(math.isfinite(value) for name, value in figures.items() if not name.startswith("gradient")):
            raise self._diverged(figures)
        figures = figures | {"samples": self.step * self.config.batch_size * self.accelerator.num_processes,
                             "minutes": self.seconds / 60}
        self.accelerator.log(figures, step=self.step)
        if self.accelerator.is_main_process:
            with open(self.out / "log.jsonl", "a") as file:
                file.write(json.dumps({"step": self.step} | figures) + "\n")
        progress.set_postfix({name: f"{value:.4f}" for name, value in figures.items() if "/" not in name})

    def _diverged(self, what) -> RuntimeError:
        return RuntimeError(f"training diverged at step {self.step} ({what}); the last good state is "
                            f"{latest_checkpoint(self.out) or 'none'}; try a lower learning rate")

    def validate(self) -> dict[str, float]:
        """Write a sheet of pictures and return figures of a few validation objects, with the EMA weights."""
        figures = {}
        if self.accelerator.is_main_process:
            # eager: compiling for these few objects would take longer than they do
            with self._ema_weights(), self.accelerator.autocast(), torch.compiler.set_stance("force_eager"):
                (self.out / "samples").mkdir(exist_ok=True)
                figures = validate(self.pipeline, self.validation, self.config,
                                   self.out / "samples" / f"step_{self.step:07d}.png")
            self.accelerator.log({f"validation/{name}": value for name, value in figures.items()}, step=self.step)
            print(f"step {self.step}, {self.seconds / 60:.1f} min:",
                  ", ".join(f"{name} {value:.2f}" for name, value in figures.items()), flush=True)
        self.accelerator.wait_for_everyone()
        return figures

    @torch.no_grad()
    def measure_latents(self) -> None:
        """Set the autoencoder's normalisation so that latents have zero mean and unit variance on training objects."""
        autoencoder = unwrapped(self.models["autoencoder"])
        with self._ema_weights():
            images = self.ring.batch(min(256, len(self.ring))).orbit_images.flatten(0, 1)
            means = torch.cat([autoencoder.posterior(chunk)[0] for chunk in images.split(128)])
        autoencoder.latent_mean.copy_(means.mean(dim=(0, 2, 3))[:, None, None])
        autoencoder.latent_std.copy_(means.std(dim=(0, 2, 3))[:, None, None])

    def export(self) -> None:
        """Write `out`/pipeline, EMA weights in half precision, in one move."""
        if not self.accelerator.is_main_process:
            return
        with self._ema_weights():
            save_pipeline(self.pipeline, self.out / "pipeline")

    def save_checkpoint(self) -> None:
        """accelerate's whole state, written beside and moved into place; the two newest are kept."""
        for name in self.trained:
            if not all(parameter.isfinite().all() for parameter in self.models[name].parameters()):
                raise self._diverged(f"{name} has weights that are no numbers")
        partial, final = self.out / "checkpoint.partial", self.out / f"checkpoint-{self.step:07d}"
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            os.replace(partial, final)
            for old in sorted(self.out.glob("checkpoint-*"))[:-2]:
                shutil.rmtree(old)

    def state_dict(self) -> dict:
        return {"step": self.step, "seconds": self.seconds, "next_object": self.ring.next}

    def load_state_dict(self, state: dict) -> None:
        self.step, self.seconds = state["step"], state["seconds"]
        self.ring.restart(state["next_object"])

    def _ema_weights(self):
        return _Swapped({name: (self.ema[name], unwrapped(self.models[name])) for name in self.trained})


class _Swapped:
    """Put the EMA weights into the models for a while."""

    def __init__(self, pairs):
        self.pairs = pairs

    def __enter__(self):
        for ema, model in self.pairs.values():
            ema.store(model.parameters())
            ema.copy_to(model.parameters())
            model.eval()

    def __exit__(self, *error):
        for ema, model in self.pairs.values():
            ema.restore(model.parameters())
            model.train()


def learning_rate_factor(fraction: float, warmup: float) -> float:
    """Linear rise over the share `warmup` of the run, then a cosine to zero."""
    rise = min(1.0, (fraction + 1e-3) / warmup) if warmup else 1.0
    return rise * (0.5 + 0.5 * math.cos(math.pi * fraction)) + 1e-4


def initial_pipeline(preset_name: str, init: list[str], config: TrainingConfig) -> Ouroboros3DPipeline:
    """Random models of the preset, with those that `init` names replaced; F's encoders follow `config.feedback`.

    An F without encoders that `config.feedback` asks for gets new ones, which start at zero.
    """
    pipeline = Ouroboros3DPipeline.from_preset(preset_name, seed=config.seed)
    if config.view_attention:
        new = type(pipeline.multiview).from_config(pipeline.multiview.config, view_attention=config.view_attention)
        pipeline.register_modules(multiview=new)
    for entry in init:
        component, equals, path = entry.partition("=")
        if equals and component not in COMPONENTS:
            raise InputError(f"--init {entry}: unknown component {component!r}, expected {', '.join(COMPONENTS)}")
        source = Ouroboros3DPipeline.from_pretrained(path if equals else entry)
        for name in [component] if equals else COMPONENTS:
            size = getattr(source, name).config.get("image_size", pipeline.image_size)
            if size != pipeline.image_size:
                raise InputError(f"--init {entry}: its {name} is for images of {size} pixels, the preset for "
                                 f"{pipeline.image_size}; choose the preset it was trained with")
            pipeline.register_modules(**{name: getattr(source, name)})
            for setting in SETTINGS_OF.get(name, ()):
                pipeline.register_to_config(**{setting: source.config[setting]})
    if config.view_attention not in ("", pipeline.multiview.config.view_attention):
        raise InputError(f"--set view_attention={config.view_attention}: the F of --init has "
                         f"{pipeline.multiview.config.view_attention} attention; leave the setting out or start anew")
    if config.stage in ("multiview", "joint") and pipeline.multiview.config.feedback != config.feedback:
        old = pipeline.multiview
        pipeline.register_modules(multiview=type(old).from_config(old.config, feedback=config.feedback))
        mismatch = pipeline.multiview.load_state_dict(old.state_dict(), strict=False)
        foreign = [key for key in mismatch.missing_keys if not key.startswith("feedback_encoders.")]
        if foreign:
            raise InputError(f"--init: F lacks {foreign[0]} and {len(foreign) - 1} more tensors")
    if config.stage == "joint":
        pipeline.register_to_config(coordinate_map=config.coordinate_map)
    if "reconstructor" in TRAINED[config.stage]:
        knows_noise = config.stage == "joint" and config.joint
        pipeline.register_to_config(reconstructor_sigma_max=None if knows_noise else config.clean_sigma)
    return pipeline


def save_pipeline(pipeline: Ouroboros3DPipeline, folder: Path) -> None:
    """Write a pipeline in half precision as a folder, beside and moved into place; an older one is replaced."""
    partial, old = folder.with_name(folder.name + ".partial"), folder.with_name(folder.name + ".old")
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    half = {}
    for name in COMPONENTS:
        model = getattr(pipeline, name)
        # keys with an underscore say where the weights came from: a path of this machine
        copy = type(model).from_config({key: value for key, value in model.config.items() if key[0] != "_"})
        copy.load_state_dict(model.state_dict())
        half[name] = copy.half()
    settings = {name: pipeline.config[name] for name in SETTINGS}
    Ouroboros3DPipeline(**half, scheduler=pipeline.scheduler, image_encoder=pipeline.image_encoder,
                        **settings).save_pretrained(partial)
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def latest_checkpoint(out: Path) -> Path | None:
    return max(out.glob("checkpoint-*"), default=None)
