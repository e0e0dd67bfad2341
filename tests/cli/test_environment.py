"""Homes, caches and folders that are not there or cannot be written, outputs that nobody reads: one line at most."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import warm
from writing_commands import COMMANDS, make_inputs, words

from ouroboros_lib.cli.main import main

NOWHERE = "/proc/none"  # nobody can make it, not even root


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs") / "given")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_cannot_be_written(refused, inputs, command):
    refused(words(command, inputs, Path(NOWHERE) / "out", "http://127.0.0.1:9"), NOWHERE, "choose another --out")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("number, text", [(30, "Read-only file system"), (13, "Permission denied")])
def test_a_disk_that_is_read_only(refused, inputs, tmp_path, make_folders_with, command, number, text):
    make = os.mkdir

    def refuse(path, *options, **more):
        if str(path).startswith(str(tmp_path)):
            raise OSError(number, text, str(path))
        make(path, *options, **more)

    make_folders_with(refuse)
    refused(words(command, inputs, tmp_path / "out", "http://127.0.0.1:9"), tmp_path, text)
    assert not list(tmp_path.iterdir())


def test_nobodys_home_and_no_caches(inputs, tmp_path):
    nowhere = dict.fromkeys(("HOME", "TMPDIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HF_HOME", "MPLCONFIGDIR"), NOWHERE)
    run = warm.run(["ouroboros_lib", *words("export", inputs, tmp_path / "out")], env=os.environ | nowhere, text=True,
                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.communicate()[1] == "" and run.returncode == 0


def test_no_folder_for_temporary_files(refused, inputs, monkeypatch):
    def none():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']")

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", none)
    refused(("view", inputs / "splat.ply", "--no-open"), "No usable temporary directory")


@pytest.mark.parametrize("where, code, line", [
    ("| true", 1, ""),
    ("> /dev/full", 2, "error: No space left on device; make room there, then give the command again\n")])
def test_output_that_nobody_reads(tmp_path, where, code, line):
    command = " ".join(warm.command(["ouroboros_lib", "data", "protocols"]))
    script = f"({command}; echo $? > {tmp_path}/code) {where}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    assert (int((tmp_path / "code").read_text()), done.stderr) == (code, line)


@pytest.mark.parametrize("closed", [("stdout",), ("stdout", "stderr")])
def test_outputs_that_are_closed(inputs, tmp_path, monkeypatch, closed):
    for name in closed:
        monkeypatch.setattr(sys, name, None)
    with pytest.raises(SystemExit) as caught:
        main(words("data render", inputs, tmp_path / "out"))
    assert caught.value.code == 0 and len(list((tmp_path / "out").iterdir())) == 3
