"""Taking over from a coordinator that is gone for good: its role by the members' votes, its runs from the log and from
what members hold (docs/decisions/0021).

What a run is, each of its rounds and where it is stand in the log. Everything else is looked for under its digest in
the folders that are named: a member's, which has the checkpoint that it was last asked to train from, or a copy of the
old coordinator's, which may have all. Nothing in them is believed.
"""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from server.home import Home, Settings, create
from server.journal import Turn
from server.launch import keep_text
from shared_models import durable, invites
from shared_models.folder import KEYRING, TOKENIZERS, Folder
from shared_models.ledger_http import LedgerHttp
from shared_models.lm import models, tokenizer, weights
from shared_models.published import fetch
from shared_models.records import entry as entries
from shared_models.records.kinds import (
    FIRST,
    Excluded,
    Included,
    RoundClose,
    RoundOpen,
    sealed_seed,
)
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.audit import audit
from shared_models.rules.books import Books, Round, Run

NOTE = "moved.note"  # In the coordinator's folder: where it is, for every member.
LOST = "lost"  # How an update is judged that nobody has seen who can say so.


@dataclass(frozen=True, slots=True)
class Taken:
    """Where a run goes on."""

    round: int  # Behind this one,
    checkpoint: str  # from here.
    remembers: bool  # Whether the outer step goes on from what it remembered; else from nothing.
    handed_over: RoundClose | None  # The round that has no step, if there had to be one.


def prepare(path: Path, member: Folder, settings: Settings) -> Home:
    """Make the folder of a coordinator that may be elected, with keys of its own: all of it, or nothing.

    `member` is the folder whose charter it takes over. Raises `Refused(LOCKED)` over an old folder.
    """
    path = path.resolve()
    if path.exists():
        raise Refused(Refusal.LOCKED, f"{path} is there; keys are never overwritten")
    charter = member.charter_entry
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".taking-over-") as scratch:
        made = create(Path(scratch) / "home", member.charter.consortium, settings).path
        durable.write(made / "charter.note", charter.leaf)
        if (member.path / KEYRING).is_dir():
            shutil.copytree(member.path / KEYRING, made / KEYRING)
        os.rename(made, path)
        durable.sync_folder(path.parent)
    return Home(path)


def elected(home: Home) -> bool:
    """Whether the members have made this folder's key the coordinator's, by what it has learned of the log."""
    key = home.key.verify_key
    return home.keyring.counts(key.name, key.id)


def tell(home: Home) -> Path:
    """Write the note that tells members where this coordinator is; its path."""
    settings = home.settings
    name, _, port = (settings.gateway or settings.superlink).rpartition(":")
    moved = invites.Moved(
        consortium=home.charter.consortium,
        superlink=f"{(settings.gateway and settings.gateway_name) or name}:{port}",
        authority=(home.path / "tls" / "ca.crt").read_text(),
    )
    durable.write(home.path / NOTE, invites.sign(moved, [home.key]))
    return home.path / NOTE


def take_over(
    path: Path, run: str, files: Sequence[Path], *, back_to: int | None = None, held_out: Path | None = None
) -> Taken:
    """Put into the folder of a coordinator that was elected what `consortium run --resume` needs to go on with a run.

    If it is not all there, the round that is open, or one that is opened for that, is handed over in the log. With
    `back_to` the run goes on from the checkpoint of that round (0: from its first one), because a later one is lost.
    The same again takes over what the log has come to since. Raises `Refused`, before anything is written: UNKNOWN_KEY
    if others were elected; UNKNOWN_RUN; WRONG_ROUND if the run has ended, or never had that round; NOT_HELD; NOT_FOUND
    or WRONG_DIGEST for the held-out text; what an audit of the log finds; and as the ledger refuses.
    """
    home = Home(path)
    ledger = home.ledger()
    home.learn_keys(ledger)
    if not elected(home):
        raise Refused(Refusal.UNKNOWN_KEY, f"the charter in force names another coordinator than {path}/keys has")
    books, leaves = _audited(home, ledger)
    taken = books.run(run)
    if taken.ended is not None:
        raise Refused(Refusal.WRONG_ROUND, f"run {run} has ended: {taken.ended.status}")
    said = [(one, leaf) for leaf in leaves if isinstance(one := entries.peek(leaf), RoundOpen | RoundClose)]
    said = [(one, leaf) for one, leaf in said if one.run == run]
    closes = [one for one, _ in said if isinstance(one, RoundClose)]
    number = len(closes) if back_to is None else back_to
    if not 0 <= number <= len(closes) or number < len(closes) == taken.manifest.rounds:
        raise Refused(Refusal.WRONG_ROUND, f"run {run} cannot go on from round {number}: the log closes {len(closes)}")

    checkpoint, loss = taken.manifest.base, taken.manifest.loss_unats
    if number:
        checkpoint, loss = closes[number - 1].checkpoint, closes[number - 1].loss_unats
    places = [home.path, *files]
    # What the recipe's seed draws is drawn again.
    needed = sorted({checkpoint} - {taken.manifest.base} | {taken.manifest.start} - {FIRST})
    found = [_found(places, digest) for digest in needed]
    text = _text(taken.manifest.recipe.corpus, places, held_out)
    cut = _cut(taken.manifest.recipe.tokenizer, places)
    models.check_held(taken.manifest.recipe.model, home.models_path)  # Its code will run here: no copy is taken of it.
    state = closes[-1].state if closes else weights.NOTHING
    kept = _state(places, state) if checkpoint == taken.checkpoint else None
    opened = taken.rounds[-1] if len(taken.rounds) > len(closes) else None
    whole = kept is not None and (opened is None or any(_whole(place, taken, opened) for place in places))
    whole = whole or len(closes) == taken.manifest.rounds  # Then nothing is trained any more.
    if not whole and taken.by == home.key.verify_key.id:
        raise Refused(Refusal.WRONG_SEED, f"round {len(closes)} was closed by this very key: it hands nothing over")

    runs = home.path / "runs" / taken.hash
    for each in found:
        weights.keep(each, home.path / "checkpoints")
    if kept is not None:
        weights.keep(kept, runs / "state")
    if text is not None:
        keep_text(text, home.texts_path)
    if cut is not None:
        tokenizer.keep(cut, home.tokenizers_path)
    _fill(runs, said, [place / "runs" / taken.hash for place in files])
    if whole:
        return Taken(len(closes), checkpoint, True, None)
    if opened is None:
        _open(home, ledger, taken, runs)
        taken = _audited(home, ledger)[0].run(run)
    closing = replace(
        _without_a_step(taken),
        checkpoint=checkpoint,
        loss_unats=loss,
        state=weights.NOTHING if kept is None else state,
    )
    home.say(ledger, home.key, closing, Turn(runs, closing.round).closed)
    return Taken(closing.round, checkpoint, kept is not None, closing)


def _whole(place: Path, run: Run, opened: Round) -> bool:
    """Whether there is all that it takes to close the open round as its own coordinator would have."""
    answered = [work.member for work in opened.receipts.values()]
    return Turn(place / "runs" / run.hash, opened.number).whole(opened.sealed, answered)


def _fill(runs: Path, said: Sequence[tuple[RoundOpen | RoundClose, bytes]], copies: Sequence[Path]) -> None:
    """Fill a run's journal with what these copies of it have, and the log; what that does not have was not said."""
    for copy in copies:
        if copy.is_dir():
            notes = shutil.ignore_patterns("*.note")
            shutil.copytree(copy, runs, ignore=notes, copy_function=_add, dirs_exist_ok=True)
    for one, leaf in said:
        turn = Turn(runs, one.round)
        durable.make_folder(turn.folder)
        durable.write(turn.opened if isinstance(one, RoundOpen) else turn.closed, leaf)


def _open(home: Home, ledger: LedgerHttp, run: Run, runs: Path) -> None:
    """Open the next round, of which nobody is asked: only in a round can one be handed over."""
    turn, now_ms = Turn(runs, len(run.rounds) + 1), time.time_ns() // 1_000_000
    opened = RoundOpen(
        seq=0,
        prev=FIRST,
        run=run.manifest.run,
        round=len(run.rounds) + 1,
        manifest=run.hash,
        base=run.checkpoint,
        invited=tuple(sorted(run.consents - home.keyring.agreement.left.keys())),
        opened_ms=now_ms,
        deadline_ms=now_ms,
        sealed=sealed_seed(turn.seed()),
    )
    home.say(ledger, home.key, opened, turn.opened)


def _without_a_step(run: Run) -> RoundClose:
    """How the run's open round is handed over: the work that is receipted counts, and no update does."""
    turn, manifest = run.rounds[-1], run.manifest
    included = _lost({work.member: hashed for hashed, work in turn.receipts.items()})
    still = {work.member: hashed for hashed, (of, work) in run.late.items() if of >= turn.number - manifest.late}
    return RoundClose(
        seq=0,
        prev=FIRST,
        run=manifest.run,
        round=turn.number,
        base=turn.base,
        checkpoint=turn.base,
        included=included,
        excluded=tuple(
            Excluded(member=each, reason=Refusal.NOT_HELD.value)
            for each in sorted(turn.invited - {one.member for one in included})
        ),
        late=_lost(still),
        loss_unats=0,
        state=weights.NOTHING,
        seed=FIRST,
    )


def _lost(receipts: Mapping[str, str]) -> tuple[Included, ...]:
    """These members' receipts, by leaf hash, as they stand in a round that was handed over."""
    return tuple(
        Included(member=each, receipt=hashed, weight=0, gain_unats=0, judged=LOST)
        for each, hashed in sorted(receipts.items())
    )


def _audited(home: Home, ledger: LedgerHttp) -> tuple[Books, list[bytes]]:
    """The books of the log, recomputed here, and its leaves. Raises `Refused` with the first thing that is wrong."""
    log = fetch(ledger.read)
    charter = home.charter_entry.hash.hex()
    report = audit(log.leaves, log.head, log.hashes, cosigned=log.cosigned, charter=charter)
    for each in report.findings:
        raise Refused(each.refusal, f"the log is not right, and nothing was taken over: {each}")
    return report.books, log.leaves


def _found(places: Sequence[Path], digest: str) -> weights.Stored:
    """The weights of this digest, wherever they lie in one of these folders. Raises `Refused(NOT_HELD)`."""
    others = 0
    for path in (each for place in places for each in place.rglob(f"{digest}.safetensors")):
        try:
            return weights.stored(path.parent, digest)
        except Refused:
            others += 1
    where = ", ".join(map(str, places))
    but = f"; {others} files of that name hold others" if others else ""
    raise Refused(Refusal.NOT_HELD, f"no {digest}.safetensors in {where}{but}")


def _state(places: Sequence[Path], digest: str) -> weights.Tensors | None:
    """What the outer step remembers under this digest, if one of these folders has it."""
    try:
        return {} if digest == weights.NOTHING else _found(places, digest)
    except Refused:
        return None


def _text(corpus: str, places: Sequence[Path], given: Path | None) -> Path | None:
    """The file that checkpoints are scored on, if it is one: it was given, or lies in one of these folders.

    Raises `Refused`: NOT_HELD; WRONG_DIGEST if it is another; NOT_FOUND if what was given is no file.
    """
    kind, _, digest = corpus.partition(":")
    if kind != "sha256":
        return None
    path = given or next((each for place in places if (each := place / "texts" / digest).is_file()), None)
    if path is None:
        raise Refused(Refusal.NOT_HELD, f"checkpoints are scored on a text {digest[:12]}…: name it, --held-out")
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Refused(Refusal.NOT_FOUND, f"the held-out text {path}: {error.strerror}") from None
    if found != digest:
        raise Refused(Refusal.WRONG_DIGEST, f"{path} is {found[:12]}…, checkpoints are scored on {digest[:12]}…")
    return path


def _cut(named: str, places: Sequence[Path]) -> Path | None:
    """The file of the run's tokenizer, if it has one, in one of these folders. Raises `Refused(NOT_HELD)`."""
    if named == tokenizer.BYTES:
        return None
    digest = named.removeprefix(tokenizer.NAMED)
    path = next((each for place in places if (each := place / TOKENIZERS / digest).is_file()), None)
    if path is None:
        raise Refused(Refusal.NOT_HELD, f"the run's text is cut by a tokenizer {digest[:12]}…: no folder has it")
    return path


def _add(source: str, path: str) -> None:
    """Copy a file, but over none that is there."""
    if not Path(path).exists():
        shutil.copyfile(source, path)
