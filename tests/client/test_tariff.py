"""What electricity costs by the hour, what a policy makes of it, off-peak, clean or cheapest, and what is no signal."""

import datetime
import http.server
import json
import ssl
import threading
import time
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parties import Parties, worked

from bench import offpeak
from client import policy, tariff
from client.tariff import Slot, Tariff
from consortium.cli import main
from shared_models.records.refusals import Refusal, Refused

BERLIN = policy.ZoneInfo("Europe/Berlin")
HOUR_MS = 3_600_000


def ms(text: str) -> int:
    return int(1000 * datetime.datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp())


WEDNESDAY = ms("2026-11-25T00:00")
NIGHT, DAY = ("0.12", 180), ("0.41", 420)


def signal(start_ms: int, *hours: tuple[str | None, int | None]) -> bytes:
    """One hour after another."""
    said = []
    for number, (kwh, carbon) in enumerate(hours):
        first, last = (
            datetime.datetime.fromtimestamp(start_ms / 1000 + 3600 * each, BERLIN).isoformat()
            for each in (number, number + 1)
        )
        numbers = {name: each for name, each in (("kwh", kwh), ("carbon", carbon)) if each is not None}
        said.append({"from": first, "to": last, **numbers})
    return json.dumps({"hours": said}).encode()


@pytest.fixture
def read(tmp_path):
    """A policy beside a signal for a Wednesday: dear and dirty from 6 to 22 o'clock."""
    (tmp_path / "prices.json").write_bytes(signal(WEDNESDAY, *([NIGHT] * 6 + [DAY] * 16 + [NIGHT] * 2)))

    def written(text: str) -> policy.Policy:
        path = tmp_path / "policy.toml"
        path.write_text(text)
        return policy.read(path)

    return written


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run's manifest, and a receipt of one device and half an hour from 5:45 on, half of it at night."""
    manifest, receipt = worked(tmp_path_factory.mktemp("done"))
    started = ms("2026-11-25T05:45")
    times = {"started_ms": started, "ended_ms": started + HOUR_MS // 2, "wall_ms": HOUR_MS // 2}
    return manifest, replace(receipt, devices=1, **times)


def why(found: policy.Policy, now_ms: int, *receipts) -> str:
    with pytest.raises(Refused) as caught:
        found.check_now(receipts, now_ms)
    assert caught.value.refusal is Refusal.POLICY
    return caught.value.detail


HEAD = 'zone = "Europe/Berlin"\n[signal]\nfile = "prices.json"\n'


@pytest.mark.parametrize(
    ("rules", "refused"),
    [
        ("", ""),
        ('kwh_below = "0.42"', ""),
        ('kwh_below = "0.41"', "line 4, signal.kwh_below = 0.41: 0.41 a kWh"),
        ("carbon_below = 421", ""),
        ("carbon_below = 420", "line 4, signal.carbon_below = 420: 420 g a kWh"),
        ("cheapest_hours = 9", ""),  # The first of the dear ones.
        ("cheapest_hours = 8", "line 4, signal.cheapest_hours = 8: 0.41 a kWh is not among them on Wed"),
    ],
)
def test_a_round_begins_in_hours_that_are_cheap_or_clean_enough(read, rules, refused):
    found = read(HEAD + rules)
    found.check_now([], WEDNESDAY)
    if refused:
        assert refused in why(found, ms("2026-11-25T06:00"))
        found.check_now([], ms("2026-11-25T05:59"))
        assert found.opens_ms([], ms("2026-11-25T06:00")) == ms("2026-11-25T22:00")
    else:
        found.check_now([], ms("2026-11-25T06:59"))


def test_what_the_signal_does_not_tell_refuses_by_its_line(read, tmp_path):
    found = read(HEAD)
    late = ms("2026-11-26T08:00")
    stale = "line 3, signal.file = prices.json: it says nothing of Thu 08:00 Europe/Berlin, and ends 26 Nov 00:00"
    assert stale in why(found, late)
    assert "it says nothing of Tue 23:59" in why(found, WEDNESDAY - 1)
    assert found.opens_ms([], WEDNESDAY - 1) == WEDNESDAY
    assert found.opens_ms([], late) is None
    file = tmp_path / "prices.json"
    file.write_bytes(signal(WEDNESDAY, ("0.1", None)))
    assert "line 4, signal.carbon_below = 9: no carbon" in why(read(HEAD + "carbon_below = 9"), WEDNESDAY)
    assert "the price is not known of all of Wed" in why(read(HEAD + "cheapest_hours = 1"), WEDNESDAY)
    file.write_bytes(signal(WEDNESDAY, (None, 100)))
    assert "line 4, signal.kwh_below = 9: no price" in why(read(HEAD + "kwh_below = 9"), WEDNESDAY)
    file.write_bytes(b"<html>")
    assert "line 3, signal.file = prices.json: it is no JSON" in why(read(HEAD), WEDNESDAY)
    file.unlink()
    assert "line 3, signal.file = prices.json: there is no such file" in why(read(HEAD), WEDNESDAY)
    web = read('[signal]\nurl = "https://prices.example/day?key=secret"\n')
    assert why(web, WEDNESDAY) == "policy.toml line 2, signal.url = prices.example: it was not fetched yet"
    tariff.keep(tariff.kept_path(tmp_path, web.url), tariff.parse(signal(WEDNESDAY, NIGHT)), WEDNESDAY)
    read('[signal]\nurl = "https://prices.example/day?key=secret"\n').check_now([], WEDNESDAY)


@pytest.mark.parametrize(
    ("rules", "refused"),
    [
        ("[signal]\nkwh_below = 1", "line 2: a signal has a file or a url, and not both"),
        ('[signal]\nfile = "a"\nurl = "https://b.example"', "line 3: a signal has a file or a url, and not both"),
        ('[signal]\nurl = "http://b.example"', "line 2: signal.url = http://b.example; it is an address that begins"),
        ('[signal]\nurl = "https://"', "line 2: signal.url = https://; it is an address"),
        ('[signal]\nfile = ""', "line 2: signal.file = ; it is a name"),
        ('[signal]\nfile = "a"\ncheapest_hours = 0', "line 3: signal.cheapest_hours = 0; it is a whole number above 0"),
        ('[signal]\nfile = "a"\nkwh_under = 1', "line 3: signal.kwh_under is none of a policy's rules"),
    ],
)
def test_what_is_no_rule_of_a_signal_refuses_everything_by_its_line(read, rules, refused):
    with pytest.raises(Refused) as caught:
        read(rules)
    assert (caught.value.refusal, refused in caught.value.detail) == (Refusal.BAD_FIELD, True), caught.value.detail


def test_money_is_by_the_price_of_the_hours_and_a_round_to_come_by_that_of_now(read, done):
    """A kWh an hour: a quarter of an hour at 0.12 and one at 0.41; the next one as it would be now."""
    manifest, receipt = done
    found = read(HEAD + '[price]\nwatts = 1000\nkwh = "9"\n[budget]\nmoney_a_day = 9\n')
    (_, told) = found.told([receipt], ms("2026-11-25T23:00"), manifest)
    assert told.says == "0.13 used this day, a round takes 0.06"
    assert found._spent(receipt).money == Fraction("0.12") / 4 + Fraction("0.41") / 4
    (_, told) = found.told([receipt], ms("2026-11-25T12:00"), manifest)
    assert told.says == "0.13 used this day, a round takes 0.2"
    before = replace(receipt, started_ms=WEDNESDAY - HOUR_MS // 4, ended_ms=WEDNESDAY + HOUR_MS // 4)
    assert found._spent(before).money == Fraction(9) / 4 + Fraction("0.12") / 4  # A quarter that no signal knows.


def test_who_waits_pays_less_and_is_later():
    """What docs/strategies.md says of it, by the figures."""
    found = offpeak.waiting()
    assert {round(found[f"{rule}_money"], 2) for rule in offpeak.RULES} == {0.5, 0.51, 0.55}
    assert {round(found[f"{rule}_time"], 1) for rule in offpeak.RULES} == {2.2, 2.8, 3.0}


def test_a_budget_that_is_used_opens_the_next_day_and_not_before(read, done):
    found = read(HEAD + '[budget]\nhours_a_day = "0.5"\n')
    noon = ms("2026-11-25T12:00")
    assert "0.5 used this day" in why(found, noon, done[1])
    assert found.opens_ms([done[1]], noon) is None  # The signal ends before.
    without = read('zone = "Europe/Berlin"\n[hours]\nmon-sun = "20:00-23:00"\n[budget]\nhours_a_day = "0.5"\n')
    assert without.opens_ms([done[1]], noon) == ms("2026-11-26T20:00")
    never = read("[budget]\nhours_a_day = 0\n")
    assert never.opens_ms([], noon) is None


def test_a_day_is_the_zone_s_also_when_it_has_25_hours(read, tmp_path):
    """On 25 October 2026 Berlin has 2 o'clock twice."""
    start = ms("2026-10-25T00:00")
    prices = [(f"0.{50 - number}", None) for number in range(25)]
    (tmp_path / "prices.json").write_bytes(signal(start, *prices[:24]))
    found = read(HEAD + "cheapest_hours = 1")
    assert "not known of all of Sun" in why(found, start)
    (tmp_path / "prices.json").write_bytes(signal(start, *prices))
    found = read(HEAD + "cheapest_hours = 1")
    assert "is not among them on Sun" in why(found, start + 24 * HOUR_MS - 1)
    found.check_now([], start + 24 * HOUR_MS)
    assert found.opens_ms([], start) == start + 24 * HOUR_MS == ms("2026-10-25T23:00")


def test_the_operator_is_told_when_it_opens(tmp_path, capsys):
    parties = Parties(tmp_path)
    parties.log.close()
    home, now = parties.founded.member("acme"), time.time_ns() // 1_000_000 // HOUR_MS * HOUR_MS
    (home.path / "prices.json").write_bytes(signal(now, DAY, DAY, DAY, NIGHT))
    home.policy_path.write_text(HEAD + 'kwh_below = "0.2"\n')
    assert main(["policy", "explain", "--home", str(home.path)]) == 1
    opens = datetime.datetime.fromtimestamp(now / 1000 + 3 * 3600, BERLIN)
    ends = datetime.datetime.fromtimestamp(now / 1000 + 3600, BERLIN)
    assert capsys.readouterr().out == (
        f"allows   line   3  signal.file = prices.json: 0.41 a kWh, 420 g a kWh until {ends:%H:%M} Europe/Berlin\n"
        "refuses  line   4  signal.kwh_below = 0.2: 0.41 a kWh\n"
        f"opens    {opens:%a %d %b %H:%M} Europe/Berlin, by what is known now\n"
    )
    assert main(["policy", "explain", "--home", str(home.path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["opens_ms"] == now + 3 * HOUR_MS


# The form.


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("[]", 'it is not {"hours"'),
        ('{"hours": {}}', 'it is not {"hours"'),
        ('{"hours": [], "zone": "UTC"}', 'it is not {"hours"'),
        ('{"hours": [1]}', "hour 1: it has from, to"),
        ('{"hours": [{"from": "A", "to": "B"}]}', "hour 1: it has from, to"),
        ('{"hours": [{"from": "A", "to": "B", "kwh": 1, "co2": 2}]}', "hour 1: it has from, to"),
        ('{"hours": [{"from": "A", "to": "B", "kwh": 1}]}', "hour 1: A is no time"),
        ('{"hours": [{"from": "2026-11-25T00:00:00", "to": "B", "kwh": 1}]}', "does not say how far it is from UTC"),
        ("[" * 100_000, "it is no JSON"),
        (" " * (tariff.MOST_BYTES + 1), "it has more than"),
    ],
)
def test_what_is_no_signal_is_refused(text, refused):
    with pytest.raises(ValueError, match=refused):
        tariff.parse(text.encode())


@pytest.mark.parametrize(
    ("hours", "refused"),
    [
        ([("00:00", "01:00", {"kwh": "0.1"}), ("00:59", "02:00", {"kwh": "0.1"})], "hour 2: it begins before"),
        ([("01:00", "02:00", {"kwh": "0.1"}), ("00:00", "01:00", {"kwh": "0.1"})], "hour 2: it begins before"),
        ([("01:00", "01:00", {"kwh": "0.1"})], "hour 1: it ends before it begins"),
        ([("01:00", "00:00", {"kwh": "0.1"})], "hour 1: it ends before it begins"),
        ([("01:00", "02:00", {"kwh": "0,1"})], "hour 1: 0,1 is no number"),
        ([("01:00", "02:00", {"kwh": True})], "hour 1: True is no number"),
        ([("01:00", "02:00", {"kwh": 1e300})], "is no number"),
        ([("01:00", "02:00", {"carbon": -1})], "hour 1: carbon is below 0"),
    ],
)
def test_hours_that_cannot_be_are_refused(hours, refused):
    said = [{"from": f"2026-11-25T{a}:00Z", "to": f"2026-11-25T{b}:00Z", **more} for a, b, more in hours]
    with pytest.raises(ValueError, match=refused):
        tariff.parse(json.dumps({"hours": said}).encode())
    long = [{"from": "2026-11-25T00:00:00Z", "to": "2026-11-26T00:00:01Z", "kwh": 1}]
    with pytest.raises(ValueError, match="longer than a day"):
        tariff.parse(json.dumps({"hours": long}).encode())


numbers = st.none() | st.integers(-(10**18) + 1, 10**18 - 1).map(lambda n: Fraction(n, 10**9))
spans = st.tuples(st.integers(0, 9), st.integers(1, 24), numbers, numbers.map(lambda n: n and abs(n)))


def laid_out(found) -> Tariff:
    slots, at = [], WEDNESDAY
    for gap, length, kwh, carbon in found:
        if (kwh, carbon) != (None, None):
            slots.append(Slot(at + gap * HOUR_MS, at + (gap + length) * HOUR_MS, kwh, carbon))
        at += (gap + length) * HOUR_MS
    return Tariff(tuple(slots))


@given(st.lists(spans, max_size=6))
def test_what_is_written_is_read_again_to_the_last_digit(found):
    assert tariff.parse(tariff.dump(laid_out(found))) == laid_out(found)


@given(st.lists(spans, max_size=6), st.integers(0, 150), st.integers(0, 60))
def test_a_price_over_some_hours_is_what_walking_through_them_comes_to(found, start, length):
    known, otherwise = laid_out(found), Fraction(7)
    begin = WEDNESDAY + start * HOUR_MS

    def walked(hour: int) -> Fraction:
        held = [s.kwh for s in known.slots if s.start_ms <= begin + hour * HOUR_MS < s.end_ms and s.kwh is not None]
        return held[0] if held else otherwise

    mean = sum((walked(hour) for hour in range(length)), Fraction(0)) / length if length else walked(0)
    assert known.mean_kwh(begin, begin + length * HOUR_MS, otherwise) == mean


@given(st.lists(st.integers(-5, 5), min_size=24, max_size=24), st.integers(1, 30))
def test_the_cheapest_hours_are_so_many_and_no_other_is_cheaper(prices, hours):
    known = Tariff(tuple(Slot(h * HOUR_MS, (h + 1) * HOUR_MS, Fraction(price), None) for h, price in enumerate(prices)))
    chosen = known.cheapest(0, 24 * HOUR_MS, hours)
    assert len(chosen) == min(hours, 24)
    left = [each.kwh for each in known.slots if each not in chosen]
    assert not left or max(each.kwh for each in chosen) <= min(left)


# Fetching.


class Publisher(http.server.BaseHTTPRequestHandler):
    """Answers as its server's `say` does: (status, headers, what it sends, seconds between two bytes).

    Without a status it sends nothing else.
    """

    def do_GET(self) -> None:
        status, headers, body, wait_s = self.server.say(self.path)
        if not status:
            self.wfile.write(body)
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for at in range(0, len(body), 1 if wait_s else len(body)):
            time.sleep(wait_s)
            try:
                self.wfile.write(body[at : at + 1] if wait_s else body)
            except OSError:
                return

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A publisher with the certificate that a consortium's coordinator has, and this machine trusts its authority."""
    parties = Parties(tmp_path)
    parties.log.close()
    tls = parties.founded.coordinator.path / "tls"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls / "server.crt", tls / "server.key")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Publisher)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(parties.founded.member("acme").path / "ca.crt"))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.url = f"https://127.0.0.1:{server.server_address[1]}/day"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_signal_is_fetched_and_nothing_else_is_taken_for_one(published):
    data = signal(WEDNESDAY, NIGHT, DAY)
    published.say = lambda _: (200, {}, data, 0)
    assert tariff.fetch(published.url) == tariff.parse(data)
    for answer, refused in (
        ((404, {}, b"", 0), "404"),
        ((302, {"Location": published.url}, b"", 0), "302"),
        ((0, {}, b"good day\r\n\r\n", 0), "it is no HTTP: BadStatusLine"),
        ((200, {}, b"<html>", 0), "no JSON"),
        ((200, {}, b" " * (tariff.MOST_BYTES + 1), 0), "it has more than"),
        ((200, {}, b" " * 1_000, 0.05), "it did not answer in 0.3 s"),
    ):
        published.say = lambda _, answer=answer: answer
        with pytest.raises((OSError, ValueError), match=refused):
            tariff.fetch(published.url, wait_s=0.3)


def test_a_publisher_whom_nobody_vouches_for_is_not_believed(published, monkeypatch, tmp_path):
    published.say = lambda _: (200, {}, signal(WEDNESDAY, NIGHT), 0)
    (tmp_path / "none").write_text("")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        tariff.fetch(published.url)


def test_what_was_fetched_of_earlier_hours_is_kept_for_a_month_s_budget(tmp_path):
    path = tmp_path / "signal.json"
    tariff.keep(path, tariff.parse(signal(WEDNESDAY, NIGHT, NIGHT, DAY)), WEDNESDAY)
    tariff.keep(path, tariff.parse(signal(WEDNESDAY + HOUR_MS, DAY, DAY)), WEDNESDAY)
    assert [each.kwh for each in tariff.parse(path.read_bytes()).slots] == [
        Fraction(n) for n in ("0.12", "0.41", "0.41")
    ]
    path.write_text("{")
    tariff.keep(path, tariff.parse(signal(WEDNESDAY, DAY)), WEDNESDAY)
    later = WEDNESDAY + tariff.KEPT_MS + 2 * HOUR_MS
    tariff.keep(path, tariff.parse(signal(later, NIGHT)), later)
    assert [each.kwh for each in tariff.parse(path.read_bytes()).slots] == [Fraction("0.12")]


def test_the_daemon_fetches_in_the_background_and_says_what_came_of_it(published, tmp_path, monkeypatch):
    """A publisher that does not answer holds nothing up; what was fetched before stays; the next try mends it."""
    monkeypatch.setattr(tariff, "AGAIN_S", 0.0)
    release, said, url = threading.Event(), [], [None]

    def slow(_):
        release.wait(20)
        return 200, {}, signal(WEDNESDAY, NIGHT), 0

    fetcher = tariff.Fetcher(tmp_path, lambda: url[0], said.append)

    def visit() -> None:
        fetcher.visit()
        fetcher._thread.join(20)

    visit()
    assert said == []  # Nobody has asked for a signal.
    published.say, url[0] = slow, published.url
    began = time.monotonic()
    fetcher.visit()
    fetcher.visit()
    assert time.monotonic() - began < 15  # It would be 20.
    release.set()
    fetcher._thread.join(20)
    kept = tariff.kept_path(tmp_path, published.url)
    assert (said, len(tariff.parse(kept.read_bytes()).slots)) == ([""], 1)
    asked = []
    published.say = lambda path: asked.append(path) or (500, {}, b"", 0)
    visit()
    assert asked == []  # Not before FETCH_S.
    monkeypatch.setattr(fetcher, "_again", 0.0)
    visit()
    assert (asked, said[-1]) == (["/day"], "127.0.0.1: HTTP Error 500: Internal Server Error")
    assert len(tariff.parse(kept.read_bytes()).slots) == 1
