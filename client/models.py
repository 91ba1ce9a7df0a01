"""Models as a member sees them: what there is, what it was made from, whether it may have it; and fetching it.

What there is and who may have it follows from the log alone. A file is fetched into FILE.part, from where it broke off,
and becomes FILE when its SHA-256 is the artefact's: what stands under that name is whole and right.
"""

import fcntl
import hashlib
import http
import http.client
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from client.auditor import audited
from client.home import Home
from client.signer import Signer
from client.witness import Witness
from shared_models import durable
from shared_models.ledger_http import LedgerHttp
from shared_models.published import Read, bundles
from shared_models.records import entry as entries
from shared_models.records.kinds import FIRST, Artefact, Checkpoint, ExpertGrant, RoundClose
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.books import Books

PIECE_BYTES = 1 << 20
_CLOSE = f"/{RoundClose.kind}@v1".encode()
RETRY_S = 1.0


# What there is.


def listed(books: Books, member: str | None = None) -> Iterator[dict[str, Any]]:
    """Every artefact of a log, in its order; whether this member may have it, and why."""
    for name, held in books.library.artefacts.items():
        told = _told(held.record, held.at)
        yield told | {"access": books.access(member, name)._asdict()} if member is not None else told


def _told(record: Artefact, at: int) -> dict[str, Any]:
    return {
        "artefact": record.artefact,
        "entry": at,
        "publisher": record.publisher,
        "size": record.size,
        "form": record.form,
        "checkpoints": [{"run": each.run, "round": each.round} for each in record.checkpoints],
        "parents": list(record.parents),
        "without": list(record.without),
    }


def lineage(books: Books, read: Read, artefact: str) -> list[dict[str, Any]]:
    """This artefact and all that it descends from, parents behind children: each with the rounds it is from, and each
    round with its receipts, its manifest and the bundle of code that ran. Raises `Refused`, NOT_FOUND too.

    `books` are those of the log that `read` reads, so what is read here was verified.
    """
    found: dict[str, Artefact] = {}
    names = [artefact]
    while names:
        name = names.pop(0)
        found[name] = books.library.held(name).record
        names += [each for each in found[name].parents if each not in found]
    rounds = _rounds(books, read, {each for record in found.values() for each in record.checkpoints})
    return [
        _told(record, books.library.held(name).at) | {"checkpoints": [rounds[each] for each in record.checkpoints]}
        for name, record in found.items()
    ]


def partial(books: Books, read: Read, file: Path) -> tuple[dict[str, Any], tuple[str, ...]] | None:
    """What the log says of the round, as `lineage`, if this file is an artefact that is one checkpoint without some
    members' experts; and whose these are. None if it is no such artefact.
    """
    with file.open("rb") as opened:
        held = books.library.artefacts.get(hashlib.file_digest(opened, "sha256").hexdigest())
    if held is None or not held.record.without or len(held.record.checkpoints) != 1:
        return None
    (at,) = held.record.checkpoints
    return _rounds(books, read, {at})[at], held.record.without


def grant(folder: Path, run: str, to: Iterable[str]) -> int:
    """Say in the log who may have this member's expert of a run: these others, and nobody else; the entry's index.

    What was said last stands already. Raises `Refused`.
    """
    home = Home(folder)
    member, books = home.settings.member, audited(home)
    lent, names = books.library.lent(run, member), tuple(sorted(set(to)))
    if lent is not None and lent.to == names:
        return lent.at
    replaces = lent.hash if lent is not None else FIRST
    record = ExpertGrant(seq=0, prev=FIRST, member=member, run=run, to=names, replaces=replaces)
    return home.say(home.ledger(), home.key("admin"), record)[1].index


def traced(books: Books, read: Read, checkpoint: str) -> dict[str, Any]:
    """What the log says of the first round that led to this checkpoint, as `lineage`. Raises `Refused(NOT_FOUND)`."""
    for bundle in bundles(read, books.tree.size):
        for leaf in bundle.leaves:
            close = entries.peek(leaf) if leaf.partition(b"\n")[0].endswith(_CLOSE) else None
            if isinstance(close, RoundClose) and close.checkpoint == checkpoint:
                at = Checkpoint(run=close.run, round=close.round)
                return _rounds(books, read, {at})[at]
    raise Refused(Refusal.NOT_FOUND, f"no round of this log has led to the weights {checkpoint[:12]}…")


def _rounds(books: Books, read: Read, wanted: set[Checkpoint]) -> dict[Checkpoint, dict[str, Any]]:
    """What the log says of each of these rounds."""
    size, closes = books.tree.size, dict[Checkpoint, tuple[int, RoundClose]]()
    for bundle in bundles(read, size):
        for index, leaf in enumerate(bundle.leaves, bundle.start):
            close = entries.peek(leaf) if leaf.partition(b"\n")[0].endswith(_CLOSE) else None
            if isinstance(close, RoundClose) and (at := Checkpoint(run=close.run, round=close.round)) in wanted:
                closes[at] = index, close
    asked = {each.receipt for _, close in closes.values() for each in (*close.included, *close.late)}
    asked |= {books.run(at.run).hash for at in closes}
    places = {
        hashed.hex(): index
        for bundle in bundles(read, size)
        for index, hashed in enumerate(bundle.hashes, bundle.start)
        if hashed.hex() in asked
    }
    return {
        at: {
            "run": at.run,
            "round": at.round,
            "checkpoint": close.checkpoint,
            "entry": index,
            "receipts": [
                {"member": each.member, "receipt": each.receipt, "entry": places[each.receipt]}
                for each in (*close.included, *close.late)
            ],
            "manifest": books.run(at.run).hash,
            "manifest_entry": places[books.run(at.run).hash],
            "bundle": books.run(at.run).manifest.bundle,
            "began": begun(books, at.run),
        }
        for at, (index, close) in closes.items()
    }


def begun(books: Books, run: str) -> list[dict[str, Any]]:
    """What weights a run was given to begin with; then those that the run had been given which led to them; and on."""
    found = []
    while (origin := books.origin(run)) is not None:
        weights, at = origin
        found.append({"weights": weights, "run": at[0] if at else None, "round": at[1] if at else None})
        if at is None:
            break
        run = at[0]
    return found


def sources(told: dict[str, Any]) -> str:
    """What an artefact was made from, in words."""
    found = [f"run {each['run']} round {each['round']}" for each in told["checkpoints"]]
    found += [f"artefact {each[:16]}…" for each in told["parents"]]
    return ", ".join(found + [f"without the expert of {each}" for each in told["without"]])


def verdict_text(member: str, verdict: dict[str, Any]) -> str:
    """A verdict, a sentence a line."""
    tier = f"tier {verdict['tier']}" if verdict["tier"] else "no tier"
    lines = [f"  {member}, {tier}: {'granted' if verdict['granted'] else 'refused'}"]
    lines += [f"    {reason}" for reason in verdict["reasons"]]
    return "\n".join(lines + ([f"    {verdict['missing']}"] if verdict["missing"] else []))


def lineage_text(found: list[dict[str, Any]]) -> str:
    """A lineage, from the artefact back to the code that ran."""
    lines = []
    for each in found:
        lines.append(f"artefact {each['artefact']}, {each['form']}, {each['size']:,} bytes, entry {each['entry']}")
        lines.append(f"  published by {each['publisher']}, from {sources(each)}")
        for made in each["checkpoints"]:
            lines.append(f"  checkpoint {made['checkpoint']}")
            lines.append(f"    <- round {made['round']} of run {made['run']}, closed by entry {made['entry']}")
            for work in made["receipts"]:
                lines.append(f"    <- receipt {work['receipt'][:16]}… of {work['member']}, entry {work['entry']}")
            lines.append(f"    <- bundle {made['bundle']}")
            lines.append(f"    <- manifest {made['manifest'][:16]}…, entry {made['manifest_entry']}")
            for began in made["began"]:
                of = f"round {began['round']} of run {began['run']}" if began["run"] else "no round of this log: given"
                lines.append(f"    <- begun with the weights {began['weights'][:16]}…, from {of}")
    return "\n".join(lines)


# Fetching.


def get(home: Home, ledger: LedgerHttp, artefact: str, to: Path) -> int:
    """Fetch an artefact into this file; how many bytes had to be fetched for it now.

    Raises `Refused`: BAD_FIELD if the file is there, LOCKED if another process fetches it, NO_ACCESS, UNREACHABLE,
    CORRUPT if what was served is something else: nothing of it is kept.
    """
    if to.exists():
        raise Refused(Refusal.BAD_FIELD, f"--to {to}: it is there already, and nothing is written over")
    path = to.with_name(f"{to.name}.part")
    begun = path.exists()
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused(Refusal.LOCKED, f"another process fetches {to}") from None
        part = _Part(file)
        if part.sha256 != artefact:
            try:
                told = ledger.access(home.settings.member, artefact)
                access = _granted(home, ledger, artefact, begun, told)
                _download(home, ledger, artefact, access, part, told["size"])
            except Refused as refused:
                if part.size == 0 and refused.refusal is not Refusal.UNREACHABLE:
                    path.unlink()
                raise
        if part.sha256 != artefact:
            path.unlink()
            raise Refused(Refusal.CORRUPT, f"what the ledger serves as {artefact[:12]}… hashes to {part.sha256[:12]}…")
        file.flush()
        os.fsync(file.fileno())
        path.replace(to)
        durable.sync_folder(to.absolute().parent)
        return part.came


class _Part:
    """What has come of a file so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hashed, self.size, self.came = file, hashlib.sha256(), 0, 0
        file.seek(0)
        while piece := file.read(PIECE_BYTES):
            self._hashed.update(piece)
            self.size += len(piece)

    def add(self, piece: bytes) -> None:
        self._file.write(piece)
        self._hashed.update(piece)
        self.size += len(piece)
        self.came += len(piece)

    def begin_again(self) -> None:
        self._file.truncate(0)
        self._hashed, self.size = hashlib.sha256(), 0

    @property
    def sha256(self) -> str:
        return self._hashed.hexdigest()


def _granted(home: Home, ledger: LedgerHttp, artefact: str, begun: bool, told: dict[str, Any]) -> int:
    """The index of the access entry to cite: that of a fetch that has begun, or a new one.

    An entry that the ledger would refuse, as it told us, is better not signed.
    """
    home.learn_keys(ledger)
    signer, member = Signer(home, Witness(home, ledger.consistency)), home.settings.member
    if begun and (leaf := signer.taken(artefact)) is not None:
        return ledger.append(leaf).index  # The same text again is answered with its first place.
    if not told["granted"]:
        raise Refused(Refusal.NO_ACCESS, "; ".join(each for each in (*told["reasons"], told["missing"]) if each))
    last = ledger.last(f"{member}/compute")
    return signer.take(artefact, last[0] + 1 if last else 0, ledger.append)


def _download(home: Home, ledger: LedgerHttp, artefact: str, access: int, part: _Part, size: int) -> None:
    """Fetch what is missing. A connection that breaks off is taken up again, for as long as something comes."""
    key, until, why = home.key("compute"), time.monotonic() + ledger.patience_s, "it broke off"
    while part.size < size:
        try:
            with ledger.artefact(artefact, access, key, part.size) as reply:
                if reply.status != http.HTTPStatus.PARTIAL_CONTENT:
                    part.begin_again()
                while piece := reply.read(min(PIECE_BYTES, size - part.size)):
                    part.add(piece)
                    until = time.monotonic() + ledger.patience_s
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            why = str(error)
        except Refused as refused:
            if refused.refusal is not Refusal.UNREACHABLE:
                raise
            why = refused.detail
        if part.size < size:
            if time.monotonic() > until:
                raise Refused(Refusal.UNREACHABLE, f"{why}; {part.size:,} bytes are kept: the same command goes on")
            time.sleep(min(RETRY_S, ledger.patience_s))
