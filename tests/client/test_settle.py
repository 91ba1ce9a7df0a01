"""Members settle a statement by their commands: each says what it paid and got, and of whom nothing comes."""

import json
from contextlib import contextmanager

import pytest

from consortium.cli import main
from consortium.found import PRICE, found
from ledger.api import serving
from ledger.billing import close
from shared_models.ledger_http import LedgerHttp
from shared_models.processes import free_port
from shared_models.records import entry as entries
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import FIRST, CostItem

PERIOD = "2026-11"


@pytest.fixture
def founded(tmp_path):
    return found(
        tmp_path / "parties",
        {"acme": 2, "birch": 1, "cedar": 1},
        ledger_url=f"http://127.0.0.1:{free_port()}",
        superlink="127.0.0.1:0",
        price=PRICE,
        quorum=0,
    )


@pytest.fixture
def run(founded, capsys):
    """Run a member's command: (exit code, what it printed, what it complained)."""

    def command(member: str, verb: str, *words: str) -> tuple[int, str, str]:
        code = main([verb, "--home", str(founded.folder / member), PERIOD, *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


@contextmanager
def billed(founded):
    """birch has paid 9.00 for all, in equal parts."""
    home = founded.member("birch")
    with serving(founded.ledger, int(home.settings.ledger.rpartition(":")[2])) as ledger:
        ledger.append(founded.charter)
        record = CostItem(
            seq=0,
            prev=FIRST,
            item="hosting",
            payer="birch",
            pot="services",
            period=PERIOD,
            category="network",
            amount="9",
            currency="EUR",
            date="2026-11-05",
            evidence="0" * 64,
        )
        home.say(LedgerHttp(ledger.url), home.key("admin"), record)
        charter = entries.open_charter(founded.charter).hash.hex()
        close(LedgerHttp(ledger.url), PERIOD, SigningKey.load(founded.admin_key), charter, wait_s=0)
        yield


def test_what_is_open_is_shown_until_both_have_said_that_it_is_paid(founded, run):
    with billed(founded):
        both = "acme pays birch 3.00 EUR\ncedar pays birch 3.00 EUR\n"
        assert run("cedar", "settle") == (0, both, "")
        assert run("cedar", "settle", "--paid", "birch") == (0, "settlement: entry 3\n", "")
        assert run("acme", "settle")[1] == both[:-1] + ", cedar says it is paid\n"
        code, _, err = run("cedar", "settle", "--paid", "birch")
        assert (code, "not_owed" in err) == (2, True)
        assert run("birch", "settle", "--received", "cedar")[0] == 0
        code, out, _ = run("acme", "settle", "--json")
        told = json.loads(out)
        assert (code, told["schema"], told["netting"], told["defaulters"]) == (0, "consortium.settle/1", 0, [])
        assert told["open"] == [{"netting": 0, "payer": "acme", "payee": "birch", "amount": 300, "said": []}]
        assert told["paid"] == {"acme": 0, "birch": -300, "cedar": 300}
        run("acme", "settle", "--paid", "birch")
        run("birch", "settle", "--received", "acme")
        assert run("acme", "settle")[1] == f"everything of {PERIOD} is paid\n"


def test_whose_debt_the_others_bear_is_shown_to_all(founded, run):
    with billed(founded):
        why = ("--reason", "nothing came in four weeks")
        assert run("acme", "default", "cedar", *why) == (0, "default of cedar: entry 3\n", "")
        assert run("cedar", "settle")[1].splitlines()[-1] == "cedar does not pay, says acme"
        code, _, err = run("acme", "default", "cedar", *why)
        assert (code, "conflict" in err) == (2, True)
        (founded.folder / "cedar" / "keys" / "admin.key").unlink()  # It is refused before it is signed.
        code, _, err = run("cedar", "default", "birch", *why)
        assert (code, "not_owed" in err) == (2, True)
        assert run("birch", "default", "cedar", *why) == (0, "default of cedar: entry 4\n", "")
        # acme bears two thirds of 3.00, beside its own 3.00.
        assert run("cedar", "settle")[1] == (
            "acme pays birch 5.00 EUR\ncedar is in default: the others bear its debt\n"
        )
        assert run("acme", "settle", "--paid", "birch")[0] == 0
        assert run("birch", "settle", "--received", "acme")[0] == 0
        assert json.loads(run("birch", "settle", "--json")[1])["defaulters"] == ["cedar"]


def test_of_a_period_without_a_statement_nothing_is_settled(founded, run):
    with serving(founded.ledger, int(founded.member("acme").settings.ledger.rpartition(":")[2])) as ledger:
        ledger.append(founded.charter)
        for words in (("settle",), ("settle", "--paid", "birch"), ("default", "birch", "--reason", "none")):
            code, _, err = run("acme", *words)
            assert (code, "not_owed" in err) == (2, True)
