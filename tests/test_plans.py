"""Plans: which step reconstructs, feeds back and projects; texts; what the shipped weights do by default."""

import math
from types import SimpleNamespace

import pytest
import torch

from ouroboros_lib import Ouroboros3DPipeline
from ouroboros_lib.errors import InputError
from ouroboros_lib.models.condition import Condition
from ouroboros_lib.models.feedback import Renders
from ouroboros_lib.plans import PLANS, Plan
from ouroboros_lib.presets import load_preset

SIGMAS = [80.0, 8.0, 2.0, 0.5, 0.1, 0.0]


@pytest.mark.parametrize("text, reconstructs", [
    ("paper", "xxxxx"), ("two-stage", "....x"), ("projection", "xxx.x"), ("calm", "x...x"), ("every=2", "x.x.x"),
    ("every=3", "x..xx"), ("from_step=2", "..xxx"), ("feedback=none,project_above=1,every=2", "x.x.x"),
    ("from_step=2,project_above=8", "x.xxx"),
    ("every=9", "x...x")])
def test_which_steps_reconstruct(text, reconstructs):
    plan = Plan.parse(text)
    assert "".join("x" if plan.reconstructs(t, SIGMAS) else "." for t in range(5)) == reconstructs


def test_texts_and_plans_are_the_same_thing():
    assert Plan.parse("paper") == Plan() == Plan.parse(Plan()) and str(Plan()) == "paper"
    assert [str(plan) for plan in PLANS.values()] == list(PLANS)
    for text in ("calm,every=3", "paper,feedback=rgb", "paper,from_step=10", "two-stage,keep_input=true",
                 "projection,project_share=0.5", "paper,feedback=ccm,every=2",
                 f"paper,project_share={1 / 3}"):
        assert str(Plan.parse(text)) == text and Plan.parse(str(Plan.parse(text))) == Plan.parse(text)
    assert str(Plan.parse("every=2")) == "paper,every=2"
    assert Plan.parse("calm, every=1, project_above=inf, keep_input=no, project_share=1") == Plan()
    assert Plan(feedback="rgb").project_above == math.inf


@pytest.mark.parametrize("text, message", [
    ("clam", "plan 'clam': expected one of paper, calm, two-stage, projection"),
    ("calm,evry=3", "plan 'calm,evry=3', evry=3: expected key=value with one of these keys: feedback, every"),
    ("calm,every=often", "every=often: expected a whole number"), ("calm,every", "every: expected key=value"),
    ("keep_input=maybe", "maybe: expected true or false"), ("calm,every=0", "every=0: expected a whole number"),
    ("from_step=-1", "expected a whole number of at least 0"), ("project_share=1.5", "expected a number from 0 to 1"),
    ("project_above=nan", "expected a number of at least 0"), ("feedback=depth", "unknown feedback 'depth'"),
    ("", "plan ''")])
def test_what_is_no_plan_is_one_line(text, message):
    with pytest.raises(InputError, match=message) as caught:
        Plan.parse(text)
    assert "\n" not in str(caught.value)


def test_what_is_fed_back_and_what_the_solver_goes_towards():
    renders = Renders(rgb=torch.ones(1, 2, 3, 4, 4), ccm=torch.zeros(1, 2, 3, 4, 4), alpha=torch.ones(1, 2, 1, 4, 4))
    assert list(Plan().feeds_back(renders, 0)) == ["rgb", "ccm"]
    assert list(Plan(feedback="ccm").feeds_back(renders, 0)) == ["ccm"]
    assert Plan(feedback="none").feeds_back(renders, 0) is None
    assert Plan(from_step=2).feeds_back(renders, 1) is None and Plan(from_step=2).feeds_back(renders, 2)
    pred_x, prior, first = torch.zeros(1, 2, 1, 1, 1), torch.ones(1, 2, 1, 1, 1), torch.full((1, 1, 1, 1, 1), 7.0)
    cond = Condition(torch.zeros(1), first_view=first)
    sigma = torch.tensor(0.5)
    assert Plan().target(pred_x, sigma, None, cond) is pred_x
    assert Plan(project_above=0.5).target(pred_x, sigma, prior, cond) is pred_x
    assert Plan(project_above=0.4, project_share=0.25).target(pred_x, sigma, prior, cond).unique() == 0.25
    assert Plan(keep_input=True).target(pred_x, sigma, None, cond).flatten().tolist() == [7, 0]


@torch.no_grad()
def test_weights_keep_their_plan_and_a_call_may_choose_another(tmp_path):
    pipe = Ouroboros3DPipeline.from_preset("tiny")
    picture = torch.rand(1, 3, pipe.image_size, pipe.image_size, generator=torch.Generator().manual_seed(0))
    plan = "paper,every=2,project_above=0.5,project_share=0.5,keep_input=true"

    def run(model, **given):
        return model(picture, num_inference_steps=3, generator=torch.Generator().manual_seed(0), **given).views

    plain, planned = run(pipe), run(pipe, plan=plan)
    assert (plain - planned).abs().max() > 1e-3 and torch.equal(planned, run(pipe, plan=Plan.parse(plan)))
    pipe.register_to_config(plan=plan)
    pipe.save_pretrained(tmp_path)
    again = Ouroboros3DPipeline.from_pretrained(tmp_path)
    assert torch.equal(run(pipe), planned) and torch.equal(run(again), run(again, plan=plan))
    assert torch.equal(run(pipe, plan="paper"), plain)


def test_the_shipped_weights_are_calm():
    assert Ouroboros3DPipeline.load_config(str(load_preset("small").weights))["plan"] == "calm,every=3"
    assert PLANS["calm"] == Plan(every=5, project_above=0.3, project_share=0.25, keep_input=True)


def test_renders_are_encoded_only_where_the_solver_goes_towards_them():
    encoded = []
    pipe = SimpleNamespace(autoencoder=SimpleNamespace(encode=lambda images: encoded.append(images) or images))
    renders = Renders(rgb=torch.full((1, 1, 3, 2, 2), 1.5))
    calm = PLANS["calm"]
    assert calm.prior(renders, torch.tensor(0.3), pipe) is None and not encoded  # it projects above 0.3
    assert torch.equal(calm.prior(renders, torch.tensor(0.31), pipe), torch.ones(1, 1, 3, 2, 2))
    assert PLANS["paper"].prior(renders, torch.tensor(80.0), pipe) is None and len(encoded) == 1
