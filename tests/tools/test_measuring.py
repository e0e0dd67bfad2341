"""How speed, memory, precision and costs are measured, and that the checks of training can fail."""

import copy
import json
import runpy
import sys
import warnings

import pytest
import torch
from training_inputs import NARROW, QUICK, launch, quick

from ouroboros_lib.errors import InputError
from ouroboros_lib.loading import convert_weights
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.training import TrainingConfig
from ouroboros_lib.training.run import set_up
from tools import benchmark, half_precision, training_checks, training_step
from tools.benchmark import Timing, measure
from tools.costs_page import CostPlan, costs_page
from tools.costs_page import main as costs_main

TIMINGS = {training_step.WITHOUT: Timing(1.0, 10.0, 12.0), training_step.WITH: Timing(2.0, 11.0, 13.0),
           training_step.AVERAGES: Timing(1.5, 14.0, 15.0)}


def test_a_step_on_average_is_weighted_by_how_often_each_kind_comes():
    config = TrainingConfig(self_conditioning_probability=0.25, ema_every=10)
    assert training_step.average_step(TIMINGS, config) == Timing(0.75 * 1 + 0.25 * 2 + 0.5 / 10, 14.0, 15.0)
    without = TrainingConfig(feedback="none", ema_every=1)
    assert training_step.average_step(TIMINGS, without).seconds == 1.5


def test_warming_up_is_not_timed():
    calls = []
    timing = measure(lambda: calls.append("run"), torch.device("cpu"), 3, lambda: calls.append("warm up"))
    assert calls == ["warm up", "run", "run", "run"] and timing.allocated is None and timing.memory == ""


def written(path, kind, *records):
    path.write_text(json.dumps({"kind": kind, "device": "GPU", "torch": "2", "records": list(records)}))
    return path


def training_record(seconds, processes=1, **changes):
    parts = {name: {"seconds": seconds, "allocated": 40.0, "reserved": 44.5}
             for name in (training_step.AVERAGE, training_step.WITH, training_step.WITHOUT)}
    return {"preset": "paper", "processes": processes, "sharded": False, "objects a step": processes,
            "settings": ["preset=paper", "batch_size=1", "compile=true"], "parts": parts} | changes


def test_the_page_of_costs_is_computed_from_the_measurements(tmp_path, capsys):
    inference = {"preset": "paper", "mode": "bf16-weights", "batch": 1, "steps": 25, "plan": "paper",
                 "seconds": 4.25, "allocated": 12.3, "reserved": 13.0,
                 "parts": {"F": 2.0, "decoder": 1.0, "G": 0.5, "renders": 0.25}}
    files = [written(tmp_path / "a", "inference", inference), written(tmp_path / "b", "training", training_record(0.5)),
             written(tmp_path / "c", "training", training_record(0.625, 2))]
    rows = [line.strip("| ").split(" | ") for line in costs_page(files, CostPlan(3.0, "EUR")).splitlines()]
    assert rows[2] == ["paper", "GPU", "bf16-weights", "1", "25", "paper", "4.25", "12.3", "13.0", "2.00", "1.00",
                       "0.50", "0.25"]
    # 960,000 objects at 2 a second are 133.3 hours; at 3.2 a second on two GPUs 83.3
    assert rows[6][3:] == ["0.500", "0.500", "0.500", "40.0", "44.5", "2.00", "1.00", "133", "400"]
    assert rows[7][1:3] == ["2 x GPU, DDP", "batch_size=1, compile=true"]
    assert rows[7][-4:] == ["3.20", "1.60", "83", "500"]
    costs_main([*map(str, files[1:]), "--price", "3", "--steps", "9", "--batch", "800"])
    assert "| 1 | 3 |" in capsys.readouterr().out
    with pytest.raises(InputError, match="no measurement of inference or training"):
        costs_page([written(tmp_path / "d", "precision")], CostPlan(1.0))
    with pytest.raises(InputError, match="lacks 'parts'"):
        costs_page([written(tmp_path / "e", "inference", {})], CostPlan(1.0))


@pytest.fixture
def narrow():
    pipeline = Ouroboros3DPipeline.from_preset("narrow")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_what_must_stay_in_single_precision_is_not_rounded(narrow):
    before = narrow.autoencoder.vae.encoder.conv_in.weight.clone()
    convert_weights(narrow, torch.bfloat16)
    assert torch.equal(narrow.autoencoder.vae.encoder.conv_in.weight, before)
    assert narrow.autoencoder.vae.decoder.conv_in.weight.dtype == torch.bfloat16
    assert {p.dtype for p in narrow.multiview.parameters()} == {torch.bfloat16}


def test_precision_is_measured_against_the_same_noise(narrow):
    one = half_precision.one_step(narrow, sigmas=(1.0,))
    again = half_precision.compare(half_precision.one_step(narrow, sigmas=(1.0,)), one)
    assert min(again.values()) > 60  # other noise: 10; some CPUs round in another order from run to run
    convert_weights(narrow, torch.bfloat16)
    figures = half_precision.compare(half_precision.one_step(narrow, sigmas=(1.0,)), one)
    assert set(figures) == {f"{name}, sigma 1" for name in ("F", "views", "renders", "CCM")}
    assert all(5 < value < 80 for value in figures.values())
    assert half_precision.decibels(torch.full((4,), 0.1), torch.zeros(4)) == pytest.approx(20)


def check(*arguments):
    with pytest.raises(SystemExit) as left:
        training_checks.main(list(arguments))
    return left.value.code


def test_the_checks_of_training(tmp_path):
    settings = ["preset=tiny", "steps=4", f"out={tmp_path / 'run'}", "novel_views=1", "image_loss=mse",
                "learning_rate=1e-3", "reconstructor_learning_rate=1e-3"]
    first = tmp_path / "first.json"
    assert check("learns", *settings, f"json={first}") == 0
    made = json.loads(first.read_text())
    (record,) = made["records"]
    assert [row["step"] for row in record["history"]] == [1, 2, 3, 4] and record["checkpoint GB"] > 0
    assert all(record["after"][name] < record["before"][name] for name in ("multiview", "reconstruction"))
    resumed = tmp_path / "resumed.json"
    assert check("resumes", *settings, f"against={first}", f"json={resumed}") == 0
    (figures,) = json.loads(resumed.read_text())["records"]
    same = {"first": 0, "mean": 0, "largest": 0}
    for name in ("relative difference", "of two runs from the checkpoint"):
        assert figures[name] == {"multiview": same, "reconstruction": same}
    for step in (2, 3):  # the first and the second after the checkpoint
        changed = copy.deepcopy(made)
        changed["records"][0]["history"][step]["multiview"] *= 1.05
        first.write_text(json.dumps(changed))
        assert check("resumes", *settings, f"against={first}") == 1

    together = tmp_path / "together.json"
    assert check("one-batch", *settings, f"json={together}") == 0
    assert check("one-batch", *settings, f"against={together}", "seed=1") == 1


def test_half_precision_stays_close_over_the_recursion(narrow):
    """In 25 steps it is 46 dB; one step differs more."""
    exact = half_precision.whole_loop(narrow, 1)["views"]  # guided, by the preset's default
    convert_weights(narrow, torch.bfloat16)
    assert half_precision.decibels(half_precision.whole_loop(narrow, 1)["views"], exact) > 28


def test_low_memory_offloads_and_decodes_a_few_views_at_a_time(narrow, monkeypatch):
    chunks, decode = [], narrow.autoencoder.vae.decode
    monkeypatch.setattr(narrow.autoencoder.vae, "decode",
                        lambda z, num_frames: chunks.append(num_frames) or decode(z, num_frames=num_frames))
    narrow.enable_low_memory("cpu", views=3)
    narrow(torch.zeros(1, 3, 64, 64), num_inference_steps=1, generator=torch.Generator().manual_seed(0))
    assert chunks == [3, 3, 2] and narrow.multiview._hf_hook is not None


@pytest.mark.parametrize(("module", "arguments", "message"), [
    ("training_step", ["foo=1"], "--set foo=1: expected key=value"),
    ("training_step", ["preset=tiny", "trace=FILE/trace.json"], "FILE: this output folder is a file"),
    ("training_checks", ["resumes", "steps=2"], "resumes: needs against"),
    ("half_precision", ["nope"], "nope: "),
])
def test_bad_input_is_one_line(monkeypatch, capsys, tmp_path, module, arguments, message):
    (tmp_path / "file").write_text("")
    given = [word.replace("FILE", str(tmp_path / "file")) for word in arguments]
    monkeypatch.setattr(sys, "argv", [module, *given])
    with pytest.raises(SystemExit) as leaving, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the module was imported before
        runpy.run_module(f"tools.{module}", run_name="__main__")
    assert leaving.value.code == 2
    error, message = capsys.readouterr().err, message.replace("FILE", str(tmp_path / "file"))
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_averages_are_updated_when_their_part_says_so(tmp_path):
    """In "a step without feedback" never, though each step of the run would."""
    run = set_up("tiny", tmp_path, quick(objects=2, self_conditioning_probability=0.0))
    run.source.fill()
    parts, updates, averages = training_step.parts_of_a_step(run), [], run.averages["multiview"]
    update = averages.step
    averages.step = lambda parameters: (updates.append(1), update(parameters))
    counts = {}
    for name in (training_step.WITHOUT, "clip, optimiser", training_step.AVERAGES):
        updates.clear()
        parts[name]()
        counts[name] = len(updates)
    assert list(counts.values()) == [0, 0, 1]


def times(output):
    *lines, rate = output.splitlines()
    assert rate.endswith(" objects a second on 1 process(s)") and float(rate.split()[0]) > 0
    return {line[:36].strip(): float(line[36:-3]) for line in lines}


def test_every_part_of_a_step_is_timed(capsys, tmp_path):
    trace = tmp_path / "trace.json"
    training_step.main(["preset=tiny", "runs=1", f"trace={trace}", *(f"{key}={value}" for key, value in QUICK.items())])
    assert any("convolution" in str(event.get("name")) for event in json.loads(trace.read_text())["traceEvents"])
    found = times(capsys.readouterr().out)
    assert len(found) == 14 and all(value > 0 for value in found.values())
    assert found["a step with feedback for all"] > found["F, forward and backward"] > found["draw a batch"]


def test_a_step_of_models_that_ship_no_weights_is_timed(capsys):
    training_step.main(["preset=narrow", "runs=1", "objects=1", "refresh_objects=1", *(
        f"{key}={value}" for key, value in NARROW.items() if "objects" not in key)])
    found = times(capsys.readouterr().out)
    assert len(found) == 14 and found["a step with feedback for all"] > found["draw a batch"] > 0


def test_two_processes_time_their_exchange_of_gradients(tmp_path):
    path = tmp_path / "ddp.json"
    settings = [f"{key}={value}" for key, value in (QUICK | {"objects": 2, "refresh_objects": 1}).items()]
    lines = launch(["preset=tiny", "runs=1", f"json={path}", *settings], 2, "tools.training_step")
    assert lines[-1].endswith("objects a second on 2 process(s)")
    [record] = json.loads(path.read_text())["records"]
    assert record["parts"][training_step.EXCHANGE]["seconds"] > 0 and record["processes"] == 2


def test_the_recursion_is_timed_with_weights_in_half_precision(capsys):
    pipeline = benchmark.load("narrow", "cpu", torch.bfloat16)
    vae = pipeline.autoencoder.vae
    assert pipeline.multiview.dtype == vae.decoder.conv_in.weight.dtype == torch.bfloat16
    assert vae.encoder.conv_in.weight.dtype == vae.quant_conv.weight.dtype == torch.float32
    benchmark.main("narrow --steps 1 --batches 1 --modes bf16-weights --runs 1 --device cpu --plan paper".split())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["bf16-weights", "of"]
    assert all(name in lines[1] for name in ("F ", "decoder ", "G ", "renders "))
