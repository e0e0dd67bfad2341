"""Which values are made of tensors: recordings and FSDP look for those in what a network takes and returns."""

from torch import Tensor
from torch.utils._pytree import register_pytree_node, tree_leaves

from ..cameras import Cameras
from ..gaussians import Gaussians
from ..models.condition import CameraFeatures, Condition


def leaves(value) -> list[Tensor]:
    """The tensors of a tensor, Cameras, CameraFeatures, a Condition, Gaussians, and of tuples, lists or dictionaries of
    these, in order."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


for _kind in (Cameras, CameraFeatures, Condition, Gaussians):
    register_pytree_node(_kind, lambda value: (list(vars(value).values()), type(value)),
                         lambda parts, kind: kind(*parts))
