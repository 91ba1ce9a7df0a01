"""Who pays whom: few transfers that settle everybody's net."""

from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush

from shared_models.records.kinds import Transfer

EXACT = 14  # Up to so many parties the number of transfers is the least there is: 2^14 sets of them are looked at.


def net_transfers(nets: Mapping[str, int]) -> tuple[Transfer, ...]:
    """Transfers that settle these nets (above zero is owed), which must sum to zero; the fewest for up to 14 parties.

    k parties that owe each other nothing less than all of it settle in k - 1 transfers. So the fewest transfers are n
    less the most groups that the n parties fall into, each of which sums to zero. Finding them is NP-hard: beyond 14
    parties all are one group, n - 1 transfers at most, and with amounts in cents hardly ever fewer are possible.
    """
    assert sum(nets.values()) == 0
    parties = {member: nets[member] for member in sorted(nets) if nets[member]}
    groups = _groups(parties) if len(parties) <= EXACT else iter([parties])
    return tuple(transfer for group in groups for transfer in _greedy(group))


def _greedy(nets: Mapping[str, int]) -> Iterator[Transfer]:
    """The largest debtor pays the largest creditor, ties in order of their names, until nobody owes."""
    payers = [(net, member) for member, net in nets.items() if net < 0]
    payees = [(-net, member) for member, net in nets.items() if net > 0]
    heapify(payers)
    heapify(payees)
    while payers:
        (owes, payer), (owed, payee) = heappop(payers), heappop(payees)
        yield Transfer(payer=payer, payee=payee, amount=min(-owes, -owed))
        if owes < owed:
            heappush(payers, (owes - owed, payer))
        elif owed < owes:
            heappush(payees, (owed - owes, payee))


def _groups(nets: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """As many groups as there can be that each sum to zero, the first of them with the first name.

    Take parties away one by one, and count how often what is left sums to zero: the most that any order reaches is the
    most groups that a set can hold. A set is a number, whose bit i is the party i.
    """
    names, sums, most = list(nets), [0], [0]
    for net in nets.values():
        sums += [net + other for other in sums]
    bits = [1 << number for number in range(len(names))]
    for parties in range(1, len(sums)):
        most.append(max(most[parties ^ bit] for bit in bits if parties & bit) + (not sums[parties]))
    left = len(sums) - 1
    group: dict[str, int] = {}
    while left:
        goal = most[left] - (not sums[left])
        number = next(number for number, bit in enumerate(bits) if left & bit and most[left ^ bit] == goal)
        group[names[number]] = nets[names[number]]
        left ^= bits[number]
        if not sums[left]:
            yield group
            group = {}
