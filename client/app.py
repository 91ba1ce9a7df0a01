"""The ClientApp: what the bundle runs at a member. It trains and claims; it holds no key and signs nothing."""

from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client import begun, data, half, memory
from client.memory import Turn
from client.train import BrokenOff, train
from client.training import Machine, build
from shared_models.claims import Claim, Daemon, Halted
from shared_models.lm import codecs, gpt, models, own, weights
from shared_models.lm.kept import Kept
from shared_models.messages import Answer, Task, to_error
from shared_models.records import entry, merkle
from shared_models.records.kinds import Manifest, RoundOpen
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.challenge import Trajectory
from shared_models.transport import Beside, Inline, Shapes, Transport

app = ClientApp()


@app.train()
def answer(message: Message, context: Context) -> Message:
    """Train for one round. A refusal ends it, and reaches the coordinator by its name."""
    try:
        return Message(_answer(Task.from_record(message.content), context).to_record(), reply_to=message)
    except Refused as refused:
        return Message(to_error(refused), reply_to=message)


def _answer(task: Task, context: Context) -> Answer:
    opened, manifest = _said(task)
    member = str(context.node_config["member"])
    recipe = manifest.recipe_of(member)
    kept = Kept(Path(str(context.node_config["kept"])), opened.manifest)
    machine, way = Machine.told(context.node_config), _way(task, opened, context)
    machine.check(recipe)
    cut = data.Kept(*(Path(str(context.node_config[name])) for name in ("tokenizers", "tokens")))
    base, frozen = _base(task, opened.base, manifest, kept, way, Path(machine.models))
    mine = own.taken(base, gpt.Shape.of(recipe), manifest.members.index(member))
    kept.keep_checkpoint(base)
    way.forget()
    memories, broken_off = Path(str(context.node_config["memory"])), Path(str(context.node_config["half"]))
    built = build(recipe.precision, machine, recipe.inner)
    turn = Turn(manifest=opened.manifest, member=member, round=opened.round, base=opened.base)
    with Daemon(str(context.node_config["door"])) as daemon:
        daemon.ask(task.begin)
        remembered = memory.recall(memories, turn, manifest.late)
        try:
            trained = train(
                mine | gpt.beside(gpt.Shape.of(recipe), frozen),
                recipe,
                data.shard(str(context.node_config["data"]), _synthetic(context), recipe, cut),
                remembered,
                member=member,
                round_=opened.round,
                rounds=manifest.rounds,
                report=daemon.ask,
                machine=machine,
                since=half.recall(broken_off, turn, built),
            )
        except BrokenOff as broken:
            half.keep(broken_off, turn, built, broken.half)
            daemon.ask(Halted(step=broken.half.step))  # Whereupon it ends this process.
            raise broken.refused from None
        if opened.round < manifest.rounds:  # Before it is claimed: what is paid for can be gone on from.
            memory.keep(memories, turn, trained.memory)
        unsent = kept.unsent(opened.round)
        sent = codecs.send(recipe.up, trained.update, unsent)
        trajectory = Trajectory(
            points=trained.points, unsent_before=weights.digest(unsent), unsent=weights.digest(sent.unsent)
        )
        began = {"base": base, "memory": remembered, "unsent": unsent, "frozen": frozen}
        begun.keep(Path(str(context.node_config["begun"])), turn, trajectory, **began)
        reply = daemon.ask(
            Claim(
                update=weights.digest(sent.values),
                data=trained.data,
                trajectory=trajectory.root,
                build=built,
                tokens=trained.tokens,
                steps=trained.steps,
                busy_ms=trained.busy_ms,
                loss_unats=round(1e6 * trained.loss),
                bytes_down=task.carried.size,
                bytes_up=codecs.nbytes(sent.packed),
            )
        )
    half.forget(broken_off)
    kept.keep_unsent(opened.round, sent.unsent)
    update, blob = way.give(sent.packed, codecs.nbytes(sent.packed))
    way.forget()
    return Answer(tuple(each.encode() for each in reply.entries), update, reply.cosigned.encode(), blob)


def _synthetic(context: Context) -> Path | None:
    return Path(str(context.node_config["synthetic"])) if "synthetic" in context.node_config else None


def _way(task: Task, opened: RoundOpen, context: Context) -> Transport:
    """How tensors travel in this round: a transfer of which nothing gets through for a round's time is too late."""
    if task.granted is None:
        return Inline()
    host, _, _ = str(context.node_config["superlink"]).rpartition(":")
    authority, folder = (Path(str(context.node_config[name])) for name in ("authority", "blobs"))
    way = Path(str(context.node_config["way"])) if "way" in context.node_config else None
    return Beside(task.granted, host, authority, folder, (opened.deadline_ms - opened.opened_ms) / 1000, way)


def _base(
    task: Task, digest: str, manifest: Manifest, kept: Kept, way: Transport, files: Path
) -> tuple[weights.Weights, weights.Weights]:
    """The checkpoint of this digest: as it came; or as it was kept; or the one before, as it was kept, and the step.
    And what is frozen beside it, a teacher, or what an adapter or members' experts stand beside: as it came, and is
    kept from then on.

    Raises `Refused`: NO_CHECKPOINT if it takes what was not kept, WRONG_BASE if it comes to another one or other
    weights are frozen, or as `Transport.take`, `codecs.unpack` and `models.made`, of the file in this folder.
    """
    shape = gpt.Shape.of(manifest.recipe)
    shapes, beside = models.shapes(manifest.recipe, files), gpt.frozen(shape)
    called = gpt.beside(shape, {name: name for name in beside})

    def came(codec: str, shapes: Shapes) -> weights.Weights:
        return codecs.unpack(way.take(task.carried, codec, shapes), codec, shapes)

    frozen = kept.frozen(manifest.frozen) if beside else {}
    if frozen is not None and (task.since or task.blob) and (found := kept.checkpoint(digest)) is not None:
        return found, frozen
    if not task.since:
        both = came("fp32", shapes | gpt.beside(shape, beside))
        base = {name: both[name] for name in shapes}
        frozen = {name: both[there] for there, name in called.items()}
        if beside and weights.digest(frozen) != manifest.frozen:
            raise Refused(Refusal.WRONG_BASE, f"the frozen weights that came are not {manifest.frozen[:12]}…")
    elif frozen is not None and (before := kept.checkpoint(task.since)) is not None:
        base = weights.plus(before, came(manifest.recipe.down, shapes))
    else:
        raise Refused(Refusal.NO_CHECKPOINT, f"{task.since[:12]}… is not here, and a step from it came")
    if weights.digest(base) != digest:
        raise Refused(Refusal.WRONG_BASE, f"the weights that came are not {digest[:12]}…")
    if beside and not task.since:
        kept.keep_frozen(frozen)
    return base, frozen


def _said(task: Task) -> tuple[RoundOpen, Manifest]:
    """What the round asks for. The daemon, which has the keys, checks the round; the manifest hangs from it."""
    opened, manifest = entry.peek(task.begin.opened.encode()), entry.peek(task.manifest)
    if not isinstance(opened, RoundOpen) or not isinstance(manifest, Manifest):
        raise Refused(Refusal.MALFORMED, "the task does not hold the opening of a round and a manifest")
    if merkle.leaf_hash(task.manifest).hex() != opened.manifest:
        raise Refused(Refusal.WRONG_MANIFEST, "the task's manifest is not the one that the round cites")
    return opened, manifest
