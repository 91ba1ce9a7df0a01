"""What electricity costs here by the hour, and what it does to the climate: a signal that somebody else publishes.

JSON (RFC 8259), times as in RFC 3339 with their offset from UTC, hours or any shorter or longer spans up to a day:

    {"hours": [{"from": "2026-11-25T13:00:00+01:00", "to": "2026-11-25T14:00:00+01:00", "kwh": "0.3127", "carbon": 412},
               ...]}

`kwh` is the price of a kWh in the charter's currency, exact, below zero too; `carbon` the grams of CO2 equivalent that
a kWh emits, as the Software Carbon Intensity specification counts them (ISO/IEC 21031:2024). One of them may be left
out. The spans are in order and do not overlap. Whoever can change what is published can choose when this machine
trains, and what its operator believes that costs; no receipt or bill hangs from it.
"""

import bisect
import datetime
import hashlib
import json
import re
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from shared_models import durable

MOST_BYTES = 4 << 20
DAY_MS = 86_400_000
KEPT_MS = 40 * DAY_MS  # What was fetched is kept for a budget's month, and some days.
FETCH_S, AGAIN_S = 900.0, 60.0  # Between two fetches, and after one that failed.
WAIT_S = 30.0  # For all of an answer.
PRICE = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,9})?")


class Slot(NamedTuple):
    """From when to when, Unix time, electricity costs and emits this."""

    start_ms: int
    end_ms: int
    kwh: Fraction | None
    carbon: Fraction | None  # Grams a kWh.


@dataclass(frozen=True, slots=True)
class Tariff:
    """What is known, in order; there may be gaps."""

    slots: tuple[Slot, ...]

    def at(self, ms: int) -> Slot | None:
        """What holds then."""
        found = bisect.bisect_right(self.slots, ms, key=lambda each: each.start_ms) - 1
        return self.slots[found] if found >= 0 and ms < self.slots[found].end_ms else None

    def within(self, start_ms: int, end_ms: int) -> list[Slot]:
        """What holds in this time, cut to it."""
        first = bisect.bisect_right(self.slots, start_ms, key=lambda each: each.end_ms)
        last = bisect.bisect_left(self.slots, end_ms, key=lambda each: each.start_ms)
        return [
            each._replace(start_ms=max(start_ms, each.start_ms), end_ms=min(end_ms, each.end_ms))
            for each in self.slots[first:last]
        ]

    def mean_kwh(self, start_ms: int, end_ms: int, otherwise: Fraction) -> Fraction:
        """The price of a kWh used evenly in this time; `otherwise` where no price is known."""
        if end_ms <= start_ms:
            slot = self.at(start_ms)
            return slot.kwh if slot is not None and slot.kwh is not None else otherwise
        priced = [
            (each.end_ms - each.start_ms, each.kwh) for each in self.within(start_ms, end_ms) if each.kwh is not None
        ]
        left = end_ms - start_ms - sum(ms for ms, _ in priced)
        return (sum((ms * kwh for ms, kwh in priced), Fraction(0)) + left * otherwise) / (end_ms - start_ms)

    def cheapest(self, start_ms: int, end_ms: int, hours: int) -> list[Slot] | None:
        """The cheapest spans of this time until they make so many hours; None if not all of it has a price."""
        slots = [each for each in self.within(start_ms, end_ms) if each.kwh is not None]
        if sum(each.end_ms - each.start_ms for each in slots) < end_ms - start_ms:
            return None
        chosen, ms = list[Slot](), 0
        for each in sorted(slots, key=lambda each: (each.kwh, each.start_ms)):
            if ms >= hours * 3_600_000:
                break
            chosen.append(each)
            ms += each.end_ms - each.start_ms
        return chosen


def parse(data: bytes) -> Tariff:
    """What a signal says. Raises ValueError with what is wrong with it."""
    if len(data) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    try:
        found = json.loads(data, parse_float=str)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None
    if not isinstance(found, dict) or found.keys() != {"hours"} or not isinstance(found["hours"], list):
        raise ValueError('it is not {"hours": [...]}')
    slots, before_ms = list[Slot](), 0
    for number, each in enumerate(found["hours"], 1):
        try:
            slot = _slot(each)
        except ValueError as error:
            raise ValueError(f"hour {number}: {error}") from None
        if slot.start_ms < before_ms:
            raise ValueError(f"hour {number}: it begins before the one before it ends")
        before_ms = slot.end_ms
        slots.append(slot)
    return Tariff(tuple(slots))


def _slot(said: object) -> Slot:
    if not isinstance(said, dict) or not {"from", "to"} < said.keys() <= {"from", "to", "kwh", "carbon"}:
        raise ValueError("it has from, to, and kwh or carbon or both, and nothing else")
    start_ms, end_ms = _ms(said["from"]), _ms(said["to"])
    if not 0 < end_ms - start_ms <= DAY_MS:
        raise ValueError("it ends before it begins, or lasts longer than a day")
    kwh, carbon = _number(said.get("kwh")), _number(said.get("carbon"))
    if carbon is not None and carbon < 0:
        raise ValueError("carbon is below 0")
    return Slot(start_ms, end_ms, kwh, carbon)


def _ms(said: object) -> int:
    try:
        when = datetime.datetime.fromisoformat(str(said))
    except ValueError:
        raise ValueError(f"{str(said)[:40]} is no time") from None
    if when.tzinfo is None:
        raise ValueError(f"{str(said)[:40]} does not say how far it is from UTC")
    return round(when.timestamp() * 1000)


def _number(said: object) -> Fraction | None:
    if said is None:
        return None
    if isinstance(said, bool) or not isinstance(said, int | str) or not PRICE.fullmatch(str(said)):
        raise ValueError(f"{str(said)[:40]} is no number")
    return Fraction(str(said))


def dump(tariff: Tariff) -> bytes:
    """As `parse` reads it."""
    return json.dumps({"hours": [_said(each) for each in tariff.slots]}).encode()


def _said(slot: Slot) -> dict[str, Any]:
    times = {"from": slot.start_ms, "to": slot.end_ms}
    said = {name: datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC).isoformat() for name, ms in times.items()}
    numbers = {"kwh": slot.kwh, "carbon": slot.carbon}
    return said | {name: _decimal(each) for name, each in numbers.items() if each is not None}


def _decimal(number: Fraction) -> str:
    """Exact: nine digits behind the point are all that `PRICE` lets in."""
    billionths = int(abs(number) * 10**9)
    return f"{'-' if number < 0 else ''}{billionths // 10**9}.{billionths % 10**9:09}"


# Fetching.


def kept_path(home: Path, url: str) -> Path:
    """Where in a member's folder is what was fetched from there."""
    return home / f"signal-{hashlib.sha256(url.encode()).hexdigest()[:12]}.json"


def fetch(url: str, wait_s: float = WAIT_S) -> Tariff:
    """What is published there now. Raises OSError, ValueError: no answer in that time, a redirection, no signal."""
    until, data = time.monotonic() + wait_s, b""
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), urllib.request.HTTPSHandler()):
        opener.add_handler(handler)
    opener.add_handler(urllib.request.HTTPDefaultErrorHandler())
    opener.add_handler(urllib.request.HTTPErrorProcessor())
    try:
        with opener.open(url, timeout=wait_s) as reply:
            while len(data) <= MOST_BYTES and (more := reply.read1(65_536)):
                data += more
                if time.monotonic() > until:
                    raise TimeoutError(f"it did not answer in {wait_s:g} s")
    except HTTPException as error:
        raise OSError(f"it is no HTTP: {error!r}") from None
    return parse(data)


def keep(path: Path, new: Tariff, now_ms: int) -> None:
    """Put this at that path, behind what was fetched before of the time before it."""
    try:
        old = parse(path.read_bytes()).slots
    except (OSError, ValueError):
        old = ()
    begins_ms = new.slots[0].start_ms if new.slots else now_ms
    before = (each for each in old if now_ms - KEPT_MS < each.end_ms <= begins_ms)
    durable.write(path, dump(Tariff((*before, *new.slots))))


class Fetcher:
    """Fetches a signal now and then, in a thread of its own: a decision never waits for it."""

    def __init__(self, home: Path, url: Callable[[], str | None], seen: Callable[[str], None]) -> None:
        """`url` is asked each time. `seen` is told what came of it: nothing if all is well."""
        self._home, self._url, self._seen = home, url, seen
        self._due, self._last, self._again = 0.0, "", 0.0
        self._thread: threading.Thread | None = None

    def visit(self) -> None:
        """Begin to fetch, if it is time; returns at once."""
        if time.monotonic() >= self._due and (self._thread is None or not self._thread.is_alive()):
            self._due = time.monotonic() + AGAIN_S
            self._thread = threading.Thread(target=self._fetch, name="signal", daemon=True)
            self._thread.start()

    def _fetch(self) -> None:
        if (url := self._url()) is None:
            return
        if url == self._last and time.monotonic() < self._again:
            return
        try:
            keep(kept_path(self._home, url), fetch(url), time.time_ns() // 1_000_000)
        except (OSError, ValueError) as error:
            self._seen(f"{urllib.parse.urlsplit(url).hostname}: {error}")  # The rest of it may hold a secret.
            return
        self._last, self._again = url, time.monotonic() + FETCH_S
        self._seen("")
