"""The command line as a user calls it, in this process."""

import os
import pathlib
import sys

import pytest
from PIL import Image, ImageDraw

from ouroboros_lib.cli import generate
from ouroboros_lib.cli.main import main


@pytest.fixture
def run(capsys):
    """Exit code, stdout and stderr of a command."""
    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        return caught.value.code, *capsys.readouterr()
    return call


@pytest.fixture
def refused(run):
    """Asserts that a command ends in one line with these words, exit code 2 and nothing on stdout."""
    def call(arguments, *words):
        code, text, errors = run(*arguments)
        assert (code, text) == (2, "")
        assert errors.startswith("error: ") and errors.count("\n") == 1 and errors.endswith("\n")
        for word in words:
            assert str(word) in errors
    return call


@pytest.fixture
def make_folders_with(monkeypatch):
    """Puts a function in the place of os.mkdir."""
    def call(function):
        monkeypatch.setattr(os, "mkdir", function)
        if sys.version_info < (3, 11):  # whose paths keep functions of their own
            monkeypatch.setattr(pathlib._NormalAccessor, "mkdir", staticmethod(function))
    return call


def draw_cup(path):
    image = Image.new("RGBA", (100, 80))
    ImageDraw.Draw(image).ellipse((20, 10, 70, 70), fill=(200, 80, 40, 255))
    image.save(path)
    return path


@pytest.fixture
def cup():
    """Draws a picture with a transparent background where it is told to, and returns the path."""
    return draw_cup


@pytest.fixture
def photo(tmp_path):
    return draw_cup(tmp_path / "cup.png")


@pytest.fixture
def quick(monkeypatch):
    """Without the turntable, which takes most of the time: for tests of everything else."""
    import torch

    from ouroboros_lib.viz import outputs

    monkeypatch.setattr(outputs, "render_turntable", lambda *_: torch.zeros(2, 3, 16, 16))


@pytest.fixture
def no_weights(monkeypatch):
    """Loading weights is a failure: whatever is wrong must be found before."""
    def fail(name):
        raise AssertionError("the weights were loaded")
    monkeypatch.setattr(generate, "load_pipeline", fail)


@pytest.fixture
def no_remover(monkeypatch):
    """Backgrounds are guessed from the border, as without onnxruntime."""
    from ouroboros_lib.data import mattes

    mattes.u2netp_session.cache_clear()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
