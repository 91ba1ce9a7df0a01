"""The rounds of a run: open, ask, admit, step, close. Here is decided; Flower is touched elsewhere.

Nothing the coordinator says has to be believed. What it opens and closes are log entries; which answers count stands in
them with the reason for each that does not; and the outer step adds up in member order, so that anyone can repeat it.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from server.admission import Admitted, Asked, admit
from server.home import Home
from server.journal import Turn
from server.offers import Offers
from server.outer import Outer
from shared_models import durable
from shared_models.claims import Begin
from shared_models.ledger_http import AWAY, LedgerHttp
from shared_models.lm import codecs
from shared_models.lm.codecs import Decoded, Packed
from shared_models.messages import Answer, Task
from shared_models.published import fetch
from shared_models.records import entry as entries
from shared_models.records import merkle, tlog
from shared_models.records.kinds import (
    FIRST,
    Chained,
    Excluded,
    Included,
    RoundClose,
    RoundOpen,
    RunEnd,
    sealed_seed,
)
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.stopping import plateau
from shared_models.transport import Carried

GATHER_S = 60.0  # How long a run waits for all its members to come online,
PATIENCE_S = 300.0  # and for a quorum of them.
LOOK_S = 0.2
LATE_S = 86_400.0  # How long after its round an update may be brought that counts late.

log = logging.getLogger(__name__)


class Exchange(Protocol):
    """The way to the members."""

    def online(self) -> set[str]:
        """The members that can be asked now."""
        ...

    def ask(
        self,
        tasks: Mapping[str, Task],
        until: float,
        max_bytes: int,
        instead: Callable[[str, Refused], Task | None],
        enough: Callable[[bool], bool],
        keep: bool,
    ) -> Iterator[tuple[str, Answer | Refused]]:
        """Ask each member its task; each answer as it comes, or why there is none.

        Ends when all have answered, at `until` (monotonic clock), or when there are `enough` answers: that is asked
        with whether nobody is there any more who could give another one. Who is offline may come back before that, and
        is asked then; at the end it is DEAD. An update may hold `max_bytes`. To whom a refusal is no answer yet,
        `instead` gives another task, and it is asked that. With `keep`, who is LATE then may answer later, among the
        answers to what is asked next; without tasks, one of these is waited for.
        """
        ...

    def drop(self, member: str) -> None:
        """Wait for a member's late answer no more."""
        ...


class Coordinator:
    """The coordinator at work on one run."""

    def __init__(self, home: Home, ledger: LedgerHttp, exchange: Exchange, run: str) -> None:
        self.home, self.ledger, self.exchange = home, ledger, exchange
        self._status: dict[str, Any] = {"run": run}
        self.manifest, self._manifest_leaf, self._consents = home.run(ledger, run)
        self._folder = home.path / "runs" / merkle.leaf_hash(self._manifest_leaf).hex()
        self._offers = Offers(home, self._folder.name)
        self._outer = Outer(
            self.manifest.recipe,
            self.manifest.rounds,
            home.path / "checkpoints",
            self._folder / "state",
            home.texts_path,
            self.manifest.start,
            self.manifest.frozen,
            home.tokenizers_path,
            home.models_path,
            home.settings.processor,
        )
        self._checkpoint = self.manifest.base  # Digest of where the run is,
        self._state = ""  # and of what the outer step remembers.
        self._witnessed: dict[str, int] = {}  # The size of the tree head that each member last cited.
        self._seen: set[str] = set()  # Receipts answered with so far.
        self._holding: set[str] = set()  # Members that answered in the last round: they hold its base,
        self._since = ""  # which is this,
        self._step: Mapping[str, Packed] = {}  # and from which this leads to where the run is.
        self._working: dict[str, tuple[Asked, Turn]] = {}  # Members that still work for an earlier round.
        self._late: dict[str, tuple[int, Admitted]] = {}  # Their answers, by member, with the round, not yet counted.
        self._counted: set[str] = set()  # Receipts that a close has included.

    def train(self) -> None:
        """Train the run to its end, from where it was left; how it ended is in the log, whatever happens.

        Raises what made it fail; `Refused`: WRONG_ROUND for a run that has ended, NO_JOURNAL. One that was killed has
        not ended, nor one whose ledger did not answer: who trains it again goes on with it, to the checkpoints that it
        would have come to.
        """
        if (ended := self._folder / "end.note").is_file():
            end = entries.peek(ended.read_bytes())
            assert isinstance(end, RunEnd)
            self._say(end, ended)  # The log may not have been told.
            raise Refused(Refusal.WRONG_ROUND, f"run {self.manifest.run} has ended: {end.status}")
        self._check_journal()
        try:
            reason = self._rounds()
        except Exception as error:
            if isinstance(error, Refused) and error.refusal in AWAY:
                self._show(phase="interrupted", reason=_line(str(error)))
                raise
            reason = _line(f"{type(error).__name__}: {error}")
            self._show(phase="failed", reason=reason)
            self._end("failed", reason)
            raise
        status = "stopped" if reason else "completed"
        self._end(status, reason)
        self._show(phase=status)

    def _rounds(self) -> str:
        """Train every round; why the run stops before its last one, or nothing."""
        manifest = self.manifest
        base, self._state = self._outer.begin()
        if base != manifest.base:
            raise Refused(
                Refusal.WRONG_BASE, f"seed {manifest.recipe.seed} gives other first weights than {manifest.base[:12]}…"
            )
        self._show(phase="gathering", rounds=manifest.rounds, loss=manifest.loss_unats / 1e6)
        losses, gathered = [manifest.loss_unats], False
        for number in range(1, manifest.rounds + 1):
            turn = Turn(self._folder, number)
            if turn.closed.is_file():
                closed = self._reopened(turn)
            else:
                if not gathered:
                    gathered = self._gather()
                    self._recover(number)
                closed = self._round(number, turn)
            self._counted |= {each.receipt for each in (*closed.included, *closed.late)}
            self._checkpoint, self._state = closed.checkpoint, closed.state
            if closed.checkpoint != closed.base:
                losses.append(closed.loss_unats)
            self._show(loss=closed.loss_unats / 1e6)
            if number < manifest.rounds and plateau(losses, manifest.patience):
                return f"the held-out loss was no lower for {manifest.patience} rounds"
        return ""

    def _check_journal(self) -> None:
        """Raises `Refused(NO_JOURNAL)` if the log has rounds of this run of which this disk knows nothing.

        To open or close one of them again would be to say two things about it.
        """
        last = self.ledger.last(self.home.key.name)
        if last is not None and last[1] == merkle.leaf_hash(self._manifest_leaf).hex():
            return  # Nothing was said since.
        for leaf in fetch(self.ledger.read).leaves:
            said = entries.peek(leaf)
            if isinstance(said, RoundOpen | RoundClose) and said.run == self.manifest.run:
                turn = Turn(self._folder, said.round)
                if not (turn.opened if isinstance(said, RoundOpen) else turn.closed).is_file():
                    raise Refused(Refusal.NO_JOURNAL, f"the log has round {said.round}, {turn.folder} has not")

    def _round(self, number: int, turn: Turn) -> RoundClose:
        """Have a round trained, and move the checkpoint by what comes of it."""
        asked, proof = self._open(number, turn)
        admitted, excluded = self._ask(asked, proof, turn)
        late, self._late = self._late, {}
        works = {member: admitted[member] for member in sorted(admitted)}
        works |= {f"{member}/{late[member][0]}": late[member][1] for member in sorted(late)}
        ages = {f"{member}/{of}": number - of for member, (of, _) in late.items()}
        number_of = self.manifest.members.index
        updates = {name: self._outer.placed(work.update, number_of(work.member)) for name, work in works.items()}
        invited = len(asked.opened.invited) + len(late)
        steps = {name: self.manifest.recipe_of(work.member).inner_steps for name, work in works.items()}
        judged = self._outer.judge(self._checkpoint, updates, invited, turn.seed(), ages, steps)
        included = {
            name: Included(
                member=work.member,
                receipt=work.receipt,
                weight=judged[name].weight,
                gain_unats=judged[name].gain_unats,
                judged=judged[name].note,
            )
            for name, work in works.items()
        }
        self._holding, self._since, self._step = set(admitted), self._checkpoint, {}
        checkpoint, state = self._checkpoint, self._state
        if len(works) >= self.manifest.quorum:
            weighed = [(judged[name].weight, update) for name, update in updates.items()]
            checkpoint, state, self._step = self._outer.step(number, checkpoint, state, weighed, turn.step)
        loss = self._outer.loss(checkpoint)
        closing = RoundClose(
            seq=0,
            prev=FIRST,
            run=self.manifest.run,
            round=number,
            base=asked.opened.base,
            checkpoint=checkpoint,
            included=tuple(each for name, each in included.items() if name not in ages),
            late=tuple(each for name, each in included.items() if name in ages),
            excluded=tuple(
                Excluded(member=member, reason=excluded[member].refusal.value) for member in sorted(excluded)
            ),
            loss_unats=round(1e6 * loss),
            state=state,
            seed=turn.seed(),
        )
        self._say(closing, turn.closed)
        log.info(
            "round %d of %d: %d of %d answers count, held-out loss %.3f",
            number,
            self.manifest.rounds,
            len(admitted),
            len(asked.opened.invited),
            loss,
        )
        return closing

    def _reopened(self, turn: Turn) -> RoundClose:
        """A round that was closed before this process began; the log may not have been told."""
        closed = entries.peek(turn.closed.read_bytes())
        assert isinstance(closed, RoundClose)
        self._say(closed, turn.closed)
        log.info("round %d was closed before", closed.round)
        return closed

    def _gather(self) -> bool:
        """Wait for the members that consented. Raises `Refused(DEAD)` if no quorum of them comes."""
        started = time.monotonic()
        while missing := self._consents - self.exchange.online():
            waited = time.monotonic() - started
            enough = len(self._consents) - len(missing) >= self.manifest.quorum
            if waited > GATHER_S and enough:
                return True
            if waited > PATIENCE_S:
                raise Refused(Refusal.DEAD, f"no quorum: {', '.join(sorted(missing))} did not come online")
            self._show(waiting=dict.fromkeys(sorted(missing), round(waited, 1)))
            time.sleep(LOOK_S)
        return True

    def _open(self, number: int, turn: Turn) -> tuple[Asked, tlog.Proof]:
        """Open a round in the log, for everybody to see before anybody is asked; or find it open."""
        self.home.learn_keys(self.ledger)  # Who signs with which key, and who has left.
        opened_ms = time.time_ns() // 1_000_000
        opened = RoundOpen(
            seq=0,
            prev=FIRST,
            run=self.manifest.run,
            round=number,
            manifest=merkle.leaf_hash(self._manifest_leaf).hex(),
            base=self._checkpoint,
            invited=self._free(number),
            opened_ms=opened_ms,
            deadline_ms=opened_ms + self.manifest.deadline_ms,
            sealed=sealed_seed(turn.seed()),
        )
        if turn.opened.is_file():
            before = entries.peek(turn.opened.read_bytes())
            assert isinstance(before, RoundOpen)
            opened = before
        leaf, proof = self._say(opened, turn.opened)
        self._offers.begin(number, self.manifest.late)
        return self._asked(opened, leaf), proof

    def _asked(self, opened: RoundOpen, leaf: bytes) -> Asked:
        keyring = self.home.keyring
        return Asked(keyring.charter, keyring.keys, self.manifest, opened, leaf, self._outer.update_shapes)

    def _free(self, number: int) -> tuple[str, ...]:
        """The members that can be invited to a round: those that do not still work for one before it.

        Whose answer would come too late to count is waited for no more. If all are at work, one of them is waited for,
        or none any longer.
        """
        for member, (asked, _) in [*self._working.items()]:
            if asked.opened.round < number - self.manifest.late:
                del self._working[member]
                self.exchange.drop(member)
        present = self._consents - self.home.keyring.agreement.left.keys()
        while present and present <= self._working.keys():
            self._show(phase="waiting", waiting=sorted(self._working))
            until = time.monotonic() + self.manifest.deadline_ms / 1000
            before = len(self._working)
            for member, answer in self.exchange.ask({}, until, self._most(), _no_other, _alone, keep=True):
                self._take_late(member, answer)
            if len(self._working) == before:
                for member in [*self._working]:
                    del self._working[member]
                    self.exchange.drop(member)
        return tuple(sorted(present - self._working.keys()))

    def _take_late(self, member: str, answer: Answer | Refused) -> None:
        """An answer to an earlier round: it is admitted as it would have been then, and counts in the next step."""
        asked, turn = self._working.pop(member)
        try:
            if isinstance(answer, Refused):
                raise answer
            self._late[member] = asked.opened.round, self._admit(answer, member, asked, turn)
        except Refused as refused:
            log.warning("round %d: %s, late, does not count: %s", asked.opened.round, member, refused)

    def _recover(self, number: int) -> None:
        """Find the late answers that had come before this process began."""
        self.home.learn_keys(self.ledger)
        for before in range(max(1, number - self.manifest.late), number):
            turn = Turn(self._folder, before)
            leaf = turn.opened.read_bytes()
            opened = entries.peek(leaf)
            assert isinstance(opened, RoundOpen)
            asked = self._asked(opened, leaf)
            for member in opened.invited:
                kept = turn.answer(member, self.manifest.recipe.up, self._outer.update_shapes)
                if kept is not None and merkle.leaf_hash(kept.entries[-1]).hex() not in self._counted:
                    self._working[member] = asked, turn
                    self._take_late(member, kept)

    def _most(self) -> int:
        """The bytes of an update."""
        return codecs.total(self.manifest.recipe.up, self._outer.update_shapes)

    def _ask(self, asked: Asked, proof: tlog.Proof, turn: Turn) -> tuple[dict[str, Admitted], dict[str, Refused]]:
        """Ask every invited member and judge the answers: (the work that counts, the reasons for what does not).

        Whose answer came before this process began is not asked again.
        """
        opened = asked.opened
        admitted: dict[str, Admitted] = {}
        excluded: dict[str, Refused] = {}
        for member in opened.invited:
            if (kept := turn.answer(member, self.manifest.recipe.up, self._outer.update_shapes)) is not None:
                try:
                    admitted[member] = self._admit(kept, member, asked)
                    log.info("round %d: the answer of %s had come before", opened.round, member)
                except Refused as refused:
                    log.warning("round %d: what was kept of %s does not count: %s", opened.round, member, refused)
        left_s = min(self.manifest.deadline_ms, opened.deadline_ms - time.time_ns() // 1_000_000) / 1000
        until, cosigned = time.monotonic() + left_s, self._cosigned()

        @cache
        def carried(holding: bool) -> Carried:
            """The step, for who holds the base of the round before; or the whole checkpoint."""
            way = self._offers.way(opened.round, "")
            if holding:
                size = codecs.total(self.manifest.recipe.down, self._outer.shapes) if self._step else 0
                return way.give(self._step, size)
            whole, shapes = self._outer.whole(opened.base)
            return way.give(codecs.Encoded("fp32", whole), codecs.total("fp32", shapes))

        def task(member: str, holding: bool) -> Task:
            until_s = time.time() + left_s + (LATE_S if self.manifest.late else 0)
            granted = self._offers.granted(opened.round, member, self._most(), until_s)
            begin = self._begin(member, asked, proof, cosigned)
            return Task(begin, self._manifest_leaf, self._since if holding else "", *carried(holding), granted)

        tasks = {
            member: task(member, member in self._holding)
            for member in opened.invited
            if member not in admitted and left_s > 0
        }
        for member in opened.invited:
            if member not in admitted and member not in tasks:
                excluded[member] = Refused(Refusal.LATE, "the coordinator was away until after the end of the round")

        def instead(member: str, refused: Refused) -> Task | None:
            """The whole checkpoint for a member that lost what it held."""
            if refused.refusal is not Refusal.NO_CHECKPOINT or member not in tasks or not tasks[member].since:
                return None
            log.info("round %d: %s is sent the whole checkpoint", opened.round, member)
            packed, blob = carried(False)
            tasks[member] = replace(tasks[member], since="", weights=packed, blob=blob)
            return tasks[member]

        def enough(alone: bool) -> bool:
            """Without a quorum only those help who are not there, so they are waited for to the deadline."""
            quorate = len(admitted) + len(self._late) >= self.manifest.quorum
            return quorate and (alone or self.manifest.wait == "quorum")

        answered: dict[str, dict[str, Any]] = {}
        # The round before stays on show: who looks only now and then misses no answer.
        answers = dict([*self._status.get("answers", {}).items()][-1:]) | {str(opened.round): answered}
        self._show(phase="training", round=opened.round, deadline_ms=opened.deadline_ms, since_ms=opened.opened_ms)
        self._show(waiting=list(tasks), answers=answers)
        for member, answer in self.exchange.ask(
            tasks, until, self._most(), instead, enough, keep=self.manifest.late > 0
        ):
            if member in self._working:
                self._take_late(member, answer)
                continue
            try:
                if isinstance(answer, Refused):
                    raise answer
                self._hand_in(member, answer.cosigned)
                admitted[member] = self._admit(answer, member, asked, turn)
                answered[member] = {"bytes_up": answer.carried.size + sum(map(len, answer.entries))}
            except Refused as refused:
                excluded[member] = refused
                if refused.refusal is Refusal.LATE and self.manifest.late:
                    self._working[member] = asked, turn
                log.warning("round %d: %s does not count: %s", opened.round, member, refused)
                answered[member] = {"refused": str(refused), "remedy": refused.remedy}
            self._show(waiting=[each for each in tasks if each not in answered], answers=answers)
        return admitted, excluded

    def _admit(self, answer: Answer, member: str, asked: Asked, turn: Turn | None = None) -> Admitted:
        """Admit an answer, keep it, then hand its entries to the ledger. Raises `Refused`, the ledger's too."""
        way = self._offers.way(asked.opened.round, member)
        update = way.take(answer.carried, self.manifest.recipe.up, self._outer.update_shapes)
        answer = replace(answer, update=update, blob=None)
        work = admit(answer, member, asked, self._seen)
        if turn is not None:
            turn.keep(member, answer)
            kept = turn.update(member, self.manifest.recipe.up, self._outer.update_shapes)
            work = replace(work, update=Decoded(kept))
        for at in self.ledger.append_all(work.entries, asked.keys):
            if isinstance(at, Refused):
                raise at
        self._seen.add(work.receipt)
        self._witnessed[member] = work.witnessed_size
        return work

    def _hand_in(self, member: str, cosigned: bytes) -> None:
        """Give the ledger a member's cosignature. It speaks for itself: the round does not depend on it."""
        try:
            self.ledger.cosign(cosigned)
        except Refused as refused:
            log.warning("the cosignature of %s was not taken: %s", member, refused)

    def _cosigned(self) -> tuple[str, ...]:
        """The newest head that a quorum has cosigned, to be compared by every member; none before the first."""
        try:
            return (self.ledger.read("cosigned").decode(),)
        except Refused as refused:
            if refused.refusal is Refusal.NOT_FOUND:
                return ()
            raise

    def _begin(self, member: str, asked: Asked, proof: tlog.Proof, cosigned: tuple[str, ...]) -> Begin:
        """What one member is told, with all it needs to know that the log is the one it knew before."""
        head = tlog.open_head(proof.head, asked.keys)
        since = self._witnessed.get(member, 0)
        last = self.ledger.last(f"{member}/compute")
        # What came behind this head, such as a member's access to a model, is not proven under it.
        seq, index = (last[0], last[2]) if last is not None and last[2] < head.size else (-1, 0)
        return Begin(
            opened=asked.leaf.decode(),
            proof=proof.data().decode(),
            since=since,
            consistency=tuple(each.hex() for each in self.ledger.consistency(since, head.size).path),
            logged_seq=seq,
            logged_index=index,
            logged_path=tuple(each.hex() for each in self.ledger.inclusion(index, head.size)) if seq >= 0 else (),
            cosigned=cosigned,
        )

    # The log.

    def _say(self, record: Chained, kept: Path | None = None) -> tuple[bytes, tlog.Proof]:
        """Append a record of the coordinator's own: (its leaf, the proof that the log holds it)."""
        return self.home.say(self.ledger, self.home.key, record, kept)

    def _end(self, status: str, reason: str) -> None:
        end = RunEnd(
            seq=0, prev=FIRST, run=self.manifest.run, checkpoint=self._checkpoint, status=status, reason=reason
        )
        durable.make_folder(self._folder)
        self._say(end, self._folder / "end.note")
        self._offers.end()

    def _show(self, **what: Any) -> None:
        self._status |= what | {"at_ms": time.time_ns() // 1_000_000}
        durable.show(self.home.path / "status.json", self._status)


def _no_other(_member: str, _refused: Refused) -> None:
    """No task instead of one that was refused."""


def _alone(alone: bool) -> bool:
    """Who waits for one answer waits as long as there is anybody to give it."""
    return alone


def _line(text: str) -> str:
    """A reason as a record can hold it."""
    return "".join(character if character.isprintable() else " " for character in text)[:500]
