"""The playground's controls as a kernel sees them, where no browser answers."""

import io
from types import SimpleNamespace

import pytest
from PIL import Image

from ouroboros_lib.course.playground import Choice, Playground
from ouroboros_lib.course.playground_controls import Controls


@pytest.fixture
def controls(tiny, objects):
    return Controls(Playground(tiny, objects.images[:1, 0], steps=3), Choice.preset("calm", seed=4))


def test_a_first_picture_is_there_without_a_front_end(controls):
    controls.show()
    assert Image.open(io.BytesIO(controls.picture)).width > 300
    assert controls.choice() == Choice("calm", 3, 0, 0.25, seed=4)  # every 5 is more than there are steps


def test_what_is_shown_follows_the_controls(controls, monkeypatch):
    shown = []
    controls.show()
    monkeypatch.setattr(controls, "_shown", SimpleNamespace(update=lambda image: shown.append(image.data)))
    controls.view.value = 2
    controls.paper.places.value = "10,12"
    assert len(shown) == 2
    sheet = controls.playground.sheet().convert("RGB")
    assert [Image.open(io.BytesIO(data)).tobytes() == sheet.tobytes() for data in shown] == [False, True]


def test_a_preset_moves_the_sliders(controls):
    controls.plan.value = "paper"
    assert (controls.every.value, controls.projection.value) == (1, 0)


def test_typed_places_are_painted(controls):
    before = controls.picture
    controls.view.value, controls.size.value, controls.colour.value = 2, 5, "white"
    controls.paper.places.value = "10,12 14,12"
    (stroke,) = controls.playground.strokes
    assert stroke.centres == ((10, 12), (14, 12)) and stroke.radius == 5 and stroke.colour == (1, 1, 1)
    assert controls.playground.view == 2 and controls.picture != before and not controls.says.value
    controls.clean.click()
    assert not controls.playground.strokes


def test_what_cannot_be_painted_is_said_in_one_line(controls):
    controls.paper.places.value = "<b>here"
    assert "&lt;b&gt;here" in controls.says.value and "expected two numbers" in controls.says.value
    assert not controls.playground.strokes


def test_without_feedback_there_is_nothing_to_paint_on(controls):
    controls.plan.value = "two-stage"
    controls.start.click()
    assert controls.paper.layout.display == "none" and not controls.start.disabled
    controls.paper.places.value = "10,12"
    assert "there is nothing to paint on" in controls.says.value
    controls.plan.value = "paper"
    controls.start.click()
    assert controls.paper.layout.display is None and not controls.says.value
