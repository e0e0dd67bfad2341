"""Two processes on a CPU take the same steps, however weights and gradients are shared."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from training_inputs import NARROW, QUICK, fsdp_environment, launch, logged, train_command

from ouroboros_lib.pipeline import Ouroboros3DPipeline

TINY = QUICK | {"batch_size": 1, "objects": 2, "steps": 2, "checkpoint_every": 1, "accumulation": 2,
                "image_loss": "mse", "orbit_supervision": 0.5, "schedule": "constant"}
AVERAGES = {"ema_device": "cpu", "ema_every": 1, "ema_decay": 0.5}


def assert_same_weights(one, other):
    a, b = load_file(one), load_file(other)
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert_close(b[key], value, atol=1e-3, rtol=1e-2, msg=key)


def test_two_processes_share_the_data_and_write_once(tmp_path, rendered_folder):
    """Two steps of `narrow` with everything else that the paper's recipe asks for."""
    settings = NARROW | AVERAGES | {"steps": 2, "checkpoint_every": 2, "accumulation": 2, "schedule": "constant",
                                    "gradient_checkpointing": "true"}
    out = tmp_path / "run"
    lines = launch(train_command(out, "--data", rendered_folder, preset="narrow", **settings), 2, "quickly_on_cpu")
    assert logged(out, "step") == [1, 2] and logged(out, "samples") == [4, 8]  # 1 object, 2 batches, 2 processes
    assert {"multiview", "reconstruction", "gradient/reconstructor", "3D 1+"} <= json.loads(lines[-1]).keys()
    assert [path.name for path in sorted(out.glob("checkpoint*"))] == ["checkpoint-0000002"]
    pipeline = Ouroboros3DPipeline.from_pretrained(out / "pipeline")
    assert pipeline.reconstructor.config.relative_poses and pipeline.image_encoder is not None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two steps of two processes with whole copies, whose gradients hooks exchange."""
    out = tmp_path_factory.mktemp("ddp") / "whole"
    # weights move by 0.02 in two steps
    lines = launch(train_command(out, **TINY | AVERAGES, warmup=0, learning_rate=1e-2), 2, "quickly_on_cpu")
    return out, json.loads(lines[-1])


def test_sharded_training_is_that_of_whole_copies(tmp_path, whole):
    """FSDP2 takes the same steps, its checkpoints are whole, and it goes on from one of whole copies the same way.

    With `tiny`: between processes on a CPU, gathering the many layers of `narrow` one by one takes minutes.
    """
    arguments = train_command(tmp_path / "shares", **TINY | AVERAGES, warmup=0, learning_rate=1e-2)
    shares = json.loads(launch(arguments, 2, "sharded_on_cpu", **fsdp_environment())[-1])
    kept = whole[0] / "checkpoint-0000001", tmp_path / "shares" / "checkpoint-0000001"
    names = [{path.name for path in folder.iterdir()} for folder in kept]
    assert names[0] == names[1] and {"random_states_1.json", "averages_1.safetensors"} < names[0]
    for name in ("model", "model_1", "averages", "averages_1", "optimizer", "optimizer_1"):
        assert_same_weights(*(folder / f"{name}.safetensors" for folder in kept))
    for name, value in whole[1].items():
        assert shares[name] == pytest.approx(value, rel=1e-2), name
    for model in ("multiview", "reconstructor"):
        file = Path("pipeline") / model / "diffusion_pytorch_model.safetensors"
        assert_same_weights(whole[0] / file, tmp_path / "shares" / file)

    shutil.copytree(whole[0], tmp_path / "either")
    shutil.rmtree(tmp_path / "either" / "checkpoint-0000002")
    arguments = train_command(tmp_path / "either", "--resume", **TINY | AVERAGES, warmup=0, learning_rate=1e-2)
    again = json.loads(launch(arguments, 2, "sharded_on_cpu", **fsdp_environment())[-1])
    assert logged(tmp_path / "either", "multiview") == pytest.approx(logged(whole[0], "multiview"), rel=1e-3)
    # rasterizing may differ in last digits from process to process, which the order of splats enlarges
    for name, value in whole[1].items():  # of the last step, and of the averages
        assert again[name] == pytest.approx(value, rel=2e-2), name


def test_gradients_may_travel_in_half_precision(tmp_path, whole):
    """The same step of whole copies, but for the digits that rounding takes from each process's gradients."""
    settings = TINY | AVERAGES | {"steps": 1, "checkpoint_every": 0}
    launch(train_command(tmp_path / "bf16", **settings, warmup=0, learning_rate=1e-2, gradient_exchange="bf16"), 2,
           "quickly_on_cpu")
    norms = [[logged(out, f"gradient/{name}")[0] for name in ("multiview", "reconstructor")]
             for out in (tmp_path / "bf16", whole[0])]
    assert norms[0] == pytest.approx(norms[1], rel=1e-2) and norms[0] != norms[1]


def test_gradients_exchanged_by_hand_are_those_that_hooks_exchange(tmp_path, whole):
    """Of an F whose passes are replayed, where no hook runs: the same steps, checkpoints and averages."""
    out = tmp_path / "hand"
    settings = TINY | AVERAGES | {"cuda_graphs": "true"}
    hand = json.loads(launch(train_command(out, **settings, warmup=0, learning_rate=1e-2), 2, "graphs_on_cpu")[-1])
    assert hand == pytest.approx(whole[1], rel=1e-2)
    for name in ("multiview", "gradient/multiview", "gradient/reconstructor"):
        assert logged(out, name) == pytest.approx(logged(whole[0], name), rel=1e-2), name
    for file in ("checkpoint-0000002/model.safetensors", "pipeline/multiview/diffusion_pytorch_model.safetensors"):
        assert_same_weights(whole[0] / file, out / file)


def test_the_mean_of_gradients_in_several_buckets(tmp_path):
    launch([str(tmp_path)], 2, "exchange_on_cpu")
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        name = str(dtype).removeprefix("torch.")
        before, after = ([torch.load(tmp_path / f"{name}_{when}_{rank}.pt") for rank in range(2)]
                         for when in ("before", "after"))
        assert [gradient is None for gradient in before[0]] == [False, True, False, False]
        for one, other, *means in zip(*before, *after, strict=True):
            for mean in means:
                assert (mean is None) == (one is None)
                if one is not None:
                    assert_close(mean, (one + other) / 2, rtol=tolerance, atol=tolerance)
