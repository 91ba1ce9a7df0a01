"""A ledger for members only: whoever reads it has signed the request, or has signed in by a link that a member signed.

What is written needs no guard: each entry, cosignature, invite and file is signed by whom it is of, and refused else.

    GET  /open?link=...   asks whether to sign in; reading a link twice, as mail programs do, does nothing
    POST /open            a session, by a link that is fresh and was not used: a request that was signed in advance
    POST /leave           ends the session
"""

import base64
import binascii
import hashlib
import secrets
import threading
import time
from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, RedirectResponse

from ledger.events import STILL
from ledger.hot import App, Receive, Scope, Send, read_body
from ledger.invites import Invites
from ledger.limits import SIGNED_BY
from ledger.log import Log
from ledger.pages import page
from ledger.shown import moment
from ledger.signers import FRESH_S, check, signer
from shared_models.http_answers import PROBLEM, problem
from shared_models.records.keys import VerifyKey
from shared_models.records.refusals import Refusal, Refused

COOKIE = "consortium_session"
SESSION_S = 12 * 3600
SESSIONS = 1_000  # Open at a time; the oldest one ends when another begins.
LINK_BYTES = 4_096
LINK_PARTS = {"@method": "POST", "@path": "/open"}  # What a link is the signature of.
# Whoever asks for these is answered by somebody else's rules: desks that look at their own signatures, and who has the
# hash of an invite, which only its ticket holds. The styles are the same for everybody.
OPEN = ("/static/", "/v1/artefacts/", "/v1/openings/", "/v1/updates/", "/v1/invites/")
OF_NOTHING = ("/readyz", "/version")  # What these answer is nothing of the log.
# RFC 9421, section 5: what a signature must cover.
WANTED = {"WWW-Authenticate": "Signature", "Accept-Signature": 'sig=("@method" "@path" "@query");created;keyid'}
# What is wrong with who asks, rather than with what is asked for.
NOBODY = (
    Refusal.NOT_SIGNED_IN,
    Refusal.LINK_USED,
    Refusal.BAD_SIGNATURE,
    Refusal.UNKNOWN_KEY,
    Refusal.STALE,
    Refusal.REVOKED,
)


class Session(NamedTuple):
    """Who has signed in, by which key, and until when (Unix time)."""

    key: VerifyKey
    until_s: float


class Guard:
    """An ASGI application in front of another one, which answers whoever may not be answered by that."""

    def __init__(self, log: Log, asked: Invites, rest: App, clock: Callable[[], float] = time.time) -> None:
        self._log, self._asked, self._rest, self._clock = log, asked, rest, clock
        self._turn = threading.Lock()
        self._sessions = dict[bytes, Session]()  # By the hash of what the cookie holds.
        self._used = dict[bytes, float]()  # Until when a link that was used would be fresh.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        request = Request(scope)
        answer = await self._answer(request, receive)

        async def privately(message: MutableMapping[str, Any]) -> None:
            """What is for members only, no cache keeps for others."""
            if message["type"] == "http.response.start":
                fields = {bytes(name).lower(): bytes(value) for name, value in message["headers"]}
                kept = fields.get(b"cache-control", b"private").replace(b"public", b"private")
                others = [each for each in message["headers"] if each[0].lower() != b"cache-control"]
                message["headers"] = [*others, (b"cache-control", kept)]
            await send(message)

        await (answer or self._rest)(scope, receive, privately)

    async def _answer(self, request: Request, receive: Receive) -> Response | None:
        """The answer to a request that goes no further; None if it does, and then its scope has what `_check` tells."""
        path, reads = request.url.path, request.method in ("GET", "HEAD")
        try:
            if path == "/open" and reads:
                return await run_in_threadpool(self._asks, request)
            if path in ("/open", "/leave") and request.method == "POST":
                _check_own_page(request)
                body = await read_body(request.scope, receive, LINK_BYTES)
                if path == "/leave":
                    return self._left(request)
                link = parse_qs(body.decode(errors="replace")).get("link", [""])[0]
                return await run_in_threadpool(self._opened, request, link)
            if not reads or path.startswith(OPEN) or path in OF_NOTHING:
                return None
            request.scope.update(await run_in_threadpool(self._check, request))
        except Refused as refused:
            if path == "/healthz":
                return JSONResponse({"status": "ok"})  # A balancer may ask; how long the log is, only members.
            return _refusal(request, refused)
        return None

    # Who may read.

    def _check(self, request: Request) -> dict[str, Any]:
        """The name of the key by which this is asked, and what asks again whether it may: an answer may take hours.

        Raises `Refused` if whoever asks is nobody here: NOT_SIGNED_IN, UNKNOWN_KEY, REVOKED, or as `signers.signer`.
        """
        signed = signer(request, self._known) if "signature" in request.headers else None
        cookie = request.cookies.get(COOKIE, "")

        def still() -> str:
            key = signed or self._session(cookie).key
            if not key.name.endswith("/invite"):
                self._log.books.keyring.check_counts(key.name, key.id)
            elif self._asked.key(key.name, key.id) is None:
                raise Refused(Refusal.UNKNOWN_KEY, f"the invite of {key.name} has ended")
            return key.name

        return {SIGNED_BY: still(), STILL: still}

    def _known(self, name: str, key_id: bytes) -> VerifyKey | None:
        """A key of the log, or of an invite: who is to join may read what it joins."""
        return self._log.books.keys.get((name, key_id)) or self._asked.key(name, key_id)

    def _session(self, cookie: str) -> Session:
        found = self._sessions.get(_hashed(cookie))
        if found is None or found.until_s <= self._clock():
            why = "your session has ended" if cookie else "this ledger answers members only"
            raise Refused(Refusal.NOT_SIGNED_IN, why)
        return found

    # Signing in and out.

    def _asks(self, request: Request) -> Response:
        """Who is signed in, or would be by this link; nothing has changed. Raises `Refused`, as `_signed`."""
        if link := request.query_params.get("link"):
            return page("open", who=self._signed(link[:LINK_BYTES]).name, link=link)
        session = self._session(request.cookies.get(COOKIE, ""))
        return page("open", link="", who=session.key.name, until=moment(round(1000 * session.until_s)))

    def _signed(self, link: str) -> VerifyKey:
        """The key that has signed this link. Raises `Refused`: BAD_SIGNATURE, UNKNOWN_KEY, STALE, REVOKED."""
        try:
            described, _, signed = base64.urlsafe_b64decode(link + "=" * (-len(link) % 4)).decode().partition("\n")
        except (binascii.Error, UnicodeDecodeError):
            raise Refused(Refusal.BAD_SIGNATURE, "this is no link, or not all of it") from None
        key = check(described, signed, LINK_PARTS, lambda name, key_id: self._log.books.keys.get((name, key_id)))
        self._log.books.keyring.check_counts(key.name, key.id)
        return key

    def _opened(self, request: Request, link: str) -> Response:
        """Begin a session by this link, once. Raises `Refused`: LINK_USED, as `_signed`."""
        key, now, token = self._signed(link), self._clock(), secrets.token_urlsafe(32)
        used = _hashed(link)
        with self._turn:
            self._used = {each: until for each, until in self._used.items() if until > now}
            if used in self._used:
                raise Refused(Refusal.LINK_USED, f"a session of {key.name} began by it")
            self._used[used] = now + 2 * FRESH_S
            self._sessions = {each: at for each, at in self._sessions.items() if at.until_s > now}
            while len(self._sessions) >= SESSIONS:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[_hashed(token)] = Session(key, now + SESSION_S)
        answer = RedirectResponse("/overview", 303)
        answer.set_cookie(COOKIE, token, SESSION_S, httponly=True, samesite="lax", secure=request.url.scheme == "https")
        return answer

    def _left(self, request: Request) -> Response:
        with self._turn:
            self._sessions.pop(_hashed(request.cookies.get(COOKIE, "")), None)
        answer = RedirectResponse("/overview", 303)
        answer.delete_cookie(COOKIE)
        return answer


def _refusal(request: Request, refused: Refused) -> Response:
    told, fields = problem(refused, request.url.path), dict[str, str]()
    if refused.refusal in NOBODY:
        told["status"], fields = 401, WANTED
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse(told, int(told["status"]), fields, PROBLEM)
    answer = page("refused", problem=told)
    answer.status_code = int(told["status"])
    answer.headers.update(fields)
    return answer


def _check_own_page(request: Request) -> None:
    """Whether the page that sends this is ours: no other site signs anybody in or out. Raises `Refused(OTHER_SITE)`.

    Every browser says since 2023 where a request comes from (W3C, Fetch Metadata).
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Refused(Refusal.OTHER_SITE, "this was sent by a page of another site")


def _hashed(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
