"""What fully sharded data parallelism (FSDP2) needs beside accelerate: each process holds a share of every weight."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

from ...errors import InputError
from ...speed import trees  # noqa: F401 - without it FSDP finds no tensors in G's Gaussians, and gathers nothing for backward


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether the run was launched with FSDP. Raises InputError for what cannot work with it."""
    if accelerator.distributed_type != DistributedType.FSDP:
        return False
    if accelerator.state.fsdp_plugin.fsdp_version != 2:
        raise InputError("FSDP of version 1 cannot shard two models that are used in turn; launch with "
                         "ouroboros_lib/training/accelerate/fsdp.yaml, which asks for version 2")
    if accelerator.mixed_precision == "fp16":
        raise InputError("mixed_precision=fp16: one loss scale for two sharded optimizers is not to be had; use bf16")
    return True


def shard(accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, exchange: str = "fp32"):
    """A model and its optimizer, sharded. The layers that `_no_split_modules` names are gathered one at a time.

    exchange: fp32 or bf16, the type in which gradients are summed.
    """
    plugin = accelerator.state.fsdp_plugin
    plugin.transformer_cls_names_to_wrap = model._no_split_modules  # accelerate keeps those of the model before
    # inputs stay as they are: noise levels and rays need their digits
    plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if accelerator.mixed_precision == "bf16" else None,
        reduce_dtype=torch.bfloat16 if exchange == "bf16" else torch.float32, cast_forward_inputs=False)
    return accelerator.prepare(model, optimizer)


@contextmanager
def gathered(models: list[nn.Module]) -> Iterator[None]:
    """Inside, methods other than `forward` work too: what no smaller unit holds is gathered, by all processes together.

    Afterwards each process holds its shares alone, as it must when weights are exchanged.
    """
    sharded = [model for model in models if isinstance(model, FSDPModule)]
    for model in sharded:
        model.unshard()
    try:
        yield
    finally:
        reshard(sharded)


def reshard(models: list[nn.Module]) -> None:
    """Each process holds its shares alone again, and their gradients: a pass without gradient leaves weights whole."""
    for unit in (module for model in models for module in model.modules() if isinstance(module, FSDPModule)):
        unit.reshard()
