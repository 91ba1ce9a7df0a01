"""What a round's members are shown, over HTTP: who brings it, who gets it, and for how long."""

import io
import json
import shutil
import time
from pathlib import Path

import pytest
from ledger_service import send, serving
from world import CONSORTIUM, World, key

from ledger.access import Intake
from shared_models.http_signatures import digest, sign
from shared_models.ledger_http import LedgerHttp
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.challenge import Challenge
from shared_models.shelf import FolderShelf

MEMBERS = ("acme", "birch", "cedar")
DATA = bytes(range(256)) * 40_000  # 10 MB: more than one piece.


class Drawn:
    """A log, served, that has drawn birch's work in a round to which dora was not invited."""

    def __init__(self, folder: Path, ledger: LedgerHttp) -> None:
        self.ledger, self.folder = ledger, folder / "openings"
        self.world = World({"acme": 1, "birch": 1, "cedar": 1, "dora": 1})
        self.world.say(self.world.coordinator, self.world.manifest(members=MEMBERS))
        for member in MEMBERS:
            self.world.say(f"{member}/compute", self.world.consent(member))
        self.world.drawn("birch")
        self._sent = 0
        self.send()

    def send(self) -> None:
        for leaf in self.world.leaves[self._sent :]:
            self.ledger.append(leaf)
        self._sent = len(self.world.leaves)

    @property
    def challenge(self) -> Challenge:
        (found,) = self.world.books.challenges(("r1", 1, "birch"))
        return found

    def show(self, by: str = "birch/compute", data: bytes = DATA, number: int = 1, member: str = "birch") -> None:
        self.ledger.show("r1", number, member, data, key(by))

    def got(self, by: str = "acme/compute", number: int = 1, member: str = "birch") -> bytes:
        with self.ledger.opening("r1", number, member, key(by)) as reply:
            return reply.read()


@pytest.fixture
def drawn(tmp_path):
    with serving(tmp_path) as ledger:
        yield Drawn(tmp_path, ledger)


def refused(ask, *arguments, **more) -> Refusal:
    with pytest.raises(Refused) as caught:
        ask(*arguments, **more)
    return caught.value.refusal


def test_what_was_drawn_is_shown_to_those_whom_the_round_invited(drawn):
    assert refused(drawn.got) is Refusal.NOT_FOUND
    drawn.show()
    assert [drawn.got(f"{name}/compute") for name in MEMBERS] == [DATA] * 3
    assert refused(drawn.got, "dora/compute") is Refusal.WRONG_MEMBER
    assert drawn.got(drawn.world.coordinator) == DATA
    assert refused(drawn.got, f"{CONSORTIUM}/admin") is Refusal.UNKNOWN_KEY
    assert [path.name for path in drawn.folder.iterdir()] == [drawn.challenge.receipt]


def test_only_who_trained_it_shows_it_and_only_what_was_drawn(drawn):
    assert refused(drawn.show, "acme/compute") is Refusal.WRONG_MEMBER
    assert refused(drawn.show, "birch/admin") is Refusal.UNKNOWN_KEY
    assert refused(drawn.show, number=2) is Refusal.NOT_DRAWN
    undrawn = [each for each in drawn.world.books.challenges() if each.segment is None]
    for each in undrawn:
        assert refused(drawn.show, f"{each.member}/compute", member=each.member) is Refusal.NOT_DRAWN
        assert refused(drawn.got, member=each.member) is Refusal.NOT_DRAWN
        assert refused(drawn.got, drawn.world.coordinator, member=each.member) is Refusal.NOT_DRAWN
    assert refused(drawn.show, drawn.world.coordinator) is Refusal.UNKNOWN_KEY
    assert refused(drawn.got, "acme/admin") is Refusal.UNKNOWN_KEY
    assert refused(drawn.got, member="nobody") is Refusal.NOT_DRAWN
    assert not drawn.folder.exists()


def test_the_first_that_is_whole_stands(drawn):
    drawn.show()
    drawn.show(data=DATA[::-1])
    drawn.show(data=b"shorter")
    assert drawn.got() == DATA


def ask(drawn: Drawn, method: str, by: str, sent: dict[str, str], data: bytes | None = None):
    """The answer to a request about birch's work, so signed: (status, headers, body)."""
    path = "/v1/openings/r1/1/birch"
    headers = sign({"@method": method, "@path": path, "@query": "?", **sent}, key(by), int(time.time())) | sent
    return send(drawn.ledger, method, path, headers, data)


def piece(drawn: Drawn, where: str, data: bytes, signed: bytes | None = None) -> tuple[int, dict]:
    """The answer to one piece, or to the question how much is here."""
    sent = {"content-range": where, "content-digest": digest(data if signed is None else signed)}
    status, _, body = ask(drawn, "PUT", "birch/compute", sent, data)
    return status, json.loads(body)


def test_an_upload_goes_on_where_it_broke_off_and_another_one_begins_anew(drawn):
    assert piece(drawn, "bytes 0-2/9", b"one") == (200, {"size": 3})
    assert piece(drawn, "bytes */9", b"") == (200, {"size": 3})
    assert piece(drawn, "bytes 5-6/9", b"no")[1]["code"] == "bad_range"
    assert piece(drawn, "bytes 3-5/9", b"two", b"others")[1]["code"] == "bad_signature"
    assert refused(drawn.got) is Refusal.NOT_FOUND
    assert piece(drawn, "bytes */2", b"") == (200, {"size": 0})
    assert piece(drawn, "bytes 0-1/2", b"ab") == (200, {"size": 2})
    assert drawn.got() == b"ab"


def test_a_part_of_it_is_served_to_who_has_the_rest(drawn):
    drawn.show(data=b"0123456789")
    status, headers, body = ask(drawn, "GET", "cedar/compute", {"range": "bytes=4-"})
    assert (status, headers["Content-Range"], body) == (206, "bytes 4-9/10", b"456789")
    status, headers, body = ask(drawn, "HEAD", "cedar/compute", {})
    assert (status, headers["Content-Length"], body) == (200, "10", b"")


def test_what_cannot_be_disputed_any_more_is_not_served_and_goes_with_the_next(drawn):
    drawn.show()
    old = drawn.challenge.receipt
    for period in ("2026-11", "2026-12"):
        drawn.world.bill(period)
    drawn.send()
    assert refused(drawn.got) is Refusal.NOT_DRAWN
    assert (drawn.folder / old).is_file()
    drawn.world.drawn("acme")
    drawn.send()
    drawn.show("acme/compute", b"another", 2, "acme")
    assert [path.read_bytes() for path in drawn.folder.iterdir()] == [b"another"]
    assert drawn.got("birch/compute", 2, "acme") == b"another"


# The updates that a round's step was taken from.


def update(drawn: Drawn, member: str, data: bytes = DATA, by: str | None = None, number: int = 1) -> None:
    at = "r1", number, member, len(data), io.BytesIO(data)
    drawn.ledger.show_update(*at, key(by or drawn.world.coordinator))


def got(drawn: Drawn, member: str, by: str = "acme/compute", number: int = 1) -> bytes:
    with drawn.ledger.update("r1", number, member, key(by)) as reply:
        return reply.read()


def test_the_coordinator_shows_every_update_that_counts_to_those_whom_the_round_invited(drawn):
    for member in MEMBERS:  # The log has drawn one of them.
        assert refused(got, drawn, member) is Refusal.NOT_FOUND
        update(drawn, member, DATA + member.encode())
    for member in MEMBERS:
        assert {got(drawn, member, f"{each}/compute") for each in MEMBERS} == {DATA + member.encode()}
    assert refused(got, drawn, "birch", "dora/compute") is Refusal.WRONG_MEMBER
    assert refused(got, drawn, "birch", drawn.world.coordinator) is Refusal.UNKNOWN_KEY
    receipts = {each.receipt for each in drawn.world.books.challenges()}
    assert {path.name for path in (drawn.folder.parent / "updates").iterdir()} == receipts
    assert refused(drawn.got) is Refusal.NOT_FOUND  # An opening is another file.


def test_nobody_else_shows_an_update_and_none_of_what_does_not_count(drawn):
    assert refused(update, drawn, "birch", by="birch/compute") is Refusal.UNKNOWN_KEY
    assert refused(update, drawn, "dora") is Refusal.NOT_FOUND
    assert refused(update, drawn, "birch", number=2) is Refusal.NOT_FOUND
    assert refused(got, drawn, "dora") is Refusal.NOT_FOUND
    assert not (drawn.folder.parent / "updates").exists()


def test_updates_go_when_their_work_cannot_be_disputed_any_more(drawn):
    update(drawn, "birch")
    for period in ("2026-11", "2026-12"):
        drawn.world.bill(period)
    drawn.send()
    assert refused(got, drawn, "birch") is Refusal.NOT_FOUND
    drawn.world.drawn("acme")
    drawn.send()
    for member in MEMBERS:
        update(drawn, member, member.encode(), number=2)
    held = {path.read_bytes().decode() for path in (drawn.folder.parent / "updates").iterdir()}
    assert held == set(MEMBERS)


def test_a_file_fills_no_disk(tmp_path):
    intake = Intake(FolderShelf(tmp_path))
    assert refused(intake.take, "name", 0, shutil.disk_usage(tmp_path).free, b"") is Refusal.TOO_LARGE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("members_only", [False, True])
def test_a_ledger_for_members_asks_for_the_same_signature(tmp_path, members_only):
    with serving(tmp_path, members_only=members_only) as ledger:
        drawn = Drawn(tmp_path, ledger)
        drawn.show(data=b"shown")
        assert drawn.got("cedar/compute") == b"shown"
        assert refused(drawn.got, "dora/compute") is Refusal.WRONG_MEMBER
