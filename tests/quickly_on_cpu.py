"""`ouroboros train` that looks at its models after one step of inference: `python -m quickly_on_cpu train ...`.

Run as one of several processes (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).
"""

import sys

from ouroboros_lib.cli.main import main
from ouroboros_lib.training import validation

validation.INFERENCE_STEPS = 1

if __name__ == "__main__":
    main(sys.argv[1:])
