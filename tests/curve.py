"""Edwards25519 by its definition (RFC 8032 §5.1), slow and plain: to make cases for verification and to judge them.

A point is (x, y). Nothing of the project is used here, so that it can be held against it.
"""

import hashlib

P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
IDENTITY = (0, 1)

Point = tuple[int, int]


def x_of(y: int) -> int | None:
    """An x for this y, from the curve's equation -x² + y² = 1 + d·x²·y²; None if there is none."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    return None if (x * x - square) % P else x


def add(one: Point, other: Point) -> Point:
    (x1, y1), (x2, y2) = one, other
    k = D * x1 * x2 * y1 * y2 % P
    return (x1 * y2 + x2 * y1) * pow(1 + k, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - k, -1, P) % P


def times(scalar: int, point: Point) -> Point:
    result = IDENTITY
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point, scalar = add(point, point), scalar >> 1
    return result


def encode(point: Point) -> bytes:
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, "little")


def decode(data: bytes) -> Point | None:
    """The point of this canonical encoding, or None."""
    whole = int.from_bytes(data, "little")
    y, sign = whole & (2**255 - 1), whole >> 255
    x = x_of(y) if y < P else None
    if x is None or (x == 0 and sign):
        return None
    return (x if x & 1 == sign else P - x, y)


_Y = 4 * pow(5, -1, P) % P
BASE = (x_of(_Y) if (x_of(_Y) or 0) % 2 == 0 else P - (x_of(_Y) or 0), _Y)


def small() -> list[Point]:
    """The eight points whose order divides 8."""
    found: set[Point] = set()
    y = 2
    while len(found) < 8:
        if (x := x_of(y)) is not None:
            found |= {times(n, times(L, (x, y))) for n in range(8)}
        y += 1
    return sorted(found)


def challenge(r: bytes, a: bytes, message: bytes) -> int:
    return int.from_bytes(hashlib.sha512(r + a + message).digest(), "little") % L


def strictly_right(public: bytes, signature: bytes, message: bytes) -> bool:
    """The verdict by definition: canonical A and R, neither of small order, S < L, and S·B = R + k·A exactly."""
    a, r, s = decode(public), decode(signature[:32]), int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or a is None or r is None or s >= L:
        return False
    if IDENTITY in (times(8, a), times(8, r)):
        return False
    return times(s, BASE) == add(r, times(challenge(signature[:32], public, message), a))


def loosely_right(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the equation holds times 8, for encodings that need not be canonical, and any S (as ZIP 215 has it)."""
    a, r = (_loosely(half) for half in (public, signature[:32]))
    if a is None or r is None:
        return False
    s = int.from_bytes(signature[32:], "little")
    right = add(r, times(challenge(signature[:32], public, message), a))
    return times(8, times(s, BASE)) == times(8, right)


def _loosely(data: bytes) -> Point | None:
    whole = int.from_bytes(data, "little")
    y, sign = (whole & (2**255 - 1)) % P, whole >> 255
    x = x_of(y)
    return None if x is None else (x if x & 1 == sign else (P - x) % P, y)
