"""`ouroboros doctor`: what it finds on this machine, and what it would find on a worse one."""

from importlib import metadata
from types import SimpleNamespace

import pytest

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


def test_doctor_checks_this_machine():
    checks = {check.name: check for check in doctor.run_checks()}
    for name in ("Python", "torch", "diffusers", "numba", "PIL", "ffmpeg", "Weights small", "One step", "[eval]",
                 "LPIPS"):
        assert checks[name].state == "ok", checks[name]
    assert checks["torch"].found == metadata.version("torch")
    assert {"GPU", "gsplat", "Meshes", "LPIPS", "Cut-outs", "rembg"} <= set(checks)


def test_doctor_runs_a_step_before_it_says_that_generate_can_run(monkeypatch):
    from ouroboros_lib.pipeline import Ouroboros3DPipeline

    def too_old(self, *arguments, **options):
        raise TypeError("step() got an unexpected keyword argument")
    monkeypatch.setattr(Ouroboros3DPipeline, "__call__", too_old)
    monkeypatch.setattr(doctor, "EXTRAS", {})
    checks = {check.name: check for check in doctor.run_checks()}
    assert checks["Weights small"].state == "ok"
    assert checks["One step"].state == "missing" and "unexpected keyword" in checks["One step"].found


def test_doctor_on_a_worse_machine(monkeypatch):
    def damaged(name):
        raise InputError("model.safetensors:\ndamaged")
    monkeypatch.setattr(doctor, "load_pipeline", damaged)
    monkeypatch.setattr(doctor, "PACKAGES", ("no_such_package",))
    monkeypatch.setitem(doctor.EXTRAS, "eval", ("measuring", ("json", "no_such_measure")))
    # for doctor alone: packages that it imports would fail half-way, for later tests as well
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(version_info=(3, 9, 0), executable="python"))
    checks = {check.name: check for check in doctor.run_checks()}
    for name in ("Python", "no_such_package", "Weights small", "One step"):
        assert checks[name].state == "missing" and checks[name].advice
    assert checks["Weights small"].found == "model.safetensors: damaged"
    assert checks["[eval]"].state == "off" and "no_such_measure" in checks["[eval]"].found
    assert checks["[eval]"].advice == "measuring: pip install -e '.[eval]'"


def test_doctor_tries_to_write(monkeypatch, make_folders_with, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path) in doctor._here() and "GiB free" in doctor._temporary() and not list(tmp_path.iterdir())
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**20))
    for check in (doctor._here, doctor._temporary):
        with pytest.raises(RuntimeError, match="only 1 MiB are free"):
            check()

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    make_folders_with(refuse)
    with pytest.raises(InputError, match=r"cannot write there \(Read-only file system\)"):
        doctor._here()
    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    with pytest.raises(OSError, match="Read-only file system"):
        doctor._temporary()
