"""A bill computed again from its own facts: by other rules, or without what is in dispute. Nobody signs such a one.

So members see what a rule would cost whom before they vote on it. The work, the costs, the price and what was carried
over are those of the bill.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import chain

from shared_models.records.kinds import Charter, Coalition, Pot, Statement
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.agreement import SERVED
from shared_models.rules.allocation import RULES
from shared_models.rules.games import TABLE_RULES
from shared_models.rules.statement import Facts, Put, statement


def asked(texts: Iterable[str]) -> dict[str, str]:
    """{pot: rule} of texts such as `services=equal`; of a pot that is named twice, the last."""
    return dict(each.partition("=")[::2] for each in texts)


def under(bill: Statement, facts: Facts, rules: Mapping[str, str]) -> Statement:
    """The same work and the same costs, divided by other rules: {pot: rule}. Raises `Refused`.

    A rule of a table takes the pot's own, as the charter has it, or one that stands behind its name: what each
    coalition would cost by itself, as `shapley acme:60 birch:50 acme+birch:90`. Behind `served` stands another price of
    a million tokens through another's expert, in minor units. BAD_FIELD if there is no such pot, rule, table or price,
    INFEASIBLE or BAD_FIELD if a rule cannot divide this.
    """
    if not re.fullmatch(r"[0-9]{1,15}(/[1-9][0-9]{0,14})?", price := rules.get(SERVED, "0"), re.ASCII):
        raise Refused(Refusal.BAD_FIELD, f"{SERVED}={price[:80]} is no price of a million tokens in minor units")
    pots, members = {pot.name for pot in facts.charter.pots}, {member.name for member in facts.charter.members}
    for pot, rule in rules.items():
        if pot == SERVED:
            continue
        name, *table = rule.split() or [""]
        if pot not in pots or name not in {**RULES, **TABLE_RULES}:
            known = f"pots are {', '.join(sorted(pots))}; rules are {', '.join([*RULES, *TABLE_RULES])}"
            raise Refused(Refusal.BAD_FIELD, f"{pot[:80]}={rule[:80]} is not POT=RULE: {known}")
        if table and name in RULES:
            raise Refused(Refusal.BAD_FIELD, f"the rule {name} takes no table")
        named = [each.members for each in _table(table)]
        if len(set(named)) < len(named) or not members.issuperset(chain(*named)):
            raise Refused(Refusal.BAD_FIELD, f"{pot}={rule[:80]}: a coalition stands twice, or is not of members")
    other = with_rules(facts.charter, rules)
    for each in other.pots:
        if each.rule in TABLE_RULES and not each.table:
            raise Refused(
                Refusal.BAD_FIELD, f"the pot {each.name} has no table for the rule {each.rule}: write it behind"
            )
    return _again(bill, replace(facts, charter=other))


def without(bill: Statement, facts: Facts, disputed: Iterable[Put]) -> Statement:
    """What the statement would be if this had not been put in. Raises `Refused` as `statement`."""
    back = [replace(each, amount=-each.amount, original=-each.original) for each in disputed]
    return _again(bill, replace(facts, put=(*facts.put, *back)))


def with_rules(charter: Charter, rules: Mapping[str, str]) -> Charter:
    """A charter in which these pots have these rules, {pot: rule}, and what is served has this price."""

    def changed(pot: Pot) -> Pot:
        if pot.name not in rules:
            return pot
        rule, *said = rules[pot.name].split()
        if rule in TABLE_RULES:
            return replace(pot, rule=rule, driver="benefit", table=_table(said) or pot.table)
        return replace(pot, rule=rule, driver="usage" if pot.driver == "usage" else "benefit", table=())

    price = Fraction(rules.get(SERVED, charter.expert_price))
    return replace(charter, pots=tuple(map(changed, charter.pots)), expert_price=price)


def _table(said: Iterable[str]) -> tuple[Coalition, ...]:
    """What each of these coalitions would cost by itself: `acme+birch:90`. Raises `Refused(BAD_FIELD)`."""
    found = []
    for each in said:
        names, _, cost = each.partition(":")
        if not re.fullmatch("[0-9]{1,15}", cost, re.ASCII):
            raise Refused(Refusal.BAD_FIELD, f"{each[:80]} is no coalition and its cost, such as acme+birch:90")
        found.append(Coalition(members=tuple(sorted(names.split("+"))), cost=int(cost)))
    return tuple(found)


def _again(bill: Statement, facts: Facts) -> Statement:
    return statement(facts, root=bill.root, cosignatures=bill.cosignatures, seq=bill.seq, prev=bill.prev)
