"""Rates, usage, credit notes, disputes and rulings by command: what would be refused is not even signed."""

import pytest

from consortium.cli import main
from consortium.found import PRICE, found
from ledger.api import serving
from ledger.billing import close, quantities
from shared_models.ledger_http import LedgerHttp
from shared_models.processes import free_port
from shared_models.records import entry as entries
from shared_models.records import tlog
from shared_models.records.keys import SigningKey
from shared_models.records.refusals import Refusal, Refused

PERIOD, NEXT = "2026-11", "2026-12"


class Parties:
    """A consortium of three, its ledger serving. Commands give (exit code, what was printed, what was complained)."""

    def __init__(self, founded, url, capsys):
        self.founded, self.url, self._capsys = founded, url, capsys
        self.hash = entries.open_charter(founded.charter).hash.hex()

    def run(self, *words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        return code, *self._capsys.readouterr()

    def member(self, name: str, verb: str, *words: object) -> tuple[int, str, str]:
        return self.run(verb, "--home", self.founded.folder / name, *words)

    def admin(self, verb: str, *words: object) -> tuple[int, str, str]:
        key = self.founded.admin_key
        return self.run(verb, "--ledger", self.url, "--key", key, "--charter", self.hash, *words)

    def close(self, period: str) -> None:
        close(LedgerHttp(self.url), period, SigningKey.load(self.founded.admin_key), self.hash, wait_s=0)

    def logged(self) -> list:
        ledger = LedgerHttp(self.url)
        size = tlog.unsigned(ledger.read(tlog.HEAD)).size
        return [entries.peek(leaf) for leaf in tlog.unpack(ledger.read(f"tile/entries/000.p/{size}"))]

    def entered(self, payer: str, amount: str = "9", item: str = "hosting", currency: str = "EUR", period=PERIOD):
        invoice = self.founded.folder / "invoice"
        invoice.write_text("an invoice")
        said = {"pot": "services", "item": item, "amount": amount, "currency": currency, "date": "2026-11-05"}
        words = [word for name, value in said.items() for word in (f"--{name}", value)]
        return self.member(payer, "cost", *words, "--period", period, "--invoice", invoice)


@pytest.fixture
def parties(tmp_path, capsys):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    members = {"acme": 2, "birch": 1, "cedar": 1}
    founded = found(tmp_path / "p", members, ledger_url=url, superlink="127.0.0.1:0", price=PRICE, quorum=0)
    with serving(founded.ledger, port) as ledger:
        ledger.append(founded.charter)
        yield Parties(founded, url, capsys)


def metered(parties: Parties, folder) -> int:
    """Agree that services are divided by usage, from now on; how many entries the log has then."""
    (folder / "metered.toml").write_text('[pots.services]\ndriver = "usage"\n')
    out = parties.run("charter", "propose", "--home", parties.founded.folder / "acme", folder / "metered.toml")[1]
    for name in ("acme", "birch"):
        home = parties.founded.folder / name
        assert parties.run("charter", "vote", "--home", home, out.splitlines()[1].split()[1], "yes")[0] == 0
    parties.close("2026-10")
    return len(parties.logged())


def test_a_rate_is_entered_once_and_an_invoice_of_that_day_is_taken(parties):
    assert "no_rate" in parties.entered("acme", currency="USD")[2]
    told = parties.admin("rate", "USD", "2026-11-05", "9/10", "--source", "ECB")
    assert told == (0, "1 USD is worth 9/10 on 2026-11-05: entry 1\n", "")
    assert parties.entered("acme", currency="USD")[0] == 0
    code, _, err = parties.admin("rate", "USD", "2026-11-05", "0.9", "--source", "another")
    assert (code, "conflict" in err) == (2, True)
    assert [each.kind for each in parties.logged()] == ["charter", "rate", "cost.item"]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("EUR", "2026-11-05", "1"), "bad_field"),
        (("USD", "2026-11-05", "0"), "bad_field"),
        (("USD", "2026-11-05", "1e3"), "bad_field"),
        (("USD", "2026-11-05", "1/0"), "bad_field"),
        (("USD", "yesterday", "1"), "bad_field"),
        (("XXX", "2026-11-05", "1"), "unknown_currency"),
    ],
)
def test_what_is_no_rate_is_refused(parties, words, name):
    code, _, err = parties.admin("rate", *words, "--source", "ECB")
    assert (code, name in err) == (2, True)
    assert len(parties.logged()) == 1


def test_usage_comes_as_a_file_or_one_by_one_and_the_same_again_is_entered_once(parties, tmp_path):
    rows, source = tmp_path / "usage.csv", ("--source", "GB-days")
    rows.write_text("member,quantity\nacme,12.50\nbirch,3\n")
    code, _, err = parties.admin("usage", "services", PERIOD, rows, *source)
    assert (code, err.startswith("error wrong_item: services is not metered"), len(parties.logged())) == (2, True, 1)
    first = metered(parties, tmp_path)
    code, out, _ = parties.admin("usage", "services", PERIOD, rows, *source)
    assert (code, out.splitlines()) == (
        0,
        [
            f"acme has used 12.5 of services in 2026-11: entry {first}",
            f"birch has used 3 of services in 2026-11: entry {first + 1}",
        ],
    )
    rows.write_text("acme,12.5\nbirch,3\ncedar,0\n")
    out = parties.admin("usage", "services", PERIOD, rows, *source)[1]
    assert [line.partition(": ")[2] for line in out.splitlines()] == ["in the log before"] * 2 + [f"entry {first + 2}"]
    one = ("--member", "acme", "--quantity")
    code, _, err = parties.admin("usage", "services", PERIOD, *one, "13", *source)
    assert (code, "conflict" in err) == (2, True)
    assert parties.admin("usage", "services", NEXT, *one, "13", *source)[0] == 0
    assert [each.quantity for each in parties.logged()[first:]] == ["12.5", "3", "0", "13"]
    rows.write_text("acme,12.5\nbirch,4\n")
    out = parties.admin("usage", "services", PERIOD, rows, *source, "--correct")[1]
    assert [line.partition(": ")[2] for line in out.splitlines()] == ["in the log before", f"entry {first + 4}"]
    parties.close(PERIOD)
    assert "error closed" in parties.admin("usage", "services", PERIOD, *one, "9", *source, "--correct")[2]


def test_a_wrong_rate_is_corrected_until_something_was_billed_by_it(parties):
    said = ("USD", "2026-11-05")
    assert "not_found" in parties.admin("rate", *said, "9", "--source", "ECB", "--correct")[2]
    parties.admin("rate", *said, "9", "--source", "ECB")
    assert parties.entered("acme", currency="USD")[0] == 0
    assert "conflict" in parties.admin("rate", *said, "9", "--source", "ECB", "--correct")[2]
    code, out, _ = parties.admin("rate", *said, "0.9", "--source", "ECB", "--correct")
    assert (code, out) == (0, "1 USD is worth 9/10 on 2026-11-05: entry 3\n")
    parties.close(PERIOD)
    code, out, _ = parties.run("bill", parties.url, "--explain", "acme/services")
    assert (code, "8.10 for hosting, 9 USD x 9/10 EUR" in out) == (0, True)
    assert "error closed" in parties.admin("rate", *said, "0.8", "--source", "ECB", "--correct")[2]


def test_of_a_file_with_one_wrong_row_nothing_is_entered(parties, tmp_path):
    rows, first = tmp_path / "usage.csv", metered(parties, tmp_path)
    for text, name in (
        ("acme,1\nnobody,2\n", "wrong_member"),
        ("acme,1\nacme,2\n", "bad_field"),
        ("acme,1\nbirch,2,3\n", "bad_field"),
        ("acme,-1\n", "bad_field"),
        ("member,quantity\n", "bad_field"),
    ):
        rows.write_text(text)
        code, _, err = parties.admin("usage", "services", PERIOD, rows, "--source", "GB")
        assert (code, name in err) == (2, True), text
    assert "not_found" in parties.admin("usage", "services", PERIOD, tmp_path / "none", "--source", "GB")[2]
    rows.write_bytes(b"\xff")
    assert "not_found" in parties.admin("usage", "services", PERIOD, rows, "--source", "GB")[2]
    for words in ((), (rows, "--member", "acme", "--quantity", "1"), ("--member", "acme"), (rows, "--quantity", "1")):
        assert "bad_field" in parties.admin("usage", "services", PERIOD, *words, "--source", "GB")[2], words
    assert "wrong_item" in parties.admin("usage", "x", PERIOD, "--member", "acme", "--quantity", "1", "--source", "")[2]
    assert len(parties.logged()) == first


def test_quantities_are_spelled_as_records_have_them():
    assert quantities("member,quantity\n\nacme,007.50\nbirch,0\n") == {"acme": "7.5", "birch": "0"}
    with pytest.raises(Refused) as caught:
        quantities("acme,1 000\n")
    assert caught.value.refusal is Refusal.BAD_FIELD


def test_a_credit_note_gives_back_of_one_s_own_item_and_is_signed_once(parties):
    parties.entered("birch")
    words = ("--item", "hosting", "--amount", "4.00", "--period", PERIOD, "--reason", "a refund")
    assert parties.member("birch", "credit", *words) == (0, "credit note for hosting: entry 2\n", "")
    note = parties.logged()[-1]
    assert (note.amount, note.payer, note.reason, note.note.startswith("credit-")) == ("4", "birch", "a refund", True)
    assert "conflict" in parties.member("birch", "credit", *words)[2]
    assert "wrong_item" in parties.member("birch", "credit", *words[:3], "5.01", *words[4:])[2]
    assert "wrong_item" in parties.member("acme", "credit", *words)[2]
    assert "bad_field" in parties.member("birch", "credit", *words[:3], "-1", *words[4:])[2]
    parties.close(PERIOD)
    assert "closed" in parties.member("birch", "credit", *words[:3], "1", *words[4:])[2]
    assert [each.kind for each in parties.logged()] == ["charter", "cost.item", "credit.note", "statement"]


def test_what_is_disputed_is_ruled_on_by_most_members_and_then_it_is_taken_back(parties):
    parties.entered("acme")
    parties.close(PERIOD)
    about, why = "item/acme/hosting", ("--reason", "never agreed")
    assert "wrong_dispute" in parties.member("birch", "rule", about, "void", *why)[2]
    assert parties.member("birch", "dispute", about, *why) == (0, f"{about} is in dispute: entry 3\n", "")
    assert "conflict" in parties.member("birch", "dispute", about, *why)[2]
    assert parties.member("cedar", "dispute", about, *why)[0] == 0
    code, out, _ = parties.member("birch", "rule", about, "void", *why)
    assert (code, out) == (0, f"{about} is void, by 1 of 3 members, birch: entry 5\nit takes 2 who say so\n")
    assert "conflict" in parties.member("birch", "rule", about, "stands", *why)[2]
    code, out, _ = parties.member("acme", "rule", about, "stands", *why)
    assert (code, out) == (0, f"{about} stands, by 1 of 3 members, acme: entry 6\nit takes 2 who say so\n")
    code, out, _ = parties.member("cedar", "rule", about, "void", *why)
    assert (code, out) == (0, f"{about} is void, by 2 of 3 members, birch, cedar: entry 7\nso it is ruled\n")
    assert parties.logged()[-1].dispute == parties.logged()[-2].dispute
    assert "wrong_dispute" in parties.member("acme", "dispute", about, *why)[2]
    parties.close(NEXT)
    back = {(each.pot, each.member): each.credit for each in parties.logged()[-1].lines}
    assert back["services", "acme"] == -900


def test_what_the_log_does_not_hold_is_not_disputed_and_no_key_is_used(parties):
    about, why = "item/acme/nothing", ("--reason", "x")
    parties.entered("acme")
    key = parties.founded.folder / "birch" / "keys" / "admin.key"
    away = key.rename(key.with_name("away.key"))
    assert "wrong_dispute" in parties.member("birch", "dispute", about, *why)[2]
    assert "wrong_dispute" in parties.member("birch", "rule", about, "void", *why)[2]
    words = ("--item", "nothing", "--amount", "1", "--period", PERIOD, *why)
    assert "wrong_item" in parties.member("birch", "credit", *words)[2]
    away.rename(key)
    assert "bad_field" in parties.member("birch", "dispute", "item/acme/hosting", "--reason", "two\nlines")[2]
    assert [each.kind for each in parties.logged()] == ["charter", "cost.item"]
