"""Recursion: which step reconstructs, feeds back and projects; what weights do by default."""

import math

import pytest
import torch
from ouroboros_lib.recursion import Recursion

from ouroboros_lib import Ouroboros3DPipeline
from ouroboros_lib.errors import InputError
from ouroboros_lib.evaluation.heldout import Variant, all_variants
from ouroboros_lib.presets import load_preset

SIGMAS = [80.0, 8.0, 2.0, 0.5, 0.1]


def flags(recursion, name):
    return "".join("x" if getattr(turn, name) else "." for turn in recursion.turns(SIGMAS))


@pytest.mark.parametrize("options, feeds_back, renews, projects, reconstructs", [
    ({}, "xxxxx", "xxxxx", ".....", "xxxxx"),
    ({"feedback": "none", "project_above": 1.0}, ".....", ".....", "xxx..", "xxx.."),
    ({"feedback_from_step": 2}, "..xxx", "..xxx", ".....", "..xxx"),
    ({"feedback_share": 0.5, "project_above": 0.0}, ".x.x.", ".x.x.", "xxxxx", "xxxxx"),
    ({"feedback_every": 2, "feedback_from_step": 1}, ".xxxx", ".x.x.", ".....", ".x.x."),
    ({"feedback": "none", "project_above": 0.3, "project_every": 3}, ".....", ".....", "xxxx.", "x..x."),
    ({"feedback_every": 3, "project_above": 0.0, "project_every": 2}, "xxxxx", "x..x.", "xxxxx", "x.xx."),
    ({"feedback_every": 2, "project_above": 0.0, "project_every": 5}, "xxxxx", "x.x.x", "xxxxx", "x.x.x"),
])
def test_turns(options, feeds_back, renews, projects, reconstructs):
    recursion = Recursion(**options)
    assert flags(recursion, "feeds_back") == feeds_back
    assert flags(recursion, "renews") == renews
    assert flags(recursion, "projects") == projects
    assert flags(recursion, "reconstructs") == reconstructs


def test_a_models_own_options_go_with_the_feedback_and_give_way():
    own = {"feedback_share": 0.75, "project_above": 1.0, "keep_input": True}
    assert Recursion.of(own, "both", feedback_share=None) == Recursion("both", **own)
    assert Recursion.of(own, "none", keep_input=None) == Recursion("none")
    given = Recursion.of(own, "rgb", project_above=math.inf, keep_input=False)
    assert given == Recursion("rgb", feedback_share=0.75)
    with pytest.raises(InputError, match="feedback_options: shares is nothing that a recursion can be told"):
        Recursion.of({"shares": 1}, "both")


@torch.no_grad()
def test_the_pipeline_does_what_its_options_say(tmp_path):
    """Saved with it, off by an argument, and measured as feedback-default."""
    options = {"feedback_share": 0.5, "project_above": 0.5, "project_share": 0.5, "keep_input": True}
    pipe = Ouroboros3DPipeline.from_preset("tiny")
    picture = torch.rand(1, 3, pipe.image_size, pipe.image_size, generator=torch.Generator().manual_seed(0))

    def run(model, **given):
        return model(picture, num_inference_steps=3, generator=torch.Generator().manual_seed(0), **given).views

    plain, told = run(pipe), run(pipe, **options)
    assert (plain - told).abs().max() > 1e-3
    pipe.register_to_config(feedback_options=options)
    pipe.save_pretrained(tmp_path)
    again = Ouroboros3DPipeline.from_pretrained(tmp_path)
    assert torch.equal(run(pipe), told) and torch.equal(run(again), run(again, **options))
    by_default, spelt_out = Variant("default", steps=3), Variant(steps=3)
    assert by_default.method == "feedback-default-steps-3" and not options.keys() & by_default.arguments.keys()
    arguments = {name: value for name, value in spelt_out.arguments.items() if name != "num_inference_steps"}
    assert torch.equal(run(pipe, **arguments), plain)
    assert all_variants(feedback=["default"], project_above=[None, 1.0], keep_input=[True]) == [Variant("default")]


def test_the_shipped_weights_have_the_options_that_their_card_names():
    assert Ouroboros3DPipeline.load_config(str(load_preset("small").weights))["feedback_options"] == {
        "feedback_every": 5, "project_above": 0.3, "project_share": 0.25, "project_every": 5, "keep_input": True}
