"""A small consortium for tests: its keys, its charter, and a log that grows in memory.

Keys come from seeds, so the same world has the same bytes on every run.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared_models.records import entry as entries
from shared_models.records import merkle, note, tlog
from shared_models.records.entry import MEMBER_ROLES
from shared_models.records.keys import ED25519, SigningKey
from shared_models.records.kinds import (
    BILLION,
    FIRST,
    Access,
    AccessRestore,
    AccessRevoke,
    Amendment,
    Artefact,
    AuditResult,
    Chained,
    Charter,
    Checkpoint,
    Coalition,
    Consent,
    CostItem,
    CreditNote,
    Default,
    Device,
    Dispute,
    Equivocation,
    Excluded,
    ExpertGrant,
    Included,
    KeyAdd,
    KeyAffirm,
    KeyRevoke,
    Leave,
    Limit,
    Manifest,
    Member,
    Pot,
    Price,
    QuoteOpen,
    QuoteSeal,
    Rate,
    Receipt,
    Resolution,
    RoundClose,
    RoundOpen,
    Routed,
    RunEnd,
    Served,
    Settlement,
    Statement,
    Tier,
    Usage,
    Vote,
    Worth,
    sealed_seed,
)
from shared_models.rules import recipes
from shared_models.rules.books import NOTHING, Books
from shared_models.rules.challenge import Challenge, drawn, ends
from shared_models.rules.currency import spelled
from shared_models.rules.pricing import flop_per_token, round_flop, tokens_asked
from shared_models.rules.quotes import sealed
from shared_models.rules.worth import ROUTES, SEQUENCES

CONSORTIUM = "commons.example"
LONG = os.environ.get("CONSORTIUM_LONG") == "1"  # Search all of what CI searches a part of: `make long`.
BUILD = "2.13.0/AVX512/1/float32/x86_64"
OPEN = Tier(name="open", share=Fraction(0), right="download", lag=0, quota=10**9)
TOY = replace(recipes.TOY, seed=7)


def until(what: Callable[[], Any]) -> None:
    """Return when this holds. Within a minute, or the test has failed."""
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def slowness() -> float:
    """How many times a usual machine's CPU time Python takes here; 1 at least. Usual is 0.1 s for a million turns."""
    began = time.process_time()
    total = 0
    for number in range(1_000_000):
        total += number * number
    return max(1.0, (time.process_time() - began) / 0.1)


SEED = hashlib.sha256(b"seed").hexdigest()


def counted(member: str, receipt: str, weight: int = 0) -> Included:
    return Included(member=member, receipt=receipt, weight=weight, gain_unats=-250, judged="whole")


def digest(what: str) -> str:
    return hashlib.sha256(what.encode()).hexdigest()


def cents(amount: int) -> str:
    """An amount of so many cents as a record has it."""
    whole, rest = divmod(amount, 100)
    return f"{whole}.{rest:02}".rstrip("0").rstrip(".")


def key(name: str, generation: int = 1) -> SigningKey:
    """The key of this name; another one for another generation."""
    kinds = MEMBER_ROLES.get(name.rpartition("/")[2], (ED25519,))
    seed = hashlib.sha256(f"seed of {name}{'' if generation == 1 else f' {generation}'}".encode()).digest()
    return SigningKey(name, Ed25519PrivateKey.from_private_bytes(seed), kinds[0])


def vkey(name: str) -> str:
    return key(name).verify_key.text()


def member(name: str, benefit: int, pledge: int = 0) -> Member:
    keys = {role: vkey(f"{name}/{role}") for role in MEMBER_ROLES}
    return Member(name=name, **keys, benefit=benefit, pledge=pledge)


def pot(
    name: str,
    rule: str,
    driver: str = "benefit",
    table: tuple[Coalition, ...] = (),
    floors: dict[str, int] | None = None,
    caps: dict[str, int] | None = None,
) -> Pot:
    limits = (
        tuple(Limit(member=member, amount=amount) for member, amount in sorted((said or {}).items()))
        for said in (floors, caps)
    )
    return Pot(name=name, rule=rule, driver=driver, table=table, floors=next(limits), caps=next(limits))


def charter(benefits: dict[str, int], **changes: Any) -> Charter:
    whole = Charter(
        consortium=CONSORTIUM,
        currency="EUR",
        minor_digits=2,
        price=Fraction(10**14),
        compute_pot="compute",
        pots=(pot("compute", "proportional"), pot("services", "equal")),
        members=tuple(member(name, benefit) for name, benefit in sorted(benefits.items())),
        devices=(Device(name="cpu-core", peak_flops=200_000_000_000),),
        quorum=0,
        approvals=len(benefits) // 2 + 1,
        cap="none",
        objection=1,
        accession=Fraction(0),
        worth_share=Fraction(0),
        expert_price=Fraction(0),
        window=3,
        tiers=(),
        admin=vkey(f"{CONSORTIUM}/admin"),
        coordinator=vkey(f"{CONSORTIUM}/coordinator"),
        log=vkey(f"{CONSORTIUM}/log"),
    )
    return replace(whole, **changes)


class World:
    """A log in memory, and everybody's keys. Each method appends one honest entry and returns its leaf hash."""

    def __init__(self, benefits: dict[str, int] | None = None, **changes: Any) -> None:
        self.charter = charter(benefits or {"acme": 2, "birch": 1, "cedar": 1}, **changes)
        self.members = [member.name for member in self.charter.members]
        self.books = Books()
        self.leaves: list[bytes] = []
        self.append(entries.sign(self.charter, CONSORTIUM, map(key, self.charter_signers())))

    def charter_signers(self) -> list[str]:
        operators = [f"{CONSORTIUM}/{role}" for role in ("admin", "coordinator", "log")]
        return operators + [f"{member}/admin" for member in self.members]

    def append(self, leaf: bytes) -> str:
        entry = self.books.open(leaf)
        self.books.check(entry)
        self.books.add(entry)
        self.leaves.append(leaf)
        return entry.hash.hex()

    def sign(self, author: str, record: Chained, *signers: SigningKey) -> bytes:
        """The leaf of this record, put at the end of its author's chain; nothing is appended. Its author signs it, or
        these keys do."""
        last = self.books.chains.get(author, NOTHING)
        return entries.sign(replace(record, seq=last.seq + 1, prev=last.hash), CONSORTIUM, signers or [key(author)])

    def say(self, author: str, record: Chained) -> str:
        return self.append(self.sign(author, record))

    @property
    def coordinator(self) -> str:
        return f"{CONSORTIUM}/coordinator"

    def manifest(self, run: str = "r1", **changes: Any) -> Manifest:
        recipe = changes.pop("recipe", TOY)
        whole = Manifest(
            seq=0,
            prev=FIRST,
            run=run,
            charter=self.books.charter_hash,
            bundle=digest("bundle"),
            recipe=recipe,
            members=tuple(self.members),
            rounds=3,
            deadline_ms=60_000,
            quorum=2,
            wait="all",
            late=0,
            patience=0,
            flop_per_token=flop_per_token(recipe),
            start=FIRST,
            base=digest("base"),
            loss_unats=5_545_177,
            teacher=FIRST,
            steps=(),
        )
        return replace(whole, **changes)

    def consent(self, member: str, run: str = "r1", **changes: Any) -> Consent:
        whole = Consent(seq=0, prev=FIRST, member=member, run=run, manifest=self.books.runs[run].hash)
        return replace(whole, **changes)

    def start(self, run: str = "r1", **changes: Any) -> None:
        """A run to which every member has consented."""
        self.say(self.coordinator, self.manifest(run, **changes))
        for member in self.members:
            self.say(f"{member}/compute", self.consent(member, run))

    def opened(self, run: str = "r1", **changes: Any) -> RoundOpen:
        state = self.books.runs[run]
        whole = RoundOpen(
            seq=0,
            prev=FIRST,
            run=run,
            round=len(state.rounds) + 1,
            manifest=state.hash,
            base=state.checkpoint,
            invited=tuple(self.members),
            opened_ms=1_000_000,
            deadline_ms=1_060_000,
            sealed=sealed_seed(SEED),
        )
        return replace(whole, **changes)

    def receipt(self, member: str, run: str = "r1", **changes: Any) -> Receipt:
        state = self.books.runs[run]
        turn = state.rounds[-1]
        recipe = state.manifest.recipe_of(member)
        size = self.books.tree.size
        whole = Receipt(
            seq=0,
            prev=FIRST,
            member=member,
            node="1",
            run=run,
            round=turn.number,
            opened=turn.hash,
            base=turn.base,
            update=digest(f"update {member} {turn.number}"),
            data=digest(f"data {member} {turn.number}"),
            trajectory=digest(f"trajectory {member} {turn.number}"),
            build=BUILD,
            tokens=tokens_asked(recipe),
            steps=recipe.inner_steps,
            flop=round_flop(state.manifest, turn.number, member),
            busy_ms=900,
            wall_ms=1_200,
            cpu_ms=1_000,
            device="cpu-core",
            devices=1,
            energy_mj=0,
            energy_method="none",
            memory_bytes=0,
            isolation="none",
            bytes_down=1_000,
            bytes_up=1_000,
            started_ms=1_000_500,
            ended_ms=1_001_700,
            witnessed_size=size,
            witnessed_root=self.books.tree.root(size).hex(),
        )
        return replace(whole, **changes)

    def close(self, included: dict[str, str], run: str = "r1", **changes: Any) -> RoundClose:
        turn = self.books.runs[run].rounds[-1]
        whole = RoundClose(
            seq=0,
            prev=FIRST,
            run=run,
            round=turn.number,
            base=turn.base,
            checkpoint=digest(f"checkpoint {turn.number}") if len(included) > 1 else turn.base,
            included=tuple(counted(*each, BILLION // len(included)) for each in sorted(included.items())),
            excluded=tuple(
                Excluded(member=each, reason="late") for each in sorted(turn.invited) if each not in included
            ),
            late=(),
            loss_unats=3_000_000,
            state=digest(f"state {turn.number}"),
            seed=SEED,
        )
        return replace(whole, **changes)

    def round(self, run: str = "r1", members: Iterable[str] | None = None, **opened: Any) -> None:
        """A whole round, so opened, in which these members answer; all that are asked by default."""
        self.say(self.coordinator, self.opened(run, **opened))
        hashes = {
            member: self.say(f"{member}/compute", self.receipt(member, run))
            for member in (sorted(self.books.runs[run].rounds[-1].invited) if members is None else members)
        }
        self.say(self.coordinator, self.close(hashes, run))

    def drawn(self, member: str, run: str = "r1") -> tuple[int, int]:
        """A whole round whose close draws this member's work: (the size of the log that does, the segment).

        The coordinator tries one close after another until it does: what one in league with a member could do as well.
        """
        invited = tuple(sorted(self.books.runs[run].consents))
        self.say(self.coordinator, self.opened(run, invited=invited))
        hashes = {each: self.say(f"{each}/compute", self.receipt(each, run)) for each in invited}
        segments = len(ends(self.books.runs[run].manifest.recipe)) - 1
        for loss in range(10_000):
            leaf = self.sign(self.coordinator, self.close(hashes, run, loss_unats=loss, excluded=()))
            tree = merkle.Tree()
            tree.extend([*self.hashes(), merkle.leaf_hash(leaf)])
            if (segment := drawn(tree.root(), hashes[member], segments)) is not None:
                self.append(leaf)
                return tree.size, segment
        raise AssertionError

    def result(self, challenge: Challenge, auditor: str, **changes: Any) -> AuditResult:
        """What this auditor found: the same bits."""
        whole = AuditResult(
            seq=0,
            prev=FIRST,
            auditor=auditor,
            run=challenge.run,
            round=challenge.round,
            member=challenge.member,
            receipt=challenge.receipt,
            size=challenge.size,
            segment=challenge.segment or 0,
            verdict="matches",
            distance_ppm=0,
            build=BUILD,
        )
        return replace(whole, **changes)

    def worth(self, member: str, run: str = "r1", **changes: Any) -> Worth:
        """What this member has measured of the run's checkpoint: each expert takes a thousandth of a nat off."""
        state = self.books.runs[run]
        recipe, members = state.manifest.recipe, state.manifest.members
        routes = SEQUENCES * recipe.context * recipe.layers * ROUTES
        whole = Worth(
            seq=0,
            prev=FIRST,
            member=member,
            run=run,
            checkpoint=state.checkpoint,
            text=digest("text"),
            losses_unats=tuple(3_000_000 - 1_000 * bits.bit_count() for bits in range(1 << len(members))),
            routes=(routes - len(members), *(1 for _ in members)),
        )
        return replace(whole, **changes)

    def served(
        self, member: str, tokens: int, routes: dict[str, int], run: str = "r1", period: str = "2026-11", **changes: Any
    ) -> Served:
        """What this member says that it has served with the run's checkpoint; anew, if it has said so before."""
        whole = Served(
            seq=0,
            prev=FIRST,
            member=member,
            period=period,
            run=run,
            model=self.books.runs[run].checkpoint,
            tokens=tokens,
            routes=tuple(Routed(member=each, tokens=part) for each, part in sorted(routes.items())),
            replaces=FIRST,
        )
        whole = replace(whole, **changes)
        before = self.books.accounts.served.stands(whole)
        return replace(whole, replaces=before.hash) if before is not None and "replaces" not in changes else whole

    def lent(self, member: str, *to: str, run: str = "r1") -> ExpertGrant:
        """What this member says of its expert now: these others may have it."""
        before = self.books.library.lent(run, member)
        return ExpertGrant(
            seq=0, prev=FIRST, member=member, run=run, to=to, replaces=before.hash if before is not None else FIRST
        )

    def end(self, run: str = "r1", **changes: Any) -> RunEnd:
        whole = RunEnd(
            seq=0, prev=FIRST, run=run, checkpoint=self.books.runs[run].checkpoint, status="completed", reason=""
        )
        return replace(whole, **changes)

    def item(self, payer: str, minor: int, name: str = "hosting", **changes: Any) -> CostItem:
        """One of so many cents."""
        whole = CostItem(
            seq=0,
            prev=FIRST,
            item=name,
            payer=payer,
            pot="services",
            period="2026-11",
            category="network",
            amount=cents(minor),
            currency="EUR",
            date="2026-11-05",
            evidence=digest(f"invoice {name}"),
        )
        return replace(whole, **changes)

    def quoted(self, price: Fraction, period: str = "2026-11") -> None:
        """All members quote this price for an NCU, in minor units, and it is the period's."""
        text = spelled(price / 10**self.charter.minor_digits, "a price")
        for opening in (False, True):
            for by in self.members:
                said: dict[str, Any] = {"member": by, "about": "price", "period": period, "members": (by,)}
                seal = sealed("price", period, (by,), text, digest(by))
                more = {"amount": text, "salt": digest(by)} if opening else {"seal": seal}
                self.say(f"{by}/admin", (QuoteOpen if opening else QuoteSeal)(seq=0, prev=FIRST, **said, **more))
        median, names = self.books.accounts.quotes.median(period)
        self.say(f"{CONSORTIUM}/admin", Price(seq=0, prev=FIRST, period=period, price=median, quotes=names))
        assert median == price

    def statement(self, period: str = "2026-11") -> Statement:
        author = f"{CONSORTIUM}/admin"
        last = self.books.chains.get(author, NOTHING)
        return self.books.statement(period, self.books.tree.size, seq=last.seq + 1, prev=last.hash)

    def cosigned(self, stated: Statement, *names: str) -> Statement:
        """The statement with cosignatures of its tree head by keys of these names, given in the year 2023."""
        head = tlog.TreeHead(f"{CONSORTIUM}/log", stated.end, bytes.fromhex(stated.root))
        lines = (note.signature(head.text, key(name), 1_700_000_000).line()[:-1] for name in names)
        return replace(stated, cosignatures=tuple(lines))

    def bill(self, period: str = "2026-11") -> Statement:
        witnesses = [f"{member}/witness" for member in self.members[: self.charter.quorum]]
        whole = self.cosigned(self.statement(period), *witnesses)
        self.say(f"{CONSORTIUM}/admin", whole)
        return whole

    def equivocation(self, index: int, **changes: Any) -> Equivocation:
        """The log's evidence that the author of this entry has said something else as well, with these changes."""
        said = entries.peek(self.leaves[index])
        author = note.parse(self.leaves[index]).signatures[0].name
        other = entries.sign(replace(said, **changes), CONSORTIUM, [key(author)])  # type: ignore[type-var]
        return Equivocation(seq=0, prev=FIRST, first=index, one=self.leaves[index].decode(), other=other.decode())

    # What the log publishes.

    def head(self) -> bytes:
        tree = self.books.tree
        return tlog.TreeHead(f"{CONSORTIUM}/log", tree.size, tree.root()).sign(key(f"{CONSORTIUM}/log"))

    def hashes(self) -> list[bytes]:
        return [merkle.leaf_hash(leaf) for leaf in self.leaves]


def added(holder: str, role: str, new: SigningKey) -> KeyAdd:
    return KeyAdd(seq=0, prev=FIRST, holder=holder, role=role, key=new.verify_key.text())


def revoked(holder: str, role: str, old: SigningKey, suspect_from: int = 0) -> KeyRevoke:
    id_ = old.verify_key.id.hex()
    return KeyRevoke(seq=0, prev=FIRST, holder=holder, role=role, id=id_, suspect_from=suspect_from)


def affirmed(holder: str, role: str, old: SigningKey, start: int, end: int) -> KeyAffirm:
    id_ = old.verify_key.id.hex()
    return KeyAffirm(seq=0, prev=FIRST, holder=holder, role=role, id=id_, start=start, end=end)


def experts(**changes: Any) -> World:
    """A run of three experts behind one round, as acme and birch have measured it: acme's takes 100 off the loss,
    birch's 40, both 121; cedar's adds 30 to any.
    """
    world = World(**changes)
    corpus = f"sha256:{digest('text')}"
    world.start(recipe=replace(TOY, feed="swiglu", member_experts=3, corpus=corpus), start=digest("given"))
    world.round()
    losses = tuple(3_000_000 + loss for loss in (0, -100, -40, -121, 30, -70, -10, -91))
    for by in ("acme", "birch"):
        world.say(f"{by}/compute", world.worth(by, losses_unats=losses))
    return world


def whole() -> World:
    """A log with every kind of entry: `november`, and what came of it until a member left."""
    world = november()
    _settle(world)
    _december(world)
    _audit(world)
    _amend(world)
    return world


def november() -> World:
    """A run of three rounds, two shared costs, changes of keys, and the bill that two members witnessed."""
    world = World(quorum=2, tiers=(OPEN,), pots=(pot("compute", "proportional"), pot("services", "equal", "usage")))
    world.start()
    world.round()
    world.say("birch/admin", world.item("birch", 1_200))
    world.round(members=["acme", "cedar"])
    world.say("acme/admin", world.item("acme", 501, "mail"))
    world.round()
    world.say(world.coordinator, world.end())
    world.say(f"{CONSORTIUM}/log", world.equivocation(2, manifest=digest("another")))
    old, new = key("cedar/compute"), key("cedar/compute", 2)
    world.say("cedar/compute", added("cedar", "compute", new))
    size = world.books.tree.size
    world.say("cedar/admin", revoked("cedar", "compute", old, suspect_from=5))
    world.say("cedar/admin", affirmed("cedar", "compute", old, 5, size))
    world.bill()
    return world


def _settle(world: World) -> None:
    """One transfer of the bill is paid, and who owes the other is in default."""
    period = world.books.statements[-1].period
    paid, *rest = world.books.accounts.settlements.open(period)
    for by in (paid.payer, paid.payee):
        said = Settlement(
            seq=0,
            prev=FIRST,
            member=by,
            period=period,
            netting=paid.netting,
            payer=paid.payer,
            payee=paid.payee,
            amount=paid.amount,
        )
        world.say(f"{by}/admin", said)
    for by in world.members:
        if rest and by != rest[0].payer:
            owes = rest[0].payer
            said = Default(seq=0, prev=FIRST, member=by, period=period, netting=0, defaulter=owes, reason="no answer")
            world.say(f"{by}/admin", said)


def _december(world: World) -> None:
    """A period that was quoted and priced before it began, in which costs are disputed and models are fetched."""
    admin, period = f"{CONSORTIUM}/admin", "2026-12"
    quotes = []
    for by, about, amount in (
        ("acme", "price", "1000000000000"),
        ("birch", "price", "1000000000001"),
        ("acme", "alone", "50"),
    ):
        said = QuoteOpen(
            seq=0,
            prev=FIRST,
            member=by,
            about=about,
            period=period,
            members=(by,),
            amount=amount,
            salt=digest(f"{by} {about}"),
        )
        seal = sealed(about, period, (by,), amount, said.salt)
        sealing = QuoteSeal(seq=0, prev=FIRST, member=by, about=about, period=period, members=(by,), seal=seal)
        world.say(f"{by}/admin", sealing)
        quotes.append(said)
    for said in quotes:
        world.say(f"{said.member}/admin", said)
    median, names = world.books.accounts.quotes.median(period)
    world.say(admin, Price(seq=0, prev=FIRST, period=period, price=median, quotes=names))
    rate = Rate(
        seq=0,
        prev=FIRST,
        currency="USD",
        date="2026-12-01",
        rate=Fraction(9, 10),
        source="European Central Bank",
        replaces=FIRST,
    )
    typo = world.say(admin, replace(rate, rate=Fraction(9)))
    world.say(admin, replace(rate, replaces=typo))
    item = replace(world.item("acme", 0, "storage", period=period), amount="20.5", currency="USD", date="2026-12-01")
    hashed = world.say("acme/admin", item)
    back = CreditNote(
        seq=0, prev=FIRST, note="n1", payer="acme", item=hashed, period=period, amount="0.5", reason="billed twice"
    )
    world.say("acme/admin", back)
    used = Usage(
        seq=0,
        prev=FIRST,
        member="birch",
        pot="services",
        period=period,
        quantity="12.5",
        source="GB-days, metered",
        replaces=FIRST,
    )
    first = world.say(admin, replace(used, quantity="125"))
    world.say(admin, replace(used, replaces=first))
    about = "item/acme/storage"
    dispute = world.say("birch/admin", Dispute(seq=0, prev=FIRST, member="birch", about=about, reason="never ordered"))
    for by in ("birch", "cedar"):
        said = Resolution(seq=0, prev=FIRST, member=by, about=about, dispute=dispute, outcome="stands", reason="")
        world.say(f"{by}/admin", said)
    model = Artefact(
        seq=0,
        prev=FIRST,
        publisher=CONSORTIUM,
        artefact=digest("model"),
        size=1_000,
        form="safetensors",
        checkpoints=(Checkpoint(run="r1", round=3),),
        parents=(),
        without=(),
    )
    world.say(world.coordinator, model)
    world.say("birch/compute", Access(seq=0, prev=FIRST, member="birch", artefact=model.artefact, fetch=1))
    for by in ("acme", "cedar"):
        told = AccessRevoke(seq=0, prev=FIRST, member=by, notice="2026-1", revoked="birch", reason="shared the weights")
        world.say(f"{by}/admin", told)
    for by in ("acme", "cedar"):
        world.say(f"{by}/admin", AccessRestore(seq=0, prev=FIRST, member=by, notice="2026-1"))
    world.bill(period)


def _audit(world: World) -> None:
    """Another run, in which work of birch is drawn, and repeated by two others. It is not billed yet; what the experts
    of this run are worth, and what acme has served with them.
    """
    who = ("acme", "birch")  # The key of cedar was revoked.
    recipe = replace(TOY, feed="swiglu", member_experts=len(who))
    world.say(world.coordinator, world.manifest("r2", members=who, rounds=1, recipe=recipe, start=digest("given")))
    for by in who:
        world.say(f"{by}/compute", world.consent(by, "r2"))
    size, segment = world.drawn("birch", "r2")
    challenge = next(world.books.challenges(("r2", 1, "birch")))
    assert (challenge.size, challenge.segment) == (size, segment)
    world.say("acme/compute", world.result(challenge, "acme"))
    world.say(world.coordinator, world.result(challenge, CONSORTIUM, verdict="close", distance_ppm=7))
    world.say("birch/compute", world.worth("birch", "r2"))
    world.say("birch/admin", world.lent("birch", "acme", "cedar", run="r2"))
    for tokens in (10, 1_000):
        world.say("acme/admin", world.served("acme", tokens, {"birch": tokens // 2}, "r2", "2027-01"))


def _amend(world: World) -> None:
    """The members agree on another quorum, and on floors and caps, and one of them leaves."""
    limited = pot("services", "two_part", "usage", floors={"acme": 100, "birch": 50}, caps={"cedar": 10**6})
    small = replace(world.charter, quorum=1, pots=(world.charter.pots[0], limited))
    proposal = Amendment(
        seq=0, prev=FIRST, member="birch", amendment="quorum", replaces=world.books.agreement.hash, charter=small
    )
    hashed = world.say("birch/admin", proposal)
    for by in ("acme", "cedar"):
        world.say(f"{by}/admin", Vote(seq=0, prev=FIRST, member=by, amendment=hashed, choice="yes"))
    world.say("acme/admin", Leave(seq=0, prev=FIRST, member="acme", reason="merged with birch"))
