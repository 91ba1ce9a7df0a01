"""Which runs this member takes part in, by its operator's own word: HOME/runs.json, read again at each question.

A run is known by the leaf hash of its manifest, so that a word is for what was looked at, to the byte. What was refused
is not consented to, and if it had been, no round of it begins any more. With `ask = true` under [runs] of policy.toml
nothing is consented to that was not approved; without it, whatever the policy allows.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

from client import policy
from client.home import Home
from client.policy import Policy
from shared_models import durable
from shared_models.ledger_http import Announced, LedgerHttp
from shared_models.records import entry as entries
from shared_models.records.kinds import Manifest
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.pricing import tokens_asked, value

FILE = "runs.json"  # In the member's folder.


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What the operator has said of one manifest, and when (Unix time)."""

    run: str
    approved: bool
    reason: str
    at_ms: int


class Asked(NamedTuple):
    """A run that asks for this member, and how it stands with it."""

    member: str  # Of whom it asks this.
    manifest: Manifest
    hash: str  # Leaf hash of the manifest.
    consented: bool
    word: Word | None
    refused: str  # What of the policy is against it; empty if nothing is.
    ended: str  # How, by the ledger's word; empty while it has not.

    @property
    def state(self) -> Literal["ended", "consented", "refused", "approved", "asks"]:
        """`asks`: nobody has said anything yet, and nothing is against it."""
        if self.ended:
            return "ended"
        if self.refused or (self.word is not None and not self.word.approved):
            return "refused"
        if self.consented:
            return "consented"
        return "approved" if self.word is not None else "asks"

    @property
    def round_flop(self) -> int:
        """What a round takes this member, and of a curriculum the last one."""
        return tokens_asked(self.manifest.recipe_of(self.member)) * self.manifest.flop_per_token

    def round_worth(self, price: Fraction) -> Fraction:
        """What that is worth at a price for one NCU, in minor units."""
        return value(self.round_flop, price)


def words(home: Home) -> dict[str, Word]:
    """What the operator has said, by manifest. Raises `Refused(BAD_FIELD)` if the file is not as it was written: then
    nothing is known to be approved."""
    path = home.path / FILE
    try:
        return {hashed: Word(**said) for hashed, said in json.loads(path.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise Refused(Refusal.BAD_FIELD, f"{path} is not as it was written: {error}") from None


def say(home: Home, ledger: LedgerHttp, run: str, *, approved: bool, reason: str = "") -> Asked:
    """Approve or refuse the run of this name, by the manifest that the ledger shows; it counts from now on.

    Raises `Refused`: UNKNOWN_RUN if there is none that asks for this member; as `words`.
    """
    found = one(home, ledger, run)
    word = Word(run=run, approved=approved, reason=reason, at_ms=time.time_ns() // 1_000_000)
    every = words(home) | {found.hash: word}
    text = json.dumps({hashed: asdict(each) for hashed, each in every.items()}, indent=1)
    durable.write(home.path / FILE, text.encode())
    return found._replace(word=word)


def one(home: Home, ledger: LedgerHttp, run: str) -> Asked:
    """The run of this name. Raises `Refused(UNKNOWN_RUN)`."""
    found = next((each for each in asked(home, ledger) if each.manifest.run == run), None)
    if found is None:
        raise Refused(Refusal.UNKNOWN_RUN, f"no run {run} in the log asks for {home.settings.member}")
    return found


def asked(home: Home, ledger: LedgerHttp) -> Iterator[Asked]:
    """Every run that asks for this member, in the ledger's order. Raises `Refused`, as the ledger and `words`."""
    rules, every, member = policy.read(home.policy_path), words(home), home.settings.member
    for manifest, (leaf, consents, ended) in naming(member, ledger):
        hashed, against = leaf_hash(leaf).hex(), ""
        try:
            rules.check_run(manifest, member)
        except Refused as refused:
            against = refused.detail
        yield Asked(member, manifest, hashed, member in consents, every.get(hashed), against, ended)


def naming(member: str, ledger: LedgerHttp) -> Iterator[tuple[Manifest, Announced]]:
    """Every run that asks for this member, in the ledger's order. Raises `Refused`, as the ledger."""
    for announced in ledger.runs():
        manifest = entries.peek(announced.manifest)
        if isinstance(manifest, Manifest) and member in manifest.members:
            yield manifest, announced


def check(home: Home, rules: Policy, manifest: Manifest, hashed: str) -> None:
    """Whether the operator's word lets this member take part. Raises `Refused`: POLICY, as `words`."""
    word = words(home).get(hashed)
    if word is None and rules.asks:
        how = f"consortium runs approve {manifest.run}"
        raise Refused(Refusal.POLICY, f"{rules.asks}: nobody has approved the run {manifest.run} yet: {how}")
    if word is not None and not word.approved:
        why = f": {word.reason}" if word.reason else ""
        raise Refused(Refusal.POLICY, f"the run {manifest.run} was refused by this member's operator{why}")
