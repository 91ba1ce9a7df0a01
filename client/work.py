"""Work that the log asks to see: which it is, showing one's own, repeating another's, and saying what came of it.

By hand, an opening is a file that members give to one another. `answer` does all of it by itself, by way of the ledger:
a member's daemon calls it now and then (client/answers.py). `audit` does a coordinator's part of it, which has no work
of its own: it repeats what members show.
"""

import http.client
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from client import aside
from client.auditor import audited, recomputed
from client.home import Home
from client.signer import Signer
from client.witness import Witness
from shared_models import durable
from shared_models.folder import Folder
from shared_models.ledger_http import AWAY, LedgerHttp
from shared_models.published import Read, bundles
from shared_models.records import entry as entries
from shared_models.records import tlog
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import FIRST, AuditResult, Manifest, Receipt
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.books import Books
from shared_models.rules.challenge import Challenge, ends

if TYPE_CHECKING:
    from client.reexecute import Opening

# Whose receipt a leaf is, of which node and run, as canonical JSON spells it.
_RECEIPT = re.compile(rb'[^\n]+/receipt@v1\n.*"member":"([^"]+)".*"node":"([^"]+)".*"run":"([^"]+)"')
LINE_BYTES = 1 << 20  # The first line of an opening: digests, a kilobyte for each point of the trajectory at most.


class Work(NamedTuple):
    """A receipt, and what belongs to it, from a log that was audited."""

    receipt: Receipt
    hash: str
    manifest: Manifest
    manifest_hash: str
    earlier: Receipt | None  # The one that the member signed for this run and node before it.
    challenge: Challenge | None  # If it counts, and can be disputed.


class Party(NamedTuple):
    """Who repeats the work of others: a member, or the coordinator."""

    name: str  # As its results say it.
    folder: Folder
    ledger: LedgerHttp
    key: SigningKey  # By which the ledger lets it have what was shown to it.
    machine: Mapping[str, str]  # As `client.training.Machine.told` reads it.
    tokens: Path  # Where it keeps texts in tokens.
    say: Callable[[AuditResult], int]  # Signs, at the end of its chain, and appends; the index.


def _member(home: Home) -> Party:
    def say(result: AuditResult) -> int:
        ledger = home.ledger()
        home.learn_keys(ledger)
        last = ledger.last(f"{home.settings.member}/compute")
        signer = Signer(home, Witness(home, ledger.consistency))
        return signer.say(lambda: result, last[0] + 1 if last else 0, ledger.append)

    key = home.key("compute")
    return Party(home.settings.member, home, home.ledger(), key, home.machine(), home.tokens_path, say)


def challenged(books: Books, member: str) -> list[dict[str, Any]]:
    """What the log has drawn of work that can be disputed, whose it is, and what was found, for programs."""
    found = dict[str, list[dict[str, Any]]]()
    for at, each in books.results:
        told = {"entry": at, "auditor": each.auditor, "verdict": each.verdict, "distance_ppm": each.distance_ppm}
        found.setdefault(each.receipt, []).append(told)
    return [
        {
            **each._asdict(),
            "yours": each.member == member,
            "for_you": member in each.auditors,
            "results": found.get(each.receipt, []),
        }
        for each in books.challenges()
        if each.segment is not None
    ]


def text(drawn: list[dict[str, Any]]) -> str:
    """The same for a reader."""
    lines = []
    for each in drawn:
        whose = "yours" if each["yours"] else each["member"] + (", for you to repeat" if each["for_you"] else "")
        lines.append(f"{each['receipt']}  segment {each['segment']} of round {each['round']} of {each['run']}, {whose}")
        lines += [f"  {said['auditor']} said {said['verdict']}: entry {said['entry']}" for said in each["results"]]
    return "\n".join(lines) or "the log has drawn no work that can be disputed now"


def show(folder: Path, receipt: str, segment: int | None, to: Path) -> int:
    """Write the opening of a segment of one's own receipt to a file that is not there yet; which segment it is.

    By default the one that the log drew. Raises `Refused`: NOT_DRAWN, NOT_FOUND, BAD_FIELD, or as `reexecute.show`.
    """
    home = Home(folder)
    found = _work(home, audited(home), receipt)
    if found.receipt.member != home.settings.member:
        raise Refused(Refusal.WRONG_MEMBER, f"{receipt[:12]}… is a receipt of {found.receipt.member}")
    if to.exists():
        raise Refused(Refusal.BAD_FIELD, f"--to {to}: it is there already, and nothing is written over")
    segment = _asked(found, receipt) if segment is None else segment
    if segment >= (segments := len(ends(found.manifest.recipe_of(found.receipt.member))) - 1):
        raise Refused(Refusal.BAD_FIELD, f"--segment {segment} of {segments}, the first one is 0")
    durable.write(to, _opened(home, found, segment))
    return segment


def _opened(home: Home, found: Work, segment: int) -> bytes:
    """The opening of a segment of one's own receipt: that round is trained again."""
    if not found.manifest.recipe.ours:
        return aside.show(home, found.receipt, found.hash, found.manifest, found.manifest_hash, segment)
    from client import begun, data, reexecute
    from client.training import Machine

    return reexecute.show(
        begun.recall(home.begun_path, found.manifest_hash, found.receipt.round),
        found.receipt,
        found.hash,
        found.manifest,
        segment=segment,
        text=home.text,
        salt=home.salt(found.receipt.run, found.receipt.round),
        machine=Machine.told(home.machine()),
        cut=data.Kept(home.tokenizers_path, home.tokens_path),
        synthetic=home.synthetic,
    )


def replay(
    folder: Path, shown: bytes, *, sign: bool, text: Path | None = None, synthetic: Path | None = None
) -> dict[str, Any]:
    """Repeat what an opening shows, and say in the log what came of it, if that is asked for. Raises `Refused`.

    `text` is the member's, where it is a file that only it and whom it trusts have; `synthetic`, what it sampled.
    """
    from client import reexecute

    home = Home(folder)
    books = audited(home)
    work = _work(home, books, reexecute.read(shown).receipt)
    return _replayed(_member(home), books, work, shown, sign=sign, text=text, synthetic=synthetic)


def _replayed(
    party: Party, books: Books, work: Work, shown: bytes, *, sign: bool, text: Path | None, synthetic: Path | None
) -> dict[str, Any]:
    from client import data, reexecute, training

    machine = training.Machine.told(party.machine)
    opening = reexecute.read(shown)
    receipt, hashed, segment = work.receipt, work.hash, opening.segment
    about = shown, receipt, hashed, work.manifest, work.earlier
    if work.manifest.recipe.ours or not isinstance(party.folder, Home):  # A coordinator runs its run's model anyway.
        cut = data.Kept(party.folder.tokenizers_path, party.tokens)
        verdict, distance, why = reexecute.replay(*about, text, machine, cut, synthetic)
    else:
        verdict, distance, why = aside.replay(party.folder, *about, text, synthetic)
    told: dict[str, Any] = {"receipt": hashed, "member": receipt.member, "run": receipt.run}
    for said, sample in zip(opening.slice, opening.sample, strict=False):
        told |= {"synthetic_tokens": said.synthetic, "trained_tokens": said.trained, "artefact": sample.artefact}
        if books.library.grants.get(sample.grant) != (receipt.member, sample.artefact):  # It has signed that it was.
            why = f"entry {sample.grant} does not say that {receipt.member} took artefact {sample.artefact[:12]}…"
            verdict, distance = "differs", reexecute.FARTHEST_PPM
    told |= {"round": receipt.round, "segment": segment, "verdict": verdict, "distance_ppm": distance, "why": why}
    if sign:
        build = training.build(work.manifest.recipe.precision, machine, work.manifest.recipe.inner)
        told["entry"] = _say(party, work, segment, verdict, distance, build)
    return told


def answer(folder: Path, texts: Sequence[Path] = ()) -> Iterator[dict[str, Any]]:
    """Show what the log has drawn of one's own work, repeat what others have shown of theirs, and sign what came of it;
    for programs, what came of each.

    Another's is repeated by whom the log has drawn for it, and by who has its text, as one of these files. Each is done
    once: `answered.json` says what came of it, and of what was refused for good. What is not there yet, or cannot be
    reached, is for the next time. Raises `Refused` as `audited`.
    """
    home = Home(folder)
    party, books = _member(home), audited(home)

    def do(work: Work, asked: Challenge) -> dict[str, Any] | None:
        if asked.member == party.name:
            return _shown(home, work, asked)
        return _repeated(party, books, work, asked, texts)

    concerned = (each for each in books.challenges() if texts or party.name in (each.member, *each.auditors))
    return _each(party, books, concerned, do)


def audit(party: Party, texts: Sequence[Path] = ()) -> Iterator[dict[str, Any]]:
    """Repeat all that members have shown of what the log has drawn, and sign what came of it, as the coordinator.

    It has no text of its own: it repeats what was trained on a public one, or on one of these files. Else as `answer`.
    """

    books = recomputed(party.folder, party.ledger)

    def do(work: Work, asked: Challenge) -> dict[str, Any] | None:
        return _repeated(party, books, work, asked, texts, public=True)

    return _each(party, books, books.challenges(), do)


def _each(
    party: Party,
    books: Books,
    concerned: Iterator[Challenge],
    do: Callable[[Work, Challenge], dict[str, Any] | None],
) -> Iterator[dict[str, Any]]:
    """Do this with each that the log has drawn of these, and that was not done before; what came of it."""
    said = {each.receipt for _, each in books.results if each.auditor == party.name}
    drawn = {each.receipt: each for each in concerned if each.segment is not None}
    path = party.folder.path / "answered.json"
    done = {receipt: came for receipt, came in _answered(path).items() if receipt in drawn}
    asked = [each for receipt, each in drawn.items() if receipt not in done and receipt not in said]
    found = works(party.ledger.read, books, {each.receipt for each in asked})
    for each in asked:
        told = {"receipt": each.receipt, "member": each.member, "run": each.run, "round": each.round}
        told |= {"segment": each.segment}
        try:
            more = do(found[each.receipt]._replace(challenge=each), each)
        except Refused as refused:
            more = {"refused": refused.refusal.value, "why": str(refused), "again": refused.refusal in AWAY}
        if more is not None:
            if not more.pop("again", False):
                done[each.receipt] = more.get("refused", more.get("verdict", "shown"))
                durable.write(path, json.dumps(done).encode())
            yield told | more


def _answered(path: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}  # What was done is done again, to the same bytes.
    return found


def _shown(home: Home, work: Work, asked: Challenge) -> dict[str, Any]:
    """Show one's own work to the round's other members, by way of the ledger."""
    assert asked.segment is not None
    opening = _opened(home, work, asked.segment)
    home.ledger().show(asked.run, asked.round, asked.member, opening, home.key("compute"))
    return {"shown_bytes": len(opening)}


def _repeated(
    party: Party, books: Books, work: Work, asked: Challenge, texts: Sequence[Path], *, public: bool = False
) -> dict[str, Any] | None:
    """Repeat what another has shown, if it has, and we were drawn for it, have its text, or it may be `public`; else
    None.

    Raises `Refused`: NOT_FOUND if who was drawn lacks its text, UNREACHABLE if it does not come whole, or as
    `_replayed`.
    """
    from client import data, reexecute

    try:
        reply = party.ledger.opening(asked.run, asked.round, asked.member, party.key)
    except Refused as refused:
        if refused.refusal is Refusal.NOT_FOUND:
            return None  # It may come yet.
        raise
    with reply:
        try:
            line = reply.readline(LINE_BYTES)
            opening = reexecute.read(line)
            text, synthetic = _entrusted(opening, texts)
            anybodys = not opening.sample and not opening.text.startswith(data.DIGEST)
            if text is None and party.name not in asked.auditors and not (public and anybodys):
                return None
            shown = line + reply.read()
        except (http.client.HTTPException, OSError) as error:
            raise Refused(Refusal.UNREACHABLE, f"what {asked.member} has shown: {error}") from None
    return _replayed(party, books, work, shown, sign=True, text=text, synthetic=synthetic)


def _entrusted(opening: "Opening", texts: Sequence[Path]) -> tuple[Path | None, Path | None]:
    """Of these files the text that an opening names, and the synthetic one."""
    from client import data

    found = {data.named(f"{data.FILE}{each}"): each for each in texts}
    return found.get(opening.text), next((found.get(data.DIGEST + each.text) for each in opening.sample), None)


def unanswered(folder: Path, receipt: str) -> int:
    """Say in the log that a member has not shown what was drawn; the index of the entry. Raises `Refused`."""
    home = Home(folder)
    found = _work(home, audited(home), receipt)
    # Nothing was computed: the build is the receipt's.
    return _say(_member(home), found, _asked(found, receipt), "unanswered", 0, found.receipt.build)


def _asked(found: Work, receipt: str) -> int:
    if found.challenge is None or found.challenge.segment is None:
        raise Refused(Refusal.NOT_DRAWN, f"the log has drawn nothing of {receipt[:12]}… that can be disputed now")
    return found.challenge.segment


def _say(party: Party, found: Work, segment: int, verdict: str, distance_ppm: int, build: str) -> int:
    _asked(found, found.hash)
    assert found.challenge is not None
    return party.say(
        AuditResult(
            seq=0,
            prev=FIRST,
            auditor=party.name,
            run=found.receipt.run,
            round=found.receipt.round,
            member=found.receipt.member,
            receipt=found.hash,
            size=found.challenge.size,
            segment=segment,
            verdict=verdict,
            distance_ppm=distance_ppm,
            build=build,
        )
    )


def _work(home: Home, books: Books, hashed: str) -> Work:
    """The receipt of this leaf hash, and what belongs to it. Raises `Refused`: NOT_FOUND, or as `works`."""
    found = works(home.ledger().read, books, {hashed}).get(hashed)
    if found is None:
        raise Refused(Refusal.NOT_FOUND, f"the log holds no receipt {hashed[:12]}…")
    asked = next(books.challenges((found.receipt.run, found.receipt.round, found.receipt.member)), None)
    return found._replace(challenge=asked if asked is not None and asked.receipt == hashed else None)


def works(read: Read, books: Books, wanted: Collection[str]) -> dict[str, Work]:
    """The receipts among these leaf hashes, each without its challenge, in one pass over the log of these books.

    Raises `Refused(CORRUPT)` if it does not read as it was audited: without the receipt before it, honest work would
    seem to carry something over from nowhere.
    """
    found, newest = dict[str, Work](), dict[tuple[bytes, ...], bytes]()
    for bundle in bundles(read, books.tree.size) if wanted else ():
        hashes = [leaf_hash(leaf) for leaf in bundle.leaves]
        end = min(bundle.start + tlog.WIDTH, books.tree.size)
        if b"".join(hashes) != books.tree.hashes(0, bundle.start, end):
            raise Refused(Refusal.CORRUPT, f"entries {bundle.start} to {end - 1} are not those that were audited")
        for leaf, hashed in zip(bundle.leaves, map(bytes.hex, hashes), strict=True):
            if (said := _RECEIPT.match(leaf)) is not None:
                if hashed in wanted:
                    receipt, before = entries.peek(leaf), entries.peek(newest.get(said.groups(), b""))
                    assert isinstance(receipt, Receipt)
                    assert isinstance(before, Receipt | None)
                    run = books.run(receipt.run)
                    found[hashed] = Work(receipt, hashed, run.manifest, run.hash, before, None)
                newest[said.groups()] = leaf
    return found
