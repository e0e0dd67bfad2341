"""Averaged weights (EMA), on the GPU or the CPU, whole or in the shares that FSDP gives to each process."""

from __future__ import annotations

from collections.abc import Iterable

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

    Its state holds whole tensors, so that a run may be resumed by another number of processes.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float, device: str | None = None):
        parameters = list(parameters)
        self.device = None if device is None else torch.device(device)
        self.layouts = [(p.device_mesh, p.placements, p.shape, p.stride()) if isinstance(p, DTensor) else None
                        for p in parameters]
        super().__init__(self._here(parameters), decay=decay, use_ema_warmup=True, power=0.75, foreach=True)

    def _here(self, parameters: Iterable[nn.Parameter]) -> list[Tensor]:
        """The shares of the parameters on the device of the averages."""
        shares = [share(parameter) for parameter in parameters]
        if self.device is None:
            return shares
        return [s.detach().to(self.device).requires_grad_(s.requires_grad) for s in shares]

    def step(self, parameters: Iterable[nn.Parameter]) -> None:
        super().step(self._here(parameters))

    def store(self, parameters: Iterable[nn.Parameter]) -> None:
        super().store([share(parameter) for parameter in parameters])

    def copy_to(self, parameters: Iterable[nn.Parameter]) -> None:
        super().copy_to([share(parameter) for parameter in parameters])

    def restore(self, parameters: Iterable[nn.Parameter]) -> None:
        super().restore([share(parameter) for parameter in parameters])

    def state_dict(self) -> dict:
        """As diffusers', with whole tensors; all processes must call it together."""
        state = super().state_dict()
        state["shadow_params"] = [_whole(s, layout) for s, layout in
                                  zip(self.shadow_params, self.layouts, strict=True)]
        return state

    def load_state_dict(self, state: dict) -> None:
        """The inverse; all processes must call it together."""
        super().load_state_dict(state)
        self.shadow_params = [_own_share(s, layout).to(self.device) if layout else s
                              for s, layout in zip(self.shadow_params, self.layouts, strict=True)]


def _whole(shadow: Tensor, layout) -> Tensor:
    if layout is None:
        return shadow
    mesh, placements, shape, stride = layout
    sharded = DTensor.from_local(shadow.to(mesh.device_type), mesh, placements, shape=shape, stride=stride)
    return sharded.full_tensor().cpu()


def _own_share(whole: Tensor, layout) -> Tensor:
    mesh, placements, *_ = layout
    return distribute_tensor(whole.to(mesh.device_type), mesh, placements).to_local()
