"""Averaged weights (EMA), on the GPU or the CPU, whole or in the shares that FSDP gives to each process."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def share(parameter: Tensor) -> Tensor:
    """What of a parameter lies in this process, in the same memory: all of it unless FSDP shards it."""
    if not isinstance(parameter, DTensor):
        return parameter
    return parameter.detach().to_local().requires_grad_(parameter.requires_grad)


class WeightAverages(EMAModel):
    """diffusers' `EMAModel` of parameters that may be sharded, kept on `device` (None: where they are).

    Averages of a GPU's weights on the CPU are updated in the background: the weights are copied while the next step is
    computed (call `release` before they change), then another thread adds them in. All other methods wait for it.
    Its state holds whole tensors, so that a run may be resumed by another number of processes.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float, device: str | None = None):
        parameters = list(parameters)
        self.device = None if device is None else torch.device(device)
        self.layouts = [(p.device_mesh, p.placements, p.shape, p.stride()) if isinstance(p, DTensor) else None
                        for p in parameters]
        super().__init__(self._here(parameters), decay=decay, use_ema_warmup=True, power=0.75, foreach=True)
        self._work: Future | None = None
        self._copied: torch.cuda.Event | None = None
        self._staging: list[Tensor] = []

    def _here(self, parameters: Iterable[nn.Parameter]) -> list[Tensor]:
        """The shares of the parameters on the device of the averages."""
        shares = [share(parameter) for parameter in parameters]
        if self.device is None:
            return shares
        return [s.detach().to(self.device).requires_grad_(s.requires_grad) for s in shares]

    def step(self, parameters: Iterable[nn.Parameter]) -> None:
        self.settle()
        self.optimization_step += 1
        self.cur_decay_value = self.get_decay(self.optimization_step)
        parameters = list(parameters)
        shares = [share(parameter).detach() for parameter in parameters]
        learning = [parameter.requires_grad for parameter in parameters]
        if self.device is None or self.device.type != "cpu" or not shares[0].is_cuda:
            self._add(self._here(parameters), learning)
            return
        self._staging = self._staging or pinned_like(shares)
        stream = torch.cuda.Stream(shares[0].device)
        stream.wait_stream(torch.cuda.current_stream(shares[0].device))
        with torch.cuda.stream(stream):
            for staged, weights in zip(self._staging, shares, strict=True):
                staged.copy_(weights, non_blocking=True)
            self._copied = stream.record_event()

        def work(copied: torch.cuda.Event) -> None:
            copied.synchronize()
            self._add(self._staging, learning)

        pool = ThreadPoolExecutor(1)
        self._work = pool.submit(work, self._copied)
        pool.shutdown(wait=False)

    @torch.no_grad()
    def _add(self, weights: list[Tensor], learning: list[bool]) -> None:
        pairs = [pair for pair, learns in zip(zip(self.shadow_params, weights, strict=True), learning, strict=True)
                 if learns]
        if pairs:
            torch._foreach_lerp_(*(list(side) for side in zip(*pairs, strict=True)), 1 - self.cur_decay_value)
        for shadow, own, learns in zip(self.shadow_params, weights, learning, strict=True):
            if not learns:
                shadow.copy_(own)

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

    def to(self, *args, **kwargs) -> None:
        self.settle()
        super().to(*args, **kwargs)

    def store(self, parameters: Iterable[nn.Parameter]) -> None:
        self.settle()
        super().store([share(parameter) for parameter in parameters])

    def copy_to(self, parameters: Iterable[nn.Parameter]) -> None:
        self.settle()
        super().copy_to([share(parameter) for parameter in parameters])

    def restore(self, parameters: Iterable[nn.Parameter]) -> None:
        super().restore([share(parameter) for parameter in parameters])

    def state_dict(self) -> dict:
        """As diffusers', with whole tensors; all processes must call it together."""
        self.settle()
        state = super().state_dict()
        state["shadow_params"] = [_whole(s, layout) for s, layout in
                                  zip(self.shadow_params, self.layouts, strict=True)]
        return state

    def load_state_dict(self, state: dict) -> None:
        """The inverse; all processes must call it together."""
        self.settle()
        super().load_state_dict(state)
        self.shadow_params = [_own_share(s, layout).to(self.device) if layout else s
                              for s, layout in zip(self.shadow_params, self.layouts, strict=True)]


@contextmanager
def swapped_in(pairs: Iterable[tuple[WeightAverages, nn.Module]]) -> Iterator[None]:
    """Inside, models have their averages in place of their weights, and do not learn."""
    pairs = list(pairs)
    for averages, model in pairs:
        averages.store(model.parameters())
        averages.copy_to(model.parameters())
        model.eval()
    try:
        yield
    finally:
        for averages, model in pairs:
            averages.restore(model.parameters())
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


def _own_share(whole: Tensor, layout) -> Tensor:
    mesh, placements, *_ = layout
    return distribute_tensor(whole.to(mesh.device_type), mesh, placements).to_local()
