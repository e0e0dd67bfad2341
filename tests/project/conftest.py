"""A real browser: Chromium ($CHROMIUM, or one on the path) and playwright."""

import os
import shutil

import pytest

from tools.splat_programs import CHROMIUM, SOFTWARE_GL


@pytest.fixture(scope="module")
def browser():
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)
    missing = None
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = "playwright is not installed (pip install -e '.[test]')"
    if found is None:
        missing = "no Chromium: install one, or set CHROMIUM to its path"
    if missing and os.environ.get("OUROBOROS_REQUIRE_BROWSER") == "1":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    with sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", *SOFTWARE_GL])
        yield instance
        instance.close()
