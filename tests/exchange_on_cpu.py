"""Exchange some gradients with another process, and write them before and after: `python -m exchange_on_cpu FOLDER`.

Run as one of several processes (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).
"""

import sys
from pathlib import Path

import torch

from ouroboros_lib.training.fast.cuda_graphs import exchange_gradients

torch.distributed.init_process_group("gloo")
rank, folder = torch.distributed.get_rank(), Path(sys.argv[1])
for dtype in (torch.float32, torch.bfloat16):
    torch.manual_seed(rank)
    # two buckets: the first and the third gradient, which has another memory layout, and the rest
    shapes = [(7,), (3,), (2, 3, 2, 2), (4,)]
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for parameter in (parameters[0], *parameters[2:]):
        parameter.grad = torch.randn(parameter.shape)
    parameters[2].grad = parameters[2].grad.contiguous(memory_format=torch.channels_last)
    name = str(dtype).removeprefix("torch.")
    torch.save([p.grad if p.grad is None else p.grad.clone() for p in parameters], folder / f"{name}_before_{rank}.pt")
    exchange_gradients(parameters, dtype, bucket=10)
    torch.save([p.grad for p in parameters], folder / f"{name}_after_{rank}.pt")
torch.distributed.destroy_process_group()
