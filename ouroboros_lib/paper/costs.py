"""What models cost before they run: parameters by part, and what training keeps in memory for the backward pass.

All of it works on the meta device too, where tensors have shapes and no numbers: the full size needs no memory then.
"""

import re
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

PARTS = {  # component of the pipeline, and which of its parameters; the first that fits
    "SVD: feedback encoders": ("multiview", r"^cond_encoder\."),
    "SVD: camera MLPs": ("multiview", r"_plucker\."),
    "SVD: across views": ("multiview", r"temporal_|time_mixer|time_pos_embed"),
    "SVD: each view": ("multiview", r""),
    "LGM: noise level": ("reconstructor", r"time_embed|emb_layers"),
    "LGM: U-Net": ("reconstructor", r""),
    "VAE: encoder": ("autoencoder", r"encoder|\bquant_conv"),
    "VAE: decoder": ("autoencoder", r""),
    "CLIP": ("image_encoder", r""),
}


def part_of(component: str, name: str) -> str:
    """The part in PARTS that a parameter of a component belongs to."""
    return next(part for part, (owner, pattern) in PARTS.items() if owner == component and re.search(pattern, name))


def parameters_by_part(pipeline) -> dict[str, list[nn.Parameter]]:
    """All parameters of a pipeline with the paper's models (presets `paper` and `narrow`), by the parts in PARTS."""
    found = {part: [] for part in PARTS}
    for component, model in pipeline.components.items():
        if isinstance(model, nn.Module):
            for name, parameter in model.named_parameters():
                found[part_of(component, name)].append(parameter)
    return found


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def bytes_kept_for_backward(function: Callable[[], object], parameters: Iterable[torch.Tensor]) -> int:
    """What autograd keeps of `function()` until the backward pass, in bytes; `parameters` are not counted.

    Tensors that share memory count once, inputs count if they are kept. With gradient checkpointing these are the
    inputs of the checkpointed layers; what is computed once more during the backward pass comes on top, a layer at a
    time. Attention on the meta device is taken as fused: it keeps queries, keys, values and output, not all weights.
    """
    own, kept = {parameter.untyped_storage()._cdata for parameter in parameters}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that no other storage gets its place
        return tensor

    unchanged = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.enable_grad(), unchanged, _FusedAttention():
        result = function()
    del result
    return sum(storage.nbytes() for storage in kept.values())


class _FusedAttention(TorchFunctionMode):
    """Attention on the meta device by a fused operation, as on CPU and CUDA; by itself it would be a plain softmax."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention and args[0].is_meta:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args[:3])[0]
        return func(*args, **(kwargs or {}))
