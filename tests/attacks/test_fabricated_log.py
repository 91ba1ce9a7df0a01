"""A whole log with a charter, members and bills, all of it invented."""

from world import World, whole

from shared_models.records.refusals import Refusal
from shared_models.rules.audit import audit


def test_it_agrees_with_itself_and_is_not_the_log_of_the_charter_that_was_signed():
    invented, real = whole(), World({"acme": 1, "birch": 1})
    assert audit(invented.leaves, invented.head(), invented.hashes()).findings == []
    (finding,) = audit(invented.leaves, invented.head(), invented.hashes(), charter=real.books.charter_hash).findings
    assert (finding.index, finding.refusal) == (0, Refusal.NO_CHARTER)
