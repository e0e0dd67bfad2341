"""What importing the library asks of OpenMP, numba and the C library."""

import ctypes
import json
import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ouroboros_lib import process

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_",
         "MALLOC_MMAP_THRESHOLD_")
THREADS = """
from ouroboros_lib import Gaussians, rasterize
from ouroboros_lib.cameras import orbit_cameras
import torch
one = Gaussians(torch.zeros(1, 1, 3), torch.ones(1, 1), torch.full((1, 1, 3), 0.1),
                torch.tensor([[[1.0, 0, 0, 0]]]), torch.ones(1, 1, 3))
rasterize(one, orbit_cameras(torch.zeros(1, 1), torch.zeros(1, 1)), 16)
print(torch.get_num_threads())
"""
# tensors of the sizes that G's have, taken and freed again and again: pages that the kernel brings a round
FAULTS = """
import ouroboros_lib, resource, torch
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
def test_the_environment_decides_and_the_rest_has_defaults(given, expected):
    code = f"import json, os, ouroboros_lib; print(json.dumps({{n: os.environ.get(n) for n in {NAMES}}}))"
    found = json.loads(python(code, **given))
    assert {name: value for name, value in found.items() if value is not None} == expected


def test_the_number_of_threads_survives_the_rasterizer():
    assert python(THREADS, OMP_NUM_THREADS="1") == "1"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_freed_memory_is_taken_again_without_new_pages():
    given_back = int(python(FAULTS, MALLOC_TRIM_THRESHOLD_=str(2**17)))  # the environment's word holds
    assert given_back > 20  # 16,128 pages of 4 KiB; fewer where the system's are larger
    assert int(python(FAULTS)) < given_back / 20


@pytest.mark.parametrize("system, variables, calls", [
    ("linux", {}, [(-1, 2**27), (-3, 2**25)]), ("linux", {"MALLOC_MMAP_THRESHOLD_": "1"}, []), ("darwin", {}, [])])
def test_the_c_library_is_told_once_where_it_is_glibc(monkeypatch, system, variables, calls):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in (variables | {"OMP_WAIT_POLICY": "passive"}).items():
        monkeypatch.setenv(name, value)
    told = []
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=lambda *values: told.append(values)))
    process.prepare()
    assert told == calls


def test_another_c_library_is_left_as_it_is(monkeypatch):
    def missing(name):
        raise OSError(name)

    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", missing)
    process.prepare()
