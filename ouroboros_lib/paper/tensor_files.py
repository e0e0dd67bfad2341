"""Other people's weight files: read without running their code, mapped into memory, and compared with a model."""

import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..errors import InputError
from ..files import one_line, read_json


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, of the index of its shards (`.json`), or of a state dict that `torch.save`
    wrote (`.pth`).

    They stay in the file until they are looked at. Raises InputError for a file that is missing, damaged or holds
    anything but tensors; code that is pickled in it is not run.
    """
    if not os.path.isfile(path):  # which takes any text for a name
        raise InputError(f"{path}: no such file")
    if path.suffix == ".json":
        return _read_shards(path)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        else:
            if damaged := zipfile.ZipFile(path).testzip():  # which torch does not look for
                raise zipfile.BadZipFile(damaged)
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # safetensors, zipfile, pickle and torch raise many kinds
        code = re.search(r"GLOBAL ([\w.]+)", str(error))  # that the file would have run
        reason = f"it asks to run {code[1]}, in vain" if code else f"{one_line(error)}; is it damaged?"
        raise InputError(f"{path}: not a file of nothing but tensors ({reason})") from None
    if not isinstance(tensors, Mapping):
        raise InputError(f"{path}: holds a {type(tensors).__name__}, expected tensors by name (a state dict)")
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{path}: {name!r} is a {type(value).__name__}, expected tensors by name (a state dict)")
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise InputError(f"{path}: {name!r} is a {one_line(value.layout)} tensor, expected plain ones")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():  # of strides 0: one for many
            raise InputError(f"{path}: {name!r} of shape {tuple(value.shape)} has more numbers than the file holds")
        if not value.isfinite().all():
            raise InputError(f"{path}: not numbers in {name}; is the file damaged?")
    return dict(tensors)


def _read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all shards that an index of diffusers or transformers lists, each in the shard it names."""
    record = read_json(index)
    places = record.get("weight_map") if isinstance(record, dict) else None
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise InputError(f"{index}: no weight_map of names and files in it")
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(places.values())):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise InputError(f"{index}: {file!r} is not a .safetensors file beside it")
        shard = read_tensors(index.with_name(file))
        listed = {name for name, place in places.items() if place == file}
        if odd := sorted(listed ^ set(shard)):
            raise InputError(f"{index.with_name(file)}: {odd[0]} is {'missing' if odd[0] in listed else 'not listed'}, "
                             f"by {index.name}")
        tensors |= shard
    return tensors


def load_exactly(model: nn.Module, tensors: Mapping[str, Tensor], path: Path, prefix: str = "",
                 fresh: Iterable[str] = ()) -> None:
    """Give a model, on the meta device or not, the tensors of a file as they are, without copying them.

    prefix: of the model's names in front of the file's. fresh: names of the model's that the file lacks and that keep
    what they have. Raises InputError with torch's words for what is missing, not expected or of another shape.
    """
    own, fresh = model.state_dict(), set(fresh)
    if extra := sorted(fresh & {f"{prefix}{name}" for name in tensors}):
        raise InputError(f"{path}: not the expected weights: it has {extra[0]}")
    given = {name: own[name] for name in fresh} | {f"{prefix}{name}": value for name, value in tensors.items()}
    try:
        model.load_state_dict(given, assign=True)
    except RuntimeError as error:
        raise InputError(f"{path}: not the expected weights: {one_line(error, 800).partition(': ')[2]}") from None
