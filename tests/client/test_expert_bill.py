"""What members' experts are worth, on the bill as a person and a program read it."""

import json

import pytest
from world import CONSORTIUM, digest, experts, key

from bench.receipts import publish
from consortium.cli import main


@pytest.fixture
def bill(tmp_path, capsys):
    """Print the bill of a month in which two members have measured what experts are worth: (exit code, output)."""

    def command(*words: str, **charter: object) -> tuple[int, str]:
        world = experts(**charter)
        world.bill()
        publish(tmp_path, world.leaves, key(f"{CONSORTIUM}/log"))
        code = main(["bill", str(tmp_path), *words])
        return code, capsys.readouterr().out

    return command


def test_a_bill_says_what_each_expert_is_worth_and_in_which_entry_it_was_measured(bill):
    code, said = bill()
    first, second = (each.entry for each in experts().books.worths)
    about = f"experts of run r1 on the text {digest('text')[:12]}…, as acme has measured, are worth"
    parts = "acme 91 (0.0% of the routes), birch 30 (0.0% of the routes), cedar -30 (0.0% of the routes)"
    assert (code, f"entry {first}: {about}, in millionths of a nat per byte: {parts}" in said.splitlines()) == (0, True)
    assert f"entry {second}: " in said


def test_and_so_it_does_for_programs_exactly(bill):
    code, said = bill("--json")
    first, second = json.loads(said)["worth"]
    assert (code, first["worth_unats"]) == (0, {"acme": "181/2", "birch": "61/2", "cedar": "-30"})
    assert (first["member"], second["member"], first["routed"]["cedar"]) == ("acme", "birch", "1/2048")
