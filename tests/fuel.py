"""A server that behaves like Gazebo Fuel, on good days and bad, with archives in the layout of its scanned objects."""

import io
import json
import threading
import time
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from PIL import Image

MODELS = "/1.0/GoogleResearch/models"


def gso_zip(seed=0, without=(), extra=()):
    """A zip of one object: a textured square with z up. extra: (name or ZipInfo, data) pairs that are added."""
    noise = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8))
    picture = io.BytesIO()
    noise.save(picture, "PNG")
    files = {
        "model.config": b"<model/>", "model.sdf": b"<sdf/>", "metadata.pbtxt": b"",
        "meshes/model.obj": b"mtllib model.mtl\nv -1 0 -1\nv 1 0 -1\nv 1 0 1\nv -1 0 1\nvt 0 0\nvt 1 0\nvt 1 1\n"
                            b"vt 0 1\nusemtl m\nf 1/1 2/2 3/3\nf 1/1 3/3 4/4\n",
        "meshes/model.mtl": b"newmtl m\nmap_Kd texture.png\n",
        "materials/textures/texture.png": picture.getvalue(), "thumbnails/0.jpg": b"jpg"}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("meshes/") if hasattr(archive, "mkdir") else None
        for name, data in [*((n, d) for n, d in files.items() if n not in without), *extra]:
            archive.writestr(name, data)
    return buffer.getvalue()


class Fuel:
    """Serves `archives` by name, and `files` that it does not list. `moods[name]` is a list of what happens to the
    first requests of an object: "break" (half of it, then the line is cut), "stall" (half, then silence), "short"
    (half, announced as all there is), "garbage", or a status code; after these, all is well. A mood that lasts is a
    plain string or number instead of a list."""

    def __init__(self):
        self.archives: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.moods: dict[str, list | str | int] = {}
        self.redirect = False
        self.page_size = 3
        self.delay = 0.0
        self.requests = Counter()
        self.over = threading.Event()
        fuel = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                fuel.answer(self)

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.httpd.server_port}{MODELS}"
        threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self):
        self.over.set()
        self.httpd.shutdown()
        self.httpd.server_close()

    def answer(self, handler):
        address = urlsplit(handler.path)
        if address.path == MODELS:
            page = int(parse_qs(address.query)["page"][0])
            names = sorted(self.archives)[(page - 1) * self.page_size:page * self.page_size]
            self.send(handler, 200, json.dumps([{"name": name, "owner": "GoogleResearch"} for name in names]).encode())
            return
        name = unquote(address.path.rsplit("/", 1)[-1]).removesuffix(".zip")
        if self.redirect and address.path.startswith(MODELS):
            handler.send_response(302)
            handler.send_header("Location", f"/files/{name}.zip")
            handler.end_headers()
            return
        self.requests[name] += 1
        mood = self.moods.get(name)
        if isinstance(mood, list):
            mood = mood.pop(0) if mood else None
        if isinstance(mood, int):
            self.send(handler, mood, b"no")
        elif (data := self.archives.get(name, self.files.get(name))) is None:
            self.send(handler, 404, b"{}")
        else:
            self.archive(handler, data, mood)

    def archive(self, handler, data, mood):
        if mood == "garbage":
            data = data[:40] + bytes(len(data) - 80) + data[-40:]
        half = data[:len(data) // 2]
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(half if mood == "short" else data)))
        handler.end_headers()
        if mood in ("break", "stall", "short"):
            data = half
        for i in range(0, len(data), 2048):
            if self.delay:
                time.sleep(self.delay)
            try:
                handler.wfile.write(data[i:i + 2048])
            except OSError:  # the other side has hung up, as tests of interrupts do
                return
        if mood == "stall":
            handler.wfile.flush()
            self.over.wait(5)
        handler.close_connection = True

    @staticmethod
    def send(handler, code, body):
        handler.send_response(code)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
