"""What our HTTP services have in common: refusals as problem+json (RFC 9457), parts of a file (RFC 9110, 14)."""

import re
from typing import Any

from shared_models.records.refusals import Refusal, Refused

PROBLEM = "application/problem+json"
STATUS = {
    Refusal.NOT_SIGNED_IN: 401,
    Refusal.LINK_USED: 401,
    Refusal.NO_ACCESS: 403,
    Refusal.OTHER_SITE: 403,
    Refusal.NOT_PASSED: 403,
    Refusal.OUTDATED: 400,
    Refusal.WRONG_METHOD: 405,
    Refusal.CONFLICT: 409,
    Refusal.INVITE_USED: 409,
    Refusal.FORK: 409,
    Refusal.NOT_FOUND: 404,
    Refusal.WRONG_ADDRESS: 404,
    Refusal.TOO_LARGE: 413,
    Refusal.BAD_RANGE: 416,
    Refusal.BUSY: 429,
    Refusal.STOPPED: 503,
    Refusal.NOT_SET_UP: 503,
    Refusal.UNREACHABLE: 503,
    Refusal.CORRUPT: 500,
    Refusal.DEFECT: 500,
}

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18})")


def problem(refused: Refused, path: str, entry: str = "") -> dict[str, str | int]:
    """RFC 9457: what was refused, why, what to do, and what is kept; `entry` is the leaf hash of what was refused."""
    body: dict[str, str | int] = {
        "type": refused.page,
        "title": refused.refusal.value.replace("_", " "),
        "status": STATUS.get(refused.refusal, 422),
        "code": refused.refusal.value,
        "detail": refused.detail,
        "fix": refused.remedy,
        "kept": refused.kept,
        "instance": path,
    }
    return body | ({"entry": entry} if entry else {})


def refused(problem: Any) -> Refused:
    """The refusal in a problem that was sent to us. Raises ValueError, KeyError, TypeError if it is none."""
    return Refused(Refusal(problem["code"]), str(problem["detail"]))


def wanted(said: str, size: int) -> tuple[int, int] | None:
    """From where to where of a file of this size `Range` asks, the end not included: empty where it has no such bytes.

    None where the whole is the answer: no range, several, or nothing that is one.
    """
    found = _RANGE.fullmatch(said)
    if found is None or not (found[1] or found[2]) or (found[1] and found[2] and int(found[2]) < int(found[1])):
        return None
    if not found[1]:
        return max(0, size - int(found[2])), size
    return int(found[1]), min(int(found[2]) + 1, size) if found[2] else size


def piece(said: str, length: int) -> tuple[int, int]:
    """(where a piece of this length begins, the size of the whole) by its `Content-Range`; no bytes begin at 0.

    Raises `Refused(BAD_RANGE)`.
    """
    found = _CONTENT_RANGE.fullmatch(said)
    start, end = (int(found[1]), int(found[2]) + 1) if found and found[1] else (0, 0)
    if found is None or end - start != length or end > int(found[3]):
        raise Refused(Refusal.BAD_RANGE, f"{said[:80]!r} of {length:,} bytes")
    return start, int(found[3])
