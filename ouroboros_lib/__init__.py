"""Ouroboros3D, re-implemented to be read, run and measured: image-to-3D by recursive, 3D-aware diffusion.

The names that it offers stand in __init__.pyi; each is imported when it is first asked for. Saved pipelines
(model_index.json) look them up here, too.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
