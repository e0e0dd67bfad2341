"""CUDA graphs of training steps. Most of it needs a GPU; what does not is tested everywhere."""

from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState
from torch.testing import assert_close
from torch.utils._pytree import tree_map_only

from ouroboros_lib.cameras import Cameras, evenly_spaced_orbit
from ouroboros_lib.errors import InputError
from ouroboros_lib.models.condition import Condition
from ouroboros_lib.speed.cuda_graphs import CudaGraphs
from ouroboros_lib.speed.trees import leaves
from ouroboros_lib.training.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from ouroboros_lib.training.config import TrainingConfig
from ouroboros_lib.training.fast.step import joint_losses
from ouroboros_lib.training.loop import take_step
from ouroboros_lib.training.run import set_up
from ouroboros_lib.training.stages import multiview_losses
from tools.benchmark import kept_by_graphs

STEADY_G = {"batch_size": 1, "reconstructor_learning_rate": 1e-12}  # random weights enlarge differences of rounding
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_arguments_are_taken_apart_and_put_together():
    cameras, condition = evenly_spaced_orbit(4).expand(2), Condition(torch.rand(2, 4), None, torch.rand(2, 3))
    arguments = (torch.rand(2), None, cameras, condition)
    tensors = leaves(arguments)
    expected = [arguments[0], cameras.c2w, cameras.intrinsics, condition.latents, condition.added_time_ids]
    assert len(tensors) == 5 and all(one is other for one, other in zip(tensors, expected, strict=True))
    x, nothing, again, same = tree_map_only(torch.Tensor, lambda tensor: tensor + 1, arguments)
    assert nothing is None and isinstance(again, Cameras) and same.image_embeds is None
    assert torch.equal(x, arguments[0] + 1) and torch.equal(again.c2w, cameras.c2w + 1)
    assert torch.equal(same.added_time_ids, condition.added_time_ids + 1)


def test_dictionaries_are_taken_apart_too():
    maps = {"ccm": torch.rand(2), "rgb": torch.rand(2)}
    assert [id(leaf) for leaf in leaves(({}, maps))] == [id(maps["ccm"]), id(maps["rgb"])]


def test_what_is_recorded_depends_on_its_arguments_alone(tiny, objects):
    """A stand-in for recordings: calls of the second batch go to the functions of the first."""
    tiny.autoencoder.requires_grad_(False)
    config = TrainingConfig(reconstruction_batch=2, cuda_graphs=True)
    first: dict = {}

    def replay(name, function, *arguments):
        return first.setdefault(name, function)(*arguments)

    def losses(batch, cuda_graphs, seed):
        torch.manual_seed(seed)
        for parameter in tiny.multiview.parameters():
            parameter.grad = None
        found = joint_losses(tiny, batch, Condition(batch.latents[:, 0]), config, 2, backward=torch.Tensor.backward,
                             cuda_graphs=cuda_graphs)
        return found, [parameter.grad for parameter in tiny.multiview.parameters()]

    other = replace(objects, rgba=objects.rgba.flip(0), latents=objects.latents.flip(0),
                    cameras=objects.cameras[torch.tensor([2, 1, 0])])
    losses(other, replay, seed=2)
    assert set(first) == {"first estimate", "second estimate"}
    replayed, gradients = losses(objects, replay, seed=1)
    called, expected = losses(objects, None, seed=1)
    assert replayed == called
    assert_close(gradients, expected)


def test_f_alone_learns_the_same_from_recordings(tiny, objects):
    first: dict = {}
    gradients = []
    for seed, record in ((2, True), (1, True), (1, False)):
        torch.manual_seed(seed)
        tiny.multiview.zero_grad()
        batch = objects if seed == 1 else replace(objects, latents=objects.latents.flip(0))
        losses = multiview_losses(
            tiny, batch, Condition(batch.latents[:, 0]), TrainingConfig(), None, torch.Tensor.backward,
            (lambda name, function, *given: first.setdefault(name, function)(*given)) if record else None)
        if not record:
            losses["multiview"].backward()
        gradients.append([losses["multiview"].detach(), *(parameter.grad for parameter in tiny.multiview.parameters())])
    assert set(first) == {"estimate"}
    assert_close(gradients[1], gradients[2])
    assert not torch.equal(gradients[0][0], gradients[1][0])


@pytest.mark.parametrize(("settings", "backward"), [({}, None), ({"detach_feedback": False}, torch.Tensor.backward),
                                                    ({"decoder_gradient": True}, torch.Tensor.backward)])
def test_no_recording_without_a_backward_pass_of_its_own(tiny, objects, settings, backward):
    with pytest.raises(ValueError, match="cuda_graphs: need backward"):
        joint_losses(tiny, objects, Condition(objects.latents[:, 0]), TrainingConfig(**settings), 2,
                     backward=backward, cuda_graphs=lambda name, function, *given: None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_without_a_gpu_graphs_are_refused(tmp_path):
    config = TrainingConfig(objects=2, refresh_objects=1, cuda_graphs=True)
    with pytest.raises(InputError, match="cuda_graphs=true: needs a GPU"):
        set_up("tiny", tmp_path, config)


@pytest.fixture
def _fresh_accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)


@needs_cuda
def test_a_recording_adds_up_gradients_and_takes_new_arguments():
    layer, unused = torch.nn.Linear(3, 1, bias=False, device="cuda"), torch.nn.Linear(3, 1, device="cuda")
    graphs = CudaGraphs([*layer.parameters(), *unused.parameters()])

    def learn(x):
        loss = layer(x).sum()
        loss.backward()
        return loss.detach()

    batches = [torch.rand(2, 3, device="cuda") for _ in range(3)]
    results = [graphs("learn", learn, batch) for batch in batches]
    assert_close(results, [layer(batch).sum().detach() for batch in batches])
    assert_close(layer.weight.grad, sum(batch.sum(0, keepdim=True) for batch in batches))
    assert unused.weight.grad is None and len(graphs.recordings) == 1
    assert kept_by_graphs() > 0
    graphs("learn", learn, torch.ones(5, 3, device="cuda"))  # of another shape: what had been added up is kept
    assert len(graphs.recordings) == 2
    assert_close(layer.weight.grad, sum(batch.sum(0, keepdim=True) for batch in batches) + 5)
    layer.weight.grad = None
    with pytest.raises(RuntimeError, match="gradients were replaced"):
        graphs("learn", learn, batches[0])


@needs_cuda
@pytest.mark.parametrize(("preset", "settings"), [
    ("tiny", {"batch_size": 2}),
    ("tiny", {"batch_size": 1, "accumulation": 4}),  # with feedback in some
    ("tiny", {"batch_size": 3}),  # one or two first estimates
    ("tiny", {"batch_size": 2, "mixed_precision": "bf16"}),
    ("tiny", {"batch_size": 2, "mixed_precision": "bf16", "compile": True}),  # narrow: inductor fails at 1 x 1 pixels
    ("narrow", STEADY_G),
    ("narrow", STEADY_G | {"mixed_precision": "bf16", "accumulation": 2, "gradient_checkpointing": True})])
def test_steps_with_recordings_are_those_without(_fresh_accelerator, tmp_path, preset, settings):
    """Also after a checkpoint was written and read, and averages swapped in and out."""
    histories, enlarges = [], preset == "narrow"
    for recorded in (False, True):
        config = TrainingConfig(reconstruction_batch=1, objects=4, refresh_objects=2, warmup=0.0,
                                cuda_graphs=recorded or enlarges, **settings)
        out = tmp_path / str(recorded)
        out.mkdir()
        run = set_up(preset, out, config)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
        torch.set_float32_matmul_precision("highest")
        if not recorded and enlarges:  # even the difference between no maps and zero maps, which is one of rounding
            run.cuda_graphs = lambda name, function, *arguments: function(*arguments)
        run.source.fill()
        torch.manual_seed(0)
        steps = []
        for step in range(6):
            figures = take_step(run)
            steps.append([float(figures[name]) for name in ("multiview", "reconstruction", "gradient/multiview")])
            run.step += 1
            if step == 3:
                save_checkpoint(run)
                load_checkpoint(run, latest_checkpoint(out))
                run.source.fill()
                with run.averaged():
                    pass
        histories.append(torch.tensor(steps))
    names = [name for name, *_ in run.cuda_graphs.recordings]
    assert names.count("first estimate") == (2 if settings["batch_size"] == 3 else 1)
    assert names.count("second estimate") == 1
    tolerance = 2e-2 if "mixed_precision" in settings else 2e-3  # splats add up their gradients in any order
    assert_close(histories[1], histories[0], rtol=tolerance, atol=1e-5,
                 msg=lambda text: f"{text}\nlaunched {histories[0].tolist()}\nrecorded {histories[1].tolist()}")
