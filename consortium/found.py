"""Founding a consortium whose parties all live in one folder: everybody's keys, one charter signed by all.

Between organisations each does its part on its own machine; what comes out is the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import client.home
import server.home
import server.nodes
from shared_models import durable
from shared_models.records import entry as entries
from shared_models.records.entry import MEMBER_ROLES
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import Charter, Device, Member, Pot, Tier

CONSORTIUM = "commons.example"
EVERYWHERE = "0.0.0.0"  # noqa: S104
# A toy price, 40 million euros: some seconds of a laptop should cost some euros. A real one is what an hour of a
# data-centre GPU costs, or a little less: at 40 % of its peak an H100 does 1.4 NCU in an hour.
PRICE = Fraction(4_000_000_000)
# Up to eight rounds late for who gives nothing, to be used, not to be taken away; the newest for who kept its pledge.
TIERS = (
    Tier(name="observer", share=Fraction(0), right="use", lag=8, quota=0),
    Tier(name="user", share=Fraction(1, 100), right="download", lag=8, quota=10**12),
    Tier(name="partner", share=Fraction(8, 10), right="download", lag=2, quota=10**13),
    Tier(name="full", share=Fraction(1), right="download", lag=0, quota=10**14),
)
PEAK = 200_000_000_000  # FLOP/s of one CPU core: 2 AVX-512 units × 16 floats × 2 operations × 3.1 GHz.


@dataclass(frozen=True, slots=True)
class Founded:
    """Where everybody's folder is, and the charter they signed."""

    folder: Path
    members: tuple[str, ...]
    charter: bytes  # A leaf.

    def member(self, name: str) -> client.home.Home:
        return client.home.Home(self.folder / name)

    @property
    def coordinator(self) -> server.home.Home:
        return server.home.Home(self.folder / "coordinator")

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger"

    @property
    def admin_key(self) -> Path:
        return self.folder / "admin" / "admin.key"


def coordinating(ledger_url: str, superlink: str, gateway: str) -> server.home.Settings:
    """The settings of a coordinator that members call by its `gateway` (NAME:PORT). Raises `Refused(BAD_FIELD)`."""
    called, _, port = gateway.rpartition(":")
    settings = server.home.Settings(
        ledger=ledger_url,
        superlink=superlink,
        gateway=gateway and f"{EVERYWHERE if called else ''}:{port}",
        gateway_name=called,
    )
    settings.gateway_address()
    return settings


def found(
    folder: Path,
    benefits: Mapping[str, int],
    *,
    ledger_url: str,
    superlink: str,
    gateway: str = "",
    price: Fraction,
    quorum: int | None = None,
    data: Sequence[str] = (),
    blobs: str = "",
    inline_bytes: int = server.home.INLINE_BYTES,
) -> Founded:
    """Found a consortium in a new folder: `benefits` are its members and what they pay by, `data` what each trains on.

    Members reach the SuperLink itself, on one machine, or what they call its `gateway` (NAME:PORT). So many members
    must have witnessed what a statement covers; more than half of them, unless `quorum` says otherwise. With `blobs`
    (HOST:PORT), what has more than `inline_bytes` goes beside Flower's messages. Raises `Refused(BAD_FIELD)`.
    """
    names = tuple(sorted(benefits))
    settled = replace(coordinating(ledger_url, superlink, gateway), blobs=blobs, inline_bytes=inline_bytes)
    homes = {}
    for number, name in enumerate(names):
        settings = client.home.Settings(
            member=name,
            ledger=ledger_url,
            superlink=gateway or superlink,
            data=data[number] if data else f"python-stdlib:{number}/{len(names)}",
            device="cpu-core",
            devices=1,
        )
        homes[name] = client.home.create(folder / name, settings)
    coordinator = server.home.create(folder / "coordinator", CONSORTIUM, settled)
    for role in ("ledger", "admin"):
        (folder / role).mkdir(exist_ok=True)
    log = SigningKey.create(folder / "ledger" / "log.key", f"{CONSORTIUM}/log")
    admin = SigningKey.create(folder / "admin" / "admin.key", f"{CONSORTIUM}/admin")

    charter = Charter(
        consortium=CONSORTIUM,
        currency="EUR",
        minor_digits=2,
        price=price,
        compute_pot="compute",
        pots=(
            Pot(name="compute", rule="proportional", driver="benefit", table=(), floors=(), caps=()),
            Pot(name="services", rule="equal", driver="benefit", table=(), floors=(), caps=()),
        ),
        members=tuple(
            Member(
                name=name,
                **{role: homes[name].key(role).verify_key.text() for role in MEMBER_ROLES},
                benefit=benefits[name],
                pledge=0,
            )
            for name in names
        ),
        devices=(Device(name="cpu-core", peak_flops=PEAK),),
        quorum=len(names) // 2 + 1 if quorum is None else quorum,
        approvals=len(names) // 2 + 1,
        cap="none",
        objection=1,
        accession=Fraction(1),
        worth_share=Fraction(0),
        expert_price=Fraction(0),
        window=3,
        tiers=TIERS,
        admin=admin.verify_key.text(),
        coordinator=coordinator.key.verify_key.text(),
        log=log.verify_key.text(),
    )
    signers = [admin, coordinator.key, log, *(homes[name].key("admin") for name in names)]
    leaf = entries.sign(charter, CONSORTIUM, signers)
    for party in (folder / "ledger", coordinator.path, *(home.path for home in homes.values())):
        durable.write(party / "charter.note", leaf)
    authority = (coordinator.path / "tls" / "ca.crt").read_bytes()
    for name, home in homes.items():
        durable.write(home.path / "ca.crt", authority)
        server.nodes.register(coordinator, name, (home.path / "keys" / "node.pub").read_bytes())
    return Founded(folder, names, leaf)
