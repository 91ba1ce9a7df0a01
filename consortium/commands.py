"""The commands that need everybody: the demo and the simulation."""

import hashlib
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from shared_models.command import ADMIN, ENGINEER, MONEY, NODE, RIGHT, START, WAITING, WRONG, Command

if TYPE_CHECKING:
    from client.worth import Measured
    from shared_models.huggingface import Model
    from shared_models.lm.tokenizer import Tokenizer
    from shared_models.lm.weights import Tensors
    from shared_models.records.kinds import AuditResult, Recipe

NAMES = ("acme", "birch", "cedar", "dogwood", "elm", "fir", "ginkgo", "hazel")


def _demo_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--dir", type=Path, default=Path(".consortium-demo"), help="made anew; default %(default)s")
    parser.add_argument("--rounds", type=int, default=3)


def _demo(args: Namespace) -> int:
    from consortium.demo import demo

    return demo(args.dir, rounds=args.rounds)


def _found_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("dir", type=Path, help="where the folders of all parties are made")
    parser.add_argument("--member", action="append", required=True, metavar="NAME=BENEFIT", help="may be repeated")
    parser.add_argument("--ledger", required=True, help="the address at which the ledger will be, http://HOST:PORT")
    parser.add_argument("--superlink", required=True, help="the address that the SuperLink will bind, HOST:PORT")
    parser.add_argument(
        "--gateway",
        default="",
        metavar="NAME:PORT",
        help="what members on other machines call the coordinator's gateway",
    )
    parser.add_argument("--price", default="40000000.00", help="of an NCU, 10^18 FLOP, in euros; default %(default)s")


def _found(args: Namespace) -> int:
    from fractions import Fraction

    from client.cost import minor_units
    from consortium.found import found
    from shared_models.records.merkle import leaf_hash
    from shared_models.records.refusals import Refusal, Refused

    benefits = {}
    for each in args.member:
        name, _, benefit = each.partition("=")
        if not benefit.isdecimal() or name in benefits:
            raise Refused(Refusal.BAD_FIELD, f"--member {each} is not of the form NAME=BENEFIT, or names one twice")
        benefits[name] = int(benefit)
    there = next((path for path in args.dir.rglob("*") if not path.is_dir()), None)
    if there is not None:
        raise Refused(Refusal.LOCKED, f"{args.dir} is not empty, {there} is there; keys are never overwritten")
    price = Fraction(minor_units(args.price, 2))
    addresses = {"ledger_url": args.ledger, "superlink": args.superlink, "gateway": args.gateway}
    founded = found(args.dir, benefits, price=price, **addresses)
    print(f"charter {leaf_hash(founded.charter).hex()}")
    return RIGHT


def _take_over_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", help="the run to go on with")
    parser.add_argument("--home", type=Path, required=True, help="the new coordinator's folder, made here")
    parser.add_argument("--member", type=Path, required=True, help="your member's folder: its charter and checkpoint")
    parser.add_argument("--superlink", default="127.0.0.1:9092", help="what its SuperLink binds; default %(default)s")
    parser.add_argument("--gateway", default="", metavar="NAME:PORT", help="what members on other machines call it")
    parser.add_argument(
        "--files",
        action="append",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="another member's, or a copy of the old coordinator's, to look for more; repeatable",
    )
    parser.add_argument("--back-to", type=int, metavar="ROUND", help="go on from its checkpoint; 0: from the first one")
    parser.add_argument("--held-out", type=Path, metavar="FILE", help="the text that checkpoints are scored on")
    parser.epilog = "Exit code 0: taken over; 6: the members have not elected this one, the same command goes on."


def _take_over(args: Namespace) -> int:
    """Make keys to be elected by; when the members have, go on with a run whose coordinator is gone for good."""
    import client.home
    import server.home
    from consortium.found import coordinating
    from server.takeover import elected, prepare, take_over, tell

    member = client.home.Home(args.member)
    ledger = member.ledger()
    if not (args.home / "coordinator.toml").is_file():
        prepare(args.home, member, coordinating(member.settings.ledger, args.superlink, args.gateway))
    home = server.home.Home(args.home)
    home.learn_keys(ledger)
    if not elected(home):
        print("the members elect this coordinator by their votes, consortium charter propose, on a charter that says")
        print(f'coordinator = "{home.key.verify_key.text()}"')
        return WAITING
    taken = take_over(args.home, args.run, [member.path, *args.files], back_to=args.back_to, held_out=args.held_out)
    if (closed := taken.handed_over) is not None:
        counted = len(closed.included) + len(closed.late)
        print(f"round {closed.round} is closed without a step; {counted} receipts count")
    print(f"run {args.run} goes on behind round {taken.round} from checkpoint {taken.checkpoint[:12]}…")
    if not taken.remembers:
        print("what its outer step remembered is lost: momentum grows anew")
    print(f"every member, with {tell(home)}: consortium follow FILE --home FOLDER; then its daemon is started anew")
    print(f"here: consortium coordinate --home {args.home}; consortium run {args.run} --home {args.home} --resume")
    return RIGHT


def _work_audit_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--home", type=Path, required=True, help="the coordinator's folder")
    parser.add_argument(
        "--text", type=Path, action="append", default=[], metavar="FILE", help="a text that is entrusted to you"
    )
    parser.add_argument("--json", action="store_true", help="the same for programs, a line each")
    parser.epilog = "Exit code 1: something differs, or could not be repeated."


def _work_audit(args: Namespace) -> int:
    """Repeat what members have shown of what the log has drawn, as far as its text is public or given, and sign what
    came of it, as the coordinator. Each is done once; what is not shown yet is for the next time.
    """
    import server.home
    from client import work
    from client.cli import print_answers

    home = server.home.Home(args.home)
    ledger = home.ledger()

    def say(result: "AuditResult") -> int:
        home.learn_keys(ledger)
        return home.say(ledger, home.key, result)[1].index

    machine = {"processor": home.settings.processor, "models": str(home.models_path)}
    party = work.Party(home.charter.consortium, home, ledger, home.key, machine, home.path / "tokens", say)
    return print_answers(work.audit(party, args.text), as_json=args.json)


def _simulate_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patience", type=int, default=0, help="stop when the loss was no lower for so many rounds")
    parser.add_argument("--late", type=int, default=0, metavar="N", help="so many answer after the deadline")
    parser.add_argument("--dead", type=int, default=0, metavar="N", help="so many go offline in the first round")
    parser.add_argument("--lie", action="append", default=[], metavar="NAME", help="one that lies so; may be repeated")
    parser.add_argument("--slow", action="append", default=[], metavar="K", type=float, help="one K times as slow; too")
    parser.add_argument("--alpha", type=float, help="texts unlike by a Dirichlet: 0.1 very, 100 hardly")
    parser.add_argument("--text", action="append", default=[], type=Path, metavar="FILE", help="one for each member")
    parser.add_argument("--held-out", type=Path, metavar="FILE", help="what checkpoints are scored on")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="what cuts text into tokens; else bytes")
    parser.add_argument("--model", metavar="FILE:FUNCTION", help="what builds the model; else it is ours")
    parser.add_argument("--deadline", type=float, default=60.0, help="seconds a round waits; default %(default)s")
    parser.add_argument("--recipe", type=Path, help="TOML file with the fields of a recipe")
    parser.add_argument(
        "--from", dest="start", type=Path, metavar="PATH", help="begin with these weights: a checkpoint, or a folder"
    )
    parser.add_argument("--teacher-rounds", type=int, default=0, metavar="N", help="train the recipe's teacher so long")
    parser.add_argument("--steps", default="", metavar="MEMBER=N,...", help="steps of members in a round")
    parser.add_argument("--paced", action="store_true", help="the same by their speed, of which a first round tells")
    parser.add_argument("--engine", default="threads", help="threads of this process, or Flower's ray; default threads")
    parser.add_argument("--keep", type=Path, help="where to leave the folders of all parties")


def _simulate(args: Namespace) -> int:
    import logging
    import tempfile

    from client.bill import text
    from consortium.faults import LIES, POISONS, How, Slow
    from consortium.simulate import simulate
    from server.launch import read_recipe, read_steps
    from shared_models.records.refusals import Refusal, Refused

    names = [NAMES[i] if args.members <= len(NAMES) else f"m{i:03}" for i in range(args.members)]
    how: list[How] = ["late"] * args.late + ["dead"] * args.dead + args.lie + [Slow(times) for times in args.slow]
    lies = sorted({*LIES, *POISONS})
    if not set(args.lie) <= set(lies) or len(how) > len(names) or args.members < 1:
        said = f"{len(names)} members, {', '.join(map(str, how))}"
        raise Refused(Refusal.BAD_FIELD, f"{said}; lies are {', '.join(lies)}")
    if not all(1 <= times <= 1000 for times in args.slow):
        raise Refused(Refusal.BAD_FIELD, "a slow member takes from 1 to 1000 times as long")
    if args.alpha is not None and not 0.001 <= args.alpha <= 1000:
        raise Refused(Refusal.BAD_FIELD, f"alpha is {args.alpha}, and not from 0.001 to 1000")
    misbehave = dict(zip(reversed(names), how, strict=False))
    for member, why in sorted(misbehave.items()):
        print(f"{member} is {why}")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("server.rounds").setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as scratch:
        result = simulate(
            (args.keep or Path(scratch)) / "parties",
            dict.fromkeys(names, 1),
            rounds=args.rounds,
            recipe=read_recipe(args.recipe, args.start, args.tokenizer, args.model),
            deadline_s=args.deadline,
            misbehave=misbehave,
            patience=args.patience,
            alpha=args.alpha,
            texts=args.text,
            held_out=args.held_out,
            start=args.start,
            engine=args.engine,
            teacher_rounds=args.teacher_rounds,
            cut=args.tokenizer,
            model=args.model,
            steps=read_steps(args.steps),
            paced=args.paced,
        )
    print("held-out loss, nats per byte:", *(f"{loss:.3f}" for loss in result.losses))
    print(text(result.bill, result.report.books.charter))
    for finding in result.report.findings:
        print(finding)
    print(f"audit: every number recomputed, {len(result.report.findings)} findings; {result.seconds:.1f} s")
    return WRONG if result.report.findings else RIGHT


def _base_argument(parser: ArgumentParser, *, required: bool = False) -> None:
    beside = "what an adapter or members' experts stand beside: the run's start"
    parser.add_argument("--base", type=Path, required=required, metavar="FILE", help=beside)


def _export_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="weights as a round has left them: safetensors, float32")
    parser.add_argument(
        "--to", type=Path, required=True, metavar="PATH", help="made here: a folder, or with --gguf a file"
    )
    _base_argument(parser)
    parser.add_argument(
        "--without", action="append", default=[], metavar="MEMBER", help="leave its expert out; may be repeated"
    )
    ways = parser.add_mutually_exclusive_group(required=True)
    ways.add_argument("--log", help="the log that says which round has led to them: its address, or a folder")
    ways.add_argument("--recipe", type=Path, help="TOML file with the fields of the recipe, if there is no log")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="of a run that has one: whose tokens it knows")
    parser.add_argument("--key", type=Path, help="ask by this key, such as keys/compute.key, a ledger for members only")
    parser.add_argument(
        "--gguf", choices=("f32", "f16", "q8_0", "q4_0"), help="a file for llama.cpp instead, its numbers of this type"
    )
    parser.add_argument(
        "--held-out", type=Path, metavar="FILE", help="say how good it is on this text, before and after"
    )


def _export(args: Namespace) -> int:
    """Write weights out as a model of a standard architecture. 1, and nothing is written, if the log is not right.

    An adapter is merged with the weights that it was trained beside, and with no others; so are members' experts, of
    which any may be left out.
    """
    from client import models
    from client.auditor import Auditor
    from server.launch import read_recipe
    from shared_models import huggingface
    from shared_models.lm import tokenizer, weights
    from shared_models.published import reader
    from shared_models.records.keys import SigningKey
    from shared_models.records.refusals import Refusal, Refused

    if args.held_out and not args.gguf:
        raise Refused(
            Refusal.BAD_FIELD, "--held-out FILE: in a folder no number is rounded; in a file, --gguf, they are"
        )
    checkpoint: weights.Tensors
    checkpoint, digest = weights.read(args.file)
    origin, wanted, members = {"digest of the weights": digest}, "", tuple[str, ...]()
    if args.recipe:
        recipe = read_recipe(args.recipe)
        origin["run"] = "not said: the recipe was given by hand, and no log was asked"
    else:
        key = SigningKey.load(args.key) if args.key else None
        report = Auditor(key=key).run(args.log)
        if report.findings:
            print(f"this log is not right, and nothing was written: {report.findings[0]}", file=sys.stderr)
            return WRONG
        books = report.books
        found, left_out = models.partial(books, reader(args.log, key), args.file) or (
            models.traced(books, reader(args.log, key), digest),
            (),
        )
        manifest = books.run(found["run"]).manifest
        recipe, wanted = manifest.recipe, manifest.start
        members = tuple(name for name in manifest.members if name not in left_out)
        if left_out:
            recipe = replace(recipe, member_experts=len(members))
            origin["it came without the experts of"] = ", ".join(left_out)
        origin |= {
            "consortium": books.charter.consortium,
            "run": found["run"],
            "round": f"{found['round']}, closed by entry {found['entry']}",
            "trained by": ", ".join(each["member"] for each in found["receipts"]),
            "manifest": f"{found['manifest']}, entry {found['manifest_entry']}",
            "bundle of code": found["bundle"],
            "tree head": f"{books.tree.size} entries, root {books.tree.root().hex()}",
        }
    cut = tokenizer.given(args.tokenizer, recipe.tokenizer, recipe.vocabulary)
    if not recipe.ours and not args.gguf:
        return _export_foreign(args, checkpoint, recipe, origin)
    model: Model = recipe
    names = members or tuple(map(str, range(recipe.member_experts)))  # By hand, experts have numbers only.
    if not set(args.without) <= set(names if recipe.member_experts else ()):
        raise Refused(Refusal.BAD_FIELD, f"--without {' '.join(args.without)}: there is no expert of that name here")
    if recipe.beside:
        name = "adapter" if recipe.adapter else "member_experts"
        if args.base is None:
            cause = f"--base FILE: {name} = {getattr(recipe, name)} is merged with what it is beside"
            raise Refused(Refusal.NOT_SET_UP, cause)
        base, held = weights.read_base(args.base, wanted)
        origin["its base"] = held
        if recipe.adapter:
            checkpoint, model = huggingface.Merged(checkpoint, base, recipe), replace(recipe, adapter=0)
            origin["merged"] = f"an adapter of rank {recipe.adapter}, drawn by seed {recipe.seed}"
        else:
            numbers = [number for number, name in enumerate(names) if name not in args.without]
            mixture = huggingface.Mixture(checkpoint, base, recipe, numbers)
            checkpoint, model = mixture, mixture.shape
            origin["experts of"] = ", ".join(names[number] for number in numbers) or "nobody"
    if args.gguf:
        return _export_gguf(args, checkpoint, model, origin, cut)
    kind = huggingface.export(checkpoint, model, args.to, origin, cut)
    print(f"{args.to} is a {kind} model: transformers.AutoModelForCausalLM.from_pretrained({str(args.to)!r})")
    return RIGHT


def _export_foreign(args: Namespace, checkpoint: "Tensors", recipe: "Recipe", origin: dict[str, str]) -> int:
    """The weights under the names of the file's own module, and where they are from, in one file."""
    from shared_models import durable
    from shared_models.lm import codecs, weights
    from shared_models.records.refusals import Refusal, Refused

    if args.to.exists():
        raise Refused(Refusal.BAD_FIELD, f"--to {args.to}: it is there already, and nothing is written over")
    with durable.writing(args.to) as file:
        writer = weights.Writer(file, codecs.shapes(checkpoint), {"format": "pt", "model": recipe.model, **origin})
        for name, tensor in checkpoint.items():
            writer.put(name, tensor)
    print(f"{args.to} has the weights by the names of the module that {recipe.model} builds:")
    print("  build(recipe).load_state_dict(safetensors.torch.load_file(FILE), strict=False)")
    return RIGHT


def _export_gguf(
    args: Namespace, checkpoint: "Tensors", recipe: "Model", origin: dict[str, str], cut: "Tokenizer | None"
) -> int:
    from shared_models import gguf
    from shared_models.lm import corpus

    text = None
    if args.held_out:
        text = corpus.given(args.held_out, recipe.context + 1)
        origin["held-out text"] = f"sha256:{hashlib.sha256(text.data).hexdigest()}"
    written = gguf.export(checkpoint, recipe, args.to, args.gguf, origin, text, cut)
    print(f"{args.to} has {written.size:,} bytes, for llama.cpp: llama-cli -m {args.to}")
    if written.in_half:
        print(f"in f16, for their rows are no whole blocks of {gguf.BLOCK}: {', '.join(written.in_half)}")
    if written.losses is None:
        print("held-out loss: not measured, for no text was given: --held-out FILE")
    else:
        before, after = written.losses
        print(f"held-out loss, nats per byte: {before:.4f} as trained, {after:.4f} in {args.gguf}")
    return RIGHT


def _beside_arguments(parser: ArgumentParser) -> None:
    """What experts stand beside, and where it is said of which run they are."""
    _base_argument(parser, required=True)
    parser.add_argument("--log", required=True, help="the log that says of which run: its address, or a folder")
    parser.add_argument("--key", type=Path, help="ask by this key, such as keys/compute.key, a ledger for members only")


def _worth_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="members' experts as a round has left them: safetensors, float32")
    _beside_arguments(parser)
    parser.add_argument(
        "--held-out", type=Path, action="append", required=True, metavar="FILE", help="a text; may be repeated"
    )
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="of a run that has one")
    parser.add_argument("--sign", type=Path, metavar="HOME", help="say it in the log, as the member of this folder")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--check", action="store_true", help="hold it against what members have said in the log")
    shown.add_argument("--json", action="store_true", help="the same for programs, with all coalitions")
    shown.add_argument(
        "--table", action="store_true", help="what each coalition gains, as `consortium allocate shapley` takes it"
    )


def _worth(args: Namespace) -> int:
    """Print what each member's expert is worth on these texts. 1, and nothing is printed, if the log is not right; 1 if
    what was said in it of these texts is not what was measured.
    """
    import json

    from client import models
    from client.auditor import Auditor
    from client.worth import compare, measure, sign
    from shared_models.lm import tokenizer, weights
    from shared_models.published import reader
    from shared_models.records.keys import SigningKey
    from shared_models.records.refusals import Refusal, Refused

    experts, digest = weights.read(args.file)
    key = SigningKey.load(args.key) if args.key else None
    report = Auditor(key=key).run(args.log)
    if report.findings:
        print(f"this log is not right, and nothing was measured: {report.findings[0]}", file=sys.stderr)
        return WRONG
    found = models.traced(report.books, reader(args.log, key), digest)
    manifest = report.books.run(found["run"]).manifest
    base, _ = weights.read_base(args.base, manifest.start)
    cut = tokenizer.given(args.tokenizer, manifest.recipe.tokenizer, manifest.recipe.vocabulary)
    found_out = measure(experts, base, manifest, args.held_out, cut)
    said = [each for each in compare(report.books, found["run"], digest, found_out) if args.check]
    if args.check and not said:
        raise Refused(Refusal.NOT_FOUND, "nobody has said in this log what these experts are worth on these texts")
    if args.sign:
        for at in sign(args.sign, report.books, found["run"], digest, found_out):
            print(f"entry {at}", file=sys.stderr)
    gains = {" ".join(sorted(who)): gain for who, gain in found_out.gains().items()}
    if args.table:
        print(json.dumps({"costs": gains}))
    elif args.json:
        told = {"schema": "consortium.worth/1", "run": found["run"], "round": found["round"], "weights": digest}
        told |= {"texts": found_out.names, "texts_sha256": found_out.texts, "gains_unats": gains}
        told["losses_unats"] = {" ".join(sorted(who)): losses for who, losses in found_out.losses.items()}
        told["worth_unats"] = {name: str(share) for name, share in found_out.shares().items()}
        told |= {"routed": found_out.routed(), "routes": found_out.all_routes()}
        print(json.dumps(told))
    elif args.check:
        for each in said:
            print(each)
    else:
        print(_worth_text(found_out))
    return RIGHT if all(each.close for each in said) else WRONG


def _worth_text(measured: "Measured") -> str:
    """A row for what each text loses with all experts and without each, and for what each member is worth."""
    members, losses = measured.members, measured.losses
    wide = max(len("as it was given"), *(len(f"without {name}") for name in members))
    everybody = frozenset(members)
    rows = {"as it was given": frozenset[str](), "with all experts": everybody}
    rows |= {f"without {name}": everybody - {name} for name in members}
    lines = [" ".join([f"{'nats per byte':{wide}}", *(f"{name[-12:]:>12}" for name in measured.names)])]
    for name, who in rows.items():
        lines.append(" ".join([f"{name:{wide}}", *(f"{loss / 1e6:>12.4f}" for loss in losses[who])]))
    lines.append(
        "what each takes off these losses together, its Shapley value; and its expert's part of the tokens' routes:"
    )
    routed, routes = measured.routed(), measured.all_routes()
    for name, share in measured.shares().items():
        lines.append(f"{name:{wide}} {float(share) / 1e6:>12.4f} {routed[name] / routes:>12.4f}")
    return "\n".join(lines)


def _routes_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a checkpoint of members' experts, or an artefact without some of them")
    _beside_arguments(parser)
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="what was served, or a sample of it")
    parser.add_argument(
        "--sequences", type=int, default=64, metavar="N", help="of the text so many, from all over it; %(default)s"
    )
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="of a run that has one")
    parser.add_argument("--tokens", type=int, metavar="N", help="so many were served; otherwise, those that were run")
    parser.add_argument("--json", action="store_true", help="the same for programs")
    parser.add_argument("--sign", type=Path, metavar="HOME", help="say it in the log, as the member of this folder")
    parser.add_argument("--period", help="in which they were served, with --sign")
    parser.add_argument("--correct", action="store_true", help="it takes the place of what stands of that period")


def _routes(args: Namespace) -> int:
    """Print whose the tokens of a text are. 1, and nothing is printed, if the log is not right."""
    import json

    from client.auditor import Auditor
    from client.routes import counted, say
    from shared_models.published import reader
    from shared_models.records.keys import SigningKey
    from shared_models.records.refusals import Refusal, Refused

    if (args.sign is None) != (args.period is None):
        raise Refused(Refusal.BAD_FIELD, "--sign HOME and --period PERIOD go together: it is said for a period")
    if args.sequences < 1 or (args.tokens is not None and args.tokens < 0):
        raise Refused(Refusal.BAD_FIELD, "--sequences is at least 1, and --tokens at least 0")
    key = SigningKey.load(args.key) if args.key else None
    report = Auditor(key=key).run(args.log)
    if report.findings:
        print(f"this log is not right, and nothing was counted: {report.findings[0]}", file=sys.stderr)
        return WRONG
    read = reader(args.log, key)
    routes = counted(report.books, read, args.file, args.base, args.text, args.sequences, args.tokenizer)
    tokens = routes.tokens if args.tokens is None else args.tokens
    through = routes.of(tokens)
    if args.sign:
        at = say(args.sign, report.books, args.period, tokens, routes, correct=args.correct)
        print(f"entry {at}", file=sys.stderr)
    if args.json:
        told = {"schema": "consortium.routes/1", "run": routes.run, "model": routes.model, "tokens": tokens}
        told |= {"routed": through, "given": tokens - sum(through.values()), "counted_tokens": routes.tokens}
        print(json.dumps(told | {"counted_routes": routes.by_member, "counted_given": routes.given}))
        return RIGHT
    wide = max(map(len, ("the given weights", *through)))
    print(f"{tokens:,} tokens, by the routes of {routes.tokens:,}:")
    for name, part in {**through, "the given weights": tokens - sum(through.values())}.items():
        print(f"{name:{wide}} {part:>15,}")
    return RIGHT


def _tokenizer_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a tokenizer.json, as the library tokenizers has it: byte-level BPE")
    parser.add_argument(
        "--text", type=Path, nargs="+", metavar="FILE", help="learn it from these, which its readers may know, first"
    )
    parser.add_argument("--vocabulary", type=int, default=4096, metavar="N", help="of so many tokens; %(default)s")
    parser.add_argument(
        "--home", type=Path, action="append", default=[], help="keep it in this folder, a member's; may be repeated"
    )


def _tokenizer(args: Namespace) -> int:
    """Learn a tokenizer from texts, into a file that is not there yet; or keep one for the runs that name it.

    A member's text is cut by it at once, so that no round waits for that.
    """
    from client import data
    from client.home import Home
    from shared_models import durable
    from shared_models.folder import TOKENIZERS
    from shared_models.lm import tokenizer
    from shared_models.records.refusals import Refusal, Refused

    if args.text:
        if args.file.exists():
            raise Refused(Refusal.BAD_FIELD, f"{args.file} is there already, and nothing is written over")
        durable.write(args.file, tokenizer.train(args.text, args.vocabulary))
    found = tokenizer.read(args.file)
    print(f"{found.name}, {len(found.tokens):,} tokens")
    for folder in args.home:
        if not folder.is_dir():
            raise Refused(Refusal.NOT_SET_UP, f"--home {folder} is no folder")
        tokenizer.keep(args.file, folder / TOKENIZERS)
        print(f"kept in {folder}: runs that name it may cut text here")
        if (folder / "member.toml").is_file():
            home = Home(folder)
            text = data.load(home.text)
            print(f"its text of {text.size:,} bytes is {found.kept(text, home.tokens_path).size:,} tokens")
    return RIGHT


def _keep_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="FILE:FUNCTION", help="a Python file that you have read, and what builds it")
    parser.add_argument(
        "--home", type=Path, action="append", default=[], help="keep it in this folder, a member's; may be repeated"
    )


def _keep(args: Namespace) -> int:
    """Keep the file of a model for the runs that name it, or print how a recipe does. It is not run."""
    from shared_models.folder import MODELS
    from shared_models.lm import models
    from shared_models.records.refusals import Refusal, Refused

    print(models.name(args.model))
    for folder in args.home:
        if not folder.is_dir():
            raise Refused(Refusal.NOT_SET_UP, f"--home {folder} is no folder")
        models.keep(args.model, folder / MODELS)
        print(f"kept in {folder}: its code may run there, confined, for runs that name it")
    return RIGHT


def _sample_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a checkpoint that your member has fetched: `consortium model get`")
    parser.add_argument("--home", type=Path, required=True, help="your member's folder, whose text it shall not repeat")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="made here; and FILE.json, what it is")
    parser.add_argument("--bytes", type=int, required=True, metavar="N", help="so long")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="the same one, the same text; %(default)s")
    parser.add_argument("--temperature", default="1", metavar="T", help="above 0: how even chances are; %(default)s")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="go on from parts of this text")
    _base_argument(parser)
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="repeat nothing of this instead of your member's text"
    )


def _sample(args: Namespace) -> int:
    """Write text that a model makes up, without what repeats your member's own or itself, to be trained on beside it.

    Your member took the model under its grant, as an entry of the log says. What it then trains on says how much of it
    is synthetic.
    """
    from client.sample import sample

    said = sample(
        args.home,
        args.file,
        args.to,
        size=args.bytes,
        seed=args.seed,
        temperature=args.temperature,
        prompts=args.prompts,
        text=args.text,
        base=args.base,
    )
    print(f"{args.to} has {said.size:,} bytes, {said.documents:,} documents, sampled from artefact {said.artefact}")
    print(f"left out: {said.repeat_own:,} that repeat your text, {said.repeat_sampled:,} that repeat one of these")
    print(f'to train on it too, in member.toml: synthetic = "{args.to.absolute()}"')
    return RIGHT


COMMANDS = (
    Command("demo", START, "Three organisations, one machine: train, bill, verify.", _demo_arguments, _demo, "train"),
    Command("found", ADMIN, "Found a consortium here.", _found_arguments, _found, "train"),
    Command("take-over", ADMIN, "Succeed a lost coordinator.", _take_over_arguments, _take_over, "train", beside=True),
    Command(
        "simulate",
        ENGINEER,
        "Many members in one process, late, dead and lying ones too.",
        _simulate_arguments,
        _simulate,
        "train",
    ),
    Command(
        "model export",
        MONEY,
        "Write a model out for transformers, or for llama.cpp.",
        _export_arguments,
        _export,
        "train",
    ),
    Command("model keep", MONEY, "Let a file's code build a run's model here.", _keep_arguments, _keep, "train"),
    Command("model worth", MONEY, "What each member's expert is worth.", _worth_arguments, _worth, "train"),
    Command("model routes", MONEY, "Whose experts tokens go through.", _routes_arguments, _routes, "train"),
    Command("model sample", MONEY, "Make up text by a model, to train on.", _sample_arguments, _sample, "train"),
    Command(
        "model tokenizer", MONEY, "Learn a tokenizer, or keep one.", _tokenizer_arguments, _tokenizer, "train,text"
    ),
)
# Of families that another folder's commands begin.
LAST = (Command("work audit", NODE, "Repeat it as the coordinator.", _work_audit_arguments, _work_audit, "train"),)
