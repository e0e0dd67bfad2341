"""What a frame of the recursion explorer costs while its splats turn: `python -m tools.explorer_frames [PAGE]`.

Measured in Chromium without a GPU, so no frames per second: milliseconds of JavaScript a frame (sorting, uploading,
draw calls, with rasterization switched off), and the fragments that a GPU has to shade and blend for it. Needs Chromium
and playwright. PAGE: as `RecursionExplorer.save` writes it, by default the one in notebook 04.
"""

from __future__ import annotations

import argparse
import html
import re
import shutil
import statistics
import tempfile
from pathlib import Path

from ouroboros_lib.errors import InputError
from ouroboros_lib.files import read_bytes, read_json

from . import one_line_for_bad_input
from .splat_programs import CHROMIUM, SOFTWARE_GL

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "04_self_conditioning_feedback.ipynb"
WIDTH, HEIGHT = 1200, 1250  # pixels
FRAMES, TURN = 120, 1.5  # degrees of a frame
READY = "body[data-step]"
MILLISECONDS = """async ([frames, turn]) => {
  const shown = turnable.filter(({canvas}) => canvas.clientWidth), times = [];
  for (const {view: {gl}} of shown) gl.enable(gl.RASTERIZER_DISCARD);
  for (let i = 0; i < frames; i++) {
    await new Promise(requestAnimationFrame);
    orbit.azimuth = (orbit.azimuth + turn) % 360;
    const start = performance.now();
    orbit.draw();
    times.push(performance.now() - start);
  }
  for (const {view: {gl}} of shown) gl.disable(gl.RASTERIZER_DISCARD);
  return times;
}"""
# each splat once more, into numbers that are not clipped: every fragment adds one to its pixel
FRAGMENTS = """keep => turnable.filter(({canvas}) => canvas.clientWidth).map(({canvas: {width: side}, view}) => {
  const {gl, places, splat: {count}} = view, {view: pose, lens} = orbit.camera();
  if (!gl.getExtension("EXT_color_buffer_float") || !gl.getExtension("EXT_float_blend")) return null;
  view.draw(orbit.camera());
  const before = gl.getParameter(gl.CURRENT_PROGRAM), program = gl.createProgram();
  const ones = FRAGMENT.replace(/pixel = vec4.+;/, "pixel = vec4(1);").replace(keep ? "" : /if .+ discard;/, "");
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, ones]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source); gl.compileShader(shader); gl.attachShader(program, shader);
  }
  gl.linkProgram(program); gl.useProgram(program);
  const place = name => gl.getUniformLocation(program, name), texture = gl.createTexture();
  gl.uniformMatrix4fv(place("view"), false, pose); gl.uniform4fv(place("lens"), lens.map(value => value * side));
  gl.uniform1f(place("side"), side); gl.uniform1f(place("box"), 0);
  gl.activeTexture(gl.TEXTURE1); gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texStorage2D(gl.TEXTURE_2D, 1, gl.RGBA32F, side, side); gl.activeTexture(gl.TEXTURE0);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  gl.blendFunc(gl.ONE, gl.ONE); gl.clearColor(0, 0, 0, 0); gl.clear(gl.COLOR_BUFFER_BIT);
  gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, count);
  const sums = new Float32Array(4 * side * side);
  gl.readPixels(0, 0, side, side, gl.RGBA, gl.FLOAT, sums);
  gl.bindFramebuffer(gl.FRAMEBUFFER, null); gl.useProgram(before); gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  return {count, side, fragments: sums.reduce((sum, value) => sum + value, 0) / 4};
})"""


def committed_page() -> str:
    """The explorer that NOTEBOOK holds. Raises InputError."""
    for cell in read_json(NOTEBOOK)["cells"]:
        for output in cell.get("outputs", []):
            text = "".join(output.get("data", {}).get("text/html", ""))
            if found := re.search(r'<iframe class="recursion-explorer".*? srcdoc="(.*?)"', text, re.DOTALL):
                return html.unescape(found[1])
    raise InputError(f"{NOTEBOOK}: holds no recursion explorer; execute the notebook")


def opened(browser, path: Path):
    """The page in a new tab, once all of its splats are made."""
    tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    tab.goto(path.resolve().as_uri())
    try:
        tab.locator(READY).wait_for()
    except Exception as error:  # playwright's own
        raise InputError(f"{path}: no recursion explorer appears ({str(error).splitlines()[0]})") from None
    tab.evaluate("() => designs.forEach(design => steps.forEach((_, step) => design.splat(step)))")
    return tab


def milliseconds(tab, frames: int = FRAMES) -> list[float]:
    """JavaScript of each frame."""
    return tab.evaluate(MILLISECONDS, [frames, TURN])


def fragments(tab, blended: bool) -> list[dict]:
    """Of each splat that is shown: `count` of Gaussians, `side` in pixels, `fragments` that are shaded or blended."""
    return tab.evaluate(FRAGMENTS, blended)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.explorer_frames", description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path, nargs="?", metavar="PAGE")
    options = parser.parse_args(arguments)
    with one_line_for_bad_input(), tempfile.TemporaryDirectory() as folder:
        path = options.page or Path(folder, "explorer.html")
        if options.page is None:
            path.write_text(committed_page(), encoding="utf-8")
        read_bytes(path)
        chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
        if chromium is None:
            raise InputError("no Chromium on the path: install one")
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *SOFTWARE_GL])
            tab = opened(browser, path)
            times = milliseconds(tab)
            shaded, kept = fragments(tab, False), fragments(tab, True)
    print("splats:", ", ".join(f"{one['count']} Gaussians on {one['side']} pixels a side" for one in kept))
    print(f"JavaScript a frame, all splats: median {statistics.median(times):.1f} ms, 95 % below "
          f"{statistics.quantiles(times, n=20)[-1]:.1f} ms ({len(times)} frames)")
    print("fragments a frame, all splats: {:.2f} million shaded, {:.2f} million blended".format(
        *(sum(one["fragments"] for one in counted) / 1e6 for counted in (shaded, kept))))


if __name__ == "__main__":
    main()
