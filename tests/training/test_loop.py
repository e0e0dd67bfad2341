"""The loop: the first edition's losses step by step, learning, stopping, what it refuses."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from training_inputs import QUICK, launch, leftovers, logged, quick, quick_narrow, train_command

from ouroboros_lib.cli.main import main
from ouroboros_lib.data.batches import MultiviewBatch
from ouroboros_lib.data.buffer import ObjectBuffer
from ouroboros_lib.errors import InputError
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.training import TrainingConfig, loop, stages, train
from ouroboros_lib.training.loop import learning_rate_factor, take_step
from ouroboros_lib.training.run import Run, set_up

FIRST_EDITION = json.loads((Path(__file__).parents[1] / "references" / "tiny_losses_29852eb.json").read_text())["runs"]


class Stop(Exception):
    """Ends a run at its first checkpoint."""


@pytest.mark.skipif(torch.cuda.is_available(), reason="the numbers are a CPU's")
@pytest.mark.parametrize(("name", "steps", "fast"), [("both", 4, False), ("both", 2, True), *(
    (name, 2, False) for name in FIRST_EDITION if name != "both")])
def test_tiny_trains_to_the_losses_of_the_first_edition(tmp_path, monkeypatch, name, steps, fast):
    def stop(run):
        raise Stop

    monkeypatch.setattr(loop, "save_checkpoint", stop)
    monkeypatch.setattr(Run, "is_fast", fast)
    config = TrainingConfig(steps=12, batch_size=8, objects=32, log_every=1, checkpoint_every=steps,
                            validation_objects=1, **FIRST_EDITION[name]["settings"])
    with pytest.raises(Stop):
        train("tiny", tmp_path, config)
    for loss in ("multiview", "reconstruction"):
        pairs = zip(logged(tmp_path, loss), FIRST_EDITION[name][loss][:steps], strict=True)
        for step, (now, then) in enumerate(pairs):
            assert now == pytest.approx(then, rel=1e-5), (loss, step)


@pytest.mark.parametrize(("settings", "fast"), [({}, False), ({"mixed_precision": "bf16"}, True),
                                                ({"compile": True}, True), ({"cuda_graphs": True}, True)])
def test_the_plain_step_is_for_one_process_on_a_cpu(settings, fast):
    accelerator = type("", (), {"device": torch.device("cpu"), "num_processes": 1})()

    def is_fast(accelerator, config):
        return Run.is_fast.fget(type("", (), {"accelerator": accelerator, "config": config})())

    assert is_fast(accelerator, TrainingConfig(**settings)) == fast
    accelerator.num_processes = 2
    assert is_fast(accelerator, TrainingConfig(**settings))


@pytest.mark.parametrize("processes, limit, seconds", [(2, 9, 270), (2, 18, 270), (8, 2.25, 67.5), (1, 0, 270)])
def test_the_clock_of_a_run_that_goes_on(processes, limit, seconds):
    """In as many processes, the seconds that passed; in others, the share of them that passed, whatever the limit."""
    run = SimpleNamespace(accelerator=SimpleNamespace(num_processes=processes),
                          config=SimpleNamespace(max_minutes=limit), source=SimpleNamespace(restart=lambda next: None))
    Run.load_state_dict(run, {"step": 7, "seconds": 270.0, "next_object": 0, "processes": 2,
                              "settings": {"max_minutes": 9.0}})
    assert (run.step, run.seconds) == (7, seconds)


@pytest.fixture(scope="module")
def joint_run(tmp_path_factory):
    """A joint run of the command line, from random weights."""
    out = tmp_path_factory.mktemp("run") / "joint"
    settings = QUICK | {"steps": 12, "batch_size": 4, "reconstruction_batch": 4, "checkpoint_every": 6,
                        "reconstructor_learning_rate": 2e-3, "learning_rate": 2e-3}
    return out, launch(train_command(out, **settings))


def test_command_line_trains_and_writes_everything(joint_run):
    out, lines = joint_run
    figures = json.loads(lines[-1])
    assert {"multiview", "reconstruction", "views 1+", "3D 1+", "self-consistency"} <= figures.keys()
    assert logged(out) == list(range(1, 13)) and logged(out, "samples")[-1] == 12 * 4
    assert [path.name for path in sorted(out.glob("checkpoint*"))] == ["checkpoint-0000006", "checkpoint-0000012"]
    assert (out / "samples" / "step_0000012.png").stat().st_size > 1000
    assert list(out.rglob("events.out.tfevents.*")) and not leftovers(out)
    result = Ouroboros3DPipeline.from_pretrained(out / "pipeline")(torch.rand(1, 3, 32, 32), num_inference_steps=1)
    assert result.views.isfinite().all()


def test_losses_fall(joint_run):
    losses = torch.tensor(logged(joint_run[0], "reconstruction"))
    assert losses[-4:].mean() < 0.7 * losses[:4].mean()


def test_training_on_a_fixed_batch_brings_the_losses_down(tmp_path, monkeypatch):
    """Five steps of `narrow` stand for the fifty of full size: a step takes a second here."""
    config = quick_narrow(learning_rate=2e-3, reconstructor_learning_rate=2e-3, condition_dropout=0.0)
    run = set_up("narrow", tmp_path, config)
    run.source.fill()
    fixed = stages.next_batch(run)
    monkeypatch.setattr(stages, "next_batch", lambda run: fixed)
    losses = {"multiview": [], "reconstruction": []}
    for _ in range(5):
        torch.manual_seed(1)  # the same noise as well
        figures = take_step(run)
        for name, values in losses.items():
            values.append(float(figures[name]))
        run.step += 1
    for name, values in losses.items():
        assert torch.tensor(values).isfinite().all() and values[-1] < 0.5 * values[0], (name, values)


def test_accumulated_batches_are_one_step_of_their_mean_gradient(tmp_path, monkeypatch):
    """Two parts with known losses: the gradient is the mean's, and one step is taken."""
    run = set_up("narrow", tmp_path, quick_narrow(accumulation=2))
    weights = {name: run.networks[name].get_parameter(key) for name, key in (
        ("multiview", "unet.conv_out.bias"), ("reconstructor", "conv.bias"))}
    seen = []
    monkeypatch.setattr(loop, "next_losses", lambda run, part, backward: {
        name: (part + 1.0) * weight.sum() for name, weight in weights.items()})
    step = run.optimizers[0].step
    run.optimizers[0].step = lambda: (seen.append([weight.grad.clone() for weight in weights.values()]), step())
    before = {name: float(weight.detach().sum()) for name, weight in weights.items()}
    figures = take_step(run)
    assert len(seen) == 1 and all(weight.grad is None for weight in weights.values())
    for name, (gradient, weight) in zip(weights, zip(seen[0], weights.values(), strict=True), strict=True):
        norm = 1.5 * len(weight) ** 0.5
        assert float(figures[f"gradient/{name}"]) == pytest.approx(norm, rel=1e-5)  # before it is clipped to 1
        assert_close(gradient, torch.full_like(weight, 1.5 / norm), atol=1e-5, rtol=1e-4)
        assert float(figures[name]) == pytest.approx(1.5 * before[name], abs=1e-5)


def test_gradients_of_all_networks_can_be_clipped_by_one_norm(tmp_path, monkeypatch):
    """As the released code does; with a norm each, both would come out with norm 1."""
    run = set_up("tiny", tmp_path, quick(clip_together=True, adam_beta2=0.999))
    assert all(group["betas"] == (0.9, 0.999) for group in run.optimizers[0].param_groups)
    weights = [next(run.networks[name].parameters()) for name in ("multiview", "reconstructor")]
    monkeypatch.setattr(loop, "next_losses", lambda run, part, backward: {
        "multiview": 3 * weights[0].sum(), "reconstruction": 4 * weights[1].sum()})
    seen, step = [], run.optimizers[0].step
    run.optimizers[0].step = lambda: (seen.extend(float(weight.grad.norm()) for weight in weights), step())
    norm = float(take_step(run)["gradient/all"])
    expected = [factor * weight.numel() ** 0.5 for factor, weight in zip((3, 4), weights, strict=True)]
    assert norm == pytest.approx(sum(value**2 for value in expected) ** 0.5, rel=1e-4)
    assert seen == pytest.approx([value / norm for value in expected], rel=1e-4)


def test_the_time_limit_ends_a_run_but_the_first_step_does_not_count(tmp_path, monkeypatch, runs):
    clock = [0.0]

    def slow_at_first(run, *arguments):
        clock[0] += 0.25 if run.step else 2.0
        return stages.next_losses(run, *arguments)

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(loop, "next_losses", slow_at_first)
    train("tiny", tmp_path, quick(stage="autoencoder", steps=10**6, max_minutes=1 / 60))
    assert runs[0].step == 5 and runs[0].seconds == 1


def test_divergence_is_said(tmp_path, monkeypatch):
    def spoil(run, *arguments):
        factor = float("nan") if run.step == 1 else 1
        return {name: value * factor for name, value in stages.next_losses(run, *arguments).items()}

    monkeypatch.setattr(loop, "next_losses", spoil)
    with pytest.raises(RuntimeError, match=r"training diverged at step 2 .*checkpoint-0000001; try a lower learning"):
        train("tiny", tmp_path, quick(stage="reconstructor", steps=4, checkpoint_every=1))
    # between two entries of the log, and still no checkpoint of spoiled weights
    with pytest.raises(RuntimeError, match=r"training diverged at step 2 .*the last good state is none"):
        train("tiny", tmp_path / "rare", quick(stage="reconstructor", steps=4, log_every=100, checkpoint_every=2))
    assert not list((tmp_path / "rare").glob("checkpoint*"))


def test_autoencoder_stage_measures_its_latents(tmp_path, monkeypatch, objects):
    monkeypatch.setattr(ObjectBuffer, "batch", lambda self, size, images=True: MultiviewBatch(
        objects.rgba.to(self.device), objects.cameras.to(self.device), objects.num_orbit_views))
    train("tiny", tmp_path, quick(stage="autoencoder", steps=2))
    latents = Ouroboros3DPipeline.from_pretrained(tmp_path / "pipeline").autoencoder.encode(objects.orbit_images)
    torch.testing.assert_close(latents.mean((0, 1, 3, 4)), torch.zeros(8), atol=0.02, rtol=0)
    torch.testing.assert_close(latents.transpose(1, 2).transpose(0, 1).flatten(1).std(1), torch.ones(8), atol=0.02,
                               rtol=0)


def test_the_decoder_can_be_polished_alone(tmp_path):
    train("tiny", tmp_path / "all", quick(stage="autoencoder", steps=1))
    before = Ouroboros3DPipeline.from_pretrained(tmp_path / "all" / "pipeline").autoencoder.state_dict()
    train("tiny", tmp_path / "polished", quick(stage="autoencoder", steps=2, train_encoder=False, ema_decay=0.1),
          init=[str(tmp_path / "all" / "pipeline")])
    after = Ouroboros3DPipeline.from_pretrained(tmp_path / "polished" / "pipeline").autoencoder.state_dict()
    assert not any(str(tmp_path) in path.read_text() for path in tmp_path.rglob("pipeline/**/*.json"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)


def test_learning_rate_rises_and_falls():
    factors = [learning_rate_factor(step / 1000, warmup=0.1) for step in range(1001)]
    assert factors[0] < 0.02 and factors[-1] == pytest.approx(1e-4)
    top = max(range(1001), key=factors.__getitem__)
    assert 95 <= top <= 100 and 0.95 < factors[top] <= 1.001
    assert all(a < b for a, b in zip(factors[:top], factors[1:], strict=False))
    assert all(a > b for a, b in zip(factors[top:], factors[top + 1:], strict=False))
    assert factors[550] == pytest.approx(0.5 + 0.5 * math.cos(0.55 * math.pi) + 1e-4)
    assert learning_rate_factor(0.0, warmup=0.0) == pytest.approx(1.0001)
    assert [learning_rate_factor(f, 0.1, "constant") for f in (0.0, 0.05, 0.5, 1.0)] == pytest.approx(
        [0.01, 0.51, 1.0, 1.0])


def test_the_paper_is_not_trained_from_nothing(tmp_path, rendered_folder, narrow_folder):
    for given in ({}, {"data": rendered_folder}, {"init": [str(narrow_folder)]}):
        with pytest.raises(InputError, match="--preset paper: give --data DIR, .* and --init DIR"):
            train("paper", tmp_path / "run", quick_narrow(), **given)
    assert not (tmp_path / "run").exists()


def test_data_that_is_not_there(tmp_path, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(train_command(tmp_path / "run", "--data", tmp_path / "missing", preset="narrow"))
    assert leaving.value.code == 2
    assert capsys.readouterr().err == f"error: --data {tmp_path / 'missing'}: no such folder\n"
    assert not (tmp_path / "run").exists()


def test_a_bad_object_does_not_stop_a_run(tmp_path, rendered_folder, capsys):
    data = shutil.copytree(rendered_folder, tmp_path / "data")
    for folder in data.iterdir():
        if folder.name not in ("thing0", "thing4"):
            (folder / "cameras.json").write_text("[NaN]")
    with pytest.raises(SystemExit) as leaving:
        main(train_command(tmp_path / "run", "--data", data, **QUICK, stage="reconstructor", workers=0, steps=2))
    captured = capsys.readouterr()
    named = [line for line in captured.err.splitlines() if line.startswith("left out: ")]
    assert leaving.value.code == 1 and len(named) == json.loads(captured.out.splitlines()[-1])["left out"] > 0
    assert all("cameras.json: not a JSON file (NaN is not a finite number)" in line for line in named)
    assert (tmp_path / "run" / "pipeline" / "model_index.json").is_file()
