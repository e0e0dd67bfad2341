"""Pictures attached to notebooks: filled in, kept, refused where there is none."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from ouroboros_lib.course.ring import ring
from ouroboros_lib.errors import InputError
from tools.attach import WIDTH, attach, main, ring_picture

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


def test_what_was_attached_and_is_no_picture_is_replaced(notebook, tmp_path):
    path = notebook("![w](attachment:wide.webp)")
    content = json.loads(path.read_text())
    content["cells"][0]["attachments"] = {"wide.webp": {"image/webp": "AAAA"}}
    path.write_text(json.dumps(content))
    assert attach(path, tmp_path) and attached(path)[0]["wide.webp"].format == "WEBP"


def test_a_picture_that_is_not_there_is_named(notebook, tmp_path):
    path = notebook("![w](attachment:other.png)")
    before = path.read_text()
    with pytest.raises(InputError, match="attachment:other.png: .*other.png: no such file"):
        attach(path, tmp_path)
    assert path.read_text() == before


@pytest.mark.parametrize("title", [' "a (b) title"', " 'one'", "\n\"over lines\"", " "])
def test_a_link_may_have_a_title(notebook, tmp_path, title):
    path = notebook(f"before ![w](attachment:wide.png{title}) and [a page](other.md) after")
    assert attach(path, tmp_path) and attached(path)[0]["wide.png"].size == (1200, 300)


@pytest.mark.parametrize("name", ["my wide.png", "w\u00efde.png", "wide.gif", "wide", "..", "", "a/wide.png",
                                  "my%20wide.png"])
def test_odd_names_are_refused_in_one_line(notebook, tmp_path, name):
    path = notebook(f"![w](attachment:{name})")
    before = path.read_text()
    with pytest.raises(InputError, match=rf"02_made_up.ipynb: attachment:{re.escape(name)}: write attachment:NAME.png"):
        attach(path, tmp_path)
    assert path.read_text() == before


@pytest.mark.parametrize(("text", "message"), [
    ("{", "not a JSON file"), ("[]", "not a notebook"), ("{}", "not a notebook"), ('{"cells": [1]}', "not a notebook"),
    ('{"cells": [{"cell_type": "markdown"}]}', "not a notebook")])
def test_what_is_no_notebook_is_named(tmp_path, text, message):
    path = tmp_path / "my caf\u00e9.ipynb"
    path.write_text(text)
    with pytest.raises(InputError, match=f"my caf\u00e9.ipynb: {message}"):
        attach(path, tmp_path)


def test_a_notebook_that_is_not_there_is_one_line_of_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["attach", str(tmp_path / "none.ipynb")])
    with pytest.raises(SystemExit) as exit:
        main()
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error == f"error: {tmp_path / 'none.ipynb'}: no such file\n"


def test_a_ring_needs_a_lesson_and_a_picture_must_be_one(notebook, tmp_path):
    path = notebook("![r](attachment:ring.png)").rename(tmp_path / "caf\u00e9.ipynb")
    with pytest.raises(InputError, match="begins with one of 00, 01"):
        attach(path, tmp_path)
    (tmp_path / "broken.png").write_bytes((tmp_path / "wide.png").read_bytes()[:60])
    for kind in ("png", "webp"):
        with pytest.raises(InputError, match=f"attachment:broken.{kind}: its file in .* is no picture"):
            attach(notebook(f"![b](attachment:broken.{kind})"), tmp_path)


def test_a_ring_that_other_code_drew_is_drawn_anew(notebook, tmp_path, monkeypatch):
    path = notebook("![r](attachment:ring.png)")
    attach(path, tmp_path)
    monkeypatch.setattr("tools.attach.lesson_ring", lambda lesson: ring("F"))  # as another matplotlib draws it
    assert not attach(path, tmp_path)
    monkeypatch.setattr("tools.attach._drawn_by", lambda: "other code")
    assert attach(path, tmp_path)


def test_rings_differ_by_lesson():
    assert len({ring_picture(f"{number:02}") for number in (0, 1, 2)}) == 3


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_what_is_committed_is_up_to_date(path, tmp_path):
    """`python -m tools.attach` has nothing to do."""
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    assert not attach(copy, ROOT / "figures"), "run python -m tools.attach"
