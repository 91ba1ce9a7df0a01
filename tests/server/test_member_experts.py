"""A run in which each member trains an expert of its own: nothing of it depends on the others, and all that holds of a
run holds of it.
"""

import hashlib
import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from safetensors.numpy import load_file
from world import TOY, World, digest

from client import begun, reexecute
from client.auditor import Auditor
from client.steps import logged, repeat
from client.worth import measure, sign
from consortium.cli import main
from consortium.simulate import Result, simulate
from ledger.api import serving
from server import outer, partial
from server.outer import Outer
from shared_models.lm import codecs, corpus, gpt, hygiene, own, weights
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records import merkle
from shared_models.records.kinds import BILLION, FIRST, Artefact, Checkpoint, Receipt
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules import worth
from shared_models.rules.served import split

TWO = {"acme": 2, "birch": 1}
PLAIN = replace(TOY, layers=2, feed="swiglu", inner_rate="0.01")
RECIPE = replace(PLAIN, member_experts=2)
SHAPE = gpt.Shape.of(RECIPE)


def toy(folder, members=TWO, **more) -> Result:
    recipe = replace(RECIPE, member_experts=len(members))
    return simulate(folder / "parties", members, **{"rounds": 2, "recipe": recipe} | more)


def leaves(result: Result) -> list[bytes]:
    return fetch(reader(str(result.founded.ledger / "log"))).leaves


def receipts(result: Result) -> list[Receipt]:
    return [each for leaf in leaves(result) if isinstance(each := entries.peek(leaf), Receipt)]


def closes(result: Result):
    return logged(leaves(result), "r1").closes


def right(result: Result) -> None:
    """The bill is, and anyone comes to the same checkpoints."""
    assert result.report.findings == []
    found = list(repeat(logged(leaves(result), "r1"), result.founded.coordinator.path))
    assert [each.wrong for each in found] == [""] * len(found) != []


def kept(result: Result, name: str):
    return result.founded.coordinator.path / "checkpoints" / f"{name}.safetensors"


def reached(result: Result, number: int) -> weights.Weights:
    """One member's expert, at the end."""
    return own.among(load_file(kept(result, closes(result)[-1].checkpoint)), [number])


@pytest.fixture(scope="module")
def anchor(tmp_path_factory):
    """The file of the weights that experts stand beside."""
    result = simulate(tmp_path_factory.mktemp("anchor") / "parties", TWO, rounds=1, recipe=PLAIN)
    return kept(result, closes(result)[-1].checkpoint)


@pytest.fixture(scope="module")
def together(anchor, tmp_path_factory) -> Result:
    return toy(tmp_path_factory.mktemp("together"), start=anchor)


def test_each_sends_its_own_expert_and_a_checkpoint_has_them_all(anchor, together):
    right(together)
    manifest, shapes = together.manifest, gpt.shapes(SHAPE)
    assert (manifest.start, together.excluded) == (anchor.stem, ())
    # At first they change nothing.
    plain = outer.held_out_loss(outer.model(PLAIN), load_file(anchor), PLAIN)
    assert together.losses[0] == pytest.approx(plain, abs=1e-5)
    for close in closes(together):
        found = load_file(kept(together, close.checkpoint))
        assert {name: tensor.shape for name, tensor in found.items()} == shapes
        assert [(each.weight, each.judged) for each in close.included] == [(BILLION, "whole")] * 2
    one, whole = codecs.total("fp32", gpt.shapes(own.alone(SHAPE))), codecs.total("fp32", gpt.frozen(SHAPE))
    assert [each.bytes_up for each in receipts(together)] == [one] * 4
    assert [each.bytes_down for each in receipts(together)] == [2 * one + whole] * 2 + [2 * one] * 2
    assert {each.flop for each in receipts(together)} == {96 * manifest.flop_per_token}


def test_an_expert_is_what_its_member_trained_whoever_else_is_there(anchor, together, tmp_path):
    """Without birch, acme comes to the same bits; and so does one whose neighbour answers in one round only."""
    texts = [tmp_path / name for name in TWO]
    for number, path in enumerate(texts):
        path.write_bytes(bytes(corpus.shard(number, 2)[:20_000]))
    both = toy(tmp_path / "both", start=anchor, texts=texts)
    alone = toy(tmp_path / "alone", {"acme": 1}, start=anchor, texts=texts[:1])
    right(alone)
    assert weights.digest(reached(alone, 0)) == weights.digest(reached(both, 0))
    assert weights.digest(reached(both, 0)) != weights.digest(reached(both, 1))


def test_who_does_not_answer_keeps_the_expert_that_it_had(anchor, together, tmp_path):
    result = toy(tmp_path, start=anchor, misbehave={"birch": "forgetful"}, quorum=1)
    right(result)
    assert [(number, who) for number, who, _ in result.excluded] == [(2, "birch")]
    first, last = (load_file(kept(result, close.checkpoint)) for close in closes(result))
    assert weights.digest(own.among(first, [1])) == weights.digest(own.among(last, [1]))
    assert weights.digest(own.among(first, [0])) != weights.digest(own.among(last, [0]))
    assert weights.digest(reached(result, 0)) == weights.digest(reached(together, 0))


@pytest.mark.parametrize("codec", ["int4", "top64"])
def test_so_it_does_in_few_bits_and_with_answers_that_come_late(anchor, tmp_path, codec):
    right(toy(tmp_path, start=anchor, recipe=replace(RECIPE, up=codec, down=codec, inner="muon"), late=1))


def test_an_update_that_is_nothing_is_not_placed(anchor, tmp_path):
    result = toy(tmp_path, start=anchor, misbehave={"acme": "zeros"}, rounds=1)
    right(result)
    (close,) = closes(result)
    assert [(each.weight, each.judged) for each in close.included] == [(0, "empty"), (BILLION, "whole")]


def test_who_repeats_a_segment_of_it_comes_to_the_same_bits(anchor, together):
    """What members keep to be able to show it, and what an auditor takes of it."""
    manifest, run = together.manifest, together.report.books.runs["r1"].hash
    for leaf in leaves(together):
        if not isinstance(receipt := entries.peek(leaf), Receipt) or receipt.round != 2:
            continue
        hashed, home = merkle.leaf_hash(leaf).hex(), together.founded.member(receipt.member)
        found = begun.recall(home.begun_path, run, receipt.round)
        told = {"segment": 1, "text": home.settings.data, "salt": home.salt("r1", receipt.round)}
        shown = reexecute.show(found, receipt, hashed, manifest, **told)
        earlier = next(each for each in receipts(together) if each.member == receipt.member and each.round == 1)
        assert reexecute.replay(shown, receipt, hashed, manifest, earlier) == ("matches", 0, "the same bits")
        line, groups = begun.split(shown)
        for group in ("frozen", "base"):
            bent = {name: tensor * np.float32(2) for name, tensor in groups[group].items()}
            other = line + b"\n" + begun.pack(**groups | {group: bent})
            with pytest.raises(Refused, match=f"its tensors {group} are not") as caught:
                reexecute.replay(other, receipt, hashed, manifest, earlier)
            assert caught.value.refusal is Refusal.WRONG_OPENING
        # Who had begun from another's expert would have signed for that.
        others = replace(manifest, members=manifest.members[::-1])
        verdict, _, why = reexecute.replay(shown, receipt, hashed, others, earlier)
        assert (verdict, "not from the round's base" in why) == ("differs", True)


def test_it_begins_with_whole_weights_and_has_an_expert_for_each_member(anchor, together, tmp_path):
    last = kept(together, closes(together)[-1].checkpoint)
    for start, recipe, refusal, why in (
        (last, RECIPE, Refusal.WRONG_MODEL, "a tensor blocks.0.down.weight"),
        (None, RECIPE, Refusal.WRONG_BASE, "member_experts = 2 stands beside weights that are given"),
        (anchor, replace(RECIPE, member_experts=3), Refusal.BAD_FIELD, "member_experts = 3, and the run has 2 members"),
    ):
        with pytest.raises(Refused) as caught:
            toy(tmp_path / refusal.value, start=start, recipe=recipe)
        assert (caught.value.refusal, why in caught.value.detail) == (refusal, True), caught.value
        assert b"run.manifest" not in b"".join(
            fetch(reader(str(tmp_path / refusal.value / "parties/ledger/log"))).leaves
        )


def test_the_log_takes_as_many_wholes_as_there_are_experts():
    world, given = World(), digest("given")
    recipe = replace(RECIPE, member_experts=len(world.members))
    wrong = (
        ({"start": FIRST}, "member_experts = 3 stands beside"),
        ({"recipe": RECIPE}, "member_experts = 2, and the run"),
    )
    for changes, why in wrong:
        manifest = world.manifest(**{"recipe": recipe, "start": given} | changes)
        with pytest.raises(Refused, match=why):
            world.books.check(world.books.open(world.sign(world.coordinator, manifest)))
    world.start(recipe=recipe, start=given)
    world.say(world.coordinator, world.opened())
    hashes = {member: world.say(f"{member}/compute", world.receipt(member)) for member in sorted(world.members)}
    whole = tuple(replace(each, weight=BILLION) for each in world.close(hashes).included)
    more = (replace(whole[0], weight=BILLION + 1), *whole[1:])
    with pytest.raises(Refused, match="3000000001 billionths together, more than 3 wholes"):
        world.books.check(world.books.open(world.sign(world.coordinator, replace(world.close(hashes), included=more))))
    world.say(world.coordinator, replace(world.close(hashes), included=whole))


# What it ends in.


def run(capsys, *words: object) -> tuple[int, str]:
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_it_is_written_out_with_its_base_and_without_whom_one_likes(anchor, together, tmp_path, capsys):
    last, log = closes(together)[-1], together.founded.ledger / "log"
    words = ["model", "export", kept(together, last.checkpoint), "--log", log, "--to"]
    code, said = run(capsys, *words, tmp_path / "none")
    assert (code, "--base FILE: member_experts = 2 is merged" in said) == (2, True)
    code, said = run(capsys, *words, tmp_path / "none", "--base", anchor, "--without", "cedar")
    assert (code, "--without cedar: there is no expert of that name" in said) == (2, True)
    other = weights.keep(outer.first(PLAIN), tmp_path / "other")
    code, said = run(capsys, *words, tmp_path / "none", "--base", tmp_path / "other" / f"{other}.safetensors")
    assert (code, "error wrong_base" in said) == (2, True)
    assert not (tmp_path / "none").exists()
    for name, without, kind, whose in (
        ("both", [], "mixtral", "acme, birch"),
        ("acme", ["--without", "birch"], "mixtral", "acme"),
        ("given", ["--without", "birch", "--without", "acme"], "llama", "nobody"),
    ):
        code, said = run(capsys, *words, tmp_path / name, "--base", anchor, *without)
        assert (code, f"is a {kind} model" in said) == (0, True), said
        assert f"| experts of | {whose} |" in (tmp_path / name / "README.md").read_text()
    router = "model.layers.1.block_sparse_moe.gate.weight"
    rows = {name: load_file(tmp_path / name / "model.safetensors")[router] for name in ("both", "acme")}
    assert (rows["both"].shape[0], rows["both"][0].any()) == (3, False)
    assert np.array_equal(rows["both"][:2], rows["acme"])
    # Without anybody it is what was given, from which a run begins, too.
    again = simulate(tmp_path / "again", TWO, rounds=1, recipe=PLAIN, start=tmp_path / "given")
    assert again.manifest.start == anchor.stem
    # By hand, experts have numbers.
    sizes = "layers = 2\nheads = 2\nwidth = 16\ncontext = 16\nfeed = 'swiglu'\nouter = 'mean'\nmember_experts = 2\n"
    (tmp_path / "recipe.toml").write_text(sizes)
    words[3:5] = ["--recipe", tmp_path / "recipe.toml"]
    assert run(capsys, *words, tmp_path / "hand", "--base", anchor, "--without", 1)[0] == 0
    assert np.array_equal(load_file(tmp_path / "hand" / "model.safetensors")[router], rows["acme"])


def test_without_experts_there_is_nobody_to_leave_out(anchor, tmp_path, capsys):
    (tmp_path / "recipe.toml").write_text("layers = 2\nheads = 2\nwidth = 16\ncontext = 16\nfeed = 'swiglu'\n")
    words = [
        "model",
        "export",
        anchor,
        "--recipe",
        tmp_path / "recipe.toml",
        "--to",
        tmp_path / "out",
        "--without",
        "0",
    ]
    assert "--without 0: there is no expert of that name here" in run(capsys, *words)[1]


def test_what_each_is_worth_is_the_exact_shapley_value_of_what_all_coalitions_lose(anchor, together, tmp_path, capsys):
    last, log = closes(together)[-1], together.founded.ledger / "log"
    texts = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for number, path in enumerate(texts):
        path.write_bytes(bytes(corpus.shard(number, 2)[30_000:40_000]))
    held_out = [word for path in texts for word in ("--held-out", path)]
    words = ["model", "worth", kept(together, last.checkpoint), "--base", anchor, "--log", log, *held_out]
    code, said = run(capsys, *words, "--json")
    told = json.loads(said)
    assert (code, told["run"], told["round"], told["texts"]) == (0, "r1", 2, ["a.txt", "b.txt"])
    losses = {who: sum(each) for who, each in told["losses_unats"].items()}
    gains = {who: losses[""] - loss for who, loss in losses.items() if who}
    assert told["gains_unats"] == gains
    acme = Fraction(gains["acme"] + gains["acme birch"] - gains["birch"], 2)
    assert told["worth_unats"] == {"acme": str(acme), "birch": str(gains["acme birch"] - acme)}
    # The coalitions' models are what a coordinator scores, and nobody's is what was given.
    scored = Outer(RECIPE, 2, together.founded.coordinator.path / "checkpoints", tmp_path, tmp_path, anchor.stem)
    plain, chosen = outer.model(PLAIN), hygiene.spread(64, PLAIN.context, corpus.given(texts[0], 17))
    assert told["losses_unats"][""][0] == round(1e6 * hygiene.held_out_loss(plain, load_file(anchor), chosen)(None))
    both = hygiene.held_out_loss(scored._model, load_file(kept(together, last.checkpoint)), chosen)(None)
    assert told["losses_unats"]["acme birch"][0] == pytest.approx(1e6 * both, abs=2)
    # It is shown, and a cost is divided by it, if a charter's pot says so or one just tries it out.
    code, said = run(capsys, *words)
    rows = {line[:15].strip(): line[15:].split() for line in said.splitlines()}
    assert told["routes"] == 2 * 64 * PLAIN.context * PLAIN.layers * gpt.OWN_PER_TOKEN > sum(told["routed"].values())
    assert (code, rows["acme"]) == (0, [f"{float(acme) / 1e6:.4f}", f"{told['routed']['acme'] / told['routes']:.4f}"])
    assert rows["without acme"] == [f"{loss / 1e6:.4f}" for loss in told["losses_unats"]["birch"]]
    assert rows["as it was given"] == [f"{loss / 1e6:.4f}" for loss in told["losses_unats"][""]]
    code, said = run(capsys, *words, "--table")
    assert json.loads(said) == {"costs": told["gains_unats"]}
    (tmp_path / "table.json").write_text(said)
    code, said = run(capsys, "allocate", "shapley", tmp_path / "table.json", "--json")
    assert (code, json.loads(said)["charges"]["acme"]["exact"]) == (0, str(acme))


def test_worth_is_measured_for_members_experts_beside_their_base_only(anchor, together, tmp_path, capsys, monkeypatch):
    last, log, text = closes(together)[-1], together.founded.ledger / "log", tmp_path / "a.txt"
    text.write_bytes(bytes(corpus.shard(0, 2)[:1_000]))
    words = ["model", "worth", kept(together, last.checkpoint), "--log", log, "--held-out", text, "--base"]
    other = weights.keep(outer.first(PLAIN), tmp_path)
    assert "error wrong_base" in run(capsys, *words, tmp_path / f"{other}.safetensors")[1]
    plain = simulate(tmp_path / "plain", TWO, rounds=1, recipe=PLAIN, start=anchor)
    words[2], words[4] = kept(plain, closes(plain)[-1].checkpoint), plain.founded.ledger / "log"
    assert "member_experts = 0: all sets are tried of 1 to 10 members" in run(capsys, *words, anchor)[1]
    monkeypatch.setattr(worth, "MOST", 1)
    words[2], words[4] = kept(together, last.checkpoint), log
    assert "member_experts = 2: all sets are tried of 1 to 1 members" in run(capsys, *words, anchor)[1]


# Said in the log.


@pytest.fixture
def measured(anchor, tmp_path, capsys):
    """A run of its own, whose ledger serves, and the command that measures its experts on two texts."""
    result = toy(tmp_path, start=anchor)
    texts = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for number, path in enumerate(texts):
        path.write_bytes(bytes(corpus.shard(number, 2)[30_000:40_000]))
    url = result.founded.member("acme").settings.ledger
    words = ["model", "worth", kept(result, closes(result)[-1].checkpoint), "--base", anchor, "--log", url]

    def command(*more: object) -> tuple[int, str]:
        with serving(result.founded.ledger, int(url.rpartition(":")[2])):
            return run(capsys, *words, *more)

    return result, texts, command


def test_a_member_signs_what_it_measured_and_others_measure_it_again(measured):
    result, texts, command = measured
    acme, both = result.founded.member("acme").path, ["--held-out", texts[0], "--held-out", texts[1]]
    code, said = command(*both, "--check")
    assert (code, "nobody has said in this log what these experts are worth" in said) == (2, True)
    code, said = command(*both, "--json", "--sign", acme)
    told = json.loads(said.partition("\n")[0])
    report = Auditor().run(str(result.founded.ledger / "log"))
    assert (code, report.findings, len(report.books.worths)) == (0, [], 2)
    for number, (at, signed, _) in enumerate(report.books.worths):
        assert f"entry {at}" in said.splitlines()
        assert (signed.member, signed.run, signed.checkpoint) == ("acme", "r1", told["weights"])
        assert signed.text == hashlib.sha256(texts[number].read_bytes()).hexdigest() == told["texts_sha256"][number]
        by_set = [told["losses_unats"][who][number] for who in ("", "acme", "birch", "acme birch")]
        assert list(signed.losses_unats) == by_set
    both_texts = [each.shares for each in report.books.worths]
    assert {who: str(sum(each[who] for each in both_texts)) for who in TWO} == told["worth_unats"]
    code, said = command("--held-out", texts[1], "--check")
    at = report.books.worths[1][0]
    assert (code, said) == (0, f"entry {at}: what acme has said of b.txt is what was measured here\n")
    code, said = command(*both, "--sign", acme)
    assert (code, "error conflict: acme has said what the text" in said) == (2, True)
    assert len(list((acme / "entries").glob("*.refused"))) == 0


def test_what_was_signed_and_is_not_so_is_named_with_the_set_of_experts(measured, anchor):
    result, texts, command = measured
    checkpoint = closes(result)[-1].checkpoint
    honest = measure(load_file(kept(result, checkpoint)), load_file(anchor), result.manifest, texts[:1])
    lies = {"birch": (3_000_000, 2_000_000, 2_000_000, 0), "acme": tuple(loss + 50 for loss in honest.unats[0])}
    with serving(result.founded.ledger, int(result.founded.member("acme").settings.ledger.rpartition(":")[2])):
        for name, unats in lies.items():
            said = replace(honest, unats=(unats,), routes=((sum(honest.routes[0]), 0, 0),))
            sign(result.founded.member(name).path, result.report.books, "r1", checkpoint, said)
    code, said = command("--held-out", texts[0], "--check")
    first, second = said.splitlines()
    assert (code, "what birch has said of a.txt is not what was measured here: " in first) == (1, True)
    where = f"{honest.unats[0][3]} millionths of a nat apart with the experts of acme birch; the routes are others"
    assert first.endswith(where)
    where = "50 millionths of a nat apart with the experts of nobody; the routes are others"
    assert second.endswith(f"what acme has said of a.txt is close: {where}")


def test_it_is_measured_as_checkpoints_are_scored_and_tokens_are_routed():
    assert (worth.SEQUENCES, worth.ROUTES) == (hygiene.EVALUATED, gpt.OWN_PER_TOKEN)


# What was served.


def test_whose_the_tokens_of_a_text_are_is_counted_and_said_for_a_period(measured, anchor, capsys):
    result, texts, _ = measured
    file, acme = kept(result, closes(result)[-1].checkpoint), result.founded.member("acme").path
    url = result.founded.member("acme").settings.ledger
    words = ["model", "routes", file, "--base", anchor, "--log", url, "--text", texts[0]]

    def command(*more: object) -> tuple[int, str]:
        with serving(result.founded.ledger, int(url.rpartition(":")[2])):
            return run(capsys, *words, *more)

    code, said = command("--json")
    told = json.loads(said)
    of_all = measure(load_file(file), load_file(anchor), result.manifest, texts[:1]).routes[0]
    assert (told["counted_given"], *told["counted_routes"].values()) == of_all  # Of the same sequences as a worth.
    assert told["counted_tokens"] == told["tokens"] == hygiene.EVALUATED * RECIPE.context
    assert told["given"] + sum(told["routed"].values()) == told["tokens"]
    for name, count in told["counted_routes"].items():
        assert abs(told["routed"][name] - count / RECIPE.layers / gpt.OWN_PER_TOKEN) < 1
    assert json.loads(command("--json", "--sequences", 2)[1])["tokens"] == 2 * RECIPE.context
    signed = ["--sign", acme, "--period", "2026-11"]
    code, said = command("--tokens", 1_000_001, *signed)
    at = int(said.splitlines()[-1].removeprefix("entry "))
    report = Auditor().run(str(result.founded.ledger / "log"))
    (entry,) = report.books.accounts.due("2026-11", report.books.tree.size)
    assert (code, report.findings, entry.at, entry.key[0]) == (0, [], at, "acme/admin")
    assert (entry.record.tokens, entry.record.model) == (1_000_001, file.stem)
    assert {each.member: each.tokens for each in entry.record.routes} == dict(
        zip(TWO, split(1_000_001, of_all)[1:], strict=True)
    )
    assert f"entry {at}" in command("--tokens", 1_000_001, *signed)[1]  # The same again.
    code, said = command("--tokens", 5, *signed)
    assert (code, f"error conflict: entry {at} says 1,000,001 tokens for 2026-11" in said) == (2, True)
    assert command("--tokens", 5, "--correct", *signed)[0] == 0
    report = Auditor().run(str(result.founded.ledger / "log"))
    (entry,) = report.books.accounts.due("2026-11", report.books.tree.size)
    assert (report.findings, entry.record.tokens, len(entry.record.routes)) == ([], 5, 2)


def test_without_an_expert_its_member_has_no_tokens(anchor, tmp_path, capsys):
    result = toy(tmp_path, start=anchor)
    file, text = kept(result, closes(result)[-1].checkpoint), tmp_path / "a.txt"
    text.write_bytes(bytes(corpus.shard(0, 2)[30_000:40_000]))
    left = partial.without(result.manifest, file, ["acme"], tmp_path)
    made = Artefact(
        seq=0,
        prev=FIRST,
        publisher=result.report.books.charter.consortium,
        artefact=hashlib.sha256(left.read_bytes()).hexdigest(),
        size=left.stat().st_size,
        form="safetensors",
        checkpoints=(Checkpoint(run="r1", round=2),),
        parents=(),
        without=("acme",),
    )
    founded = result.founded
    url = founded.member("acme").settings.ledger
    with serving(founded.ledger, int(url.rpartition(":")[2])):
        founded.coordinator.say(founded.coordinator.ledger(), founded.coordinator.key, made)
        words = ["model", "routes", left, "--base", anchor, "--log", url, "--text", text]
        told = json.loads(run(capsys, *words, "--json")[1])
        said = run(capsys, *words)[1]
    assert (told["model"], told["routed"]) == (made.artefact, {"birch": told["tokens"] // 2})
    assert said.splitlines()[1] == f"birch             {told['tokens'] // 2:>15,}"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--period", "2026-11"), "--sign HOME and --period PERIOD go together"),
        (("--sign", "home"), "--sign HOME and --period PERIOD go together"),
        (("--sequences", 0), "--sequences is at least 1"),
        (("--tokens", -1), "--tokens at least 0"),
        ((), "the run began with"),
    ],
)
def test_what_cannot_be_counted_is_refused(together, anchor, tmp_path, capsys, words, why):
    (tmp_path / "a.txt").write_bytes(bytes(1_000))
    file = kept(together, closes(together)[-1].checkpoint)
    base = anchor if words else file
    asked = ["model", "routes", file, "--base", base, "--log", together.founded.ledger / "log"]
    code, said = run(capsys, *asked, "--text", tmp_path / "a.txt", *words)
    assert (code, why in said) == (2, True), said


def test_a_run_without_members_experts_has_no_routes(anchor, tmp_path, capsys):
    result = simulate(tmp_path / "parties", TWO, rounds=1, recipe=PLAIN)
    (tmp_path / "a.txt").write_bytes(bytes(1_000))
    file = kept(result, closes(result)[-1].checkpoint)
    asked = ["model", "routes", file, "--base", anchor, "--log", result.founded.ledger / "log"]
    code, said = run(capsys, *asked, "--text", tmp_path / "a.txt")
    assert (code, "run r1 has no members' experts: nobody's are used" in said) == (2, True)
