"""CUDA graphs: parts of training and of inference are recorded once and replayed, so that the CPU need not launch them
again.

A training step of the paper's models is 19,000 small kernels for one object. Launching them takes a CPU longer than a
GPU takes to compute them; a recorded part is launched at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from .trees import leaves

WARM_UPS = 2  # calls before the recording: they compile, choose algorithms and allocate what these need


class CudaGraphs:
    """Calls functions on CUDA as recordings, one for each name and each set of shapes.

    parameters: those whose gradients recorded functions add to. The gradients then stay where they are: set them to
    zero, not to None, between steps. A recording repeats what happened when these shapes came first, under the autocast
    and grad mode of that time; a function may depend on nothing but its arguments, the weights and what never changes.
    It is called WARM_UPS times before it is recorded, and must do nothing else than return and add up gradients.
    Raises RuntimeError if a gradient is no longer the tensor that recordings write to.
    """

    def __init__(self, parameters: Iterable[nn.Parameter] = ()):
        self.parameters = list(parameters)
        self.gradients: list[Tensor | None] | None = None  # what recordings write to, once there are any
        self.recordings: dict[tuple, Callable[[tuple], Tensor]] = {}
        self.stream, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()  # one memory for all of them

    def __call__(self, name: str, function: Callable[..., Tensor], *arguments) -> Tensor:
        """`function(*arguments)`; see `leaves` for what arguments may be."""
        key = (name, *((leaf.shape, leaf.dtype) for leaf in leaves(arguments)))
        if self.gradients and any(parameter.grad is not gradient for parameter, gradient in
                                  zip(self.parameters, self.gradients, strict=True)):
            raise RuntimeError("gradients were replaced, but recordings write to the former ones: set them to zero")
        if key not in self.recordings:
            self.recordings[key] = self._record(function, arguments)
            self.gradients = [parameter.grad for parameter in self.parameters]
        return self.recordings[key](arguments)

    def _record(self, function: Callable[..., Tensor], arguments: tuple) -> Callable[[tuple], Tensor]:
        arguments = tree_map_only(Tensor, lambda leaf: leaf.detach().clone(), arguments)
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            before = [parameter.grad for parameter in self.parameters]
            for parameter in self.parameters:
                parameter.grad = None
            for _ in range(WARM_UPS):
                torch.clear_autocast_cache()
                function(*arguments)
            for parameter, gradient in zip(self.parameters, before, strict=True):
                if gradient is not None:
                    parameter.grad = gradient
                elif parameter.grad is not None:  # only what is learnt gets a gradient: others would decay
                    parameter.grad.zero_()
        torch.cuda.current_stream().wait_stream(self.stream)
        graph = torch.cuda.CUDAGraph()
        torch.clear_autocast_cache()  # weights in half precision must be cast within the recording, and only there
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            result = function(*arguments)
        torch.clear_autocast_cache()
        inputs = leaves(arguments)

        def replay(arguments: tuple) -> Tensor:
            torch._foreach_copy_(inputs, [leaf.detach() for leaf in leaves(arguments)])
            graph.replay()
            return result.clone()  # another recording may use its memory

        return replay


def record_calls(graphs: CudaGraphs, model: nn.Module, part: str = "forward") -> None:
    """Let `model.part` be recorded and replayed, in place, where it is called on CUDA without gradients.

    What it is given and returns are tensors, see `leaves`. Weights may change in place; weights that were moved are
    recorded anew. Where accelerate moves weights for each call nothing is recorded.
    """
    function, parameters = getattr(model, part), list(model.parameters())

    def replay(*args, **kwargs) -> Tensor:
        on_gpu = all(tensor.is_cuda for tensor in leaves((args, kwargs)))
        if torch.is_grad_enabled() or not on_gpu or hasattr(model, "_hf_hook"):
            return function(*args, **kwargs)
        autocast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        name = f"{type(model).__name__}.{part} {autocast} {parameters[0].data_ptr()} {sorted(kwargs)}"
        return graphs(name, lambda args, kwargs: function(*args, **kwargs), args, kwargs)

    setattr(model, part, replay)
