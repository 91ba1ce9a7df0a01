"""A consortium's life in which all happens that its bills follow from: by chance, the same again for the same seed."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from random import Random

from world import CONSORTIUM, TOY, World, added, affirmed, cents, counted, digest, key, member, pot, revoked

from shared_models.records.kinds import (
    FIRST,
    Amendment,
    Chained,
    CostItem,
    CreditNote,
    Dispute,
    Leave,
    Rate,
    Resolution,
    Usage,
    Vote,
)
from shared_models.records.refusals import Refused

ADMIN = f"{CONSORTIUM}/admin"
CURRENCIES = {"EUR": Fraction(1), "USD": Fraction(9, 10), "JPY": Fraction(1, 163)}
RULES = (
    ("proportional", "benefit"),
    ("equal", "usage"),
    ("two_part", "usage"),
    ("airport", "usage"),
    ("airport", "benefit"),
)
POTS = (pot("compute", "proportional"), pot("services", "equal"), pot("storage", "two_part", "usage"))


class Life:
    """What may happen next is tried; what the log refuses has not happened."""

    def __init__(self, seed: int, expert_price: Fraction = Fraction(0)) -> None:
        self.chance, self.serving = Random(seed), Random(f"serving {seed}")
        pots = (*POTS, pot("travel", "proportional", "paid"))
        self.world = World(pots=pots, objection=2, price=Fraction(10**17, 7), expert_price=expert_price)
        self.world.start(late=1, rounds=10**6)
        if expert_price:
            self.world.start("own", recipe=replace(TOY, feed="swiglu", member_experts=3), start=digest("given"))
            self.world.round("own")
        self.world.start("still", rounds=5, patience=1)
        self.world.round("still")
        self.world.round("still")  # Its loss is the one of the round before.
        self.world.say(self.world.coordinator, self.world.end("still", status="stopped"))
        self.names = 0
        self.items = dict[str, CostItem]()  # By leaf hash.
        self.works = list[str]()  # As disputes call them.
        self.missed: tuple[str, str] | None = None  # Whose receipt of the round before has not counted, and its hash.
        self.keys = {f"{each}/compute": key(f"{each}/compute") for each in self.world.members}

    @property
    def period(self) -> str:
        return f"2026-{len(self.world.books.statements) + 1:02}"

    def say(self, author: str, record: Chained) -> str | None:
        try:
            return self.world.append(self.world.sign(author, record, self.keys.get(author, key(author))))
        except Refused:
            return None

    def name(self) -> str:
        self.names += 1
        return f"n{self.names}"

    def present(self) -> list[str]:
        return list(self.world.books.agreement.present())

    def round(self) -> None:
        """Some answer, and some too late for it."""
        world, invited = self.world, sorted(set(self.present()) & self.world.books.runs["r1"].consents)
        if self.say(world.coordinator, world.opened(invited=tuple(invited))) is None:
            return
        hashes = {each: self.say(f"{each}/compute", world.receipt(each)) for each in invited}
        said = {each: hashed for each, hashed in hashes.items() if hashed is not None}
        late = (counted(*self.missed),) if self.missed is not None else ()
        self.missed = said.popitem() if len(said) > 2 and self.chance.random() < 0.5 else None
        number = world.books.runs["r1"].rounds[-1].number
        if self.say(world.coordinator, world.close(said, late=late)) is not None:
            self.works += [f"work/r1/{number}/{each}" for each in said]

    def cost(self) -> None:
        item = self.world.item(
            self.chance.choice(self.world.members),
            self.chance.randint(1, 10**5),
            self.name(),
            pot=self.chance.choice([each.name for each in self.world.books.charter.pots][1:]),
            period=self.chance.choice([self.period, self.period, "2026-12"]),
            currency=self.chance.choice(list(CURRENCIES)),
            date=f"2026-11-0{self.chance.randint(1, 3)}",
        )
        if item.currency != "EUR":
            self.rate(item.currency, item.date)
        if (hashed := self.say(f"{item.payer}/admin", item)) is not None:
            self.items[hashed] = item

    def rate(self, currency: str, date: str) -> None:
        """Said once, and then at times corrected."""
        stands = self.world.books.accounts.rate(currency, date)
        if stands is None or self.chance.random() < 0.3:
            said = CURRENCIES[currency] * self.chance.randint(90, 110) / 100
            replaces = FIRST if stands is None else stands.hash
            self.say(
                ADMIN, Rate(seq=0, prev=FIRST, currency=currency, date=date, rate=said, source="ECB", replaces=replaces)
            )

    def credit(self) -> None:
        if self.items:
            hashed = self.chance.choice(list(self.items))
            payer, amount = self.items[hashed].payer, cents(self.chance.randint(1, 2_000))
            note = CreditNote(
                seq=0,
                prev=FIRST,
                note=self.name(),
                payer=payer,
                item=hashed,
                period=self.period,
                amount=amount,
                reason="a refund",
            )
            self.say(f"{payer}/admin", note)

    def usage(self) -> None:
        who, of = self.chance.choice(self.world.members), self.chance.choice(["services", "storage"])
        said = self.world.books.accounts.used(self.period, of).get(who)
        quantity, replaces = cents(self.chance.randint(0, 9_999)), FIRST if said is None else said.hash
        self.say(
            ADMIN,
            Usage(
                seq=0,
                prev=FIRST,
                member=who,
                pot=of,
                period=self.period,
                quantity=quantity,
                source="metered",
                replaces=replaces,
            ),
        )

    def serve(self) -> None:
        """Said of this period, or of the next, anew if it was said before."""
        who, owner = self.serving.choice(self.world.members), self.serving.choice(["acme", "birch", "cedar"])
        tokens, period = self.serving.randint(1, 10**4), self.serving.choice([self.period, self.period, "2026-12"])
        self.say(f"{who}/admin", self.world.served(who, 2 * tokens, {owner: tokens}, "own", period))

    def dispute(self) -> None:
        named = [*self.works[-12:], *(f"item/{each.payer}/{each.item}" for each in self.items.values())]
        if named:
            about, by = self.chance.choice(named), self.chance.choice(self.present())
            self.say(f"{by}/admin", Dispute(seq=0, prev=FIRST, member=by, about=about, reason="never agreed"))

    def rule(self) -> None:
        """All say the same, or nearly all."""
        for about, case in list(self.world.books.accounts.cases.items()):
            if case.ruled is None and self.chance.random() < 0.5:
                outcome = self.chance.choice(["stands", "void"])
                for by in self.present():
                    if self.chance.random() < 0.9:
                        self.say(
                            f"{by}/admin",
                            Resolution(
                                seq=0, prev=FIRST, member=by, about=about, dispute=case.hash, outcome=outcome, reason=""
                            ),
                        )

    def amend(self) -> None:
        """Another price, other benefits, another rule, or one more member; not all vote for it."""
        charter = self.world.books.charter
        benefits = tuple(replace(each, benefit=self.chance.randint(1, 5)) for each in charter.members)
        name, (rule, driver) = self.chance.choice(["services", "storage"]), self.chance.choice(RULES)
        pots = tuple(pot(name, rule, driver) if each.name == name else each for each in charter.pots)
        new = replace(charter, members=benefits, pots=pots, price=Fraction(self.chance.randint(1, 10**17), 3))
        if len(charter.members) < 5 and self.chance.random() < 0.4:
            joins = member(("dora", "elm")[len(charter.members) - 3], 2)
            members = tuple(sorted((*benefits, joins), key=lambda each: each.name))
            new = replace(new, members=members, approvals=len(self.present()) // 2 + 1 + 1, accession=Fraction(1, 3))
        by = self.chance.choice(self.present())
        said = Amendment(
            seq=0, prev=FIRST, member=by, amendment=self.name(), replaces=self.world.books.agreement.hash, charter=new
        )
        hashed = self.say(f"{by}/admin", said)
        for each in self.present() if hashed is not None else ():
            choice = "yes" if self.chance.random() < 0.9 else "no"
            self.say(f"{each}/admin", Vote(seq=0, prev=FIRST, member=each, amendment=str(hashed), choice=choice))
        self.world.members = [each.name for each in self.world.books.charter.members]

    def leave(self) -> None:
        if len(self.present()) > 3:
            who = self.chance.choice(self.present())
            self.say(f"{who}/admin", Leave(seq=0, prev=FIRST, member=who, reason="no budget"))

    def rekey(self) -> None:
        """A member's daemon gets another key; what the old one signed lately is in doubt, and at times affirmed."""
        who = self.chance.choice(self.world.members)
        author, size = f"{who}/compute", self.world.books.tree.size
        old = self.keys.setdefault(author, key(author))
        new = key(author, int(digest(self.name())[:6], 16))
        if self.say(author, added(who, "compute", new)) is not None:
            start = max(0, size - 30)
            self.say(f"{who}/admin", revoked(who, "compute", old, suspect_from=start))
            if self.chance.random() < 0.5:
                self.say(f"{who}/admin", affirmed(who, "compute", old, start, size))
            self.keys[author] = new

    def bill(self) -> None:
        """Of all that there is, or of what there was some entries ago."""
        end = self.world.books.tree.size - self.chance.choice([0, 0, 3])
        try:
            bill = self.world.books.statement(self.period, end, seq=0, prev=FIRST)
        except Refused:
            return
        self.say(ADMIN, bill)

    def live(self, steps: int) -> World:
        """So many things happen, or are tried, and all that is open is billed."""
        acts: dict[Callable[[], None], int] = {
            self.round: 6,
            self.cost: 8,
            self.credit: 4,
            self.usage: 4,
            self.dispute: 4,
            self.rule: 3,
            self.amend: 1,
            self.leave: 1,
            self.rekey: 1,
            self.bill: 2,
        }
        for act in self.chance.choices(list(acts), weights=list(acts.values()), k=steps):
            act()
            if self.world.books.charter.expert_price and self.serving.random() < 0.1:
                self.serve()
        self.bill()
        return self.world


def life(seed: int, steps: int = 60, expert_price: Fraction = Fraction(0)) -> World:
    """The log of one such consortium."""
    return Life(seed, expert_price).live(steps)
