"""The playground in JupyterLab: the pointer paints, and F answers."""

import nbformat
from jupyter_lab import KERNEL, jupyter_lab, run_all

CELL = """
from ouroboros_lib.course.playground import Choice, Playground
from ouroboros_lib.course.playground_controls import Controls
from ouroboros_lib.data.batches import held_out_objects
from ouroboros_lib.pipeline import Ouroboros3DPipeline
pipe = Ouroboros3DPipeline.from_preset("tiny")
pipe.set_progress_bar_config(disable=True)
objects = held_out_objects("val", 1, pipe.image_size, pipe.num_views)
controls = Controls(Playground(pipe, objects.images[:, 0], steps=3), Choice())
controls.show()
"""
LOOK = """
() => { const canvas = document.querySelector(".ouroboros-paint canvas"), {data} =
        canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return [canvas.width, data.filter((value, i) => i % 4 == 3 && value).length]; }"""


def test_the_pointer_paints_and_f_answers(browser, tmp_path):
    cells = [nbformat.v4.new_code_cell(CELL), nbformat.v4.new_code_cell("print(controls.playground.strokes)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), tmp_path / "play.ipynb")
    with jupyter_lab(tmp_path) as (address, token):
        page = browser.new_page(viewport={"width": 1400, "height": 1200})
        page.goto(f"{address}/lab/tree/play.ipynb?token={token}")
        page.locator(".jp-Notebook").wait_for(timeout=60_000)
        run_all(page, address, token)
        canvas = page.locator(".ouroboros-paint canvas")
        canvas.wait_for(timeout=120_000)
        page.wait_for_function(f"() => ({LOOK})()[0] == 32", timeout=30_000)
        shown = page.locator(".jp-RenderedImage img")
        before = shown.get_attribute("src")

        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(*middle)
        page.mouse.down()
        page.mouse.move(middle[0] + box["width"] / 4, middle[1], steps=3)
        assert page.evaluate(LOOK)[1] > 50  # at once, before the kernel answers
        page.mouse.up()
        page.wait_for_function("before => document.querySelector('.jp-RenderedImage img')"
                               ".src != before", arg=before, timeout=60_000)
        page.locator(".jp-Notebook-cell .cm-content", has_text="strokes").click()
        page.keyboard.press("Control+Enter")
        said = page.get_by_text("centres=((16.0, 16.0)").first
        said.wait_for(timeout=30_000)
        assert "(24.0, 16.0))" in said.inner_text()
        page.screenshot(path=tmp_path / "play.png")
        page.close()
