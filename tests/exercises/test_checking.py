"""What `check` says of answers: right, a mistake that it knows, another one, none yet."""

import importlib
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from ouroboros_lib.errors import InputError
from ouroboros_lib.exercises import Exercise, Verdict, check, checking

TWICE = Exercise(says="Twice.", solution=lambda x: 2 * x, examples=lambda: [(1.0,), (3.0,)],
                 mistakes=[(lambda x: x * x, "squared, not doubled.")])
RISING = Exercise(says="It rises.", solution=lambda: None, mistakes=[], properties=[
    (lambda answer: len(checking.curve(answer)) >= 3, "too few points."),
    (lambda answer: (np.diff(checking.curve(answer)[:, 1]) > 0).all(), "it falls somewhere.")])

LESSONS = {f"{lesson}-{number}": exercise for lesson in checking.LESSONS
           for number, exercise in importlib.import_module(f"{checking.__package__}.lesson_{lesson}").EXERCISES.items()}


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
    module = type("Lesson", (), {"EXERCISES": {"1": TWICE, "2": RISING}})
    monkeypatch.setitem(sys.modules, "ouroboros_lib.exercises.lesson_00", module)


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
    (fails, False, "it raises KeyError ('y') for 1"),
    (lambda x, y: x, False, "it raises TypeError"),
    (stub, None, "put your answer in the place of `...`"),
    (..., None, "put your answer"),
    (lambda x: None, None, "put your answer"),
    (2.0, False, "it gives 2 for 3, which is not right"),
])
def test_verdicts(lesson, answer, right, text):
    verdict = check("00-1", answer)
    assert verdict.right is right and text in verdict.text
    assert repr(verdict).startswith(("✔", "✘", "…")) and "00-1" in repr(verdict)


def test_a_function_that_computes_before_it_returns_nothing_is_no_stub(lesson):
    def forgot(x):
        x * 2

    assert "returns nothing" in check("00-1", forgot).text


def test_plots_are_judged_by_what_they_show(lesson):
    figure, axis = plt.subplots()
    assert "expected a figure or an axis with 1 line in it" in check("00-2", figure).text
    axis.plot([0, 1], [0, 1])
    assert check("00-2", axis).text == "too few points."
    axis.lines[0].set_data([0, 1, 2], [0, 1, 0.5])
    assert check("00-2", figure).text == "it falls somewhere."
    axis.lines[0].set_data([0, 1, 2], [0, 1, 2])
    assert check("00-2", axis).right
    assert "got int with 0" in check("00-2", 3).text
    plt.close(figure)


@pytest.mark.parametrize("name, message", [("7-1", "such as 01-2"), ("00", "notebook 00 has these"), ("00-99", "1, 2")])
def test_exercises_that_there_are_not(name, message):
    with pytest.raises(InputError, match=message):
        check(name, 1)
