"""A member vouches for its own entries: "every entry below this size that bears my compute key's name is mine".

Made by the member after it has read the log itself: every entry up to that size, its hash proven under the head that is
signed, and each one in its own name found among what it has signed. An auditor who trusts the member about its own
entries, which can only cost the member itself, then needs not verify their signatures one by one.
"""

import json
import time

from client.home import Home
from shared_models import durable
from shared_models.ledger_http import LedgerHttp
from shared_models.published import bundles
from shared_models.records import merkle, note, tlog
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refusal, Refused

AT_ONCE = 65_536  # Entries under one proof.


class Attester:
    """What this member has read of the log, and vouches for. What it has read once it does not read again."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._key = home.key("attest")
        self._mark = f"— {home.settings.member}/compute ".encode()
        self._path = home.path / "attested.json"
        self._read = json.loads(self._path.read_bytes())["size"] if self._path.is_file() else 0

    def attest(self, ledger: LedgerHttp, head_note: bytes) -> bytes:
        """Read what the log has gained up to this head, which the witness has verified; the head, attested.

        Raises `Refused`: WRONG_MEMBER if an entry in this member's name is not its own (then its key is stolen),
        BAD_PROOF if the ledger shows other entries than those under the head, or as the ledger's own.
        """
        head = tlog.unsigned(head_note)
        mine = {leaf_hash(leaf) for leaf in self.home.signed()}
        while self._read < head.size:
            end = min(head.size, self._read + AT_ONCE)
            self._replay(ledger, head, self._read, end, mine)
            self._read = end
        durable.write(self._path, json.dumps({"size": head.size, "root": head.root.hex()}).encode())
        parsed = note.parse(head_note, tlog.HEAD_BYTES)
        logs = tuple(each for each in parsed.signatures if each.name == head.origin)
        return note.Note(parsed.text, (*logs, note.signature(parsed.text, self._key, int(time.time())))).data()

    def _replay(self, ledger: LedgerHttp, head: tlog.TreeHead, start: int, end: int, mine: set[bytes]) -> None:
        hashes = []
        for bundle in bundles(ledger.read, end, since=start):
            for index, leaf in enumerate(bundle.leaves, bundle.start):
                if not start <= index < end:
                    continue
                hashes.append(leaf_hash(leaf))
                if self._mark in leaf and self._is_by_us(leaf) and hashes[-1] not in mine:
                    raise Refused(Refusal.WRONG_MEMBER, f"entry {index} bears our name, and was not signed here")
        merkle.verify_run(hashes, start, head.size, head.root, ledger.run(start, end, head.size))

    def _is_by_us(self, leaf: bytes) -> bool:
        """Whether one of its signature lines bears our name; a note that is quoted in another's does not."""
        own = f"{self.home.settings.member}/compute"
        return any(signature.name == own for signature in note.parse(leaf).signatures)
