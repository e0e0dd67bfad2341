"""`ouroboros generate`: its results, and one line with exit code 2 for everything that cannot be used."""

import json
import os
import tracemalloc
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import BAD
from PIL import Image

from ouroboros_lib.cli import generate
from ouroboros_lib.data.photo import load_photo
from ouroboros_lib.models.elevation import ElevationEstimator
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.viz.outputs import FILES
from ouroboros_lib.viz.sheets import evenly_chosen

TINY = ("--preset", "tiny", "--steps", 1, "--device", "cpu")


def test_generate_writes_everything(run, photo, tmp_path):
    out = tmp_path / "out"
    code, text, errors = run("generate", photo, "--out", out, "--preset", "tiny", "--steps", 3, "--elevation", 5,
                             "--device", "cpu", "--seed", 7)
    assert (code, errors) == (0, "")
    assert {path.name for path in out.iterdir()} == set(FILES)
    assert all(name in text for name in FILES) and str(photo) in text
    record = json.loads((out / "result.json").read_text())
    assert record["settings"] == {"image": str(photo), "preset": "tiny", "steps": 3, "plan": "paper", "seed": 7,
                                  "background": "auto", "elevation": 5.0, "guidance": 1.0, "precision": "fp32",
                                  "low_memory": False, "device": "cpu"}
    assert record["input"]["matte"] == "alpha" and set(record["files"]) == set(FILES)
    assert record["figures"]["self_consistency_psnr"] > 0 and record["seconds"]["recursion"] > 0
    assert record["versions"]["torch"] == metadata.version("torch")
    assert Image.open(out / "input.png").size == (32, 32)
    assert Image.open(out / "multiview.png").width > 4 * 96


def test_the_elevation_is_estimated_where_the_weights_can(run, photo, tmp_path, quick, monkeypatch):
    pipe = Ouroboros3DPipeline.from_pretrained("tiny")
    pipe.register_modules(elevation=ElevationEstimator().eval())
    monkeypatch.setattr(generate, "load_pipeline", lambda name: pipe)
    wanted = round(float(pipe.estimate_elevation(load_photo(photo, pipe.image_size).image[None])), 1)
    for given in ((), ("--elevation", "auto"), ("--elevation", 25)):
        code, text, errors = run("generate", photo, "--out", tmp_path, *TINY, *given)
        record = json.loads((tmp_path / "result.json").read_text())
        assert (code, errors) == (0, "") and record["settings"]["elevation"] == (25 if 25 in given else wanted)
        assert text.count(f"elevation {wanted:.0f} degrees, estimated") == (25 not in given)
        assert ("elevation_estimated" in record["settings"]) == ("elevation" in record["seconds"]) == (25 not in given)


def test_weights_that_cannot_estimate_it(run, refused, photo, tmp_path, quick):
    refused(("generate", photo, "--out", tmp_path / "out", *TINY, "--elevation", "auto"),
            "--elevation auto: the weights tiny cannot estimate it; give degrees")
    assert not (tmp_path / "out").exists()
    for given, told in (((), 1), (("--elevation", 10), 0)):
        code, text, _ = run("generate", photo, "--out", tmp_path / "out", *TINY, *given)
        assert code == 0 and text.count("elevation 10 degrees, for these weights cannot estimate it") == told
        assert json.loads((tmp_path / "out" / "result.json").read_text())["settings"]["elevation"] == 10


def test_the_seed_decides_and_older_results_are_replaced(run, photo, tmp_path, quick):
    out = tmp_path / "out"
    assert run("generate", photo, "--out", out, *TINY, "--seed", 7)[0] == 0
    first = (out / "gaussians.ply").read_bytes()
    (out / "notes.txt").write_text("mine")
    (out / "result.json").write_text("old")
    assert run("generate", photo, "--out", out, *TINY, "--seed", 7)[0] == 0
    assert (out / "gaussians.ply").read_bytes() == first and (out / "notes.txt").read_text() == "mine"
    assert json.loads((out / "result.json").read_text())["settings"]["seed"] == 7
    assert run("generate", photo, "--out", out, *TINY, "--seed", 8)[0] == 0
    assert (out / "gaussians.ply").read_bytes() != first


SHOWN = {*evenly_chosen(12)}  # recursion.png shows reconstructions of six steps, the first and the last among them


@pytest.mark.parametrize("own, asked, ran, steps, reconstructed", [
    ("paper", None, "paper", 12, {*range(12)}), ("calm", None, "calm", 8, {0, 5, 7} | {*evenly_chosen(8)}),
    ("calm", None, "calm", 12, {0, 5, 10, 11}),  # enough for recursion.png: none beside them
    ("calm", "paper,every=12", "paper,every=12", 12, SHOWN), ("calm", "two-stage", "two-stage", 12, SHOWN),
    ("paper", "every=12", "paper,every=12", 12, SHOWN)])
def test_the_plan_is_the_weights_own_unless_asked(run, photo, tmp_path, quick, monkeypatch, own, asked, ran, steps,
                                                  reconstructed):
    pipe = Ouroboros3DPipeline.from_pretrained("tiny")
    pipe.register_to_config(plan=own, num_inference_steps=steps if asked is None else 1)
    monkeypatch.setattr(generate, "load_pipeline", lambda name: pipe)
    calls, reconstruct = [], pipe.reconstruct
    monkeypatch.setattr(pipe, "reconstruct", lambda *args: calls.append(args) or reconstruct(*args))
    given = () if asked is None else ("--plan", asked, "--steps", steps)
    assert run("generate", photo, "--out", tmp_path, "--preset", "tiny", "--device", "cpu", *given)[0] == 0
    settings = json.loads((tmp_path / "result.json").read_text())["settings"]
    assert settings["plan"] == ran and settings["steps"] == steps
    assert len(calls) == len(reconstructed)


def test_several_pictures_get_a_folder_each(run, cup, tmp_path, quick):
    pictures = [cup(tmp_path / f"{name}.png") for name in ("one", "two")]
    out = tmp_path / "out"
    code, text, errors = run("generate", *pictures, "--out", out, *TINY, "--plan", "feedback=rgb", "--guidance", 1.5)
    assert (code, errors) == (0, "")
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.json")) == [
        "one/result.json", "two/result.json"]


def test_pictures_are_not_held_while_others_are_read(run, cup, tmp_path, quick, monkeypatch):
    import weakref

    from ouroboros_lib.data import photo

    made, cut_out = weakref.WeakSet(), photo.cut_out

    class Held(photo.Cutout):
        __hash__ = object.__hash__

    def watched(*arguments):
        assert len(made) <= 1
        cutout = Held(**vars(cut_out(*arguments)))
        made.add(cutout)
        return cutout
    monkeypatch.setattr(photo, "cut_out", watched)
    pictures = [cup(tmp_path / f"{name}.png") for name in "abc"]
    assert run("generate", *pictures, "--out", tmp_path / "out", *TINY)[0] == 0


def test_guessed_background_is_a_one_line_warning(run, photo, tmp_path, quick, no_remover):
    white = Image.new("RGB", (100, 80), "white")
    white.paste(Image.open(photo).convert("RGB"), mask=Image.open(photo))
    white.save(tmp_path / "white.jpg")
    code, _, errors = run("generate", tmp_path / "white.jpg", "--out", tmp_path / "out", *TINY)
    assert code == 0 and errors.startswith("warning: ") and errors.count("\n") == 1


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures(refused, tmp_path, no_weights, no_remover, name):
    path = tmp_path / name
    BAD[name][0](path)
    before = sorted(tmp_path.iterdir())
    refused(("generate", path, "--out", tmp_path / "out"), path)
    assert sorted(tmp_path.iterdir()) == before


BAD_OPTIONS = {
    "no steps": (["--steps", "0"], "--steps"), "too many steps": (["--steps", "1001"], "1000"),
    "words for steps": (["--steps", "many"], "--steps"), "negative seed": (["--seed", "-1"], "--seed"),
    "steep": (["--elevation", "91"], "-90 to 90"), "no number": (["--elevation", "nan"], "--elevation"),
    "no degrees": (["--elevation", "high"], "expected degrees or auto"),
    "guidance": (["--guidance", "-2"], "--guidance"), "infinite": (["--guidance", "inf"], "--guidance"),
    "plan": (["--plan", "wild"], "paper, calm, two-stage, projection"), "empty plan": (["--plan", ""], "plan ''"),
    "plan's interval": (["--plan", "calm,every=0"], "every=0: expected a whole number of at least 1"),
    "plan's field": (["--plan", "calm,often=2"], "often=2"), "plan's map": (["--plan", "feedback=all"], "rgb, ccm"),
    "background": (["--background", "blur"], "auto, alpha, keep, u2net"),
    "device": (["--device", "tpu"], "auto, cpu, cuda"), "device number": (["--device", "cuda:x"], "cuda:N"),
    "unknown option": (["--sed", "1"], "--sed"), "precision": (["--precision", "fp8"], "fp32, fp16, bf16"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options(refused, photo, tmp_path, no_weights, name):
    arguments, word = BAD_OPTIONS[name]
    refused(("generate", photo, "--out", tmp_path / "out", *arguments), word)
    assert not (tmp_path / "out").exists()


def test_half_precision_changes_small_models_little(run, photo, tmp_path, quick):
    for precision in ("fp32", "bf16"):
        code, _, errors = run("generate", photo, "--out", tmp_path / precision, "--preset", "tiny", "--steps", 3,
                              "--device", "cpu", "--precision", precision)
        assert (code, errors) == (0, "")
    exact, half = (np.asarray(Image.open(tmp_path / name / "multiview.png"), float) for name in ("fp32", "bf16"))
    error = np.square(exact - half).mean()
    assert 0 < error < 255**2 * 10**-3  # 30 dB


def test_options_that_the_machine_cannot_follow(refused, photo, tmp_path):
    refused(("generate", photo, "--out", tmp_path / "out", *TINY, "--low-memory"), "is for GPUs")


def test_cuda_without_a_gpu(refused, photo, tmp_path, no_weights, monkeypatch):
    command = ("generate", photo, "--out", tmp_path / "out", "--device")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused((*command, "cuda"), "device cuda", "cpu or auto", "doctor")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    refused((*command, "cuda:2"), "cuda:0 to cuda:1")


def test_alpha_insisted_on(refused, tmp_path, no_weights):
    image = tmp_path / "grey.png"
    Image.new("RGB", (50, 50)).save(image)
    refused(("generate", image, "--out", tmp_path / "out", "--background", "alpha"), image)


def test_two_pictures_of_one_name(refused, cup, photo, tmp_path, no_weights):
    other = cup(photo.with_name("CUP.bmp"))  # in other folders they may be the same: test_options.py
    refused(("generate", photo, other, "--out", tmp_path / "out"), photo, other)
    refused(("generate", photo, photo, "--out", tmp_path / "out"), photo)


def test_output_folder_that_cannot_be_written(refused, photo, tmp_path, no_weights):
    (tmp_path / "file").write_text("keep me")
    refused(("generate", photo, "--out", tmp_path / "file"), tmp_path / "file", "--out")
    refused(("generate", photo, "--out", tmp_path / "file" / "out"), "is a file")
    assert (tmp_path / "file").read_text() == "keep me"
    if os.geteuid() != 0:  # permissions do not bind root
        (tmp_path / "locked").mkdir(mode=0o555)
        refused(("generate", photo, "--out", tmp_path / "locked" / "out"), "cannot write")
    if Path("/proc/self").exists():  # a place where not even root can write
        refused(("generate", photo, "--out", "/proc/out"), "/proc/out", "cannot write")


def test_unknown_preset_and_damaged_weights(refused, photo, tmp_path):
    out = tmp_path / "out"
    arguments = ("generate", photo, "--out", out, "--device", "cpu", "--preset")
    refused((*arguments, "huge"), "huge", "small", "tiny")
    (tmp_path / "empty").mkdir()
    refused((*arguments, tmp_path / "empty"), "empty")
    Ouroboros3DPipeline.from_pretrained("tiny").save_pretrained(tmp_path / "weights")
    victim = next((tmp_path / "weights").rglob("*.safetensors"))
    good = victim.read_bytes()
    for bad in (good[: len(good) // 2], b"", b"\0" * 100, b"not weights at all, just text"):
        victim.write_bytes(bad)
        refused((*arguments, tmp_path / "weights"), "weights")
    (tmp_path / "weights" / "model_index.json").write_text("{")
    refused((*arguments, tmp_path / "weights"), "weights")
    assert not out.exists()


def test_failure_while_writing_leaves_older_results(refused, photo, tmp_path, quick, monkeypatch):
    import ouroboros_lib.viz.outputs as outputs

    out = tmp_path / "out"
    out.mkdir()
    for name in FILES:
        (out / name).write_text(f"older {name}")

    def full_disk(*_args, **_kwargs):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(outputs, "write_viewer", full_disk)
    refused(("generate", photo, "--out", out, *TINY), out, "No space left")
    assert {path.name: path.read_text() for path in out.iterdir()} == {name: f"older {name}" for name in FILES}


def test_interrupt_leaves_nothing(run, photo, tmp_path, quick, monkeypatch):
    import ouroboros_lib.viz.outputs as outputs

    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt
    monkeypatch.setattr(outputs, "write_viewer", interrupt)
    code, _, errors = run("generate", photo, "--out", tmp_path / "out", *TINY)
    assert code == 130 and errors.strip().count("\n") == 0 and "Traceback" not in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device, stub", [("cuda:99", False), ("cpu", True)])
def test_memory_does_not_grow_with_the_number_of_pictures(run, tmp_path, monkeypatch, device, stub):
    """A cut-out picture of 512 x 512 pixels takes 4 MiB; here while all are looked at, and while they are turned into
    splats, whose files would take most of the time."""
    if stub:
        from ouroboros_lib.viz import outputs

        record = {"seconds": {"recursion": 1.0}, "settings": {},
                  "figures": {"self_consistency_psnr": 20.0, "gaussians_visible": 1}}
        monkeypatch.setattr(outputs, "write_outputs", lambda *_: record)
    pictures = [tmp_path / f"{number}.jpg" for number in range(8)]
    for path in pictures:
        Image.new("RGB", (512, 512), (200, 90, 40)).save(path)
    peaks = []
    for some in (pictures[:1], pictures[:2], pictures):  # the first brings what is loaded once
        tracemalloc.start()
        code, _, errors = run("generate", *some, "--out", tmp_path / "out", "--preset", "tiny", "--steps", 1,
                              "--background", "keep", "--device", device)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert code == (0 if stub else 2), errors
    assert peaks[0] > 4 * 2**20 and peaks[2] < peaks[1] + 2**20
