"""Pictures attached to notebooks: filled in, kept, refused where there is none."""

import base64
import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from ouroboros_lib.errors import InputError
from tools.attach import WIDTH, attach, ring_picture

ROOT = Path(__file__).parents[2]


@pytest.fixture
def notebook(tmp_path):
    Image.new("RGB", (1200, 300), "navy").save(tmp_path / "wide.png")

    def write(*texts):
        cells = [{"cell_type": "markdown", "source": text, "metadata": {}} for text in texts]
        (tmp_path / "02_made_up.ipynb").write_text(json.dumps({"cells": cells}))
        return tmp_path / "02_made_up.ipynb"

    return write


def attached(path):
    def pictures(cell):
        return {name: Image.open(io.BytesIO(base64.b64decode(*data.values())))
                for name, data in cell["attachments"].items()}

    return [pictures(cell) if "attachments" in cell else None for cell in json.loads(path.read_text())["cells"]]


def test_pictures_are_attached_once(notebook, tmp_path):
    path = notebook("![w](attachment:wide.png) ![s](attachment:wide.webp)", "![r](attachment:ring.png)", "none")
    assert attach(path, tmp_path) and not attach(path, tmp_path)
    first, ring, none = attached(path)
    assert none is None
    assert first["wide.png"].size == (1200, 300) and first["wide.webp"].size == (WIDTH, WIDTH // 4)
    assert first["wide.webp"].format == "WEBP" and ring["ring.png"].width > 1000


def test_a_picture_that_changed_is_attached_anew_and_one_not_named_any_more_goes(notebook, tmp_path):
    path = notebook("![w](attachment:wide.png)")
    attach(path, tmp_path)
    Image.new("RGB", (10, 10)).save(tmp_path / "wide.png")
    assert attach(path, tmp_path) and attached(path)[0]["wide.png"].size == (10, 10)
    content = json.loads(path.read_text())
    content["cells"][0]["source"] = "no picture"
    path.write_text(json.dumps(content))
    assert attach(path, tmp_path) and attached(path) == [None]


def test_a_picture_that_is_not_there_is_named(notebook, tmp_path):
    path = notebook("![w](attachment:other.png)")
    before = path.read_text()
    with pytest.raises(InputError, match="attachment:other.png: there is no .*other.png"):
        attach(path, tmp_path)
    assert path.read_text() == before


def test_rings_differ_by_lesson():
    assert len({ring_picture(f"{number:02}") for number in (0, 1, 2)}) == 3


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_what_is_committed_is_up_to_date(path, tmp_path):
    """`python -m tools.attach` has nothing to do."""
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    assert not attach(copy, ROOT / "figures"), "run python -m tools.attach"
