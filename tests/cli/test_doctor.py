"""`ouroboros doctor`: what it finds on this machine, and what it would find on a worse one."""

import sys
from importlib import metadata

from ouroboros_lib.cli import doctor
from ouroboros_lib.errors import InputError


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
    for name in ("Python", "torch", "torchvision", "diffusers", "numba", "PIL", "ffmpeg", "Weights small"):
        assert checks[name].state == "ok", checks[name]
    assert checks["torch"].found == metadata.version("torch")
    assert {"GPU", "gsplat", "Meshes", "LPIPS", "rembg"} <= set(checks)


def test_doctor_on_a_worse_machine(monkeypatch):
    def damaged(name):
        raise InputError("model.safetensors:\ndamaged")
    monkeypatch.setattr(doctor, "load_pipeline", damaged)
    monkeypatch.setattr(doctor, "PACKAGES", ("no_such_package",))
    monkeypatch.setattr(sys, "version_info", (3, 9, 0))
    checks = {check.name: check for check in doctor.run_checks()}
    for name in ("Python", "no_such_package", "Weights small"):
        assert checks[name].state == "missing" and checks[name].advice
    assert checks["Weights small"].found == "model.safetensors: damaged"
