"""A member as a witness: one history of the log, and its word for it.

The newest head that was verified is on the disk before anything is signed. Another history is never followed: the two
heads are kept as proof, and from then on nothing is signed at all, until a person has looked.

Speaks C2SP tlog-witness, so that any log of its kind can ask, and tlog-cosignature, so that anybody can check.
"""

import hashlib
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import NamedTuple

from client.home import Home
from shared_models import durable
from shared_models.ledger_http import Consistency, LedgerHttp
from shared_models.records import merkle, note, tlog
from shared_models.records.keys import MLDSA44, SigningKey
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.fork import Fork

TEXT, SIZE = "text/plain; charset=utf-8", "text/x.tlog.size"
TIMEOUT_S = 20.0


class Answer(NamedTuple):
    """An HTTP answer of the witness protocol."""

    status: int
    kind: str
    body: bytes


class Witness:
    """What this member has verified of the log. May be used from several threads."""

    def __init__(self, home: Home, ask: Callable[[int, int], Consistency]) -> None:
        """`ask(old, new)` gets a proof from the log itself, where whoever showed a head has brought none that fits."""
        self.home = home
        self._ask = ask
        self._turn = threading.Lock()
        self._keys = [home.key("witness")]
        if (home.path / "keys" / "witness-mldsa.key").is_file():
            self._keys.append(SigningKey.load(home.path / "keys" / "witness-mldsa.key"))
            assert self._keys[1].verify_key.kind == MLDSA44
        self._origin = f"{home.charter.consortium}/log"
        self._head = home.head()
        self._handed_in = -1  # The size of the head that the ledger was given last.

    @property
    def head(self) -> tlog.TreeHead:
        """The newest head that was verified; the empty tree before the first."""
        return self._head

    def follow(self, shown: bytes, old: int, path: tuple[bytes, ...]) -> bytes:
        """Verify a newer head and cosign it: the head's note with our signatures added.

        `path` is said to prove that it continues the log of size `old`. If it is older than what was verified, for the
        log has moved on while it was on its way, that stays, and its note comes back. Raises `Refused`: FORK if it is
        of another history or one was seen before, or as `tlog.open_head`.
        """
        with self._turn:
            self._check_frozen()
            head = tlog.open_head(shown, self.home.keyring.keys)
            self._check_origin(head)
            if head.size < self._head.size:
                if (fork := self._compare(shown, head)) is not None:
                    raise fork
                return self._own()
            try:
                if old != self._head.size:
                    raise Refused(Refusal.BAD_PROOF, f"a proof from size {old}; {self._head.size} was witnessed")
                merkle.verify_consistency(old, head.size, self._head.root, head.root, list(path))
            except Refused:  # Whoever brought the proof may be wrong: the log itself is asked.
                if (fork := self._compare(shown, head)) is not None:
                    raise fork from None
            return self._cosigned(shown, head)

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer a request to cosign a head (C2SP tlog-witness, `add-checkpoint`), status codes and all."""
        with self._turn:
            try:
                self._check_frozen()
                asked = tlog.AddCheckpoint.parse(body)
                claimed = tlog.unsigned(asked.head)
            except Refused as refused:
                return Answer(403 if refused.refusal is Refusal.FORK else 400, TEXT, f"{refused}\n".encode())
            if claimed.origin != self._origin:
                return Answer(404, TEXT, f"this witness follows {self._origin} and no other log\n".encode())
            try:
                head = tlog.open_head(asked.head, self.home.keyring.keys)
            except Refused as refused:
                return Answer(403, TEXT, f"{refused}\n".encode())
            if asked.old > head.size:
                return Answer(400, TEXT, f"old size {asked.old}, head of size {head.size}\n".encode())
            if asked.old != self._head.size:
                return Answer(409, SIZE, f"{self._head.size}\n".encode())
            if (head.size == 0 and head.root != merkle.EMPTY_ROOT) or (asked.old == 0 and asked.path):
                return Answer(422, TEXT, b"the proof from or to an empty tree is not what it must be\n")
            try:
                merkle.verify_consistency(asked.old, head.size, self._head.root, head.root, list(asked.path))
            except Refused as refused:
                # Perhaps only the proof is wrong; perhaps there are two histories: the log itself is asked.
                fork = self._compare(asked.head, head)
                return Answer(422, TEXT, f"{fork or refused}\n".encode())
            cosigned = note.parse(self._cosigned(asked.head, head), tlog.HEAD_BYTES)
            own = {key.name for key in self._keys}
            lines = "".join(each.line() for each in cosigned.signatures if each.name in own)
            return Answer(200, TEXT, lines.encode())

    def monitored(self, origin_hash: str) -> Answer:
        """The newest head that we cosigned, for whoever compares (C2SP tlog-witness, `<origin hash>/checkpoint`)."""
        shown = self.home.head_note()
        if origin_hash != hashlib.sha256(self._origin.encode()).hexdigest() or shown is None:
            return Answer(404, TEXT, b"no head of that log was cosigned here\n")
        return Answer(200, TEXT, shown)

    def compare(self, shown: bytes) -> None:
        """Hold a head that somebody else has seen against our own, older or newer. Raises `Refused(FORK)`.

        Nothing is cosigned. A head that the log has not signed, or of another log, is refused and proves nothing.
        """
        with self._turn:
            self._check_frozen()
            head = tlog.open_head(shown, self.home.keyring.keys)
            self._check_origin(head)
            if (fork := self._compare(shown, head)) is not None:
                raise fork

    def visit(self, ledger: LedgerHttp) -> None:
        """Cosign what the ledger asks for and hand it in; what was cosigned before and did not reach it, too.

        Raises `Refused`: FORK, or as the ledger's own.
        """
        try:
            body = ledger.wanted(self._head.size)
        except Refused as refused:
            if refused.refusal is Refusal.NOT_FOUND:  # Rounds bring newer heads than it asks for.
                return
            raise
        asked = tlog.AddCheckpoint.parse(body)
        size = tlog.unsigned(asked.head).size
        if size == self._handed_in:
            return
        if size > self._head.size:
            self.follow(asked.head, asked.old, asked.path)
        ledger.cosign(self._own())
        self._handed_in = size

    def compare_with_peers(self) -> None:
        """Ask the other members that the settings name what they have cosigned, and compare. Raises `Refused(FORK)`.

        A peer that is away, or has cosigned nothing yet, is passed over.
        """
        for peer in self.home.settings.peers.split():
            try:
                self.compare(monitored(peer, self._origin))
            except Refused as refused:
                if refused.refusal not in (Refusal.UNREACHABLE, Refusal.NOT_FOUND):
                    raise

    # What lies behind.

    def _check_frozen(self) -> None:
        if self.home.fork_path.exists():
            raise Refused(Refusal.FORK, f"the log has shown two histories, see {self.home.fork_path}")

    def _check_origin(self, head: tlog.TreeHead) -> None:
        if head.origin != self._origin:
            raise Refused(Refusal.WRONG_ORIGIN, f"a head of {head.origin[:80]}; this member follows {self._origin}")

    def _own(self) -> bytes:
        shown = self.home.head_note()
        assert shown is not None
        return shown

    def _compare(self, shown: bytes, head: tlog.TreeHead) -> Refused | None:
        """The refusal, if this head and our own are of two histories; the log is asked how they fit together."""
        if self._head.size == 0 or head.size == 0:
            return None
        old, new = sorted((self._head, head), key=lambda each: each.size)
        if old.size == new.size:
            return None if old.root == new.root else self._fork(self._own(), shown, Consistency("", ()))
        said = self._ask(old.size, new.size)
        try:
            merkle.verify_consistency(old.size, new.size, old.root, new.root, list(said.path))
        except Refused:
            return self._fork(self._own(), shown, said)
        return None

    def _fork(self, one: bytes, other: bytes, said: Consistency) -> Refused:
        """Keep what shows that there are two histories, and stop signing; the refusal that says so."""
        fork = Fork.of(one, other, said.root, said.path)
        durable.write(self.home.fork_path, fork.data())
        proven = fork.proven(self.home.keyring.keys)
        what = "kept as proof for anybody" if proven else "kept; the log has not said how they fit together"
        sizes_said = " and ".join(str(tlog.unsigned(each).size) for each in (one, other))
        return Refused(
            Refusal.FORK, f"heads of sizes {sizes_said} are of two histories: {what}, in {self.home.fork_path}"
        )

    def _cosigned(self, shown: bytes, head: tlog.TreeHead) -> bytes:
        """The head's note with the log's signatures and our own, which is on the disk before anybody gets it."""
        parsed = note.parse(shown, tlog.HEAD_BYTES)
        now = int(time.time())
        logs = tuple(each for each in parsed.signatures if each.name == self._origin)
        ours = tuple(note.signature(parsed.text, key, now) for key in self._keys)
        cosigned = note.Note(parsed.text, logs + ours).data()
        durable.write(self.home.path / "head.note", cosigned)
        self._head = head
        return cosigned


def monitored(url: str, origin: str) -> bytes:
    """The newest head of this log that the witness at this address cosigned.

    Raises `Refused`: NOT_FOUND if it has cosigned none, UNREACHABLE.
    """
    if not url.startswith(("http://", "https://")):
        raise Refused(Refusal.BAD_FIELD, f"{url!r} is not the address of a witness")
    where = f"{url.rstrip('/')}/{hashlib.sha256(origin.encode()).hexdigest()}/checkpoint"
    try:
        with urllib.request.urlopen(where, timeout=TIMEOUT_S) as reply:  # noqa: S310 - checked above.
            return bytes(reply.read(tlog.HEAD_BYTES + 1))
    except urllib.error.HTTPError as error:
        error.close()
        refusal = Refusal.NOT_FOUND if error.code == 404 else Refusal.UNREACHABLE
        raise Refused(refusal, f"{where} answered {error.code}") from None
    except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
        raise Refused(Refusal.UNREACHABLE, f"{where}: {error}") from None
