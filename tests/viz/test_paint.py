"""A picture to paint on, without a browser: places come as text."""

import pytest
from PIL import Image

from ouroboros_lib.errors import InputError
from ouroboros_lib.viz.paint import PaintBox, read_places


def test_places_are_read():
    assert read_places("40,52 44.5,50") == [(40, 52), (44.5, 50)] and read_places("  ") == []


@pytest.mark.parametrize("text, message", [("40", "'40': expected two numbers"), ("a,b", "'a,b': expected two"),
                                           ("1,2,3", "'1,2,3': expected"), ("nan,1", "finite"),
                                           ("1,1 " * 6000, "6000, at most 5000")])
def test_other_text_is_refused_in_one_line(text, message):
    with pytest.raises(InputError, match=f"places: .*{message}"):
        read_places(text)


def test_the_same_stroke_may_come_twice():
    came = []
    box = PaintBox(came.append)
    for _ in range(2):
        box.places.value = "3,4"
    assert came == ["3,4", "3,4"] and box.places.value == ""


def test_two_boxes_of_one_page_are_told_apart():
    boxes = [PaintBox(print) for _ in range(2)]
    pages = []
    for box in boxes:
        box.show(Image.new("RGB", (16, 16)), 3, '"><script>')
        pages.append(box.children[0].value)
    assert pages[0] != pages[1] and "<script>" not in pages[0] and 'data-size="16"' in pages[0]
