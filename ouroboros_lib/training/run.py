"""What a training run is made of: models wrapped for their processes, optimizers, averages, data."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import DDPCommunicationHookType, set_seed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..data.batches import MultiviewBatch, held_out_objects
from ..data.buffer import ObjectBuffer
from ..errors import InputError, needs
from ..loading import channels_last
from ..losses import Perceptual
from ..pipeline import Ouroboros3DPipeline
from ..presets import Preset, load_preset
from ..speed.cuda_graphs import CudaGraphs
from .config import TrainingConfig
from .data import RenderedObjects, refuse_settings_of_meshes
from .fast.averages import WeightAverages, swapped_in
from .fast.compiled import compile_for_training, decoder
from .fast.cuda_graphs import check_recordable, share_by_hand
from .fast.sharding import is_sharded, shard
from .initial import COMPONENTS, TRAINED, initial_pipeline
from .loopback import meeting_place
from .mixture import GivenBuffer, MixedObjects
from .muon import Muon, is_hidden
from .perceptual import perceptual_loss

Source = ObjectBuffer | RenderedObjects | MixedObjects


@dataclass
class Run:
    """A run, ready for its next step.

    networks: the models that are trained, by name, wrapped for their processes; pipe has them bare. optimizers: one,
    two with Muon, or one a model if weights are sharded. averages: of the weights (EMA), by name. source: of batches;
    validation: objects that are not among them. step, seconds: what is done. sums, summed: of what the next line of
    the log is the mean; figures: of the last line. preset, data: arguments of `train`.
    """

    accelerator: Accelerator
    out: Path
    config: TrainingConfig
    pipe: Ouroboros3DPipeline
    source: Source
    validation: MultiviewBatch
    networks: dict[str, nn.Module]
    optimizers: list
    averages: dict[str, WeightAverages]
    decode: Callable[[Tensor], Tensor]
    perceptual: Perceptual = None
    cuda_graphs: CudaGraphs | None = None
    step: int = 0
    seconds: float = 0.0
    sums: dict[str, Tensor] = field(default_factory=dict)
    summed: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    preset: str = ""
    data: str | Path | None = None

    @property
    def is_fast(self) -> bool:
        """Whether Algorithm 1 is training/fast/step.py's; the plain one is for a single process on a CPU."""
        accelerator, config = self.accelerator, self.config
        return (accelerator.device.type != "cpu" or accelerator.num_processes > 1 or config.mixed_precision != "no"
                or config.compile or config.cuda_graphs)

    @property
    def sharded(self) -> bool:
        return is_sharded(self.accelerator)

    @property
    def exchanges_by_hand(self) -> bool:
        """Whether F's gradients are exchanged after replayed passes, in which no hook runs."""
        return self.config.cuda_graphs and self.accelerator.num_processes > 1

    def encode(self, images: Tensor) -> Tensor:
        return encode_views(self.pipe, self.accelerator, images, self.config.sample_latents)

    def averaged(self) -> AbstractContextManager:
        """Inside, the trained models have their averages in place of their weights."""
        return swapped_in((self.averages[name], getattr(self.pipe, name)) for name in self.networks)

    def share_done(self) -> float:
        """Share of the run that is done, by steps or by the clock, whichever is further."""
        fraction = self.step / self.config.steps
        if self.config.max_minutes:
            elapsed = torch.tensor(self.seconds / (60 * self.config.max_minutes), device=self.accelerator.device)
            if self.accelerator.num_processes > 1:  # all processes must stop at the same step
                elapsed = self.accelerator.reduce(elapsed, "mean")
            fraction = max(fraction, float(elapsed))
        return fraction

    def state_dict(self) -> dict:
        return {"step": self.step, "seconds": self.seconds, "next_object": self.source.next}

    def load_state_dict(self, state: dict) -> None:
        """With another number of processes, to which the clock may be fitted, the share that is done counts, not the
        seconds."""
        self.step, self.seconds = state["step"], state["seconds"]
        before = state["settings"]["max_minutes"]
        if before and self.config.max_minutes and state["processes"] != self.accelerator.num_processes:
            self.seconds *= self.config.max_minutes / before
        self.source.restart(state["next_object"])


def set_up(preset: str, out: Path, config: TrainingConfig, init: list[str] | None = None,
           data: str | Path | None = None, random_weights_on: torch.device | str | None = None) -> Run:
    """A run at its first step; its source is not filled yet. Arguments are those of `train`.

    random_weights_on: where random weights are drawn, for models that take minutes elsewhere. Raises InputError.
    """
    accelerator = new_accelerator(out, config)
    set_seed(config.seed, device_specific=True)
    device = accelerator.device
    if config.cuda_graphs:
        check_recordable(accelerator)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    source, validation = open_data(load_preset(preset), config, accelerator, data)
    perceptual = None if config.lpips == "off" else perceptual_loss(
        config.lpips, device, config.lpips_size, config.lpips_weight, config.compile)
    pipe = initial_pipeline(preset, init or [], config, random_weights_on)
    if not isinstance(source, RenderedObjects) and config.stage in ("multiview", "joint"):
        source.encode = partial(encode_views, pipe, accelerator, sample=config.sample_latents)

    trained, sharded = TRAINED[config.stage], is_sharded(accelerator)
    for name in COMPONENTS:
        model = getattr(pipe, name).to(device)
        if not sharded:  # FSDP shards weights in plain order only
            channels_last(model)
        model.requires_grad_(name in trained).train(name in trained)
        if config.gradient_checkpointing and model._supports_gradient_checkpointing:
            # no dropout here: the random state, which a recording could not read, need not be kept
            model.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=False, preserve_rng_state=False))
    if not config.train_encoder:
        pipe.autoencoder.encoder.requires_grad_(False)
    if pipe.image_encoder is not None:
        pipe.image_encoder.to(device).requires_grad_(False).eval()

    networks, optimizers = _wrap({name: getattr(pipe, name) for name in trained}, accelerator, config)
    averages = {name: WeightAverages(getattr(pipe, name).parameters(), config.ema_decay**config.ema_every,
                                     None if config.ema_device == "same" else config.ema_device) for name in trained}
    return Run(accelerator, out, config, pipe, source, validation, networks, optimizers, averages,
               decoder(pipe.autoencoder, config), perceptual,
               CudaGraphs(networks["multiview"].parameters()) if config.cuda_graphs else None, preset=preset, data=data)


def new_accelerator(out: Path, config: TrainingConfig) -> Accelerator:
    with needs("train", "the log of a run"):
        import tensorboard  # noqa: F401  which accelerate writes it with
    hook = DDPCommunicationHookType.BF16 if config.gradient_exchange == "bf16" else DDPCommunicationHookType.NO
    return Accelerator(mixed_precision=config.mixed_precision, gradient_accumulation_steps=config.accumulation,
                       log_with="tensorboard", project_dir=out,
                       kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True, comm_hook=hook),
                                        InitProcessGroupKwargs(**meeting_place())])


def open_data(preset: Preset, config: TrainingConfig, accelerator: Accelerator, data: str | Path | None
              ) -> tuple[Source, MultiviewBatch]:
    """The source of batches, and objects that are not among them to look at. data: a folder, None: procedural ones."""
    device, rank, processes = accelerator.device, accelerator.process_index, accelerator.num_processes
    ring = {"image_size": preset.image_size, "num_views": preset.num_views, "capacity": config.objects,
            "device": device, "novel_views": config.novel_views, "chunk": min(config.refresh_objects, config.objects)}
    if data is None:
        if config.procedural_share:
            raise InputError("procedural_share: without --data, all objects are procedural; leave it out")
        refuse_settings_of_meshes(config, "all objects are procedural")
        return ObjectBuffer(**ring, seed=config.seed, rank=rank, world_size=processes), held_out_objects(
            "val", config.validation_objects, preset.image_size, preset.num_views, config.novel_views, device=device)
    given = RenderedObjects(data, preset, config, device, rank, processes)
    if not config.procedural_share:
        return given, given.held_out()
    procedural = ObjectBuffer(**ring, seed=config.seed, rank=rank, world_size=processes)
    return MixedObjects(procedural, GivenBuffer(given, **ring), config.procedural_share), given.held_out()


@torch.no_grad()
def encode_views(pipe: Ouroboros3DPipeline, accelerator: Accelerator, images: Tensor, sample: bool = False) -> Tensor:
    """Latents of views (B, V, 3, S, S), the posterior's mode or a sample. SVD's encoder works in single precision, in
    which it does not overflow, object by object."""
    if pipe.image_encoder is not None:
        with torch.autocast(images.device.type, enabled=False):
            return torch.stack([pipe.autoencoder.encode(views, sample) for views in images])
    with accelerator.autocast():
        latents = pipe.autoencoder.encode(images, sample)
        return latents.to(torch.bfloat16 if images.device.type == "cuda" else torch.float32)


def _wrap(models: dict[str, nn.Module], accelerator: Accelerator, config: TrainingConfig) -> tuple[dict, list]:
    """Models for their processes; one optimizer for all of them (with Muon two), or one for each if they are sharded.
    Raises InputError."""
    def adamw(groups: list[dict]) -> torch.optim.AdamW:
        return torch.optim.AdamW(groups, betas=(0.9, config.adam_beta2), weight_decay=config.weight_decay,
                                 fused=accelerator.device.type == "cuda")

    sharded, muon = is_sharded(accelerator), config.optimizer == "muon"
    if muon and sharded:
        raise InputError("optimizer=muon: needs whole matrices: not with FSDP")
    groups, hidden = {}, []
    for name, model in models.items():
        rate = config.reconstructor_learning_rate if name == "reconstructor" else config.learning_rate
        rest: list[nn.Parameter] = []
        matrices: list[nn.Parameter] = []
        for key, parameter in model.named_parameters():
            (matrices if muon and is_hidden(key, parameter) else rest).append(parameter)
        groups[name] = {"params": rest, "lr": rate, "peak": rate}
        hidden.append({"params": matrices, "lr": rate, "peak": rate})
    networks, optimizers = {}, [] if sharded else [accelerator.prepare(adamw(list(groups.values())))]
    if muon:
        optimizers.append(accelerator.prepare(Muon(hidden, config.learning_rate, weight_decay=config.weight_decay)))
    for name, model in models.items():
        if config.compile:
            compile_for_training(accelerator, model)
        if sharded:
            networks[name], optimizer = shard(accelerator, model, adamw([groups[name]]), config.gradient_exchange)
            optimizers.append(optimizer)
        elif config.cuda_graphs and accelerator.num_processes > 1 and name == "multiview":
            networks[name] = share_by_hand(accelerator, model)
        else:
            networks[name] = accelerator.prepare(model)
    return networks, optimizers
