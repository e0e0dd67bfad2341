"""Other people's weight files: read without running their code, mapped into memory, and compared with a model."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import InputError
from ..files import one_line

MAX_NAMED = 20  # tensors of a wrong shape or with broken numbers that a message names one by one


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or of a state dict that `torch.save` wrote (`.pth`, `.pt`, `.bin`).

    They stay in the file until they are looked at. Raises InputError for a file that is missing, damaged or holds
    anything but tensors; code that is pickled in it is not run.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or type(error).__name__})") from None
    broken = [name for name, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise InputError(f"{path}: not numbers in {_first(broken)}; is the file damaged?")
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({one_line(error, 200)}); fetch it again") from None


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        is_archive = zipfile.is_zipfile(path)
        if not is_archive and _begins_as_archive(path):
            raise InputError(f"{path}: damaged, its end is missing; fetch it again")
        if is_archive and (damaged := zipfile.ZipFile(path).testzip()):
            raise InputError(f"{path}: damaged at {damaged}; fetch it again")
        with warnings.catch_warnings():  # about kinds of pickles that end in an error here
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except pickle.UnpicklingError as error:
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise InputError(f"{path}: asks to run code when it is opened ({code[1]}), so it is not opened; only files "
                             "of nothing but tensors are") from None
        reason = str(error).partition("WeightsUnpickler error: ")[2].split("\n")[0] or "it is no pickle"
        raise InputError(f"{path}: not a file of tensors by torch.save, or damaged ({reason})") from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a file of tensors by torch.save, or damaged ({one_line(error, 200)})") from None
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path}: holds a {type(content).__name__}, expected tensors by name (a state dict)")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(f"{path}: {name!r} is a {type(value).__name__}, expected tensors by name (a state dict)")
    return dict(content)


def _begins_as_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def load_exactly(model: nn.Module, tensors: Mapping[str, Tensor], path: Path, prefix: str = "",
                 fresh: Iterable[str] = ()) -> None:
    """Give a model, on the meta device or not, the tensors of a file as they are, without copying them.

    prefix: of the model's names in front of the file's. fresh: names of the model's that the file lacks and that keep
    what they have. Raises InputError that names every tensor that is missing, not expected or of another shape; of
    whole modules their name, and of more than 20 shapes the first.
    """
    fresh, own = set(fresh), model.state_dict()
    expected = {name.removeprefix(prefix): value for name, value in own.items()
                if name.startswith(prefix) and name not in fresh}
    problems = []
    for what, names, all_names in (("lacks", expected.keys() - tensors.keys(), expected.keys()),
                                   ("has unexpected", tensors.keys() - expected.keys(), tensors.keys())):
        if names:
            problems.append(f"{what} {', '.join(_modules(names, all_names))}")
    misshapen = [f"{name} {tuple(tensors[name].shape)} instead of {tuple(value.shape)}"
                 for name, value in expected.items() if name in tensors and tensors[name].shape != value.shape]
    misshapen += [f"{name} of type {value.dtype}" for name, value in tensors.items()
                  if name in expected and not value.is_floating_point()]
    if misshapen:
        problems.append(f"has {_first(misshapen)}")
    if problems:
        raise InputError(f"{path}: not the expected weights: {'; '.join(problems)}")
    kept = {name: own[name] for name in fresh}
    model.load_state_dict({prefix + name: value for name, value in tensors.items()} | kept, assign=True)


def _modules(names: Iterable[str], all_names: Iterable[str], prefix: str = "") -> list[str]:
    """Names, in short: `module.* (n)` where all of `all_names` that lie in a module are among them."""
    result, by_child = [], {}
    names, all_names = set(names), set(all_names)
    for name in sorted(all_names):
        by_child.setdefault(name[len(prefix):].split(".")[0], set()).add(name)
    for child, group in by_child.items():
        affected = group & names
        if affected == group and len(group) > 2:
            result.append(f"{prefix}{child}.* ({len(group)})")
        elif len(group) == 1:
            result += affected
        elif affected:
            result += _modules(affected, group, f"{prefix}{child}.")
    return result


def _first(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
