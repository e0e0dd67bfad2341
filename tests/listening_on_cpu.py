"""One of two processes that meet: asserts that its sockets listen on loopback alone, and prints how many there are."""

import os

import torch
from accelerate import Accelerator, InitProcessGroupKwargs

from ouroboros_lib.training.loopback import meeting_place

place = meeting_place()
assert place == {"init_method": "loopback://"}
accelerator = Accelerator(cpu=True, kwargs_handlers=[InitProcessGroupKwargs(**place)])
assert accelerator.num_processes == 2
assert int(accelerator.reduce(torch.tensor(accelerator.process_index + 1))) == 3
own = {os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")
       if os.path.exists(f"/proc/self/fd/{name}")}
found = 0
for table, loopback in (("tcp", "0100007F"), ("tcp6", "0" * 24 + "01000000")):
    for line in open(f"/proc/net/{table}").readlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
            found += 1
            assert fields[1].startswith(loopback), line
print(found)
accelerator.end_training()
