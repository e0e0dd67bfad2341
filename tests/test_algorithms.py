"""Algorithms 1 and 2: what is called in which order and with what; their size; the first edition's numbers."""

import ast
import inspect
from types import SimpleNamespace

import pytest
import torch

from ouroboros_lib import algorithms
from ouroboros_lib.algorithms import recursion
from ouroboros_lib.models.condition import Condition
from ouroboros_lib.models.feedback import Renders
from ouroboros_lib.plans import Plan
from tools.compare_recursion import TOLERANCE, differences


class Arithmetic:
    """A pipeline of numbers that writes down what is asked of it: F adds 1 and what is fed back."""

    def __init__(self):
        self.asked = []
        self.scheduler = SimpleNamespace(step=self.step)
        self.autoencoder = SimpleNamespace(encode=lambda images: images - 100)

    def estimate(self, x_t, sigma, cond, cameras, self_cond):
        self.asked.append("F" if self_cond is None else f"F({','.join(self_cond)})")
        return x_t + 1 if self_cond is None else x_t + 1 + sum(maps for maps in self_cond.values())

    def decode(self, pred_x):
        self.asked.append("decode")
        return pred_x * 0

    def reconstruct(self, views, cameras, sigma):
        self.asked.append("G")
        return views

    def render(self, gaussians, cameras):
        return Renders(rgb=gaussians + 0.25, ccm=gaussians + 0.5, alpha=gaussians)

    def step(self, x, pred_x, sigma, sigma_next, noise):
        self.asked.append("step")
        return pred_x * 10


@pytest.mark.parametrize("plan, asked", [
    ("paper", "F decode G step F(rgb,ccm) decode G step F(rgb,ccm) decode G step"),
    ("two-stage", "F step F step F decode G step"),
    ("every=2", "F decode G step F(rgb,ccm) step F(rgb,ccm) decode G step"),
    ("feedback=ccm,from_step=1", "F step F decode G step F(ccm) decode G step"),
    ("projection,project_above=2.5", "F decode G step F decode G step F decode G step"),
    ("projection,project_above=3", "F decode G step F step F decode G step"),
])
def test_recursion_asks_for_what_its_plan_needs_in_the_papers_order(plan, asked):
    pipe, sigmas = Arithmetic(), torch.tensor([4.0, 3.0, 2.0, 0.0])
    steps = list(recursion(pipe, Condition(torch.zeros(1)), None, sigmas, Plan.parse(plan), lambda: torch.ones(1, 1)))
    assert " ".join(pipe.asked) == asked and [step.t for step in steps] == [0, 1, 2]
    assert float(steps[0].x_t) == 4 and float(steps[0].pred_x) == 5
    assert all(float(after.x_t) == float(before.x_next) for before, after in zip(steps, steps[1:], strict=False))
    if plan == "paper":
        assert float(steps[1].pred_x) == 50 + 1 + 0.75  # line 3 saw both renders
    if plan == "projection,project_above=2.5":
        assert [float(step.x_next) for step in steps] == [-997.5, -997.5, float(steps[2].pred_x) * 10]


def test_who_iterates_may_change_the_next_step():
    pipe = Arithmetic()
    sigmas = torch.tensor([2.0, 1.0, 0.0])
    steps = recursion(pipe, Condition(torch.zeros(1)), None, sigmas, Plan(), lambda: torch.ones(1))
    next(steps).x_next = torch.tensor(7.0)
    assert float(next(steps).x_t) == 7


def test_both_algorithms_fit_on_a_page_and_number_the_papers_lines():
    source = inspect.getsource(algorithms)
    assert len(source.splitlines()) <= 120
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    assert [function.name for function in functions] == ["recursion", "joint_losses"]
    for function in functions:
        assert function.end_lineno - function.lineno < 30 and len(function.args.args) <= 8
        assert all(f"# line {number}" in ast.get_source_segment(source, function) for number in range(1, 7))


def test_the_recursion_gives_the_numbers_that_it_gave():
    """Shipped weights, every named plan; `python -m tools.compare_recursion` compares four objects and two seeds."""
    from ouroboros_lib import Ouroboros3DPipeline
    pipeline = Ouroboros3DPipeline.from_pretrained("small")
    pipeline.set_progress_bar_config(disable=True)
    found = differences(pipeline, objects=1, runs=("6 steps",), seeds=(0,))
    assert len(found) == 4 * 3 and max(found.values()) < TOLERANCE
