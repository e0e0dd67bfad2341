"""How an answer is judged: what it computes is compared with what the solution and the typical mistakes compute.

An exercise is code throughout. Its solution is a function, and so is each mistake, with the sentence that explains it:
so a test can hold both against `check`, and nothing is said of an answer that the solution would not bear out.
"""

from __future__ import annotations

import dis
import importlib
import inspect
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..errors import InputError

LESSONS = ("00", "01", "02", "03", "04", "05", "06", "07")
LISTED = 4  # of more numbers than these a verdict names one
TOLERANCE = 1e-4  # relative
MISCALLED = re.compile(r"\(\) (missing|takes|got an unexpected|got multiple)")  # as Python says it
MARKS = {True: "✔ right", False: "✘ not yet", None: "… not answered yet"}


@dataclass(frozen=True)
class Verdict:
    """What is said of an answer. right: None where there is no answer yet."""

    name: str
    right: bool | None
    text: str

    def __repr__(self) -> str:
        return f"{MARKS[self.right]} ({self.name}): {self.text}"


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    solution: takes what `examples` give and returns what is asked for: a number, a word, a tensor, or a tuple or dict
    of these. The answer is a function of the same arguments, or the value itself where there are none.
    mistakes: functions like `solution`, each with what is to be said of an answer that does the same.
    says: of a right answer, what it shows. properties: where many answers are right, plots above all (see `curve`),
    tests of the answer, each with what to say where it fails. Then nothing is compared; `solution` and `mistakes`
    return answers for which that is said.
    observe: calls a function with an example's arguments, and says what is compared: what it returns, or what it does
    to toy models. None: no answer yet. explain: of another wrong answer, what is compared of it; says why it is wrong,
    or None.
    """

    says: str
    solution: Callable[..., Any]
    mistakes: Sequence[tuple[Callable[..., Any], str]]
    examples: Callable[[], Sequence[tuple]] = lambda: [()]
    tolerance: float = TOLERANCE
    properties: Sequence[tuple[Callable[[Any], bool], str]] = field(default_factory=tuple)
    observe: Callable[..., Any] = lambda function, *arguments: function(*arguments)
    explain: Callable[[Any], str | None] = lambda found: None


def check(name: str, answer: Any) -> Verdict:
    """Judge the answer to an exercise: `name` is the notebook's number and its own, "01-2".

    answer: a function, a value, a matplotlib figure or axis; Ellipsis or None: no answer yet. An answer that raises is
    told what it raised and for which arguments. Raises InputError for a name that is none.
    """
    exercise = find(name)
    if is_stub(answer):
        return Verdict(name, None, "put your answer in the place of `...`, then run this cell again; a function has "
                                   "to return it")
    if exercise.properties:
        return _by_properties(name, exercise, answer)
    if exercise.examples()[0] and not callable(answer):
        return Verdict(name, False, "a function is asked for: give `check` its name alone, without brackets behind it")
    found = []
    for arguments in exercise.examples():
        try:
            found.append(exercise.observe(answer, *arguments) if callable(answer) else answer)
        except Exception as error:  # whatever a student's code raises
            return Verdict(name, False, _raised(error, answer, arguments))
        if is_stub(found[-1]):
            return Verdict(name, None, "it returns nothing yet")

    def does(function: Callable[..., Any]) -> list[bool]:  # with examples of its own: answers may change theirs
        return [same(one, exercise.observe(function, *arguments), exercise.tolerance)
                for one, arguments in zip(found, exercise.examples(), strict=True)]

    if all(right := does(exercise.solution)):
        return Verdict(name, True, exercise.says)
    for mistake, explanation in exercise.mistakes:
        if all(does(mistake)):
            return Verdict(name, False, explanation)
    first = right.index(False)
    if explanation := exercise.explain(found[first]):
        return Verdict(name, False, explanation)
    expected = exercise.observe(exercise.solution, *exercise.examples()[first])
    part, got, expected = _first_difference(found[first], expected, exercise.tolerance)
    return Verdict(name, False, part + _difference(got, expected, exercise.examples()[first]))


def find(name: str) -> Exercise:
    lesson, _, number = name.partition("-")
    if lesson in LESSONS:
        exercises: Mapping[str, Exercise] = importlib.import_module(f"{__package__}.lesson_{lesson}").EXERCISES
        if number in exercises:
            return exercises[number]
        raise InputError(f"exercise {name}: notebook {lesson} has these: {', '.join(exercises)}")
    raise InputError(f"exercise {name}: expected the number of a notebook and of its exercise, such as 01-2")


def is_stub(answer: Any) -> bool:
    """Whether nothing was answered: `...`, None, or a function of whose body `...` is all that does anything.

    Of several values one `...` is enough.
    """
    if answer is None or answer is Ellipsis:
        return True
    if inspect.isfunction(answer):
        return _steps(answer) == _steps(_stub)
    parts = answer.values() if isinstance(answer, Mapping) else answer
    return isinstance(answer, (tuple, list, Mapping)) and any(value is Ellipsis for value in parts)


def _stub():
    ...


def _steps(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    """What a function's body does; constants by their values, since a docstring is one, too."""
    return [(step.opname, step.argval if "CONST" in step.opname else None) for step in dis.get_instructions(function)]


def same(found: Any, expected: Any, tolerance: float) -> bool:
    """Whether two answers agree: numbers and tensors within a relative tolerance, all else exactly."""
    if isinstance(expected, Mapping):
        return isinstance(found, Mapping) and found.keys() == expected.keys() and all(
            same(found[key], value, tolerance) for key, value in expected.items())
    if isinstance(expected, (tuple, list)):
        if isinstance(found, (np.ndarray, torch.Tensor)) and found.ndim:
            found = found.tolist()
        return isinstance(found, (tuple, list)) and len(found) == len(expected) and all(
            same(one, other, tolerance) for one, other in zip(found, expected, strict=True))
    if isinstance(expected, str):
        return isinstance(found, str) and found.strip().lower() == expected.lower()
    if isinstance(expected, bool):  # 1 and 0 are said for it, too
        one = numbers(found)
        return one is not None and one.shape == () and float(one) == expected
    if isinstance(expected, int) and tolerance <= TOLERANCE:  # what is counted is counted exactly
        tolerance = 0.0
    one, other = numbers(found), numbers(expected)
    return one is not None and other is not None and one.shape == other.shape and bool(
        np.allclose(one, other, rtol=tolerance, atol=tolerance * float(np.abs(other).max(initial=1e-12))))


def numbers(value: Any) -> np.ndarray | None:
    """A number, tensor or array as an array; None if it is none of these."""
    try:
        if torch.is_tensor(value):
            value = value.detach().cpu().numpy() if value.is_complex() else value.detach().cpu().double().numpy()
        return None if np.iscomplexobj(value) else np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # words, ragged lists, 10**400, meta tensors
        return None


def curve(answer: Any) -> np.ndarray:
    """The points (N, 2) of the line with most points in a matplotlib figure or axis. Raises InputError where there is
    none, or one of other things than numbers."""
    axes = getattr(answer, "axes", None)
    axis = axes[0] if isinstance(axes, list) and axes else answer
    drawn = [numbers(line.get_data()) for line in getattr(axis, "lines", [])]
    points = max((line for line in drawn if line is not None), key=np.size, default=np.empty((2, 0)))
    if not points.size:
        raise InputError(f"expected a figure or an axis with a line of numbers in it, got {type(answer).__name__} "
                         f"with {len(drawn)} line{'s' * (len(drawn) != 1)}")
    return points.T


def _by_properties(name: str, exercise: Exercise, answer: Any) -> Verdict:
    for holds, otherwise in exercise.properties:
        try:
            if not holds(answer):
                return Verdict(name, False, otherwise)
        except InputError as error:
            return Verdict(name, False, str(error))
        except Exception as error:  # whatever a student drew
            return Verdict(name, False, f"it cannot be read ({type(error).__name__}: {error})")
    return Verdict(name, True, exercise.says)


def _raised(error: Exception, answer: Any, arguments: tuple) -> str:
    """What is said of an exception. Calls that do not fit a function raise before anything of its body runs."""
    called = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, TypeError) and MISCALLED.search(str(error)) and inspect.isfunction(answer):
        if answer.__code__ not in called:
            return f"it takes other arguments than the task says ({error}): keep the first line of the cell as it was"
        return (f"in it a function is called with other arguments than it takes ({error}): the task says what each is "
                "given")
    return f"it raises {type(error).__name__} ({error}) for {_arguments(arguments)}"


def _first_difference(found: Any, expected: Any, tolerance: float) -> tuple[str, Any, Any]:
    """Of dicts with the same keys, the first entries that differ, after their key; other answers as they are."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping) and found.keys() == expected.keys():
        key = next(key for key, value in expected.items() if not same(found[key], value, tolerance))
        return f"{key}: ", found[key], expected[key]
    return "", found, expected


def _difference(found: Any, expected: Any, arguments: tuple) -> str:
    """In which way an answer is not right; of a function also what would be, for one of its examples."""
    got, right = (None if _is_word(value) else numbers(value) for value in (found, expected))
    if right is not None and got is None:
        return f"expected {'numbers' if right.ndim else 'a number'}, got {type(found).__name__}"
    if right is not None and got is not None and got.shape != right.shape:
        return f"expected the shape {right.shape}, got {got.shape}"
    gives = "it gives"
    if right is not None and got is not None and right.size > LISTED:  # one of many numbers, the worst
        at = np.unravel_index(np.nan_to_num(np.abs(got - right), nan=np.inf).argmax(), right.shape)
        gives, found, expected = f"at [{', '.join(map(str, at))}] it gives", got[at], right[at]
    where = f" for {_arguments(arguments)}" if arguments else ""
    return f"{gives} {_short(found)}{where}, which is not right" + (
        f"; right would be {_short(expected)}" if arguments else "")


def _is_word(value: Any) -> bool:
    """Whether a value is written as it stands: text, True and False, or several with such in them."""
    return any(map(_is_word, value)) if isinstance(value, (tuple, list)) else isinstance(value, (str, bool))


def _arguments(arguments: tuple) -> str:
    return ", ".join(_short(value) for value in arguments if not callable(value)) or "what it is given"


def _short(value: Any) -> str:
    if (array := None if _is_word(value) else numbers(value)) is not None:
        if array.ndim == 0:
            return f"{float(array):.4g}"
        if array.size <= LISTED:
            return "[" + ", ".join(f"{number:.4g}" for number in array.ravel()) + "]"
        return f"a tensor of shape {array.shape}"
    text = str(value)
    return text if len(text) < 80 else f"{text[:77]}..."
