"""Real folders of a consortium's parties, and its log, without HTTP or served: to test what each of them decides."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from world import BUILD, SEED, TOY, digest

from client.meter import Usage
from client.signer import Signer
from client.witness import Witness
from consortium.found import PRICE, Founded, found
from ledger.api import serving
from ledger.log import open_log
from server import outer
from shared_models.claims import Begin, Claim
from shared_models.ledger_http import Consistency
from shared_models.lm import weights
from shared_models.processes import free_port
from shared_models.records import entry as entries
from shared_models.records import tlog
from shared_models.records.kinds import (
    FIRST,
    Chained,
    Excluded,
    Manifest,
    Receipt,
    Recipe,
    RoundClose,
    RoundOpen,
    sealed_seed,
)
from shared_models.records.merkle import leaf_hash
from shared_models.rules.pricing import flop_per_token, tokens_asked

BUNDLE = digest("bundle")


@contextmanager
def three(folder: Path, **settings: object) -> Iterator[Founded]:
    """acme, birch and cedar in their folders, and their ledger, which serves, so set. There is no SuperLink."""
    port = free_port()
    founded = found(
        folder / "parties",
        {"acme": 2, "birch": 1, "cedar": 1},
        ledger_url=f"http://127.0.0.1:{port}",
        superlink="127.0.0.1:9092",
        price=PRICE,
    )
    with serving(founded.ledger, port, **settings):
        yield founded


class FakeTime:
    """A meter that says what it is told: time is an argument."""

    def __init__(self, wall_ms: int = 1_000, cpu_ms: int = 900) -> None:
        self.wall_ms, self.cpu_ms = wall_ms, cpu_ms

    def read(self) -> Usage:
        return Usage(self.wall_ms, self.cpu_ms, 1_000_000, 1_000_000 + self.wall_ms)


class Parties:
    """acme, birch, cedar and their operators, up to an open round."""

    def __init__(self, folder: Path, recipe: Recipe = TOY, steps: tuple[int, ...] = ()) -> None:
        self.founded = found(
            folder / "parties", {"acme": 2, "birch": 1, "cedar": 1}, ledger_url="", superlink="127.0.0.1:0", price=PRICE
        )
        self.home = self.founded.coordinator
        self.log = open_log(self.founded.ledger)
        self.base = outer.first(recipe)
        self.manifest = Manifest(
            seq=0,
            prev=FIRST,
            run="r1",
            charter=self.home.charter_entry.hash.hex(),
            bundle=BUNDLE,
            recipe=recipe,
            members=self.founded.members,
            rounds=3,
            deadline_ms=60_000,
            quorum=2,
            wait="all",
            late=0,
            patience=0,
            flop_per_token=flop_per_token(recipe),
            start=FIRST,
            base=weights.digest(self.base),
            loss_unats=5_545_177,
            teacher=FIRST,
            steps=steps,
        )
        self.manifest_leaf, _ = self.say(self.manifest)

    def signed(self, record: Chained) -> bytes:
        """The leaf of this record at the end of the coordinator's chain; not appended."""
        last = self.log.books.chains.get(self.home.key.name)
        seq, prev = (last.seq + 1, last.hash) if last else (0, FIRST)
        return entries.sign(replace(record, seq=seq, prev=prev), self.home.charter.consortium, [self.home.key])

    def say(self, record: Chained) -> tuple[bytes, tlog.Proof]:
        leaf = self.signed(record)
        return leaf, self.log.append(leaf)[1]

    def signer(self, member: str) -> Signer:
        return Signer(self.founded.member(member), self.witness(member))

    def witness(self, member: str) -> Witness:
        return Witness(self.founded.member(member), self.consistency)

    def consistency(self, old: int, new: int) -> Consistency:
        """What the log says, as the ledger's service would."""
        return Consistency(self.log.books.tree.root(old).hex(), tuple(self.log.consistency(old, new)))

    def consenting(self, member: str) -> Signer:
        """The signer of a member that has consented to the run, in the log."""
        signer = self.signer(member)
        leaf = signer.consent(self.manifest_leaf, BUNDLE)
        signer.logged(leaf, self.log.append(leaf)[1])
        return signer

    def opened(self, **changes: object) -> RoundOpen:
        run = self.log.books.runs["r1"]
        whole = RoundOpen(
            seq=0,
            prev=FIRST,
            run="r1",
            round=len(run.rounds) + 1,
            manifest=leaf_hash(self.manifest_leaf).hex(),
            base=run.checkpoint,
            invited=tuple(sorted(run.consents)),
            opened_ms=1_000_000,
            deadline_ms=1_060_000,
            sealed=sealed_seed(SEED),
        )
        return replace(whole, **changes)

    def close(self, **changes: object) -> None:
        """End the open round; without anybody, if nothing else is said."""
        turn = self.log.books.runs["r1"].rounds[-1]
        whole = RoundClose(
            seq=0,
            prev=FIRST,
            run="r1",
            round=turn.number,
            base=turn.base,
            checkpoint=turn.base,
            included=(),
            excluded=tuple(Excluded(member=each, reason="late") for each in sorted(turn.invited)),
            late=(),
            loss_unats=1,
            state=digest("state"),
            seed=SEED,
        )
        self.say(replace(whole, **changes))

    def begin(
        self, member: str, leaf: bytes, proof: tlog.Proof, since: int = 0, cosigned: tuple[str, ...] = ()
    ) -> Begin:
        """The task as an honest coordinator sends it."""
        size = tlog.parse_head(proof.head.decode()[: proof.head.decode().index("\n\n") + 1]).size
        last = self.log.books.chains.get(f"{member}/compute")
        return Begin(
            opened=leaf.decode(),
            proof=proof.data().decode(),
            since=since,
            consistency=tuple(each.hex() for each in self.log.consistency(since, size)),
            logged_seq=last.seq if last else -1,
            logged_index=last.at if last else 0,
            logged_path=tuple(each.hex() for each in self.log.inclusion(last.at, size)) if last else (),
            cosigned=cosigned,
        )

    def claim(self, **changes: object) -> Claim:
        recipe = self.manifest.recipe
        whole = Claim(
            update=digest("update"),
            data=digest("data"),
            trajectory=digest("trajectory"),
            build=BUILD,
            tokens=tokens_asked(recipe),
            steps=recipe.inner_steps,
            busy_ms=800,
            loss_unats=1,
            bytes_down=10,
            bytes_up=10,
        )
        return replace(whole, **changes)


def worked(folder: Path) -> tuple[Manifest, Receipt]:
    """A run's manifest, and the receipt that acme's signer has signed for its first round."""
    parties = Parties(folder)
    signer = parties.consenting("acme")
    signer.begin(parties.begin("acme", *parties.say(parties.opened())))
    signer.claim(parties.claim(), FakeTime())
    (receipt,) = signer.receipts()
    parties.log.close()
    return parties.manifest, receipt
