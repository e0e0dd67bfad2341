"""`ouroboros app`: the library as a page in the browser, on this machine."""

import os
import socket
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from ..errors import InputError, needs
from ..files import termination_cleans_up
from ..speed.devices import resolve_device
from .options import load_pipeline, warn


def serve(
    preset: Annotated[str, typer.Option(metavar="NAME|PATH|HUB-ID", help="A preset, a folder or a hub id.")] = "small",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]|mps", help="Where to run.")] = "auto",
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen; by default this machine alone can "
                                      "reach it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="A free one.")] = 7860,
) -> None:
    """Serve a page that turns pictures into splats and meshes, one at a time."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: cannot listen there ({error.strerror or error})") from None
    with TemporaryDirectory(prefix="ouroboros-app-", ignore_cleanup_errors=True) as folder:
        # before the import, which makes a folder: where uploads and results go
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "0", "GRADIO_TEMP_DIR": str(Path(folder, "gradio"))}
        with needs("app", "`ouroboros app`"):
            import gradio  # noqa: F401
        from ..viz.app import SAMPLES, app_page

        blocks = app_page(load_pipeline(preset).to(resolve_device(device)), Path(folder))
        with termination_cleans_up():
            blocks.launch(server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True,
                          ssr_mode=False, run_history=False, footer_links=[], allowed_paths=[str(SAMPLES), folder])
            if host not in ("127.0.0.1", "localhost"):
                warn(f"everybody who reaches {host} can use the app: it asks for no password")
            print(f"http://{host}:{port}  open this in a browser; Ctrl-C ends it", flush=True)
            try:
                threading.Event().wait()
            finally:
                blocks.close(verbose=False)
