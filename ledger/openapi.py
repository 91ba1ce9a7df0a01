"""What the ledger says of its own API: OpenAPI 3.1, answered at /openapi.json and kept as docs/openapi.json.

Parameters are read off the routes. What a request holds, what is answered, and by which names it may be refused stand
here: most routes carry bytes, and the hot path has no framework that could tell. A test compares the document with the
one that is kept, so that no change of the API goes unseen; another asks a served ledger what no person would ask, and
compares every answer with it. The pages for people (docs/dashboard.md) are no part of the API, and not in it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ledger import hot
from ledger.guard import COOKIE, NOBODY
from ledger.projections import TABLES
from shared_models import invites
from shared_models.http_answers import PROBLEM, STATUS
from shared_models.ledger_http import UPLOAD_BYTES
from shared_models.records import entry, tlog
from shared_models.records.refusals import Refusal

Schema = dict[str, Any]

ABOUT = """A log of signed records, and what is read out of it. Nothing that is answered is to be believed: proofs are
verified by who asked for them (docs/protocol.md). Whatever is refused is answered with a problem (RFC 9457): `code` is
the name of the refusal, `detail` its cause, `fix` what to do. Appending twice is safe: a record is known by its author,
kind and subject, so no key of idempotence is asked for (docs/decisions/0018-a-record-is-its-own-idempotency-key.md)."""

# Reading a request's bytes, and whether a record may come next.
_NOTE = (
    Refusal.TOO_LARGE,
    Refusal.NOT_TEXT,
    Refusal.NOT_A_NOTE,
    Refusal.UNKNOWN_KEY,
    Refusal.BAD_SIGNATURE,
    Refusal.BAD_KEY,
    Refusal.WRONG_ORIGIN,
    Refusal.REVOKED,
)
_NAMES = list(Refusal)
_BOOKS = _NAMES[_NAMES.index(Refusal.NO_CHARTER) : _NAMES.index(Refusal.NOT_DRAWN) + 1]
_RECORD = (*_NOTE, Refusal.UNKNOWN_KIND, Refusal.NOT_CANONICAL, Refusal.BAD_FIELD, Refusal.NO_QUORUM, *_BOOKS)
_WRITING = (Refusal.BUSY, Refusal.STOPPED, Refusal.CORRUPT)
NOT_READY = (Refusal.STOPPED, Refusal.NOT_SET_UP, Refusal.BEHIND)
_INVITE = (*_NOTE, Refusal.BAD_FIELD, Refusal.UNKNOWN_KIND, Refusal.NOT_CANONICAL, Refusal.BAD_INVITE)
_SIGNED = (Refusal.BAD_SIGNATURE, Refusal.UNKNOWN_KEY, Refusal.STALE, Refusal.REVOKED, Refusal.WRONG_MEMBER)

_SIZE: Schema = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NOTE_TEXT: Schema = {"type": "string", "description": "a C2SP signed note"}
_HASH: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_PATH: Schema = {"type": "array", "items": _HASH}
_ENTRY_HASH = {"entry": _HASH | {"description": "leaf hash of the entry that was refused"}}

_PROBLEM: Schema = {
    "type": "object",
    "description": "RFC 9457: what was refused, why, and what to do",
    "properties": {
        "type": {"type": "string", "description": "where this refusal is explained"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "the name of the refusal: docs/errors has a page of each"},
        "detail": {"type": "string", "description": "the cause"},
        "fix": {"type": "string", "description": "what to do, where there is one the command to type"},
        "kept": {"type": "string", "description": "what is there afterwards"},
        "instance": {"type": "string", "description": "the path that was asked for"},
        **_ENTRY_HASH,
    },
    "required": ["type", "title", "status", "code", "detail", "fix", "kept", "instance"],
    "additionalProperties": False,
}


def _object(properties: Mapping[str, Schema], optional: Sequence[str] = ()) -> Schema:
    required = [name for name in properties if name not in optional]
    return {
        "type": "object",
        "properties": dict(properties),
        "required": required,
        "additionalProperties": False,
    }


def _map(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_INVITED = _object({"invite": _NOTE_TEXT, "answer": {"type": ["string", "null"], "description": "the answer, a note"}})

SCHEMAS: dict[str, Schema] = {
    "Path": _object({"path": _PATH}),
    "Consistency": _object({"root": _HASH, "path": _PATH}),
    "Batch": _object(
        {
            "head": _NOTE_TEXT,
            "entries": _list({"anyOf": [_SIZE, _ref("Problem")]}) | {"description": "where each stands, or why not"},
            "start": _SIZE | {"description": "where those that are new begin"},
            "path": _PATH | {"description": "that they stand in a row from there: rules/merkle.py, `verify_run`"},
        },
        optional=("start", "path"),
    ),
    "Witnesses": _map(_object({"size": _SIZE, "time": _COUNT | {"description": "Unix time in seconds"}})),
    "Keys": _object({"entries": _list(_object({"index": _SIZE, "leaf": _NOTE_TEXT}))}),
    "Last": _object({"seq": _COUNT, "hash": _HASH, "index": _SIZE}),
    "Runs": _object(
        {
            "runs": _list(
                _object(
                    {
                        "manifest": _NOTE_TEXT,
                        "consents": _list({"type": "string"}),
                        "ended": {"enum": ["", "completed", "failed", "stopped"]},
                    }
                )
            )
        }
    ),
    "Verdict": _object(
        {
            "granted": {"type": "boolean"},
            "tier": {"type": "string", "description": "its name; empty where a member has none"},
            "reasons": _list({"type": "string"}),
            "missing": {"type": "string", "description": "what the next tier takes"},
            "size": _COUNT | {"description": "of the artefact's file, in bytes"},
        }
    ),
    "Invited": _INVITED,
}


def _fields(headers: Mapping[str, str]) -> Schema:
    return {name: {"description": says, "schema": {"type": "string"}} for name, says in headers.items()}


class Answer(NamedTuple):
    """What stands in the body of a request or of an answer, and the fields of an answer's header."""

    says: str
    media: str = ""
    schema: Schema | None = None
    headers: Mapping[str, str] = {}

    @property
    def content(self) -> Schema:
        return {} if not self.media else {"content": {self.media: {"schema": self.schema or {}}}}

    @property
    def described(self) -> Schema:
        fields = {"headers": _fields(self.headers)} if self.headers else {}
        return {"description": self.says} | fields | self.content


def _json(says: str, schema: str | Schema, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(says, "application/json", _ref(schema) if isinstance(schema, str) else schema, named)


def _text(says: str) -> Answer:
    return Answer(says, "text/plain", _NOTE_TEXT)


def _bytes(says: str, most: int | None = None) -> Answer:
    schema: Schema = {"type": "string", "format": "binary"}
    return Answer(says, "application/octet-stream", schema | ({"maxLength": most} if most else {}))


class Operation(NamedTuple):
    """What an address does, beside its parameters as far as its route tells them."""

    name: str
    summary: str
    answers: Mapping[int, Answer]
    refused: Sequence[Refusal] = ()
    body: Answer | None = None
    parameters: Sequence[Schema] = ()  # Those that its route does not tell,
    fields: Mapping[str, Schema] = {}  # and what more is to be said of those that it does.
    of_the_log: bool = False  # Whether its answer follows from the log, and is not given again to who has it.
    by: str = "anybody"  # or `signer`: only who signs; `all`: even of a ledger for members only.


def _header(name: str, says: str, required: bool = False, **schema: Any) -> Schema:
    told: Schema = {"name": name, "in": "header", "required": required, "description": says}
    return told | {"schema": {"type": "string"} | schema}


_PUT = [
    _header("Content-Range", "`bytes 0-99/200`, or `bytes */200` to ask how much is here", required=True),
    _header("Content-Digest", "RFC 9530, of this piece; covered by the signature", required=True),
]
_RANGE = [
    _header("Range", "a part of the file, RFC 9110, 14; covered by the signature, where there is one"),
    _header("If-Range", "the file's ETag"),
]
_FILE = {"ETag": "the SHA-256 of the file", "Repr-Digest": "RFC 9530", "Accept-Ranges": "bytes"}
_ARTEFACT = (
    *_SIGNED,
    Refusal.NOT_FOUND,
    Refusal.NO_ACCESS,
    Refusal.NOT_SET_UP,
    Refusal.CORRUPT,
    Refusal.BAD_RANGE,
    Refusal.UNREACHABLE,
    Refusal.BAD_FIELD,
)
_SHOWN = {"ETag": "the receipt's leaf hash", "Accept-Ranges": "bytes"}
_UPDATE = (*_SIGNED, Refusal.NOT_FOUND, Refusal.BAD_RANGE, Refusal.BAD_FIELD)
_OPENING = (*_UPDATE, Refusal.NOT_DRAWN)


def _file(
    path: str,
    fields: dict[str, str],
    refused: Sequence[Refusal],
    get: tuple[str, str],
    head: tuple[str, str],
    put: tuple[str, str],
) -> dict[tuple[str, str], Operation]:
    """What can be done with a file by who signs; `fields` come with its bytes, the rest are names and summaries."""
    part = _bytes("the part that `Range` asks for")._replace(headers=fields | {"Content-Range": "of it"})
    filed = {200: _bytes("the whole file")._replace(headers=fields), 206: part}
    headed = {200: Answer("what GET would answer, without the file", headers=fields)}
    size = {200: _json("how much of it is here", _object({"size": _COUNT}))}
    more, piece = (*refused, Refusal.TOO_LARGE, Refusal.BUSY), _bytes("the piece", UPLOAD_BYTES)
    return {
        ("get", path): Operation(*get, filed, refused, parameters=_RANGE, by="signer"),
        ("head", path): Operation(*head, headed, refused, by="signer"),
        ("put", path): Operation(*put, size, more, piece, _PUT, by="signer"),
    }


_FOUND = (Refusal.NOT_FOUND, Refusal.BAD_FIELD)
_MEMBER: dict[str, Schema] = {"member": {"examples": ["acme"]}}


def operations() -> dict[tuple[str, str], Operation]:
    """Every operation by its method and path."""
    op, nf = Operation, Refusal.NOT_FOUND
    page = _object({"size": _SIZE, "rows": _list(_ref("Row")), "next": {"type": ["string", "null"]}})
    cosigned = _text("a head with cosignatures")
    return {
        ("post", "/v1/entries"): op(
            "append",
            "Append an entry; the same again has its first place",
            {201: _text("a C2SP tlog-proof that it stands in the log"), 200: _text("the same: it stood there before")},
            (*_RECORD, *_WRITING, nf),
            _bytes("a leaf: one signed record, docs/protocol.md", entry.MAX_BYTES),
            by="all",
        ),
        ("post", "/v1/batch"): op(
            "appendAll",
            "Append up to 256 entries; one that is refused stops no other",
            {200: _json("for each entry its place or a problem, and one proof", "Batch")},
            (Refusal.TOO_LARGE, Refusal.MALFORMED, Refusal.BUSY, Refusal.STOPPED),
            _bytes("leaves, as a C2SP tlog-tiles entry bundle packs them", hot.MAX_BATCH_BYTES),
            by="all",
        ),
        ("get", "/v1/proof"): op("proof", "That an entry stands in the log", {200: _text("a C2SP tlog-proof")}, _FOUND),
        ("get", "/v1/inclusion"): op(
            "inclusion", "The path from an entry to a root", {200: _json("hashes, in hex", "Path")}, _FOUND
        ),
        ("get", "/v1/run"): op(
            "run", "The path of entries that stand in a row", {200: _json("hashes, in hex", "Path")}, _FOUND
        ),
        ("get", "/v1/consistency"): op(
            "consistency",
            "That the log of one size is a beginning of another",
            {200: _json("the older root, and the path", "Consistency")},
            _FOUND,
        ),
        ("get", "/v1/add-checkpoint"): op(
            "wanted",
            "The head that members are asked to cosign now",
            {200: _text("the request of C2SP tlog-witness to one that cosigned size `old` before")},
            _FOUND,
        ),
        ("post", "/v1/cosigned"): op(
            "cosign",
            "Hand in a head with members' cosignatures",
            {200: _json("how many are new", _object({"new": _COUNT}))},
            (*_NOTE, Refusal.FORK, Refusal.BAD_PROOF, Refusal.BAD_FIELD, Refusal.NO_CHARTER),
            Answer("a tree head, a C2SP signed note", "text/plain", {"type": "string", "maxLength": tlog.HEAD_BYTES}),
            by="all",
        ),
        ("get", "/v1/witnesses"): op(
            "witnesses",
            "Who has cosigned what, and when",
            {200: _json("by member", "Witnesses")},
            (Refusal.NO_CHARTER,),
        ),
        ("get", "/v1/keys"): op(
            "keys",
            "The entries about keys, from an index on",
            {200: _json("each with its index", "Keys")},
            _FOUND[1:],
            of_the_log=True,
        ),
        ("get", "/v1/authors/{author}"): op(
            "last",
            "The newest entry of an author",
            {200: _json("its number and hash in the chain, its index", "Last")},
            _FOUND,
            fields={"author": {"examples": ["acme/compute"]}},
            of_the_log=True,
        ),
        ("get", "/v1/runs"): op(
            "runs",
            "Every run",
            {200: _json("its manifest, as it was signed, who has consented, and how it has ended, if it has", "Runs")},
            of_the_log=True,
        ),
        ("get", "/v1/tables/{name}"): op(
            "table",
            "Rows of a projection, page by page",
            {
                200: _json(
                    "rows behind `after`; `next` is what to ask `after` for more", page, Link='`rel="next"`: more'
                )
            },
            (*_FOUND, Refusal.BUSY, Refusal.CORRUPT),
            fields={"name": {"enum": list(TABLES)}},
            of_the_log=True,
        ),
        ("get", "/v1/access/{member}/{artefact}"): op(
            "access",
            "Whether a member may have an artefact, for information",
            {200: _json("why, and what it takes", "Verdict")},
            (*_FOUND, Refusal.WRONG_MEMBER),
            fields=_MEMBER,
            of_the_log=True,
        ),
        **_file(
            "/v1/artefacts/{artefact}",
            _FILE,
            _ARTEFACT,
            ("artefact", "A file, or a part of it"),
            ("artefactHead", "How long a file is"),
            ("upload", "Bring a piece of a file, as its publisher"),
        ),
        **_file(
            "/v1/updates/{run}/{number}/{member}",
            _SHOWN,
            _UPDATE,
            ("update", "The update that a member sent in a round, or a part of the file"),
            ("updateHead", "How long it is"),
            ("showUpdate", "Bring a piece of an update, as the coordinator"),
        ),
        **_file(
            "/v1/openings/{run}/{number}/{member}",
            _SHOWN,
            _OPENING,
            ("opening", "What a member has shown of its training in a round, or a part of the file"),
            ("openingHead", "How long it is"),
            ("show", "Bring a piece of what the log asks to see, as who has trained it"),
        ),
        ("post", "/v1/invites"): op(
            "invite",
            "Let an invite to join be known",
            {200: _json("its hash", _object({"invite": _HASH}))},
            (
                *_INVITE,
                Refusal.WRONG_MEMBER,
                Refusal.ALREADY_MEMBER,
                Refusal.STALE,
                Refusal.EXPIRED,
                Refusal.TOO_MANY_INVITES,
                Refusal.NO_CHARTER,
            ),
            _bytes("an invite, docs/protocol.md", invites.MAX_BYTES),
            by="all",
        ),
        ("get", "/v1/invites"): op(
            "invites",
            "The invites that are open, or were answered",
            {200: _json("each with its answer", _object({"invites": _list(_ref("Invited"))}))},
        ),
        ("get", "/v1/invites/{hashed}"): op(
            "invited", "One invite", {200: _json("it and its answer", "Invited")}, _FOUND, by="all"
        ),
        ("post", "/v1/invites/{hashed}"): op(
            "answer",
            "Answer an invite, once; the same again is safe",
            {200: _json("its hash", _object({"invite": _HASH}))},
            (*_INVITE, nf, Refusal.EXPIRED, Refusal.INVITE_USED),
            _bytes("an answer, docs/protocol.md", invites.MAX_BYTES),
            by="all",
        ),
        ("get", "/checkpoint"): op("checkpoint", "The newest tree head", {200: _text("a C2SP tlog-checkpoint")}),
        ("get", "/tile/{path}"): op(
            "tile",
            "A tile of the log, or a bundle of its entries",
            {200: _bytes("as C2SP tlog-tiles lays it out; it never changes")},
            (*_FOUND, Refusal.CORRUPT),
            fields={"path": {"examples": ["entries/000", "0/000"]}},
        ),
        ("get", "/cosigned"): op("cosignedHead", "The newest head with a quorum", {200: cosigned}, (nf,)),
        ("get", "/witness/{member}"): op(
            "witnessHead", "The newest head that a member has witnessed", {200: cosigned}, _FOUND, fields=_MEMBER
        ),
        ("get", "/attest/{member}"): op(
            "attestHead", "Below it every entry of this member is its own", {200: cosigned}, _FOUND, fields=_MEMBER
        ),
        ("get", "/events"): op(
            "events",
            "That the log has grown, as server-sent events",
            {200: Answer("`id` and `data` are the log's size", "text/event-stream", {"type": "string"})},
            (Refusal.BAD_FIELD, Refusal.BUSY, Refusal.STOPPED),
            parameters=[
                {
                    "name": "since",
                    "in": "query",
                    "required": False,
                    "schema": _SIZE,
                    "description": "the size you have",
                },
                _header("Last-Event-ID", "the size you have; it goes before `since`", pattern="^[0-9]{1,19}$"),
            ],
        ),
        ("get", "/healthz"): op(
            "health",
            "Whether the ledger answers",
            {200: _json("the log's size, to whoever may read it", _HEALTH)},
            by="all",
        ),
        ("get", "/readyz"): op(
            "readiness",
            "Whether the ledger would write",
            {200: _json("it would", _object({"status": {"const": "ready"}})), 503: _problems(NOT_READY)},
            by="all",
        ),
        ("get", "/version"): op(
            "version",
            "What it is, and which clients it answers",
            {200: _json("releases of our software, and kinds of records", _VERSION)},
            by="all",
        ),
    }


_RELEASE: Schema = {"type": "string", "pattern": r"^[0-9]+\.[0-9]+\.[0-9]+$"}
_VERSION = _object(
    {
        "software": _RELEASE,
        "api": {"type": "string"},
        "oldest_client": _RELEASE | {"description": "older ones are refused as `outdated`, but for this address"},
        "kinds": _list({"type": "string"}) | {"description": "of records: docs/protocol.md"},
    }
)
_ALWAYS = (Refusal.OUTDATED, Refusal.DEFECT)
_NOBODY = tuple(each for each in NOBODY if each is not Refusal.LINK_USED)
# What many addresses answer alike.
_SHARED: dict[str, tuple[Refusal, ...]] = {
    "Nobody": _NOBODY,
    "Outdated": (Refusal.OUTDATED,),
    "Defect": (Refusal.DEFECT,),
    "Busy": (Refusal.BUSY,),
}
_UNLIMITED = ("append", "appendAll", "health", "readiness", "version")
_AGAIN = {"Retry-After": "seconds"}
_LIMITS = {
    "RateLimit-Policy": "what one key or address may ask for, as every answer says it; docs/api.md",
    "RateLimit": "what is left of it",
}
_HEALTH = _object({"status": {"const": "ok"}, "size": _SIZE}, optional=("size",))


def describe(app: FastAPI) -> Schema:
    """The whole document. Raises KeyError if a route of the app is not in `operations`."""
    told = get_openapi(title="Consortium ledger", version="1", routes=app.routes)["paths"]
    routes = {(method, path): each for path, methods in told.items() for method, each in methods.items()}
    table, paths = operations(), dict[str, Schema]()
    for method, path in routes:
        table[method, path]  # A route that nobody has described.
    for (method, path), operation in table.items():
        parameters = routes.get((method, path), {}).get("parameters", [])
        paths.setdefault(path, {})[method] = _described(operation, method, parameters)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Consortium ledger", "version": "1", "description": ABOUT.replace("\n", " ")},
        "paths": paths,
        "components": {
            "schemas": SCHEMAS
            | {"Problem": _problem(table.values())}
            | {"Row": {"anyOf": [_ref(f"table.{name}") for name in TABLES]}}
            | {f"table.{name}": _row(name) for name in TABLES},
            "responses": {name: _problems(refusals).described for name, refusals in _SHARED.items()},
            "securitySchemes": {
                "signature": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Signature",
                    "description": "HTTP Message Signatures (RFC 9421), Ed25519, with `Signature-Input`: method, path"
                    " and query, `created` less than five minutes ago, `keyid` NAME/ROLE+ID of a key of the log;"
                    " docs/access.md, docs/dashboard.md",
                },
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": COOKIE,
                    "description": "of a browser that signed in by a link: docs/dashboard.md",
                },
            },
        },
    }


def _problem(described: Iterable[Operation]) -> Schema:
    """A problem, with each code that any address may give."""
    everywhere = {*_NOBODY, *NOT_READY, *_ALWAYS, Refusal.BUSY, Refusal.WRONG_ADDRESS, Refusal.WRONG_METHOD}
    given = everywhere.union(*(operation.refused for operation in described))
    code = {"enum": [each.value for each in Refusal if each in given]}
    return _PROBLEM | {"properties": _PROBLEM["properties"] | {"code": _PROBLEM["properties"]["code"] | code}}


def _described(operation: Operation, method: str, parameters: Sequence[Schema]) -> Schema:
    told: Schema = {"operationId": operation.name, "summary": operation.summary}
    found = [_parameter(each, operation.fields) for each in parameters] + list(operation.parameters)
    if operation.of_the_log:
        found.append(_header("If-None-Match", "the ETag of an answer that you have"))
    if found:
        told["parameters"] = found
    if operation.body is not None:
        told["requestBody"] = {"required": True, "description": operation.body.says, **operation.body.content}
    answers = {str(status): answer.described for status, answer in operation.answers.items()}
    if operation.of_the_log:
        answers["200"]["headers"] = answers["200"].get("headers", {}) | _fields({"ETag": "of the log's newest head"})
        answers["304"] = {"description": "you have it: the log has not grown"}
    told["responses"] = answers | _refusals(operation, method)
    signed: Schema = {"signature": []}
    told["security"] = {"all": [], "signer": [signed], "anybody": [{}, signed, {"session": []}]}[operation.by]
    return told


def _parameter(given: Schema, fields: Mapping[str, Schema]) -> Schema:
    schema = {name: value for name, value in given["schema"].items() if name != "title"}
    if "anyOf" in schema:  # One that may be left out: there is no null in an address.
        schema = next(each for each in schema["anyOf"] if each.get("type") != "null")
    named = {"name": given["name"], "in": given["in"], "required": given["required"]}
    return named | {"schema": schema | fields.get(given["name"], {})}


def _refusals(operation: Operation, method: str) -> dict[str, Schema]:
    """A problem for each status, with the codes that it may have."""
    by_status: dict[int, list[Refusal]] = {}
    always = (Refusal.DEFECT,) if operation.name == "version" else _ALWAYS
    limited = () if operation.name in _UNLIMITED else (Refusal.BUSY,)
    for refusal in dict.fromkeys([*operation.refused, *limited, *always]):
        by_status.setdefault(STATUS.get(refusal, 422), []).append(refusal)
    if operation.by == "anybody":
        by_status[401] = [*_NOBODY]
    names = {refusals: name for name, refusals in _SHARED.items() if limited or name != "Busy"}
    told = dict[str, Schema]()
    for status, codes in sorted(by_status.items()):
        name = names.get(tuple(codes)) if method != "head" else None
        shared = {"$ref": f"#/components/responses/{name}"}
        told[str(status)] = shared if name else _problems(codes, method != "head").described
    if "429" in told and not limited:
        told["429"]["headers"] = _fields(_AGAIN)
    return told


def _problems(refusals: Sequence[Refusal], body: bool = True) -> Answer:
    codes = [each.value for each in refusals]
    schema = {"allOf": [_ref("Problem"), {"properties": {"code": {"enum": codes}}}]}
    headers = _AGAIN | _LIMITS if Refusal.BUSY in refusals else {}
    return Answer(", ".join(codes), PROBLEM if body else "", schema, headers)


def _row(name: str) -> Schema:
    columns = dict[str, Schema]()
    for column in TABLES[name].columns:
        kind = "integer" if column.type.python_type is int else "string"
        columns[column.name] = {"type": [kind, "null"] if column.nullable else kind}
    return _object(columns)
