"""`ouroboros doctor`: what it finds on this machine, and what it would find on a worse one."""

import sys
from importlib import metadata

import torch
from safetensors.torch import save_file

from ouroboros_lib.cli import doctor


def test_doctor_names_what_is_missing(run, monkeypatch):
    ready = [doctor.Check("Python", "ok", "3.11"), doctor.Check("GPU", "off", "none")]
    monkeypatch.setattr(doctor, "run_checks", lambda: ready)
    code, text, errors = run("doctor")
    assert code == 0 and errors == "" and "can run" in text
    monkeypatch.setattr(doctor, "run_checks", lambda: [*ready, doctor.Check("Weights", "missing", "gone", "do this")])
    code, text, errors = run("doctor")
    assert code == 1 and "cannot run yet: Weights" in text and "-> do this" in text


def test_doctor_checks_this_machine(monkeypatch):
    checks = {check.name: check for check in doctor.run_checks()}
    for name in ("Python", "torch", "torchvision", "diffusers", "numba", "pillow", "ffmpeg", "Rasterizer"):
        assert checks[name].state == "ok", checks[name]
    assert checks["torch"].found == metadata.version("torch")
    assert {"GPU", "Memory", "Weights small", "Meshes", "LPIPS", "rembg"} <= set(checks)
    assert all(check.advice for check in checks.values() if check.state == "missing")
    monkeypatch.setattr(sys, "version_info", (3, 9, 0))
    assert doctor._python().state == "missing"


def test_doctor_sees_damaged_weights(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    assert "no .safetensors" in doctor.unreadable_weights(tmp_path)
    save_file({"a": torch.zeros(1000)}, tmp_path / "model.safetensors")
    assert doctor.unreadable_weights(tmp_path) == ""
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[:-10])
    assert "damaged" in doctor.unreadable_weights(tmp_path)
