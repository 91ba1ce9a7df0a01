"""Journals of statements made by hand: corrections, caps and accessions balance as everything else does."""

import io
import os
import shutil
import subprocess
from fractions import Fraction

import pytest
from beancount import loader
from bills import CHARTER, bill
from hypothesis import given, settings
from hypothesis import strategies as st

from client import export
from shared_models.records.refusals import Refused

CORRECTED = bill(
    ("compute", {"acme": (Fraction(700, 3), 500), "birch": (Fraction(1300, 3), 100), "cedar": (0, Fraction(200, 3))}),
    ("storage", {"acme": (-100, -50), "birch": (40, Fraction(-20, 3)), "cedar": (0, Fraction(-10, 3))}),
    ("direct", {"acme": (-7, -7), "birch": (7, 7), "cedar": (0, 0)}),
    ("cap", {"acme": (30, 0), "birch": (0, 20), "cedar": (0, 10)}),
    ("accession", {"acme": (5, 0), "birch": (Fraction(1, 3), 0), "cedar": (0, Fraction(16, 3))}),
)


def test_beancount_reads_corrections_caps_and_accessions_and_finds_that_nobody_owes_anything():
    journal = export.beancount([CORRECTED], CHARTER, None)
    _, errors, _ = loader.load_string(journal)
    assert errors == []
    assert "  Equity:Pots:Cap  0.30 EUR" in journal
    assert "  Assets:Members:Acme  -0.30 EUR" in journal  # It is owed so much more.
    assert "  Assets:Members:Acme  1.00 EUR" in journal  # What was credited too much, it owes.
    assert journal.count(" balance Assets:Members:") == 3
    _, errors, _ = loader.load_string(journal.replace("Equity:Pots:Cap  0.30", "Equity:Pots:Cap  0.31"))
    assert errors != []


def test_hledger_reads_them_too():
    journal = export.hledger([CORRECTED], CHARTER, None)
    for what in ("cap", "accession", "storage"):
        assert f"2026-11-30 * 2026-11: {what}\n" in journal
    assert balances(journal) == 0
    if shutil.which("hledger") is None:
        if os.environ.get("CONSORTIUM_REQUIRE_HLEDGER"):
            raise RuntimeError("hledger is not installed")
        return
    checked = subprocess.run(
        ["hledger", "-f", "-", "check"], input=journal, capture_output=True, text=True, check=False, timeout=60
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def balances(journal: str) -> int:
    """How many transactions do not balance, and how many accounts of members are not at zero when they should be."""
    wrong, left, accounts = 0, Fraction(0), dict[str, Fraction]()
    for line in journal.splitlines():
        if not line.startswith("    "):
            wrong, left = wrong + (left != 0), Fraction(0)
            continue
        account, amount = line.split("  ")[2:4]
        said, _, asserted = amount.partition(" = ")
        left += (moved := Fraction(said.removesuffix(" EUR")))
        accounts[account] = accounts.get(account, Fraction(0)) + moved
        wrong += bool(asserted) and accounts[account] != 0
    return wrong + (left != 0)


lines = st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=999)


@settings(max_examples=50)
@given(credits_=st.tuples(lines, lines, lines), charges=st.tuples(lines, lines))
def test_any_lines_of_a_pot_balance_whatever_their_signs(credits_, charges):
    charged = (*charges, sum(credits_) - sum(charges))
    said = dict(zip(("acme", "birch", "cedar"), zip(credits_, charged, strict=True), strict=True))
    stated = bill(("compute", said), ("cap", said))
    assert balances(export.hledger([stated], CHARTER, None)) == 0
    table = io.StringIO(export.as_csv([stated], CHARTER)).readlines()
    assert len(table) == 7


def test_a_journal_that_does_not_balance_is_seen_by_this_test():
    journal = export.hledger([CORRECTED], CHARTER, None)
    assert balances(journal.replace("pots:cap  0.30", "pots:cap  0.31")) > 0


def test_the_first_day_of_a_period_and_the_first_one_behind_it():
    for period, first, end in (
        ("2026-11", "2026-11-01", "2026-12-01"),
        ("2026-12", "2026-12-01", "2027-01-01"),
        ("2026", "2026-01-01", "2027-01-01"),
        ("2028-02", "2028-02-01", "2028-03-01"),
    ):
        assert [str(day) for day in export.bounds(period, None)] == [first, end]
    with pytest.raises(Refused):
        export.bounds("9999-12", None)
