"""What the library asks of OpenMP, numba and the C library: nothing on import, and once when it is called for."""

import ctypes
import json
import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import ouroboros_lib
from ouroboros_lib import InputError
from ouroboros_lib.speed import threads

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_",
         "MALLOC_MMAP_THRESHOLD_")
ONE_RENDERING = """
from ouroboros_lib.speed.threads import prepare
prepare()
import torch
from ouroboros_lib import Gaussians, rasterize
from ouroboros_lib.cameras import orbit_cameras
one = Gaussians(torch.zeros(1, 1, 3), torch.ones(1, 1), torch.full((1, 1, 3), 0.1),
                torch.tensor([[[1.0, 0, 0, 0]]]), torch.ones(1, 1, 3))
rasterize(one, orbit_cameras(torch.zeros(1, 1), torch.zeros(1, 1)), 16)
print(torch.get_num_threads())
"""
# tensors of the sizes that G's have, taken and freed again and again: pages that the kernel brings a round
FAULTS = """
import ouroboros_lib, resource
ouroboros_lib.notebook("cpu")
import torch
def take():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(mebibytes * 2**18) for mebibytes in (6, 6, 12, 3, 6, 12, 12, 6)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(take() for _ in range(8)))  # the first rounds find the place
"""


def python(code: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | variables
    return subprocess.run([sys.executable, "-c", code], env=environment, check=True, text=True,
                          capture_output=True).stdout.strip()


@pytest.fixture
def fresh(monkeypatch):
    """An environment that says nothing about threads, and a C library that writes down what it is asked."""
    calls = []
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that monkeypatch restores what the test sets
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=lambda *values: calls.append(values)))
    return calls


def found() -> dict[str, str]:
    return {name: os.environ[name] for name in NAMES if name in os.environ}


def test_importing_changes_nothing():
    code = ("import json, os, sys; before = dict(os.environ)\n"
            "import ctypes; ctypes.CDLL = None  # whoever calls the C library fails\n"
            "import ouroboros_lib, ouroboros_lib.cli.main, ouroboros_lib.speed.threads\n"
            "print(json.dumps([dict(os.environ) == before, 'torch' in sys.modules, 'numba' in sys.modules]))")
    assert json.loads(python(code)) == [True, False, False]


@pytest.mark.parametrize("given, expected", [
    ({}, {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "10000"}),
    ({"GOMP_SPINCOUNT": "5"}, {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "5"}),
    ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ({"OMP_WAIT_POLICY": "passive"}, {"OMP_WAIT_POLICY": "passive"}),
    ({"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"},
     {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}),
    ({"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "2,1"},
     {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "2,1"}),
])
def test_the_environment_decides_and_the_rest_has_defaults(fresh, monkeypatch, given, expected):
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert threads.prepare() == (given != expected)
    assert found() == expected
    assert not threads.prepare() and found() == expected


def test_numba_keeps_its_threads_once_it_is_loaded(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", SimpleNamespace())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads.prepare()
    assert "NUMBA_NUM_THREADS" not in os.environ


def test_the_command_line_prepares_before_anything_else(monkeypatch):
    from ouroboros_lib.cli import main as module

    calls = []
    monkeypatch.setattr(module, "prepare", lambda: calls.append("prepare"))
    monkeypatch.setattr(module, "app", lambda **_: calls.append("app"))
    with pytest.raises(SystemExit):
        module.main(["doctor"])
    assert calls == ["prepare", "app"]


def test_a_notebook_gets_its_device_and_one_warning_if_torch_came_first(fresh):
    with pytest.warns(UserWarning, match="call it first") as warnings:
        assert ouroboros_lib.notebook("cpu") == torch.device("cpu")
    assert len(warnings) == 1 and warnings[0].filename == __file__ and len(fresh) == 2


@pytest.mark.filterwarnings("error")
def test_a_notebook_hears_nothing_when_the_settings_act(fresh, monkeypatch):
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "torch")
        patch.setattr(threads, "resolve_device", lambda name: name)
        assert ouroboros_lib.notebook() == "auto"
    assert ouroboros_lib.notebook("cpu") == torch.device("cpu")  # the settings are there already
    with pytest.raises(InputError, match="auto, cpu, cuda"):
        ouroboros_lib.notebook("tpu")


def test_the_number_of_threads_survives_the_rasterizer():
    assert python(ONE_RENDERING, OMP_NUM_THREADS="1") == "1"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked")
def test_freed_memory_is_taken_again_without_new_pages():
    given_back = int(python(FAULTS, MALLOC_TRIM_THRESHOLD_=str(2**17)))  # the environment's word holds
    assert given_back > 20  # 16,128 pages of 4 KiB; fewer where the system's are larger
    assert int(python(FAULTS)) < given_back / 20


@pytest.mark.parametrize("system, variables, expected", [
    ("linux", {}, [(-1, 2**27), (-3, 2**25)]), ("linux", {"MALLOC_MMAP_THRESHOLD_": "1"}, []), ("darwin", {}, [])])
def test_the_c_library_is_asked_where_it_is_glibc(fresh, monkeypatch, system, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", system)
    threads.prepare()
    assert fresh == expected


def test_another_c_library_is_left_as_it_is(fresh, monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    threads.prepare()
    assert fresh == []
