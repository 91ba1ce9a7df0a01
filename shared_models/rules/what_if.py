"""A bill computed again from its own facts: by other rules, or without what is in dispute. Nobody signs such a one.

So members see what a rule would cost whom before they vote on it. The work, the costs, the price and what was carried
over are those of the bill.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from shared_models.records.kinds import Charter, Pot, Statement
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.allocation import RULES
from shared_models.rules.statement import Facts, Put, statement


def asked(texts: Iterable[str]) -> dict[str, str]:
    """{pot: rule} of texts such as `services=equal`; of a pot that is named twice, the last."""
    return dict(each.partition("=")[::2] for each in texts)


def under(bill: Statement, facts: Facts, rules: Mapping[str, str]) -> Statement:
    """The same work and the same costs, divided by other rules: {pot: rule}. Raises `Refused`.

    BAD_FIELD if there is no such pot or rule, INFEASIBLE or BAD_FIELD if a rule cannot divide this.
    """
    pots = {pot.name for pot in facts.charter.pots}
    for pot, rule in rules.items():
        if pot not in pots or rule not in RULES:
            known = f"pots are {', '.join(sorted(pots))}; rules are {', '.join(RULES)}"
            raise Refused(Refusal.BAD_FIELD, f"{pot[:80]}={rule[:80]} is not POT=RULE: {known}")
    return _again(bill, replace(facts, charter=with_rules(facts.charter, rules)))


def without(bill: Statement, facts: Facts, disputed: Iterable[Put]) -> Statement:
    """What the statement would be if this had not been put in. Raises `Refused` as `statement`."""
    back = [replace(each, amount=-each.amount, original=-each.original) for each in disputed]
    return _again(bill, replace(facts, put=(*facts.put, *back)))


def with_rules(charter: Charter, rules: Mapping[str, str]) -> Charter:
    """A charter in which these pots have these rules: {pot: rule}."""

    def changed(pot: Pot) -> Pot:
        if pot.name not in rules:
            return pot
        return replace(pot, rule=rules[pot.name], driver="usage" if pot.driver == "usage" else "benefit", table=())

    return replace(charter, pots=tuple(map(changed, charter.pots)))


def _again(bill: Statement, facts: Facts) -> Statement:
    return statement(facts, root=bill.root, cosignatures=bill.cosignatures, seq=bill.seq, prev=bill.prev)
