"""`ouroboros train` with cuda_graphs=true on a CPU, where functions are called instead of recorded and replayed.

Run as one of several processes (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).
"""

import sys

import torch
from quickly_on_cpu import main

from ouroboros_lib.training import run

plain_share = run.share_by_hand


def share_after_a_difference(accelerator, model):
    """The other processes' weights are moved: they must get those of the first."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * accelerator.process_index
    return plain_share(accelerator, model)


run.share_by_hand = share_after_a_difference
run.check_recordable = lambda accelerator: None
run.CudaGraphs = lambda parameters: lambda name, function, *arguments: function(*arguments)
main(sys.argv[1:])
