"""`ouroboros train` under FSDP2 between processes without GPUs, which accelerate itself does not offer.

Run as one of several processes (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), with the environment of fsdp.yaml.
"""

import sys

from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from quickly_on_cpu import main

from ouroboros_lib.training import run

plain_accelerator = run.new_accelerator


def sharded_accelerator(out, config):
    accelerator = plain_accelerator(out, config)
    accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()  # from the environment
    return accelerator


run.new_accelerator = sharded_accelerator
main(sys.argv[1:])
