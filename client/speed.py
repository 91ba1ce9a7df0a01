"""How fast a node trains and reaches its coordinator, as measured, and what a round of a run will take it by that.

The first is measured when a member joins, and when it is asked for (`consortium doctor --calibrate`): a few seconds of
training, in the confinement, on the cores and with the threads of a round. It is an estimate, and nothing is billed by
it: a receipt says what was done.
"""

import http.client
import json
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

from client import aside, confine, policy, runs
from client.home import Home
from shared_models import durable, processes
from shared_models.ledger_http import LedgerHttp
from shared_models.records import canonical
from shared_models.records.canonical import Count, Name
from shared_models.records.kinds import Build, Manifest, Positive, Recipe
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.pricing import flop_per_token, tokens_asked

SECONDS, MOST_S = 3.0, 600.0
SENT_S, MOST_BYTES = 0.5, 1 << 26  # What is sent to measure a way takes so long, or is so much.
WAIT_S = 20.0
# The SuperLink reads what comes there before it says that it is not Flower's, and so does a gateway (415).
REFUSED = "/v1/fleet/pull-messages"


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What was measured of a machine."""

    tokens_per_s: Positive  # Of the recipe that was trained,
    flop_per_s: Positive  # and by its FLOP per token.
    device: Name  # What member.toml gave then,
    devices: Positive  # and how many of it.
    build: Build
    at_ms: Count


class Expected(NamedTuple):
    """What a round takes a member, in seconds: its training, and its tensors on the way, down and up."""

    train_s: float
    travel_s: float
    bytes: int

    @property
    def seconds(self) -> float:
        return self.train_s + self.travel_s


def newest_run(home: Home, ledger: LedgerHttp) -> Manifest | None:
    """The newest run that asks for this member, of those that have not ended if there are any. Raises `Refused`, as the
    ledger.
    """
    found = list(runs.naming(home.settings.member, ledger))
    going = [each for each in found if not each[1].ended]
    return (going or found)[-1][0] if found else None


def calibrate(home: Home, recipe: Recipe, seconds: float = SECONDS) -> Speed:
    """Train this recipe for some seconds, and keep how fast it went in the member's folder.

    Of a curriculum its longest sequences, and none picked from others. Raises `Refused`: NOT_SET_UP without what
    training needs; NO_TEXT, and as `client.training.Machine.check`; FAILED if the process ends otherwise, as for want
    of memory.
    """
    settings, files = home.settings, home.training_files()
    recipe = replace(recipe, shortest=0, candidates=1)
    whole = canonical.encode(recipe).decode()
    order = {"recipe": whole, "data": home.text, "machine": home.machine()}
    command = [sys.executable, "-s", "-P", "-m", "client.calibrate"]
    with processes.on_cores(policy.read(home.policy_path).cores):
        ended = subprocess.run(
            confine.confined(command, read=files["read"], write=files["write"]),
            input=json.dumps(order | {"seconds": seconds}).encode(),
            capture_output=True,
            env=home.training_env(),
            cwd=home.path / "work",
            timeout=MOST_S,
            check=False,
        )
    told = json.loads(ended.stdout or b"{}")
    if "code" in told:
        raise Refused(Refusal(told["code"]), told["detail"])
    if ended.returncode or not told:
        said = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        missing = "No module named" in said
        raise Refused(Refusal.NOT_SET_UP if missing else Refusal.FAILED, f"calibration ended with {said!r}")
    speed = Speed(
        tokens_per_s=told["tokens_per_s"],
        flop_per_s=told["tokens_per_s"] * flop_per_token(recipe),
        device=settings.device,
        devices=settings.devices,
        build=told["build"],
        at_ms=time.time_ns() // 1_000_000,
    )
    durable.write(home.speed_path, canonical.encode(speed))
    return speed


def kept(home: Home) -> Speed | None:
    """What was measured last, of the devices that the node gives now; None if nothing was."""
    try:
        found = canonical.decode(Speed, home.speed_path.read_bytes())
    except (FileNotFoundError, Refused):  # Of another version, or spoilt: it is measured again.
        return None
    return found if (found.device, found.devices) == (home.settings.device, home.settings.devices) else None


def utilisation(home: Home, speed: Speed) -> float:
    """The share of its devices' peak, by the charter; above 1 the charter's is too low, and receipts may be refused."""
    (peak,) = (each.peak_flops for each in home.keyring.charter.devices if each.name == speed.device)
    return float(speed.flop_per_s / (peak * speed.devices))


def said(home: Home, speed: Speed) -> str:
    """The same for people."""
    return (
        f"{speed.tokens_per_s:,} tokens/s, {speed.flop_per_s / 1e9:,.1f} GFLOP/s:"
        f" {utilisation(home, speed):.1%} of the most that the charter gives {speed.devices} × {speed.device}"
    )


def bandwidth(home: Home) -> float:
    """Bytes per second from here to the coordinator, over TLS. Raises OSError, http.client.HTTPException.

    Zeros are sent to an address of Flower's that refuses them, more and more until they take long enough to tell.
    """
    host, _, port = home.settings.superlink.rpartition(":")
    context = ssl.create_default_context(cafile=home.path / "ca.crt")

    def sent_s(size: int) -> float:
        line = http.client.HTTPSConnection(host, int(port), timeout=WAIT_S, context=context)
        try:
            line.connect()
            began = time.monotonic()
            line.request("POST", REFUSED, bytes(size), {"Content-Type": "application/octet-stream"})
            line.getresponse().read()
            return time.monotonic() - began
        finally:
            line.close()

    alone, size = sent_s(0), 1 << 18
    while (took := sent_s(size)) - alone < SENT_S and size < MOST_BYTES:
        size *= 4
    return size / max(took - alone, 1e-6)


def expected(home: Home, manifest: Manifest, speed: Speed, bytes_per_s: float, share: Fraction) -> Expected:
    """What a round of this run takes here, once its checkpoint is here: the first one brings that whole.

    Training has this share of the time.

    By the FLOP that its recipe takes and the speed that was measured, be it of another recipe. Down is taken to be as
    fast as up. Takes PyTorch, for the shapes. Raises `Refused`, as `aside.shapes`.
    """
    from shared_models.lm import codecs, models

    recipe = manifest.recipe_of(home.settings.member)
    flop = tokens_asked(recipe) * manifest.flop_per_token
    if recipe.ours:
        up, down = (shapes(recipe, home.models_path) for shapes in (models.sent_shapes, models.shapes))
    else:
        up = down = aside.shapes(home, recipe)
    size = codecs.total(recipe.up, up) + codecs.total(recipe.down, down)
    return Expected(flop / speed.flop_per_s / float(share), size / bytes_per_s, size)
