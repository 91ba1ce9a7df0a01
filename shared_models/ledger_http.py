"""The ledger over HTTP: the only file that knows its addresses. Standard library only, so that the auditor has it too.

    POST /v1/entries                 a leaf               201 new, 200 known: a C2SP tlog-proof of its place
    POST /v1/batch                   up to 256 leaves, packed as in a C2SP entry bundle
                                     {"entries": [index or problem], "head", "start", "path"}: see `append_all`
    GET  /v1/proof?index             a C2SP tlog-proof of an entry under the newest head
    GET  /v1/inclusion?index&size    {"path": [...]}      from an entry to the root of that size
    GET  /v1/run?start&end&size      {"path": [...]}      that entries stand in a row: see `merkle.Tree.run`
    GET  /v1/consistency?old&new     {"root", "path": [...]}   the old root; that its log is a beginning of the new one
    GET  /v1/add-checkpoint?old      what one that cosigned size `old` is asked to cosign, as C2SP tlog-witness has it
    POST /v1/cosigned                a head with cosignatures   {"new": how many}
    GET  /v1/witnesses               {member: {"size", "time"}}
    GET  /v1/keys?since              {"entries": [{"index", "leaf"}]}   about keys, from that index on
    GET  /v1/authors/ORG/ROLE        {"seq", "hash", "index"}   an author's newest entry
    GET  /v1/runs                    {"runs": [{"manifest", "consents", "ended"}]}
    GET  /v1/tables/NAME?after&limit {"size", "rows": [...], "next"}    a projection (ledger/tables.py), page by page
    GET  /v1/access/MEMBER/SHA256    {"granted", "tier", "reasons", "missing", "size"}   of a member's access
    GET  /v1/artefacts/SHA256?access a file, or a part of it; the request is signed (RFC 9421): see ledger/access.py
    HEAD /v1/artefacts/SHA256?access how long it is
    PUT  /v1/artefacts/SHA256        a piece of a file, by its publisher; signed: {"size": how much of it is here}
    GET  /v1/openings/NAME/NUMBER/MEMBER   what a member has shown of a run's round; signed: see ledger/openings.py
    HEAD /v1/openings/NAME/NUMBER/MEMBER   how long it is
    PUT  /v1/openings/NAME/NUMBER/MEMBER   a piece of it, by that member; signed: {"size": how much of it is here}
    GET  /v1/updates/NAME/NUMBER/MEMBER    the update that a member sent in a round; signed: see ledger/openings.py
    HEAD /v1/updates/NAME/NUMBER/MEMBER    how long it is
    PUT  /v1/updates/NAME/NUMBER/MEMBER    a piece of it, by the coordinator; signed: {"size": how much of it is here}
    POST /v1/invites                 an invite to join: {"invite": its hash}; see shared_models/invites.py
    GET  /v1/invites                 {"invites": [{"invite", "answer"}]}
    GET  /v1/invites/HASH            {"invite", "answer"}
    POST /v1/invites/HASH            the answer to it
    GET  /checkpoint, /tile/...      the log itself, as C2SP tlog-tiles lays it out
    GET  /cosigned, /witness/MEMBER, /attest/MEMBER   heads with cosignatures
    GET  /events?since               that the log has grown, as server-sent events; the id of each is its size
    GET  /healthz                    {"status": "ok", "size": n}   that it answers
    GET  /readyz                     {"status": "ready"}    that it would write; else a problem, 503, with the cause
    GET  /version                    {"software", "api", "oldest_client", "kinds"}

A ledger for members only (ledger/guard.py) answers what is read to who has signed it (RFC 9421) by a key that counts.

A refusal is RFC 9457 problem+json with `code`, the name of the refusal, and `fix`, its remedy. All of it, with every
code, is in docs/openapi.json, and at /openapi.json.
"""

import base64
import http.client
import io
import json
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from shared_models import http_answers, http_signatures, release
from shared_models.records import merkle, note, tlog
from shared_models.records.keys import SigningKey
from shared_models.records.refusals import Refusal, Refused

# The ledger has not looked at what was sent: nothing is wrong with that, and it may be sent again.
AWAY = (
    Refusal.UNREACHABLE,
    Refusal.BUSY,
    Refusal.STOPPED,
    Refusal.WRONG_ADDRESS,
    Refusal.WRONG_METHOD,
    Refusal.OUTDATED,
    Refusal.DEFECT,
)
UPLOAD_BYTES = 8 << 20  # Of a file, in one request: small enough to hold, and to send again.
_AGENT = {"User-Agent": release.AGENT}
UPLOAD_S = 600.0  # The last one is answered when the whole was hashed and stands on its shelf.


class Consistency(NamedTuple):
    """What a log says of two of its sizes: the root of the older one, in hex, and the path between them. Unverified."""

    root: str
    path: tuple[bytes, ...]


class Announced(NamedTuple):
    """A run as the ledger lists it. All but the manifest, which is signed, is its word only."""

    manifest: bytes  # As a leaf.
    consents: list[str]  # Members, in order.
    ended: str  # How: completed, failed or stopped; empty while it has not.


@dataclass(frozen=True, slots=True)
class LedgerHttp:
    """A ledger at an address. Nothing it answers is believed: proofs are verified by who asked for them.

    An append is idempotent, so every call is repeated while the ledger cannot be reached or is busy, for `patience_s`
    seconds. What is read is asked for by `key`, for a ledger may answer members only.
    Every method raises `Refused`: what the ledger refused with, or UNREACHABLE.
    """

    url: str
    patience_s: float = 10.0
    key: SigningKey | None = None

    def append(self, leaf: bytes) -> tlog.Proof:
        return tlog.Proof.parse(self._call("/v1/entries", leaf))

    def append_all(self, leaves: Sequence[bytes], keys: note.Keys) -> list[int | Refused]:
        """Append entries together, which is much cheaper than one by one; where each stands, or why it does not.

        One that is refused stops no other. Every place is proven here, by the log's key among these: those that are new
        stand in a row, and one proof is enough for all of them. Raises `Refused` as `append`, BAD_PROOF too.
        """
        told = json.loads(self._call("/v1/batch", tlog.pack(leaves)))
        found = [each if isinstance(each, int) else http_answers.refused(each) for each in told["entries"]]
        if len(found) != len(leaves):
            raise Refused(Refusal.BAD_PROOF, f"{len(found)} answers to {len(leaves)} entries")
        head = tlog.open_head(told["head"].encode(), keys)
        start, new = told.get("start", head.size), dict[int, bytes]()
        for leaf, at in zip(leaves, found, strict=True):
            if isinstance(at, Refused):
                continue
            if at >= start:
                new.setdefault(at, merkle.leaf_hash(leaf))
            else:
                self.proof(at).verify(merkle.leaf_hash(leaf), keys)
        if list(new) != list(range(start, start + len(new))):
            raise Refused(Refusal.BAD_PROOF, f"new entries do not stand in a row from {start} on")
        if new:
            merkle.verify_run(list(new.values()), start, head.size, head.root, _hashes(told))
        return found

    def proof(self, index: int) -> tlog.Proof:
        """The proof that an entry stands in the log, under its newest head."""
        return tlog.Proof.parse(self._call(f"/v1/proof?index={index}"))

    def inclusion(self, index: int, size: int) -> list[bytes]:
        return _hashes(self._json(f"/v1/inclusion?index={index}&size={size}"))

    def run(self, start: int, end: int, size: int) -> list[bytes]:
        return _hashes(self._json(f"/v1/run?start={start}&end={end}&size={size}"))

    def consistency(self, old: int, new: int) -> Consistency:
        found = self._json(f"/v1/consistency?old={old}&new={new}")
        return Consistency(str(found["root"]), tuple(_hashes(found)))

    def wanted(self, old: int) -> bytes:
        """The request to a witness that cosigned size `old` before. Raises `Refused(NOT_FOUND)` if there is none."""
        return self._call(f"/v1/add-checkpoint?old={old}")

    def cosign(self, head: bytes) -> int:
        """Hand in a head with cosignatures; how many are new."""
        return int(json.loads(self._call("/v1/cosigned", head))["new"])

    def witnesses(self) -> dict[str, dict[str, int]]:
        """For each member the size it has witnessed last, and when."""
        found: dict[str, dict[str, int]] = self._json("/v1/witnesses")
        return found

    def keys(self, since: int = 0) -> list[tuple[int, bytes]]:
        """(index, leaf) of every entry about keys, from this index on."""
        return [(each["index"], each["leaf"].encode()) for each in self._json(f"/v1/keys?since={since}")["entries"]]

    def last(self, author: str) -> tuple[int, str, int] | None:
        """(seq, leaf hash, index) of the newest entry of this author, or None before its first."""
        try:
            found = self._json(f"/v1/authors/{author}")
        except Refused as refused:
            if refused.refusal is Refusal.NOT_FOUND:
                return None
            raise
        return found["seq"], found["hash"], found["index"]

    def runs(self) -> list[Announced]:
        """Every run, in the log's order."""
        found = self._json("/v1/runs")["runs"]
        return [Announced(run["manifest"].encode(), run["consents"], run["ended"]) for run in found]

    def access(self, member: str, artefact: str) -> dict[str, Any]:
        """Whether a member may have an artefact, why, and its size. Its word only: `rules.access` goes by the log."""
        found: dict[str, Any] = self._json(f"/v1/access/{member}/{artefact}")
        return found

    def artefact(self, artefact: str, access: int, key: SigningKey, start: int = 0) -> http.client.HTTPResponse:
        """An artefact from this byte on, to be read and closed: status 206, or 200 if it begins from the first.

        `key` is the member's compute key, and `access` the index of its access entry. It is asked for once.
        """
        return self._file(f"/v1/artefacts/{artefact}", f"?access={access}", key, start, artefact)

    def opening(self, run: str, round_: int, member: str, key: SigningKey) -> http.client.HTTPResponse:
        """What this member has shown of its training in a round, to be read and closed.

        `key` is the compute key of a member that the round invited, or the coordinator's. It is asked for once. Raises
        `Refused`: NOT_DRAWN, NOT_FOUND if nothing was shown yet.
        """
        return self._file(f"/v1/openings/{run}/{round_}/{member}", "", key)

    def update(self, run: str, round_: int, member: str, key: SigningKey) -> http.client.HTTPResponse:
        """The update that this member sent in a round, as a `Blob`, to be read and closed.

        `key` is the compute key of a member that the round invited. It is asked for once. Raises `Refused(NOT_FOUND)`
        if it was not shown yet, or cannot be disputed any more.
        """
        return self._file(f"/v1/updates/{run}/{round_}/{member}", "", key)

    def _file(self, path: str, query: str, key: SigningKey, start: int = 0, etag: str = "") -> http.client.HTTPResponse:
        parts, more = {"@method": "GET", "@path": path, "@query": query or "?"}, dict[str, str]()
        if start:
            parts["range"] = more["Range"] = f"bytes={start}-"
            more["If-Range"] = f'"{etag}"'
        headers = http_signatures.sign(parts, key, int(time.time())) | more | _AGENT
        request = urllib.request.Request(self.url.rstrip("/") + path + query, headers=headers)  # noqa: S310
        try:
            reply: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=30)  # noqa: S310
        except urllib.error.HTTPError as error:
            raise _refused(error) from None
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            raise Refused(Refusal.UNREACHABLE, f"{self.url}: {error}") from None
        return reply

    def upload(self, artefact: str, size: int, file: BinaryIO, key: SigningKey) -> None:
        """Bring an artefact of this size onto the ledger's shelf; what is there of it is not sent again.

        `key` is the publisher's: a member's admin key, or the coordinator's. Raises `Refused`: CORRUPT if the file is
        not the artefact, and then the ledger keeps nothing of it; BAD_FIELD if the file has become shorter.
        """
        self._upload_all(f"/v1/artefacts/{artefact}", size, file, key)

    def show(self, run: str, round_: int, member: str, opening: bytes, key: SigningKey) -> None:
        """Show the round's other members what the log has drawn of this one's training; again is safe.

        `key` is the member's compute key. Raises `Refused`: NOT_DRAWN, WRONG_MEMBER, TOO_LARGE.
        """
        self._upload_all(f"/v1/openings/{run}/{round_}/{member}", len(opening), io.BytesIO(opening), key)

    def show_update(self, run: str, round_: int, member: str, size: int, file: BinaryIO, key: SigningKey) -> None:
        """Show a round's members the update that this one sent, a file of this size; again is safe.

        `key` is the coordinator's. Raises `Refused`: NOT_FOUND if that work cannot be disputed any more, TOO_LARGE.
        """
        self._upload_all(f"/v1/updates/{run}/{round_}/{member}", size, file, key)

    def _upload_all(self, path: str, size: int, file: BinaryIO, key: SigningKey) -> None:
        here = self._upload(path, f"bytes */{size}", b"", key)
        while here < size:
            file.seek(here)
            piece = file.read(min(UPLOAD_BYTES, size - here))
            if not piece:
                raise Refused(Refusal.BAD_FIELD, f"the file has {here:,} bytes left of {size:,}")
            here = self._upload(path, f"bytes {here}-{here + len(piece) - 1}/{size}", piece, key)

    def _upload(self, path: str, where: str, piece: bytes, key: SigningKey) -> int:
        sent = {"content-range": where, "content-digest": http_signatures.digest(piece)}
        parts = {"@method": "PUT", "@path": path, "@query": "?", **sent}
        headers = http_signatures.sign(parts, key, int(time.time())) | sent
        return int(json.loads(self._call(path, piece, headers, "PUT", UPLOAD_S))["size"])

    def invite(self, invite: bytes) -> None:
        """Let an invite to join be known."""
        self._call("/v1/invites", invite)

    def answer(self, hashed: str, answer: bytes) -> None:
        """Answer an invite; the same again is safe."""
        self._call(f"/v1/invites/{hashed}", answer)

    def invited(self, hashed: str) -> bytes:
        """The invite with this hash. Raises `Refused(NOT_FOUND)` too."""
        return str(self._json(f"/v1/invites/{hashed}")["invite"]).encode()

    def invites(self) -> list[tuple[bytes, bytes | None]]:
        """Every invite that is open or was answered, and the answer."""
        found = self._json("/v1/invites")["invites"]
        return [(each["invite"].encode(), each["answer"] and each["answer"].encode()) for each in found]

    def link(self, key: SigningKey) -> str:
        """An address that signs a browser in by this key, once, within five minutes: POST /open, signed in advance."""
        parts, nonce = {"@method": "POST", "@path": "/open"}, secrets.token_urlsafe(8)
        fields = http_signatures.sign(parts, key, int(time.time()), nonce)
        link = base64.urlsafe_b64encode(f"{fields['Signature-Input']}\n{fields['Signature']}".encode())
        return f"{self.url.rstrip('/')}/open?link={link.decode().rstrip('=')}"

    def size(self) -> int:
        found = self._json("/healthz")
        if "size" not in found:
            raise Refused(Refusal.NOT_SIGNED_IN, f"{self.url} answers members only")
        return int(found["size"])

    def read(self, path: str) -> bytes:
        """A file of the published log. Raises `Refused(NOT_FOUND)` too."""
        return self._call("/" + path)

    def _json(self, path: str) -> Any:
        return json.loads(self._call(path))

    def _call(
        self,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        method: str | None = None,
        timeout_s: float = 30,
    ) -> bytes:
        kind = {"Content-Type": "application/octet-stream"} if body is not None else {}
        address, named = self.url.rstrip("/") + path, {**kind, **_AGENT, **(headers or {})}
        until, pause_s = time.monotonic() + self.patience_s, 0.05
        while True:
            signed = _signed("GET", path, self.key) if body is None and self.key is not None else {}
            request = urllib.request.Request(address, body, named | signed, method=method)  # noqa: S310
            try:
                with urllib.request.urlopen(request, timeout=timeout_s) as reply:  # noqa: S310
                    return bytes(reply.read())
            except urllib.error.HTTPError as error:
                refused = _refused(error)
                if refused.refusal is not Refusal.BUSY or time.monotonic() + pause_s > until:
                    raise refused from None
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                if time.monotonic() + pause_s > until:
                    raise Refused(Refusal.UNREACHABLE, f"{self.url}: {error}") from None
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)


def _signed(method: str, path: str, key: SigningKey) -> dict[str, str]:
    """The header fields of a request without a body that this key signs."""
    where, _, query = path.partition("?")
    return http_signatures.sign({"@method": method, "@path": where, "@query": f"?{query}"}, key, int(time.time()))


def _hashes(found: Any) -> list[bytes]:
    return [bytes.fromhex(each) for each in found["path"]]


def _refused(error: urllib.error.HTTPError) -> Refused:
    try:
        with error:
            body = error.read(65_536)
    except (OSError, http.client.HTTPException):
        body = b""  # Cut.
    try:
        return http_answers.refused(json.loads(body))
    except (ValueError, KeyError, TypeError):
        return Refused(Refusal.UNREACHABLE, f"{error.url} answered {error.code}: {body[:200]!r}")
