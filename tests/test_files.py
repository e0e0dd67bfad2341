"""Files: found from any folder, written whole or not at all."""

import signal
import subprocess
import sys
import threading

import pytest

from ouroboros_lib.errors import InputError
from ouroboros_lib.files import find_file, new_folder, parse_json, replace_file, termination_cleans_up


def test_files_are_found_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "checkout" / "notebooks").mkdir(parents=True)
    (tmp_path / "checkout" / "copied.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.png").write_text("mine")
    assert find_file("own.png").read_text() == "mine" and find_file(tmp_path / "own.png").is_file()
    assert find_file("ouroboros_lib/data/samples/snowman.png").is_file()  # beside the library
    monkeypatch.chdir(tmp_path / "checkout" / "notebooks")
    assert find_file("copied.json").samefile(tmp_path / "checkout" / "copied.json")  # above the current folder
    with pytest.raises(InputError, match="results/none.json: neither here"):
        find_file("results/none.json")


def test_a_file_that_cannot_be_replaced_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("folder", "n" * 300):
        with pytest.raises(OSError):
            replace_file(tmp_path / name, b"new")
    replace_file(tmp_path / ("n" * 255), b"new")  # as long as names may be
    assert sorted(len(path.name) for path in tmp_path.iterdir()) == [6, 255]


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 100_000])
def test_no_json(data):
    with pytest.raises(InputError, match="a.json: not a JSON file"):
        parse_json(data, "a.json")


def test_two_writers_of_one_folder(tmp_path):
    with new_folder(tmp_path / "x") as first:
        (first / "a").write_text("1")
        with new_folder(tmp_path / "x") as second:
            (second / "b").write_text("2")
        assert [path.name for path in (tmp_path / "x").iterdir()] == ["b"]
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["a"]

    def write(name: str) -> None:
        for _ in range(30):
            with new_folder(tmp_path / "x") as part:
                (part / f"{name}1").write_text(name)
                (part / f"{name}2").write_text(name)
    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = sorted(path.name for path in (tmp_path / "x").iterdir())
    assert len(left) == 2 and left[0][0] == left[1][0] and [path.name for path in tmp_path.iterdir()] == ["x"]


def test_folders_of_killed_writers_are_cleared(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (tmp_path / f".x.{gone.stdout.strip()}-0.part" / "new").mkdir(parents=True)
    (tmp_path / ".x.1-0.part").mkdir()  # process 1 runs
    with new_folder(tmp_path / "x") as part:
        (part / "a").write_text("1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.1-0.part", "x"]


def _folder(path):
    with new_folder(path) as part:
        (part / "a").write_text("new")


def _file(path):
    replace_file(path / "a", b"new")


@pytest.mark.parametrize("write, number, raised, every", [
    (_folder, signal.SIGINT, KeyboardInterrupt, 1), (_folder, signal.SIGTERM, SystemExit, 7),
    (_file, signal.SIGINT, KeyboardInterrupt, 2), (_file, signal.SIGTERM, SystemExit, 7)])
def test_an_interrupt_in_any_line_leaves_nothing(tmp_path, write, number, raised, every):
    """It comes in every line that is run, one after the other: in those of contextlib and shutil as well."""
    def interrupted_at(moment: int) -> bool:
        (tmp_path / "x").mkdir(exist_ok=True)
        (tmp_path / "x" / "a").write_text("old")
        left = moment

        def trace(frame, event, _):
            nonlocal left
            left -= event == "line" and frame.f_code is not termination_cleans_up.__wrapped__.__code__
            if left == 0 and event == "line":
                left = -1
                sys.settrace(None)
                signal.raise_signal(number)
            return trace

        try:
            with termination_cleans_up():
                sys.settrace(trace)
                try:
                    write(tmp_path / "x")
                finally:
                    sys.settrace(None)
        except raised:
            return True
        return False

    moment = 0
    while interrupted_at(moment := moment + every):
        assert [path.name for path in tmp_path.rglob("*")] == ["x", "a"], moment
        assert (tmp_path / "x" / "a").read_text() in ("old", "new")
    assert moment > 30 and signal.getsignal(number) != signal.SIG_IGN
