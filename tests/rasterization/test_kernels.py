"""Where compiled kernels are kept when numba finds no folder of its own: never where others can write."""

import os
import re
import tempfile
from pathlib import Path

import numba
import pytest
from numba.core import caching

import ouroboros_lib
from ouroboros_lib.rasterization import kernels


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """Installation and home cannot be written; for temporary files there is an empty folder."""
    places = caching.FunctionCache._impl_class
    monkeypatch.setattr(places, "_locator_classes", places._locator_classes[:1])  # that of NUMBA_CACHE_DIR
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "/proc/none")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/none")
    assert not kernels._can_cache()
    return tmp_path


def test_kernels_are_kept_among_temporary_files(nowhere):
    for _ in range(2):
        assert kernels._find_cache()
        (folder,) = nowhere.iterdir()
        assert os.environ["NUMBA_CACHE_DIR"] == numba.config.CACHE_DIR == str(folder)
        assert folder.stat().st_mode & 0o777 == 0o700
        numba.config.CACHE_DIR = "/proc/none"


@pytest.mark.parametrize("spoil", ["others can write", "a link", "a file", "no folder for temporary files"])
def test_what_others_could_write_is_not_run(nowhere, monkeypatch, spoil):
    folder = nowhere / f"ouroboros-kernels-{os.getuid()}"
    if spoil == "others can write":
        folder.mkdir()
        folder.chmod(0o777)
    elif spoil == "a link":
        (nowhere / "theirs").mkdir(0o700)
        folder.symlink_to(nowhere / "theirs")
    elif spoil == "a file":
        folder.write_text("")
    else:
        monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    assert not kernels._find_cache()
    assert os.environ["NUMBA_CACHE_DIR"] == numba.config.CACHE_DIR == "/proc/none"


def test_no_kernel_insists_on_a_cache():
    insisting = [path.name for path in Path(ouroboros_lib.__file__).parent.rglob("*.py")
                 if re.search(r"cache\"?[:=] ?True", path.read_text()) and path.name != "kernels.py"]
    assert not insisting
