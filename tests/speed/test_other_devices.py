"""A device that is neither CUDA nor the CPU, as mps: networks on it, splats drawn on the CPU. A stand-in plays it."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ouroboros_lib.errors import InputError
from ouroboros_lib.speed.devices import resolve_device

OTHER = torch.device("privateuseone:0")


class Elsewhere(torch.Tensor):
    """A tensor that says it is on a device; what it holds is on the CPU."""

    @staticmethod
    def __new__(cls, held):
        assert held.dtype != torch.float64, "mps has no double precision"
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, held.stride(), held.storage_offset(),
                                                   dtype=held.dtype, device=OTHER, requires_grad=False)

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


class StandIn(TorchDispatchMode):
    """Also catches what makes tensors there, or sends them there."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


class FromNumbers(TorchFunctionMode):
    """torch.tensor(numbers, device=...) as a copy of one from the CPU: the other mode only sees what follows it."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.tensor and kwargs.get("device") == OTHER:
            return function(*args, **kwargs | {"device": "cpu"}).to(OTHER)
        return function(*args, **kwargs)


def compute(function, args, kwargs):
    tensors, places = [], []
    tree_map_only(torch.Tensor, tensors.append, (args, kwargs))
    tree_map_only(torch.device, places.append, (args, kwargs))
    there = [isinstance(tensor, Elsewhere) for tensor in tensors]
    if not any(place.type == "privateuseone" for place in places) and not any(there):
        return function(*args, **kwargs)
    mixed = [tensor for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.ndim]
    copies = function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
    assert not (mixed and any(there)) or copies or "index" in str(function), f"{function} of two devices"
    args, kwargs = tree_map_only(Elsewhere, lambda tensor: tensor.held, (args, kwargs))
    args, kwargs = tree_map_only(torch.device, lambda _: torch.device("cpu"), (args, kwargs))
    result = function(*args, **kwargs)
    stays = places and places[-1].type == "cpu"
    return result if stays else tree_map_only(torch.Tensor, Elsewhere, result)


@pytest.fixture
def registered():
    registration = pytest.importorskip("torch.utils.backend_registration")
    if not hasattr(registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch takes no devices that are written in Python")
    registration._setup_privateuseone_for_python_backend()


def test_the_recursion_on_another_device_draws_on_the_cpu(registered, tiny, picture):
    settings = {"elevation": 10, "num_inference_steps": 2}
    expected = tiny(picture, **settings, generator=torch.Generator().manual_seed(0))
    with FromNumbers(), StandIn(), torch.no_grad():
        output = tiny.to(OTHER)(picture, **settings, generator=torch.Generator().manual_seed(0))
        assert output.views.device == output.gaussians.device == OTHER
        found = output.views.to("cpu")
    torch.testing.assert_close(found, expected.views)


def test_mps_is_only_taken_where_it_is(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match="no Apple GPU"):
        resolve_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("mps").type == "mps" and resolve_device("auto").type != "mps"


def test_kernels_are_compiled_where_nothing_can_be_kept(monkeypatch):
    from numba.core import caching

    from ouroboros_lib.rasterization import kernels

    assert kernels.CACHED
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])  # as in a container that is read-only
    assert not kernels._can_cache()
