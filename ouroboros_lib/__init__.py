"""Ouroboros3D, re-implemented to be read, run and measured: image-to-3D by recursive, 3D-aware diffusion."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers and completion; at run time a name is imported when it is first asked for
    from .cameras import Cameras
    from .errors import InputError
    from .gaussians import Gaussians
    from .models.autoencoder import Autoencoder
    from .models.condition import Condition
    from .models.feedback import Renders
    from .models.multiview import MultiviewUNet
    from .models.reconstructor import GaussianReconstructor
    from .noise import EDMNoise
    from .paper.lgm import LGMReconstructor
    from .paper.released import ReleasedMultiviewUNet, ReleasedPipeline, ReleasedReconstructor
    from .paper.svd import SVDMultiviewUNet
    from .paper.svd_autoencoder import SVDAutoencoder
    from .pipeline import Ouroboros3DPipeline
    from .plans import Plan
    from .rasterization import rasterize
    from .speed.threads import notebook

__version__ = "0.1.0"

# Where the names above live. Saved pipelines (model_index.json) look them up here, too.
_EXPORTS = {
    "Autoencoder": "models.autoencoder",
    "Cameras": "cameras",
    "Condition": "models.condition",
    "EDMNoise": "noise",
    "GaussianReconstructor": "models.reconstructor",
    "Gaussians": "gaussians",
    "InputError": "errors",
    "LGMReconstructor": "paper.lgm",
    "MultiviewUNet": "models.multiview",
    "Ouroboros3DPipeline": "pipeline",
    "Plan": "plans",
    "ReleasedMultiviewUNet": "paper.released",
    "ReleasedPipeline": "paper.released",
    "ReleasedReconstructor": "paper.released",
    "Renders": "models.feedback",
    "SVDAutoencoder": "paper.svd_autoencoder",
    "SVDMultiviewUNet": "paper.svd",
    "notebook": "speed.threads",
    "rasterize": "rasterization",
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)


def __dir__():
    return sorted(__all__)
