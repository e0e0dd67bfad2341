"""Notebook kernels that listen on files instead of TCP ports: a pytest plugin, and papermill with it.

Jupyter chooses free TCP ports and lets go of them until the kernel binds them, so that two kernels that start side by
side now and then get the same ones, and one of them dies. Neither papermill nor nbval has an option for the transport.
In pytest each kernel is forked from a process that has imported the library, see `warm`.
`python -m pytest -p kernels_over_ipc`, `python tests/kernels_over_ipc.py IN.ipynb OUT.ipynb` (papermill's arguments).
"""

import tempfile
from pathlib import Path

import warm
from jupyter_client.connect import ConnectionFileMixin
from jupyter_client.manager import KernelManager

_sockets = tempfile.TemporaryDirectory(prefix="kernels-")
_write_connection_file = ConnectionFileMixin.write_connection_file
_format_kernel_cmd = KernelManager.format_kernel_cmd


def _with_sockets_of_its_own(self, **kwargs):
    # jupyter_client's default for files, "kernel-ipc" in the current folder, is the same for all kernels
    if not self._connection_file_written:
        self.ip = str(Path(tempfile.mkdtemp(dir=_sockets.name), "kernel"))
    _write_connection_file(self, **kwargs)


def _forked(self, **options):
    python, m, *arguments = _format_kernel_cmd(self, **options)
    assert m == "-m", "a kernel of another kind"
    # a kernel that is shut down is interrupted first: the client has to live on to see it end
    return ["env", "--ignore-signal=INT", *warm.command(arguments)]


def pytest_configure() -> None:
    KernelManager.format_kernel_cmd = _forked
    warm.command([])  # the first call starts the process, here for all workers


ConnectionFileMixin.transport.default_value = "ipc"
ConnectionFileMixin.write_connection_file = _with_sockets_of_its_own

if __name__ == "__main__":
    from papermill.cli import papermill

    papermill()
