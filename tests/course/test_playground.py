"""The playground without a browser: runs, what F was given in each step, and paint on it."""

import math

import pytest
import torch
from PIL import Image

from ouroboros_lib.course.playground import Choice, Playground, Stroke
from ouroboros_lib.data.batches import held_out_objects
from ouroboros_lib.errors import InputError
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.plans import PLANS


@pytest.fixture
def playground(tiny, objects):
    play = Playground(tiny, objects.images[:1, 0], steps=3)
    play.run(Choice())
    return play


@pytest.mark.parametrize("name", ["calm", "paper", "two-stage"])
def test_a_preset_is_the_plan_of_that_name(name):
    assert Choice.preset(name).as_plan() == PLANS[name]


def test_sliders_change_the_plan():
    plan = Choice("two-stage", projection=0.4).as_plan()
    assert (plan.feedback, plan.project_share, plan.project_above) == ("none", 0.4, PLANS["projection"].project_above)
    plan = Choice.preset("calm", seed=3).as_plan()
    assert plan.project_above == 0.3
    assert Choice("calm", every=2, from_step=1).as_plan().project_above == math.inf


@pytest.mark.parametrize("values, message", [({"plan": "loud"}, "plan 'loud'"), ({"every": 0}, "every"),
                                             ({"projection": 1.5}, "projection"), ({"seed": -1}, "seed")])
def test_what_no_run_can_follow_is_refused(values, message):
    with pytest.raises(InputError, match=f"playground: {message}"):
        Choice(**values)


def test_a_run_is_the_pipelines(tiny, playground):
    tiny.scheduler.register_to_config(eta=0.0)
    playground.run(Choice(elevation=20.0, seed=5))
    output = tiny(playground.image, elevation=20.0, num_inference_steps=3, plan="paper", return_trace=True,
                  generator=torch.Generator().manual_seed(5))
    assert len(playground.moments) == 3
    torch.testing.assert_close(playground.moments[-1].views, output.views[0], atol=1e-4, rtol=1e-4)
    assert playground.moments[0].given is None
    for moment, before in zip(playground.moments[1:], output.trace, strict=False):
        torch.testing.assert_close(moment.given["rgb"].clamp(0, 1), before.rgb, atol=1e-4, rtol=1e-4)


def test_without_reconstruction_f_is_given_the_last_renders_again(playground):
    playground.run(Choice("paper", every=2))
    given = [moment.given for moment in playground.moments]
    assert given[0] is None and torch.equal(given[1]["rgb"], given[2]["rgb"])
    assert all(moment.given is None for moment in _run(playground, Choice("two-stage")))


@pytest.mark.parametrize("plan", ["calm", "paper"])
def test_paint_outside_the_picture_changes_nothing(playground, plan):
    playground.run(Choice.preset(plan))
    for moment in (1, 2):
        playground.choose(moment, 1)
        playground.paint(Stroke(((-500.0, -500.0),), 3.0, (1.0, 1.0, 1.0)))
        without, painted = playground.estimates()
        assert torch.equal(without, painted)


def _run(playground, choice):
    playground.run(choice)
    return playground.moments


def test_paint_lies_on_the_rgb_render_of_one_view_and_nowhere_else(playground):
    given = playground.moments[1].given
    playground.choose(1, 2)
    playground.paint(Stroke(((10.5, 20.5),), 4, (1.0, 0.0, 0.5)))
    painted = playground.painted()
    assert torch.equal(painted["ccm"], given["ccm"])
    changed = (painted["rgb"] != given["rgb"]).any(2)[0]
    assert changed[2].sum() > 30 and not changed[[0, 1, 3]].any()
    assert changed[2].nonzero().float().mean(0).tolist() == pytest.approx([20, 10], abs=0.5)
    assert torch.equal(painted["rgb"][0, 2, :, 20, 10], torch.tensor([1.0, 0.0, 0.5]))
    assert torch.equal(changed[2] | playground.covered(), playground.covered())
    playground.clean()
    assert torch.equal(playground.painted()["rgb"], given["rgb"])


def test_later_strokes_lie_on_earlier_ones(playground):
    for colour in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)):
        playground.paint(Stroke(((16, 16),), 3, colour))
    assert torch.equal(playground.painted()["rgb"][0, 1, :, 15, 15], torch.tensor([0.0, 1.0, 0.0]))


def test_another_place_and_another_run_are_without_paint(playground):
    playground.paint(Stroke(((16, 16),)))
    playground.choose(1, 1)
    assert playground.strokes
    playground.choose(2, 1)
    assert not playground.strokes
    playground.paint(Stroke(((16, 16),)))
    playground.run(Choice())
    assert not playground.strokes


def test_where_nothing_was_fed_back_there_is_nothing_to_paint_on(playground):
    playground.choose(0, 1)
    assert not playground.can_paint
    with pytest.raises(InputError, match="nothing was fed back to F in step 1"):
        playground.paint(Stroke(((1, 1),)))
    with pytest.raises(InputError, match="there is no view 9: choose one from 0 to 3"):
        playground.choose(1, 9)
    with pytest.raises(InputError, match="there is no step 3"):
        playground.choose(3, 0)


def test_f_sees_the_paint(playground):
    without, same = playground.estimates()
    assert torch.equal(without, same)
    playground.paint(Stroke(((16, 16),), 8))
    without, painted = playground.estimates()
    assert not torch.allclose(without, painted)
    assert isinstance(playground.sheet(), Image.Image)


def test_the_shipped_f_changes_most_under_the_paint():
    pipe = Ouroboros3DPipeline.from_pretrained("small")
    play = Playground(pipe, held_out_objects("test", 1, pipe.image_size, pipe.num_views, start=1).images[:, 0], steps=2)
    play.run(Choice())
    rgb = play.moments[1].given["rgb"][0, 1]
    ys, xs = (rgb.amin(0) < 0.8).nonzero(as_tuple=True)
    play.paint(Stroke(((float(xs.float().mean()), float(ys.float().mean())),), 10, (0.1, 0.8, 0.2)))
    changes = play.changes(*play.estimates())
    assert changes["under the paint"] > 4 * changes["beside it"] > 0
    assert changes["under the paint"] > 10 * changes["in other views"]
