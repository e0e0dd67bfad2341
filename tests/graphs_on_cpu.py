"""`ouroboros train` with cuda_graphs=true on a CPU, where functions are called instead of recorded and replayed.

Run as one of several processes (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).
"""

import sys

from ouroboros_lib.cli import main
from ouroboros_lib.training import loop

loop.check_recordable = lambda accelerator: None
loop.Graphs = lambda parameters: lambda name, function, *arguments: function(*arguments)
sys.exit(main(sys.argv[1:]))
