"""Ctrl-C and SIGTERM, whenever they come, leave nothing behind and lose nothing."""

import signal
import sys

import pytest

from ouroboros_lib.files import new_folder, replace_file, staged, termination_cleans_up


def _folder(path):
    with new_folder(path) as part:
        (part / "a").write_text("new")


def _file(path):
    replace_file(path / "a", b"new")


def _files(path):
    with staged(path) as stage:
        (stage / "a").write_text("new")


@pytest.mark.parametrize("write, number, raised, every", [
    (_folder, signal.SIGINT, KeyboardInterrupt, 2), (_folder, signal.SIGTERM, SystemExit, 9),
    (_file, signal.SIGINT, KeyboardInterrupt, 3), (_files, signal.SIGINT, KeyboardInterrupt, 7)])
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
