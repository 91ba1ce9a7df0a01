"""A run whose sequences grow: all that holds of a run holds of it, and each round is billed by what it took."""

import re
from dataclasses import replace

import pytest
from world import TOY

from client import begun, reexecute
from client.steps import logged, repeat
from consortium.simulate import Result, simulate
from ledger import views
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records import merkle
from shared_models.records.kinds import Receipt
from shared_models.rules.pricing import round_flop, tokens_asked

TWO = {"acme": 2, "birch": 1}
RECIPE = replace(TOY, shortest=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Result:
    return simulate(tmp_path_factory.mktemp("run") / "parties", TWO, rounds=3, recipe=RECIPE)


def leaves(run: Result) -> list[bytes]:
    return fetch(reader(str(run.founded.ledger / "log"))).leaves


def receipts(run: Result) -> list[tuple[Receipt, str]]:
    found = ((entries.peek(leaf), merkle.leaf_hash(leaf).hex()) for leaf in leaves(run))
    return [(record, hashed) for record, hashed in found if isinstance(record, Receipt)]


def test_each_receipt_is_billed_by_its_round_and_anyone_comes_to_the_same_bill_and_checkpoints(run):
    assert (run.report.findings, run.excluded) == ([], ())
    work = [round_flop(run.manifest, number, "acme") for number in (1, 2, 3)]
    assert work[0] < work[1] < work[2] == tokens_asked(RECIPE) * run.manifest.flop_per_token
    assert [(each.round, each.flop) for each, _ in receipts(run)] == [(n, work[n - 1]) for n in (1, 1, 2, 2, 3, 3)]
    assert [each.flop for each in run.bill.balances] == [sum(work)] * 2
    found = list(repeat(logged(leaves(run), "r1"), run.founded.coordinator.path))
    assert [each.wrong for each in found] == ["", "", ""]


def test_who_repeats_a_segment_of_a_round_comes_to_the_same_bits(run):
    for receipt, hashed in receipts(run)[2:]:  # A member keeps what its last two rounds began from.
        home = run.founded.member(receipt.member)
        kept = begun.recall(home.begun_path, run.report.books.runs["r1"].hash, receipt.round)
        earlier = [
            each for each, _ in receipts(run) if (each.member, each.round) == (receipt.member, receipt.round - 1)
        ]
        for segment in (0, 1):
            told = {"segment": segment, "text": home.settings.data, "salt": home.salt("r1", receipt.round)}
            shown = reexecute.show(kept, receipt, hashed, run.manifest, **told)
            found = reexecute.replay(shown, receipt, hashed, run.manifest, earlier[0])
            assert found == ("matches", 0, "the same bits")


def test_tokens_are_counted_and_not_reckoned_from_the_work(run):
    asked = tokens_asked(RECIPE)
    curve = run.ledger().curve("r1")
    assert [each.tokens for each in curve] == [0, 2 * asked, 4 * asked, 6 * asked]
    rows = views.run_page(run.report.books, "r1", None)["rows"]
    assert [int(re.sub(r"\D", "", str(each["tokens"].text))) for each in rows] == [2 * asked] * 3


def test_the_bill_says_what_shorter_sequences_spare(run):
    said = run.ledger().bill().explain("acme/compute")
    work, asked = round_flop(run.manifest, 1, "acme"), tokens_asked(RECIPE)
    each, whole = f"{asked:,} tokens x {run.manifest.flop_per_token:,}", asked * run.manifest.flop_per_token
    assert f"{each} - {whole - work:,} for shorter sequences = {work:,} FLOP" in said
    assert f"{each} = {whole:,} FLOP" in said
