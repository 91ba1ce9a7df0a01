"""Whoever listens is told when the log grows, from where it was, and ends when the ledger does."""

import asyncio
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable

import pytest
from ledger_service import serving, write_key
from world import World

from ledger.events import Events
from ledger.log import open_log
from shared_models.ledger_http import LedgerHttp


@pytest.fixture
def world():
    world = World()
    world.start()
    return world


@pytest.fixture
def log(tmp_path, world):
    """Of which the charter is in, and the other entries are still to come."""
    write_key(tmp_path)
    log = open_log(tmp_path)
    log.append(world.leaves[0])
    yield log
    log.close()


class Listener:
    """A connection, as a server hands it to an application."""

    def __init__(self, query: str = "", method: str = "GET", **headers: str) -> None:
        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.scope = {
            "type": "http",
            "method": method,
            "path": "/events",
            "query_string": query.encode(),
            "headers": named,
        }
        self.sent, self.gone, self.ended = list[str](), asyncio.Event(), False
        self.status, self.headers = 0, dict[bytes, bytes]()

    async def receive(self) -> dict[str, object]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
            return
        if body := message["body"]:
            self.sent.append(body.decode())
        self.ended = not message.get("more_body", False)

    @property
    def told(self) -> list[str]:
        """The events so far."""
        return [each for each in self.sent if not each.startswith(":")]


def event(size: int) -> str:
    return f"id: {size}\nevent: head\ndata: {size}\n\n"


async def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.002)


def heard(events: Events, listener: Callable[[], Listener], act: Callable[[Listener], Awaitable[None]]) -> Listener:
    """Listen for as long as this takes, then go."""

    async def both() -> Listener:
        made = listener()
        task = asyncio.create_task(events(made.scope, made.receive, made.send))
        await act(made)
        made.gone.set()
        await asyncio.wait_for(task, 10)
        return made

    return asyncio.run(both())


def test_an_event_says_the_size_when_the_log_has_grown_and_not_before(log, world):
    async def act(listener: Listener) -> None:
        await until(lambda: listener.sent != [])
        await asyncio.sleep(0.05)
        assert listener.told == []
        log.append(world.leaves[1])
        await until(lambda: listener.told == [event(2)])
        for leaf in world.leaves[2:4]:
            log.append(leaf)
        await until(lambda: listener.told[-1] == event(4))

    listener = heard(Events(log, look_s=0.01), Listener, act)
    assert (listener.status, listener.headers[b"content-type"]) == (200, b"text/event-stream; charset=utf-8")
    assert listener.headers[b"cache-control"] == b"no-store"


@pytest.mark.parametrize(
    ("query", "headers", "told"),
    [
        ("", {"last_event_id": "0"}, True),
        ("", {"last_event_id": "1"}, False),
        ("", {"last_event_id": "99"}, True),  # Of another log at this address.
        ("since=0", {}, True),
        ("since=1", {}, False),
        ("since=0", {"last_event_id": "1"}, False),  # The header is newer than the address.
        ("since=", {}, False),
        ("", {}, False),
    ],
)
def test_who_has_missed_something_is_told_at_once(log, query, headers, told):
    async def act(listener: Listener) -> None:
        await until(lambda: listener.told != [] if told else listener.sent != [])
        await asyncio.sleep(0.05)
        assert listener.told == ([event(1)] if told else [])

    heard(Events(log, look_s=5), lambda: Listener(query, **headers), act)


def test_while_nothing_happens_the_connection_is_kept_alive(log):
    async def act(listener: Listener) -> None:
        await until(lambda: listener.sent.count(":\n\n") == 3)

    listener = heard(Events(log, look_s=0.01, beat_s=0.05), Listener, act)
    assert listener.told == []


def test_above_so_many_who_listen_is_refused_by_name_until_one_goes(log):
    async def act() -> None:
        events = Events(log, most=2, look_s=0.01)
        made = [Listener() for _ in range(4)]
        tasks = [asyncio.create_task(events(each.scope, each.receive, each.send)) for each in made[:2]]
        await until(lambda: all(each.sent for each in made[:2]))
        await events(made[2].scope, made[2].receive, made[2].send)
        assert (made[2].status, json.loads(made[2].sent[0])["code"]) == (429, "busy")
        assert made[2].headers[b"retry-after"] == b"15"
        made[0].gone.set()
        await tasks[0]
        tasks.append(asyncio.create_task(events(made[3].scope, made[3].receive, made[3].send)))
        await until(lambda: made[3].sent != [])
        assert made[3].status == 200
        events.close()
        await asyncio.wait_for(asyncio.gather(*tasks), 60)
        assert made[1].ended
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await events(made[2].scope, made[2].receive, made[2].send)
        assert json.loads(made[2].sent[-1])["code"] == "stopped"

    asyncio.run(act())


def test_a_listener_that_broke_off_is_not_counted_any_more(log):
    class Broken(Listener):
        async def send(self, message: dict[str, object]) -> None:
            raise OSError("the line is dead")

    async def act() -> None:
        events = Events(log, most=1, look_s=0.01)
        for _ in range(3):
            broken = Broken()
            with pytest.raises(OSError, match="the line is dead"):
                await events(broken.scope, broken.receive, broken.send)

    asyncio.run(act())


@pytest.mark.parametrize(
    ("query", "method", "headers"),
    [
        ("since=x", "GET", {}),
        ("since=-1", "GET", {}),
        ("since=1.5", "GET", {}),
        ("since=%D9%A1", "GET", {}),
        ("since=" + "9" * 20, "GET", {}),
        ("", "GET", {"last_event_id": "<script>"}),
    ],
)
def test_what_is_no_size_is_refused_by_name(log, query, method, headers):
    async def act() -> None:
        listener, events = Listener(query, method, **headers), Events(log)
        await events(listener.scope, listener.receive, listener.send)
        assert (listener.status, json.loads(listener.sent[0])["code"]) == (422, "bad_field")

    asyncio.run(act())


def test_who_does_not_just_ask_is_told_how_to(log):
    async def act() -> None:
        listener, events = Listener("", "POST"), Events(log)
        await events(listener.scope, listener.receive, listener.send)
        assert (listener.status, json.loads(listener.sent[0])["code"]) == (405, "wrong_method")
        assert listener.headers[b"allow"] == b"GET"

    asyncio.run(act())


# Over HTTP.


def lines(reply: http.client.HTTPResponse, count: int) -> list[str]:
    return [reply.readline().decode().rstrip("\n") for _ in range(count)]


def listening(ledger: LedgerHttp, **headers: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(ledger.url.removeprefix("http://"), timeout=60)
    connection.request("GET", "/events", headers=headers)
    return connection, connection.getresponse()


def test_over_http_it_is_told_and_appends_wait_for_nobody_who_does_not_read(tmp_path, world):
    write_key(tmp_path)
    with serving(tmp_path) as ledger:
        ledger.append(world.leaves[0])
        deaf = [listening(ledger) for _ in range(3)]
        connection, reply = listening(ledger, **{"Last-Event-ID": "0"})
        assert reply.getheader("Content-Type") == "text/event-stream; charset=utf-8"
        assert lines(reply, 6)[2:] == ["id: 1", "event: head", "data: 1", ""]
        start = time.monotonic()
        for leaf in world.leaves[1:]:
            ledger.append(leaf)
        assert time.monotonic() - start < 12  # A beat is 15 s.
        said = lines(reply, 4)
        assert said[1] == "event: head"
        assert 1 < int(said[0].removeprefix("id: ")) <= len(world.leaves)
        for each, _ in [*deaf, (connection, reply)]:
            each.close()


def test_a_ledger_that_stops_waits_for_nobody_who_listens(tmp_path, world):
    write_key(tmp_path)
    with serving(tmp_path) as ledger:
        ledger.append(world.leaves[0])
        found = [listening(ledger) for _ in range(3)]
        for _, reply in found:
            lines(reply, 2)
        start = time.monotonic()
    assert time.monotonic() - start < 12  # A beat is 15 s.
    for connection, reply in found:
        assert reply.read() == b""  # Whole: the last chunk has come.
        connection.close()


def test_a_refusal_is_problem_json(tmp_path):
    write_key(tmp_path)
    with serving(tmp_path) as ledger, pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{ledger.url}/events?since=x")  # noqa: S310
    with caught.value as error:
        assert (error.code, error.headers["Content-Type"]) == (422, "application/problem+json")
        assert json.load(error)["fix"]
