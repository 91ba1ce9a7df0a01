"""What each member's expert is worth: the loss with every set of experts, found by leaving experts out.

Nothing is trained for it (decision 0022). All models are those that `consortium model export --without` writes. What
was measured can be signed, as an entry of the log, and what others have signed can be measured again.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from client.home import Home
from client.signer import Signer
from client.witness import Witness
from shared_models.huggingface import Mixture
from shared_models.ledger_http import LedgerHttp
from shared_models.lm import corpus, gpt, hygiene, own, weights
from shared_models.lm.tokenizer import Tokenizer
from shared_models.records.kinds import FIRST, Manifest, Worth
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.books import Books
from shared_models.rules.worth import check_members, shares

CLOSE_UNATS = 100  # What two builds may differ by in a loss: float32's order of adding; 1 between AVX2 and none.


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found on each text, as a `Worth` has it: losses by set of experts, and routes."""

    members: tuple[str, ...]  # In the manifest's order.
    names: tuple[str, ...]  # Of the texts,
    texts: tuple[str, ...]  # and their SHA-256.
    unats: tuple[tuple[int, ...], ...]  # Of each text, in millionths of a nat per byte.
    routes: tuple[tuple[int, ...], ...]

    @property
    def losses(self) -> dict[frozenset[str], tuple[int, ...]]:
        """The losses of each set of members on the texts; sets of fewer members first."""
        found = {_named(self.members, bits): each for bits, each in enumerate(zip(*self.unats, strict=True))}
        return {who: found[who] for size in range(len(self.members) + 1) for who in found if len(who) == size}

    def gains(self) -> dict[frozenset[str], int]:
        """By how much each set of experts lowers the losses of the given weights, summed over the texts."""
        by_set = self.losses
        nobody = by_set[frozenset()]
        return {who: sum(nobody) - sum(losses) for who, losses in by_set.items() if who}

    def shares(self) -> dict[str, Fraction]:
        """The Shapley value of each member, exact; they sum to what all gain together. One may be below zero."""
        return shares(self.members, [sum(each) for each in zip(*self.unats, strict=True)])

    def routed(self) -> dict[str, int]:
        """How often a token went through whose expert, with all of them, in all layers and texts together."""
        return dict(zip(self.members, [sum(each) for each in zip(*self.routes, strict=True)][1:], strict=True))

    def all_routes(self) -> int:
        """How often one went through any feed-forward, the given ones included."""
        return sum(map(sum, self.routes))


class Compared(NamedTuple):
    """What a member has said of a text, held against what was measured again."""

    entry: int
    by: str
    text: str  # Its name.
    distance_unats: int  # The largest difference of a loss,
    where: frozenset[str]  # with whose experts;
    routes_alike: bool

    @property
    def close(self) -> bool:
        return self.distance_unats <= CLOSE_UNATS

    def __str__(self) -> str:
        said = f"entry {self.entry}: what {self.by} has said of {self.text} is"
        routes = "" if self.routes_alike else "; the routes are others"
        if self.distance_unats == 0:
            return f"{said} what was measured here{routes}"
        judged = "close" if self.close else "not what was measured here"
        whose = " ".join(sorted(self.where)) or "nobody"
        return f"{said} {judged}: {self.distance_unats} millionths of a nat apart with the experts of {whose}{routes}"


def measure(
    experts: weights.Tensors,
    given: weights.Tensors,
    manifest: Manifest,
    texts: Sequence[Path],
    cut: Tokenizer | None = None,
) -> Measured:
    """Score all sets of a run's experts on these texts, on the sequences that a run scores its checkpoints on, in the
    tokens of the run's tokenizer, if it has one.

    Raises `Refused`: BAD_FIELD for a run without members' experts or with too many, or a text that is too short;
    NOT_FOUND; WRONG_MODEL if the weights are not of the run's recipe.
    """
    recipe, members = manifest.recipe, manifest.members
    check_members(manifest)
    least = recipe.context + 1
    read = [corpus.given(path, least) for path in texts]
    in_tokens = [corpus.in_tokens(text, least, cut) for text in read]
    drawn = [hygiene.spread(hygiene.EVALUATED, recipe.context, text.tokens) for text in in_tokens]
    experts, given = dict(experts), dict(given)  # Read once, for all of them.
    losses = []
    for bits in range(1 << len(members)):
        mixture = Mixture(experts, given, recipe, [number for number in range(len(members)) if bits >> number & 1])
        model = gpt.GPT(mixture.shape)
        found = (
            hygiene.held_out_loss(model, mixture, sequences, text.sizes)(None)
            for text, sequences in zip(in_tokens, drawn, strict=True)
        )
        losses.append(tuple(round(1e6 * loss) for loss in found))
    return Measured(
        members,
        tuple(path.name for path in texts),
        tuple(hashlib.sha256(text.data).hexdigest() for text in read),
        tuple(zip(*losses, strict=True)),
        tuple(tuple(own.routed(model, sequences)) for sequences in drawn),  # The last model was that of all members.
    )


def sign(folder: Path, books: Books, run: str, checkpoint: str, measured: Measured) -> list[int]:
    """Say in the log what was measured, an entry for each text, by this member; their indices. Raises `Refused`."""
    home = Home(folder)
    found = [
        Worth(
            seq=0,
            prev=FIRST,
            member=home.settings.member,
            run=run,
            checkpoint=checkpoint,
            text=text,
            losses_unats=losses,
            routes=routes,
        )
        for text, losses, routes in zip(measured.texts, measured.unats, measured.routes, strict=True)
    ]
    author, ledger = f"{home.settings.member}/compute", home.ledger()
    if said := next((each for each in found if books.spoken(author, each)), None):
        raise Refused(Refusal.CONFLICT, f"{home.settings.member} has said what the text {said.text[:12]}… shows")
    home.learn_keys(ledger)
    signer = Signer(home, Witness(home, ledger.consistency))
    return [_say(signer, record, ledger) for record in found]


def compare(books: Books, run: str, checkpoint: str, measured: Measured) -> Iterator[Compared]:
    """What members have said in the log of the same checkpoint and texts, held against this, in the log's order."""
    for entry, said, _ in books.worths:
        if (said.run, said.checkpoint) != (run, checkpoint) or said.text not in measured.texts:
            continue
        at = measured.texts.index(said.text)
        apart = [abs(one - other) for one, other in zip(said.losses_unats, measured.unats[at], strict=True)]
        farthest = max(range(len(apart)), key=apart.__getitem__)
        where = _named(measured.members, farthest)
        alike = said.routes == measured.routes[at]
        yield Compared(entry, said.member, measured.names[at], apart[farthest], where, alike)


def _say(signer: Signer, record: Worth, ledger: LedgerHttp) -> int:
    last = ledger.last(f"{record.member}/compute")
    return signer.say(lambda: record, last[0] + 1 if last else 0, ledger.append)


def _named(members: Sequence[str], bits: int) -> frozenset[str]:
    return frozenset(member for number, member in enumerate(members) if bits >> number & 1)
