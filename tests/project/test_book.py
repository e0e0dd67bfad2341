"""The project's own book: it builds, holds every page, and shows each of them whole, in a browser without a network."""

from pathlib import Path

import pytest

from tools.book.notebooks import NO_KERNEL
from tools.book.site import build

ROOT = Path(__file__).parents[2]
WHAT_IS_WRONG = """() => {
    const wrong = [...document.images].filter(image => image.complete && !image.naturalWidth && image.offsetParent)
        .map(image => "broken picture: " + image.src.slice(0, 100));
    for (const table of document.querySelectorAll("article table"))
        if (table.scrollWidth > table.parentElement.clientWidth + 1)
            wrong.push("cut table: " + table.innerText.slice(0, 60));
    const prose = document.querySelector("article").cloneNode(true);
    for (const code of prose.querySelectorAll("pre, code, script, annotation")) code.remove();
    const tex = prose.textContent.match(/\\\\(frac|sigma|text|begin|sum)|\\$[^$\\s][^$]*\\$/);
    if (tex) wrong.push("raw TeX: " + tex[0]);
    for (const code of document.querySelectorAll("article div[class*=highlight] pre"))
        if (code.scrollWidth > code.clientWidth + 1 && !code.closest(".cell_output, .numbered"))
            wrong.push("cut code: " + code.innerText.slice(0, 60));
    const formula = document.querySelector("math");
    if (formula && !formula.getBoundingClientRect().width) wrong.push("a formula is not drawn");
    if (document.documentElement.scrollWidth > innerWidth) wrong.push("wider than the window");
    return wrong;
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("book") / "site"
    build(ROOT, out)  # fails for a dead link, anchor or picture
    return out


def pages(site: Path) -> list[Path]:
    return [path for path in sorted(site.rglob("*.html"))
            if path.relative_to(site).parts[0] not in ("_static", "repository") and path.name != "search.html"]


def test_every_page_of_the_repository_is_in_it_and_alive(site):
    names = {path.relative_to(site).with_suffix("").as_posix() for path in pages(site)}
    sources = [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("notebooks/solutions/*.ipynb"), *ROOT.glob("docs/*.md"),
               *ROOT.glob("results/*.md"), ROOT / "notebooks" / "README.md"]
    assert {path.relative_to(ROOT).with_suffix("").as_posix() for path in sources} <= names
    needs_one = {path.stem: path.read_text().count(NO_KERNEL) for path in pages(site) if NO_KERNEL in path.read_text()}
    assert needs_one == {"04_self_conditioning_feedback": 1}  # the playground, whose picture stands below


@pytest.mark.parametrize("width, height", [(1200, 900), (390, 844)])
def test_each_page_is_shown_whole_without_a_network(browser, site, width, height):
    context = browser.new_context(offline=True, viewport={"width": width, "height": height})
    page, wrong = context.new_page(), {}
    # fonts: older themes load the icons' ahead of time as well, which a browser refuses for a file
    page.on("requestfailed", lambda request: request.url.endswith(".woff2")
            or wrong.setdefault(page.url, []).append(request.url))
    page.on("pageerror", lambda error: wrong.setdefault(page.url, []).append(str(error)))
    for path in pages(site):
        page.goto(path.as_uri())
        if found := page.evaluate(WHAT_IS_WRONG):
            wrong.setdefault(path.relative_to(site).as_posix(), []).extend(found)
    context.close()
    assert wrong == {}


@pytest.mark.parametrize("width", [1200, 390])
def test_a_picture_opens_in_its_full_size(browser, site, width):
    """There its views have the 160 pixels that they were made with."""
    page = browser.new_context(offline=True, viewport={"width": width, "height": 900}).new_page()
    page.goto((site / "notebooks" / "06_gso_evaluation.html").as_uri())
    sheet = page.locator("article .cell_output img[alt^='A sheet of pictures']")
    shown, made = sheet.evaluate("picture => [picture.clientWidth, picture.naturalWidth]")
    assert shown < made > 4 * 160
    sheet.click()
    page.wait_for_url("**/_images/*")
    assert page.evaluate("document.images[0].naturalWidth") == made
    page.go_back()
    inside = page.evaluate("[...document.querySelectorAll('article img')].filter(picture => !picture.closest('a') && "
                           "!picture.src.startsWith('data:')).length")
    assert inside == 0
    page.context.close()


def test_the_explorer_search_and_folds_work(browser, site):
    page = browser.new_context(offline=True, viewport={"width": 1200, "height": 900}).new_page()
    page.goto((site / "notebooks" / "04_self_conditioning_feedback.html").as_uri())
    explorer = page.frame_locator("iframe.recursion-explorer")
    picture = explorer.locator(".picture canvas >> visible=true").first
    explorer.locator("body[data-step]").press("ArrowLeft")
    seen = set()
    for kind in ("estimate", "noisy input", "3D render", "CCM", "\u2212 its own 3D"):
        explorer.get_by_role("button", name=kind, exact=True).click()
        page.wait_for_timeout(500)
        seen.add(picture.evaluate("canvas => canvas.toDataURL()"))
    assert len(seen) == 5
    for folds in (0, page.locator("details.fold").count()):
        page.locator(".btn-code").first.click()
        assert page.locator("details.fold[open]").count() == folds

    page.goto((site / "search.html").as_uri() + "?q=chamfer")
    page.wait_for_selector("#search-results li a")
    assert page.locator("#search-results li a", has_text="Glossary").count()

    page.goto((site / "docs" / "training.html").as_uri())
    term = page.locator("a.term").first
    term.hover()
    told = page.evaluate("term => getComputedStyle(term, '::after').content", term.element_handle())
    assert told.strip('"') == term.get_attribute("data-meaning")
    page.context.close()
