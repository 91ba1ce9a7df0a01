"""A member quotes: the amount stays at home until it is opened, and what is lost or said twice is refused there."""

from fractions import Fraction

import pytest

from client.cost import Cost, append
from client.quotes import seal, unseal
from consortium.cli import main
from consortium.found import PRICE, found
from ledger.api import serving
from ledger.billing import price
from shared_models.ledger_http import LedgerHttp
from shared_models.processes import free_port
from shared_models.records import canonical, tlog
from shared_models.records import entry as entries
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import QuoteOpen
from shared_models.records.refusals import Refusal, Refused

PERIOD = "2026-12"


@pytest.fixture
def parties(tmp_path):
    """A consortium of two, its ledger serving: (what was founded, its ledger)."""
    port = free_port()
    founded = found(
        tmp_path / "parties",
        {"acme": 1, "birch": 1},
        ledger_url=f"http://127.0.0.1:{port}",
        superlink="127.0.0.1:0",
        price=PRICE,
    )
    with serving(founded.ledger, port) as ledger:
        ledger.append(founded.charter)
        yield founded, ledger


def logged(ledger) -> list:
    size = tlog.unsigned(ledger.read(tlog.HEAD)).size
    return [entries.peek(leaf) for leaf in tlog.unpack(ledger.read(f"tile/entries/000.p/{size}"))]


def refused(act, *arguments) -> Refusal:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value.refusal


def test_the_amount_lies_at_home_and_nowhere_else_until_it_is_opened(parties):
    founded, ledger = parties
    home = founded.member("acme").path
    assert seal(home, "alone", PERIOD, "1200.50", ["birch"]) == 1
    sealed = logged(ledger)[-1]
    (kept,) = (home / "quotes").iterdir()
    assert (kept.name, kept.stat().st_mode & 0o777) == (f"{sealed.seal}.json", 0o600)
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    opening = canonical.decode(QuoteOpen, kept.read_bytes())
    assert (opening.amount, opening.members) == ("1200.5", ("acme", "birch"))
    assert unseal(home, "alone", PERIOD, ["birch"]) == 2
    said = logged(ledger)[-1]
    assert (said.amount, said.salt) == ("1200.5", opening.salt)


def test_what_was_said_is_not_said_again(parties):
    """Twice in other words would be an equivocation: it is refused before it is signed."""
    founded, ledger = parties
    home = founded.member("acme").path
    seal(home, "alone", PERIOD, "3")
    assert refused(seal, home, "alone", PERIOD, "4") is Refusal.CONFLICT
    unseal(home, "alone", PERIOD)
    assert refused(unseal, home, "alone", PERIOD) is Refusal.CONFLICT
    assert len(logged(ledger)) == 3
    assert len(list((home / "quotes").iterdir())) == 1


def test_a_quote_that_was_opened_too_early_can_be_opened_later(parties):
    """Nor is it sent and refused, for then the ledger would know it: it is refused before it is signed."""
    founded, _ = parties
    home = founded.member("acme").path
    seal(home, "price", PERIOD, "3")
    key = (home / "keys" / "admin.key").rename(home / "keys" / "away.key")
    assert refused(unseal, home, "price", PERIOD) is Refusal.TOO_EARLY
    key.rename(home / "keys" / "admin.key")
    seal(founded.member("birch").path, "price", PERIOD, "2")
    assert unseal(home, "price", PERIOD) == 3


def test_what_the_ledger_would_refuse_is_not_even_kept(parties):
    founded, ledger = parties
    home = founded.member("acme").path
    assert refused(seal, home, "alone", PERIOD, "3", ["dane"]) is Refusal.WRONG_MEMBER
    assert refused(seal, home, "alone", PERIOD, "-3") is Refusal.BAD_FIELD
    assert not (home / "quotes").exists()
    assert len(logged(ledger)) == 1


def test_nothing_is_opened_that_was_not_sealed_or_is_lost(parties):
    founded, _ = parties
    home = founded.member("acme").path
    assert refused(unseal, home, "alone", PERIOD) is Refusal.NOT_FOUND
    seal(home, "alone", PERIOD, "3")
    (kept,) = (home / "quotes").iterdir()
    other = canonical.decode(QuoteOpen, kept.read_bytes())
    kept.unlink()
    assert refused(unseal, home, "alone", PERIOD) is Refusal.NOT_SET_UP
    kept.write_bytes(
        canonical.encode(QuoteOpen(**{name: getattr(other, name) for name in QuoteOpen.__slots__} | {"amount": "4"}))
    )
    assert refused(unseal, home, "alone", PERIOD) is Refusal.WRONG_SEAL


def test_on_a_log_that_is_not_right_nothing_is_quoted(parties, tmp_path):
    founded, _ = parties
    home = founded.member("acme").path
    other = found(tmp_path / "other", {"acme": 1}, ledger_url="", superlink="127.0.0.1:0", price=PRICE)
    (home / "charter.note").write_bytes(other.charter)
    assert refused(seal, home, "alone", PERIOD, "3") is Refusal.NO_CHARTER
    assert not (home / "quotes").exists()


def test_a_price_from_two_sealed_quotes(parties, capsys):
    founded, ledger = parties
    key = ("--key", str(founded.admin_key), "--charter", entries.open_charter(founded.charter).hash.hex())
    words = ("price", PERIOD, "--ledger", ledger.url, *key)

    def run(*words) -> tuple[int, str, str]:
        code = main([*map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    for member, amount in (("acme", "3.00"), ("birch", "2.01")):
        home = founded.member(member).path
        code, out, _ = run("quote", "seal", PERIOD, "--home", home, "--about", "price", "--amount", amount)
        assert (code, f"quote open {PERIOD} --about price --home {home}\n" in out) == (0, True)
    code, _, err = run(*words)
    assert (code, "wrong_price" in err) == (2, True)
    for number, member in enumerate(("acme", "birch")):
        home = founded.member(member).path
        assert run("quote", "open", PERIOD, "--home", home, "--about", "price") == (
            0,
            f"open: entry {3 + number}\n",
            "",
        )
        if number == 0:
            assert "wrong_price" in run(*words)[2]
    assert run(*words) == (0, f"an NCU is worth 501/2 minor units in {PERIOD}, by 2 quotes: entry 5\n", "")
    assert (logged(ledger)[-1].price, logged(ledger)[-1].quotes) == (Fraction(501, 2), ("acme", "birch"))


class Deaf(LedgerHttp):
    """A ledger to which nothing is to be sent."""

    def append(self, leaf: bytes) -> tlog.Proof:
        raise AssertionError(f"it was sent: {leaf!r}")


def test_a_price_that_comes_too_late_is_refused_before_it_is_sent(parties):
    founded, ledger = parties
    for member in ("acme", "birch"):
        seal(founded.member(member).path, "price", PERIOD, "3")
    for member in ("acme", "birch"):
        unseal(founded.member(member).path, "price", PERIOD)
    said = Cost(
        item="hosting", pot="services", period=PERIOD, category="network", amount="9", currency="EUR", date="2026-12-05"
    )
    append(founded.member("acme").path, said, b"an invoice")
    key, charter = SigningKey.load(founded.admin_key), entries.open_charter(founded.charter).hash.hex()
    assert refused(price, Deaf(ledger.url), PERIOD, key, charter) is Refusal.AFTER_THE_FACT
