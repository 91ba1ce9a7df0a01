"""How a value reads: cut for people, whole for whoever looks closer, plain in CSV and JSON; and a page's part of many.

member    net      carry            what people read
acme    -11.61     0.003917~        the same as CSV:    member,net_minor,carry_minor
                                                        acme,-1161,3917/10000
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, NamedTuple

from shared_models.records.kinds import Charter
from shared_models.rules.currency import UNITS, money

ROWS = 100
SHOWN_NAMES = 5  # In one cell.

Plain = str | int | bool | list[str] | None


class Shown(NamedTuple):
    """A value as people read it, exactly, and as programs have it."""

    text: str
    exact: str
    plain: str | int


class Part(NamedTuple):
    """Some of many things: their places, in the order they are shown, and where the next ones begin."""

    places: range
    more: int | None


def newest(count: int, before: int | None) -> Part:
    """The newest of so many things, the newest first, or the newest before that one."""
    end = count if before is None else min(before, count)
    start = max(0, end - ROWS)
    return Part(range(end - 1, start - 1, -1), start or None)


def oldest(count: int, after: int | None) -> Part:
    """The first of so many things, or the first from that one on."""
    start = min(after or 0, count)
    end = min(start + ROWS, count)
    return Part(range(start, end), end if end < count else None)


def amount(minor: int | Fraction, charter: Charter) -> Shown:
    """For programs a whole amount is a number, an exact one a fraction, always spelled as text."""
    plain = minor if isinstance(minor, int) else str(minor)
    return Shown(money(minor, charter), f"{minor} minor units of {charter.currency}", plain)


def work(flop: int) -> Shown:
    """For programs it is text: it has more digits than a number of JSON can be trusted with."""
    name, unit = next((each for each in UNITS if flop >= 10 * each[1]), UNITS[-1])
    return Shown(f"{flop // unit:,} {name}", f"{flop:,} FLOP", str(flop))


def loss(unats: int) -> Shown:
    exact = f"{unats // 10**6}.{unats % 10**6:06}"
    return Shown(exact[:-3], f"{exact} nats per byte, cut after three digits", unats)


def gain(unats: int, exact: Fraction) -> Shown:
    """For programs it is exact, a fraction that is spelled as text."""
    return Shown(f"{unats:,}", f"{exact} millionths of a nat per byte", str(exact))


def share(part: Fraction) -> Shown:
    return Shown(f"{float(part):.1%}", str(part), str(part))


def count(number: int) -> Shown:
    return Shown(f"{number:,}", str(number), number)


def moment(ms: int) -> Shown:
    """A time in UTC; a number of milliseconds that is no time of any calendar stays what it is."""
    try:
        found = datetime.fromtimestamp(ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return Shown(f"{ms} ms", str(ms), ms)
    return Shown(f"{found:%Y-%m-%d %H:%M:%S} UTC", f"{ms} ms since 1970", ms)


def lasting(ms: int) -> str:
    """How long this is, cut, in the two largest units that it has: `2 h 5 min`, `42 s`. So does `countdown.js`."""
    seconds = ms // 1000
    parts = [seconds // 86_400, seconds // 3_600 % 24, seconds // 60 % 60, seconds % 60]
    first = next((at for at, each in enumerate(parts) if each), 3)
    named = [f"{each} {unit}" for each, unit in zip(parts, ("d", "h", "min", "s"), strict=True)]
    return " ".join(named[first : first + 2])


def span(ms: int) -> Shown:
    """For programs it is text, as every time that was added up."""
    return Shown(lasting(ms), f"{ms:,} ms", str(ms))


def remaining(ms: int) -> str:
    """How long it is until then; or, if it is less than nothing, since."""
    return f"in {lasting(ms)}" if ms >= 0 else f"passed {lasting(-ms)} ago"


def took(ms: int) -> Shown:
    return Shown(f"{ms / 1000:,.1f} s", f"{ms} ms", ms)


def energy(mj: int) -> Shown:
    """For programs it is text, as work is: added up, it may have more digits than a number of JSON is trusted with."""
    name, unit = next((each for each in (("kWh", 3_600_000_000), ("Wh", 3_600_000)) if mj >= each[1]), ("J", 1_000))
    return Shown(f"{mj / unit:,.2f} {name}", f"{mj:,} mJ", str(mj))


def hours(ms: int) -> Shown:
    """The same of time that was added up."""
    text = f"{ms / 3_600_000:,.2f} h" if ms >= 360_000 else f"{ms / 1000:.1f} s"
    return Shown(text, f"{ms:,} ms", str(ms))


def size(number: int) -> Shown:
    name, unit = next(((n, u) for n, u in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)) if number >= u), ("bytes", 1))
    return Shown(f"{number / unit:,.1f} {name}" if unit > 1 else f"{number} bytes", f"{number:,} bytes", number)


def names(found: Sequence[str]) -> Shown:
    """The first of them, and how many more there are."""
    more = f" and {len(found) - SHOWN_NAMES} more" if len(found) > SHOWN_NAMES else ""
    return Shown(", ".join(found[:SHOWN_NAMES]) + more, ", ".join(found), ", ".join(found))


# The same for programs. What columns a table has is one string, such as `member net:minor`: fields of its rows, and the
# unit of each that has one.


def header(columns: str) -> list[str]:
    return [each.replace(":", "_") for each in columns.split()]


def plain_rows(rows: Iterable[Mapping[str, Any]], columns: str) -> list[list[Plain]]:
    """What each row has in these columns."""
    names = [each.partition(":")[0] for each in columns.split()]
    return [[_plain(row[name]) for name in names] for row in rows]


def _plain(value: Any) -> Plain:
    if isinstance(value, Shown):
        return value.plain
    if isinstance(value, list | tuple | set | frozenset):
        return [str(each) for each in value]
    return value if value is None or isinstance(value, int) else str(value)


def as_json(rows: Iterable[Mapping[str, Any]], columns: str, name: str) -> bytes:
    """The table as an object, its rows as objects."""
    names = header(columns)
    found = [dict(zip(names, row, strict=True)) for row in plain_rows(rows, columns)]
    told = {"schema": "consortium.page/1", "table": name, "columns": names, "rows": found}
    return json.dumps(told, ensure_ascii=False, indent=1).encode()


def as_csv(rows: Iterable[Mapping[str, Any]], columns: str) -> bytes:
    """The table by RFC 4180, in UTF-8, with a header; no cell of it is a formula of a spreadsheet."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(header(columns))
    writer.writerows([_cell(value) for value in row] for row in plain_rows(rows, columns))
    return out.getvalue().encode()


def _cell(value: Plain) -> str:
    """A cell that a spreadsheet does not compute (OWASP, CSV Injection); numbers and fractions stay what they are."""
    text = "; ".join(value) if isinstance(value, list) else "" if value is None else str(value)
    if isinstance(value, bool):
        return text.lower()
    if re.fullmatch(r"-?[0-9]+(/[0-9]+)?", text):
        return text
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")) else text
