"""What this machine trains, when, and for how much: its operator's word, in a file that is read again at each question.

HOME/policy.toml. Without it every run is trained that is right by the charter. What it refuses is refused by name, with
the line that refuses it; a file that cannot be read refuses everything. While HOME/paused is there, nothing is trained.

    zone = "Europe/Berlin"       # of hours, days and months; default UTC

    [runs]
    allow = ["pilot-*"]          # names of runs, `*` for any letters; default all
    refuse = ["*-test"]          # none of these, whatever is allowed above
    rounds = 200                 # of a run, at most
    tokens = 50_000_000          # of a round, at most
    ask = true                   # and of these none that was not approved: `consortium runs approve`

    [hours]                      # when a round may begin: on days that are not named, never; without hours, always
    mon-fri = "20:00-06:00"      # past midnight, it belongs to the day on which it began; a list names several
    sat-sun = "00:00-24:00"

    [price]                      # what a device costs here
    hour = "1.20"                # in the charter's currency,
    kwh = "0.30"
    watts = 350                  # where its energy is not measured

    [signal]                     # what electricity costs and emits by the hour: client/tariff.py says how it is written
    file = "prices.json"         # read at each question; or url = "https://…", which the daemon fetches
    kwh_below = "0.25"           # a round begins only in hours whose kWh costs less,
    carbon_below = 300           # emits fewer grams of CO2 equivalent,
    cheapest_hours = 8           # and is among the cheapest so many of its day

    [machine]                    # what training may have of this machine, read when it starts
    memory = "8 GiB"             # all its processes together; one that takes more is ended
    cores = 4                    # its threads run on so many of the processor's,
    share = 0.5                  # and only so much of the time, on whatever device

    [spot]                       # a machine that may be taken away at short notice
    notice = true                # SIGTERM says that it will be
    file = "/run/taken-away"     # and so does this file, once it is there
    seconds = 25                 # from then on: the training process keeps how far it came, or is ended

    [audits]                     # what the log asks to see of training: docs/checking-work.md
    answer = true                # show what it draws of yours, repeat what it draws you for; default true
    texts = ["of-acme.txt"]      # others' texts that are entrusted to you, so that you can repeat their work

    [budget]                     # of this node: hours of one device, kWh, and money by those prices
    hours_a_day = 40
    kwh_a_day = "12.5"
    money_a_month = "900"
"""

import datetime
import fnmatch
import json
import re
import tomllib
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from client import tariff
from client.tariff import Tariff
from shared_models import durable
from shared_models.records.kinds import Manifest, Receipt
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.pricing import tokens_asked

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
KINDS: dict[str, dict[str, str]] = {  # What stands where, and of what kind.
    "": {"zone": "zone"},
    "runs": {"allow": "names", "refuse": "names", "rounds": "count", "tokens": "count", "ask": "flag"},
    "price": {"hour": "number", "kwh": "number", "watts": "number"},
    "signal": {
        "file": "text",
        "url": "url",
        "kwh_below": "number",
        "carbon_below": "number",
        "cheapest_hours": "count",
    },
    "machine": {"memory": "size", "cores": "count", "share": "share"},
    "audits": {"answer": "flag", "texts": "names"},
    "spot": {"notice": "flag", "file": "text", "seconds": "count"},
    "budget": {f"{what}_a_{span}": "number" for what in ("hours", "kwh", "money") for span in ("day", "month")},
}
LEAST = Fraction(1, 20)  # Of the time: below it, training would stand for longer than others wait for an answer.
NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")
SIZE = re.compile(r"([0-9]{1,6}) (MiB|GiB|TiB)")
UNITS = {"MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
WINDOW = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])")


class Window(NamedTuple):
    """Minutes of a week, from Monday 00:00, in which a round may begin; it may end in the next week."""

    line: int
    start: int
    end: int

    def holds(self, minute: int) -> bool:
        return self.start <= minute < self.end or self.start <= minute + 7 * DAY_MINUTES < self.end


class Spent(NamedTuple):
    """What work took here."""

    hours: Fraction  # Of one device.
    kwh: Fraction
    money: Fraction

    def plus(self, other: "Spent") -> "Spent":
        return Spent(*(one + more for one, more in zip(self, other, strict=True)))


class Spot(NamedTuple):
    """How a machine is told that it will be taken away, and how many seconds there are then."""

    notice: bool = False  # By SIGTERM,
    file: Path | None = None  # or by a file that is there.
    seconds: int = 25


class Told(NamedTuple):
    """One line of a policy, and what it says now."""

    line: int
    rule: str
    says: str
    allows: bool


NOTHING = Spent(Fraction(0), Fraction(0), Fraction(0))


@dataclass(frozen=True, slots=True)
class Policy:
    """What one file says."""

    path: Path
    zone: ZoneInfo
    rules: Mapping[str, tuple[int, Any]]  # (line, value) by `section.key`.
    windows: tuple[Window, ...]
    tariff: Tariff  # What the signal says,
    silent: str  # or why it says nothing.

    def check_run(self, manifest: Manifest, member: str) -> None:
        """Whether this run may be trained here, by this member, at all. Raises `Refused(POLICY)`."""
        self._first(self._of_run(manifest, member))

    def check_now(
        self, receipts: Iterable[Receipt], now_ms: int, manifest: Manifest | None = None, member: str = ""
    ) -> None:
        """Whether a round, of this run, may begin now, after this member's own receipts. Raises `Refused(POLICY)`.

        What a round will take is what the newest one of its run took; of the first one, nothing is known.
        """
        self._first(self.told(receipts, now_ms, manifest, member))

    def told(
        self, receipts: Iterable[Receipt], now_ms: int, manifest: Manifest | None = None, member: str = ""
    ) -> Iterator[Told]:
        """Every line that decides, and what it says now."""
        if manifest is not None:
            yield from self._of_run(manifest, member)
        now = self._time(now_ms)
        yield from self._of_hours(now)
        yield from self._of_signal(now_ms)
        yield from self._of_budget(list(receipts), now, manifest)

    def opens_ms(
        self, receipts: Iterable[Receipt], now_ms: int, manifest: Manifest | None = None, member: str = ""
    ) -> int | None:
        """When every line will first let a round begin, if nothing is used until then; None: not in what is known.

        Asked of each time at which a line may begin to say something else, so far as the signal and a week reach.
        """
        now, receipts = self._time(now_ms).replace(second=0, microsecond=0), list(receipts)
        minute, week = now.weekday() * DAY_MINUTES + now.hour * 60 + now.minute, 7 * DAY_MINUTES
        times = [now + timedelta(minutes=(each.start - minute) % week) for each in self.windows]
        midnight = now.replace(hour=0, minute=0)
        times += [midnight + timedelta(days=day) for day in range(1, 33)]
        found = {round(each.timestamp() * 1000) for each in times} | {each.start_ms for each in self.tariff.slots}
        for ms in sorted(each for each in found if each > now_ms):
            by_time = (*self._of_hours(self._time(ms)), *self._of_signal(ms))
            told = chain(by_time, self.told(receipts, ms, manifest, member))
            if all(each.allows for each in told):
                return ms
        return None

    def _time(self, ms: int) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(ms / 1000, self.zone)

    def _first(self, told: Iterable[Told]) -> None:
        for each in told:
            if not each.allows:
                raise Refused(Refusal.POLICY, f"{self.path.name} line {each.line}, {each.rule}: {each.says}")

    def _of_run(self, manifest: Manifest, member: str) -> Iterator[Told]:
        name, asked = manifest.run, tokens_asked(manifest.recipe_of(member))
        for rule, wanted in (("runs.allow", True), ("runs.refuse", False)):
            if rule in self.rules:
                line, names = self.rules[rule]
                named = any(fnmatch.fnmatchcase(name, each) for each in names)
                says = f"the run {name} is{'' if named else ' not'} among them"
                yield Told(line, f"{rule} = {', '.join(names)}", says, named is wanted)
        for rule, count, what in (("runs.rounds", manifest.rounds, "rounds"), ("runs.tokens", asked, "tokens a round")):
            if rule in self.rules:
                line, most = self.rules[rule]
                yield Told(line, f"{rule} = {most:,}", f"the run {name} has {count:,} {what}", count <= most)

    def _of_hours(self, now: datetime.datetime) -> Iterator[Told]:
        if "hours" not in self.rules:
            return
        minute = now.weekday() * DAY_MINUTES + now.hour * 60 + now.minute
        here = next((each for each in self.windows if each.holds(minute)), None)
        stands = f"it is {now:%a %H:%M} {self.zone.key}"
        if here is not None:
            yield Told(here.line, "hours", stands, allows=True)
            return
        week = 7 * DAY_MINUTES
        ahead = min(((each.start - minute) % week, each) for each in self.windows) if self.windows else None
        opens = f"; from {now + timedelta(minutes=ahead[0]):%a %H:%M}" if ahead else ", and no day is named"
        yield Told(ahead[1].line if ahead else self.rules["hours"][0], "hours", stands + opens, allows=False)

    def _of_signal(self, now_ms: int) -> Iterator[Told]:
        source = next((rule for rule in ("signal.file", "signal.url") if rule in self.rules), None)
        if source is None:
            return
        line, where = self.rules[source]
        rule = f"{source} = {urllib.parse.urlsplit(where).hostname if source == 'signal.url' else where}"
        slot = self.tariff.at(now_ms)
        if self.silent or slot is None:
            last = f", and ends {self._time(self.tariff.slots[-1].end_ms):%d %b %H:%M}" if self.tariff.slots else ""
            nothing = f"it says nothing of {self._time(now_ms):%a %H:%M} {self.zone.key}{last}"
            yield Told(line, rule, self.silent or nothing, allows=False)
            return
        kwh = f"{_short(slot.kwh, 4)} a kWh" if slot.kwh is not None else "no price"
        carbon = f"{_short(slot.carbon)} g a kWh" if slot.carbon is not None else "no carbon"
        yield Told(line, rule, f"{kwh}, {carbon} until {self._time(slot.end_ms):%H:%M} {self.zone.key}", allows=True)
        for name, what, spelled in (("kwh_below", slot.kwh, kwh), ("carbon_below", slot.carbon, carbon)):
            if (rule := f"signal.{name}") in self.rules:
                line, most = self.rules[rule]
                yield Told(line, f"{rule} = {_short(most, 4)}", spelled, what is not None and what < most)
        if (rule := "signal.cheapest_hours") in self.rules:
            line, hours = self.rules[rule]
            midnight = self._time(now_ms).replace(hour=0, minute=0, second=0, microsecond=0)
            day = [round(each.timestamp() * 1000) for each in (midnight, midnight + timedelta(days=1))]
            chosen = self.tariff.cheapest(day[0], day[1], hours)
            among = chosen is not None and any(each.start_ms <= now_ms < each.end_ms for each in chosen)
            says = f"{kwh} is{'' if among else ' not'} among them on {midnight:%a}"
            says = says if chosen is not None else f"the price is not known of all of {midnight:%a}"
            yield Told(line, f"{rule} = {hours}", says, among)

    def _of_budget(self, receipts: list[Receipt], now: datetime.datetime, manifest: Manifest | None) -> Iterator[Told]:
        budgets = [rule for rule in self.rules if rule.startswith("budget.")]
        if not budgets:
            return
        run = manifest.run if manifest is not None else None
        now_ms = round(now.timestamp() * 1000)
        next_one = next((self._spent(each, now_ms) for each in reversed(receipts) if each.run == run), NOTHING)
        spent = {"day": NOTHING, "month": NOTHING}
        for each in receipts:
            when = datetime.datetime.fromtimestamp(each.started_ms / 1000, self.zone)
            if (when.year, when.month) == (now.year, now.month):
                took = self._spent(each)
                spent["month"] = spent["month"].plus(took)
                if when.day == now.day:
                    spent["day"] = spent["day"].plus(took)
        for rule in budgets:
            line, most = self.rules[rule]
            what, _, span = rule.removeprefix("budget.").partition("_a_")
            used, more = getattr(spent[span], what), getattr(next_one, what)
            says = f"{_short(used)} used this {span}" + (f", a round takes {_short(more)}" if more else "")
            yield Told(line, f"{rule} = {_short(most)}", says, used < most and used + more <= most)

    def _spent(self, receipt: Receipt, now_ms: int | None = None) -> Spent:
        """What the work of one receipt took, or would take now: energy as measured, or by the watts that are declared.

        A kWh costs what the signal says of its hour, and otherwise what the policy does.
        """
        hours = Fraction(receipt.wall_ms * receipt.devices, 3_600_000)
        if receipt.energy_method == "none":
            kwh = hours * self._price("watts") / 1000
        else:
            kwh = Fraction(receipt.energy_mj, 3_600_000_000)
        start_ms, end_ms = (receipt.started_ms, receipt.ended_ms) if now_ms is None else (now_ms, now_ms)
        price = self.tariff.mean_kwh(start_ms, end_ms, self._price("kwh"))
        return Spent(hours, kwh, hours * self._price("hour") + kwh * price)

    @property
    def asks(self) -> str:
        """The line by which each run is to be approved; empty if none is."""
        line, wanted = self.rules.get("runs.ask", (0, False))
        return f"{self.path.name} line {line}, runs.ask" if wanted else ""

    @property
    def memory(self) -> int | None:
        """Bytes that training may take here."""
        found: int | None = self.rules.get("machine.memory", (0, None))[1]
        return found

    @property
    def cores(self) -> int | None:
        """How many cores its threads run on."""
        found: int | None = self.rules.get("machine.cores", (0, None))[1]
        return found

    @property
    def share(self) -> Fraction:
        """How much of the time it may work."""
        found: Fraction = self.rules.get("machine.share", (0, Fraction(1)))[1]
        return found

    @property
    def answers(self) -> bool:
        """Whether the daemon answers by itself what the log asks to see."""
        found: bool = self.rules.get("audits.answer", (0, True))[1]
        return found

    @property
    def texts(self) -> list[Path]:
        """The files with others' texts."""
        return [self.path.parent / name for name in self.rules.get("audits.texts", (0, ()))[1]]

    @property
    def spot(self) -> Spot:
        """What is said of a machine that is taken away; by default nobody tells."""
        said = {
            rule.removeprefix("spot."): value for rule, (_, value) in self.rules.items() if rule.startswith("spot.")
        }
        if "file" in said:
            said["file"] = self.path.parent / said["file"]
        return Spot(**said)

    def too_much(self, taken: int) -> Refused:
        """What is said to training that took so many bytes."""
        line, most = self.rules["machine.memory"]
        rule = f"{self.path.name} line {line}, machine.memory = {_size(most)}"
        return Refused(Refusal.POLICY, f"{rule}: training took {_size(taken)}")

    @property
    def url(self) -> str | None:
        """Where the signal is published, if the daemon is to fetch it."""
        found: str | None = self.rules.get("signal.url", (0, None))[1]
        return found

    @property
    def watts(self) -> Fraction:
        """What one device takes here, as declared; 0 if nothing is."""
        return self._price("watts")

    def _price(self, what: str) -> Fraction:
        found: Fraction = self.rules.get(f"price.{what}", (0, Fraction(0)))[1]
        return found


def _size(size: int) -> str:
    return f"{size / (1 << 30):.4g} GiB"


def _short(amount: Fraction, digits: int = 2) -> str:
    """To so many digits, the zeros left out."""
    return f"{float(amount):,.{digits}f}".rstrip("0").rstrip(".")


# Reading.


def read(path: Path) -> Policy:
    """The policy in this file, or one that refuses nothing if there is none. Raises `Refused(BAD_FIELD)` by line."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(Refusal.BAD_FIELD, f"{path}: {error}") from None
    try:
        found = tomllib.loads(text, parse_float=str)
    except tomllib.TOMLDecodeError as error:
        raise Refused(Refusal.BAD_FIELD, f"{path}: {error}") from None
    lines = _lines(text)
    rules, windows, hours = dict[str, tuple[int, Any]](), list[Window](), found.pop("hours", None)
    for name, value in _flat(found):
        section, _, key = name.rpartition(".")
        kind = KINDS.get(section, {}).get(key)
        if kind is None:
            raise _bad(path, lines.get(name, 0), f"{name} is none of a policy's rules")
        rules[name] = lines.get(name, 0), _value(path, lines.get(name, 0), name, kind, value)
    if hours is not None:
        if not isinstance(hours, dict):
            raise _bad(path, lines.get("hours", 0), "hours are a section, [hours]")
        rules["hours"] = lines.get("hours", 0), None
        for days, given in hours.items():
            windows += _windows(path, lines.get(f"hours.{days}", 0), days, given)
    _, zone = rules.get("zone", (0, ZoneInfo("UTC")))
    asks = [name for name in rules if name.startswith("signal.")]
    sources = [name for name in asks if name in ("signal.file", "signal.url")]
    if asks and len(sources) != 1:
        raise _bad(path, rules[asks[-1]][0], "a signal has a file or a url, and not both")
    known, silent = _signal(path, sources[0], rules[sources[0]][1]) if sources else (Tariff(()), "")
    return Policy(path, zone, rules, tuple(windows), known, silent)


def _signal(path: Path, source: str, where: str) -> tuple[Tariff, str]:
    """(what the signal says, why it says nothing). Whoever asks is refused by its line, as by any rule."""
    file = path.parent / where if source == "signal.file" else tariff.kept_path(path.parent, where)
    try:
        return tariff.parse(file.read_bytes()), ""
    except FileNotFoundError:
        return Tariff(()), "there is no such file" if source == "signal.file" else "it was not fetched yet"
    except (OSError, ValueError) as error:
        return Tariff(()), f"{error}"


def _lines(text: str) -> dict[str, int]:
    """The line of each section and each `section.key`. A value that goes on over lines stands where it begins."""
    section, found = "", dict[str, int]()
    for number, line in enumerate(text.splitlines(), 1):
        if named := re.match(r"\s*\[\s*([A-Za-z_-]+)\s*\]", line):
            section = named[1]
            found[section] = number
        elif named := re.match(r"\s*[\"']?([A-Za-z0-9_-]+)[\"']?\s*=", line):
            found.setdefault(f"{section}.{named[1]}" if section else named[1], number)
    return found


def _flat(found: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in found.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", each) for key, each in value.items())
        else:
            yield name, value


def _value(path: Path, line: int, name: str, kind: str, value: object) -> Any:
    match kind:
        case "names" if isinstance(value, list) and all(isinstance(each, str) for each in value):
            return tuple(value)
        case "count" if type(value) is int and value > 0:
            return value
        case "number" | "share" if type(value) in (int, str) and NUMBER.fullmatch(str(value)):
            if kind == "number" or LEAST <= Fraction(str(value)) <= 1:
                return Fraction(str(value))
        case "text" if isinstance(value, str) and value:
            return value
        case "size" if isinstance(value, str) and (size := SIZE.fullmatch(value)) and int(size[1]) > 0:
            return int(size[1]) * UNITS[size[2]]
        case "flag" if isinstance(value, bool):
            return value
        case "url" if isinstance(value, str) and value.startswith("https://") and urllib.parse.urlsplit(value).hostname:
            return value
        case "zone" if isinstance(value, str):
            try:
                return ZoneInfo(value)
            except (ValueError, OSError, KeyError):
                raise _bad(path, line, f"no time zone is called {value[:80]}") from None
    asked = {
        "names": "a list of names",
        "url": "an address that begins with https://",
        "size": "a size, such as 8 GiB",
        "flag": "true or false",
        "count": "a whole number above 0",
        "number": "a number, such as 12.5",
        "share": f"a number from {float(LEAST)} to 1, such as 0.5",
    }
    raise _bad(path, line, f"{name} = {str(value)[:80]}; it is {asked.get(kind, 'a name')}")


def _windows(path: Path, line: int, days: str, given: object) -> Iterator[Window]:
    first, _, last = days.partition("-")
    if first not in DAYS or (last or first) not in DAYS:
        raise _bad(path, line, f"{days[:40]} is no day, such as mon, nor days, such as mon-fri")
    start = DAYS.index(first)
    count = (DAYS.index(last or first) - start) % 7 + 1
    for span in given if isinstance(given, list) else [given]:
        named = WINDOW.fullmatch(span) if isinstance(span, str) else None
        begin, end = (60 * int(named[1]) + int(named[2]), 60 * int(named[3]) + int(named[4])) if named else (0, 0)
        if begin >= DAY_MINUTES or end > DAY_MINUTES or begin == end:
            raise _bad(path, line, f"{days} = {str(span)[:40]}; it is from when to when, such as 20:00-06:00")
        for day in range(start, start + count):
            midnight = day % 7 * DAY_MINUTES
            yield Window(line, midnight + begin, midnight + end + (DAY_MINUTES if end < begin else 0))


def _bad(path: Path, line: int, why: str) -> Refused:
    return Refused(Refusal.BAD_FIELD, f"{path} line {line}: {why}")


# Pausing.


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """All training stops: with the round that runs, or in it."""

    reason: str
    now: bool


def pause(home: Path, reason: str, *, now: bool) -> None:
    """Let no round begin from now on; and end the one that runs, with `now`."""
    durable.write(home / "paused", json.dumps({"reason": reason, "now": now}).encode())


def resume(home: Path) -> bool:
    """Whether it had been paused."""
    there = (home / "paused").exists()
    (home / "paused").unlink(missing_ok=True)
    return there


def paused(home: Path) -> Pause | None:
    """The pause that is on. What is there and cannot be read is one, too."""
    try:
        found = json.loads((home / "paused").read_bytes())
        return Pause(reason=str(found["reason"]), now=bool(found["now"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        return Pause(reason="", now=False)
