"""Programs of the library that start at once: a process that has imported it forks for every one of them.

Importing takes most of the time of a short run. What is forked is a process of its own, with its own arguments,
environment, folder and files, and nothing was computed in it before.

`run(arguments, ...)` is `subprocess.Popen([python, "-m", ...])`; `command(arguments)` is a command line for others to
start. Their programs see the number of threads that this process had.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

_server: list = []  # started when it is first needed; processes that this one starts use it, too
ADDRESS = "OUROBOROS_WARM"


def command(arguments: list[str]) -> list[str]:
    """`python -m ARGUMENTS...` as a command: a client hands it to the server, and ends with its exit code."""
    if ADDRESS not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="warm-")
        address = str(Path(folder.name, "socket"))
        tests = Path(__file__).parent
        path = os.pathsep.join([str(tests.parent), str(tests)])
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        process = subprocess.Popen([sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   env=environment)
        assert process.stdout.readline() == b"ready\n"
        _server.extend((folder, process))
        os.environ[ADDRESS] = address
        atexit.register(_stop)
    return [sys.executable, "-S", "-E", __file__, os.environ[ADDRESS], *map(str, arguments)]


def run(arguments: list[str], **options) -> subprocess.Popen:
    return subprocess.Popen(command(arguments), **options)


def _stop() -> None:
    _server[1].stdin.close()
    _server[1].wait()
    _server[0].cleanup()


def ask(address: str, arguments: list[str]) -> int:
    """The client: gives away its files, waits, and returns the exit code."""
    import json

    with socket.socket(socket.AF_UNIX) as line:
        line.connect(address)
        request = json.dumps([arguments, dict(os.environ), os.getcwd()]).encode()
        socket.send_fds(line, [len(request).to_bytes(4, "big")], [0, 1, 2])
        line.sendall(request)
        answer = line.recv(1)
        return answer[0] if answer else 1


def serve(address: str) -> None:
    """Fork for each client, until stdin is closed."""
    import select

    import accelerate  # noqa: F401
    import ipykernel.ipkernel  # noqa: F401
    import ipywidgets  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import plotly.graph_objects  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401

    import ouroboros_lib.cli.main  # noqa: F401
    import ouroboros_lib.evaluation.evaluate
    import ouroboros_lib.training.loop  # noqa: F401

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [], 1.0)
            while _reap():
                pass
            if sys.stdin in ready:
                return
            if listener in ready:
                line, _ = listener.accept()
                if os.fork() == 0:
                    listener.close()
                    _work(line)
                line.close()


def _reap() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _leave_with(line: socket.socket) -> None:
    """A client that is killed takes its program along."""
    if not line.recv(1):
        os._exit(1)


def _work(line: socket.socket) -> None:
    """What a fork does: become the program, say how it ended, and leave."""
    import json
    import runpy
    import traceback

    code = 1
    try:
        head, files, _, _ = socket.recv_fds(line, 4, 3)
        size, request = int.from_bytes(head, "big"), b""
        while len(request) < size:
            request += line.recv(size - len(request))
        arguments, environment, folder = json.loads(request)
        for place, file in enumerate(files):
            os.dup2(file, place)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        threading.Thread(target=_leave_with, args=[line], daemon=True).start()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
        sys.argv = arguments
        try:
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
            if isinstance(leaving.code, str):
                print(leaving.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        line.sendall(bytes([code]))
    finally:
        os._exit(code)


if __name__ == "__main__":
    if sys.argv[2:]:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
    serve(sys.argv[1])
