"""The hot path of the ledger: appending, straight from ASGI. A web framework would cost more than what it carries.

Whoever asks by a release of our software that is too old is refused here, whatever it asks for but /version.

POST /v1/entries    a leaf                                             201 new, 200 known: a C2SP tlog-proof
POST /v1/batch      up to 256 leaves, as C2SP tlog-tiles packs them    200: a place or a refusal for each, one proof
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from ledger.log import Answer, Placed
from ledger.sequencer import Sequencer
from shared_models.http_answers import PROBLEM, STATUS, problem
from shared_models.records import tlog
from shared_models.records.entry import MAX_BYTES
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refusal, Refused
from shared_models.release import check_agent

PATHS = ("/v1/entries", "/v1/batch")
MAX_BATCH = 256
MAX_BATCH_BYTES = 4_000_000
MAX_DROPPED = 16_000_000  # Of a body that is too large.

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Hot:
    """An ASGI application that appends by itself and hands everything else on."""

    def __init__(self, sequencer: Sequencer, rest: App) -> None:
        self._sequencer, self._rest = sequencer, rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        path = scope["path"]
        try:
            if path != "/version":
                await _check_release(scope, receive)
            answer = await self._answer(scope, receive) if path in PATHS else None
        except (Refused, _Refused) as error:
            refused, entry = (error.why, error.entry) if isinstance(error, _Refused) else (error, "")
            body = json.dumps(problem(refused, path, entry)).encode()
            answer = STATUS.get(refused.refusal, 422), PROBLEM, body
        if answer is None:
            await self._rest(scope, receive, send)
            return
        status, kind, body = answer
        headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
        if status == 429:
            headers.append((b"retry-after", b"1"))
        if status == 405:
            headers.append((b"allow", b"POST"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, str, bytes]:
        if scope["method"] != "POST":
            raise Refused(Refusal.WRONG_METHOD, f"{scope['method'][:20]} {scope['path']}: Method Not Allowed")
        if scope["path"] == "/v1/entries":
            return await self._entry(await read_body(scope, receive, MAX_BYTES))
        return await self._batch(await read_body(scope, receive, MAX_BATCH_BYTES))

    async def _entry(self, leaf: bytes) -> tuple[int, str, bytes]:
        (answer,) = await self._append([leaf])
        try:
            if isinstance(answer, Refused):
                raise answer
            proof = self._sequencer.log.proof(answer.at)
        except Refused as refused:
            raise _Refused(refused, leaf_hash(leaf).hex()) from None
        return (201 if answer.new else 200), "text/plain; charset=utf-8", proof.data()

    async def _batch(self, body: bytes) -> tuple[int, str, bytes]:
        try:
            leaves = tlog.unpack(body)
        except Refused as refused:
            raise Refused(Refusal.MALFORMED, refused.detail) from None
        if not leaves:
            raise Refused(Refusal.MALFORMED, "a batch without entries")
        if len(leaves) > MAX_BATCH:
            raise Refused(Refusal.TOO_LARGE, f"{len(leaves)} entries; a batch holds at most {MAX_BATCH}")
        answers = await self._append(leaves)
        return 200, "application/json", json.dumps(self._told(leaves, answers)).encode()

    def _told(self, leaves: list[bytes], answers: list[Answer]) -> dict[str, Any]:
        """A batch's answers, and the proof that its new entries stand in a row."""
        log = self._sequencer.log
        head, new = log.head, [each.at for each in answers if isinstance(each, Placed) and each.new]
        told: dict[str, Any] = {
            "head": head.note.decode(),
            "entries": [
                each.at if isinstance(each, Placed) else problem(each, "/v1/batch", leaf_hash(leaf).hex())
                for leaf, each in zip(leaves, answers, strict=True)
            ],
        }
        if new:
            path = log.run(new[0], new[-1] + 1, head.size)
            told |= {"start": new[0], "path": [each.hex() for each in path]}
        return told

    async def _append(self, leaves: list[bytes]) -> list[Answer]:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[list[Answer]] = loop.create_future()

        def done(answers: list[Answer]) -> None:
            loop.call_soon_threadsafe(tell, answers)

        def tell(answers: list[Answer]) -> None:
            if not answered.done():  # Its sender may have gone.
                answered.set_result(answers)

        self._sequencer.submit(leaves, done)
        return await answered


class _Refused(Exception):
    """A refusal, and the leaf hash of what was refused."""

    def __init__(self, why: Refused, entry: str) -> None:
        super().__init__(why, entry)
        self.why, self.entry = why, entry


def header(scope: Scope, name: bytes) -> bytes:
    """The value of this field, the first one if there are several; empty if there is none."""
    return next((bytes(value) for field, value in scope["headers"] if field == name), b"")


async def read_body(scope: Scope, receive: Receive, most: int) -> bytes:
    """The body, unless its sender does not say how much it sends, or says too much: then nothing of it is kept.

    Raises `Refused(TOO_LARGE)`.
    """
    length = header(scope, b"content-length")
    if not length.isdigit() or int(length) > most:
        said = f"{int(length)} bytes" if length.isdigit() else "unknown length"
        await drop(scope, receive)
        raise Refused(Refusal.TOO_LARGE, f"a body of {said}; at most {most}")
    return b"".join([part async for part in _parts(receive)])


async def _check_release(scope: Scope, receive: Receive) -> None:
    """Raises `Refused(OUTDATED)`."""
    try:
        check_agent(header(scope, b"user-agent").decode("latin-1"))
    except Refused:
        await drop(scope, receive)
        raise


async def drop(scope: Scope, receive: Receive) -> None:
    """Keep nothing of a body. Most senders look for the answer only when all is sent."""
    length = header(scope, b"content-length")
    if length.isdigit() and int(length) <= MAX_DROPPED:
        async for _ in _parts(receive):
            pass


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        yield message.get("body", b"")
        more = message.get("more_body", False)
