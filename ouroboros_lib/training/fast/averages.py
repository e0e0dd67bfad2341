"""Averaged weights (EMA), on the GPU or the CPU, whole or in the shares that FSDP gives to each process."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def share(parameter: Tensor) -> Tensor:
    """What of a parameter lies in this process, in the same memory and detached: all of it unless FSDP shards it."""
    parameter = parameter.detach()
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


class WeightAverages:
    """Averages of parameters that may be sharded, kept on `device` (None: where they are).

    The decay rises with the number of steps, to `decay`: 1 - (1 + steps)^-0.75, as in diffusers' EMAModel.
    Averages of a GPU's weights on the CPU are updated in the background: the weights are copied while the next step is
    computed (call `release` before they change), then another thread adds them in. All other methods wait for it.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float, device: str | None = None):
        parameters = list(parameters)
        self.decay, self.optimization_step = decay, 0
        self.layouts = [(p.device_mesh, p.placements, p.shape, p.stride()) if isinstance(p, DTensor) else None
                        for p in parameters]
        self.shadow_params = [share(parameter).to(device=device, copy=True) for parameter in parameters]
        self._thread = ThreadPoolExecutor(1)
        self._work: Future | None = None
        self._copied: torch.cuda.Event | None = None
        self._staging: list[Tensor] = []

    def step(self, parameters: Iterable[nn.Parameter]) -> None:
        self.settle()
        weights = [share(parameter) for parameter in parameters]
        keep = min(self.decay, 1 - (1 + self.optimization_step) ** -0.75)
        self.optimization_step += 1
        if weights[0].device == self.shadow_params[0].device:
            torch._foreach_lerp_(self.shadow_params, weights, 1 - keep)
            return
        self._staging = self._staging or pinned_like(weights)
        stream = torch.cuda.Stream(weights[0].device)
        stream.wait_stream(torch.cuda.current_stream(weights[0].device))
        with torch.cuda.stream(stream):
            torch._foreach_copy_(self._staging, weights, non_blocking=True)
            self._copied = copied = stream.record_event()

        def add() -> None:
            copied.synchronize()
            torch._foreach_lerp_(self.shadow_params, self._staging, 1 - keep)

        self._work = self._thread.submit(add)

    def release(self) -> None:
        """The GPU waits until the weights are copied: they may change afterwards."""
        if self._copied is not None:
            torch.cuda.current_stream().wait_event(self._copied)
            self._copied = None

    def settle(self) -> None:
        """Wait for the update that is under way. Raises what went wrong in it."""
        if self._work is not None:
            self._work.result()
            self._work = None

    def state_dict(self) -> dict:
        """With whole tensors, so that any number of processes can go on; all processes must call it together."""
        self.settle()
        return {"decay": self.decay, "optimization_step": self.optimization_step,
                "shadow_params": [_whole(*pair) for pair in zip(self.shadow_params, self.layouts, strict=True)]}

    def load_state_dict(self, state: dict) -> None:
        """The inverse; all processes must call it together."""
        self.settle()
        self.decay, self.optimization_step = state["decay"], state["optimization_step"]
        for shadow, layout, whole in zip(self.shadow_params, self.layouts, state["shadow_params"], strict=True):
            if layout is not None:
                mesh, placements, *_ = layout
                whole = distribute_tensor(whole.to(mesh.device_type), mesh, placements).to_local()
            shadow.copy_(whole)


@contextmanager
def swapped_in(pairs: Iterable[tuple[WeightAverages, nn.Module]]) -> Iterator[None]:
    """Inside, models have their averages in place of their weights, and do not learn."""
    before = []
    for averages, model in pairs:
        averages.settle()
        weights = [share(parameter) for parameter in model.parameters()]
        before.append((model, weights, [one.to("cpu", copy=True) for one in weights]))
        torch._foreach_copy_(weights, averages.shadow_params)
        model.eval()
    try:
        yield
    finally:
        for model, weights, own in before:
            torch._foreach_copy_(weights, own)
            model.train()


def pinned_like(tensors: list[Tensor]) -> list[Tensor]:
    """Memory on the CPU that a GPU writes to by itself, in one piece: torch's own would round up to powers of 2."""
    flat = torch.empty(sum(tensor.nbytes for tensor in tensors), dtype=torch.uint8)
    torch.cuda.cudart().cudaHostRegister(flat.data_ptr(), flat.nbytes, 0)
    pieces = flat.split([tensor.nbytes for tensor in tensors])
    return [piece.view(tensor.dtype).as_strided(tensor.shape, tensor.stride())
            for piece, tensor in zip(pieces, tensors, strict=True)]


def _whole(shadow: Tensor, layout) -> Tensor:
    if layout is None:
        return shadow
    mesh, placements, shape, stride = layout
    sharded = DTensor.from_local(shadow.to(mesh.device_type), mesh, placements, shape=shape, stride=stride)
    return sharded.full_tensor().cpu()
