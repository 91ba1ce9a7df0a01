"""The documentation says what is so: links lead somewhere, refusals are all there, and the README's commands run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from consortium.cli import joined, parsers
from shared_models.records.kinds import KINDS
from shared_models.records.refusals import REMEDY, Refusal, Refused

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]

PARSER, COMMANDS = parsers()
for each in COMMANDS.values():
    each.allow_abbrev = False  # What is written down is the whole option.
# What is hashed or derived from, and is no command.
LINES = {"consortium ticket", "consortium invite v1", "consortium words v1", "consortium blob capability v1"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not link.startswith("https://"):
            assert (page.parent / link).exists(), link


def test_every_picture_is_shown_and_they_are_small():
    """That they are taken, and by which names, is for the browser tests to see."""
    linked = ((page, link) for page in PAGES for link in re.findall(r"!\[[^]]+\]\(([^)]+\.png)\)", page.read_text()))
    there, shown = set((ROOT / "docs" / "screenshots").iterdir()), {page.parent / link for page, link in linked}
    assert there == shown != set()
    assert sum(path.stat().st_size for path in there) < 650_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page):
    for name in re.findall(
        r"`((?:tests|shared_models|client|server|ledger|consortium|docs)/[\w/.]+)`", page.read_text()
    ):
        assert (ROOT / name).exists(), name


def commands(page: str) -> list[list[str]]:
    """The words behind `consortium` of every command in the page's blocks of shell, as a shell would part them."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.M | re.S):
        text = re.sub(r"\\\n\s*", "", block) if language in ("", "console", "sh") else ""
        for line in re.findall(r"(?<![\w-])consortium (.+)", text):
            lexer = shlex.shlex(line.split("  ")[0], posix=True, punctuation_chars=True)  # What it is for stands apart.
            lexer.whitespace_split = True
            words = list(lexer)
            ends = (number for number, word in enumerate(words) if set(word) <= set("();<>|&"))
            found.append(words[: next(ends, len(words))])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_shown_are_those_that_there_are(page):
    for words in commands(page.read_text()):
        try:
            PARSER.parse_args(joined(words, COMMANDS))
        except SystemExit as stopped:
            pytest.fail(f"consortium {shlex.join(words)}: {stopped}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_named_in_a_line_have_these_options(page):
    for span in set(re.findall(r"`(consortium [^`]+)`", page.read_text())) - LINES:
        command, *words = joined(span.split()[1:], COMMANDS)
        taken = COMMANDS[command]._option_string_actions if command in COMMANDS else ()
        assert {word for word in words if word.startswith("--")} <= {*taken}, span
        assert command in {*COMMANDS, "--help", "--completion"}, span


def test_a_command_that_there_is_not_would_be_seen():
    page = "```sh\nfor each in a b; do\n    yes | consortium status \\\n        --hom $each &\ndone\n```\n"
    assert commands(page) == [["status", "--hom", "$each"]]
    with pytest.raises(SystemExit):
        PARSER.parse_args(commands(page)[0])


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


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = [path.read_text() for path in tmp_path.rglob("*.html")]
    assert len(pages) == len(PAGES)  # Not the README, and one more for an address that there is not.
    loaded = re.compile(r"""<(?:iframe|img|link|script)\b[^>]*?\b(?:href|src)=["']?(?:https?:)?//[^>]*>""")
    assert not [found for page in pages for found in loaded.findall(page)]


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
@pytest.mark.timeout(1500)
def test_make_demo_prints_what_the_readme_says():
    from test_deployment import alive

    printed = made("demo")
    lines = printed.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("Three organisations"))
    assert shape(lines[start:]) == shape(shown("make demo"))
    assert re.search(r"balance acme: net stated -?\d+, recomputed -?\d+", printed)
    before, after = map(float, re.search(r"per byte: ([\d.]+) before, ([\d.]+) after", printed).groups())
    assert after < 0.6 * before
    assert alive(ROOT / ".consortium-demo") == []


@pytest.mark.slow
@pytest.mark.timeout(900)
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
