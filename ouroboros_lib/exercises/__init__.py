"""The course's exercises, which answer: `check("01-2", my_function)` says whether it is right, or what went wrong."""

from .checking import Exercise, Verdict, check

__all__ = ["Exercise", "Verdict", "check"]
