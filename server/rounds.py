"""The rounds of a run: open, ask, admit, step, close. Here is decided; Flower is touched elsewhere.

Nothing the coordinator says has to be believed. What it opens and closes are log entries; which answers count stands in
them with the reason for each that does not; and the outer step adds up in member order, so that anyone can repeat it.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Protocol

from server import outer
from server.admission import Admitted, Asked, admit
from server.home import Home
from shared_models import durable
from shared_models.claims import Begin
from shared_models.ledger_http import LedgerHttp
from shared_models.lm import codecs, weights
from shared_models.lm.codecs import Packed
from shared_models.messages import Answer, Task
from shared_models.records import entry as entries
from shared_models.records import merkle, tlog
from shared_models.records.kinds import FIRST, Chained, Excluded, Included, Manifest, RoundClose, RoundOpen, RunEnd
from shared_models.records.refusals import Refusal, Refused

GATHER_S = 60.0  # How long a run waits for all its members to come online,
PATIENCE_S = 300.0  # and for a quorum of them.
LOOK_S = 0.2

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
    ) -> Iterator[tuple[str, Answer | Refused]]:
        """Ask each member its task; each answer as it comes, or why there is none.

        Ends when all have answered, at `until` (monotonic clock) at the latest. An update may hold `max_bytes`. To whom
        a refusal is no answer yet, `instead` gives another task, and it is asked that.
        """
        ...


class Coordinator:
    """The coordinator at work on one run."""

    def __init__(self, home: Home, ledger: LedgerHttp, exchange: Exchange, run: str) -> None:
        self.home, self.ledger, self.exchange = home, ledger, exchange
        self._status: dict[str, Any] = {"run": run}
        self.manifest, self._manifest_leaf, self._consents = self._find(run)
        self._checkpoint = self.manifest.base  # Digest of where the run is.
        self._witnessed: dict[str, int] = {}  # The size of the tree head that each member last cited.
        self._seen: set[str] = set()  # Receipts answered with so far.
        self._holding: set[str] = set()  # Members that answered in the last round: they hold its base,
        self._since = ""  # which is this,
        self._step: Mapping[str, Packed] = {}  # and from which this leads to where the run is.

    def train(self) -> None:
        """Train the run to its end; how it ended is in the log, whatever happens. Raises what made it fail."""
        try:
            self._rounds()
        except Exception as error:
            reason = _line(f"{type(error).__name__}: {error}")
            self._show(phase="failed", reason=reason)
            self._end("failed", reason)
            raise
        self._end("completed", "")
        self._show(phase="completed")

    def _rounds(self) -> None:
        manifest, recipe = self.manifest, self.manifest.recipe
        base = outer.first(recipe)
        if weights.digest(base) != manifest.base:
            raise Refused(
                Refusal.WRONG_BASE, f"seed {recipe.seed} gives other first weights than {manifest.base[:12]}…"
            )
        model, memory, unsent = outer.model(recipe), outer.still(base, recipe), weights.Weights()
        weights.keep(base, self.home.path / "checkpoints")
        self._show(phase="gathering", rounds=manifest.rounds, loss=manifest.loss_unats / 1e6)
        self._gather()

        for number in range(1, manifest.rounds + 1):
            asked, proof = self._open(number, base)
            admitted, excluded = self._ask(asked, proof)
            self._holding, self._since, self._step = set(admitted), self._checkpoint, {}
            if len(admitted) >= manifest.quorum:
                updates = (admitted[member].update for member in sorted(admitted))
                meant, memory = outer.step(base, updates, memory, recipe, round_=number, rounds=manifest.rounds)
                # All hold the same bits: where the step goes is where what was sent of it leads.
                sent = codecs.send(recipe.down, weights.minus(meant, base), unsent)
                base, self._step, unsent = weights.plus(base, sent.values), sent.packed, sent.unsent
                self._checkpoint = weights.keep(base, self.home.path / "checkpoints")
            loss = outer.held_out_loss(model, base, recipe)
            self._say(
                RoundClose(
                    seq=0,
                    prev=FIRST,
                    run=manifest.run,
                    round=number,
                    base=asked.opened.base,
                    checkpoint=self._checkpoint,
                    included=tuple(
                        Included(member=member, receipt=admitted[member].receipt) for member in sorted(admitted)
                    ),
                    excluded=tuple(
                        Excluded(member=member, reason=excluded[member].refusal.value) for member in sorted(excluded)
                    ),
                    loss_unats=round(1e6 * loss),
                )
            )
            self._show(loss=loss)
            log.info(
                "round %d of %d: %d of %d answers count, held-out loss %.3f",
                number,
                manifest.rounds,
                len(admitted),
                len(asked.opened.invited),
                loss,
            )

    def _gather(self) -> None:
        """Wait for the members that consented. Raises `Refused(DEAD)` if no quorum of them comes."""
        started = time.monotonic()
        while missing := self._consents - self.exchange.online():
            waited = time.monotonic() - started
            enough = len(self._consents) - len(missing) >= self.manifest.quorum
            if waited > GATHER_S and enough:
                return
            if waited > PATIENCE_S:
                raise Refused(Refusal.DEAD, f"no quorum: {', '.join(sorted(missing))} did not come online")
            self._show(waiting=dict.fromkeys(sorted(missing), round(waited, 1)))
            time.sleep(LOOK_S)

    def _open(self, number: int, base: weights.Weights) -> tuple[Asked, tlog.Proof]:
        """Open a round in the log, for everybody to see before anybody is asked."""
        self.home.learn_keys(self.ledger)  # Who signs with which key, and who has left.
        opened_ms = time.time_ns() // 1_000_000
        opened = RoundOpen(
            seq=0,
            prev=FIRST,
            run=self.manifest.run,
            round=number,
            manifest=merkle.leaf_hash(self._manifest_leaf).hex(),
            base=self._checkpoint,
            invited=tuple(sorted(self._consents - self.home.keyring.agreement.left.keys())),
            opened_ms=opened_ms,
            deadline_ms=opened_ms + self.manifest.deadline_ms,
        )
        leaf, proof = self._say(opened)
        return Asked(self.home.keyring.charter, self.home.keyring.keys, self.manifest, opened, leaf, base), proof

    def _ask(self, asked: Asked, proof: tlog.Proof) -> tuple[dict[str, Admitted], dict[str, Refused]]:
        """Ask every invited member and judge the answers: (the work that counts, the reasons for what does not)."""
        opened = asked.opened
        until = time.monotonic() + self.manifest.deadline_ms / 1000
        cosigned = self._cosigned()

        @cache  # Made once, and only if somebody needs it.
        def whole() -> Mapping[str, Packed]:
            return codecs.pack("fp32", asked.base)

        tasks = {
            member: Task(
                self._begin(member, asked, proof, cosigned),
                self._manifest_leaf,
                *((self._since, self._step) if member in self._holding else ("", whole())),
            )
            for member in opened.invited
        }

        def instead(member: str, refused: Refused) -> Task | None:
            """The whole checkpoint for a member that lost what it held."""
            if refused.refusal is not Refusal.NO_CHECKPOINT or not tasks[member].since:
                return None
            log.info("round %d: %s is sent the whole checkpoint", opened.round, member)
            tasks[member] = replace(tasks[member], since="", weights=whole())
            return tasks[member]

        admitted: dict[str, Admitted] = {}
        excluded: dict[str, Refused] = {}
        answered: dict[str, dict[str, Any]] = {}
        # The round before stays on show: who looks only now and then misses no answer.
        answers = dict([*self._status.get("answers", {}).items()][-1:]) | {str(opened.round): answered}
        self._show(phase="training", round=opened.round, deadline_ms=opened.deadline_ms, since_ms=opened.opened_ms)
        self._show(waiting=list(opened.invited), answers=answers)
        most = sum(codecs.size(self.manifest.recipe.up, tensor.shape) for tensor in asked.base.values())
        for member, answer in self.exchange.ask(tasks, until, most, instead):
            try:
                if isinstance(answer, Refused):
                    raise answer
                self._hand_in(member, answer.cosigned)
                work = admit(answer, member, asked, self._seen)
                for at in self.ledger.append_all(work.entries, asked.keys):
                    if isinstance(at, Refused):
                        raise at
                self._seen.add(work.receipt)
                self._witnessed[member] = work.witnessed_size
                admitted[member] = work
                answered[member] = {"bytes_up": codecs.nbytes(answer.update) + sum(map(len, work.entries))}
            except Refused as refused:
                excluded[member] = refused
                log.warning("round %d: %s does not count: %s", opened.round, member, refused)
                answered[member] = {"refused": str(refused), "remedy": refused.remedy}
            self._show(waiting=[each for each in opened.invited if each not in answered], answers=answers)
        return admitted, excluded

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

    def _find(self, run: str) -> tuple[Manifest, bytes, set[str]]:
        for leaf, consents in self.ledger.runs():
            record = entries.open_leaf(leaf, self.home.charter.consortium, self.home.keyring.keys).record
            if isinstance(record, Manifest) and record.run == run:
                return record, leaf, set(consents)
        raise Refused(Refusal.UNKNOWN_RUN, f"the log holds no manifest of a run {run}")

    def _say(self, record: Chained) -> tuple[bytes, tlog.Proof]:
        """Append a record of the coordinator's own: (its leaf, the proof that the log holds it)."""
        return self.home.say(self.ledger, self.home.key, record)

    def _end(self, status: str, reason: str) -> None:
        self._say(
            RunEnd(seq=0, prev=FIRST, run=self.manifest.run, checkpoint=self._checkpoint, status=status, reason=reason)
        )

    def _show(self, **what: Any) -> None:
        self._status |= what | {"at_ms": time.time_ns() // 1_000_000}
        durable.show(self.home.path / "status.json", self._status)


def _line(text: str) -> str:
    """A reason as a record can hold it."""
    return "".join(character if character.isprintable() else " " for character in text)[:500]
