"""Values from outside, of JSON, CSV or a command line, checked for type and range where they are read.

What is expected is said by types, as in the fields of a dataclass, a NamedTuple or a TypedDict: bool, int, float, str,
None, unions, Literal, list[T], tuple[T, ...], tuple[A, B], dict[str, T], TypedDict (of which more keys may be there
than it names), and Annotated[T, Between(low, high)]. A whole number is a float too; no float is NaN or infinite.
"""

import math
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from .errors import InputError

T = TypeVar("T")
LARGEST = sys.float_info.max
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_NOTHING = object()  # in place of what is missing
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "null"}


@dataclass(frozen=True)
class Between:
    """The numbers that are meant, both ends included; where `above`, the low end is not, and where `below` the high."""

    low: float = -LARGEST
    high: float = LARGEST
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        low = "" if self.low <= -LARGEST else f"above {self.low:g}" if self.above else f"of at least {self.low:g}"
        high = "" if self.high >= LARGEST else f"below {self.high:g}" if self.below else f"of at most {self.high:g}"
        if low and high and not self.above and not self.below:
            return f" from {self.low} to {self.high}"
        return "".join(f" {part}" for part in (low, "and" if low and high else "", high) if part)


Natural = Annotated[int, Between(0)]
Positive = Annotated[float, Between(0, above=True)]


def checked(value: Any, kind: Any, where: object) -> Any:
    """`value` if it is what `kind` says. Raises InputError: `where`, which part, what was expected, what it is."""
    if (fault := _fault(value, kind, "")) is not None:
        path, expected, found = fault
        raise InputError(f"{where}: {path + ': ' if path else ''}expected {expected}, got {_shown(found)}")
    return value


def check_fields(instance: Any, where: str = "") -> None:
    """Raise InputError unless all fields of a dataclass hold what their annotations say; infinity where the class's
    own default is infinite."""
    hints = _hints(type(instance))
    for field in fields(instance):
        value = getattr(instance, field.name)
        if not _is_endless(value, field.default) and (fault := _fault(value, hints[field.name], "")) is not None:
            path, expected, found = fault
            shown = _shown(found).strip("'") if isinstance(found, str) else _shown(found)
            raise InputError(f"{where}{field.name}{path}={shown}: expected {expected}")


def changed(base: T, changes: Sequence[str], where: str) -> T:
    """A copy of a dataclass with fields as `key=value` texts say. Raises InputError that begins with `where`."""
    hints, values = _hints(type(base)), {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or key not in hints:
            raise InputError(f"{where}{change}: expected key=value with one of these keys: {', '.join(hints)}")
        values[key] = _of_text(text, hints[key])
        if (not _is_endless(values[key], getattr(type(base), key, None))
                and (fault := _fault(values[key], hints[key], "")) is not None):
            raise InputError(f"{where}{change}: expected {fault[1]}")
    return replace(base, **values)  # type: ignore[type-var]


def rows_from_text(kind: type[T], lines: Iterable[Sequence[str]], where: str) -> list[T]:
    """NamedTuples of texts, of fewer than there are fields where the others have defaults. Raises InputError, which
    begins with `where` and the number of the line, counted from 2: the first is the header."""
    hints = _hints(kind)
    needed = len(hints) - len(kind._field_defaults)  # type: ignore[attr-defined]
    known: list[dict[str, Any]] = [{} for _ in hints]  # most cells of a table were read before
    rows = []
    for number, line in enumerate(lines, 2):
        if not needed <= len(line) <= len(hints):
            raise InputError(f"{where}: line {number}: {len(line)} cells, expected {len(hints)}: {', '.join(hints)}")
        for text, before, (name, hint) in zip(line, known, hints.items(), strict=False):
            if text not in before:
                before[text] = checked(_of_text(text, hint), hint, f"{where}: line {number}: {name}")
        rows.append(kind(*(before[text] for text, before in zip(line, known, strict=False))))
    return rows


def cells_of(kind: type) -> Any:
    """What a list of the fields of a NamedTuple is."""
    return tuple[tuple(_hints(kind).values())]  # type: ignore[misc]


def _of_text(text: str, kind: Any) -> Any:
    """What a text can be read as, of the simple types in `kind`; itself if it is of none."""
    for plain in _plain(kind):
        try:
            return _BOOLEANS[text.lower()] if plain is bool else plain(text)
        except (KeyError, ValueError):
            continue
    return text


def _is_endless(value: Any, default: Any) -> bool:
    return isinstance(value, float) and math.isinf(value) and value == default


@cache
def _hints(kind: type) -> dict[str, Any]:
    names = [field.name for field in fields(kind)] if is_dataclass(kind) else None
    return {name: hint for name, hint in get_type_hints(kind, include_extras=True).items()
            if names is None or name in names}


@cache
def _plain(kind: Any) -> list[type]:
    """The simple types in a kind, in order."""
    parts = get_args(kind)[:1] if get_origin(kind) is Annotated else get_args(kind) if _is_union(kind) else ()
    found = [plain for part in parts for plain in _plain(part)] or [str if get_origin(kind) is Literal else kind]
    return [plain for plain in found if plain in (bool, int, float, str)]


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _fault(value: Any, kind: Any, path: str) -> tuple[str, str, Any] | None:
    """Where a value is not of a kind, what was expected there and what it is; None if it is."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return None
    if kind in _WORDS or kind is None:
        return None if _is_plain(value, kind) else (path, _words(kind), value)
    if origin is Annotated:
        fault = _fault(value, arguments[0], path)
        if fault is None and not arguments[1].holds(value):
            fault = path, "", value
        return fault if fault is None or fault[0] != path else (path, _words(kind), value)
    if origin is Literal:
        known = isinstance(value, (str, int)) and any(value == one and type(value) is type(one) for one in arguments)
        return None if known else (path, _words(kind), value)
    if _is_union(kind):
        if any(_fault(value, one, path) is None for one in arguments):
            return None
        deep = [one for one in arguments if get_origin(one) in (list, tuple, dict) or is_typeddict(one)]
        faults = [_fault(value, one, path) for one in deep]
        inner = next((fault for fault in faults if fault is not None and fault[0] != path), None)
        return inner or (path, _words(kind), value)
    if is_typeddict(kind):
        return _fault_in_record(value, kind, path)
    if origin is dict:
        if not isinstance(value, Mapping):
            return path, _words(kind), value
        parts = [(f"{path}[{_shown(key)}]", one, arguments[1]) for key, one in value.items()]
    elif origin in (list, tuple) or kind in (list, tuple):
        if not isinstance(value, (list, tuple)):
            return path, "a list", value
        inner = arguments or (Any, ...)
        many = origin is list or len(inner) == 2 and inner[1] is ...
        if not many and len(value) != len(inner):
            return path, f"a list of {len(inner)}", value
        parts = [(f"{path}[{number}]", one, inner[0] if many else inner[number]) for number, one in enumerate(value)]
    else:
        return None if isinstance(value, kind) else (path, _words(kind), value)
    return next((fault for part, one, of in parts if (fault := _fault(one, of, part)) is not None), None)


def _fault_in_record(value: Any, kind: Any, path: str) -> tuple[str, str, Any] | None:
    if not isinstance(value, Mapping):
        return path, "an object", value
    for name, hint in _hints(kind).items():
        inner = f"{path}.{name}" if path else name
        if name not in value:
            if name in kind.__required_keys__:
                return inner, _words(hint), _NOTHING
        elif (fault := _fault(value[name], hint, inner)) is not None:
            return fault
    return None


def _is_plain(value: Any, kind: Any) -> bool:
    if kind in (int, float):  # the comparison, unlike a conversion, holds for whole numbers of any length
        return (isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
                and -LARGEST <= value <= LARGEST)
    if kind is str:
        return isinstance(value, str) and _is_writable(value)
    return value is None if kind in (None, type(None)) else isinstance(value, kind)


def _is_writable(text: str) -> bool:
    """Whether it can be part of a file, or of a name: no zero byte, no halves of characters."""
    return "\0" not in text and (text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text))


def _words(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return f"{_words(arguments[0])}{arguments[1]}"
    if origin is Literal:
        return "one of " + ", ".join(str(one) or '""' for one in arguments)
    if _is_union(kind):
        return " or ".join(_words(one) for one in arguments)
    if origin in (list, tuple):
        return "a list"
    return "null" if kind is None else _WORDS.get(kind, "an object")


def _shown(value: Any) -> str:
    if value is _NOTHING:
        return "nothing"
    if isinstance(value, (dict, list)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
