"""torch.compile for F, decoder and G, in inference and training."""

import torch
from torch import nn

from .cuda_graphs import CudaGraphs, record_calls

KINDS_OF_BLOCKS = 64  # that one class may be compiled for: SVD's residual blocks come in 14 sizes, torch stops at 8


def compile_network(model: nn.Module, part: str = "forward", graphs: CudaGraphs | None = None, **options) -> None:
    """Compile a model in place; options are torch.compile's. The first call then takes seconds to minutes.

    Large models name the classes of their blocks (`_repeated_blocks`, as diffusers calls them): equal ones are compiled
    once, which takes a fraction of the time. Of others, `part` is compiled as a whole. Models whose layers are fused
    already are not compiled. graphs: where calls of `part` are recorded.
    """
    _compile(model, part, options)
    if graphs is not None:
        record_calls(graphs, model, part)


def _compile(model: nn.Module, part: str, options: dict) -> None:
    if getattr(model, "_layers_are_fused", False):
        return
    if blocks := getattr(model, "_repeated_blocks", None):
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, KINDS_OF_BLOCKS)
        options.pop("mode", None)
        for module in model.modules():
            if type(module).__name__ in blocks:
                module.compile(dynamic=False, **options)
        return
    setattr(model, part, torch.compile(getattr(model, part), dynamic=False, **options))


def network_of(reconstructor: nn.Module) -> str:
    """What of G is worth compiling: its network, if that is a method of its own; what follows is cheap."""
    return "network" if hasattr(reconstructor, "network") else "forward"
