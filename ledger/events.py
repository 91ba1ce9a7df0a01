"""The log's growth, to whoever listens: Server-Sent Events (HTML Living Standard, 9.2), straight from ASGI.

    GET /events                   id: 42        an event when the log has grown, its id the size of the log;
    Last-Event-ID: 41             event: head   at once, if it has grown since the size that the listener names,
    or ?since=41                  data: 42      by the header, or, when a page was just read, in the address

Each listener looks at the newest head by itself, once a second: who appends knows of nobody who listens and waits for
nobody, and many entries at once are one event. What it is told is what /checkpoint tells everybody; of a ledger for
members, whoever may read: who may no longer is told nothing more.
"""

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from fastapi.concurrency import run_in_threadpool

from ledger.hot import Receive, Scope, Send
from ledger.log import Log
from shared_models import service
from shared_models.http_answers import PROBLEM, STATUS, problem
from shared_models.records.refusals import Refusal, Refused

LISTENERS = 256  # At a time; each is a connection that stays open.
LOOK_S = 1.0
STILL = "consortium.still"  # In the scope of a request: what raises `Refused` once whoever asks may read no more.
BEAT_S = 15.0  # So often something is sent, so that no proxy between takes the connection for dead.
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would keep events back until it has many.
    (b"x-content-type-options", b"nosniff"),
]


class Events:
    """An ASGI application, for one open log. Used in one event loop."""

    def __init__(self, log: Log, *, most: int = LISTENERS, look_s: float = LOOK_S, beat_s: float = BEAT_S) -> None:
        self._log, self._most, self._look_s, self._beat_s = log, most, look_s, beat_s
        self._listening = set[asyncio.Event]()  # What ends each of them, when it is set.
        self._closed = False

    def close(self) -> None:
        """End all listeners, and take no more: a server that stops waits until every answer is whole."""
        self._closed = True
        for over in self._listening:
            over.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            since = self._check(scope)
        except Refused as refused:
            await _refuse(refused, scope, send)
            return
        over = asyncio.Event()
        self._listening.add(over)
        watching = asyncio.create_task(_gone(receive, over))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await self._tell(send, over, since, scope.get(STILL))
        finally:
            self._listening.discard(over)
            watching.cancel()

    def _check(self, scope: Scope) -> int:
        """The size since which to tell: what the listener has, or the log's. One that has another log is told ours.

        Raises `Refused`: WRONG_METHOD, BAD_FIELD, STOPPED, BUSY.
        """
        if scope["method"] != "GET":
            raise Refused(Refusal.WRONG_METHOD, f"{scope['method'][:20]} /events: Method Not Allowed")
        asked = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("since", [""])[-1]
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"last-event-id"), asked)
        if given and not (given.isascii() and given.isdigit() and len(given) <= 19):
            raise Refused(Refusal.BAD_FIELD, f"since {given[:40]!r}: it is the size of a log")
        if self._closed:
            raise Refused(Refusal.STOPPED, "the ledger is closing")
        if len(self._listening) >= self._most:
            raise Refused(Refusal.BUSY, f"{self._most} listen already")
        return int(given) if given else self._log.head.size

    async def _tell(self, send: Send, over: asyncio.Event, since: int, still: Callable[[], object] | None) -> None:
        async def write(text: str, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

        await write(": the size of the log, when it grows\n\n")
        quiet_s = 0.0
        while not over.is_set() and (still is None or await run_in_threadpool(_holds, still)):
            size = self._log.head.size
            if size != since:
                await write(f"id: {size}\nevent: head\ndata: {size}\n\n")
                since, quiet_s = size, 0.0
            elif quiet_s >= self._beat_s:
                await write(":\n\n")
                quiet_s = 0.0
            try:
                await asyncio.wait_for(over.wait(), self._look_s)
            except TimeoutError:
                quiet_s += self._look_s
        await write("", more=False)


class Server(uvicorn.Server):
    """It ends whoever listens, for whom the answer is never whole, before it waits for all answers; and lets systemd
    see that it answers.
    """

    def __init__(self, config: uvicorn.Config, events: Events) -> None:
        super().__init__(config)
        self._events = events

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            service.tell(READY="1")

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # Ten times a second uvicorn's loop comes by.
            service.tell(WATCHDOG="1")
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        service.tell(STOPPING="1")
        self._events.close()
        await super().shutdown(sockets)


def _holds(still: Callable[[], object]) -> bool:
    try:
        still()
    except Refused:
        return False
    return True


async def _gone(receive: Receive, over: asyncio.Event) -> None:
    """Set `over` when the listener has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    over.set()


async def _refuse(refused: Refused, scope: Scope, send: Send) -> None:
    status = STATUS.get(refused.refusal, 422)
    headers: list[Any] = [(b"content-type", PROBLEM.encode())]
    if status == 429:
        headers.append((b"retry-after", b"15"))
    if status == 405:
        headers.append((b"allow", b"GET"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(problem(refused, scope["path"])).encode()})
