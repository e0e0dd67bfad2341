"""Calls of networks that are recorded as CUDA graphs. What a recording does needs a GPU; which calls are recorded does
not."""

import pytest
import torch
from torch import nn

from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.speed.cuda_graphs import CudaGraphs, record_calls

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class OnGpu(torch.Tensor):
    """A tensor that says so."""

    is_cuda = True


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x, maps=None):
        return self.layer(x.as_subclass(torch.Tensor)) + sum((maps or {}).values())


class Recorder:
    """Stands for `CudaGraphs`: notes the names, and calls."""

    def __init__(self):
        self.names = []

    def __call__(self, name, function, *arguments):
        self.names.append(name)
        return function(*arguments)


def recorded_network():
    recorder, network = Recorder(), Network()
    record_calls(recorder, network)
    return recorder, network


@torch.no_grad()
def test_calls_on_a_gpu_are_recorded_with_what_they_depend_on():
    recorder, network = recorded_network()
    x = torch.rand(4, 3).as_subclass(OnGpu)
    maps = {"rgb": torch.ones(4, 2).as_subclass(OnGpu)}
    torch.testing.assert_close(network(x, maps=maps) - network(x), torch.ones(4, 2))
    network(x)
    assert recorder.names[1] == recorder.names[2] != recorder.names[0]
    network.layer.weight.data = network.layer.weight.data.clone()  # moved: a recording would read the former place
    network(x)
    assert recorder.names[3] not in recorder.names[:3]
    with torch.autocast("cuda", torch.bfloat16):
        autocast = torch.is_autocast_enabled("cuda")  # False where torch has no CUDA
        network(x)
    assert (recorder.names[4] != recorder.names[3]) == autocast


def test_calls_elsewhere_with_gradients_or_with_weights_that_travel_are_not():
    recorder, network = recorded_network()
    x = torch.rand(4, 3).as_subclass(OnGpu)
    network(x).sum().backward()
    assert network.layer.weight.grad is not None
    with torch.no_grad():
        network(torch.rand(4, 3))
        network(x, {"rgb": torch.ones(4, 2)})
        network._hf_hook = object()  # what accelerate's offloading leaves
        network(x)
    assert recorder.names == []


@needs_cuda
@torch.no_grad()
def test_replays_give_what_calls_give_for_new_arguments_and_weights():
    network = Network().cuda()
    inputs = [(torch.rand(4, 3, device="cuda"), {"rgb": torch.rand(4, 2, device="cuda")}) for _ in range(3)]
    expected = [network(*given) for given in inputs]
    graphs = CudaGraphs()
    record_calls(graphs, network)
    torch.testing.assert_close([network(*given) for given in inputs], expected)
    network.layer.bias += 1
    torch.testing.assert_close(network(*inputs[0]), expected[0] + 1)
    assert len(graphs.recordings) == 1


@needs_cuda
def test_a_large_pipeline_is_recorded_for_any_cameras():
    pipe = Ouroboros3DPipeline.from_preset("narrow", device="cuda")
    pipe.set_progress_bar_config(disable=True)
    picture = torch.rand(1, 3, pipe.image_size, pipe.image_size, device="cuda")

    def run(elevation):
        cameras = evenly_spaced_orbit(pipe.num_views, torch.tensor([elevation]))
        return pipe(picture, cameras=cameras, num_inference_steps=3, plan="calm,every=1",
                    generator=torch.Generator("cuda").manual_seed(0)).views

    before = [run(elevation) for elevation in (0.0, 30.0)]
    graphs = CudaGraphs()
    for model, part in ((pipe.multiview, "forward"), (pipe.reconstructor, "network")):
        record_calls(graphs, model, part)
    after = [run(elevation) for elevation in (0.0, 30.0)]
    torch.testing.assert_close(after, before, atol=1e-3, rtol=0)
    assert len(graphs.recordings) >= 2
