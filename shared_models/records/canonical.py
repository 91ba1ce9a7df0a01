"""Records as bytes: one spelling for each record, and a strict way back.

The bytes are RFC 8785 canonical JSON, narrowed until every library agrees on them: object keys are ASCII, there are no
floats and no null, an integer at or above 2^53 is a decimal string, a rational is a string "p/q" in lowest terms.
Within these limits Python's own encoder writes exactly what RFC 8785 asks for (a test compares the two).

A record is a frozen dataclass; the annotations of its fields are its schema.
"""

import json
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from fractions import Fraction
from functools import cache
from typing import Annotated, Any, TypeVar

from shared_models.records.refusals import Refusal, Refused

SAFE_INTEGER = 2**53  # From here on a double no longer tells neighbours apart, so JSON numbers end below it.

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Pattern:
    """The whole string matches this regular expression."""

    regex: str


@dataclass(frozen=True, slots=True)
class Range:
    """The integer lies between these two, both included."""

    low: int
    high: int


Count = Annotated[int, Range(0, 2**96)]
Signed = Annotated[int, Range(-(2**96), 2**96)]
Name = Annotated[str, Pattern(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")]
Hash = Annotated[str, Pattern(r"[0-9a-f]{64}")]
Decimal = Annotated[str, Pattern(r"(0|[1-9][0-9]{0,8})(\.[0-9]{0,11}[1-9])?")]  # Not negative, no trailing zeros.
Line = Annotated[str, Pattern(r"[^\x00-\x1f\x7f\ud800-\udfff]{0,500}")]

_WHOLE = re.compile(r"-?[1-9][0-9]{15,40}")
_RATIONAL = re.compile(r"(0|-?[1-9][0-9]{0,400})/([1-9][0-9]{0,400})")


def encode(record: object) -> bytes:
    """The canonical bytes of a record, on one line, without a newline.

    Raises `Refused(BAD_FIELD)` if a field is outside its domain: what we would refuse to read we do not write.
    """
    cls: Any = type(record)
    return _dumps(_plan(cls).write(record, cls.__name__))


def decode(cls: type[R], data: bytes) -> R:
    """The record that these bytes spell, and only if they are its one spelling.

    Raises `Refused`: NOT_CANONICAL where the bytes are not canonical JSON (duplicate keys, floats and spaces included),
    BAD_FIELD where a field is missing, unknown or outside its domain.
    """
    try:
        value = json.loads(data.decode(), parse_float=_no_float, parse_constant=_no_float)
    except (ValueError, RecursionError) as error:
        raise Refused(Refusal.NOT_CANONICAL, f"not canonical JSON: {error}") from None
    schema: Any = cls
    record = _plan(schema).read(value, cls.__name__)
    if encode(record) != data:
        raise Refused(Refusal.NOT_CANONICAL, f"{cls.__name__} is spelled in another way than its canonical one")
    return typing.cast(R, record)


def _dumps(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _no_float(text: str) -> typing.NoReturn:
    raise ValueError(f"{text} is a float, and a float has no single spelling")


# A plan is a pair of functions for one annotation, built once: record value -> JSON value, and back. `at` names the
# field in refusals.


@dataclass(frozen=True, slots=True)
class _Plan:
    write: Callable[[Any, str], Any]
    read: Callable[[Any, str], Any]


@cache
def _plan(annotation: Any) -> _Plan:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _narrowed(_plan(arguments[0]), arguments[1])
    if origin is tuple:
        assert arguments[1:] == (Ellipsis,), annotation
        return _many(_plan(arguments[0]))
    if is_dataclass(annotation) and isinstance(annotation, type):
        return _fields(annotation)
    assert not isinstance(annotation, types.UnionType), f"{annotation}: a field is there or it is not"
    return {str: _STRING, int: _INTEGER, Fraction: _RATIONALS}[annotation]


def _bad(at: str, why: str) -> Refused:
    return Refused(Refusal.BAD_FIELD, f"{at} {why}")


def _write_string(value: Any, at: str) -> str:
    if type(value) is not str:
        raise _bad(at, "is not a string")
    return value


_STRING = _Plan(_write_string, _write_string)


def _write_integer(value: Any, at: str) -> int | str:
    if type(value) is not int:
        raise _bad(at, "is not an integer")
    return value if -SAFE_INTEGER < value < SAFE_INTEGER else str(value)


def _read_integer(value: Any, at: str) -> int:
    if type(value) is str and _WHOLE.fullmatch(value):
        return int(value)
    if type(value) is not int:
        raise _bad(at, "is not an integer")
    return value


_INTEGER = _Plan(_write_integer, _read_integer)


def _write_rational(value: Any, at: str) -> str:
    if type(value) is not Fraction:
        raise _bad(at, "is not a rational")
    return f"{value.numerator}/{value.denominator}"


def _read_rational(value: Any, at: str) -> Fraction:
    match = _RATIONAL.fullmatch(value) if type(value) is str else None
    if match is None:
        raise _bad(at, 'is not a rational "p/q"')
    return Fraction(int(match[1]), int(match[2]))  # Not in lowest terms? Then it will not re-encode to the same bytes.


_RATIONALS = _Plan(_write_rational, _read_rational)


def _narrowed(plan: _Plan, domain: Pattern | Range) -> _Plan:
    if isinstance(domain, Pattern):
        matches = re.compile(domain.regex).fullmatch

        def inside(value: Any, at: str) -> None:
            if not matches(value):
                raise _bad(at, f"is {value[:80]!r}, which is not of the form {domain.regex}")
    else:

        def inside(value: Any, at: str) -> None:
            if not domain.low <= value <= domain.high:
                raise _bad(at, f"is {value}, outside {domain.low} to {domain.high}")

    def write(value: Any, at: str) -> Any:
        written = plan.write(value, at)
        inside(value, at)
        return written

    def read(value: Any, at: str) -> Any:
        got = plan.read(value, at)
        inside(got, at)
        return got

    return _Plan(write, read)


def _many(item: _Plan) -> _Plan:
    def write(value: Any, at: str) -> list[Any]:
        if type(value) is not tuple:
            raise _bad(at, "is not a tuple")
        return [item.write(each, at) for each in value]

    def read(value: Any, at: str) -> tuple[Any, ...]:
        if type(value) is not list:
            raise _bad(at, "is not a list")
        return tuple(item.read(each, at) for each in value)

    return _Plan(write, read)


def _fields(cls: type) -> _Plan:
    hints = typing.get_type_hints(cls, include_extras=True)
    plans = [(field.name, _plan(hints[field.name])) for field in fields(cls)]
    names = {name for name, _ in plans}
    assert all(name.isascii() for name in names)

    def write(value: Any, at: str) -> dict[str, Any]:
        if type(value) is not cls:
            raise _bad(at, f"is not a {cls.__name__}")
        return {name: plan.write(getattr(value, name), f"{at}.{name}") for name, plan in plans}

    def read(value: Any, at: str) -> Any:
        if type(value) is not dict:
            raise _bad(at, "is not an object")
        if value.keys() != names:
            raise _bad(at, f"has fields {_odd(value.keys() - names)} too many, {_odd(names - value.keys())} missing")
        return cls(**{name: plan.read(value[name], f"{at}.{name}") for name, plan in plans})

    return _Plan(write, read)


def _odd(names: set[str]) -> str:
    return ", ".join(sorted(names))[:80] or "none"
