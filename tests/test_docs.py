"""The documentation says what is so: links lead somewhere, refusals are all there, and the README's commands run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shared_models.records.kinds import KINDS
from shared_models.records.refusals import REMEDY, Refusal, Refused

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not link.startswith("https://"):
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page):
    for name in re.findall(
        r"`((?:tests|shared_models|client|server|ledger|consortium|docs)/[\w/.]+)`", page.read_text()
    ):
        assert (ROOT / name).exists(), name


def test_every_refusal_and_its_remedy_is_in_the_documentation():
    row = r'^\| <a id="(\w+)"></a>\[`(\w+)`\]\(errors/(\w+)\.md\) \| (.+) \|$'
    rows = re.findall(row, (ROOT / "docs" / "refusals.md").read_text(), re.M)
    assert all(anchor == name == page for anchor, name, page, _ in rows)
    assert {name: remedy for _, name, _, remedy in rows} == {refusal.value: fix for refusal, fix in REMEDY.items()}


def test_every_refusal_has_a_page_and_no_page_is_of_none():
    there = {path.stem for path in (ROOT / "docs" / "errors").iterdir()}
    assert there == {refusal.value for refusal in Refusal}


@pytest.mark.parametrize("refusal", Refusal)
def test_its_page_says_what_it_means_what_to_do_and_what_is_kept(refusal):
    refused = Refused(refusal, "")
    title, means, do, kept, back = (ROOT / refused.page).read_text().rstrip("\n").split("\n\n")
    assert (title, do, kept) == (f"# `{refusal.value}`", f"**Do.** {refused.remedy}", f"**Kept.** {refused.kept}")
    assert len(means.removeprefix("**What it means.** ").split()) > 7
    assert back == f"[All refusals](../refusals.md#{refusal.value})"


def test_the_protocol_page_names_every_kind():
    page = (ROOT / "docs" / "protocol.md").read_text()
    assert set(re.findall(r"^\| `([a-z.]+)` \|", page, re.M)) >= set(KINDS)


def shown(command: str) -> list[str]:
    """What the README says that this command prints."""
    block = re.search(rf"```console\n\$ {re.escape(command)}\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block is not None
    return block[1].splitlines()


def shape(lines: list[str]) -> list[str]:
    """Lines without what differs from run to run: numbers, hashes, folders, and the order that answers come in."""
    without = []
    for line in lines:
        line = re.sub(r"\S*/(?=\.consortium-demo)|\S*(?=\.venv/bin/)", "", line)
        line = re.sub(r"[0-9a-f]{12,16}…", "#", line)
        line = re.sub(r"-?\d[\d,.]*~?", "#", line)
        without.append(re.sub(r"\s+", " ", line).strip())
    return sorted(line for line in without if line)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_make_demo_prints_what_the_readme_says():
    printed = made("demo").splitlines()
    start = next(number for number, line in enumerate(printed) if line.startswith("Three organisations"))
    assert shape(printed[start:]) == shape(shown("make demo"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_make_test_prints_what_the_readme_says():
    printed = made("test", "JOBS=1", "ARGS=tests/records/test_keys.py tests/records/test_note.py").splitlines()
    said = shape(shown("make test"))
    assert len(said) == 4
    assert shape(printed[-1:])[0].startswith("# passed")
    assert {line for line in said if "passed" not in line} <= set(shape(printed))


def made(*what: str) -> str:
    """`make` with the environment that runs this test, so that nothing is installed a second time."""
    environment = Path(sys.prefix)
    outer = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}  # `make test` runs this: the inner make must not know.
    done = subprocess.run(
        ["make", f"VENV={environment}", "-o", f"{environment}/ready", *what],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in outer},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout
