"""Who pays whom: few transfers that settle everybody's net."""

from collections.abc import Mapping

from shared_models.records.kinds import Transfer


def net_transfers(nets: Mapping[str, int]) -> tuple[Transfer, ...]:
    """At most n - 1 transfers that settle these nets (above zero is owed), which must sum to zero.

    Greedy: the largest debtor pays the largest creditor, ties in order of their names, until nobody owes.
    """
    assert sum(nets.values()) == 0
    open_nets = {member: net for member, net in nets.items() if net}
    transfers = []
    while open_nets:
        payer = min(open_nets, key=lambda member: (open_nets[member], member))
        payee = min(open_nets, key=lambda member: (-open_nets[member], member))
        amount = min(-open_nets[payer], open_nets[payee])
        transfers.append(Transfer(payer=payer, payee=payee, amount=amount))
        open_nets[payer] += amount
        open_nets[payee] -= amount
        open_nets = {member: net for member, net in open_nets.items() if net}
    return tuple(transfers)
