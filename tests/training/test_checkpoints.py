"""Checkpoints, resumed runs, and the pipeline that a run exports."""

import dataclasses
import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from training_inputs import leftovers, logged, quick, quick_narrow, timeless_log

from ouroboros_lib.errors import InputError
from ouroboros_lib.files.one_writer import LOCK
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.training import checkpoints, loop, stages, train, validation
from ouroboros_lib.training.checkpoints import MARKER, check_settings, latest_checkpoint, load_checkpoint
from ouroboros_lib.training.initial import save_pipeline
from ouroboros_lib.training.run import set_up


def test_an_interrupted_run_goes_on_from_its_last_whole_checkpoint(tmp_path, monkeypatch, runs):
    """The disk fills up while the second checkpoint is written; --resume takes the first and does the same steps."""
    write, calls = checkpoints.write_state, []

    def fail_the_second_time(run, folder):
        calls.append(folder)
        write(run, folder)
        if len(calls) == 2:
            raise OSError("disk full")

    settings = {"stage": "reconstructor", "steps": 6, "checkpoint_every": 2}
    monkeypatch.setattr(checkpoints, "write_state", fail_the_second_time)
    with pytest.raises(OSError, match="disk full"):
        train("tiny", tmp_path, quick(**settings))
    assert latest_checkpoint(tmp_path).name == "checkpoint-0000002"
    assert logged(tmp_path) == [1, 2, 3, 4] and not (tmp_path / "pipeline").exists() and not leftovers(tmp_path)

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
    assert logged(tmp_path) == [1, 2, 3, 4, 5, 6]
    names = [path.name for path in sorted(tmp_path.glob("checkpoint*"))]
    assert names == ["checkpoint-0000004", "checkpoint-0000006"] and not leftovers(tmp_path)
    assert runs[-1].source.next == 10  # 4 to fill the buffer and 2 after every second step, as without interruption
    assert runs[-1].step == 6 and (tmp_path / "pipeline" / "model_index.json").is_file()


def test_checkpoints_that_are_removed_are_none_any_more(tmp_path, monkeypatch):
    """Killed at the first of their files, while the next checkpoint is written or when a run goes on: no half of one
    bears its name, and the next start clears it."""
    def killed(path, ignore_errors=False):
        if path.is_dir():
            raise KeyboardInterrupt

    for step in (2, 4, 6, 8):
        (tmp_path / f"checkpoint-{step:07d}").mkdir()
        (tmp_path / f"checkpoint-{step:07d}" / "state.json").touch()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.clear_old(tmp_path)
        assert [folder.name for folder in checkpoints.checkpoints(tmp_path)] == [
            f"checkpoint-000000{step}" for step in (4, 6, 8)]
    checkpoints.clear_old(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-0000006", "checkpoint-0000008"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A joint run without interruption, whose log has a line every third step and checkpoints between those."""
    out = tmp_path_factory.mktemp("whole") / "run"
    config = quick(steps=5, batch_size=4, objects=8, checkpoint_every=2, log_every=3, validate_every=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "INFERENCE_STEPS", 1)  # as in each test
        train("tiny", out, config)
    return out, config


@pytest.fixture
def stopped(whole, tmp_path):
    """The run's folder as a kill after its fourth step leaves it, a half-written line and checkpoint included."""
    out = tmp_path / "stopped"
    shutil.copytree(whole[0], out)
    shutil.rmtree(out / "pipeline")
    (out / "checkpoint.partial").mkdir()
    (out / "log.jsonl").write_text((out / "log.jsonl").read_text()[:-20])
    return out, whole[1]


@pytest.mark.parametrize("step", [2, 4])
def test_a_resumed_run_is_one_without_interruption(whole, stopped, step, capfd):
    """Weights, optimizer, averages, objects, cameras and noise, pipeline and every line of the log: the same, but for
    the last digit, in which gradients of F's first layers differ between two runs without interruption as well."""
    if step == 2:
        shutil.rmtree(stopped[0] / "checkpoint-0000004")
    train("tiny", stopped[0], stopped[1], resume=True)
    assert "note" not in capfd.readouterr().err
    for one, other in zip(timeless_log(stopped[0]), timeless_log(whole[0]), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    names = {path.relative_to(whole[0]) for path in whole[0].rglob("*.safetensors")}
    assert names == {path.relative_to(stopped[0]) for path in stopped[0].rglob("*.safetensors")}
    for name in names:
        one, other = load_file(whole[0] / name), load_file(stopped[0] / name)
        assert_close(one, other, atol=1e-6, rtol=2e-3, msg=str(name))  # of half precision, too
    assert not leftovers(stopped[0])


def test_what_tensorboard_holds_of_later_steps_is_taken_again(stopped):
    train("tiny", *stopped, resume=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(stopped[0] / "logs")).Reload()
    assert [event.step for event in events.Scalars("multiview")] == [3, 5]


def change_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "truncated": (lambda path: (path / "model.safetensors").write_bytes(b"1234"), r"model.safetensors has 4 bytes of"),
    "a bit": (lambda path: change_a_bit(path / "optimizer.safetensors"), "optimizer.safetensors was changed"),
    "missing": (lambda path: (path / "random_states_0.json").unlink(), "random_states_0.json is missing"),
    "unmarked": (lambda path: (path / "complete.json").unlink(), "complete.json: no such file"),
    "marker": (lambda path: (path / "complete.json").write_text("[1]"), ""),
    "renamed": (lambda path: (path / "complete.json").write_text('{"step": 1}'), "it is of step 1"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(stopped, capfd, kind):
    """And is never what a later --resume starts from."""
    out, config = stopped
    damage, reason = DAMAGE[kind]
    damage(out / "checkpoint-0000004")
    assert checkpoints.newest_sound(out).name == "checkpoint-0000002"
    error = capfd.readouterr().err
    assert error.startswith(f"note: {out / 'checkpoint-0000004'} is damaged (") and reason in error
    assert error.endswith("): going on from checkpoint-0000002, the newest sound one\n") and error.count("\n") == 1
    if kind == "a bit":
        train("tiny", out, config, resume=True)
        assert [path.name for path in checkpoints.checkpoints(out)] == ["checkpoint-0000002", "checkpoint-0000004"]
        assert not checkpoints.fault_of(out / "checkpoint-0000004")
        assert (out / "damaged-checkpoint-0000004").is_dir()  # for whoever wants to know
    damage(out / "checkpoint-0000002")
    if kind != "a bit":
        with pytest.raises(InputError, match="0004 is damaged .*0002 is damaged .*start anew in another --out"):
            train("tiny", out, config, resume=True)


def test_only_what_the_run_wrote_is_a_checkpoint(stopped, whole):
    out, config = stopped
    for name in ("checkpoint-best", "checkpoint-0000001-keep", "checkpoint-9.old"):
        (out / name).mkdir()
    (out / "checkpoint-0000009").write_text("a file")
    train("tiny", out, dataclasses.replace(config, steps=6), resume=True)
    assert {path.name for path in out.glob("checkpoint*")} == {
        "checkpoint-best", "checkpoint-0000001-keep", "checkpoint-9.old", "checkpoint-0000009", "checkpoint-0000004",
        "checkpoint-0000006"}


@pytest.mark.parametrize(("preset", "settings", "message"), [
    ("narrow", {}, "--preset narrow: .*0004 is of preset tiny, stage joint"),
    ("tiny", {"stage": "multiview"}, "--set stage=multiview: .*0004 is of preset tiny, stage joint"),
    ("tiny", {"feedback": "rgb"}, "--set feedback=rgb: .* with feedback=both"),
    ("tiny", {"optimizer": "muon"}, "--set optimizer=muon: .* with optimizer=adamw")])
def test_a_checkpoint_of_something_else_is_refused_in_one_line(stopped, preset, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        train(preset, stopped[0], dataclasses.replace(stopped[1], **settings), resume=True)
    assert "\n" not in str(caught.value) and not (stopped[0] / LOCK).exists()


def test_data_of_another_kind_and_other_frozen_models_are_refused(stopped, rendered_folder):
    out, config = stopped
    with pytest.raises(InputError, match="learned from procedural objects"):
        train("tiny", out, config, data=rendered_folder, resume=True)
    save_pipeline(Ouroboros3DPipeline.from_preset("tiny", seed=8), out.parent / "other")
    with pytest.raises(InputError, match="the autoencoder is not the one that this run began with"):
        train("tiny", out, config, init=[f"autoencoder={out.parent / 'other'}"], resume=True)


def test_a_state_without_the_stage_it_is_of(stopped, tmp_path):
    folder = latest_checkpoint(stopped[0])
    state = json.loads((folder / "state.json").read_text())
    del state["settings"]["stage"]
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match="state.json does not tell the run's settings"):
        check_settings(tmp_path, "tiny", stopped[1], None)


def test_other_settings_are_said(stopped, capfd):
    out, config = stopped
    train("tiny", out, dataclasses.replace(config, learning_rate=1e-3, steps=6), resume=True)
    assert capfd.readouterr().err.startswith(
        "note: the run goes on with other settings: steps=6 (before 5), learning_rate=0.001 (before 0.0006)\n")


def test_nothing_in_a_checkpoint_is_run(stopped, tmp_path):
    """Files that accelerate's own would be read from are not looked at; those that are hold tensors and JSON."""
    out, config = stopped
    for name in ("custom_checkpoint_0.pkl", "random_states_0.pkl", "optimizer.bin", "pytorch_model.bin"):
        (out / "checkpoint-0000004" / name).write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    train("tiny", out, config, resume=True)
    assert not (tmp_path / "ran").exists()
    suffixes = {path.suffix for path in (out / "checkpoint-0000002").iterdir()}
    assert suffixes == {".json", ".safetensors"}


def test_a_forged_checkpoint_is_one_line(stopped, tmp_path, runs):
    """Whose checksums fit: pickles, or values of other kinds, where tensors and JSON should be."""
    folder, config = stopped[0] / "checkpoint-0000004", stopped[1]
    run = set_up("tiny", stopped[0], config)
    state = json.loads((folder / "state.json").read_text())
    forged = [(path.name, pickle.dumps(Evil(tmp_path / "ran"))) for path in folder.iterdir() if path.name != MARKER]
    forged += [("state.json", json.dumps(state | {name: value}).encode()) for name, value in (
        ("step", "x"), ("next_object", {}), ("averaged", 3), ("frozen", None), ("settings", 7), ("data", {}))]
    forged += [("random_states_0.json", b'{"python": [3, "x", null]}'), ("state.json", b"[" * 100_000),
               ("model.safetensors", (folder / "optimizer.safetensors").read_bytes())]
    for name, data in forged:
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(data)
        (folder / MARKER).unlink()
        checkpoints._complete(folder, 4)
        assert not checkpoints.fault_of(folder)
        with pytest.raises(InputError) as caught:
            check_settings(folder, "tiny", config, None)
            load_checkpoint(run, folder)
        assert str(caught.value).startswith(str(folder)) and "\n" not in str(caught.value), name
        (folder / name).write_bytes(before)
    assert not (tmp_path / "ran").exists()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


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
    assert losses == logged(tmp_path / "whole", "multiview") and losses[0] != losses[1]


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
