"""Firefox as Debian packages it, driven by WebDriver BiDi (w3c.github.io/webdriver-bidi), which it speaks itself.

playwright drives a Firefox of its own build only. What is here is what the explorer's click tests need.
"""

import json
import re
import shutil
import subprocess
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

ARROWS = {"ArrowUp": "\ue013", "ArrowDown": "\ue015", "ArrowLeft": "\ue012", "ArrowRight": "\ue014", "Escape": "\ue00c"}
PREFERENCES = 'user_pref("webgl.force-enabled", true);\n'  # by Mesa's software renderer, where there is no GPU
PATIENCE = 60  # seconds


def missing() -> str | None:
    """What the tests lack, in one line."""
    if shutil.which("firefox-esr") is None or shutil.which("Xvfb") is None:
        return "no Firefox, or no Xvfb, without which it has no WebGL: apt-get install firefox-esr xvfb"
    try:
        import websocket  # noqa: F401
    except ImportError:
        return "websocket-client is not installed (pip install -e '.[test]')"
    return None


class FirefoxPage:
    """One tab, with the methods that the click tests call."""

    def __init__(self, address: str):
        import websocket

        self.socket, self.sent = websocket.create_connection(address, timeout=PATIENCE, suppress_origin=True), 0
        self.send("session.new", capabilities={})
        self.context = self.send("browsingContext.getTree")["contexts"][0]["context"]

    def send(self, method: str, **parameters) -> dict:
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.sent:
                assert answer["type"] == "success", answer
                return answer["result"]

    def open(self, path: Path, width: int, height: int) -> None:
        self.send("browsingContext.setViewport", context=self.context, viewport={"width": width, "height": height})
        self.send("browsingContext.navigate", context=self.context, url=path.as_uri(), wait="complete")

    def evaluate(self, expression: str):
        """What a JavaScript expression, or its promise, comes to."""
        answer = self.send("script.evaluate", expression=f"Promise.resolve({expression}).then(JSON.stringify)",
                           target={"context": self.context}, awaitPromise=True)
        assert answer["type"] == "success", answer
        return json.loads(answer["result"].get("value", "null"))

    def press(self, key: str) -> None:
        value = ARROWS.get(key, key)
        self._act("key", [{"type": kind, "value": value} for kind in ("keyDown", "keyUp")])

    def drag(self, *points: tuple[float, float]) -> None:
        """Press at the first point, go to the others, release. One point: a click."""
        (x, y), *others = ((round(x), round(y)) for x, y in points)
        self._act("pointer", [{"type": "pointerMove", "x": x, "y": y}, {"type": "pointerDown", "button": 0},
                              *({"type": "pointerMove", "x": x, "y": y, "duration": 50} for x, y in others),
                              {"type": "pointerUp", "button": 0}])

    def _act(self, kind: str, actions: list[dict]) -> None:
        device = {"type": kind, "id": kind, "actions": actions}
        self.send("input.performActions", context=self.context, actions=[device])


@contextmanager
def firefox_page(folder: Path):
    """A Firefox of its own, with a profile in `folder`, on a screen of its own."""
    (folder / "user.js").write_text(PREFERENCES)
    with ExitStack() as stack:
        screen = _started(stack, ["Xvfb", "-displayfd", "1", "-screen", "0", "1400x1300x24"], stdout=subprocess.PIPE)
        display = f":{int(screen.stdout.readline())}"
        command = ["env", f"DISPLAY={display}", "firefox-esr", "--no-remote", "--profile", str(folder),
                   "--remote-debugging-port", "0", "about:blank"]
        browser = _started(stack, command, stderr=subprocess.PIPE)
        for line in browser.stderr:
            if found := re.search(r"WebDriver BiDi listening on (ws://\S+)", line):
                threading.Thread(target=browser.stderr.read, daemon=True).start()  # a full pipe would stop it
                page = FirefoxPage(f"{found[1]}/session")
                stack.callback(page.socket.close)
                yield page
                return
        raise AssertionError("Firefox ended before it could be driven")


def _started(stack: ExitStack, command: list[str], **pipes) -> subprocess.Popen:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, text=True, **quiet | pipes)
    stack.callback(process.wait, timeout=30)
    stack.callback(process.terminate)
    return process
