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
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, is_dataclass
from fractions import Fraction
from functools import cache
from itertools import starmap
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

_ANY_HASH = "(?s:.{64})"
_WHOLE = re.compile(r"-?[1-9][0-9]{15,40}")
_RATIONAL = re.compile(r"(0|-?[1-9][0-9]{0,400})/([1-9][0-9]{0,400})")


def encode(record: object) -> bytes:
    """The canonical bytes of a record, on one line, without a newline.

    Raises `Refused(BAD_FIELD)` if a field is outside its domain: what we would refuse to read we do not write.
    """
    cls: Any = type(record)
    try:
        return _dumps(_plan(cls).write(record))
    except _Bad as bad:
        raise bad.refused(cls) from None


def regular(cls: type, wanted: Collection[str] = (), unread: Collection[str] = ()) -> str | None:
    """A regular expression that matches canonical records of this class only; each wanted field a group of its name.

    Not all such records are matched: an integer is where the number of its digits alone puts it into its domain. For
    reading very many quickly; what it does not match is for `decode` to judge. Of `unread` hashes it sees the length
    only, and whoever asks for them is to check them. None if there is no such expression: for rationals, nested
    records, and strings that may hold a quote.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    parts = []
    for name in sorted(hints.keys() & {field.name for field in fields(cls)}):
        left, value, right = _spelled(hints[name])
        if value is None:
            return None
        value = _ANY_HASH if name in unread else value
        group = f"?P<{name}>" if name in wanted else "?:"
        parts.append(f'"{name}":{left}({group}{value}){right}')
    return rf"\{{{','.join(parts)}\}}"


def _spelled(annotation: Any) -> tuple[str, str | None, str]:
    """What values of this kind look like: what they begin with, an expression, what they end with."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        kind, domain = arguments
        if kind is str:
            # A domain that says what it holds, and not what it does not, holds no quote and no backslash.
            return '"', re.sub(r"\((?!\?)", "(?:", domain.regex) if "[^" not in domain.regex else None, '"'
        return "", _surely_inside(domain) if domain.low in (0, 1) else None, ""
    if origin is tuple:
        item = arguments[0]
        if is_dataclass(item) and isinstance(item, type):
            one = regular(item)
        else:
            left, value, right = _spelled(item)
            one = f"{left}(?:{value}){right}" if value is not None else None
        return r"\[", rf"(?:{one}(?:,{one})*)?" if one is not None else None, r"\]"
    return "", None, ""


@cache
def _quick(cls: type) -> Callable[[str], Any]:
    """Reads a record in one step, or says None: then it is another record, or one that has to be read slowly."""
    names = [field.name for field in fields(cls)]
    expression = regular(cls, names)
    if expression is None:
        return lambda _: None
    match, hints = re.compile(expression).fullmatch, typing.get_type_hints(cls, include_extras=True)
    readers = [_read_spelled(hints[name]) for name in names]

    def read(text: str) -> Any:
        if (found := match(text)) is None:
            return None
        return cls(**{name: read(found[name]) for name, read in zip(names, readers, strict=True)})

    return read


def _read_spelled(annotation: Any) -> Callable[[str], Any]:
    """From what a group of `regular` has matched to the value."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is not tuple:
        return str if arguments[0] is str else _unquoted
    item = arguments[0]
    if not is_dataclass(item):
        read = _read_spelled(item)
        if read is str:
            return lambda text: tuple(text[1:-1].split('","')) if text else ()
        return lambda text: tuple([read(each.strip('"')) for each in text.split(",")]) if text else ()
    assert isinstance(item, type)
    positional = [field.name for field in fields(item) if not field.kw_only]
    names = sorted(field.name for field in fields(item))
    expression, hints = re.compile(regular(item, names) or ""), typing.get_type_hints(item, include_extras=True)
    readers = [_read_spelled(hints[name]) for name in names]
    if all(read is str for read in readers) and positional == names != names[:1]:  # Then a match is what it takes.
        return lambda text: tuple(starmap(item, expression.findall(text)))
    return lambda text: tuple(
        [
            item(**{name: read(each) for name, read, each in zip(names, readers, found.groups(), strict=True)})
            for found in expression.finditer(text)
        ]
    )


def _unquoted(text: str) -> int:
    return int(text.strip('"'))


def _surely_inside(domain: Range) -> str:
    """Spellings of integers that lie in this range by their number of digits; with quotes from 2^53 on."""
    digits = len(str(domain.high)) - 1
    spelled = ["0"] if domain.low == 0 else []
    spelled.append(f"[1-9][0-9]{{0,{min(digits, 15) - 1}}}")
    if digits >= 17:
        spelled.append(f'"[1-9][0-9]{{16,{digits - 1}}}"')
    return "|".join(spelled)


def decode(cls: type[R], data: bytes) -> R:
    """The record that these bytes spell, and only if they are its one spelling.

    Raises `Refused`: NOT_CANONICAL where the bytes are not canonical JSON (duplicate keys and spaces included),
    BAD_FIELD where a field is missing, unknown, outside its domain, a float, or spelled in another way than `encode`
    does.
    """
    try:
        text = data.decode()
        schema: Any = cls
        if (quick := _quick(schema)(text)) is not None:
            return typing.cast(R, quick)
        value = json.loads(text)
        if _dumps(value) != data:
            raise Refused(Refusal.NOT_CANONICAL, f"{cls.__name__} is spelled in another way than its canonical one")
    except (ValueError, RecursionError) as error:
        raise Refused(Refusal.NOT_CANONICAL, f"not canonical JSON: {error}") from None
    try:
        return typing.cast(R, _plan(schema).read(value))
    except _Bad as bad:
        raise bad.refused(cls) from None


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _dumps(value: Any) -> bytes:
    return _ENCODER.encode(value).encode()


class _Bad(Exception):
    """A value outside its domain; on its way up it collects the names of the fields it lies in."""

    def __init__(self, why: str) -> None:
        self.at, self.why = "", why

    def under(self, name: str) -> "_Bad":
        self.at = f".{name}{self.at}"
        return self

    def refused(self, cls: type) -> Refused:
        return Refused(Refusal.BAD_FIELD, f"{cls.__name__}{self.at} {self.why}")


# A plan is a pair of functions for one annotation, built once: record value -> JSON value, and back. Both raise
# `_Bad`, and each reads exactly what the other writes.


@dataclass(frozen=True, slots=True)
class _Plan:
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


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


def _string(value: Any) -> str:
    if type(value) is not str:
        raise _Bad("is not a string")
    return value


_STRING = _Plan(_string, _string)


def _write_integer(value: Any) -> int | str:
    if type(value) is not int:
        raise _Bad("is not an integer")
    return value if -SAFE_INTEGER < value < SAFE_INTEGER else str(value)


def _read_integer(value: Any) -> int:
    if type(value) is int and -SAFE_INTEGER < value < SAFE_INTEGER:
        return value
    if type(value) is str and _WHOLE.fullmatch(value) and not -SAFE_INTEGER < int(value) < SAFE_INTEGER:
        return int(value)
    raise _Bad(f"is not an integer, as a number below 2^53 and as a string from there: {value!r:.80}")


_INTEGER = _Plan(_write_integer, _read_integer)


def _write_rational(value: Any) -> str:
    if type(value) is not Fraction:
        raise _Bad("is not a rational")
    return f"{value.numerator}/{value.denominator}"


def _read_rational(value: Any) -> Fraction:
    match = _RATIONAL.fullmatch(value) if type(value) is str else None
    rational = Fraction(int(match[1]), int(match[2])) if match else None
    if rational is None or _write_rational(rational) != value:
        raise _Bad(f'is not a rational "p/q" in lowest terms: {value!r:.80}')
    return rational


_RATIONALS = _Plan(_write_rational, _read_rational)


def _narrowed(plan: _Plan, domain: Pattern | Range) -> _Plan:
    if isinstance(domain, Pattern):
        matches = re.compile(domain.regex).fullmatch

        def inside(value: Any) -> Any:
            if matches(value) is None:
                raise _Bad(f"is {value[:80]!r}, which is not of the form {domain.regex}")
            return value
    else:

        def inside(value: Any) -> Any:
            if not domain.low <= value <= domain.high:
                raise _Bad(f"is {value}, outside {domain.low} to {domain.high}")
            return value

    def write(value: Any) -> Any:
        written = plan.write(value)
        inside(value)
        return written

    return _Plan(write, lambda value: inside(plan.read(value)))


def _many(item: _Plan) -> _Plan:
    def write(value: Any) -> list[Any]:
        if type(value) is not tuple:
            raise _Bad("is not a tuple")
        return [item.write(each) for each in value]

    def read(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise _Bad("is not a list")
        return tuple([item.read(each) for each in value])

    return _Plan(write, read)


def _fields(cls: type) -> _Plan:
    hints = typing.get_type_hints(cls, include_extras=True)
    plans = {field.name: _plan(hints[field.name]) for field in fields(cls)}
    assert all(name.isascii() for name in plans)

    def write(value: Any) -> dict[str, Any]:
        if type(value) is not cls:
            raise _Bad(f"is not a {cls.__name__}")
        written = {}
        for name, plan in plans.items():
            try:
                written[name] = plan.write(getattr(value, name))
            except _Bad as bad:
                raise bad.under(name) from None
        return written

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise _Bad("is not an object")
        if value.keys() != plans.keys():
            more, missing = value.keys() - plans.keys(), plans.keys() - value.keys()
            raise _Bad(f"has fields {_odd(more)} too many, {_odd(missing)} missing")
        got = {}
        for name, plan in plans.items():
            try:
                got[name] = plan.read(value[name])
            except _Bad as bad:
                raise bad.under(name) from None
        return cls(**got)

    return _Plan(write, read)


def _odd(names: set[str]) -> str:
    return ", ".join(sorted(names))[:80] or "none"
