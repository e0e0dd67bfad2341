"""Ouroboros3D, re-implemented to be read, run and measured: image-to-3D by recursive, 3D-aware diffusion."""

from importlib import import_module

from .process import prepare

prepare()

__version__ = "0.1.0"

# Names that users and saved pipelines (model_index.json) look up here; imported when first asked for.
_EXPORTS = {
    "Autoencoder": "models.autoencoder",
    "SVDAutoencoder": "models.svd_autoencoder",
    "MultiviewUNet": "models.multiview",
    "GaussianReconstructor": "models.reconstructor",
    "SVDMultiviewUNet": "models.svd",
    "LGMReconstructor": "models.lgm",
    "SelfConditioning": "models.feedback",
    "EDMNoise": "noise",
    "Cameras": "cameras",
    "Gaussians": "gaussians",
    "rasterize": "rasterization",
    "Ouroboros3DPipeline": "pipeline",
    "ReleasedMultiviewUNet": "released",
    "ReleasedReconstructor": "released",
    "ReleasedPipeline": "released",
    "InputError": "errors",
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)


def __dir__():
    return sorted(__all__)
