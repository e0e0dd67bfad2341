"""A web server over a folder of shards, on good days and bad."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


class ShardServer:
    """Serves the files of `folder`, whole or from a byte on if it knows `ranges`.

    `moods[file]` is a list of what happens to the first requests of a file: "break" (half of what is asked for, then
    the line is cut), "stall" (half, then silence), "short" (half, announced as all there is) or a status code; after
    these, all is well. A mood that lasts is a plain string or number. `requests` lists files and first bytes.
    """

    def __init__(self, folder: Path, ranges: bool = True):
        self.folder, self.ranges = folder, ranges
        self.moods: dict[str, list | str | int] = {}
        self.requests: list[tuple[str, int]] = []
        self.port, self.httpd = 0, None
        self.start()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self):
        server, self.over = self, threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                server.answer(self)

            do_HEAD = do_GET

        self.httpd = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.httpd.daemon_threads = True
        self.port = self.httpd.server_port
        threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self):
        self.over.set()
        if self.httpd is not None:
            self.httpd.shutdown()
            self.httpd.server_close()
        self.httpd = None

    def answer(self, handler):
        name = unquote(handler.path.rsplit("/", 1)[-1])
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        self.requests.append((name, start))
        mood = self.moods.get(name)
        if isinstance(mood, list):
            mood = mood.pop(0) if mood else None
        if isinstance(mood, int) or not (self.folder / name).is_file():
            handler.send_error(mood or 404)
            return
        data = (self.folder / name).read_bytes()
        if mood == "short":
            data = data[:len(data) // 2]
        total, start = len(data), start if self.ranges else 0
        if start >= total:
            handler.send_error(416)
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        handler.send_header("Content-Length", str(total - start))
        handler.end_headers()
        if handler.command == "HEAD":
            return
        data = data[start:]
        try:
            handler.wfile.write(data[:len(data) // 2] if mood in ("break", "stall") else data)
        except OSError:  # the other side has read enough
            return
        if mood == "stall":
            self.over.wait(5)
        handler.close_connection = True
