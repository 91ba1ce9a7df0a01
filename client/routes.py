"""Whose experts the tokens of a text go through, counted; and what a member has served, said in the log.

Who has a model counts on a text of its own, or a sample of it, and says for how many tokens that stands: nobody else
sees what was served (decision 0030).
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from client import models
from client.home import Home
from shared_models.huggingface import Mixture
from shared_models.lm import corpus, gpt, hygiene, own, tokenizer, weights
from shared_models.published import Read
from shared_models.records.kinds import FIRST, Routed, Served
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.books import Books
from shared_models.rules.served import split


class Routes(NamedTuple):
    """How often the tokens of a text go through which feed-forward of a model, in all layers together."""

    run: str
    model: str  # As a `Served` names it.
    tokens: int
    given: int
    by_member: dict[str, int]  # Of those whose experts are in it, in the manifest's order.

    def of(self, tokens: int) -> dict[str, int]:
        """How many of so many tokens are whose; the others are those of the given weights."""
        return dict(zip(self.by_member, split(tokens, [self.given, *self.by_member.values()])[1:], strict=True))


def counted(
    books: Books, read: Read, file: Path, base: Path, text: Path, sequences: int, tokens: Path | None = None
) -> Routes:
    """Count the routes of so many sequences from all over a text, or of all of it if there are no more.

    The file is a checkpoint of a run with members' experts, or an artefact that is one without some of them; `base`,
    what the run began with; `tokens`, the run's tokenizer. Raises `Refused`: NOT_FOUND, WRONG_BASE, WRONG_MODEL;
    BAD_FIELD for a run without members' experts, or a text that is too short.
    """
    experts, digest = weights.read(file)
    found, left_out = models.partial(books, read, file) or (models.traced(books, read, digest), ())
    manifest = books.run(found["run"]).manifest
    if not manifest.recipe.member_experts:
        raise Refused(Refusal.BAD_FIELD, f"run {manifest.run} has no members' experts: nobody's are used")
    given, _ = weights.read_base(base, manifest.start)
    members = [name for name in manifest.members if name not in left_out]
    recipe = replace(manifest.recipe, member_experts=len(members))
    mixture = Mixture(experts, given, recipe, range(len(members)))
    model = gpt.GPT(mixture.shape)
    weights.put(mixture, model)
    cut = tokenizer.given(tokens, recipe.tokenizer, recipe.vocabulary)
    scored = corpus.in_tokens(corpus.given(text, recipe.context + 1), recipe.context + 1, cut)
    several = min(sequences, (scored.tokens.size - 1) // recipe.context)
    through, *theirs = own.routed(model, hygiene.spread(several, recipe.context, scored.tokens))
    name = hashlib.sha256(file.read_bytes()).hexdigest()
    return Routes(
        manifest.run,
        name if name in books.library.artefacts else digest,
        several * recipe.context,
        through,
        dict(zip(members, theirs, strict=True)),
    )


def say(folder: Path, books: Books, period: str, tokens: int, routes: Routes, *, correct: bool = False) -> int:
    """Say in the log that the member of this folder has served so many tokens in a period; the entry's index.

    The same again is the same entry. Raises `Refused`: CONFLICT if it has said something else, and this is no
    correction; or as the ledger.
    """
    home = Home(folder)
    record = Served(
        seq=0,
        prev=FIRST,
        member=home.settings.member,
        period=period,
        run=routes.run,
        model=routes.model,
        tokens=tokens,
        routes=tuple(Routed(member=name, tokens=part) for name, part in sorted(routes.of(tokens).items()) if part),
        replaces=FIRST,
    )
    if (said := books.accounts.served.stands(record)) is not None:
        if (said.record.tokens, said.record.routes) == (tokens, record.routes):
            return said.at
        if not correct:
            cause = f"entry {said.at} says {said.record.tokens:,} tokens for {period}: --correct puts this in its place"
            raise Refused(Refusal.CONFLICT, cause)
        record = replace(record, replaces=said.hash)
    return home.say(home.ledger(), home.key("admin"), record)[1].index
