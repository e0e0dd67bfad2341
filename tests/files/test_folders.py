"""Folders appear whole or not at all: two writers, and kills at every moment."""

import os
import signal
import sys
import threading

import pytest

from ouroboros_lib.errors import InputError
from ouroboros_lib.files import folders, new_folder, replace_file, settle, staged
from ouroboros_lib.files.exchange import exchange
from ouroboros_lib.files.processes import is_dead, tag


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


STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "ctypes.dlsym"}  # of the file system


def killed_at(moment, write) -> bool:
    """Whether a process that writes is killed before its step number `moment`; it may have ended before."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    left = moment

    def count(event, _):
        nonlocal left
        left -= event in STEPS
        if not left and event in STEPS:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(count)
        write()
    finally:
        os._exit(0)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def hidden_ones(folder):
    return [path for path in folder.rglob(".*")]


OLD, NEW = {"a": "old", "b": "old"}, {"a": "new", "c": "new"}


@pytest.mark.parametrize("one_step", [True, False], ids=["exchange", "two-renames"])
def test_a_kill_at_any_moment_leaves_one_whole_folder(tmp_path, monkeypatch, one_step):
    monkeypatch.setattr(folders, "exchange", exchange if one_step else lambda one, other: False)
    target = tmp_path / "x"

    def write(files=NEW):
        with new_folder(target) as part:
            for name, text in files.items():
                (part / name).write_text(text)

    moment, between, found = 0, 0, []
    while True:
        write(OLD)
        if not killed_at(moment := moment + 1, write):
            break
        between += not target.exists()
        assert contents(target) in (OLD, NEW) if one_step else not target.exists() or contents(target) in (OLD, NEW)
        settle(tmp_path)
        found.append(contents(target))
        assert found[-1] in (OLD, NEW) and os.listdir(tmp_path) == ["x"]
    assert OLD in found and NEW in found and moment > 10
    assert (between == 0) == one_step


def test_a_kill_at_any_moment_does_not_mix_two_runs(tmp_path):
    """Of several files in a folder with others, in which nothing can be exchanged in one step."""
    old, new = ({name: f"{age} {name}" for name in ("a.png", "b.mp4", "folder/c", "r.json")} for age in ("old", "new"))
    mine = {"mine": "stays"}

    def write(files=new):
        with staged(tmp_path / "out") as stage:
            (stage / "folder").mkdir()
            for name, text in files.items():
                (stage / name).write_text(text)

    moment, found, halves = 0, [], 0
    while True:
        write(old)
        (tmp_path / "out" / "mine").write_text("stays")
        if not killed_at(moment := moment + 1, write):
            break
        seen = {name: text for name, text in contents(tmp_path / "out").items() if name[0] != "."}
        halves += seen not in (mine | old, mine | new)
        assert seen in (mine | old, mine | new) or "r.json" not in seen
        settle(tmp_path / "out")
        found.append({name: text for name, text in contents(tmp_path / "out").items() if name != folders.MOVING})
        assert found[-1] in (mine | old, mine | new), moment
        write()
        assert contents(tmp_path / "out") == mine | new
    assert mine | old in found and mine | new in found and halves > 3 and not hidden_ones(tmp_path)


def test_two_runs_into_one_folder_do_not_mix(tmp_path):
    def write(name: str) -> None:
        for _ in range(20):
            with staged(tmp_path) as stage:
                for part in "123":
                    (stage / part).write_text(name)

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(contents(tmp_path).values())) == 1 and sorted(os.listdir(tmp_path)) == ["1", "2", "3"]


def test_what_cannot_be_moved_into_place_is_put_back(tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a").write_text("old")
    replace = os.replace

    def refuse(source, target):
        if str(source).endswith("new"):
            raise PermissionError(13, "no permission")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(folders, "exchange", lambda one, other: False)
    with pytest.raises(PermissionError), new_folder(tmp_path / "x") as part:
        (part / "a").write_text("new")
    assert contents(tmp_path) == {"x/a": "old"}


def test_only_what_the_dead_left_is_cleared(tmp_path):
    place, pid, began = tag().split("-")
    names = {f".ouroboros-{owner}-00000000.part": owner for owner in (
        f"{place}-{2**22 + 1}-5", f"{place}-{pid}-0", f"{place}-{pid}-{began}", f"00000000-1-{began}", "x")}
    for name in names:
        replace_file(tmp_path / name, b"half")
    settle(tmp_path)
    assert {names[path.name] for path in tmp_path.iterdir()} == {f"{place}-{pid}-{began}", f"00000000-1-{began}", "x"}
    old = (tmp_path / f".ouroboros-00000000-1-{began}-00000000.part").stat().st_mtime - 2 * 24 * 3600
    for path in tmp_path.iterdir():  # after days, what a process elsewhere left is cleared, too
        os.utime(path, (old, old))
    settle(tmp_path)
    assert {names[path.name] for path in tmp_path.iterdir()} == {f"{place}-{pid}-{began}", "x"}
    assert not is_dead(tag(), 0)


def test_trouble_without_a_number_is_told_as_it_is(tmp_path):
    with pytest.raises(InputError, match="out: ffmpeg stopped$"), staged(tmp_path / "out"):
        raise OSError("ffmpeg stopped")


def test_names_as_long_as_they_may_be(tmp_path):
    with new_folder(tmp_path / ("n" * 255)) as part:
        (part / "a").write_text("1")
    with pytest.raises(OSError, match="File name too long"), new_folder(tmp_path / ("n" * 256)):
        pass
    with pytest.raises(InputError, match="nnn: File name too long"), staged(tmp_path / ("n" * 256)):
        pass
    assert contents(tmp_path) == {"n" * 255 + "/a": "1"}
