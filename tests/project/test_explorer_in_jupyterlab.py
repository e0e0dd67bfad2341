"""The recursion explorer where it is met: in JupyterLab, before and after the notebook is trusted, and on web pages."""

from pathlib import Path

import nbformat
import pytest
from explorer_inputs import explorer_runs
from jupyter_lab import KERNEL, jupyter_lab, run_all

from ouroboros_lib.viz.recursion_page import TRUST, recursion_explorer

CELL = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from explorer_inputs import explorer_runs
from ouroboros_lib.viz.recursion_page import recursion_explorer
recursion_explorer(explorer_runs())
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory) -> Path:
    """Executed elsewhere, so that JupyterLab does not trust it."""
    shown = nbformat.v4.new_output("execute_result", {"text/html": recursion_explorer(explorer_runs())._repr_html_()},
                                   execution_count=1)
    cell = nbformat.v4.new_code_cell(CELL, outputs=[shown], execution_count=1)
    path = tmp_path_factory.mktemp("lab") / "explorer.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=KERNEL), path)
    return path


def click_through(page):
    """The explorer in its frame: as tall as its content, and it follows the mouse."""
    frame = page.frame_locator("iframe.recursion-explorer")
    frame.locator("body[data-step='2']").wait_for(timeout=30_000)
    frame.get_by_role("button", name="3: 270").click()
    frame.locator("body[data-view='3']").wait_for()
    frame.locator("body").press("ArrowLeft")
    frame.locator("body[data-step='1']").wait_for()
    frame.get_by_role("button", name="full screen").click()
    frame.locator("html:fullscreen").wait_for()
    page.keyboard.press("f")
    frame.locator("html:not(:fullscreen)").wait_for(state="attached")
    page.wait_for_function("""() => {
        const frame = document.querySelector("iframe.recursion-explorer"), page = frame.contentDocument.documentElement;
        return page.scrollHeight > 600 && Math.abs(frame.clientHeight - page.scrollHeight) < 10; }""")


def test_jupyterlab_shows_a_picture_until_the_notebook_is_trusted(browser, notebook):
    with jupyter_lab(notebook.parent) as (address, token):
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.goto(f"{address}/lab/tree/{notebook.name}?token={token}")
        picture = page.locator(".recursion-explorer-untrusted")
        picture.get_by_text(TRUST).wait_for(timeout=60_000)
        assert picture.locator("img").evaluate("image => image.naturalWidth") > 300
        assert not page.locator("iframe.recursion-explorer").count()

        run_all(page, address, token)
        page.locator("iframe.recursion-explorer").wait_for(timeout=60_000)
        assert not picture.is_visible()
        click_through(page)
        page.close()


def test_a_web_page_has_it_without_network(browser, notebook, tmp_path):
    cell = nbformat.read(notebook, 4).cells[0].outputs[0].data["text/html"]
    (tmp_path / "page.html").write_text(f"<!DOCTYPE html><body><article>{cell}</article></body>")
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 1000})
    page, failed = context.new_page(), []
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto((tmp_path / "page.html").as_uri())
    click_through(page)
    assert not page.get_by_text(TRUST).is_visible() and not failed
    assert page.locator("iframe.recursion-explorer").bounding_box()["width"] > 1000
    context.close()
