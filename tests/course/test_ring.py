"""The course's diagrams: parts that are lit, and ways of gradients that are those of Algorithm 1."""

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.patches import FancyArrowPatch

from ouroboros_lib.course.diagram import FAINT, GRADIENT
from ouroboros_lib.course.ring import BENDS, DESIGNS, LESSONS, PARTS, design_picture, gradient_ring, lesson_ring, ring


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def arrows(figure):
    return [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]


def red(figure):
    return sum(matplotlib_colour(arrow) == GRADIENT for arrow in arrows(figure))


def matplotlib_colour(arrow):
    return plt.matplotlib.colors.to_hex(arrow.get_edgecolor())


@pytest.mark.parametrize("lesson", LESSONS)
def test_each_lesson_lights_its_part_of_the_ring(lesson):
    drawn = arrows(lesson_ring(lesson))
    strong = [arrow for arrow in drawn if arrow.get_alpha() != FAINT]
    assert len(drawn) == len(BENDS)
    assert len(strong) == sum({*pair} <= LESSONS[lesson] for pair in BENDS)
    assert LESSONS[lesson] <= PARTS and (lesson == "00") == (LESSONS[lesson] == PARTS)


@pytest.mark.parametrize("algorithm", [1, 2])
def test_words_stand_where_they_can_be_read(algorithm):
    """No caption leaves the picture, or lies on another one or on a box."""
    figure = ring(algorithm=algorithm)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    width, height = figure.canvas.get_width_height()
    for index, box in enumerate(boxes):
        assert 0 <= box.x0 and box.x1 <= width and 0 <= box.y0 and box.y1 <= height
        assert not any(box.overlaps(other) for other in boxes[index + 1:])


@pytest.mark.parametrize("decoder_gradient, detach_feedback, ways", [
    (False, True, 3), (True, True, 6), (False, False, 5), (True, False, 8)])
def test_gradients_flow_where_the_switches_let_them(decoder_gradient, detach_feedback, ways):
    """As tests/training/test_stages.py measures them: of loss_recon into F through the decoder, of loss_mv into G
    through what is fed back."""
    assert red(gradient_ring(decoder_gradient, detach_feedback)) == ways
    assert red(ring()) == 0


def test_the_designs_show_the_pictures_they_are_given():
    tiles = {plan: torch.rand(3, 16, 16) for plan in DESIGNS.values()}
    figure = design_picture(tiles, tiles, "step 3 of 25")
    shown = [image.get_array() for image in figure.axes[0].images]
    assert sum(array.shape == (16, 16, 3) for array in shown) == 6
    assert len(arrows(figure)) == 3 * 5 + 1  # and one of them is fed back


@pytest.mark.parametrize("lit, gradients", [({"F", "H"}, []), ({"F"}, [("F", "G")])])
def test_parts_that_there_are_not(lit, gradients):
    with pytest.raises(ValueError, match="no part of the ring"):
        ring(lit, gradients)
