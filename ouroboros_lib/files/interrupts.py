"""Ctrl-C and SIGTERM: they end a command in order, and wait while something is put in its place or cleared away."""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_unfinished: list[Callable[[], object]] = []  # what this process has still to do, whatever happens
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unfinished.clear)


class _Stop:
    """The handler of SIGINT and SIGTERM inside `termination_cleans_up`; both wait while something is `held`."""

    held = 0
    waiting: int | None = None

    def __call__(self, number: int, frame: object = None) -> None:
        if self.held:
            self.waiting = number
            return
        self.waiting = None
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)


_stop = _Stop()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """What is done inside is done to the end: Ctrl-C and SIGTERM wait for it, within `termination_cleans_up`."""
    if threading.current_thread() is not threading.main_thread():  # which signals do not reach
        yield
        return
    _stop.held += 1
    try:
        yield
    finally:
        _stop.held -= 1
        if not _stop.held and _stop.waiting is not None:
            _stop(_stop.waiting)


@contextmanager
def termination_cleans_up() -> Iterator[None]:
    """Inside the block SIGTERM raises SystemExit(143), so that `finally` and `with` put things in order; and neither it
    nor Ctrl-C, whenever they come, leave anything temporary behind.

    Not for the whole program: while packages are imported, some of them swallow every exception.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is _stop:
        yield  # only the main thread may set handlers, and they are set once
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        signal.signal(signal.SIGTERM, _stop)
        if before[signal.SIGINT] != signal.SIG_IGN:  # as behind a shell's &
            signal.signal(signal.SIGINT, _stop)
        yield
    except (KeyboardInterrupt, SystemExit):
        _finish()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes started inside do not hear Ctrl-C, which reaches the whole group: only the first one decides."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # with the first child it would start, and lift the mask
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def finally_done(action: Callable[[], object]) -> Iterator[None]:
    """The action, which may be taken twice, is taken when the block is left, at the latest when the program ends."""
    _unfinished.append(action)
    try:
        yield
    finally:
        with uninterrupted():
            action()
            with suppress(ValueError):  # the end of the program came before
                _unfinished.remove(action)


def _finish() -> None:
    """What an interrupt kept from being done: it can come in any line, in the first one of a `finally` as well."""
    with uninterrupted():
        while _unfinished:
            with suppress(OSError):
                _unfinished.pop()()


atexit.register(_finish)
atexit.register(_finish)  # once more, if an interrupt ends the first
