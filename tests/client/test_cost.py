"""Entering a cost: the payer signs it, the invoice stays, and the ledger's word is not enough."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from client.cost import append
from consortium.found import PRICE, found
from ledger.api import serving
from shared_models.processes import free_port
from shared_models.records import entry as entries
from shared_models.records import tlog
from shared_models.records.refusals import Refusal, Refused


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


def port(founded) -> int:
    return int(founded.member("acme").settings.ledger.rpartition(":")[2])


def test_a_cost_item_is_logged_with_a_commitment_that_its_payer_can_open(founded, invoice):
    home = founded.member("birch").path
    with serving(founded.ledger, port(founded)) as ledger:
        ledger.append(founded.charter)
        assert append(home, "hosting", "services", "12.00", invoice) == 1
        assert append(home, "mail", "services", "0.50", invoice) == 2
        bundle = ledger.read("tile/entries/000.p/3")
    first, second = (entries.peek(leaf) for leaf in tlog.unpack(bundle)[1:])
    assert (first.payer, first.amount, first.seq, second.amount, second.seq) == ("birch", 1200, 0, 50, 1)
    salt = (home / "evidence" / f"{first.evidence}.salt").read_bytes()
    assert hashlib.sha256(salt + invoice.read_bytes()).hexdigest() == first.evidence != second.evidence
    assert b"12.00 EUR" not in bundle


def test_an_item_the_charter_does_not_know_is_refused_by_the_ledger(founded, invoice):
    with serving(founded.ledger, port(founded)) as ledger:
        ledger.append(founded.charter)
        with pytest.raises(Refused) as caught:
            append(founded.member("birch").path, "hosting", "compute", "12.00", invoice)
    assert caught.value.refusal is Refusal.WRONG_ITEM


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
            append(founded.member("birch").path, "hosting", "services", "12.00", invoice)
    finally:
        server.shutdown()
        server.server_close()
    assert caught.value.refusal is Refusal.BAD_PROOF
