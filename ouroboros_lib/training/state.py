"""What a checkpoint holds: tensors as safetensors, everything else as JSON. Nothing in it can be run.

Tensors are whole whatever the number of processes and however they share weights, so that any other number goes on.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ..errors import InputError
from ..files import dump_json, read_json
from ..values import Between, Natural, checked
from .fast.averages import share

if TYPE_CHECKING:
    from .run import Run

STATE = "state.json"


class Saved(TypedDict):
    """What `STATE` holds."""

    step: Natural
    seconds: Annotated[float, Between(0)]
    next_object: int | list[int]
    summed: Natural
    averaged: dict[str, Natural]
    scaler: dict | None
    frozen: dict[str, str]
    processes: Annotated[int, Between(1)]
    settings: dict
    preset: str
    data: str | None


def saved(folder: Path) -> Saved:
    """A checkpoint's `STATE`. Raises InputError."""
    return checked(read_json(folder / STATE), Saved, folder / STATE)


def write_state(run: Run, folder: Path) -> None:
    """Everything that going on needs, into `folder`; all processes must call it together."""
    first = run.accelerator.is_main_process

    def save(file: str, named: Iterable[tuple[str, Tensor]]) -> None:
        tensors = {name: tensor for name, value in named if (tensor := whole(value, keep=first)) is not None}
        if first:
            save_file(tensors, folder / file)

    moments = _moments(run)
    for number, name in enumerate(run.networks):
        network = getattr(run.pipe, name)
        save(_numbered("model", number), network.state_dict().items())
        save(_numbered("optimizer", number), (
            (f"{key}.{kind}", value) for key, parameter in network.named_parameters()
            for kind, value in moments.get(parameter, {}).items()))
        averages = run.averages[name].state_dict()["shadow_params"]
        save(_numbered("averages", number), zip(dict(network.named_parameters()), averages, strict=True))
    save("figures.safetensors", [*((f"sum/{name}", value) for name, value in run.sums.items()), *(
        (f"last/{name}", torch.tensor(value, dtype=torch.float64)) for name, value in run.figures.items())])
    if first:
        scaler = run.accelerator.scaler
        record = run.state_dict() | {
            "summed": run.summed, "averaged": {name: one.optimization_step for name, one in run.averages.items()},
            "scaler": scaler and scaler.state_dict(), "frozen": frozen(run), "processes": run.accelerator.num_processes,
            "settings": asdict(run.config), "preset": run.preset, "data": run.data and str(run.data)}
        (folder / STATE).write_bytes(dump_json(record))
    (folder / _random_states(run)).write_bytes(dump_json({
        "python": random.getstate(), "numpy": _listed(np.random.get_state()), "torch": torch.get_rng_state().tolist(),
        "cuda": [state.tolist() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else []},
        indent=None))


def read_state(run: Run, folder: Path) -> None:
    """The inverse of `write_state`; all processes must call it together. Raises InputError, or what a file with other
    tensors or values in it gives rise to."""
    record, restored = saved(folder), {}
    for name, hash in frozen(run).items():
        if record["frozen"].get(name) != hash:
            raise InputError(f"the {name} is not the one that this run began with; give the same --init and seed")
    for number, name in enumerate(run.networks):
        network = getattr(run.pipe, name)
        own = dict(network.named_parameters())
        _restore(network.state_dict(), folder / _numbered("model", number))
        with safe_open(folder / _numbered("optimizer", number), "pt") as file:
            for key in file.keys():
                parameter, _, kind = key.rpartition(".")
                restored.setdefault(own[parameter], {})[kind] = file.get_tensor(key)
        averages = run.averages[name]
        with safe_open(folder / _numbered("averages", number), "pt") as file:
            averages.load_state_dict({"decay": averages.decay, "optimization_step": record["averaged"][name],
                                      "shadow_params": [file.get_tensor(key) for key in own]})
    for optimizer in run.optimizers:
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        optimizer.load_state_dict({"param_groups": optimizer.state_dict()["param_groups"], "state": {
            number: {kind: _like(one, value) for kind, value in restored[one].items()}
            for number, one in enumerate(parameters) if one in restored}})
    run.sums, run.figures = {}, {}
    with safe_open(folder / "figures.safetensors", "pt") as file:
        for key in file.keys():
            kind, _, name = key.partition("/")
            if kind == "sum":
                run.sums[name] = file.get_tensor(key).to(run.accelerator.device)
            else:
                run.figures[name] = float(file.get_tensor(key))
    run.summed = record["summed"]
    if record["scaler"] and run.accelerator.scaler:
        run.accelerator.scaler.load_state_dict(record["scaler"])
    run.load_state_dict(record)
    if (path := folder / _random_states(run)).is_file():  # else one process more than there were
        _set_random_states(read_json(path))


def frozen(run: Run) -> dict[str, str]:
    """Checksums of the models that do not learn."""
    sums = {}
    for name, model in run.pipe.components.items():
        if isinstance(model, nn.Module) and name not in run.networks:
            hash = hashlib.sha256()
            for key, value in model.state_dict().items():
                hash.update(key.encode())
                hash.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy())
            sums[name] = hash.hexdigest()
    return sums


def whole(tensor: Tensor, keep: bool = True) -> Tensor | None:
    """All of a tensor that may be shared out, on the CPU; all processes must call it together. None unless `keep`."""
    tensor = tensor.detach()
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.to("cpu", copy=True).contiguous() if keep else None


def _moments(run: Run) -> dict[nn.Parameter, dict[str, Tensor]]:
    """The optimizers' tensors of each parameter, by kind."""
    return {parameter: dict(optimizer.state.get(parameter, {})) for optimizer in run.optimizers
            for group in optimizer.param_groups for parameter in group["params"]}


def _restore(own: dict[str, Tensor], path: Path) -> None:
    with safe_open(path, "pt") as file:
        if odd := own.keys() ^ set(file.keys()):
            raise ValueError(f"{path.name} and the model differ in {min(odd)}")
        for name, tensor in own.items():
            share(tensor).copy_(share(_like(tensor, file.get_tensor(name))))


def _like(own: Tensor, value: Tensor) -> Tensor:
    """A whole tensor in the memory layout of `own`, shared out as that is. Numbers, such as of steps, stay as they are.
    """
    if not value.shape and own.shape:
        return value
    if own.shape != value.shape:
        raise ValueError(f"a tensor has shape {tuple(value.shape)} in place of {tuple(own.shape)}")
    if isinstance(own, DTensor):
        return distribute_tensor(value.to(own.device_mesh.device_type), own.device_mesh, own.placements)
    return torch.empty_like(own.detach(), dtype=value.dtype).copy_(value)


def _set_random_states(states: dict) -> None:
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(torch.tensor(states["torch"], dtype=torch.uint8))
    for device, state in enumerate(states["cuda"][:torch.cuda.device_count()]):
        torch.cuda.set_rng_state(torch.tensor(state, dtype=torch.uint8), device)


def _listed(state: tuple) -> list:
    return [part.tolist() if isinstance(part, np.ndarray) else part for part in state]


def _numbered(name: str, number: int) -> str:
    return f"{name}_{number}.safetensors" if number else f"{name}.safetensors"


def _random_states(run: Run) -> str:
    return f"random_states_{run.accelerator.process_index}.json"
