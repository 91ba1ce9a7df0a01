"""A member samples text from a model that it took under its grant, trains on it too, and shows how much of it: all of
that in one log, and what anybody could say instead.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from world import TOY

from client import begun, data, reexecute, work
from client.home import Home, write_settings
from client.sample import _model, _recipe, granted
from consortium.cli import main
from consortium.simulate import Result, simulate
from ledger.api import serving
from shared_models import huggingface
from shared_models.lm import gpt, weights
from shared_models.published import fetch, reader
from shared_models.records import canonical
from shared_models.records import entry as entries
from shared_models.records.kinds import FIRST, AccessRevoke, Receipt
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.access import Grant
from shared_models.rules.challenge import committed

TWO = {"acme": 2, "birch": 1}
TAUGHT = {"teacher_layers": 1, "teacher_heads": 2, "teacher_width": 16, "temperature": "2", "taught": "0.5"}
RECIPE = replace(TOY, context=32, inner_steps=4, segment=2, **TAUGHT)
SIZE = 30_000


class Sampled:
    """A run whose teacher acme has fetched and sampled from, before it was taught by it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made, self.said = folder, folder / "made", dict[str, int]()
        self.texts = [folder / "acme.txt", folder / "birch.txt"]
        for number, path in enumerate(self.texts):
            path.write_bytes(data.load(f"python-stdlib:{number}/2")[:SIZE].tobytes())
        self.result: Result = simulate(
            folder / "parties",
            TWO,
            rounds=2,
            recipe=RECIPE,
            teacher_rounds=1,
            texts=self.texts,
            attempt=self._attempt,
        )

    def home(self, name: str) -> Path:
        return self.folder / "parties" / name

    def sample(self, to: str, *words: object, member: str = "acme") -> int:
        command = ["model", "sample", self.file, "--home", self.home(member), "--to", self.folder / to]
        return main([str(word) for word in (*command, "--bytes", SIZE, *words)])

    def _attempt(self, coordinate) -> None:
        """Behind the teacher's run, and before the student's: publish, fetch, sample, and say so in member.toml."""
        coordinate()
        if self.said:
            return
        coordinator = self.home("coordinator")
        leaves = fetch(reader(Home(coordinator.parent / "acme").settings.ledger)).leaves
        last = [each for each in leaves if b"/round.close@v1" in each[:90]][-1]
        self.file = coordinator / "checkpoints" / f"{entries.peek(last).checkpoint}.safetensors"
        publish = ["model", "publish", "--home", str(coordinator), str(self.file), "--checkpoint", "teacher/1"]
        self.said["published"] = main(publish)
        self.said["early"] = self.sample("early")  # Nobody has taken it yet.
        self.artefact = data.named(f"file:{self.file}").removeprefix("sha256:")
        get = ["model", "get", self.artefact, "--home", str(self.home("acme")), "--to", str(self.folder / "fetched")]
        self.said["fetched"] = main(get)
        self.said["sampled"] = self.sample("made")
        acme = Home(self.home("acme"))
        write_settings(acme.path / "member.toml", replace(acme.settings, synthetic=str(self.made)))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Sampled:
    return Sampled(tmp_path_factory.mktemp("run"))


@pytest.fixture
def act(run, capsys):
    """A command, while the ledger is served: (exit code, what it printed, what it complained)."""

    def command(*words: object) -> tuple[int, str, str]:
        port = int(Home(run.home("acme")).settings.ledger.rpartition(":")[2])
        with serving(run.result.founded.ledger, port):
            capsys.readouterr()
            code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def receipt(run: Sampled, member: str, round_: int) -> tuple[Receipt, str]:
    for leaf in fetch(reader(str(run.result.founded.ledger / "log"))).leaves:
        record = entries.peek(leaf)
        if isinstance(record, Receipt) and (record.run, record.member, record.round) == ("r1", member, round_):
            return record, leaf_hash(leaf).hex()
    raise AssertionError


def test_who_took_a_model_samples_from_it_and_who_did_not_is_refused(run, act):
    assert run.said == {"published": 0, "early": 2, "fetched": 0, "sampled": 0}
    assert not list(run.folder.glob("*early*"))
    assert (run.result.report.findings, run.result.excluded) == ([], ())
    said = data.sampled(run.made)
    assert run.made.stat().st_size == said.size == SIZE
    assert run.result.report.books.library.grants[said.grant] == Grant("acme", run.artefact)
    assert (said.artefact, said.beside) == (run.artefact, data.named(f"file:{run.texts[0]}"))
    birch = ["model", "sample", run.file, "--home", run.home("birch"), "--to", run.folder / "birch-made", "--bytes", 9]
    code, _, err = act(*birch)
    assert (code, "no_access" in err, "no entry of the log says that birch took artefact" in err) == (2, True, True)
    birch[2] = run.texts[0]  # What is no artefact at all.
    code, _, err = act(*birch)
    assert (code, "not_found" in err, list(run.folder.glob("*birch-made*"))) == (2, True, [])


def test_whose_access_was_revoked_samples_no_more(run):
    books = run.result.report.books
    assert granted(books, "acme", run.artefact) == data.sampled(run.made).grant
    for seq, name in enumerate(TWO):
        said = {"seq": seq, "prev": FIRST, "member": name, "notice": "n1", "revoked": "acme", "reason": "x"}
        books.library.add(AccessRevoke(**said), books.tree.size + seq, tuple(TWO))
    with pytest.raises(Refused, match="no_access: access of acme was revoked"):
        granted(books, "acme", run.artefact)
    books.library._notices.clear()


def test_the_same_words_sample_the_same_bytes_and_another_seed_others(run, act):
    words = ["model", "sample", run.file, "--home", run.home("acme"), "--bytes", SIZE]
    code, out, _ = act(*words, "--to", run.folder / "again")
    assert (code, f"again has {SIZE:,} bytes" in out, f'synthetic = "{run.folder / "again"}"' in out) == (0, True, True)
    assert (run.folder / "again").read_bytes() == run.made.read_bytes()
    assert data.beside(run.folder / "again").read_bytes() == data.beside(run.made).read_bytes()
    code, _, err = act(*words, "--to", run.folder / "again")
    assert (code, "it is there already" in err) == (2, True)
    assert act(*words, "--to", run.folder / "other", "--seed", 2)[0] == 0
    assert (run.folder / "other").read_bytes() != run.made.read_bytes()
    code, _, _ = act(*words, "--to", run.folder / "for-acme", "--text", run.texts[0])  # As who checks on acme has it.
    assert (code, data.sampled(run.folder / "for-acme")) == (0, data.sampled(run.made))
    assert act(*words, "--to", run.folder / "for-birch", "--text", run.texts[1])[0] == 0
    assert data.sampled(run.folder / "for-birch").beside == data.named(f"file:{run.texts[1]}")
    assert act(*words, "--to", run.folder / "behind", "--prompts", run.texts[1], "--temperature", "0.8")[0] == 0
    assert data.sampled(run.folder / "behind").prompts == data.named(f"file:{run.texts[1]}")[7:]


@pytest.mark.parametrize(
    ("word", "why"),
    [
        (["--temperature", "0"], "--temperature 0: above 0"),
        (["--temperature", "101"], "--temperature 101"),
        (["--temperature", "hot"], "temperature"),
        (["--bytes", "0"], "size"),
        (["--seed", "-1"], "seed"),
        (["--prompts", "short"], "it has 5 tokens, and a sequence takes 32"),
        (["--prompts", "nowhere"], "nowhere"),
        (["--temperature", "0.000001"], "one another"),
    ],
)
def test_what_cannot_be_sampled_is_refused_and_nothing_is_written(run, act, tmp_path, monkeypatch, word, why):
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("short")
    words = ["model", "sample", run.file, "--home", run.home("acme"), "--bytes", SIZE, "--to", "bad"]
    code, _, err = act(*words, *word)
    assert (code, why in err, [path.name for path in tmp_path.iterdir()]) == (2, True, ["short"])


def opened(run: Sampled, act, to: Path) -> bytes:
    _, hashed = receipt(run, "acme", 2)
    words = ["work", "open", hashed, "--home", run.home("acme"), "--to", to, "--segment", 1]
    code, _, err = act(*words)
    assert (code, err) == (0, "")
    return to.read_bytes()


def test_an_opening_says_the_share_and_who_has_the_texts_finds_it_right(run, act, tmp_path):
    shown = opened(run, act, tmp_path / "opening")
    line = json.loads(shown.partition(b"\n")[0])
    (said,), (sample,) = line["slice"], line["sample"]
    signed, _ = receipt(run, "acme", 2)
    assert said["trained"] == signed.tokens == 4 * 2 * 32
    assert 0 < said["synthetic"] < said["trained"]
    assert committed(line["salt"], reexecute.read(shown).slice[0].hash) == signed.data
    assert canonical.decode(data.Sample, json.dumps(sample, separators=(",", ":")).encode()) == data.sampled(run.made)
    replay = ["work", "replay", tmp_path / "opening", "--home", run.home("birch"), "--text", run.texts[0]]
    code, out, _ = act(*replay, "--synthetic", run.made)
    assert (code, "segment 1: matches" in out) == (0, True)
    assert f"{said['synthetic']:,} of {said['trained']:,} tokens were sampled from artefact {run.artefact}" in out
    code, _, err = act(*replay)
    assert (code, "not_found" in err, "--synthetic FILE" in err) == (2, True, True)
    code, _, err = act(*replay, "--synthetic", run.texts[1])
    assert (code, "wrong_opening" in err) == (2, True)


def test_who_signed_for_a_grant_that_the_log_does_not_hold_has_signed_a_contradiction(run, act, tmp_path):
    shown = opened(run, act, tmp_path / "opening")
    birch, books = Home(run.home("birch")), run.result.report.books
    (sample,) = reexecute.read(shown).sample
    texts = {"text": run.texts[0], "synthetic": run.made}
    port = int(birch.settings.ledger.rpartition(":")[2])
    took = books.library.grants[sample.grant]
    with serving(run.result.founded.ledger, port):
        party, drawn = work._member(birch), work._work(birch, books, reexecute.read(shown).receipt)
        for grant, verdict in ((took, "matches"), (took._replace(member="birch"), "differs"), (None, "differs")):
            books.library.grants[sample.grant] = grant
            found = work._replayed(party, books, drawn, shown, sign=False, **texts)
            assert found["verdict"] == verdict
            assert (f"entry {sample.grant} does not say that acme took" in found["why"]) == (verdict == "differs")
    books.library.grants[sample.grant] = took


def test_who_is_entrusted_with_texts_finds_both_by_what_they_are(run, act, tmp_path):
    shown = opened(run, act, tmp_path / "opening")
    own, other = run.texts
    assert work._entrusted(reexecute.read(shown), [other, run.made, own]) == (own, run.made)
    assert work._entrusted(reexecute.read(shown), [other, own]) == (own, None)
    assert work._entrusted(reexecute.read(shown), [run.made]) == (None, run.made)


def test_who_trains_on_its_own_text_alone_says_nothing_of_it(run, act, tmp_path):
    _, hashed = receipt(run, "birch", 2)
    words = ["work", "open", hashed, "--home", run.home("birch"), "--to", tmp_path / "opening", "--segment", 0]
    assert act(*words)[0] == 0
    opening = reexecute.read((tmp_path / "opening").read_bytes())
    assert (opening.slice, opening.sample) == ((), ())
    replay = ["work", "replay", tmp_path / "opening", "--home", run.home("acme"), "--text", run.texts[1]]
    code, out, _ = act(*replay, "--json")
    assert (code, json.loads(out)["verdict"], "artefact" in json.loads(out)) == (0, "matches", False)


def lied(run: Sampled, shown: bytes, signed: Receipt, **changes: object) -> reexecute.Found:
    """What comes of an opening with other words in it, for which its member has signed."""
    opening, (_, groups) = replace(reexecute.read(shown), **changes), begun.split(shown)
    if opening.slice:
        *before, last = opening.trajectory.points
        points = (*before, replace(last, data=opening.slice[0].hash))
        opening = replace(opening, trajectory=replace(opening.trajectory, points=points))
    salted = committed(opening.salt, opening.trajectory.points[-1].data)
    earlier, _ = receipt(run, "acme", 1)
    made = replace(signed, data=salted, trajectory=opening.trajectory.root)
    manifest = run.result.report.books.run("r1").manifest
    data_ = canonical.encode(opening) + b"\n" + begun.pack(**groups)
    return reexecute.replay(data_, made, opening.receipt, manifest, earlier, run.texts[0], synthetic=run.made)


def test_a_share_that_is_not_what_was_trained_on_is_held_against_who_signed_it(run, act, tmp_path):
    shown = opened(run, act, tmp_path / "opening")
    signed, _ = receipt(run, "acme", 2)
    opening = reexecute.read(shown)
    (said,) = opening.slice
    for number in (0, said.synthetic - 32, said.synthetic + 1):
        found = lied(run, shown, signed, slice=(replace(said, synthetic=number),))
        assert found.verdict == "differs"
        assert found.why.endswith(f"and it was signed that {number} of {said.trained} are"), found.why
    found = lied(run, shown, signed, slice=(replace(said, trained=said.trained + 1),))
    assert f"it was signed that {said.synthetic} of {said.trained + 1} are" in found.why


def test_what_an_opening_says_of_a_share_is_what_the_receipt_was_signed_for(run, act, tmp_path):
    shown = opened(run, act, tmp_path / "opening")
    (earlier, _), (signed, hashed) = receipt(run, "acme", 1), receipt(run, "acme", 2)
    opening, (_, groups) = reexecute.read(shown), begun.split(shown)
    (said,), (sample,) = opening.slice, opening.sample
    manifest = run.result.report.books.run("r1").manifest
    for changes, why in (
        ({"slice": (replace(said, synthetic=0),)}, "0 of 256 synthetic tokens is not what the receipt"),
        ({"sample": (replace(sample, grant=sample.grant + 1),)}, "its sample is not"),
        ({"slice": (), "sample": ()}, "gives none of the tokens"),
        ({"sample": ()}, "or neither"),
        ({"slice": (said, said), "sample": (sample, sample)}, "or neither"),
    ):
        forged = canonical.encode(replace(opening, **changes)) + b"\n" + begun.pack(**groups)
        with pytest.raises(Refused) as caught:
            reexecute.replay(forged, signed, hashed, manifest, earlier, run.texts[0], synthetic=run.made)
        assert (caught.value.refusal, why in caught.value.detail) == (Refusal.WRONG_OPENING, True)


def test_only_one_round_s_whole_model_is_sampled_from(run, act):
    """Not what a member has made of it, whose recipe nobody knows; nor what stands beside other weights."""
    derived = run.folder / "derived"
    derived.write_bytes(run.file.read_bytes() + b" ")
    home = ["--home", run.home("acme")]
    code, out, _ = act("model", "derive", *home, derived, "--parent", run.artefact)
    name = data.named(f"file:{derived}").removeprefix("sha256:")
    assert (code, name in out) == (0, True)
    assert act("model", "get", *home, name, "--to", run.folder / "derived-again")[0] == 0
    code, _, err = act("model", "sample", *home, derived, "--to", run.folder / "bad", "--bytes", 9)
    assert (code, "is not the whole checkpoint of one round" in err) == (2, True)
    books = run.result.report.books
    turn = books.run("teacher")
    foreign = replace(turn.manifest.recipe, model="build:" + "0" * 64, model_flop=1)
    right, turn.manifest = turn.manifest, replace(turn.manifest, recipe=foreign)
    with pytest.raises(Refused, match="is a file's model, which nothing samples from"):
        _recipe(books, run.artefact)
    turn.manifest = right
    assert _recipe(books, run.artefact) == (RECIPE.teacher, FIRST)
    with pytest.raises(Refused, match="wrong_model"):
        _model(run.file, replace(RECIPE.teacher, width=32), None, FIRST)


def drawn(shapes, seed: int) -> weights.Tensors:
    """Weights of which none is zero: a head of zeros would say the same whatever is before it."""
    random = np.random.default_rng(seed)
    return {name: 0.3 * random.standard_normal(shape, np.float32) for name, shape in shapes.items()}


ADAPTER = {"adapter": 2, "inner": "adamw", "inner_rate": "0.05"}
EXPERTS = {"member_experts": 2, "outer": "mean", "outer_momentum": "0"}


@pytest.mark.parametrize("beside", [ADAPTER, EXPERTS], ids=["adapter", "experts"])
def test_what_stands_beside_given_weights_is_sampled_from_with_them(tmp_path, capsys, beside):
    plain = replace(TOY, context=32, inner_steps=4, segment=2, feed="swiglu")
    base, other = (
        tmp_path / f"{weights.keep(drawn(gpt.shapes(gpt.Shape.of(plain)), seed), tmp_path)}.safetensors"
        for seed in (1, 2)
    )
    result = simulate(tmp_path / "parties", TWO, rounds=1, recipe=replace(plain, **beside), start=base)
    coordinator, acme = result.founded.coordinator, result.founded.member("acme")
    file = coordinator.path / "checkpoints" / f"{result.report.books.runs['r1'].checkpoint}.safetensors"
    artefact = data.named(f"file:{file}").removeprefix("sha256:")
    sample = ["model", "sample", file, "--home", acme.path, "--to", tmp_path / "made", "--bytes", 3_000]

    def act(*words: object) -> tuple[int, str]:
        return main([str(word) for word in words]), capsys.readouterr().err

    with serving(result.founded.ledger, int(acme.settings.ledger.rpartition(":")[2])):
        assert act("model", "publish", "--home", coordinator.path, file, "--checkpoint", "r1/1")[0] == 0
        assert act("model", "get", artefact, "--home", acme.path, "--to", tmp_path / "fetched")[0] == 0
        code, err = act(*sample)
        assert (code, f"not_set_up: --base FILE: {file} stands beside the weights {base.name[:12]}" in err) == (2, True)
        code, err = act(*sample, "--base", other)
        assert (code, f"wrong_base: {other} is {other.name[:12]}" in err) == (2, True)
        assert not (tmp_path / "made").exists()
        assert act(*sample, "--base", base)[0] == 0
    assert data.sampled(tmp_path / "made").size == (tmp_path / "made").stat().st_size == 3_000

    stored, given = weights.read(file)[0], weights.read(base)[0]
    whole = huggingface.Merged(stored, given, result.manifest.recipe) if "adapter" in beside else None
    whole = whole or huggingface.Mixture(stored, given, result.manifest.recipe, [0, 1])
    shape = gpt.Shape.of(plain) if "adapter" in beside else whole.shape
    merged, before = gpt.GPT(shape), gpt.GPT(gpt.Shape.of(plain))
    weights.put(whole, merged)
    weights.put(given, before)
    model = _model(file, result.manifest.recipe, base, result.manifest.start)
    tokens = torch.arange(32)[None]
    with torch.no_grad():
        mine, right, old = (each(tokens)[0] for each in (model, merged, before))
        past = [list[torch.Tensor]() for _ in range(model.depth)]
        one_by_one = torch.cat([model(token[None, None], past)[0] for token in tokens[0]], 1)
    assert torch.allclose(mine, right, atol=1e-5)
    assert torch.allclose(mine, one_by_one, atol=1e-5)
    assert not torch.allclose(mine, old, atol=1e-3)
