"""The training loop: accelerate for devices and precision, EMA weights, atomic checkpoints, pictures on the way."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DDPCommunicationHookType, set_seed
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from ..data.batches import MultiviewBatch, held_out_objects
from ..data.buffer import ObjectBuffer
from ..errors import InputError
from ..loading import channels_last, convert_model
from ..presets import load_preset
from ..speed.compiling import compile_network, network_of
from .conditions import Condition, noised_condition
from .config import TrainingConfig
from .data import RenderedObjects
from .fast.averages import WeightAverages, share, swapped_in
from .fast.cuda_graphs import Graphs, check_recordable, exchange_gradients, share_by_hand
from .fast.sharding import gathered, is_sharded, reshard, shard
from .fast.step import Backward, autoencoder_losses, joint_losses, multiview_losses, reconstructor_losses, unwrapped
from .initial import COMPONENTS, TRAINED, initial_pipeline, save_pipeline
from .perceptual import perceptual_loss
from .validation import validate


def train(preset: str, out: str | Path, config: TrainingConfig, init: list[str] | None = None,
          resume: bool = False, data: str | Path | None = None) -> dict[str, float]:
    """Train one stage of a preset and write `out`/pipeline, checkpoints, samples and TensorBoard logs.

    init: pipeline folders to start from, PATH for all components or `component=PATH` for one; later ones win.
    resume: go on from the newest checkpoint in `out`. data: a folder of multi-view objects or of shards to learn from
    instead of procedural objects. Returns the last figures logged. Raises InputError.
    """
    if preset == "paper" and not (data and init):
        raise InputError("--preset paper: give --data DIR, rendered objects, and --init DIR, what `ouroboros convert "
                         "svd` wrote: nobody trains these models from nothing on toy objects")
    out = Path(out)
    newest = latest_checkpoint(out)
    if resume and newest is None:
        raise InputError(f"{out}: --resume, but there is no checkpoint in it; start without --resume")
    if newest is not None and not resume:
        raise InputError(f"{out}: holds checkpoints of an earlier run; add --resume to go on, or choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    accelerator = new_accelerator(out, config)
    set_seed(config.seed, device_specific=True)
    return _Trainer(accelerator, preset, out, config, init or [], data).run(newest)


def new_accelerator(out: Path, config: TrainingConfig) -> Accelerator:
    hook = DDPCommunicationHookType.BF16 if config.gradient_exchange == "bf16" else DDPCommunicationHookType.NO
    return Accelerator(mixed_precision=config.mixed_precision, gradient_accumulation_steps=config.accumulation,
                       log_with="tensorboard", project_dir=out,
                       kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True, comm_hook=hook)])


class _Trainer:
    def __init__(self, accelerator: Accelerator, preset_name: str, out: Path, config: TrainingConfig, init: list[str],
                 data: str | Path | None = None, random_weights_on: torch.device | None = None):
        self.accelerator, self.out, self.config = accelerator, out, config
        self.preset = load_preset(preset_name)
        self.sharded = is_sharded(accelerator)
        self.by_hand = config.cuda_graphs and accelerator.num_processes > 1  # F's gradients are exchanged
        if config.cuda_graphs:
            check_recordable(accelerator)
        device = accelerator.device
        self._open_data(data)
        self.perceptual = None if config.lpips == "off" else perceptual_loss(config.lpips, device)
        self.pipeline = initial_pipeline(preset_name, init, config, random_weights_on)
        self.noise = self.pipeline.scheduler
        self.models = {name: getattr(self.pipeline, name) for name in COMPONENTS}
        self.trained = TRAINED[config.stage]
        self.step, self.seconds = 0, 0.0

        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = True
        groups = []
        for name, model in self.models.items():
            model.to(device)
            if not self.sharded:  # FSDP shards weights in plain order only
                channels_last(model)
            model.requires_grad_(name in self.trained).train(name in self.trained)
            if config.gradient_checkpointing and model._supports_gradient_checkpointing:
                # no dropout here: the random state, which a recording could not read, need not be kept
                model.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=False, preserve_rng_state=False))
            if name == "autoencoder" and not config.train_encoder:
                model.encoder.requires_grad_(False)
            if name in self.trained:
                is_g = name == "reconstructor"
                rate = config.reconstructor_learning_rate if is_g else config.learning_rate
                groups.append({"params": list(model.parameters()), "lr": rate, "peak": rate})
        if self.pipeline.image_encoder is not None:
            self.pipeline.image_encoder.to(device).requires_grad_(False).eval()
        self.optimizers = self._prepare(groups)
        self.graphs = Graphs(self.models["multiview"].parameters()) if config.cuda_graphs else None
        self.ema = {name: WeightAverages(unwrapped(self.models[name]).parameters(), config.ema_decay**config.ema_every,
                                         None if config.ema_device == "same" else config.ema_device)
                    for name in self.trained}
        self.decode = self._decoder()
        accelerator.register_for_checkpointing(self, *self.ema.values())

    def _open_data(self, data: str | Path | None) -> None:
        """The source of batches, and objects that are not among them to look at."""
        config, preset, accelerator = self.config, self.preset, self.accelerator
        rank, processes = accelerator.process_index, accelerator.num_processes
        if data is not None:
            self.source = RenderedObjects(data, preset, config, accelerator.device, rank, processes)
            self.validation = self.source.held_out()
            return
        needs_latents = config.stage in ("multiview", "joint")
        self.source = ObjectBuffer(preset.image_size, preset.num_views, config.objects, accelerator.device,
                                 config.novel_views, seed=config.seed, rank=rank, world_size=processes,
                                 encode=self._encode if needs_latents else None,
                                 chunk=min(config.refresh_objects, config.objects))
        self.validation = held_out_objects("val", config.validation_objects, preset.image_size, preset.num_views,
                                           config.novel_views, device=accelerator.device)

    def _prepare(self, groups: list[dict]) -> list:
        """Wrap the trained models for their processes; one optimizer, or one for each model that is sharded."""
        config, accelerator = self.config, self.accelerator

        def adamw(groups: list[dict]) -> torch.optim.AdamW:
            return torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=config.weight_decay,
                                     fused=accelerator.device.type == "cuda")

        optimizers = [] if self.sharded else [accelerator.prepare(adamw(groups))]
        for name, group in zip(self.trained, groups, strict=True):
            if config.compile:
                self._compile(self.models[name])
            if self.sharded:
                self.models[name], optimizer = shard(accelerator, self.models[name], adamw([group]),
                                                       config.gradient_exchange)
                optimizers.append(optimizer)
            elif self.by_hand and name == "multiview":
                self.models[name] = share_by_hand(accelerator, self.models[name])
            else:
                self.models[name] = accelerator.prepare(self.models[name])
        return optimizers

    def _compile(self, model) -> None:
        if self.accelerator.num_processes > 1:  # splitting graphs for overlap compiles them once more
            torch._dynamo.config.optimize_ddp = False
        compile_network(model, network_of(model))

    def _decoder(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Latents to images. Of a decoder that does not learn and keeps its types, SVD's, a copy in half precision:
        autocast would convert its weights and compute its norms in single precision, each time anew."""
        autoencoder = self.pipeline.autoencoder
        if getattr(autoencoder, "_layers_are_fused", False):
            half = self.config.mixed_precision == "bf16"
            return convert_model(copy.deepcopy(autoencoder), torch.bfloat16).decode if half else autoencoder.decode
        return torch.compile(autoencoder.decode, dynamic=False) if self.config.compile else autoencoder.decode

    @torch.no_grad()
    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        """Latents of views. By SVD's encoder in single precision, in which it does not overflow, object by object."""
        if self.pipeline.image_encoder is not None:
            with torch.autocast(images.device.type, enabled=False):
                return torch.stack([self.pipeline.autoencoder.encode(views) for views in images])
        with self.accelerator.autocast():
            return self.pipeline.autoencoder.encode(images).to(
                torch.bfloat16 if images.device.type == "cuda" else torch.float32)

    def losses(self, part: int = 0, backward: Backward = None) -> dict[str, torch.Tensor]:
        """Of the next batch; `part`: its number among those of one step. backward: see `joint_losses`."""
        config, models = self.config, self.models
        if config.stage == "autoencoder":  # the batch size counts pictures here
            objects = self.source.batch(-(-config.batch_size // self.source.views))
            return autoencoder_losses(models["autoencoder"], objects, config)
        if config.stage == "reconstructor":
            batch = self.source.batch(config.batch_size)
            return reconstructor_losses(models["reconstructor"], batch, config, self.perceptual)
        batch, condition = self.next_batch()
        if config.stage == "multiview":
            return multiview_losses(models["multiview"], self.noise, batch, config, condition)
        chance = random.Random(f"{config.seed} {self.step} {part}").random()  # the same in all processes
        return joint_losses(models["multiview"], models["reconstructor"], self.decode, self.noise, batch, config,
                            condition, chance, self.perceptual, backward, self.graphs if backward else None)

    def next_batch(self) -> tuple[MultiviewBatch, Condition | None]:
        """For F: objects with latents and, for an F that takes a token, its noised condition."""
        takes_token = self.pipeline.image_encoder is not None
        batch = self.source.batch(self.config.batch_size, images=self.config.stage != "multiview" or takes_token)
        if batch.latents is None:  # the source does not keep them
            batch = replace(batch, latents=self._encode(batch.orbit_images).float())
        return batch, noised_condition(self.pipeline, batch.images[:, 0], self.config) if takes_token else None

    def run(self, checkpoint: Path | None) -> dict[str, float]:
        accelerator, config = self.accelerator, self.config
        accelerator.init_trackers("logs", config=asdict(config))
        if checkpoint is not None:
            self.load_checkpoint(checkpoint)
        seconds_before, first_step = self.seconds, self.step
        self.source.fill()
        figures, sums, summed = {}, {}, 0  # a single batch's losses vary with its noise levels: log means
        progress = tqdm(total=config.steps, initial=self.step, disable=not accelerator.is_main_process,
                        mininterval=1.0 if config.steps < 1000 else 10.0)
        while (fraction := self.fraction()) < 1:
            for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
                group["lr"] = group["peak"] * learning_rate_factor(fraction, config.warmup, config.schedule)
            for name, value in self.train_step().items():
                sums[name] = sums.get(name, 0) + value
            summed += 1
            self.step += 1
            if self.step == first_step + 1:  # the clock starts here: compilation takes minutes, but trains nothing
                started = time.monotonic()
            self.seconds = seconds_before + time.monotonic() - started
            progress.update()

            if self.step % config.refresh_every == 0:
                self.source.refresh()
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

    def train_step(self) -> dict[str, torch.Tensor]:
        """One step of the optimizer, from as many batches as are accumulated: mean losses, and norms of gradients."""
        accelerator, config = self.accelerator, self.config
        figures: dict[str, torch.Tensor] = {}
        for part in range(config.accumulation):
            with accelerator.accumulate(*(self.models[name] for name in self.trained)):
                with accelerator.autocast():
                    losses = self.losses(part, self.backward)
                rest = [loss for loss in losses.values() if loss.requires_grad]
                if rest:
                    self.backward(sum(rest))
            for name, value in losses.items():
                figures[name] = figures.get(name, 0) + value.detach() / config.accumulation
        figures |= self.update()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=self.graphs is None)
        return figures

    def backward(self, loss: torch.Tensor) -> None:
        """Of a loss divided by the number of accumulated batches. What went forward outside autocast goes back so."""
        with torch.autocast(self.accelerator.device.type, enabled=False):
            self.accelerator.backward(loss)

    def update(self) -> dict[str, torch.Tensor]:
        """Clip, step and average. Returns the norms of the gradients of each model."""
        norms = {}
        reshard(list(self.models.values()))
        if self.by_hand:
            exchange_gradients(self.models["multiview"].parameters(),
                               torch.bfloat16 if self.config.gradient_exchange == "bf16" else torch.float32)
        self.accelerator.unscale_gradients()
        for name in self.trained:
            norm = torch.nn.utils.clip_grad_norm_(self.models[name].parameters(), self.config.gradient_clip)
            norms[f"gradient/{name}"] = norm.full_tensor() if self.sharded else norm
        for ema in self.ema.values():
            ema.release()
        for optimizer in self.optimizers:
            optimizer.step()
        if (self.step + 1) % self.config.ema_every == 0:
            self.update_averages()
        return norms

    def update_averages(self) -> None:
        if self.sharded or self.accelerator.is_main_process:  # whole weights are the same everywhere: one averages them
            for name in self.trained:
                self.ema[name].step(unwrapped(self.models[name]).parameters())

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
        figures = figures | {"samples": self.step * self.config.accumulation * self.config.batch_size
                             * self.accelerator.num_processes, "minutes": self.seconds / 60}
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
        figures, is_main = {}, self.accelerator.is_main_process
        if is_main or self.sharded:  # shares of weights are gathered by all processes together
            path = self.out / "samples" / f"step_{self.step:07d}.png"
            path.parent.mkdir(exist_ok=True)
            # eager: compiling for these few objects would take longer than they do
            with self._ema_weights(), gathered(list(self.models.values())), self.accelerator.autocast(), \
                    torch.compiler.set_stance("force_eager"):
                figures = validate(self.pipeline, self.validation, self.config, path if is_main else None)
            self.accelerator.log({f"validation/{name}": value for name, value in figures.items()}, step=self.step)
        if is_main:
            print(f"step {self.step}, {self.seconds / 60:.1f} min:",
                  ", ".join(f"{name} {value:.2f}" for name, value in figures.items()), flush=True)
        self.accelerator.wait_for_everyone()
        return figures

    @torch.no_grad()
    def measure_latents(self) -> None:
        """Set the autoencoder's normalisation so that latents have zero mean and unit variance on training objects."""
        autoencoder = unwrapped(self.models["autoencoder"])
        with self._ema_weights():
            images = self.source.batch(min(256, len(self.source))).orbit_images.flatten(0, 1)
            means = torch.cat([autoencoder.posterior(chunk)[0] for chunk in images.split(128)])
        autoencoder.latent_mean.copy_(means.mean(dim=(0, 2, 3))[:, None, None])
        autoencoder.latent_std.copy_(means.std(dim=(0, 2, 3))[:, None, None])

    def export(self) -> None:
        """Write `out`/pipeline, EMA weights in half precision, in one move."""
        with self._ema_weights():
            states = {name: self.accelerator.get_state_dict(self.models[name]) for name in self.trained
                      } if self.sharded else None
            if self.accelerator.is_main_process:
                save_pipeline(self.pipeline, self.out / "pipeline", states)

    def save_checkpoint(self) -> None:
        """accelerate's whole state, written beside and moved into place; the two newest are kept."""
        accelerator = self.accelerator
        for name in self.trained:
            sound = all(share(parameter).isfinite().all() for parameter in self.models[name].parameters())
            if not accelerator.gather(torch.tensor([sound], device=accelerator.device)).all():  # in every process
                raise self._diverged(f"{name} has weights that are no numbers")
        partial, final = self.out / "checkpoint.partial", self.out / f"checkpoint-{self.step:07d}"
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            os.replace(partial, final)
            for old in sorted(self.out.glob("checkpoint-*"))[:-2]:
                shutil.rmtree(old)

    def load_checkpoint(self, checkpoint: Path) -> None:
        if any(checkpoint.glob("pytorch_model_fsdp*")) != self.sharded:
            how = "without" if self.sharded else "with"
            raise InputError(f"{checkpoint}: was written {how} FSDP; go on as the run was started")
        # for processes that the checkpoint does not know; load_state brings the random states of the others back
        set_seed(self.config.seed + int(checkpoint.name.rpartition("-")[2]), device_specific=True)
        self.accelerator.load_state(checkpoint)
        if self.config.ema_device == "same":
            for ema in self.ema.values():  # accelerate loads what is not a model onto the CPU
                ema.to(self.accelerator.device)

    def state_dict(self) -> dict:
        return {"step": self.step, "seconds": self.seconds, "next_object": self.source.next}

    def load_state_dict(self, state: dict) -> None:
        self.step, self.seconds = state["step"], state["seconds"]
        self.source.restart(state["next_object"])

    def _ema_weights(self) -> AbstractContextManager:
        return swapped_in((self.ema[name], unwrapped(self.models[name])) for name in self.trained)


def learning_rate_factor(fraction: float, warmup: float, schedule: str = "cosine") -> float:
    """Linear rise over the share `warmup` of the run, then a cosine to zero, or no fall at all."""
    rise = min(1.0, (fraction + 1e-3) / warmup) if warmup else 1.0
    if schedule == "constant":
        return rise
    return rise * (0.5 + 0.5 * math.cos(math.pi * fraction)) + 1e-4


def latest_checkpoint(out: Path) -> Path | None:
    return max(out.glob("checkpoint-*"), default=None)
