"""Where a member runs the code of a file's model outside of a round: in a process confined as its training is.

    python -m client.aside < ORDER    a line of JSON, then bytes; so is the answer

Who consents, and who shows work or repeats it, holds the member's keys: none of them runs such code itself. The process
reads what training reads, the text of another member where that is entrusted to this one, and writes what it writes. Of
our own model all of it is done where it is asked for, as ever.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from client import confine
from client.home import Home
from shared_models.records import canonical
from shared_models.records.kinds import Manifest, Receipt, Recipe
from shared_models.records.refusals import Refusal, Refused

MOST_S = 3600.0  # To train a round again may take as long as a round.


def check(home: Home, recipe: Recipe) -> None:
    """Whether this machine can train the model of a file, and that costs what its recipe says.

    Raises `Refused`, as `models.check` and `Machine.check`; FAILED if the process ends otherwise.
    """
    if not recipe.ours:
        _asked(home, {"what": "check", "recipe": _said(recipe)})


def shapes(home: Home, recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """The shapes of what is trained of a file's model, by name. Raises `Refused`, as `models.shapes` and `check`."""
    told, _ = _asked(home, {"what": "shapes", "recipe": _said(recipe)})
    return {name: tuple(shape) for name, shape in told.items()}


def show(home: Home, receipt: Receipt, hashed: str, manifest: Manifest, manifest_hash: str, segment: int) -> bytes:
    """As `reexecute.show`, of what this member's newest rounds began from."""
    order: dict[str, Any] = {"what": "show", "receipt": _said(receipt), "hashed": hashed, "manifest": _said(manifest)}
    order |= {"manifest_hash": manifest_hash, "segment": segment, "text": home.text}
    order |= {"salt": home.salt(receipt.run, receipt.round), "begun": str(home.begun_path)}
    order |= {"synthetic": _path(home.synthetic)}
    return _asked(home, order | _kept(home))[1]


def replay(
    home: Home,
    shown: bytes,
    receipt: Receipt,
    hashed: str,
    manifest: Manifest,
    earlier: Receipt | None,
    text: Path | None,
    synthetic: Path | None,
) -> tuple[str, int, str]:
    """As `reexecute.replay`."""
    from client import data

    order: dict[str, Any] = {"what": "replay", "receipt": _said(receipt), "hashed": hashed, "manifest": _said(manifest)}
    order |= {"earlier": _said(earlier) if earlier else None, "text": _path(text), "synthetic": _path(synthetic)}
    lent = ([text] if text else []) + ([synthetic, data.beside(synthetic)] if synthetic else [])
    told, _ = _asked(home, order | _kept(home), shown, lent)
    return told["verdict"], told["distance_ppm"], told["why"]


def _said(record: Recipe | Manifest | Receipt) -> str:
    return canonical.encode(record).decode()


def _path(file: Path | None) -> str | None:
    return str(file.absolute()) if file else None


def _kept(home: Home) -> dict[str, Any]:
    return {"tokenizers": str(home.tokenizers_path), "tokens": str(home.tokens_path)}


def _asked(home: Home, order: dict[str, Any], data: bytes = b"", read: Sequence[Path] = ()) -> tuple[Any, bytes]:
    files = home.training_files()
    command = [sys.executable, "-s", "-P", "-m", "client.aside"]
    ended = subprocess.run(
        confine.confined(command, read=[*files["read"], *read], write=files["write"]),
        input=json.dumps(order | {"machine": home.machine()}).encode() + b"\n" + data,
        capture_output=True,
        env=home.training_env(),
        cwd=home.path / "work",
        timeout=MOST_S,
        check=False,
    )
    line, _, rest = ended.stdout.partition(b"\n")
    if ended.returncode or not line:
        said = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
        raise Refused(Refusal.FAILED, f"to {order['what']} what a file's model does ended with {said!r}")
    try:
        told = json.loads(line)
        if isinstance(told, dict) and "code" in told:
            raise Refused(Refusal(told["code"]), str(told["detail"])[:500])
    except (ValueError, KeyError) as error:
        raise Refused(Refusal.FAILED, f"to {order['what']} what a file's model does was answered by {error}") from None
    return told, rest


# In that process.


def _done(order: dict[str, Any], data: bytes) -> tuple[Any, bytes]:
    from client import begun, reexecute
    from client import data as texts
    from client.training import Machine
    from shared_models.lm import models

    machine = Machine.told(order["machine"])
    if "recipe" in order:
        recipe, folder = canonical.decode(Recipe, order["recipe"].encode()), Path(machine.models)
        if order["what"] == "shapes":
            return models.shapes(recipe, folder), b""
        machine.check(recipe)
        models.check(recipe, folder)
        return {}, b""
    receipt = canonical.decode(Receipt, order["receipt"].encode())
    manifest = canonical.decode(Manifest, order["manifest"].encode())
    cut = texts.Kept(Path(order["tokenizers"]), Path(order["tokens"]))
    synthetic = Path(order["synthetic"]) if order["synthetic"] else None
    if order["what"] == "show":
        kept = begun.recall(Path(order["begun"]), order["manifest_hash"], receipt.round)
        how = {"segment": order["segment"], "text": order["text"], "salt": order["salt"], "synthetic": synthetic}
        return {}, reexecute.show(kept, receipt, order["hashed"], manifest, machine=machine, cut=cut, **how)
    earlier = canonical.decode(Receipt, order["earlier"].encode()) if order["earlier"] else None
    text = Path(order["text"]) if order["text"] else None
    found = reexecute.replay(data, receipt, order["hashed"], manifest, earlier, text, machine, cut, synthetic)
    return found._asdict(), b""


def main() -> None:
    line, _, data = sys.stdin.buffer.read().partition(b"\n")
    answer, out = sys.stdout.buffer, sys.stderr
    sys.stdout = out  # What a file prints is no answer.
    try:
        told, rest = _done(json.loads(line), data)
    except Refused as refused:
        told, rest = {"code": refused.refusal.value, "detail": refused.detail}, b""
    answer.write(json.dumps(told).encode() + b"\n" + rest)


if __name__ == "__main__":
    main()
