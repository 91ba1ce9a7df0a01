"""A member enters a cost, or takes back one, for a period that has its statement."""

import pytest
from world import CONSORTIUM, World

from shared_models.records.kinds import FIRST, CreditNote, Usage
from shared_models.records.refusals import Refusal, Refused


def test_what_is_closed_is_not_opened_again():
    world = World()
    item = world.say("acme/admin", world.item("acme", 900))
    bill = world.bill("2026-11")
    note = CreditNote(
        seq=0, prev=FIRST, note="n", payer="acme", item=item, period="2026-11", amount="1", reason="a refund"
    )
    used = Usage(
        seq=0, prev=FIRST, member="birch", pot="services", period="2026-11", quantity="9", source="GB", replaces=FIRST
    )
    for author, late in (
        ("birch/admin", world.item("birch", 500, "late")),
        ("acme/admin", note),
        (f"{CONSORTIUM}/admin", used),
    ):
        with pytest.raises(Refused) as caught:
            world.say(author, late)
        assert caught.value.refusal is Refusal.CLOSED
    assert world.books.statements == [bill]
