"""Models for a member: listed, traced back to the code that ran, and fetched whole or not at all."""

import fcntl
import hashlib
import io
import json
import socket
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from parties import BUNDLE, FakeTime, Parties
from world import SEED, counted, digest

import client.models
from client.auditor import Auditor
from client.home import write_settings
from client.models import get
from client.signer import Signer
from client.witness import Witness
from consortium.cli import main
from ledger.api import serving
from shared_models import ledger_http
from shared_models.artefacts import publish
from shared_models.ledger_http import LedgerHttp
from shared_models.processes import free_port
from shared_models.published import reader, save
from shared_models.records import entry as entries
from shared_models.records import tlog
from shared_models.records.kinds import (
    BILLION,
    FIRST,
    Access,
    AccessRevoke,
    Consent,
    Excluded,
    Receipt,
    RoundClose,
)
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refusal, Refused

DATA = bytes(range(251)) * 10_000  # 2.5 MB.
NAME = hashlib.sha256(DATA).hexdigest()


class Consortium:
    """acme and birch have trained a round and cedar has not; its checkpoint is published, and the log is served."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.parties = Parties(folder)
        self.folder = self.parties.founded.folder
        for name in self.parties.founded.members:
            home = self.home(name)
            write_settings(home.path / "member.toml", replace(home.settings, ledger=self.url))
        coordinator = self.parties.home
        write_settings(coordinator.path / "coordinator.toml", replace(coordinator.settings, ledger=self.url))
        signers = {name: self.parties.consenting(name) for name in self.parties.founded.members}
        leaf, proof = self.parties.say(self.parties.opened())
        self.receipts = []
        for name in ("acme", "birch"):
            signers[name].begin(self.parties.begin(name, leaf, proof))
            mine = signers[name].claim(self.parties.claim(), FakeTime())[-1]
            self.parties.log.append(mine)
            self.receipts.append(counted(name, leaf_hash(mine).hex(), BILLION // 2))
        self.parties.say(self._closed())
        self.parties.log.close()
        self.file = folder / "model.safetensors"
        self.file.write_bytes(DATA)
        self.shelf = self.parties.founded.ledger / "artefacts"

    def _closed(self) -> RoundClose:
        turn = self.parties.log.books.runs["r1"].rounds[-1]
        return RoundClose(
            seq=0,
            prev=FIRST,
            run="r1",
            round=1,
            base=turn.base,
            checkpoint=digest("checkpoint"),
            included=tuple(self.receipts),
            excluded=(Excluded(member="cedar", reason="late"),),
            late=(),
            loss_unats=1,
            state=digest("state"),
            seed=SEED,
        )

    def home(self, name: str):
        return self.parties.founded.member(name)

    @contextmanager
    def serving(self):
        with serving(self.parties.founded.ledger, self.port) as ledger:
            yield ledger

    def publish(self) -> None:
        coordinator = self.parties.home.path
        words = ["model", "publish", "--home", coordinator, self.file, "--checkpoint", "r1/1", "--shelf", self.shelf]
        assert main([str(word) for word in words]) == 0


@pytest.fixture
def consortium(tmp_path):
    made = Consortium(tmp_path)
    with made.serving():
        made.publish()
        yield made


@pytest.fixture
def run(capsys):
    def command(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def refused(act, *arguments) -> Refused:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value


def fetch(consortium: Consortium, name: str, to: Path, url: str = "") -> int:
    return get(consortium.home(name), LedgerHttp(url or consortium.url, patience_s=0.5), NAME, to)


def leaves_of(consortium: Consortium) -> list[bytes]:
    size = LedgerHttp(consortium.url).size()
    return tlog.unpack(LedgerHttp(consortium.url).read(f"tile/entries/000.p/{size}"))


def accesses(consortium: Consortium, name: str) -> list[Access]:
    found = map(entries.peek, consortium.home(name).signed())
    return [each for each in found if isinstance(each, Access)]


# What there is.


def test_a_member_sees_what_there_is_and_why_it_may_have_it(consortium, run):
    for name, word in (("acme", "granted"), ("cedar", "refused")):
        code, out, _ = run("model", "list", consortium.url, "--member", name)
        assert code == 0
        assert out.startswith(f"{NAME}  safetensors, 2,510,000 bytes, from run r1 round 1\n  {name}, tier ")
        assert f": {word}\n" in out
    code, out, _ = run("model", "list", consortium.url, "--member", "cedar", "--json")
    told = json.loads(out)
    books = Auditor().run(consortium.url).books
    assert (code, told["schema"], told["size"]) == (0, "consortium.models/1", books.tree.size)
    assert told["models"] == json.loads(json.dumps(list(client.models.listed(books, "cedar"))))
    assert told["models"][0]["access"]["granted"] is False


def test_a_model_is_traced_back_to_the_receipts_and_the_code_that_ran(consortium, run):
    code, out, _ = run("model", "show", consortium.url, NAME, "--json")
    (made,) = json.loads(out)["lineage"]
    (checkpoint,) = made.pop("checkpoints")
    receipts = checkpoint.pop("receipts")
    with_books = Auditor().run(consortium.url).books
    leaves = tlog.unpack(LedgerHttp(consortium.url).read(f"tile/entries/000.p/{with_books.tree.size}"))
    assert (code, made["artefact"], made["publisher"], made["parents"]) == (0, NAME, "commons.example", [])
    assert checkpoint["checkpoint"] == digest("checkpoint")
    assert checkpoint["bundle"] == BUNDLE
    assert checkpoint["began"] == []
    assert entries.peek(leaves[checkpoint["entry"]]).kind == "round.close"
    assert entries.peek(leaves[checkpoint["manifest_entry"]]).kind == "run.manifest"
    assert leaf_hash(leaves[checkpoint["manifest_entry"]]).hex() == checkpoint["manifest"]
    assert [each["member"] for each in receipts] == ["acme", "birch"]
    for each in receipts:
        assert leaf_hash(leaves[each["entry"]]).hex() == each["receipt"]
    code, out, _ = run("model", "show", consortium.url, NAME)
    assert (code, len(out.splitlines())) == (0, 8)
    assert f"    <- bundle {BUNDLE}" in out.splitlines()
    assert run("model", "show", consortium.url, digest("nothing"))[0] == 2


def test_a_log_without_models_says_so(tmp_path, run):
    made = Consortium(tmp_path)
    with made.serving():
        assert run("model", "list", made.url) == (0, "the log has no models yet\n", "")


def test_what_a_log_says_that_is_not_right_is_marked_and_its_lineages_are_not_told(consortium, run, tmp_path):
    save(reader(consortium.url), tmp_path / "log")
    (bundle,) = (tmp_path / "log" / "tile" / "entries").iterdir()
    (path,) = bundle.iterdir()
    path.write_bytes(path.read_bytes().replace(b'"wall_ms":1000', b'"wall_ms":1001'))
    code, out, err = run("model", "list", tmp_path / "log")
    assert (code, NAME in out, "this log is not right" in err) == (1, True, True)
    code, out, err = run("model", "show", tmp_path / "log", NAME)
    assert (code, out, "this log is not right" in err) == (1, "", True)


# Publishing.


def test_what_is_published_lies_on_the_shelf_and_is_registered_once(consortium, run):
    assert [each.name for each in consortium.shelf.iterdir()] == [NAME]
    assert (consortium.shelf / NAME).read_bytes() == DATA
    again = ("model", "publish", "--home", consortium.parties.home.path, consortium.file)
    code, _, err = run(*again, "--checkpoint", "r1/1", "--form", "gguf")
    assert (code, err.startswith("error conflict")) == (2, True)
    assert run(*again, "--checkpoint", "r1")[2].startswith("error bad_field")
    # What was signed once is sent again as it is: it would prove that its author has said two things.
    size = LedgerHttp(consortium.url).size()
    assert run(*again, "--checkpoint", "r1/1")[:2] == (0, f"{NAME} is published: entry {size - 1}\n")
    assert LedgerHttp(consortium.url).size() == size
    missing = ("model", "publish", "--home", consortium.parties.home.path, consortium.folder / "nothing")
    assert run(*missing, "--checkpoint", "r1/1")[2].startswith("error not_found")


def test_without_a_shelf_at_hand_the_coordinator_uploads(consortium, run):
    consortium.file.write_bytes(b"a second one")
    code, out, _ = run("model", "publish", "--home", consortium.parties.home.path, consortium.file, "--parent", NAME)
    second = hashlib.sha256(b"a second one").hexdigest()
    assert (code, out.split()[0]) == (0, second)
    assert (consortium.shelf / second).read_bytes() == b"a second one"


def test_a_member_publishes_what_it_made_and_who_may_not_have_the_parent_may_not_have_that(consortium, run, tmp_path):
    tuned = DATA[::-1] * 8  # More than one piece.
    name = hashlib.sha256(tuned).hexdigest()
    (tmp_path / "tuned").write_bytes(tuned)
    derive = ("model", "derive", "--home", consortium.home("acme").path, tmp_path / "tuned", "--form", "gguf")
    code, out, _ = run(*derive, "--parent", NAME)
    assert (code, out.split(":")[0]) == (0, f"{name} is published by acme")
    assert (consortium.shelf / name).read_bytes() == tuned
    assert run(*derive, "--parent", NAME)[:2] == (code, out)
    assert get(consortium.home("birch"), LedgerHttp(consortium.url), name, tmp_path / "got") == len(tuned)
    cedar = ("--home", consortium.home("cedar").path)
    assert run("model", "get", *cedar, name, "--to", tmp_path / "none")[2].startswith("error no_access")
    (tmp_path / "stolen").write_bytes(b"from what it has no right to")
    assert run("model", "derive", *cedar, tmp_path / "stolen", "--parent", name)[2].startswith("error no_access")
    assert sorted(each.name for each in consortium.shelf.iterdir()) == sorted([NAME, name])
    (kept,) = (consortium.home("acme").path / "published").iterdir()
    assert kept.stem == name
    assert run(*derive[:-1], "safetensors", "--parent", NAME)[2].startswith("error conflict")
    report = Auditor().run(consortium.url)
    assert report.findings == []
    assert report.books.library.held(name).record.parents == (NAME,)
    assert not any(entries.peek(each).kind == "equivocation" for each in leaves_of(consortium))


def test_an_upload_that_broke_off_goes_on_where_it_was(consortium, run, tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_http, "UPLOAD_BYTES", 100_000)
    tuned, sent = DATA[::-1], list[int]()
    (tmp_path / "tuned").write_bytes(tuned)
    asked = LedgerHttp._upload

    def breaks(self, artefact, where, piece, key):
        if len(sent) == 8:
            sent.append(0)
            raise Refused(Refusal.UNREACHABLE, "the cable")
        sent.append(len(piece))
        return asked(self, artefact, where, piece, key)

    monkeypatch.setattr(LedgerHttp, "_upload", breaks)
    derive = ("model", "derive", "--home", consortium.home("acme").path, tmp_path / "tuned", "--parent", NAME)
    assert run(*derive)[2].startswith("error unreachable: the cable")
    assert run("model", "get", "--home", consortium.home("birch").path, hashlib.sha256(tuned).hexdigest(), "--to", "x")[
        2
    ].startswith("error not_set_up")
    assert run(*derive)[0] == 0
    assert sum(sent) == len(tuned)
    assert (consortium.shelf / hashlib.sha256(tuned).hexdigest()).read_bytes() == tuned


def test_a_file_that_changes_while_it_is_uploaded_is_refused_and_not_kept(consortium, tmp_path):
    acme = consortium.home("acme")
    (tmp_path / "tuned").write_bytes(b"0123456789")
    ledger = LedgerHttp(consortium.url)
    name = publish(acme, ledger, acme.key("admin"), tmp_path / "tuned", form="x", parents=(NAME,)).sha256
    (consortium.shelf / name).unlink()
    for changed, refusal in ((b"0123456780", Refusal.CORRUPT), (b"01234", Refusal.BAD_FIELD)):
        why = refused(ledger.upload, name, 10, io.BytesIO(changed), acme.key("admin"))
        assert why.refusal is refusal
    assert not (consortium.shelf / name).exists()
    ledger.upload(name, 10, io.BytesIO(b"0123456789"), acme.key("admin"))
    assert (consortium.shelf / name).read_bytes() == b"0123456789"


# Fetching.


def test_a_model_is_fetched_by_an_entry_of_one_s_own(consortium, run, tmp_path):
    to = tmp_path / "got"
    code, out, _ = run("model", "get", "--home", consortium.home("acme").path, NAME, "--to", to)
    assert (code, out) == (0, f"{to} is {NAME}, 2,510,000 bytes of it fetched now\n")
    assert to.read_bytes() == DATA
    assert not to.with_name("got.part").exists()
    (access,) = accesses(consortium, "acme")
    assert (access.member, access.artefact, access.fetch) == ("acme", NAME, 1)
    assert refused(fetch, consortium, "acme", to).refusal is Refusal.BAD_FIELD
    assert fetch(consortium, "acme", tmp_path / "again") == len(DATA)
    assert [each.fetch for each in accesses(consortium, "acme")] == [1, 2]
    assert Auditor().run(consortium.url).findings == []


def test_who_may_not_have_it_signs_nothing(consortium, tmp_path):
    answer = refused(fetch, consortium, "cedar", tmp_path / "got")
    assert answer.refusal is Refusal.NO_ACCESS
    assert "more for tier user" in answer.detail
    assert accesses(consortium, "cedar") == []
    assert list((consortium.home("cedar").path / "entries").glob("*.refused")) == []
    assert not (tmp_path / "got.part").exists()
    assert refused(get, consortium.home("acme"), LedgerHttp(consortium.url), digest("x"), tmp_path / "got").refusal is (
        Refusal.NOT_FOUND
    )


class Cutting(threading.Thread):
    """Hands connections on to the ledger; of what comes back it lets so many bytes through, connection by connection,
    the rest as it pleases (`change`)."""

    def __init__(self, port: int, cuts: list[int], change=lambda data: data) -> None:
        super().__init__(daemon=True)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._port, self._cuts, self._change = port, cuts, change
        self.start()

    def run(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            with near, socket.create_connection(("127.0.0.1", self._port)) as far:
                asked = b""
                while b"\r\n\r\n" not in asked:
                    asked += near.recv(65_536)
                head, _, body = asked.partition(b"\r\n\r\n")
                length = next(
                    (line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), b""
                )
                while len(body) < int(length.partition(b":")[2] or 0):
                    body += near.recv(65_536)
                far.sendall(head + b"\r\n\r\n" + body)
                fetching = b"/v1/artefacts/" in head
                left = self._cuts.pop(0) if fetching and self._cuts else 1 << 40
                try:
                    while left and (data := far.recv(min(65_536, left))):
                        left -= len(data)
                        near.sendall(self._change(data) if fetching else data)
                except OSError:
                    pass

    def stop(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@contextmanager
def cutting(consortium: Consortium, cuts: list[int], **more):
    made = Cutting(consortium.port, cuts, **more)
    try:
        yield made.url
    finally:
        made.stop()
        made.join()


def test_a_broken_connection_is_taken_up_where_it_broke(consortium, tmp_path, monkeypatch):
    monkeypatch.setattr(client.models, "RETRY_S", 0.01)
    monkeypatch.setattr(client.models, "PIECE_BYTES", 65_536)
    with cutting(consortium, [1_000_000, 0, 100, 900_000]) as url:
        assert fetch(consortium, "acme", tmp_path / "got", url) == len(DATA)
    assert (tmp_path / "got").read_bytes() == DATA
    assert len(accesses(consortium, "acme")) == 1


def test_what_was_left_is_taken_up_by_another_call_under_the_same_entry(consortium, tmp_path, monkeypatch):
    monkeypatch.setattr(client.models, "RETRY_S", 0.01)
    monkeypatch.setattr(client.models, "PIECE_BYTES", 65_536)
    with cutting(consortium, [1_000_000, *[0] * 10_000]) as url:
        answer = refused(fetch, consortium, "acme", tmp_path / "got", url)
    kept = (tmp_path / "got.part").stat().st_size
    assert (answer.refusal, 0 < kept < 1_000_000) == (Refusal.UNREACHABLE, True)
    assert not (tmp_path / "got").exists()
    assert fetch(consortium, "acme", tmp_path / "got") == len(DATA) - kept
    assert (tmp_path / "got").read_bytes() == DATA
    assert len(accesses(consortium, "acme")) == 1


def test_what_is_whole_already_is_only_put_in_its_place(consortium, tmp_path):
    (tmp_path / "got.part").write_bytes(DATA)
    assert fetch(consortium, "cedar", tmp_path / "got") == 0
    assert (tmp_path / "got").read_bytes() == DATA


@pytest.mark.parametrize("left", [b"something else", DATA + b"and more", DATA[:-1] + b"?"], ids=len)
def test_what_goes_on_from_something_else_is_not_kept(consortium, tmp_path, left):
    (tmp_path / "got.part").write_bytes(left)
    assert refused(fetch, consortium, "acme", tmp_path / "got").refusal is Refusal.CORRUPT
    assert sorted(each.name for each in tmp_path.glob("got*")) == []
    assert fetch(consortium, "acme", tmp_path / "got") == len(DATA)


def test_what_was_changed_on_the_way_is_refused_and_nothing_of_it_kept(consortium, tmp_path):
    more = {"change": lambda data: data.replace(bytes(range(40, 60)), bytes(range(41, 61)))}
    with cutting(consortium, [], **more) as url:
        assert refused(fetch, consortium, "acme", tmp_path / "got", url).refusal is Refusal.CORRUPT
    assert sorted(each.name for each in tmp_path.glob("got*")) == []


def test_a_server_that_knows_no_ranges_begins_again(consortium, tmp_path):
    (tmp_path / "got.part").write_bytes(DATA[:1_000])
    (consortium.shelf / NAME).write_bytes(DATA)

    class Ledger(LedgerHttp):
        def artefact(self, artefact, access, key, start=0):
            return super().artefact(artefact, access, key, 0)

    assert get(consortium.home("acme"), Ledger(consortium.url), NAME, tmp_path / "got") == len(DATA)
    assert (tmp_path / "got").read_bytes() == DATA


def test_two_do_not_fetch_into_one_file(consortium, tmp_path):
    with (tmp_path / "got.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert refused(fetch, consortium, "acme", tmp_path / "got").refusal is Refusal.LOCKED


# One key, two processes.


def signer(consortium: Consortium, name: str) -> Signer:
    home = consortium.home(name)
    return Signer(home, Witness(home, LedgerHttp(consortium.url).consistency))


def test_a_daemon_goes_on_behind_what_a_command_has_signed(consortium, tmp_path):
    daemon = signer(consortium, "acme")
    before = len(daemon.unlogged())
    fetch(consortium, "acme", tmp_path / "got")
    assert len(daemon.unlogged()) == before + 1
    again = daemon.taken(NAME)
    assert entries.peek(again).fetch == 1
    assert daemon.take(NAME, before + 1, LedgerHttp(consortium.url).append) > 0
    assert [entries.peek(leaf).seq for leaf in consortium.home("acme").signed()] == list(range(before + 2))
    assert daemon.taken(digest("x")) is None


def test_two_that_sign_at_once_make_one_chain(consortium):
    ledger, came = LedgerHttp(consortium.url), []

    def take() -> None:
        for _ in range(4):
            one = signer(consortium, "acme")
            came.append(one.take(NAME, len(one.unlogged()), ledger.append))

    both = [threading.Thread(target=take) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert len(set(came)) == 8
    records = [entries.peek(leaf) for leaf in consortium.home("acme").signed()]
    assert [each.seq for each in records] == list(range(len(records)))
    assert [each.fetch for each in accesses(consortium, "acme")] == list(range(1, 9))


def test_what_the_log_has_not_got_yet_goes_first(consortium, tmp_path):
    """A receipt waits for the coordinator, and the fetch does not."""
    daemon, appended = signer(consortium, "birch"), []

    def append(leaf: bytes):
        appended.append(entries.peek(leaf).kind)
        return LedgerHttp(consortium.url).append(leaf)

    daemon.take(NAME, 1, append)
    assert appended == [Receipt.kind, Access.kind]


def test_an_entry_that_the_log_refuses_is_put_aside_and_one_of_unknown_fate_is_not(consortium, tmp_path):
    ledger, daemon = LedgerHttp(consortium.url), signer(consortium, "cedar")
    assert refused(daemon.take, NAME, 1, ledger.append).refusal is Refusal.NO_ACCESS
    assert accesses(consortium, "cedar") == []
    assert [each.name for each in (daemon.home.path / "entries").glob("*.refused")] == ["00000001.refused"]
    assert [entries.peek(leaf).kind for leaf in daemon.unlogged()] == [Consent.kind]

    def lost(leaf: bytes):
        raise Refused(Refusal.OUTDATED, "the ledger has not looked at it")

    assert refused(daemon.take, NAME, 1, lost).refusal is Refusal.OUTDATED
    assert len(accesses(consortium, "cedar")) == 1


def test_a_place_in_the_log_that_is_not_proven_is_not_believed(consortium):
    daemon = signer(consortium, "acme")
    other = LedgerHttp(consortium.url).proof(0)
    assert refused(daemon.take, NAME, 2, lambda _: other).refusal is Refusal.BAD_PROOF
    assert len(accesses(consortium, "acme")) == 1


def test_access_that_ended_ends_a_download_that_is_under_way(consortium, tmp_path, monkeypatch):
    monkeypatch.setattr(client.models, "PIECE_BYTES", 65_536)
    with cutting(consortium, [500_000, *[0] * 10_000]) as url:
        assert refused(fetch, consortium, "birch", tmp_path / "got", url).refusal is Refusal.UNREACHABLE
    for name in ("acme", "cedar"):
        home = consortium.home(name)
        said = AccessRevoke(seq=0, prev=FIRST, member=name, notice="n1", revoked="birch", reason="")
        home.say(LedgerHttp(consortium.url), home.key("admin"), said)
    assert refused(fetch, consortium, "birch", tmp_path / "got").refusal is Refusal.NO_ACCESS
    assert not (tmp_path / "got").exists()
