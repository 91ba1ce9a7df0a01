"""Entering a cost: the payer signs it, the invoice stays, and the ledger's word is not enough."""

import hashlib
import json
import threading
from dataclasses import replace
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from client.cost import Cost, append
from client.home import Home
from consortium.cli import main
from consortium.found import PRICE, found
from ledger.api import serving
from shared_models.ledger_http import LedgerHttp
from shared_models.processes import free_port
from shared_models.records import entry as entries
from shared_models.records import tlog
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.currency import amount, spelled


@pytest.fixture
def founded(tmp_path):
    return found(
        tmp_path / "parties",
        {"acme": 1, "birch": 1},
        ledger_url=f"http://127.0.0.1:{free_port()}",
        superlink="127.0.0.1:0",
        price=PRICE,
    )


@pytest.fixture
def invoice(tmp_path):
    path = tmp_path / "invoice.txt"
    path.write_text("12.00 EUR")
    return path


def cost(item: str = "hosting", **changes: str) -> Cost:
    said = {"pot": "services", "period": "2026-11", "category": "network", "amount": "12"}
    return Cost(item=item, **{**said, "currency": "EUR", "date": "2026-11-05", **changes})


def port(founded) -> int:
    return int(founded.member("acme").settings.ledger.rpartition(":")[2])


def test_a_cost_item_is_logged_with_a_commitment_that_its_payer_can_open(founded, invoice):
    home = founded.member("birch").path
    with serving(founded.ledger, port(founded)) as ledger:
        ledger.append(founded.charter)
        assert append(home, cost(), invoice.read_bytes()) == 1
        assert append(home, cost("mail", amount="0.5"), invoice.read_bytes()) == 2
        bundle = ledger.read("tile/entries/000.p/3")
    first, second = (entries.peek(leaf) for leaf in tlog.unpack(bundle)[1:])
    assert (first.payer, first.amount, first.seq, second.amount, second.seq) == ("birch", "12", 0, "0.5", 1)
    assert (second.currency, second.period, second.category, second.date) == ("EUR", "2026-11", "network", "2026-11-05")
    salt = (home / "evidence" / f"{first.evidence}.salt").read_bytes()
    assert hashlib.sha256(salt + invoice.read_bytes()).hexdigest() == first.evidence != second.evidence
    assert b"12.00 EUR" not in bundle


def test_an_item_the_charter_does_not_know_is_refused_by_the_ledger_and_may_be_put_right(founded, invoice):
    home = founded.member("birch").path
    with serving(founded.ledger, port(founded)) as ledger:
        ledger.append(founded.charter)
        with pytest.raises(Refused) as caught:
            append(home, cost(pot="compute"), invoice.read_bytes())
        assert caught.value.refusal is Refusal.WRONG_ITEM
        assert append(home, cost(), invoice.read_bytes()) == 1


def test_the_same_cost_again_is_the_same_entry_and_another_under_its_name_is_refused(founded, invoice):
    home, evidence = founded.member("birch").path, invoice.read_bytes()
    with serving(founded.ledger, port(founded)) as ledger:
        ledger.append(founded.charter)
        assert append(home, cost(), evidence) == 1
        assert append(home, cost("mail"), evidence) == 2
        assert append(home, cost(), evidence) == 1
        for other, its_invoice in ((cost(amount="13"), evidence), (cost(), b"another")):
            with pytest.raises(Refused) as caught:
                append(home, other, its_invoice)
            assert caught.value.refusal is Refusal.CONFLICT
        assert ledger.last("birch/admin")[2] == 2
        assert ledger.last(f"{founded_origin(founded)}/log") is None  # There is no evidence of two texts.


class Deaf(LedgerHttp):
    """A connection that breaks before the answer comes."""

    def append(self, leaf: bytes) -> tlog.Proof:
        super().append(leaf)
        raise Refused(Refusal.UNREACHABLE, "the connection broke")


def test_what_arrived_without_an_answer_is_sent_again_as_it_was(founded, invoice, monkeypatch):
    home, evidence = founded.member("birch").path, invoice.read_bytes()
    with serving(founded.ledger, port(founded)) as ledger:
        ledger.append(founded.charter)
        monkeypatch.setattr("client.home.LedgerHttp", Deaf)
        with pytest.raises(Refused, match="unreachable"):
            append(home, cost(), evidence)
        monkeypatch.undo()
        assert append(home, cost("mail"), evidence) == 2
        assert append(home, cost(), evidence) == 1


def test_what_was_signed_and_never_sent_is_signed_anew_behind_what_came_since(founded, invoice):
    home, evidence = founded.member("birch").path, invoice.read_bytes()
    with serving(founded.ledger, port(founded)) as ledger:
        ledger.append(founded.charter)
        assert append(home, cost("mail"), evidence) == 1
        note = home / "evidence" / "hosting.note"  # As a crash would leave it: for the place that `mail` has taken.
        said = entries.peek((home / "evidence" / "mail.note").read_bytes())
        note.write_bytes(entries.sign(replace(said, item="hosting"), founded_origin(founded), [admin(home)]))
        assert append(home, cost(), evidence) == 2
        assert entries.peek(note.read_bytes()).seq == 1


def founded_origin(founded) -> str:
    return founded.member("birch").charter.consortium


def admin(home):
    return Home(home).key("admin")


def test_an_amount_has_one_spelling_and_loses_no_digit():
    for text, said in (("12.00", "12"), ("0.10", "0.1"), ("007.5", "7.5"), ("0.000000000001", "0.000000000001")):
        assert amount(text) == said
    for text in ("", "1e5", "1,000", "+1", "-1", "1.", ".5", "١٢", "nan", "1" * 19, "0.0000000000001"):
        with pytest.raises(Refused) as caught:
            amount(text)
        assert caught.value.refusal is Refusal.BAD_FIELD
    with pytest.raises(Refused, match="a third is of more digits"):
        spelled(Fraction(1, 3), "a third")


def test_one_cost_is_named_in_full_or_a_bill_by_its_file(founded, invoice, capsys):
    home = founded.member("birch").path
    common = ["cost", "--home", str(home), "--pot", "services", "--period", "2026-11"]
    whole = ["--item", "hosting", "--amount", "12.00", "--date", "2026-11-05", "--invoice", str(invoice)]
    for words, said in (
        (whole[2:], "name --item"),
        (whole[:-2], "name --item"),
        ([*whole, "--focus", str(invoice)], "with --focus"),
        (["--focus", str(invoice), "--currency", "EUR"], "with --focus"),
    ):
        assert main([*common, *words]) == 2
        assert f"error bad_field: {said}" in capsys.readouterr().err
    assert main([*common, *whole, "--dry-run"]) == 0
    assert capsys.readouterr().out == "cost item hosting, 12 EUR for other\n"
    assert not (home / "evidence").exists()


def test_a_ledger_that_only_says_it_has_logged_it_is_not_believed(founded, invoice):
    """It answers with a proof that is in order, of another entry."""
    with serving(founded.ledger, port(founded)) as ledger:
        proof = ledger.append(founded.charter).data()

    class Liar(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(404, json.dumps({"code": "not_found", "detail": "x"}).encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(201, proof)

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", port(founded)), Liar)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(Refused) as caught:
            append(founded.member("birch").path, cost(), invoice.read_bytes())
    finally:
        server.shutdown()
        server.server_close()
    assert caught.value.refusal is Refusal.BAD_PROOF
