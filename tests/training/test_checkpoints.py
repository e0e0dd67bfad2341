"""Checkpoints, resumed runs, and the pipeline that a run exports."""

import shutil

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from training_inputs import leftovers, logged, quick, quick_narrow

from ouroboros_lib.errors import InputError
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.training import loop, stages, train
from ouroboros_lib.training.checkpoints import latest_checkpoint
from ouroboros_lib.training.initial import save_pipeline


def test_an_interrupted_run_goes_on_from_its_last_whole_checkpoint(tmp_path, monkeypatch, runs):
    """The disk fills up while the second checkpoint is written; --resume takes the first and does the same steps."""
    save, calls = Accelerator.save_state, []

    def fail_the_second_time(self, folder, *arguments, **options):
        calls.append(folder)
        save(self, folder, *arguments, **options)
        if len(calls) == 2:
            raise OSError("disk full")

    settings = {"stage": "reconstructor", "steps": 6, "checkpoint_every": 2}
    monkeypatch.setattr(Accelerator, "save_state", fail_the_second_time)
    with pytest.raises(OSError, match="disk full"):
        train("tiny", tmp_path, quick(**settings))
    assert latest_checkpoint(tmp_path).name == "checkpoint-0000002"
    assert logged(tmp_path) == [1, 2, 3, 4] and not (tmp_path / "pipeline").exists()

    with pytest.raises(InputError, match="holds checkpoints of an earlier run; add --resume"):
        train("tiny", tmp_path, quick(**settings))

    seen = []

    def look(run, *arguments):
        seen.append((run.step, int(run.optimizers[0].optimizer.state_dict()["state"][0]["step"]),
                     run.averages["reconstructor"].optimization_step, run.seconds))
        return stages.next_losses(run, *arguments)

    monkeypatch.setattr(loop, "next_losses", look)
    train("tiny", tmp_path, quick(**settings), resume=True)
    assert [entry[:3] for entry in seen] == [(step, step, step) for step in (2, 3, 4, 5)]
    assert seen[0][3] > 0  # the clock went on as well
    assert logged(tmp_path) == [1, 2, 3, 4, 3, 4, 5, 6]
    names = [path.name for path in sorted(tmp_path.glob("checkpoint*"))]
    assert names == ["checkpoint-0000004", "checkpoint-0000006"] and not leftovers(tmp_path)
    assert runs[-1].source.next == 10  # 4 to fill the buffer and 2 after every second step, as without interruption
    assert runs[-1].step == 6 and (tmp_path / "pipeline" / "model_index.json").is_file()


def test_a_resumed_run_ends_as_one_without_interruption(tmp_path):
    """Weights, optimizer, averages, objects, cameras and noise: the same to the bit."""
    settings = quick(steps=4, batch_size=4, objects=8, checkpoint_every=2)
    train("tiny", tmp_path / "whole", settings)
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoint-0000004")
    train("tiny", tmp_path / "stopped", settings, resume=True)
    for name in ("model.safetensors", "model_1.safetensors"):
        whole, stopped = (load_file(tmp_path / run / "checkpoint-0000004" / name) for run in ("whole", "stopped"))
        assert all(torch.equal(whole[key], stopped[key]) for key in whole)
    losses = logged(tmp_path / "stopped", "multiview")
    assert losses[2:4] == losses[4:6] and losses[:2] != losses[2:4]


def test_a_resumed_run_on_shards_ends_as_one_without_interruption(tmp_path, rendered_shards):
    """Read by workers, with averages on the CPU: the same to the bit."""
    config = quick_narrow(steps=2, checkpoint_every=1, workers=2, ema_device="cpu", ema_every=2)
    train("narrow", tmp_path / "whole", config, data=rendered_shards)
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoint-0000002")
    train("narrow", tmp_path / "stopped", config, data=rendered_shards, resume=True)
    for name in ("model.safetensors", "model_1.safetensors"):
        whole, stopped = (load_file(tmp_path / run / "checkpoint-0000002" / name) for run in ("whole", "stopped"))
        assert all(torch.equal(whole[key], stopped[key]) for key in whole)
    losses = logged(tmp_path / "stopped", "multiview")
    assert losses[1] == losses[2] != losses[0]


def test_resume_brings_all_weights_back(tmp_path, runs):
    settings = {"stage": "reconstructor", "steps": 2, "checkpoint_every": 2, "ema_decay": 0.5}
    train("tiny", tmp_path, quick(**settings))
    train("tiny", tmp_path, quick(**settings), resume=True)  # all steps are done: nothing changes any more
    first, second = runs
    for a, b in zip(first.pipe.reconstructor.parameters(), second.pipe.reconstructor.parameters(),
                    strict=True):
        assert torch.equal(a, b)
    for a, b in zip(first.averages["reconstructor"].shadow_params, second.averages["reconstructor"].shadow_params,
                    strict=True):
        assert torch.equal(a, b)


def test_resume_needs_a_checkpoint(tmp_path):
    with pytest.raises(InputError, match="--resume, but there is no checkpoint in it"):
        train("tiny", tmp_path / "new", quick(), resume=True)
    assert not (tmp_path / "new").exists()


def test_export_holds_averaged_weights_in_half_precision(tmp_path, runs):
    save_pipeline(Ouroboros3DPipeline.from_preset("tiny", seed=8), tmp_path / "pipeline")  # an older one is replaced
    train("tiny", tmp_path, quick(stage="reconstructor", steps=3, ema_decay=0.6))
    path = tmp_path / "pipeline" / "reconstructor" / "diffusion_pytorch_model.safetensors"
    stored = load_file(path)
    assert {value.dtype for value in stored.values()} == {torch.float16} and not leftovers(tmp_path)
    named = dict(runs[0].pipe.reconstructor.named_parameters())
    averaged = dict(zip(named, runs[0].averages["reconstructor"].shadow_params, strict=True))
    assert all(torch.equal(stored[name], averaged[name].half()) for name in named)
    assert any(not torch.equal(stored[name], named[name].half()) for name in named)
    loaded = Ouroboros3DPipeline.from_pretrained(tmp_path / "pipeline")
    assert loaded.reconstructor.dtype == torch.float32
    initial = Ouroboros3DPipeline.from_preset("tiny", seed=0)
    for a, b in zip(loaded.multiview.parameters(), initial.multiview.parameters(), strict=True):
        assert torch.equal(a, b.half().float())  # what is not trained stays
