"""A JupyterLab of a test's own."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import warm

KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}  # of a notebook


@contextmanager
def jupyter_lab(folder: Path):
    """A JupyterLab of its own in `folder`; gives the address of its API and the token."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = "for-this-test-only"
    _write_kernel(folder / "data" / "kernels" / "python3")
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(folder / "config"), "OMP_WAIT_POLICY": "passive",
                                "JUPYTER_DATA_DIR": str(folder / "data"),
                                "JUPYTER_RUNTIME_DIR": str(folder / "runtime"), "HOME": str(folder),
                                "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
                                "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
               "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}",
               "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{address}/api/status?token={token}", timeout=2)
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail("JupyterLab did not start:\n" + (folder / "lab.log").read_text()[-2000:])
                time.sleep(0.3)
        yield address, token
    finally:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:  # its kernels notice that it is gone, and end
            server.kill()
            server.wait()


def _write_kernel(folder: Path):
    """Python as a kernel that starts at once, see `warm`; it is interrupted before it is told to end."""
    folder.mkdir(parents=True)
    command = ["env", "--ignore-signal=INT", *warm.command(["ipykernel_launcher", "-f", "{connection_file}"])]
    (folder / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}))


def run_all(page, address: str, token: str):
    """Run all cells of the page's notebook, once its kernel is there."""
    _wait_for_kernel(page, f"{address}/api/sessions?token={token}")
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    page.locator("#jp-mainmenu-run").get_by_text("Run All Cells", exact=True).click()


def _wait_for_kernel(page, sessions: str):
    """Until it is connected and idle: a cell run earlier makes JupyterLab ask which kernel to take."""
    deadline = time.monotonic() + 60
    while True:
        found = json.load(urllib.request.urlopen(sessions, timeout=10))
        if found and found[0]["kernel"]["connections"] and found[0]["kernel"]["execution_state"] == "idle":
            page.wait_for_timeout(500)
            return
        assert time.monotonic() < deadline, f"no kernel: {found}"
        page.wait_for_timeout(200)
