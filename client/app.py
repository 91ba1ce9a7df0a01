"""The ClientApp: what the bundle runs at a member. It trains and claims; it holds no key and signs nothing."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client import data
from client.train import train
from shared_models.claims import Claim, Daemon
from shared_models.lm import weights
from shared_models.messages import Answer, Task, to_error
from shared_models.records import entry, merkle
from shared_models.records.kinds import Manifest, RoundOpen
from shared_models.records.refusals import Refusal, Refused

app = ClientApp()


@app.train()
def answer(message: Message, context: Context) -> Message:
    """Train for one round. A refusal ends it, and reaches the coordinator by its name."""
    try:
        return Message(_answer(Task.from_record(message.content), context).to_record(), reply_to=message)
    except Refused as refused:
        return Message(to_error(refused), reply_to=message)


def _answer(task: Task, context: Context) -> Answer:
    base = dict(task.weights)
    opened, manifest = _said(task)
    if weights.digest(base) != opened.base:
        raise Refused(Refusal.WRONG_BASE, f"the weights that came are not {opened.base[:12]}…")
    recipe = manifest.recipe
    with Daemon(str(context.node_config["door"])) as daemon:
        daemon.ask(task.begin)
        trained = train(
            base,
            recipe,
            data.load(str(context.node_config["data"])),
            member=str(context.node_config["member"]),
            round_=opened.round,
            rounds=manifest.rounds,
            report=daemon.ask,
        )
        reply = daemon.ask(
            Claim(
                update=weights.digest(trained.update),
                data=trained.data,
                tokens=trained.tokens,
                steps=trained.steps,
                busy_ms=trained.busy_ms,
                loss_unats=round(1e6 * trained.loss),
                bytes_down=weights.size(base),
                bytes_up=weights.size(trained.update),
            )
        )
    return Answer(tuple(each.encode() for each in reply.entries), trained.update, reply.cosigned.encode())


def _said(task: Task) -> tuple[RoundOpen, Manifest]:
    """What the round asks for. The daemon, which has the keys, checks the round; the manifest hangs from it."""
    opened, manifest = entry.peek(task.begin.opened.encode()), entry.peek(task.manifest)
    if not isinstance(opened, RoundOpen) or not isinstance(manifest, Manifest):
        raise Refused(Refusal.MALFORMED, "the task does not hold the opening of a round and a manifest")
    if merkle.leaf_hash(task.manifest).hex() != opened.manifest:
        raise Refused(Refusal.WRONG_MANIFEST, "the task's manifest is not the one that the round cites")
    return opened, manifest
