"""What would cheating gain me? Each trick is played twice in a small consortium, honestly and not, by the real rules.

Every entry is signed, checked by the books and billed as in any log; keys are new each time, and no number depends on
them. Beside what a trick gains here stands what it would gain by a rule that others use, computed too. Amounts are
exact minor units, for the cheat: what it is billed, less what it has really spent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor
from typing import Any, NamedTuple

from shared_models.records import entry as entries
from shared_models.records.entry import CONSORTIUM_ROLES, MEMBER_ROLES
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import (
    BILLION,
    FIRST,
    Amendment,
    Chained,
    Charter,
    Consent,
    CostItem,
    Default,
    Device,
    Dispute,
    Included,
    Manifest,
    Member,
    Pot,
    QuoteSeal,
    Rate,
    Receipt,
    Resolution,
    RoundClose,
    RoundOpen,
    Vote,
    sealed_seed,
)
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.agreement import carried
from shared_models.rules.allocation import equal, proportional
from shared_models.rules.books import NOTHING, Books
from shared_models.rules.games import shapley_by_class
from shared_models.rules.pricing import FLOP_PER_NCU, flop_per_token, tokens_asked
from shared_models.rules.recipes import TOY
from shared_models.rules.statement import statement

CHEAT, OTHERS = "acme", ("birch", "cedar", "dogwood", "elm")
NAMES = (CHEAT, *OTHERS)
PARTS = tuple(f"{CHEAT}-{number}" for number in range(1, 9))  # What the cheat would split itself into.
TIMES = 10  # By so much a claim is inflated.
WORTH = 100_00  # Of each member's work in a round, in minor units; and of each cost.
CONSORTIUM, ADMIN, COORDINATOR = "tricks.example", "tricks.example/admin", "tricks.example/coordinator"
PERIODS = ("2026-11", "2026-12")
SEED = "1" * 64  # Of every round: nothing is scored here.
BILLS = 100  # Tiny ones, to collect what rounding drops.
RECIPE = replace(TOY, heads=1, inner_steps=4, inner_rate="0.001", seed=0)
FLOP = tokens_asked(RECIPE) * flop_per_token(RECIPE)  # Of a member in a round.


class Row(NamedTuple):
    """One trick."""

    trick: str
    gain: Fraction  # By the rules here.
    elsewhere: str  # A rule that others use,
    gain_elsewhere: Fraction  # and what the trick would gain by it.
    stopped_by: str
    test: str  # The test that plays it, with other numbers.


class Play:
    """A consortium that lasts as long as one trick."""

    def __init__(self, parts: Mapping[str, int] | None = None, **changes: Any) -> None:
        """Members with their benefits; five alike, unless it is said otherwise."""
        benefits = parts or dict.fromkeys(NAMES, 8)
        self.books, self.stopped, self.spent = Books(), list[Refusal](), Fraction(0)
        self.keys = {name: SigningKey.generate(name) for name in (f"{CONSORTIUM}/{role}" for role in CONSORTIUM_ROLES)}
        members = tuple(self.member(name, benefit) for name, benefit in sorted(benefits.items()))
        pots = (("compute", "proportional"), ("services", "proportional"), ("office", "equal"))
        charter = Charter(
            consortium=CONSORTIUM,
            currency="EUR",
            minor_digits=2,
            price=Fraction(WORTH * FLOP_PER_NCU, FLOP),
            compute_pot="compute",
            pots=tuple(
                Pot(name=name, rule=rule, driver="benefit", table=(), floors=(), caps=()) for name, rule in pots
            ),
            members=members,
            devices=(Device(name="gpu", peak_flops=FLOP),),  # A round takes it one second.
            quorum=0,
            approvals=len(benefits) // 2 + 1,
            cap="none",
            objection=1,
            accession=Fraction(0),
            worth_share=Fraction(0),
            expert_price=Fraction(0),
            window=1,
            tiers=(),
            **{role: self.text(f"{CONSORTIUM}/{role}") for role in CONSORTIUM_ROLES},
        )
        founders = [ADMIN, COORDINATOR, f"{CONSORTIUM}/log", *(f"{name}/admin" for name in benefits)]
        self.members = sorted(benefits)
        self._append(entries.sign(replace(charter, **changes), CONSORTIUM, [self.keys[name] for name in founders]))

    def text(self, name: str) -> str:
        return self.keys[name].verify_key.text()

    def member(self, name: str, benefit: int) -> Member:
        """One whose keys are made now."""
        made = (SigningKey.generate(f"{name}/{role}", kinds[0]) for role, kinds in MEMBER_ROLES.items())
        self.keys |= {key.name: key for key in made}
        keys = {role: self.text(f"{name}/{role}") for role in MEMBER_ROLES}
        return Member(name=name, benefit=benefit, pledge=0, **keys)

    def _append(self, leaf: bytes) -> str:
        entry = self.books.open(leaf)
        self.books.check(entry)
        self.books.add(entry)
        return entry.hash.hex()

    def say(self, author: str, record: Chained) -> str:
        """Append it; its leaf hash. Raises `Refused`."""
        last = self.books.chains.get(author, NOTHING)
        signed = replace(record, seq=last.seq + 1, prev=last.hash)
        return self._append(entries.sign(signed, CONSORTIUM, [self.keys[author]]))

    def tries(self, author: str, record: Chained) -> None:
        """Append what is refused."""
        try:
            self.say(author, record)
        except Refused as refused:
            self.stopped.append(refused.refusal)

    def train(self, lie: Mapping[str, Any] | None = None, *, again: bool = False) -> None:
        """One round in which all train, of the cheat's parts the first.

        The cheat's receipt has these fields instead; or it is handed in again, in other words.
        """
        trains = tuple(name for name in self.members if name not in PARTS[1:])
        manifest = Manifest(
            seq=0,
            prev=FIRST,
            run="r",
            charter=self.books.charter_hash,
            bundle=FIRST,
            recipe=RECIPE,
            members=trains,
            rounds=1,
            deadline_ms=10_000,
            quorum=1,
            wait="all",
            late=0,
            patience=0,
            flop_per_token=flop_per_token(RECIPE),
            start=FIRST,
            base=FIRST,
            loss_unats=0,
            teacher=FIRST,
            steps=(),
        )
        hashed = self.say(COORDINATOR, manifest)
        for name in trains:
            self.say(f"{name}/compute", Consent(seq=0, prev=FIRST, member=name, run="r", manifest=hashed))
        named: dict[str, Any] = {"run": "r", "round": 1, "base": FIRST}
        opening = RoundOpen(
            seq=0,
            prev=FIRST,
            manifest=hashed,
            invited=trains,
            opened_ms=0,
            deadline_ms=10_000,
            sealed=sealed_seed(SEED),
            **named,
        )
        opened, included = self.say(COORDINATOR, opening), dict[str, str]()
        for name in trains:
            honest = self.receipt(name, opened)
            said = replace(honest, **(lie or {})) if name == CHEAT else honest
            try:
                included[name] = self.say(f"{name}/compute", said)
            except Refused as refused:
                self.stopped.append(refused.refusal)
                included[name] = self.say(f"{name}/compute", honest)
            if again and name == CHEAT:
                self.tries(f"{name}/compute", replace(said, data="1" * 64))
        counted = tuple(
            Included(member=name, receipt=receipt, weight=BILLION // len(included), gain_unats=0, judged="whole")
            for name, receipt in included.items()
        )
        named |= {"checkpoint": FIRST, "state": FIRST, "seed": SEED, "included": counted, "late": ()}
        closing = RoundClose(seq=0, prev=FIRST, excluded=(), loss_unats=0, **named)
        self.say(COORDINATOR, closing)

    def receipt(self, name: str, opened: str) -> Receipt:
        size = self.books.tree.size
        return Receipt(
            seq=0,
            prev=FIRST,
            member=name,
            node="1",
            run="r",
            round=1,
            opened=opened,
            base=FIRST,
            update=f"{self.members.index(name):064}",
            data=FIRST,
            trajectory=FIRST,
            build="2.13.0/CUDA/1/bfloat16/H200",
            tokens=tokens_asked(RECIPE),
            steps=RECIPE.inner_steps,
            flop=FLOP,
            busy_ms=1_000,
            wall_ms=1_000,
            cpu_ms=1_000,
            device="gpu",
            devices=1,
            energy_mj=0,
            energy_method="none",
            memory_bytes=0,
            isolation="none",
            bytes_down=0,
            bytes_up=0,
            started_ms=0,
            ended_ms=1_000,
            witnessed_size=size,
            witnessed_root=self.books.tree.root(size).hex(),
        )

    def bill(self, period: str = PERIODS[0]) -> None:
        last = self.books.chains.get(ADMIN, NOTHING)
        self.say(ADMIN, self.books.statement(period, self.books.tree.size, seq=last.seq + 1, prev=last.hash))

    def due(self, *names: str) -> Fraction:
        """What these were billed in all, carries included, less what the cheat has spent."""
        nets = sum(each.net for bill in self.books.statements for each in bill.balances if each.member in names)
        carries = sum((each.carry for each in self.books.statements[-1].balances if each.member in names), Fraction(0))
        return nets + carries - self.spent


def item(name: str, minor: int = WORTH, pot: str = "services", **changes: Any) -> CostItem:
    """A cost that the cheat says it has paid."""
    amount = f"{minor // 100}.{minor % 100:02}".rstrip("0").rstrip(".")
    whole = CostItem(
        seq=0,
        prev=FIRST,
        item=name,
        payer=CHEAT,
        pot=pot,
        period=PERIODS[0],
        category="other",
        amount=amount,
        currency="EUR",
        date="2026-11-05",
        evidence=FIRST,
    )
    return replace(whole, **changes)


@dataclass(frozen=True, slots=True)
class Trick:
    """How it is played: with the lie, and without."""

    name: str
    play: Callable[[bool], Play]
    elsewhere: str
    gain_elsewhere: Callable[[], Fraction]
    rule: str  # What stops it, where nothing of it is refused.
    test: str
    names: tuple[str, ...] = (CHEAT,)

    def row(self) -> Row:
        lied, honest = self.play(True), self.play(False)
        gain = lied.due(*self.names, *PARTS) - honest.due(*self.names, *PARTS)
        by = f"refused: {lied.stopped[0].value}; {self.rule}" if lied.stopped else self.rule
        return Row(self.name, gain, self.elsewhere, self.gain_elsewhere(), by, f"tests/attacks/test_{self.test}.py")


def table() -> list[Row]:
    """Every trick."""
    return [trick.row() for trick in TRICKS]


# Splitting, merging, voting.


def _split(lie: bool) -> Play:
    play = Play({**dict.fromkeys(PARTS, 1), **dict.fromkeys(OTHERS, 8)} if lie else None)
    play.train()
    play.bill()
    return play


def _split_office(lie: bool) -> Play:
    play = Play({**dict.fromkeys(PARTS, 1), **dict.fromkeys(OTHERS, 8)} if lie else None)
    play.say("birch/admin", item("rent", pot="office", payer="birch"))
    play.bill()
    return play


def _merge(lie: bool) -> Play:
    play = Play()
    if lie:
        fewer = replace(
            play.books.charter, members=tuple(each for each in play.books.charter.members if each.name != "birch")
        )
        play.tries(f"{CHEAT}/admin", _amendment(play, fewer))
    play.say("cedar/admin", item("rent", pot="office", payer="cedar"))
    play.bill()
    return play


def _outvote(lie: bool) -> Play:
    """It brings itself in seven times more, and votes for that; then it invents a cost, and rules that it stands."""
    play = Play()
    if lie:
        more = tuple(play.member(name, 0) for name in PARTS[1:])
        everybody = tuple(sorted((*play.books.charter.members, *more), key=lambda each: each.name))
        hashed = play.say(
            f"{CHEAT}/admin", _amendment(play, replace(play.books.charter, members=everybody, approvals=7))
        )
        play.say(f"{CHEAT}/admin", Vote(seq=0, prev=FIRST, member=CHEAT, amendment=hashed, choice="yes"))
        _invent(play)
    for period in PERIODS:
        play.bill(period)
    return play


def _amendment(play: Play, charter: Charter) -> Amendment:
    replaces = play.books.agreement.hash
    return Amendment(seq=0, prev=FIRST, member=CHEAT, amendment="a", replaces=replaces, charter=charter)


def _invent(play: Play) -> None:
    """A cost that nobody paid, which another disputes; most find it void, and the cheat that it stands."""
    play.say(f"{CHEAT}/admin", item("invented"))
    about = f"item/{CHEAT}/invented"
    first = play.say("birch/admin", Dispute(seq=0, prev=FIRST, member="birch", about=about, reason="no invoice"))
    for name in NAMES[:4]:
        outcome = "stands" if name == CHEAT else "void"
        said = Resolution(seq=0, prev=FIRST, member=name, about=about, dispute=first, outcome=outcome, reason="")
        play.say(f"{name}/admin", said)


def _by_node(value: int, parts: tuple[str, ...]) -> Fraction:
    """What is given in equal parts to each node: so much more to many."""
    one = dict.fromkeys(NAMES, Fraction(1))
    many = dict.fromkeys((*parts, *OTHERS), Fraction(1))
    return sum((equal(Fraction(value), many)[part] for part in parts), Fraction(0)) - equal(Fraction(value), one)[CHEAT]


def _percent(part: int, whole: int) -> str:
    """Rounded to tenths."""
    tenths = (2_000 * part + whole) // (2 * whole)
    return f"{tenths // 10}.{tenths % 10} %"


def _merged_elsewhere() -> Fraction:
    two, one = (equal(Fraction(WORTH), dict.fromkeys(names, Fraction(1))) for names in (NAMES, NAMES[:1] + NAMES[2:]))
    return two[CHEAT] + two["birch"] - one[CHEAT]


def _outvoted_elsewhere() -> Fraction:
    """By one vote for each node, what was invented stands."""
    return _invented_elsewhere() if carried(PARTS, (*PARTS, *OTHERS)) else Fraction(0)


# Work.


def _trained(lie: Mapping[str, Any], *, again: bool = False) -> Callable[[bool], Play]:
    def play(lies: bool) -> Play:
        made = Play()
        made.train(lie if lies else None, again=again and lies)
        made.bill()
        return made

    return play


def _by_claim(times: int) -> Fraction:
    """What is paid for all work, divided by claims that one may make so many times larger."""
    claims = dict.fromkeys(NAMES, Fraction(1))
    paid = Fraction(WORTH * len(NAMES))
    return proportional(paid, {**claims, CHEAT: Fraction(times)})[CHEAT] - proportional(paid, claims)[CHEAT]


def _believed(times: int) -> Fraction:
    """More work at the charter's price, for which all pay."""
    play = Play()
    play.train()
    end = play.books.tree.size
    facts = play.books.accounts.facts(PERIODS[0], end)
    lied = replace(facts, work={**facts.work, CHEAT: times * facts.work[CHEAT]})
    nets = [
        sum(
            each.net
            for each in statement(one, root="", cosignatures=(), seq=0, prev="").balances
            if each.member == CHEAT
        )
        for one in (lied, facts)
    ]
    return Fraction(nets[0] - nets[1])


def _copied_elsewhere() -> Fraction:
    """Each different update halves what is left to be learned, a copy of one adds nothing: 1 - 2^-n of n."""

    def learned(counts: tuple[int, ...]) -> Fraction:
        return 1 - Fraction(1, 2 ** (min(counts[0], 1) + counts[1]))

    sizes, whole = {"cheat": 1, "others": len(OTHERS)}, learned((1, len(OTHERS)))
    honest = shapley_by_class(sizes, learned)["cheat"] / whole
    copies = len(PARTS) * shapley_by_class({**sizes, "cheat": len(PARTS)}, learned)["cheat"] / whole
    return WORTH * len(NAMES) * (copies - honest)


# Costs.


def _costs(*lies: CostItem, spent: int = 0, disputed: bool = False) -> Callable[[bool], Play]:
    """These are entered, if they are not refused, behind the first statement if they come late."""

    def play(lie: bool) -> Play:
        made = Play()
        late = any(each.item == "late" for each in lies)
        if late:
            made.bill()
        if lie and disputed:
            _invent(made)
        for each in lies if lie else ():
            made.tries(f"{CHEAT}/admin", each)
        made.spent = Fraction(spent if lie else 0)
        for period in PERIODS[late:]:
            made.bill(period)
        return made

    return play


def _invented_elsewhere() -> Fraction:
    """As long as nobody disputes it: the amount, less the cheat's own part of it."""
    play = Play()
    play.say(f"{CHEAT}/admin", item("invented"))
    play.bill()
    return play.due(CHEAT)


def _dollars(lie: bool) -> Play:
    """The charter's day has a rate; the cheat dates its invoice on another."""
    play = Play()
    play.say(
        ADMIN,
        Rate(seq=0, prev=FIRST, currency="USD", date="2026-11-05", rate=RATE, source="a central bank", replaces=FIRST),
    )
    if lie:
        play.tries(f"{CHEAT}/admin", item("dollars", currency="USD", date="2026-11-30"))
    play.say(f"{CHEAT}/admin", item("dollars", currency="USD"))
    play.bill()
    return play


RATE = Fraction(9, 10)


def _dollars_elsewhere() -> Fraction:
    """One for one, and the cheat's own part of it is a fifth."""
    dear, right = WORTH * Fraction(1), WORTH * RATE
    return (dear - right) * (1 - proportional(Fraction(1), dict.fromkeys(NAMES, Fraction(1)))[CHEAT])


# Quotes, defaults, rounding.


def _quoted(lie: bool) -> Play:
    play = Play(cap="alone")
    play.train()
    if lie:
        named: dict[str, Any] = {"member": CHEAT, "about": "alone", "period": PERIODS[0], "members": (CHEAT,)}
        play.tries(f"{CHEAT}/admin", QuoteSeal(seq=0, prev=FIRST, seal=FIRST, **named))
    play.bill()
    return play


def _quoted_elsewhere() -> Fraction:
    """Capped at nothing."""
    play = Play(cap="alone")
    play.train()
    facts = play.books.accounts.facts(PERIODS[0], play.books.tree.size)
    low = replace(facts, quotes={frozenset({CHEAT}): Fraction(0)})
    stated = statement(low, root="", cosignatures=(), seq=0, prev="")
    return Fraction(next(each.net for each in stated.balances if each.member == CHEAT))


def _default(lie: bool) -> Play:
    """It owes others, and says of one of them that it does not pay."""
    play = Play()
    play.say("birch/admin", item("hosting", payer="birch"))
    play.bill()
    if lie:
        named: dict[str, Any] = {
            "member": CHEAT,
            "period": PERIODS[0],
            "netting": 0,
            "defaulter": "birch",
            "reason": "x",
        }
        play.tries(f"{CHEAT}/admin", Default(seq=0, prev=FIRST, **named))
    return play


def _default_elsewhere() -> Fraction:
    owed = _default(False).books.accounts.settlements.open(PERIODS[0])
    return Fraction(sum(each.amount for each in owed if each.payer == CHEAT))


def _tiny(lie: bool) -> Play:
    """One invoice of a unit in each of many periods; or one of them all in the last."""
    play = Play()
    for number in range(BILLS if lie else 1):
        period = f"p{number}"
        play.say(f"{CHEAT}/admin", item(f"i{number}", 1 if lie else BILLS, period=period))
        play.bill(period)
    return play


def _tiny_elsewhere() -> Fraction:
    """Each bill is rounded by itself, half up."""
    exact = 1 - proportional(Fraction(1), dict.fromkeys(NAMES, Fraction(1)))[CHEAT]
    return BILLS * (floor(exact + Fraction(1, 2)) - exact)


TRICKS = (
    Trick(
        "be eight members instead of one, and share work's pot",
        _split,
        f"the same for each node: {_percent(1, len(NAMES))} becomes {_percent(len(PARTS), len(PARTS + OTHERS))}",
        lambda: _by_node(WORTH * len(NAMES), PARTS),
        "work is paid by what was done and charged by benefit, whoever it stands for",
        "split_member",
    ),
    Trick(
        "be eight members instead of one, and share an equal pot",
        _split_office,
        "a refund in equal parts, for each node",
        lambda: _by_node(WORTH, PARTS),
        "each part pays what a member pays; and members are legal entities, brought in by a vote",
        "split_member",
    ),
    Trick(
        "two members pose as one, and pay one equal part",
        _merge,
        "members come and go by their own word",
        _merged_elsewhere,
        "no charter leaves a member out",
        "split_member",
        (CHEAT, "birch"),
    ),
    Trick(
        "bring in seven of its own to outvote the others",
        _outvote,
        "a vote for each node",
        _outvoted_elsewhere,
        "a newcomer takes the votes of more than half of the members",
        "split_member",
    ),
    Trick(
        "claim ten times the hours",
        _trained({"busy_ms": TIMES * 1_000, "wall_ms": TIMES * 1_000, "ended_ms": TIMES * 1_000}),
        "paid by the hour",
        lambda: _by_claim(TIMES),
        "FLOP are counted, not hours",
        "inflated_hours",
    ),
    Trick(
        "claim ten times the work in the same time",
        _trained({"tokens": TIMES * tokens_asked(RECIPE), "flop": TIMES * FLOP, "steps": TIMES * RECIPE.inner_steps}),
        "claims are believed",
        lambda: _believed(TIMES),
        "what a round asks for, and the peak of the device, bound a claim",
        "claim_above_peak",
    ),
    Trick(
        "hand in the same work twice",
        _trained({}, again=True),
        "whatever is handed in counts",
        lambda: _believed(2),
        "one receipt for each node and round",
        "replayed_receipt",
    ),
    Trick(
        "copy another's update",
        _trained({"update": f"{1:064}"}),
        "Shapley value of what was learned, eight copies",
        _copied_elsewhere,
        "tokens are paid, not effect. That it did not train is not seen: docs/threat-model.md",
        "copied_update",
    ),
    Trick(
        "scale its update ten times",
        _trained({"update": "9" * 64}),
        "paid by the norm of the update",
        lambda: _by_claim(TIMES),
        "tokens are paid, not effect",
        "copied_update",
    ),
    Trick(
        "declare what its own machines cost, at twice the price",
        _costs(item("machines", 2 * WORTH, "compute")),
        "paid at the declared cost",
        lambda: _believed(2),
        "work has one price for all",
        "gold_plated_cost",
    ),
    Trick(
        "invent a cost",
        _costs(disputed=True),
        "nobody can object, or nobody looks",
        _invented_elsewhere,
        "a dispute, and more than half of the members find it void",
        "gold_plated_cost",
    ),
    Trick(
        "buy what is dearer than it need be",
        _costs(item("dear"), spent=WORTH),
        "a sponsor pays it back",
        lambda: Fraction(0),
        "it bears its own part of it, and the others can dispute it",
        "gold_plated_cost",
    ),
    Trick(
        "enter a cost for a period that is closed",
        _costs(item("late")),
        "books stay open",
        _invented_elsewhere,
        "corrections are entries of a later period, which can be disputed",
        "late_cost",
    ),
    Trick(
        "date an invoice on a day with a better rate",
        _dollars,
        "the payer names the rate",
        _dollars_elsewhere,
        "only the administrator enters and corrects rates",
        "chosen_rate",
    ),
    Trick(
        "quote low once the work is seen, to be capped",
        _quoted,
        "quotes at any time",
        _quoted_elsewhere,
        "quotes are sealed before the work",
        "bent_quotes",
    ),
    Trick(
        "say that a creditor does not pay",
        _default,
        "one voice is enough to end a debt",
        _default_elsewhere,
        "a default takes a debt in the log, and most of the others",
        "sham_default",
    ),
    Trick(
        "send a hundred tiny bills, for what rounding drops",
        _tiny,
        "each bill is rounded by itself",
        _tiny_elsewhere,
        "the rest is carried on, below one unit for ever",
        "tiny_bills",
    ),
)
