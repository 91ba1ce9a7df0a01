"""How much one party may ask for in a minute, so that nobody's questions keep the ledger from its work.

Who has signed is counted by its key, anybody else by its address. What is appended is not counted: a receipt is never
lost to a limit, and the queue in front of the writer has its own (`busy`). Each answer says what is left, as
draft-ietf-httpapi-ratelimit-headers has it (`RateLimit-Policy`, `RateLimit`).
"""

import json
import math
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from ledger.hot import App, Receive, Scope, Send, drop
from shared_models.http_answers import PROBLEM, problem
from shared_models.records.refusals import Refusal, Refused

WINDOW_S = 60.0
REQUESTS = 30_000  # In a window: an auditor reads a log of millions, and nobody takes all of a core for long.
KEPT = 10_000  # Of whom it is known how much they have asked for; the one that came first is forgotten then.
FREE = ("/healthz", "/readyz", "/version")  # Whoever watches the machine is always answered.
SIGNED_BY = "consortium.signed_by"  # In the scope of a request: the name of the key, as the guard has verified it.


class Limits:
    """How much each has left: a leaky bucket that holds one window's requests (GCRA, ITU-T I.371), one number each."""

    def __init__(self, most: int = REQUESTS, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._each_s, self._clock = most, WINDOW_S / most, clock
        self._full = dict[str, float]()  # When each has all of it again.

    def take(self, who: str) -> tuple[float, str]:
        """Count a request: (seconds to wait, 0 if it may be answered; the value of `RateLimit`).

        One that must wait is not counted.
        """
        now = self._clock()
        full = max(self._full.get(who, now), now) + self._each_s
        wait_s = full - now - WINDOW_S
        if wait_s > 1e-9:
            full -= self._each_s
        else:
            wait_s = 0.0
            self._full[who] = full
            if len(self._full) > KEPT:
                self._forget(now)
        left = round((WINDOW_S - full + now) / self._each_s, 6)
        return wait_s, f'"requests";r={math.floor(left)};t={math.ceil(full - now)}'

    @property
    def policy(self) -> str:
        """The value of `RateLimit-Policy`."""
        return f'"requests";q={self._most};w={int(WINDOW_S)}'

    def _forget(self, now: float) -> None:
        self._full = {who: full for who, full in self._full.items() if full > now}
        while len(self._full) > KEPT:
            del self._full[next(iter(self._full))]


class Limited:
    """An ASGI application in front of another one, which answers whoever asks for too much."""

    def __init__(self, limits: Limits, rest: App) -> None:
        self._limits, self._rest = limits, rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in FREE:
            await self._rest(scope, receive, send)
            return
        address = scope["client"][0] if scope.get("client") else ""
        wait_s, left = self._limits.take(scope.get(SIGNED_BY, address))
        fields = [(b"ratelimit-policy", self._limits.policy.encode()), (b"ratelimit", left.encode())]

        async def told(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *fields]
            await send(message)

        if not wait_s:
            await self._rest(scope, receive, told)
            return
        await drop(scope, receive)
        refused = Refused(Refusal.BUSY, f"{self._limits.policy}: this was asked for, and more")
        body = json.dumps(problem(refused, scope["path"])).encode()
        headers = [(b"content-type", PROBLEM.encode()), (b"retry-after", b"%d" % math.ceil(wait_s))]
        await told({"type": "http.response.start", "status": 429, "headers": headers})
        await told({"type": "http.response.body", "body": body})
