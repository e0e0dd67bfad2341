"""One writer a folder: locks of the living hold, those of the dead do not."""

import json
import os
import subprocess
import sys

import pytest

from ouroboros_lib.errors import InputError
from ouroboros_lib.files import one_writer
from ouroboros_lib.files.one_writer import LOCK, Lock, only_writer
from ouroboros_lib.files.processes import began


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def write(folder, **record):
    (folder / LOCK).write_text(json.dumps(Lock(folder).record | record))


def test_a_second_writer_is_told_who_the_first_is(tmp_path):
    with only_writer(tmp_path):
        with pytest.raises(InputError, match=rf"{tmp_path}: process {os.getpid()} on .* writes there since .*--out"):
            with only_writer(tmp_path):
                pass
        assert (tmp_path / LOCK).exists()
    assert not list(tmp_path.iterdir())


def test_locks_of_dead_processes_are_taken(tmp_path, sleeper):
    lock = {"pid": sleeper.pid, "began": began(sleeper.pid)}
    write(tmp_path, **lock)
    with pytest.raises(InputError, match=f"process {sleeper.pid} "), only_writer(tmp_path):
        pass
    for stale in ({"pid": sleeper.pid, "began": "1"},  # the number was given to another process
                  {"pid": 2**22 + 1}, {"pid": "x"}, {"pid": None, "began": None}):
        write(tmp_path, **stale)
        with only_writer(tmp_path):
            pass
    sleeper.kill()
    sleeper.wait()
    write(tmp_path, **lock)
    with only_writer(tmp_path) as taken:
        assert json.loads((tmp_path / LOCK).read_text()) == taken.record
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("elsewhere", [{"host": "another"}, {"pids": "pid:[1]"}])
def test_processes_elsewhere_show_that_they_live(tmp_path, elsewhere):
    """On another machine, or in another container of this one, numbers say nothing."""
    write(tmp_path, pid=2**22 + 1, **elsewhere)
    with pytest.raises(InputError, match="if it was killed: in a minute, or without .*ouroboros.lock"):
        Lock(tmp_path).acquire()
    old = os.stat(tmp_path / LOCK).st_mtime - one_writer.LOST - 5
    os.utime(tmp_path / LOCK, (old, old))
    with only_writer(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_writer_shows_that_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(one_writer, "BEAT", 0.01)
    with only_writer(tmp_path):
        os.utime(tmp_path / LOCK, (0, 0))
        for _ in range(500):
            if os.stat(tmp_path / LOCK).st_mtime > 0:
                break
            one_writer.time.sleep(0.01)
        assert os.stat(tmp_path / LOCK).st_mtime > 0


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b'{"pid": 1, "children": 3}'])
def test_what_is_no_lock_is_taken(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    with only_writer(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_children_of_a_dead_writer_are_found(tmp_path, sleeper):
    write(tmp_path, pid=2**22 + 1,
          children=[[sleeper.pid, began(sleeper.pid)], [sleeper.pid, "1"], [2**22 + 2, "5"], 3])
    with only_writer(tmp_path) as lock:
        assert lock.orphans == [sleeper.pid]
        lock.keep_children([sleeper.pid])
        assert json.loads((tmp_path / LOCK).read_text())["children"] == [[sleeper.pid, began(sleeper.pid)]]
    assert not list(tmp_path.iterdir())
