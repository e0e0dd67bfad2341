"""Several processes of one machine listen on nothing but loopback."""

import os
from pathlib import Path

import pytest
from training_inputs import launch

from ouroboros_lib.training.loopback import meeting_place


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's tables")
def test_nothing_listens_but_loopback():
    assert int(launch([], 2, "listening_on_cpu")[-1]) > 1  # the meeting place, and what gradients travel by


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"},
                                         {"WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1"},
                                         {"WORLD_SIZE": "2", "MASTER_ADDR": "node7"}])
def test_one_process_and_several_machines_meet_as_torch_does(monkeypatch, environment):
    for name in ("WORLD_SIZE", "MASTER_ADDR", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert meeting_place() == {} and "GLOO_SOCKET_IFNAME" not in os.environ
