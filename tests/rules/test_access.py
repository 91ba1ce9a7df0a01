"""Who may have which model: tiers, embargo, quota, lineage, and the members' ballots. The lie as well as the truth."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import CONSORTIUM, OPEN, TOY, World, charter, digest

from shared_models.records.kinds import (
    FIRST,
    Access,
    AccessRestore,
    AccessRevoke,
    Artefact,
    Checkpoint,
    RoundClose,
    Tier,
)
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.access import Grounds, Library, Verdict
from shared_models.rules.agreement import check_charter

OBSERVER = Tier(name="observer", share=Fraction(0), right="use", lag=8, quota=0)
USER = Tier(name="user", share=Fraction(1, 100), right="download", lag=4, quota=1_000)
PARTNER = Tier(name="partner", share=Fraction(8, 10), right="download", lag=2, quota=1_000)
FULL = Tier(name="full", share=Fraction(1), right="download", lag=0, quota=5_000)
TIERS = (OBSERVER, USER, PARTNER, FULL)
MEMBERS = ("acme", "birch", "cedar")
PLEDGE = 1_000


def agreed(pledge: int = PLEDGE, **changes):
    made = charter(dict.fromkeys(MEMBERS, 1), tiers=TIERS, window=2, **changes)
    return replace(made, members=tuple(replace(each, pledge=pledge) for each in made.members))


class Shelf:
    """A library, and the rest of the books as a test says it is. Time is the number of what has happened so far."""

    def __init__(self, **changes) -> None:
        self.library = Library()
        self.facts = Grounds(agreed(**changes), MEMBERS, {}, (), [], {})
        self.index = 0

    def __getattr__(self, name: str):
        return getattr(self.library, name)

    def gave(self, member: str, amount: int) -> None:
        """Since the last statement."""
        running = {**self.facts.running, member: self.facts.running.get(member, Fraction(0)) + amount}
        self.facts = self.facts._replace(running=running)

    def close(self, rounds: int = 1, run: str = "r1") -> None:
        for _ in range(rounds):
            number = len(self.library._closed.get(run, ())) + 1
            self.index += 1
            self.library.add_close(closed(run, number), self.index)

    def state(self) -> None:
        """The statement of what was given so far."""
        self.facts = self.facts._replace(given=[*self.facts.given, self.facts.running], running={})
        self.library.add_statement(MEMBERS, self.facts)

    def leave(self, member: str) -> None:
        self.index += 1
        self.library.add_leave(member, self.facts)
        present = tuple(each for each in self.facts.present if each != member)
        self.facts = self.facts._replace(present=present, left={**self.facts.left, member: self.index})

    def say(self, record) -> None:
        self.library.check(record, self.facts)
        self.index += 1
        self.library.add(record, self.index, self.facts.present)

    def publish(self, name: str, *parents: str, rounds: tuple[int, ...] = (), by: str = CONSORTIUM, size: int = 400):
        checkpoints = tuple(Checkpoint(run="r1", round=each) for each in rounds)
        self.say(artefact(name, by, checkpoints, tuple(map(digest, parents)), size))

    def fetch(self, member: str, name: str = "m") -> None:
        number = self.library.next_fetch(member, digest(name))
        self.say(Access(seq=0, prev=FIRST, member=member, artefact=digest(name), fetch=number))

    def ask(self, member: str = "acme", name: str = "m", **more) -> Verdict:
        return self.library.access(member, digest(name), self.facts, **more)

    def tier(self, member: str = "acme") -> str:
        found = self.library._tier(member, self.facts)
        return found.name if found else ""


def closed(run: str, number: int) -> RoundClose:
    return RoundClose(
        seq=0,
        prev=FIRST,
        run=run,
        round=number,
        base=digest("b"),
        checkpoint=digest("c"),
        included=(),
        excluded=(),
        late=(),
        loss_unats=1,
        state=digest("s"),
        seed=digest("seed"),
    )


def artefact(name: str, by: str, checkpoints: tuple = (), parents: tuple = (), size: int = 400) -> Artefact:
    return Artefact(
        seq=0,
        prev=FIRST,
        publisher=by,
        artefact=digest(name),
        size=size,
        form="safetensors",
        checkpoints=checkpoints,
        parents=parents,
        without=(),
    )


def revoke(by: str, revoked: str = "cedar", notice: str = "n1") -> AccessRevoke:
    return AccessRevoke(seq=0, prev=FIRST, member=by, notice=notice, revoked=revoked, reason="it sells our weights")


def restore(by: str, notice: str = "n1") -> AccessRestore:
    return AccessRestore(seq=0, prev=FIRST, member=by, notice=notice)


def refuses(act, *arguments, **more) -> Refused:
    with pytest.raises(Refused) as caught:
        act(*arguments, **more)
    return caught.value


@pytest.fixture
def shelf() -> Shelf:
    """One closed round and its checkpoint; acme has given all that it pledged."""
    made = Shelf()
    made.close()
    made.publish("m", rounds=(1,))
    made.gave("acme", PLEDGE)
    return made


# Tiers.


def test_a_tier_is_what_was_given_of_what_was_pledged(shelf):
    assert (shelf.tier("acme"), shelf.tier("birch"), shelf.tier("dogwood")) == ("full", "observer", "")
    shelf.gave("birch", 9)
    assert shelf.tier("birch") == "observer"
    shelf.gave("birch", 1)
    assert shelf.tier("birch") == "user"


def test_up_at_once_and_down_only_at_a_statement(shelf):
    shelf.state()
    assert shelf.tier() == "full"
    shelf.gave("birch", 800)
    assert shelf.tier("birch") == "user"  # 800 of the 2,000 of two periods are 40 %,
    shelf.gave("birch", 800)
    assert shelf.tier("birch") == "partner"  # and 1,600 of them 80 %, before the period has ended.
    assert shelf.tier() == "full"  # It gave half of what it had pledged by now, and there is no statement yet.
    shelf.state()
    assert (shelf.tier(), shelf.tier("birch")) == ("user", "partner")
    shelf.state()
    assert (shelf.tier(), shelf.tier("birch")) == ("observer", "partner")


def test_a_partner_by_what_it_gave_since_falls_with_what_is_disputed():
    shelf = Shelf()
    shelf.gave("acme", PLEDGE)
    assert shelf.tier() == "full"
    shelf.gave("acme", -PLEDGE)
    assert shelf.tier() == "observer"


def test_only_the_charter_s_window_of_statements_counts():
    shelf = Shelf()
    shelf.gave("acme", 4 * PLEDGE)
    shelf.state()
    shelf.state()
    assert shelf.tier() == "full"  # 4,000 of 2,000 over two periods.
    shelf.state()
    assert shelf.tier() == "observer"  # Nothing of 2,000.


def test_who_is_new_is_measured_by_the_periods_it_is_billed_for():
    shelf = Shelf()
    for _ in range(2):
        shelf.facts = shelf.facts._replace(given=[*shelf.facts.given, {}])
        shelf.library.add_statement(("acme", "birch"), shelf.facts)
    shelf.gave("cedar", 800)
    shelf.gave("birch", 800)
    assert (shelf.tier("cedar"), shelf.tier("birch")) == ("partner", "user")


def test_who_pledged_nothing_has_nothing_but_the_lowest_tier_until_it_gives_anything():
    shelf = Shelf(pledge=0)
    assert shelf.tier() == "observer"
    shelf.gave("acme", 1)
    assert shelf.tier() == "full"


def test_without_a_tier_that_asks_for_nothing_there_may_be_none(shelf):
    shelf.facts = shelf.facts._replace(charter=replace(shelf.facts.charter, tiers=TIERS[1:]))
    assert shelf.tier("birch") == ""
    verdict = shelf.ask("birch")
    assert verdict.reasons == ("birch has no tier: it gave 0.00 of 10.00 EUR pledged over 1 period",)
    assert verdict.missing == "0.10 more for tier user (download, 4 rounds late)"


def test_what_is_missing_for_the_next_tier_is_said_and_is_enough(shelf):
    shelf.state()
    shelf.gave("birch", 13)
    verdict = shelf.ask("birch")
    assert (verdict.granted, verdict.tier) == (False, "observer")
    assert verdict.missing == "0.07 more for tier user (download, 4 rounds late)"
    shelf.gave("birch", 7)
    assert shelf.ask("birch").tier == "user"
    assert shelf.ask("birch").missing == "15.80 more for tier partner (download, 2 rounds late)"
    assert shelf.ask("acme").missing == ""


amounts = st.integers(0, 2_500)


@given(
    periods=st.lists(amounts, max_size=4),
    running=amounts,
    more=st.lists(amounts, max_size=5),
    pledge=st.integers(0, 1_500),
    window=st.integers(1, 3),
    rounds=st.integers(0, 6),
)
def test_who_gave_more_never_has_less_access(periods, running, more, pledge, window, rounds):
    little, much = Shelf(pledge=pledge), Shelf(pledge=pledge)
    for shelf, adds in ((little, []), (much, more)):
        shelf.facts = shelf.facts._replace(charter=replace(shelf.facts.charter, window=window))
        shelf.close()
        shelf.publish("m", rounds=(1,))
        shelf.close(rounds)
        amount = [each + (adds[at] if at < len(adds) else 0) for at, each in enumerate([*periods, running])]
        for each in amount[:-1]:
            shelf.gave("acme", each)
            shelf.state()
        shelf.gave("acme", amount[-1])
    names = ["", *(tier.name for tier in TIERS)]
    assert names.index(little.ask().tier) <= names.index(much.ask().tier)
    for right in ("use", "download"):
        assert little.ask(right=right).granted <= much.ask(right=right).granted


@given(periods=st.lists(st.lists(amounts, min_size=1, max_size=3), max_size=4), pledge=st.integers(0, 1_500))
def test_nothing_but_a_statement_takes_a_tier_away(periods, pledge):
    shelf, names = Shelf(pledge=pledge), [tier.name for tier in TIERS]
    for period in periods:
        before = names.index(shelf.tier())
        for each in period:
            shelf.gave("acme", each)
            assert names.index(shelf.tier()) >= before
            before = names.index(shelf.tier())
        shelf.state()


@pytest.mark.parametrize(
    "tiers",
    [
        (OBSERVER, OBSERVER),
        (replace(OBSERVER, share=Fraction(-1)),),
        (USER, replace(PARTNER, share=USER.share)),
        (USER, replace(PARTNER, lag=USER.lag + 1)),
        (USER, replace(PARTNER, quota=USER.quota - 1)),
        (USER, replace(PARTNER, right="use")),
    ],
)
def test_a_charter_s_tiers_ask_for_more_and_give_no_less(tiers):
    assert refuses(check_charter, replace(agreed(), tiers=tiers)).refusal is Refusal.BAD_FIELD
    assert refuses(World, tiers=tiers).refusal is Refusal.BAD_FIELD
    check_charter(agreed())


# Embargo and rights.


def test_the_embargo_is_counted_in_rounds_of_the_run(shelf):
    shelf.gave("birch", 800)
    assert shelf.ask("acme").granted
    assert shelf.ask("birch").reasons == ("0 rounds of run r1 have closed behind round 1, tier partner asks for 2",)
    shelf.close(5, run="another")
    shelf.close(1)
    assert not shelf.ask("birch").granted
    shelf.close(1)
    verdict = shelf.ask("birch")
    assert verdict.granted
    assert verdict.reasons == (
        "birch gave 8.00 of 10.00 EUR pledged over 1 period: tier partner",
        "2 rounds of run r1 have closed behind round 1, tier partner asks for 2",
        "0 bytes were taken since the last statement and these are 400 more, tier partner has 1,000",
    )


def test_of_a_run_that_has_ended_nothing_is_embargoed(shelf):
    shelf.gave("birch", 10)
    shelf.library.add_end("another")
    assert not shelf.ask("birch").granted
    shelf.library.add_end("r1")
    assert shelf.ask("birch").granted


def test_who_may_use_a_model_may_not_take_it_away(shelf):
    shelf.close(8)
    assert shelf.ask("birch", right="use").granted
    assert shelf.ask("birch").reasons == (
        "tier observer may use models and not download them",
        "0 bytes were taken since the last statement and these are 400 more, tier observer has 0",
    )


def test_nobody_but_members_have_access(shelf):
    assert shelf.ask("dogwood").reasons[0] == "dogwood is no member"
    assert refuses(shelf.ask, "acme", "nothing").refusal is Refusal.NOT_FOUND


# Quota.


def test_a_quota_is_of_bytes_between_two_statements(shelf):
    shelf.gave("birch", 800)
    shelf.close(2)
    shelf.fetch("birch")
    shelf.fetch("birch")
    refused = refuses(shelf.fetch, "birch")
    assert refused.refusal is Refusal.NO_ACCESS
    assert "800 bytes were taken since the last statement and these are 400 more" in refused.detail
    assert shelf.ask("birch", anew=False).granted  # What it was granted, it may fetch to the end.
    shelf.fetch("acme")
    shelf.state()
    shelf.fetch("birch")
    assert shelf.library.fetched["birch"] == 400


def test_fetches_are_numbered(shelf):
    for number in (0, 2):
        wrong = Access(seq=0, prev=FIRST, member="acme", artefact=digest("m"), fetch=number)
        assert refuses(shelf.say, wrong).refusal is Refusal.BAD_FIELD
    shelf.fetch("acme")
    assert shelf.library.next_fetch("acme", digest("m")) == 2
    assert shelf.library.next_fetch("birch", digest("m")) == 1


# Lineage.


def test_what_is_derived_is_embargoed_as_what_it_descends_from(shelf):
    shelf.close(3)
    shelf.publish("newest", rounds=(4,))
    shelf.publish("merged", "m", "newest", by="acme")
    shelf.publish("tuned", "merged", by="acme")
    shelf.gave("birch", 800)
    assert shelf.ask("birch", "m").granted
    assert not shelf.ask("birch", "merged").granted
    assert shelf.ask("birch", "tuned").reasons == (
        "0 rounds of run r1 have closed behind round 4, tier partner asks for 2",
    )
    shelf.close(2)
    assert shelf.ask("birch", "tuned").granted


def test_the_embargo_of_every_run_it_descends_from_counts(shelf):
    shelf.close(3)
    shelf.close(1, run="r2")
    both = (Checkpoint(run="r1", round=1), Checkpoint(run="r2", round=1))
    shelf.say(artefact("both", CONSORTIUM, both))
    shelf.gave("birch", 800)
    assert shelf.ask("birch", "both").reasons == (
        "0 rounds of run r2 have closed behind round 1, tier partner asks for 2",
    )


def test_to_derive_from_a_model_one_must_have_the_right_to_use_it(shelf):
    refused = refuses(shelf.publish, "tuned", "m", by="birch")
    assert refused.refusal is Refusal.NO_ACCESS
    assert "0 rounds of run r1 have closed behind round 1" in refused.detail
    shelf.close(8)
    shelf.publish("tuned", "m", by="birch")  # An observer may use it; whether it took it away is another question.
    assert not shelf.ask("birch", "tuned").granted
    assert shelf.ask("acme", "tuned").granted


def test_an_artefact_that_descends_from_nothing_known_is_refused(shelf):
    for wrong in (
        {},
        {"rounds": (2,)},
        {"parents": ("nothing",)},
        {"rounds": (1,), "by": "acme"},  # A member has what it has from an artefact.
    ):
        wrong = dict(wrong)
        parents = wrong.pop("parents", ())
        assert refuses(shelf.publish, "x", *parents, **wrong).refusal is Refusal.WRONG_LINEAGE
    unknown = artefact("x", CONSORTIUM, (Checkpoint(run="r9", round=1),))
    assert refuses(shelf.say, unknown).refusal is Refusal.WRONG_LINEAGE
    assert refuses(shelf.publish, "m", rounds=(1,)).refusal is Refusal.CONFLICT


# Ballots, leaving, default.


def test_more_than_half_of_the_members_end_another_s_access_and_as_many_restore_it(shelf):
    shelf.gave("cedar", PLEDGE)
    shelf.fetch("cedar")
    shelf.say(revoke("acme"))
    assert shelf.ask("cedar").granted
    shelf.say(revoke("birch"))
    assert shelf.ask("cedar").reasons == (f"access of cedar was revoked at entry {shelf.index}, under notice n1",)
    assert not shelf.ask("cedar", anew=False).granted
    assert refuses(shelf.fetch, "cedar").refusal is Refusal.NO_ACCESS
    shelf.say(restore("acme"))
    assert not shelf.ask("cedar").granted
    shelf.say(restore("cedar"))  # It is a member, and votes.
    assert shelf.ask("cedar").granted


def test_votes_under_two_notices_are_not_added_up(shelf):
    shelf.gave("cedar", PLEDGE)
    shelf.say(revoke("acme", notice="n1"))
    shelf.say(revoke("birch", notice="n2"))
    assert shelf.ask("cedar").granted


def test_a_notice_is_about_one_member_and_ends_once(shelf):
    shelf.say(revoke("acme"))
    assert refuses(shelf.say, restore("acme")).refusal is Refusal.NOT_FOUND
    assert refuses(shelf.say, restore("acme", "n9")).refusal is Refusal.NOT_FOUND
    assert refuses(shelf.say, revoke("birch", revoked="acme")).refusal is Refusal.CONFLICT
    assert refuses(shelf.say, revoke("birch", "dogwood", "n2")).refusal is Refusal.WRONG_MEMBER
    shelf.say(revoke("birch"))
    start = shelf.index
    shelf.say(revoke("cedar"))  # It is in force since the second.
    assert f"entry {start}," in shelf.ask("cedar").reasons[0]
    shelf.say(restore("acme"))
    shelf.say(restore("birch"))
    assert refuses(shelf.say, revoke("cedar")).refusal is Refusal.CONFLICT
    assert refuses(shelf.say, restore("cedar")).refusal is Refusal.NOT_FOUND


def test_who_has_left_does_not_vote(shelf):
    shelf.gave("cedar", PLEDGE)
    shelf.say(revoke("acme"))
    shelf.leave("birch")
    assert refuses(shelf.say, revoke("birch")).refusal is Refusal.WRONG_MEMBER
    shelf.say(revoke("cedar", "cedar"))
    assert not shelf.ask("cedar").granted  # Both who are present have said so.
    assert refuses(shelf.say, restore("birch")).refusal is Refusal.WRONG_MEMBER
    shelf.say(revoke("acme", "birch", "n2"))  # Of who has left, access can be revoked too.


def test_who_leaves_keeps_what_there_was_by_the_tier_it_had(shelf):
    shelf.gave("birch", 800)
    shelf.leave("acme")
    shelf.leave("birch")
    shelf.close(1)
    shelf.publish("later", rounds=(2,))
    assert shelf.ask("acme").granted
    assert shelf.ask("acme").reasons[0] == "acme left with tier full"
    assert shelf.ask("acme", "later").reasons == ("round 2 of run r1 closed at entry 5, acme left at entry 3",)
    assert not shelf.ask("birch").granted
    shelf.state()
    shelf.state()
    shelf.close(1)
    assert (shelf.ask("acme").granted, shelf.ask("birch").granted) == (True, True)
    assert (shelf.ask("acme").tier, shelf.ask("acme").missing) == ("full", "")
    shelf.publish("tuned", "m", "later")
    assert not shelf.ask("acme", "tuned").granted


def test_who_is_in_default_gets_nothing(shelf):
    shelf.facts = shelf.facts._replace(defaulters=("acme",))
    assert shelf.ask("acme").reasons == ("acme is in default",)


# In the books.


def opened() -> World:
    """A world with a checkpoint and an artefact of it, in which everybody has worked."""
    world = World(tiers=TIERS)
    world.start()
    world.round()
    world.say(world.coordinator, artefact("m", CONSORTIUM, (Checkpoint(run="r1", round=1),)))
    return world


def access(member: str, fetch: int = 1) -> Access:
    return Access(seq=0, prev=FIRST, member=member, artefact=digest("m"), fetch=fetch)


def test_the_books_let_in_what_access_grants_and_nothing_else():
    world = opened()
    world.say("acme/compute", access("acme"))
    index = world.books.tree.size - 1
    assert world.books.library.grants[index] == ("acme", digest("m"))
    assert world.books.access("acme", digest("m")).granted
    for admin in ("acme/admin", "birch/admin"):
        world.say(admin, revoke(admin.partition("/")[0]))
    leaf = world.sign("cedar/compute", access("cedar"))
    assert refuses(world.append, leaf).refusal is Refusal.NO_ACCESS
    world.say("acme/admin", restore("acme"))
    world.say("birch/admin", restore("birch"))
    world.append(leaf)


def test_an_artefact_without_work_of_its_asker_is_refused_by_the_books():
    world = World(tiers=TIERS)
    world.start()
    world.round(members=["acme", "birch"])
    world.say(world.coordinator, artefact("m", CONSORTIUM, (Checkpoint(run="r1", round=1),)))
    assert refuses(world.say, "cedar/compute", access("cedar")).refusal is Refusal.NO_ACCESS
    world.say(world.coordinator, world.end())
    world.say("birch/compute", access("birch"))
    assert refuses(world.say, "cedar/compute", access("cedar")).refusal is Refusal.NO_ACCESS


def test_each_kind_has_one_role_that_writes_it():
    world = opened()
    tuned = artefact("tuned", "acme", (), (digest("m"),))
    for author, record, refusal in [
        ("acme/admin", access("acme"), Refusal.WRONG_ROLE),
        ("birch/compute", access("acme"), Refusal.WRONG_MEMBER),
        ("acme/compute", revoke("acme"), Refusal.WRONG_ROLE),
        ("birch/admin", revoke("acme"), Refusal.WRONG_MEMBER),
        ("acme/compute", restore("acme"), Refusal.WRONG_ROLE),
        ("birch/admin", restore("acme"), Refusal.WRONG_MEMBER),
        ("acme/compute", tuned, Refusal.WRONG_ROLE),
        ("birch/admin", tuned, Refusal.WRONG_MEMBER),
        (world.coordinator, tuned, Refusal.WRONG_ROLE),
        (f"{CONSORTIUM}/admin", artefact("x", CONSORTIUM, (Checkpoint(run="r1", round=1),)), Refusal.WRONG_ROLE),
        ("acme/admin", artefact("x", CONSORTIUM, (Checkpoint(run="r1", round=1),)), Refusal.WRONG_ROLE),
    ]:
        assert refuses(world.append, world.sign(author, record)).refusal is refusal
    world.say("acme/admin", tuned)


# Members' experts.


@pytest.fixture
def lending() -> World:
    """A run of acme and birch, whose checkpoint is published; cedar takes no part in it."""
    world = World(tiers=(OPEN,))
    recipe, who = replace(TOY, feed="swiglu", member_experts=2), ("acme", "birch")
    world.say(world.coordinator, world.manifest(members=who, recipe=recipe, start=digest("given")))
    for member in who:
        world.say(f"{member}/compute", world.consent(member))
    world.round(invited=who)
    world.say(world.coordinator, artefact("all", CONSORTIUM, (Checkpoint(run="r1", round=1),)))
    return world


def granted(world: World, member: str, name: str = "all") -> bool:
    return world.books.access(member, digest(name)).granted


def test_members_of_a_run_may_have_one_another_s_experts_and_others_only_if_each_says_so(lending):
    assert [granted(lending, member) for member in lending.members] == [True, True, False]
    reasons = lending.books.access("cedar", digest("all")).reasons
    assert set(reasons) >= {f"{owner} has not granted cedar its expert of run r1" for owner in ("acme", "birch")}
    taking = lending.sign("cedar/compute", Access(seq=0, prev=FIRST, member="cedar", artefact=digest("all"), fetch=1))
    assert refuses(lending.append, taking).refusal is Refusal.NO_ACCESS
    lending.say("acme/admin", lending.lent("acme", "birch", "cedar"))
    assert not granted(lending, "cedar")
    lending.say("birch/admin", lending.lent("birch", "acme", "cedar"))
    at = lending.books.tree.size - 1
    verdict = lending.books.access("cedar", digest("all"))
    assert (verdict.granted, verdict.reasons[-2]) == (
        True,
        f"birch grants cedar its expert of run r1, as entry {at} says",
    )
    lending.append(taking)


def test_a_member_says_anew_who_may_have_its_expert_and_keeps_it_from_some(lending):
    lending.say("birch/admin", lending.lent("birch"))
    assert [granted(lending, member) for member in lending.members] == [False, True, False]
    lending.say("birch/admin", lending.lent("birch", "acme"))
    assert [granted(lending, member) for member in lending.members] == [True, True, False]
    at = lending.books.tree.size - 1
    reasons = {member: lending.books.access(member, digest("all")).reasons for member in ("acme", "birch")}
    assert f"birch grants acme its expert of run r1, as entry {at} says" in reasons["acme"]
    assert "acme grants birch its expert of run r1, for both take part in it" in reasons["birch"]


def test_a_model_without_an_expert_asks_its_member_for_nothing_and_so_does_what_descends_from_it(lending):
    lending.say("acme/admin", lending.lent("acme", "cedar"))
    one = replace(artefact("one", CONSORTIUM, (Checkpoint(run="r1", round=1),)), without=("birch",))
    lending.say(lending.coordinator, one)
    assert [granted(lending, member, "one") for member in lending.members] == [True, False, True]
    lending.say("cedar/admin", artefact("tuned", "cedar", parents=(digest("one"),)))
    lending.say("acme/admin", artefact("mixed", "acme", parents=(digest("one"),)))
    assert [granted(lending, member, "tuned") for member in lending.members] == [True, False, True]
    assert set(lending.books.library.held(digest("mixed")).experts) == {("r1", "acme")}
    none = replace(artefact("none", CONSORTIUM, (Checkpoint(run="r1", round=1),)), without=("acme", "birch"))
    lending.say(lending.coordinator, none)
    assert all(granted(lending, member, "none") for member in lending.members)


@pytest.mark.parametrize(
    ("author", "member", "changes", "refusal"),
    [
        ("acme/compute", "acme", {}, Refusal.WRONG_ROLE),
        ("birch/admin", "acme", {}, Refusal.WRONG_MEMBER),
        ("cedar/admin", "cedar", {}, Refusal.WRONG_MEMBER),
        ("acme/admin", "acme", {"run": "r2"}, Refusal.WRONG_MEMBER),
        ("acme/admin", "acme", {"to": ("cedar", "birch")}, Refusal.WRONG_MEMBER),
        ("acme/admin", "acme", {"to": ("acme",)}, Refusal.WRONG_MEMBER),
        ("acme/admin", "acme", {"to": ("dogwood",)}, Refusal.WRONG_MEMBER),
        ("acme/admin", "acme", {"replaces": digest("another")}, Refusal.CONFLICT),
    ],
)
def test_only_who_has_an_expert_says_who_may_have_it(lending, author, member, changes, refusal):
    said = replace(lending.lent(member, "birch"), **changes)
    if member == "birch":
        said = replace(said, to=("acme",))
    assert refuses(lending.append, lending.sign(author, said)).refusal is refusal
    assert lending.books.library.lent("r1", "acme") is None


@pytest.mark.parametrize("without", [("cedar",), ("birch", "acme"), ("acme", "acme")])
def test_what_is_left_out_are_experts_of_its_checkpoints(lending, without):
    made = replace(artefact("bad", CONSORTIUM, (Checkpoint(run="r1", round=1),)), without=without)
    assert refuses(lending.say, lending.coordinator, made).refusal is Refusal.WRONG_LINEAGE
    derived = replace(artefact("bad", "acme", parents=(digest("all"),)), without=("birch",))
    assert refuses(lending.say, "acme/admin", derived).refusal is Refusal.WRONG_LINEAGE
