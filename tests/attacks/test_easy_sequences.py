"""A member trains on the easiest of a recipe's candidates, and not on the hardest, which it commits to all the same."""

from dataclasses import replace

import torch
from world import TOY

from client import begun, hardest, reexecute
from consortium.simulate import simulate
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records import merkle
from shared_models.records.kinds import Receipt

RECIPE = replace(TOY, width=32, batch=4, inner_steps=6, segment=3, candidates=3)
torch.set_num_threads(1)


def test_who_trains_on_what_is_easiest_is_found_out_in_every_segment(tmp_path, monkeypatch):
    right = hardest.pick
    monkeypatch.setattr(hardest, "pick", lambda losses, count: right(-losses, count))
    run = simulate(tmp_path / "parties", {"acme": 1}, rounds=2, recipe=RECIPE)
    assert (run.report.findings, run.excluded) == ([], ())  # No log shows it.
    found = ((leaf, entries.peek(leaf)) for leaf in fetch(reader(str(run.founded.ledger / "log"))).leaves)
    earlier, last = [(record, merkle.leaf_hash(leaf).hex()) for leaf, record in found if isinstance(record, Receipt)]
    home, hashed = run.founded.member("acme"), run.report.books.runs["r1"].hash
    told = {"text": home.settings.data, "salt": home.salt("r1", 2)}
    kept = begun.recall(home.begun_path, hashed, 2)
    openings = [reexecute.show(kept, *last, run.manifest, segment=segment, **told) for segment in (0, 1)]
    monkeypatch.undo()
    for opening in openings:
        verdict, _, why = reexecute.replay(opening, *last, run.manifest, earlier[0])
        assert (verdict, "was trained on a sequence of" in why) == ("differs", True)
