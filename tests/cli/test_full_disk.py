"""A disk that is full: one line and exit code 2, nothing half-written, and what was there stays."""

import resource
import shutil
from contextlib import contextmanager

import pytest
from writing_commands import COMMANDS, files, make_inputs, served, words

INDEXES = {"shards.json", "manifest.json"}  # of what is there


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs") / "given")


@pytest.fixture(scope="module")
def server():
    fuel = served()
    yield fuel.url
    fuel.close()


@contextmanager
def files_of_at_most(size):
    """In this process and its children a write beyond fails as on a full disk: "File too large"."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refuses(run, limit, arguments):
    with files_of_at_most(limit):
        code, _, errors = run(*arguments)
    lines = [line for line in errors.splitlines() if not line.startswith("note: ")]
    bars = lines[:-1]
    assert code == 2 and not [line for line in bars if line and "%|" not in line], errors
    assert lines[-1].startswith("error: "), errors
    return lines[-1]


@pytest.mark.parametrize("command", [
    command for command in COMMANDS if command not in ("generate", "evaluate", "train", "recipe")])
def test_a_full_disk(run, inputs, server, tmp_path, command):
    """It is full after any of the files; then there is room again, and the same command ends as if nothing had been."""
    assert run(*words(command, inputs, tmp_path / "whole", server))[0] == 0
    whole = files(tmp_path / "whole")
    for limit in {0, *(len(data) - 1 for data in whole.values() if data)}:
        out = tmp_path / str(limit)
        line = refuses(run, limit, words(command, inputs, out, server))
        assert str(out) in line and "File too large; a limit on the size of files" in line
        left = files(out) if out.exists() else {}
        assert not [name for name in left if "/." in f"/{name}"]
        assert {name: data for name, data in left.items() if name not in INDEXES}.items() <= whole.items()
        assert run(*words(command, inputs, out, server))[0] == 0 and files(out) == whole
        shutil.rmtree(out)


def test_a_full_disk_under_an_evaluation(run, inputs, tmp_path):
    """What was measured is kept, and not measured again."""
    out = tmp_path / "out"
    assert str(out) in refuses(run, 0, words("evaluate", inputs, out)) and not list(out.iterdir())
    assert str(out) in refuses(run, 500_000, words("evaluate", inputs, out))  # the sheet of pictures
    kept = {path: path.stat().st_mtime_ns for path in (out / "figures.parts").glob("object-*")}
    assert kept and not [path for path in out.rglob("*") if path.name[0] == "."]
    refuses(run, 500_000, words("evaluate", inputs, out))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_full_disk_after_the_recursion(run, inputs, tmp_path):
    for limit in (0, 20_000):  # the first file, the page with everything in it
        assert str(tmp_path / "out") in refuses(run, limit, words("generate", inputs, tmp_path / "out"))
        assert not (tmp_path / "out").exists()


def test_a_full_disk_in_training(run, inputs, tmp_path):
    """What is left is what the run goes on from."""
    arguments = words("train", inputs, tmp_path)
    assert str(tmp_path) in refuses(run, 0, arguments)  # TensorBoard's
    assert str(tmp_path) in refuses(run, 50_000, arguments)  # a checkpoint's first file
    assert not [path for path in tmp_path.rglob("*") if path.name[0] == "." or "checkpoint" in path.name]
    assert run(*arguments)[0] == 0 and (tmp_path / "pipeline" / "model_index.json").is_file()


def test_a_full_disk_under_a_recipe(run, inputs, tmp_path):
    assert str(tmp_path / "out") in refuses(run, 0, words("recipe", inputs, tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())
