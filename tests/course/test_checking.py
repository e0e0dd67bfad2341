"""What `check` says of answers: right, a mistake that it knows, another one, none yet."""

import importlib
import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from ouroboros_lib.course import checking
from ouroboros_lib.course.checking import Exercise, Verdict, check
from ouroboros_lib.errors import InputError

TWICE = Exercise(says="Twice.", solution=lambda x: 2 * x, examples=lambda: [(1.0,), (3.0,)],
                 mistakes=[(lambda x: x * x, "squared, not doubled.")])
RISING = Exercise(says="It rises.", solution=lambda: None, mistakes=[], properties=[
    (lambda answer: len(checking.curve(answer)) >= 3, "too few points."),
    (lambda answer: (np.diff(checking.curve(answer)[:, 1]) > 0).all(), "it falls somewhere.")])
CALLS = Exercise(says="Twice.", solution=lambda f: f(f(1)), examples=lambda: [(2,), (3,)],
                 mistakes=[(lambda f: 2 * f(1), "called once only.")],
                 observe=lambda function, factor: observe(function, factor))

LESSONS = {f"{lesson}-{number}": exercise for lesson in checking.LESSONS
           for number, exercise in importlib.import_module(f"{checking.__package__}.lesson_{lesson}").EXERCISES.items()}


def observe(function, factor):
    """What a function returns of a toy that multiplies, and how often it calls it."""
    calls = []

    def toy(x):
        calls.append(x)
        return factor * x

    return {"result": function(toy), "calls": len(calls)}


@pytest.mark.parametrize("name", LESSONS)
def test_solutions_are_right_and_each_mistake_is_explained(name):
    exercise = LESSONS[name]

    def judge(function):
        return check(name, function() if exercise.properties else function)

    assert judge(exercise.solution) == Verdict(name, True, exercise.says)
    assert len(exercise.mistakes) >= 2
    for mistake, explanation in exercise.mistakes:
        assert judge(mistake) == Verdict(name, False, explanation)
    plt.close("all")


@pytest.fixture
def lesson(monkeypatch):
    module = type("Lesson", (), {"EXERCISES": {"1": TWICE, "2": RISING, "3": CALLS}})
    monkeypatch.setitem(sys.modules, "ouroboros_lib.course.lesson_00", module)


def stub(x):
    """What to write."""
    ...


def fails(x):
    raise KeyError("y")


@pytest.mark.parametrize("answer, right, text", [
    (lambda x: x + x, True, "Twice."),
    (lambda x: torch.tensor(2.0) * x, True, "Twice."),
    (lambda x: x**2, False, "squared, not doubled."),
    (lambda x: 2.0 if x == 1 else x**2, False, "it gives 9 for 3, which is not right; right would be 6"),
    (lambda x: [2 * x], False, "expected the shape (), got (1,)"),
    (lambda x: "two", False, "expected a number, got str"),
    (lambda x: 10**400, False, "expected a number, got int"),
    (fails, False, "it raises KeyError ('y') for 1"),
    (lambda x, y: x, False, "it takes other arguments than the task says"),
    (lambda x: stub(), False, "in it a function is called with other arguments than it takes (stub() missing 1"),
    (lambda x: x + "y", False, "it raises TypeError"),
    (stub, None, "put your answer in the place of `...`"),
    (..., None, "put your answer"),
    ([2.0, ...], None, "put your answer"),
    ({"a": 2.0, "b": ...}, None, "put your answer"),
    (lambda x: None, None, "put your answer"),
    (2.0, False, "a function is asked for: give `check` its name alone"),
])
def test_verdicts(lesson, answer, right, text):
    verdict = check("00-1", answer)
    assert verdict.right is right and text in verdict.text
    assert repr(verdict).startswith(("✔", "✘", "…")) and "00-1" in repr(verdict)


def test_of_many_numbers_the_worst_is_named(monkeypatch):
    ten = Exercise(says="", solution=lambda f, x: torch.arange(10.0).view(2, 5), mistakes=[],
                   examples=lambda: [(torch.sin, 3)])
    monkeypatch.setattr(checking, "find", lambda name: ten)
    for wrong in (-1.0, float("nan")):
        answer = torch.arange(10.0).view(2, 5) + 0.1
        answer[1, 2] = wrong
        assert check("00-1", lambda f, x, answer=answer: answer).text == (
            f"at [1, 2] it gives {wrong:g} for 3, which is not right; right would be 7")


def test_a_function_that_computes_before_it_returns_nothing_is_no_stub(lesson):
    def forgot(x):
        x * 2

    assert "returns nothing" in check("00-1", forgot).text


ROWS = Exercise(says="Columns.", solution=lambda x: x.sum(0), examples=lambda: [(torch.ones(2, 3),)],
                mistakes=[(lambda x: x.sum(1), "rows."), (lambda x: x[0], "one.")])
COUNTS = Exercise(says="Counted.", solution=lambda: (25, 1_000_000), mistakes=[(lambda: (1, 1), "one."),
                                                                             (lambda: (2, 2), "two.")])


def in_place(x):
    x[0] += x[1]
    return x[0]


def emptied(x):
    x.zero_()
    return x.sum(0)


@pytest.mark.parametrize("exercise, answer, right", [
    (ROWS, in_place, True), (ROWS, emptied, False),  # answers may change what they are given, but not the solution's
    (ROWS, lambda x: x.sum(0).bfloat16(), True), (ROWS, lambda x: x.sum(0).tolist(), True),
    (ROWS, lambda x: x.sum(0) + 1j, False), (ROWS, lambda x: x.sum(0).to("meta"), False),
    (ROWS, lambda x: x.sum(0) * torch.nan, False), (ROWS, lambda x: [[1], [2, 3]], False),
    (COUNTS, np.array([25, 1_000_000]), True), (COUNTS, torch.tensor([25, 1_000_000]), True),
    (COUNTS, (25, 1_000_030), False), (COUNTS, [25.0, 1e6], True)])
def test_natural_and_odd_answers(monkeypatch, exercise, answer, right):
    monkeypatch.setitem(sys.modules, "ouroboros_lib.course.lesson_00", SimpleNamespace(EXERCISES={"1": exercise}))
    assert check("00-1", answer).right is right


def test_plots_are_judged_by_what_they_show(lesson):
    figure, axis = plt.subplots()
    assert "or an axis with a line of numbers in it, got Figure with 0 lines" in check("00-2", figure).text
    axis.axhline(1)
    assert "too few points" in check("00-2", figure).text
    axis.lines[0].remove()
    (words,) = axis.plot(["a", "b", "c"], [1, 2, 3])
    words.remove()
    axis.plot([0, 1], [0, 1])
    assert check("00-2", axis).text == "too few points."
    axis.lines[0].set_data([0, 1, 2], [0, 1, 0.5])
    assert check("00-2", figure).text == "it falls somewhere."
    axis.lines[0].set_data([0, 1, 2], [0, 1, 2])
    assert check("00-2", axis).right
    assert "got int with 0 lines" in check("00-2", 3).text
    plt.close(figure)


def test_one_and_zero_are_truth_values_and_nothing_else_is():
    for yes in (True, 1, np.bool_(True), torch.tensor(True)):
        assert checking.same((yes, 0), (True, False), 1e-4)
    assert not any(checking.same(found, True, 1e-4) for found in (False, 2, 0.5, "True", [1], None))


SIZES = {"latents": 16384, "pictures": 393216, "splat": 458752}


@pytest.mark.parametrize("name, answer, text", [
    ("00-1", ["F", "Decoder", "G", "render", "solver"], "One round of Algorithm 2"),
    ("00-1", ["F", "decoder", "solver", "G", "render"], "the solver makes the noisy latents of the next step"),
    ("00-1", ["decoder", "F", "G", "render", "solver"], "the decoder turns latents into pictures"),
    ("00-1", ["F", "vae", "G", "render", "solver"], "vae is none of the five parts"),
    ("00-1", ["F", "G", "G", "render", "solver"], "missing: decoder"),
    ("00-1", ["F", "decoder", "G", "render", "solver", "F"], "one comes twice"),
    ("00-1", "F, decoder, G, render, solver", "a list of five names"),
    ("00-6", SIZES, "24 times fewer numbers"),
    ("00-6", SIZES | {"latents": 8 * 8 * 16}, "latents: 16 times too few numbers. Multiply views"),
    ("00-6", SIZES | {"splat": 8 * SIZES["splat"]}, "splat: 8 times too many numbers. Multiply Gaussians"),
    ("00-6", SIZES | {"splat": SIZES["splat"] + 1}, "splat: nearly right"),
    ("00-6", SIZES | {"pictures": "many"}, "pictures: expected a whole number"),
    ("00-6", 16384, "expected a dict with these keys"),
    ("05-5", lambda through, detach: (int(not detach), int(through)), "compare the heat map"),
    ("05-5", lambda through, detach: (int(detach), int(through)), "detach cuts"),
    ("05-5", lambda through, detach: (int(through), int(not detach)), "exchanged"),
])
def test_typical_answers_are_told_why(name, answer, text):
    assert text in check(name, answer).text


@pytest.mark.parametrize("answer, text", [
    (lambda toy: toy(toy(1)), "Twice."),
    (lambda toy: 2 * toy(1), "called once only."),
    (lambda toy: toy(1), "result: it gives 2 for 2, which is not right; right would be 4"),
    (lambda toy: toy(toy(1)) + 0 * toy(1), "calls: it gives 3 for 2, which is not right; right would be 2"),
])
def test_what_an_answer_does_to_toys_is_compared(lesson, answer, text):
    assert check("00-3", answer).text == text


@pytest.mark.parametrize("name, message", [("7-1", "such as 01-2"), ("00", "notebook 00 has these"), ("00-99", "1, 2")])
def test_exercises_that_there_are_not(name, message):
    with pytest.raises(InputError, match=message):
        check(name, 1)
