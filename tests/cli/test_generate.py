"""The command line: results of `generate`, and one line with exit code 2 for everything that cannot be used."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from test_photo import BAD

from ouroboros_lib import cli
from ouroboros_lib.viz.outputs import FILES
from ouroboros_lib.viz.sheets import evenly_chosen

TINY = ("--preset", "tiny", "--steps", 1, "--device", "cpu")


@pytest.fixture
def photo(tmp_path):
    return cup(tmp_path / "cup.png")


def cup(path):
    image = Image.new("RGBA", (100, 80))
    ImageDraw.Draw(image).ellipse((20, 10, 70, 70), fill=(200, 80, 40, 255))
    image.save(path)
    return path


@pytest.fixture
def run(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        return caught.value.code, *capsys.readouterr()
    return call


@pytest.fixture
def no_weights(monkeypatch):
    """Loading weights is a failure: whatever is wrong must be found before."""
    def fail(name):
        raise AssertionError("the weights were loaded")
    monkeypatch.setattr(cli, "load_pipeline", fail)


def test_generate_writes_everything(run, photo, tmp_path):
    out = tmp_path / "out"
    arguments = ("generate", photo, "--out", out, "--preset", "tiny", "--steps", 3, "--elevation", 5, "--device", "cpu")
    code, text, errors = run(*arguments, "--seed", 7)
    assert (code, errors) == (0, "")
    assert {path.name for path in out.iterdir()} == set(FILES)
    assert all(name in text for name in FILES) and str(photo) in text
    record = json.loads((out / "result.json").read_text())
    assert record["settings"] == {"image": str(photo), "preset": "tiny", "steps": 3, "seed": 7, "feedback": "both",
                                  "background": "auto", "elevation": 5.0, "guidance": 1.0, "fast": None,
                                  "precision": "fp32", "low_memory": False, "feedback_options": {}, "device": "cpu"}
    assert record["input"]["matte"] == "alpha" and set(record["files"]) == set(FILES)
    assert record["figures"]["self_consistency_psnr"] > 0 and record["seconds"]["recursion"] > 0
    assert record["versions"]["torch"] == metadata.version("torch")
    assert Image.open(out / "input.png").size == (32, 32)
    assert Image.open(out / "multiview.png").width > 4 * 96

    # the same seed gives the same splat over older results and leaves the user's files alone; another does not
    first = (out / "gaussians.ply").read_bytes()
    (out / "notes.txt").write_text("mine")
    (out / "result.json").write_text("old")
    assert run(*arguments, "--seed", 7)[0] == 0
    assert (out / "gaussians.ply").read_bytes() == first and (out / "notes.txt").read_text() == "mine"
    assert json.loads((out / "result.json").read_text())["settings"]["seed"] == 7
    assert run(*arguments, "--seed", 8)[0] == 0
    assert (out / "gaussians.ply").read_bytes() != first


def test_fast_reconstructs_less_often_though_the_weights_project_in_every_step(run, photo, tmp_path, monkeypatch):
    pipe = cli.load_pipeline("tiny")
    pipe.register_to_config(feedback_options={"project_above": 0.0})
    monkeypatch.setattr(cli, "load_pipeline", lambda name: pipe)
    calls, reconstruct = [], pipe.reconstruct
    monkeypatch.setattr(pipe, "reconstruct", lambda *args: calls.append(args) or reconstruct(*args))
    arguments = ("generate", photo, "--preset", "tiny", "--steps", 12, "--device", "cpu")
    assert run(*arguments, "--out", tmp_path / "plain")[0] == 0 and len(calls) == 12
    calls.clear()
    assert run(*arguments, "--out", tmp_path / "fast", "--fast", 12)[0] == 0
    assert len(calls) == len(evenly_chosen(12))  # those that recursion.png shows, the first and the last among them
    told = [json.loads((tmp_path / run / "result.json").read_text())["settings"] for run in ("plain", "fast")]
    assert told[0]["fast"] is None and told[0]["feedback_options"] == {"project_above": 0.0}
    assert told[1]["fast"] == 12 and told[1]["feedback_options"] == {
        "project_above": 0.0, "feedback_every": 12, "project_every": 12}


def test_several_pictures_get_a_folder_each(run, tmp_path):
    pictures = [cup(tmp_path / f"{name}.png") for name in ("one", "two")]
    out = tmp_path / "out"
    code, text, errors = run("generate", *pictures, "--out", out, *TINY, "--feedback", "rgb", "--guidance", 1.5)
    assert (code, errors) == (0, "")
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.json")) == [
        "one/result.json", "two/result.json"]


def test_guessed_background_is_a_one_line_warning(run, tmp_path, monkeypatch):
    from ouroboros_lib.data import photo as module
    real = module.importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name == "rembg" else real(name))
    white = Image.new("RGB", (100, 80), "white")
    white.paste(Image.open(cup(tmp_path / "cup.png")).convert("RGB"), mask=Image.open(tmp_path / "cup.png"))
    white.save(tmp_path / "white.jpg")
    code, _, errors = run("generate", tmp_path / "white.jpg", "--out", tmp_path / "out", *TINY,
                          "--feedback", "none")
    assert code == 0 and errors.startswith("warning: ") and errors.count("\n") == 1


def assert_one_line(code, text, errors, *words):
    assert (code, text) == (2, "")
    assert errors.startswith("error: ") and errors.count("\n") == 1 and errors.endswith("\n")
    for word in words:
        assert str(word) in errors


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures(run, tmp_path, no_weights, monkeypatch, name):
    from ouroboros_lib.data import photo as module
    real = module.importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name == "rembg" else real(name))
    path = tmp_path / name
    BAD[name][0](path)
    before = sorted(tmp_path.iterdir())
    assert_one_line(*run("generate", path, "--out", tmp_path / "out"), path)
    assert sorted(tmp_path.iterdir()) == before


BAD_OPTIONS = {
    "no steps": (["--steps", "0"], "--steps"), "too many steps": (["--steps", "1001"], "1000"),
    "words for steps": (["--steps", "many"], "--steps"), "negative seed": (["--seed", "-1"], "--seed"),
    "steep": (["--elevation", "91"], "-90 to 90"), "no number": (["--elevation", "nan"], "--elevation"),
    "guidance": (["--guidance", "-2"], "--guidance"), "infinite": (["--guidance", "inf"], "--guidance"),
    "feedback": (["--feedback", "all"], "both, rgb, ccm, none"),
    "background": (["--background", "blur"], "auto, alpha, keep"),
    "device": (["--device", "tpu"], "auto, cpu, cuda"), "device number": (["--device", "cuda:x"], "cuda:N"),
    "unknown option": (["--sed", "1"], "--sed"), "fast": (["--fast", "0"], "--fast"),
    "precision": (["--precision", "fp8"], "fp32, fp16, bf16"),
}


def test_half_precision_changes_small_models_little(run, photo, tmp_path):
    for precision in ("fp32", "bf16"):
        code, _, errors = run("generate", photo, "--out", tmp_path / precision, "--preset", "tiny", "--steps", 3,
                              "--device", "cpu", "--precision", precision)
        assert (code, errors) == (0, "")
    exact, half = (np.asarray(Image.open(tmp_path / name / "multiview.png"), float) for name in ("fp32", "bf16"))
    error = np.square(exact - half).mean()
    assert 0 < error < 255**2 * 10**-3  # 30 dB


def test_options_that_the_models_or_the_machine_cannot_follow(run, photo, tmp_path):
    base = ("generate", photo, "--out", tmp_path / "out", "--preset", "tiny", "--device", "cpu")
    assert_one_line(*run(*base, "--low-memory"), "is for GPUs")


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options(run, photo, tmp_path, no_weights, name):
    arguments, word = BAD_OPTIONS[name]
    assert_one_line(*run("generate", photo, "--out", tmp_path / "out", *arguments), word)
    assert not (tmp_path / "out").exists()


BAD_EVALUATIONS = {
    "split": (["--split", "train"], "val, test, heldout"), "no objects": (["--objects", "0"], "--objects"),
    "feedback": (["--feedback", "both,all"], "both, rgb, ccm, none"), "seeds": (["--seeds", "1,x"], "whole numbers"),
    "no steps": (["--steps", "0"], "--steps"), "projection": (["--project-above", "on"], "off,1"),
    "preset": (["--preset", "huge"], "huge"), "some steps": (["--steps", "25,0"], "--steps"),
    "guidance": (["--guidance", "1,high"], "--guidance"), "first step": (["--feedback-from", "-1"], "--feedback-from"),
    "every no step": (["--feedback-every", "1,0"], "--feedback-every"),
    "projection every no step": (["--project-every", "0"], "--project-every"),
    "lpips": (["--lpips", "squeeze"], "alex, vgg, off"), "eta": (["--eta", "0,2"], "--eta"),
}


@pytest.mark.parametrize("name", BAD_EVALUATIONS)
def test_bad_evaluations(run, tmp_path, name):
    arguments, word = BAD_EVALUATIONS[name]
    assert_one_line(*run("evaluate", "--out", tmp_path / "new" / "figures", *arguments), word)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_results_that_cannot_be_written(run, tmp_path, no_weights, command):
    (tmp_path / "file").write_text("mine")
    assert_one_line(*run(command, "--out", tmp_path / "file" / "figures"), "is a file")
    if command == "evaluate":
        (tmp_path / "figures.csv").mkdir()
        assert_one_line(*run(command, "--out", tmp_path / "figures"), "figures.csv")


def test_evaluate_writes_a_row_per_image_and_prints_the_summary(run, tmp_path):
    code, text, _ = run("evaluate", "--preset", "tiny", "--out", tmp_path / "figures", "--objects", 2, "--steps", 1,
                        "--feedback", "none", "--device", "cpu", "--seeds", "0,1")
    assert code == 0 and "feedback-none" in text and text.endswith("figures.json\n")
    assert json.loads((tmp_path / "figures.json").read_text())["settings"]["seeds"] == [0, 1]
    assert len((tmp_path / "figures.csv").read_text().splitlines()) > 2 * 2 * 10


def test_missing_arguments_and_unknown_commands(run, photo, no_weights):
    assert_one_line(*run("generate", photo), "--out")
    assert_one_line(*run("generate", "--out", "x"), "IMAGE")
    assert_one_line(*run("paint"), "paint")


def test_cuda_without_a_gpu(run, photo, tmp_path, no_weights, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_one_line(*run("generate", photo, "--out", tmp_path / "out", "--device", "cuda"), "--device cpu", "doctor")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert_one_line(*run("generate", photo, "--out", tmp_path / "out", "--device", "cuda:2"), "cuda:0 to cuda:1")
    assert cli.resolve_device("auto") == torch.device("cuda")


def test_alpha_insisted_on(run, tmp_path, no_weights):
    Image.new("RGB", (50, 50)).save(tmp_path / "grey.png")
    image = tmp_path / "grey.png"
    assert_one_line(*run("generate", image, "--out", tmp_path / "out", "--background", "alpha"), image)


def test_two_pictures_of_one_name(run, photo, tmp_path, no_weights):
    (tmp_path / "sub").mkdir()
    other = cup(tmp_path / "sub" / "CUP.png")
    assert_one_line(*run("generate", photo, other, "--out", tmp_path / "out"), photo, other)
    assert_one_line(*run("generate", photo, photo, "--out", tmp_path / "out"), photo)


def test_output_folder_that_cannot_be_written(run, photo, tmp_path, no_weights):
    (tmp_path / "file").write_text("keep me")
    assert_one_line(*run("generate", photo, "--out", tmp_path / "file"), tmp_path / "file", "--out")
    assert_one_line(*run("generate", photo, "--out", tmp_path / "file" / "out"), "is a file")
    assert (tmp_path / "file").read_text() == "keep me"
    if os.geteuid() != 0:  # permissions do not bind root
        (tmp_path / "locked").mkdir(mode=0o555)
        assert_one_line(*run("generate", photo, "--out", tmp_path / "locked" / "out"), "cannot write")
    if Path("/proc/self").exists():  # a place where not even root can write
        assert_one_line(*run("generate", photo, "--out", "/proc/out"), "/proc/out", "cannot write")


def test_unknown_preset_and_damaged_weights(run, photo, tmp_path):
    from ouroboros_lib.pipeline import Ouroboros3DPipeline

    out = tmp_path / "out"
    arguments = ("generate", photo, "--out", out, "--device", "cpu", "--preset")
    assert_one_line(*run(*arguments, "huge"), "huge", "small", "tiny")
    (tmp_path / "empty").mkdir()
    assert_one_line(*run(*arguments, tmp_path / "empty"), "empty")
    Ouroboros3DPipeline.from_pretrained("tiny").save_pretrained(tmp_path / "weights")
    victim = next((tmp_path / "weights").rglob("*.safetensors"))
    good = victim.read_bytes()
    for bad in (good[: len(good) // 2], b"", b"\0" * 100, b"not weights at all, just text"):
        victim.write_bytes(bad)
        assert_one_line(*run(*arguments, tmp_path / "weights"), "weights")
    (tmp_path / "weights" / "model_index.json").write_text("{")
    assert_one_line(*run(*arguments, tmp_path / "weights"), "weights")
    assert not out.exists()


def test_failure_while_writing_leaves_older_results(run, photo, tmp_path, monkeypatch):
    import ouroboros_lib.viz.outputs as outputs

    out = tmp_path / "out"
    out.mkdir()
    for name in FILES:
        (out / name).write_text(f"older {name}")
    def full_disk(*_args, **_kwargs):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(outputs, "write_viewer", full_disk)
    assert_one_line(*run("generate", photo, "--out", out, *TINY), out, "No space left")
    assert {path.name: path.read_text() for path in out.iterdir()} == {name: f"older {name}" for name in FILES}


def test_interrupt_leaves_nothing(run, photo, tmp_path, monkeypatch):
    import ouroboros_lib.viz.outputs as outputs

    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt
    monkeypatch.setattr(outputs, "write_viewer", interrupt)
    code, _, errors = run("generate", photo, "--out", tmp_path / "out", *TINY)
    assert code == 130 and errors.strip().count("\n") == 0 and "Traceback" not in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_sigterm_cleans_up(photo, tmp_path):
    command = [sys.executable, "-m", "ouroboros_lib", "generate", str(photo), "--out", str(tmp_path / "out"),
               "--preset", "tiny", "--steps", "1000", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(4)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    assert process.returncode in (143, -signal.SIGTERM) and not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_sigterm_while_results_are_written_leaves_nothing(tmp_path):
    program = f"""
import os, pathlib, signal
from ouroboros_lib.viz.outputs import staged
with staged(pathlib.Path({str(tmp_path)!r}) / "new" / "out") as stage:
    (stage / "half").write_text("written")
    os.kill(os.getpid(), signal.SIGTERM)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120)
    assert run.returncode == 143 and list(tmp_path.iterdir()) == []


def test_help_is_quick_and_lists_the_commands():
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "ouroboros_lib", "--help"], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    assert done.returncode == 0 and "doctor" in done.stdout and "generate" in done.stdout
    assert seconds < 5  # no torch behind it
    done = subprocess.run([sys.executable, "-c", "import sys, ouroboros_lib.cli.main; print('torch' in sys.modules)"],
                          capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_doctor_names_what_is_missing(run, monkeypatch, tmp_path):
    from ouroboros_lib import doctor

    ready = [doctor.Check("Python", "ok", "3.11"), doctor.Check("GPU", "off", "none")]
    monkeypatch.setattr(doctor, "run_checks", lambda: ready)
    code, text, errors = run("doctor")
    assert code == 0 and errors == "" and "can run" in text
    monkeypatch.setattr(doctor, "run_checks", lambda: [*ready, doctor.Check("Weights", "missing", "gone", "do this")])
    code, text, errors = run("doctor")
    assert code == 1 and "cannot run yet: Weights" in text and "-> do this" in text


def test_doctor_checks_this_machine(monkeypatch):
    from ouroboros_lib import doctor

    checks = {check.name: check for check in doctor.run_checks()}
    for name in ("Python", "torch", "torchvision", "diffusers", "numba", "pillow", "ffmpeg", "Rasterizer"):
        assert checks[name].state == "ok", checks[name]
    assert checks["torch"].found == metadata.version("torch")
    assert {"GPU", "Memory", "Weights small", "Meshes", "LPIPS", "rembg"} <= set(checks)
    assert all(check.advice for check in checks.values() if check.state == "missing")
    monkeypatch.setattr(sys, "version_info", (3, 9, 0))
    assert doctor._python().state == "missing"


def test_doctor_sees_damaged_weights(tmp_path):
    from safetensors.torch import save_file

    from ouroboros_lib import doctor

    (tmp_path / "model_index.json").write_text("{}")
    assert "no .safetensors" in doctor.unreadable_weights(tmp_path)
    save_file({"a": torch.zeros(1000)}, tmp_path / "model.safetensors")
    assert doctor.unreadable_weights(tmp_path) == ""
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[:-10])
    assert "damaged" in doctor.unreadable_weights(tmp_path)
