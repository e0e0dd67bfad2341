"""The command line as a whole: help, one line for what is missing, nothing left behind when it is stopped."""

import io
import os
import subprocess
import sys

import pytest

import ouroboros_lib
from ouroboros_lib.cli.main import main


def test_missing_arguments_and_unknown_commands(refused, photo, no_weights):
    refused(("generate", photo), "--out")
    refused(("generate", "--out", "x"), "IMAGE")
    refused(("paint",), "paint")


@pytest.mark.parametrize("group", [(), ("data",), ("data", "gso"), ("convert",)])
def test_no_command_prints_the_help(run, group):
    code, text, errors = run(*group)
    assert code in (0, 2)  # as typer's version has it
    assert "Commands:" in (text + errors).splitlines() and "error" not in errors


@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_results_that_cannot_be_written(refused, tmp_path, command):
    (tmp_path / "file").write_text("mine")
    refused((command, "--out", tmp_path / "file" / "figures"), "is a file")
    if command == "evaluate":
        (tmp_path / "figures.csv").mkdir()
        refused((command, "--out", tmp_path / "figures"), "figures.csv")


def test_names_that_the_disk_refuses(refused, tmp_path):
    from gaussian_inputs import random_gaussians

    random_gaussians(5).save(tmp_path / "g.ply")
    refused(("export", tmp_path / "g.ply", "--out", tmp_path / f"{'n' * 300}.ply"), "File name too long")
    page = tmp_path / "x" / ("n" * 300) / "g.html"
    refused(("view", tmp_path / "g.ply", "--no-open", "--out", page), "name too long")
    assert [path.name for path in tmp_path.iterdir()] == ["g.ply"]


def test_help_lists_the_commands():
    done = subprocess.run([sys.executable, "-m", "ouroboros_lib", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for command in ("doctor", "generate", "train", "recipe", "evaluate", "tables", "data", "convert"):
        assert f"\n  {command} " in done.stdout


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


def test_version_and_completion(run):
    assert run("--version") == (0, f"ouroboros {ouroboros_lib.__version__}\n", "")
    code, text, errors = run("--help")
    assert code == 0 and "--install-completion" in text


def test_names_that_the_console_cannot_print_are_spelt(monkeypatch, tmp_path):
    """Windows prints to files and pipes in cp1252, and a traceback would end the work after the first picture."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), "cp1252", newline="\n") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    with pytest.raises(SystemExit) as caught:
        main(["generate", str(tmp_path / "\u65e5\u672c.png"), "--out", str(tmp_path / "out")])
    print("\u65e5\u672c.png", flush=True)
    streams["stderr"].flush()
    assert caught.value.code == 2
    assert all(b"\\u65e5\\u672c.png" in stream.buffer.getvalue() for stream in streams.values())
