"""The recursion explorer, clicked through in Chromium and in Firefox: what each control shows, and where points lie."""

import base64
import io
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import firefox
import numpy as np
import pytest
import torch
from explorer_inputs import SIZE, VIEWS, explorer_runs
from PIL import Image

from ouroboros_lib.cameras import from_canonical, orbit_cameras
from ouroboros_lib.losses import psnr
from ouroboros_lib.rasterization import rasterize
from ouroboros_lib.viz.explorer import difference_map
from ouroboros_lib.viz.recursion_page import recursion_explorer

WIDTHS = "[...document.querySelectorAll('.picture canvas')].map(canvas => canvas.clientWidth)"
CANVAS = "document.querySelectorAll('.design')[{design}].querySelectorAll('.picture canvas')[{view}]"


class ChromiumPage:
    """playwright's page, with the methods of `FirefoxPage`."""

    def __init__(self, page):
        self.page = page

    def open(self, path: Path, width: int, height: int) -> None:
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.goto(path.as_uri())

    def evaluate(self, expression: str):
        return self.page.evaluate(f"() => {expression}")

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def drag(self, *points: tuple[float, float]) -> None:
        self.page.mouse.move(*(round(value) for value in points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*(round(value) for value in point), steps=4)
        self.page.mouse.up()


@pytest.fixture(scope="module")
def runs():
    return explorer_runs()


@pytest.fixture(scope="module")
def truth(runs):
    return runs["b"].trace[-1].rgb[0]


@pytest.fixture(scope="module")
def path(runs, truth, tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "explorer.html"
    recursion_explorer(runs, truth).save(path)
    return path


@pytest.fixture(scope="module", params=["chromium", "firefox"])
def tab(request, tmp_path_factory):
    if request.param == "chromium":
        page = request.getfixturevalue("browser").new_page()
        yield ChromiumPage(page)
        page.close()
        return
    if missing := firefox.missing():
        pytest.skip(missing)
    with firefox.firefox_page(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(tab, path):
    """The explorer as it opens, 1,200 pixels wide."""
    tab.open(path, 1200, 1250)
    wait_for(tab, "Boolean(document.body.dataset.step)")
    return tab


def wait_for(page, condition: str):
    deadline = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, f"in vain: {condition}"
        time.sleep(0.05)


def expect(page, **state):
    """Wait until the page shows this state: step, view, kind, design, all."""
    for name, value in state.items():
        wait_for(page, f"document.body.dataset.{name} === {str(value)!r}")


def box(page, element: str) -> tuple[float, float, float, float]:
    """Left, top, width and height of what a JavaScript expression gives, scrolled into view."""
    measure = """node => { node.scrollIntoView({block: "nearest"}); const box = node.getBoundingClientRect();
                           return [box.left, box.top, box.width, box.height]; }"""
    return tuple(page.evaluate(f"({measure})({element})"))


def click(page, element: str, across: float = 0.5, down: float = 0.5):
    left, top, width, height = box(page, element)
    page.drag((left + across * width, top + down * height))


def press_button(page, group: str, label: str):
    click(page, f"[...document.querySelectorAll('#{group} button')].find(b => b.textContent === {label!r})")


def canvas_image(page, element: str) -> torch.Tensor:
    """(3, H, W)."""
    data = page.evaluate(f"{element}.toDataURL('image/png')").split(",", 1)[1]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).movedim(-1, 0)


def agreement(page, expected: torch.Tensor, design: int, view: int) -> float:
    """PSNR in dB of a picture that the page shows."""
    return float(psnr(canvas_image(page, CANVAS.format(design=design, view=view)), expected))


def blank(page) -> float:
    """Pixels of the page's width, gaps apart, that are beside pictures of the design that is shown."""
    boxes = page.evaluate("[...document.querySelectorAll('.picture canvas, canvas.splat')].filter(node => "
                          "node.clientWidth).map(node => node.getBoundingClientRect()).map(b => [b.left, b.right])")
    left, right = page.evaluate("(box => [box.left, box.right])(document.getElementById('designs')"
                                ".getBoundingClientRect())")
    edges = [left, *(edge for box in sorted(boxes) for edge in box), right]
    return sum(max(0, b - a - 12) for a, b in zip(edges[::2], edges[1::2], strict=True))


def test_each_control_shows_its_picture(page, runs, truth):
    a, b = (run.trace for run in runs.values())
    expect(page, step=2, view=2, kind="estimate", design="all", all="false")  # of four views the back
    assert agreement(page, a[2].views[0, 2], 0, 2) > 30 and agreement(page, b[2].views[0, 2], 1, 2) > 30
    click(page, "document.getElementById('step')", across=0.5)
    expect(page, step=1)
    assert agreement(page, a[1].views[0, 2], 0, 2) > 30 > 24 > agreement(page, a[2].views[0, 2], 0, 2)
    press_button(page, "views", "3: 270°")
    expect(page, view=3)
    assert agreement(page, b[1].views[0, 3], 1, 3) > 30 > 24 > agreement(page, b[1].views[0, 1], 1, 3)
    shown = {"noisy input": a[1].noisy, "3D render": a[1].rgb, "CCM": a[1].ccm,
             "\u2212 truth": difference_map(a[1].views, truth),
             "\u2212 its own 3D": difference_map(a[1].views, a[1].rgb),
             "\u2212 step before": difference_map(a[1].views, a[0].views)}
    for label, maps in shown.items():
        press_button(page, "kinds", label)
        wait_for(page, f"document.querySelector('#kinds [aria-pressed=true]').textContent === {label!r}")
        assert agreement(page, maps[0, 3], 0, 3) > 24 > agreement(page, maps[0, 1], 0, 3), label
    press_button(page, "shown", "b")
    expect(page, design=1)
    assert page.evaluate("[...document.querySelectorAll('.design')].map(node => node.hidden)") == [True, False, False]
    assert blank(page) <= 2
    press_button(page, "views", "all")
    expect(page, all="true")
    assert sum(width >= 160 for width in page.evaluate(WIDTHS)) == VIEWS


def test_keys_and_the_curve_choose_too(page):
    for key, state in [("ArrowLeft", {"step": 1}), ("ArrowLeft", {"step": 0}), ("ArrowLeft", {"step": 0}),
                       ("ArrowRight", {"step": 1}), ("ArrowDown", {"view": 3}), ("ArrowUp", {"view": 2}),
                       ("2", {"design": 1}), ("0", {"design": "all"}), ("a", {"all": "true"}), ("a", {"all": "false"})]:
        page.press(key)
        expect(page, **state)
    chart = "document.querySelectorAll('#curves svg')[1]"
    click(page, chart, across=0.95)
    expect(page, step=2)
    cursor = page.evaluate(f"Number({chart}.querySelector('.cursor').getAttribute('x1'))")
    dots = page.evaluate(f"[...{chart}.querySelectorAll('circle')].map(node => Number(node.getAttribute('cx')))")
    assert dots == [cursor] * 2 and cursor > 500
    page.press(" ")
    expect(page, step=0)  # from the last step on, playing begins again
    expect(page, step=1)
    page.press(" ")
    assert page.evaluate("document.getElementById('play').textContent") == "play"


@pytest.mark.parametrize("design, view, step", [(0, 0, 2), (0, 2, 1), (1, 3, 0)])
def test_a_pixel_is_its_point_in_all_views(page, runs, design, view, step):
    """Within 2 pixels of the page: what is clicked against the CCM that the pipeline recorded, by our cameras."""
    run = list(runs.values())[design]
    recorded, cameras = run.trace[step], run.cameras[0]
    page.press("a")
    for _ in range(2 - step):
        page.press("ArrowLeft")
    expect(page, step=step, all="true")
    alpha = rasterize(recorded.gaussians[0], cameras, SIZE).alpha[view, 0]
    rows, columns = torch.nonzero(alpha > 0.95, as_tuple=True)
    for chosen in range(3):
        row, column = (int(places[(2 * chosen + 1) * len(rows) // 6]) for places in (rows, columns))
        click(page, CANVAS.format(design=design, view=view), (column + 0.5) / SIZE, (row + 0.5) / SIZE)
        wait_for(page, f"document.getElementById('place').textContent.includes('pixel ({column}, {row})')")
        point = from_canonical(recorded.ccm[0, view, :, row, column] / alpha[row, column])
        expected = cameras.project(point[None])[0][:, 0]
        for shown in (0, 1):
            for v in range(VIEWS):
                canvas = CANVAS.format(design=shown, view=v)
                left, top, width, height = box(page, canvas)
                x, y, w, h = box(page, f"{canvas}.nextElementSibling")
                found = torch.tensor([x + w / 2 - left, y + h / 2 - top])
                error = (found - expected[v] * width).norm()
                assert width >= 160 and error <= 2, f"design {shown}, view {v}: {error:.2f} pixels of {width:.0f}"
        assert_swatches(page, runs, expected, step)


def assert_swatches(page, runs, places: torch.Tensor, step: int):
    """The left half of each swatch is the estimate's colour at that place."""
    for r, run in enumerate(runs.values()):
        for v, (u, w) in enumerate((places * SIZE).long().tolist()):
            title = page.evaluate(f"document.querySelectorAll('tbody tr')[{r}].querySelectorAll('.swatch')[{v}].title")
            color = torch.tensor([int(part) for part in title.split("rgb(")[1].split(")")[0].split(",")]) / 255
            around = run.trace[step].views[0, v, :, max(0, w - 1):w + 2, max(0, u - 1):u + 2].flatten(1)
            assert ((around.min(1).values - 0.1 <= color) & (color <= around.max(1).values + 0.1)).all(), title


def test_beside_the_object_there_is_no_point(page):
    click(page, CANVAS.format(design=0, view=2), 0.03, 0.03)
    wait_for(page, "document.getElementById('place').textContent.includes('no surface there')")
    assert page.evaluate("[...document.querySelectorAll('.marker')].every(node => node.hidden)")


def test_the_splat_is_that_of_the_step_and_turns(page, runs):
    canvas, trace = "document.querySelectorAll('.splat')[0]", list(runs.values())[0].trace

    def drawn(step):
        azimuth, elevation, radius = (float(page.evaluate(f"{canvas}.dataset.{name}"))
                                      for name in ("azimuth", "elevation", "radius"))
        image = canvas_image(page, canvas)
        rendered = rasterize(trace[step].gaussians[0], orbit_cameras([azimuth], elevation, radius), image.shape[-1])
        return azimuth, elevation, float(psnr(image, rendered.rgb[0].clamp(0, 1)))

    page.press("ArrowUp")
    page.press("ArrowDown")  # view 2 again: the splat turns along
    wait_for(page, f"Number({canvas}.dataset.azimuth) === 180")
    assert drawn(2)[2] > 32 and drawn(0)[2] < 25
    page.press("ArrowLeft")
    page.press("ArrowLeft")
    expect(page, step=0)
    time.sleep(0.3)  # until it is drawn
    assert drawn(0)[2] > 32 and drawn(2)[2] < 25
    left, top, width, height = box(page, canvas)
    start = left + width / 2, top + height / 2
    page.drag(start, (start[0] - 60, start[1] + 20))
    wait_for(page, f"Number({canvas}.dataset.azimuth) > 205")
    time.sleep(0.3)
    azimuth, elevation, decibels = drawn(0)
    assert (azimuth, elevation) == pytest.approx((210, 20), abs=2) and decibels > 32
    page.press("ArrowLeft")  # on a splat, the arrows turn it
    wait_for(page, f"Number({canvas}.dataset.azimuth) < 206")
    expect(page, step=0, view=2)


def test_splats_of_all_steps_are_made_while_nothing_happens(page):
    time.sleep(1.5)
    page.evaluate("(window.made = 0, window.make = splatTable, "
                  "splatTable = (...given) => (window.made += 1, window.make(...given)), 0)")
    page.evaluate("designs.map(design => steps.map((_, step) => design.splat(step).count))")
    assert page.evaluate("window.made") == 0
    page.evaluate("splatTable(0, () => []).count")
    assert page.evaluate("window.made") == 1  # what counts, counts


def test_it_fits_a_narrow_screen(tab, path):
    tab.open(path, 390, 800)
    wait_for(tab, "Boolean(document.body.dataset.step)")
    for _ in range(2):
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        assert all(width >= 160 for width in tab.evaluate(WIDTHS) if width)  # those that are shown
        tab.press("a")
        time.sleep(0.3)


def test_where_motion_is_unwelcome_playing_ends_with_the_last_step(browser, path):
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.goto(path.as_uri())
    page.locator("body[data-step='2']").wait_for()
    page.get_by_role("button", name="play").click()
    page.locator("body[data-step='0']").wait_for()
    page.locator("body[data-step='2']").wait_for()
    page.locator("#play[aria-pressed=false]").wait_for()
    assert page.locator("body").get_attribute("data-step") == "2"
    context.close()


def test_without_webgl2_it_says_so_and_the_rest_works(browser, path):
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script("""const canvas = HTMLCanvasElement.prototype, get = canvas.getContext;
        canvas.getContext = function (kind, options) {
            return kind === "webgl2" ? null : get.call(this, kind, options);
        };""")
    page.goto(path.as_uri())
    page.locator("#notice", has_text="no WebGL2").wait_for()
    assert page.get_by_role("button", name="3D render").is_disabled() and not page.locator(".splat").count()
    page.locator(".picture canvas >> visible=true").first.click()
    page.locator("#place", has_text="the point").wait_for()
    context.close()


def test_a_page_that_is_damaged_says_so(browser, path, tmp_path):
    page, text = browser.new_page(), path.read_text()
    for old, new in (('"data": "', '"data": "damaged'), ('"size": ', '"size": NaN')):  # of splats; no JSON
        assert old in text
        (tmp_path / "damaged.html").write_text(text.replace(old, new, 1))
        page.goto((tmp_path / "damaged.html").as_uri())
        page.locator("#notice", has_text="cannot be shown").wait_for()
    page.close()


@pytest.mark.parametrize(("views", "hidden", "averaged"), [
    (1, "view 0", "view 0"), (2, "view 1", "all views"), (VIEWS, "views 1 and on", "all views")])
def test_curves_are_of_the_views_that_they_name(browser, runs, tmp_path, views, hidden, averaged):
    """Self-consistency is of all views, view 0 too, as in results/."""
    def few(step):
        return replace(step, **{field: getattr(step, field)[:, :views] for field in ("noisy", "views", "rgb", "ccm")})

    run = SimpleNamespace(trace=[few(step) for step in runs["a"].trace], cameras=runs["a"].cameras[:, :views])
    recursion_explorer({"<!--<script>": run}, run.trace[-1].rgb[0]).save(tmp_path / "few.html")
    page = browser.new_page()
    page.goto((tmp_path / "few.html").as_uri())
    page.locator("body[data-step='2']").wait_for()
    captions = page.locator("figcaption").all_inner_texts()
    assert [caption.split(":")[0] for caption in captions] == [
        f"PSNR to the truth, {hidden}", f"Self-consistency, {averaged}"]
    last = run.trace[-1]
    assert float(captions[1].split()[-2]) == pytest.approx(float(psnr(last.views, last.rgb).mean()), abs=0.06)
    assert page.locator("h2").first.inner_text() == "<!--<script>"
    page.close()
