"""Networks that learn, compiled, and the decoder of training, which does not learn."""

import copy
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ...loading import convert_model
from ...speed.compiling import compile_network, network_of
from ..config import TrainingConfig


def compile_for_training(accelerator: Accelerator, model: nn.Module) -> None:
    """Compile a network that learns, in place, before it is wrapped for several processes."""
    if accelerator.num_processes > 1:  # splitting what is compiled, for overlap, compiles it once more
        torch._dynamo.config.optimize_ddp = False
    compile_network(model, network_of(model))


def decoder(autoencoder: nn.Module, config: TrainingConfig) -> Callable[[Tensor], Tensor]:
    """Latents to images. Of a decoder that does not learn and keeps its types, SVD's, a copy in half precision:
    autocast would convert its weights and compute its norms in single precision, each time anew."""
    if getattr(autoencoder, "_layers_are_fused", False):
        half = config.mixed_precision == "bf16"
        return convert_model(copy.deepcopy(autoencoder), torch.bfloat16).decode if half else autoencoder.decode
    return torch.compile(autoencoder.decode, dynamic=False) if config.compile else autoencoder.decode
