"""What recorded steps need of several processes: equal weights at the start, and gradients exchanged by hand."""

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast
from torch import Tensor, nn

from ...errors import InputError


def check_recordable(accelerator: Accelerator) -> None:
    """Raise InputError without a GPU, and with FSDP."""
    if accelerator.device.type != "cuda" or accelerator.distributed_type == DistributedType.FSDP:
        raise InputError("cuda_graphs=true: needs a GPU, and whole models on it: no CPU, no FSDP")


def share_by_hand(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """Prepare a model whose backward passes are replayed: no hook can exchange its gradients meanwhile, see
    `exchange_gradients`. All processes start from the weights of the first."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.copy_(broadcast(tensor.data.contiguous()))
    return accelerator.prepare_model(model, evaluation_mode=True)


def exchange_gradients(parameters: Iterable[nn.Parameter], dtype: torch.dtype, bucket: int = 2**26) -> None:
    """Exchange gradients for their mean over all processes. They travel as `dtype`, `bucket` numbers at a time."""
    gradients, waiting = [parameter.grad for parameter in parameters if parameter.grad is not None], []
    for number, gradient in enumerate(gradients, start=1):
        waiting.append(gradient)
        if sum(map(Tensor.numel, waiting)) < bucket and number < len(gradients):
            continue
        flat = torch.cat([one.flatten() for one in waiting]).to(dtype)
        torch.distributed.all_reduce(flat)
        flat /= torch.distributed.get_world_size()
        torch._foreach_copy_(waiting, [part.view(one.shape) for part, one in
                                       zip(flat.split([*map(Tensor.numel, waiting)]), waiting, strict=True)])
        waiting = []
