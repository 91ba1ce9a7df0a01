"""Members that are slow, late, dead, started anew, or lie: how each behaves in a simulation, by name.

A lie is told by the member itself, who holds its own key: it changes its answer and, where that helps it, signs again.
A poison is an update that it did not train, claimed by its training process and signed for like any other.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flwr.app import Message

import client.app
from client.train import Trained
from consortium.grid import Answer as Honest
from consortium.grid import Behaviour, Offline
from shared_models.lm import codecs, weights
from shared_models.lm.codecs import Packed
from shared_models.messages import Answer, Task, to_error
from shared_models.records import entry as entries
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import Receipt, RoundOpen
from shared_models.records.refusals import Refusal, Refused

Lie = Callable[[Answer, SigningKey], Answer]
Poison = Callable[[weights.Weights], None]


@dataclass(frozen=True, slots=True)
class Away:
    """Goes offline in the middle of this round, and is back after so long.

    It was started anew then, and has lost its task; or, only not `heard`, it answers late what it was asked first.
    """

    round: int
    seconds: float
    heard: bool = True

    def behaviour(self) -> Behaviour:
        been: list[Message] = []

        def behave(message: Message, answer: Honest) -> Message | Offline:
            opened = entries.peek(Task.from_record(message.content).begin.opened.encode())
            assert isinstance(opened, RoundOpen)
            if been or opened.round != self.round:
                return answer(message)
            been.append(message)
            return Offline(self.seconds, None if self.heard else answer(message))

        return behave


def dead(_message: Message, _answer: Honest) -> Message | Offline:
    """Goes offline in the middle of the round, and stays so."""
    return Offline()


def late(seconds: float) -> Behaviour:
    """Answers honestly, and so much later."""

    def behave(message: Message, answer: Honest) -> Message | Offline:
        reply = answer(message)
        time.sleep(seconds)
        return reply

    return behave


@dataclass(frozen=True, slots=True)
class Slow:
    """Answers honestly, and its training takes so many times as long, as its receipts say (`trained_by`)."""

    times: float

    def __str__(self) -> str:
        return f"{self.times:g} times as slow"


def forgetful() -> Behaviour:
    """Answers once, and then says to everything that it has lost its checkpoint."""
    asked: list[Message] = []

    def behave(message: Message, answer: Honest) -> Message | Offline:
        asked.append(message)
        if len(asked) == 1:
            return answer(message)
        return Message(to_error(Refused(Refusal.NO_CHECKPOINT, "lost")), reply_to=message)

    return behave


def lying(lie: Lie, key: SigningKey) -> Behaviour:
    """Answers, with this lie told over it."""

    def behave(message: Message, answer: Honest) -> Message | Offline:
        reply = answer(message)
        if reply.has_error():
            return reply
        told = lie(Answer.from_record(reply.content, 2**40), key)
        return Message(told.to_record(), reply_to=message)

    return behave


def resigned(answer: Answer, key: SigningKey, **changes: object) -> Answer:
    """The answer with these fields of its receipt changed, and signed again with the member's own key."""
    receipt = entries.peek(answer.entries[-1])
    assert isinstance(receipt, Receipt)
    consortium = answer.entries[-1].decode().partition("/receipt@v1")[0]
    leaf = entries.sign(replace(receipt, **changes), consortium, [key])  # type: ignore[arg-type]
    return replace(answer, entries=(*answer.entries[:-1], leaf))


def _with(answer: Answer, key: SigningKey, change: Callable[[weights.Weights], None], sign: bool = True) -> Answer:
    """The answer with its update changed, in the same codec; honestly signed for, or not."""
    (codec,) = {each.codec for each in answer.update.values()}
    update = codecs.unpack(answer.update, codec, codecs.shapes(answer.update))
    change(update)
    sent = codecs.send(codec, update, {})
    changed = replace(answer, update=sent.packed)
    if not sign:
        return changed
    return resigned(changed, key, update=weights.digest(sent.values), bytes_up=codecs.nbytes(sent.packed))


def _matrix(update: Mapping[str, object]) -> str:
    """The name of a matrix in an update: the head; where that is the embedding, this; of an adapter, the first."""
    return next((name for name in ("head.weight", "embed.weight") if name in update), min(update))


def _bent(answer: Answer, key: SigningKey, bend: Callable[[Packed], Packed]) -> Answer:
    """The answer with one array of its update bent, so that it may decode to nothing; its size is the receipt's."""
    name = _matrix(answer.update)
    update = {**answer.update, name: bend(answer.update[name])}
    return resigned(replace(answer, update=update), key, bytes_up=codecs.nbytes(update))


def tampered(answer: Answer, key: SigningKey) -> Answer:
    """One matrix turned around on the way."""

    def change(update: weights.Weights) -> None:
        update[_matrix(update)] *= -1

    return _with(answer, key, change, sign=False)


def not_finite(answer: Answer, key: SigningKey) -> Answer:
    """A NaN: as the first value, or the first scale; of whatever codec, these four bytes are one."""
    return _bent(answer, key, lambda each: replace(each, data=b"\xff" * 4 + each.data[4:]))


def truncated(answer: Answer, key: SigningKey) -> Answer:
    """The last byte is missing."""
    return _bent(answer, key, lambda each: replace(each, data=each.data[:-1]))


def mislabelled(answer: Answer, key: SigningKey) -> Answer:
    """An array of the right bytes that says it is in another codec."""
    return _bent(answer, key, lambda each: replace(each, codec="bf16" if each.codec == "int8" else "int8"))


def miscounted(answer: Answer, key: SigningKey) -> Answer:
    """A receipt for more bytes than were sent."""
    return resigned(answer, key, bytes_up=codecs.nbytes(answer.update) + 1)


def wrong_shape(answer: Answer, key: SigningKey) -> Answer:
    """A matrix lying on its side, honestly signed for."""

    def change(update: weights.Weights) -> None:
        name = _matrix(update)
        update[name] = np.ascontiguousarray(update[name].T)

    return _with(answer, key, change)


def oversized(answer: Answer, key: SigningKey) -> Answer:
    """More than was asked for."""

    def change(update: weights.Weights) -> None:
        update["more"] = np.zeros(3 * sum(tensor.size for tensor in update.values()), np.float32)

    return _with(answer, key, change)


def foreign(answer: Answer, key: SigningKey) -> Answer:
    """A receipt signed by somebody whom the charter does not know, under the member's name."""
    return resigned(answer, SigningKey.generate(key.name))


def wrong_round(answer: Answer, key: SigningKey) -> Answer:
    """A receipt for a round that is not open."""
    receipt = entries.peek(answer.entries[-1])
    assert isinstance(receipt, Receipt)
    return resigned(answer, key, round=receipt.round + 1)


def wrong_base(answer: Answer, key: SigningKey) -> Answer:
    """A receipt for training from another checkpoint."""
    return resigned(answer, key, base="0" * 64)


def inflated(answer: Answer, key: SigningKey) -> Answer:
    """Ten times the tokens."""
    receipt = entries.peek(answer.entries[-1])
    assert isinstance(receipt, Receipt)
    return resigned(answer, key, tokens=10 * receipt.tokens, flop=10 * receipt.flop)


class Replayed:
    """The answer of the member's first round, again and again."""

    def __init__(self) -> None:
        self._first: Answer | None = None

    def __call__(self, answer: Answer, _key: SigningKey) -> Answer:
        self._first = self._first or answer
        return self._first


How = str | float | Away | Slow | Lie  # A member behaves: see `simulate`.

LIES: Mapping[str, Callable[[], Lie]] = {
    "foreign": lambda: foreign,
    "inflated": lambda: inflated,
    "miscounted": lambda: miscounted,
    "mislabelled": lambda: mislabelled,
    "not_finite": lambda: not_finite,
    "oversized": lambda: oversized,
    "replayed": Replayed,
    "tampered": lambda: tampered,
    "truncated": lambda: truncated,
    "wrong_base": lambda: wrong_base,
    "wrong_round": lambda: wrong_round,
    "wrong_shape": lambda: wrong_shape,
}


def flipped(update: weights.Weights) -> None:
    """Turned around, and three times as long."""
    for tensor in update.values():
        tensor *= -3


def scaled(update: weights.Weights) -> None:
    """Ten times as long."""
    for tensor in update.values():
        tensor *= 10


def noise(update: weights.Weights) -> None:
    """Ten times as long, and in no direction at all."""
    random = np.random.default_rng(len(update))
    length = np.sqrt(sum(np.sum(tensor.astype(np.float64) ** 2) for tensor in update.values()))
    values = sum(tensor.size for tensor in update.values())
    for tensor in update.values():
        tensor[...] = 10 * length / np.sqrt(values) * random.standard_normal(tensor.shape)


def zeros(update: weights.Weights) -> None:
    """Nothing: it lets the others train."""
    for tensor in update.values():
        tensor[...] = 0


POISONS: Mapping[str, Poison] = {"flipped": flipped, "noise": noise, "scaled": scaled, "zeros": zeros}


@contextmanager
def trained_by(members: Mapping[str, How]) -> Iterator[None]:
    """While this lasts, the training processes of these members hand in poison, for a machine runs what its owner
    likes, or are slow.
    """
    process = vars(client.app)
    honest = process["train"]

    def train(*what: Any, member: str, **more: Any) -> Trained:
        trained: Trained = honest(*what, member=member, **more)
        match members.get(member):
            case str(poison) if poison in POISONS:
                POISONS[poison](trained.update)
            case Slow(times):
                time.sleep((times - 1) * trained.busy_ms / 1000)
                trained = replace(trained, busy_ms=round(times * trained.busy_ms))
        return trained

    process["train"] = train
    try:
        yield
    finally:
        process["train"] = honest
