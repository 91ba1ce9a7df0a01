"""An expert of each member beside public weights: what it gives, and whether a member can leave.

`python -m bench.experts [--json]`; `bench.recipes` prints the figures too. Three members whose text is of three kinds
that lie on every machine: Python (the standard library), C++ (PyTorch's headers) and English (pydoc's topics), apart by
file. Weights are made from public text, some of each kind; then four ways go on from them, on the same tokens: an
expert of each member; the default, all weights together; the soup, all weights apart, averaged once at the end
(arXiv:2203.05482); and branch-train-mix (arXiv:2403.07816), all weights apart, whose feed-forwards become a mixture's
experts, which is then trained together for a round. Half of each member's text is public: else a row of the router
learns to say yes to everything.

All of it is the product's: rounds, receipts, bill and audit, in a simulation. Losses are held-out nats per byte.
"""

import hashlib
import json
import pydoc_data.topics
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from bench import report
from client.worth import Measured, measure
from consortium.simulate import Result, simulate
from server import outer
from shared_models.lm import codecs, corpus, gpt, hygiene, own, weights
from shared_models.records.kinds import Recipe
from shared_models.rules.pricing import flop_per_token
from shared_models.rules.recipes import SMALL

KINDS = {"acme": "python", "birch": "cpp", "cedar": "english"}
MOST_BYTES = 1 << 20  # Of a kind, for its member; half as much is public.
HOLDS = 1.01  # A loss that is no more than so many times what it was.
PLAIN = replace(SMALL, feed="swiglu")
OWN = replace(PLAIN, member_experts=len(KINDS), outer="mean", outer_momentum="0")
MEANING = {
    "expert_optout_works": "1: without any member its own text is worse off, and nobody else's by over a hundredth",
    "expert_fallback": "of what its expert took off a member's loss, how much comes back without it; the least",
    "expert_others_ratio": "loss of another member's text without a member / with it; the most",
    "expert_loss_ratio": "mean loss with all experts / of the given weights",
    "expert_default_ratio": "mean loss with all experts / of the default run, on the same tokens",
    "expert_soup_ratio": "mean loss with all experts / of the soup, on the same tokens",
    "expert_mix_ratio": "mean loss with all experts / of branch-train-mix, on the same tokens",
    "mix_default_ratio": "mean loss of branch-train-mix / of the default run, on the same tokens",
    "mix_flop_ratio": "branch-train-mix: FLOP of a token, the mean / that of training all weights",
    "mix_bytes_ratio": "branch-train-mix: bytes that a member sends in all / in the default run",
    "expert_least_worth": "of what all experts take off the losses, the least member's Shapley value",
    "expert_flop_ratio": "FLOP of a token / that of training all weights",
    "expert_bytes_ratio": "bytes of an update / that of all weights",
}


@dataclass(frozen=True, slots=True)
class Found:
    """What came of it; losses are in the order of the members, on their own kinds of text."""

    worth: Measured
    default: tuple[float, ...]
    soup: tuple[float, ...]
    mix: tuple[float, ...]
    rounds: int  # Of each way but the soup; the mixture is trained together in the last one only.


def figures() -> dict[str, float]:
    """Measure."""
    return told(found())


def told(found: Found) -> dict[str, float]:
    """The figures of what was found."""
    losses, everybody = found.worth.losses, frozenset(KINDS)
    given, whole = losses[frozenset()], losses[everybody]
    fallback, others = list[float](), list[float]()
    for number, name in enumerate(KINDS):
        without = losses[everybody - {name}]
        fallback.append((without[number] - whole[number]) / (given[number] - whole[number]))
        others += [without[other] / whole[other] for other in range(len(KINDS)) if other != number]
    mean = sum(whole) / len(whole) / 1e6
    shares, mix, apart = found.worth.shares(), _mix(PLAIN), found.rounds - 1
    return {
        "expert_optout_works": float(min(fallback) > 0 and max(others) <= HOLDS),
        "expert_fallback": min(fallback),
        "expert_others_ratio": max(others),
        "expert_loss_ratio": sum(whole) / sum(given),
        "expert_default_ratio": mean / (sum(found.default) / len(found.default)),
        "expert_soup_ratio": mean / (sum(found.soup) / len(found.soup)),
        "expert_mix_ratio": mean / (sum(found.mix) / len(found.mix)),
        "mix_default_ratio": sum(found.mix) / sum(found.default),
        "mix_flop_ratio": (apart + flop_per_token(mix) / flop_per_token(PLAIN)) / found.rounds,
        "mix_bytes_ratio": (1 + _bytes(mix) / _bytes(PLAIN)) / found.rounds,
        "expert_least_worth": float(min(shares.values()) / sum(shares.values(), Fraction(0))),
        "expert_flop_ratio": flop_per_token(OWN) / flop_per_token(PLAIN),
        "expert_bytes_ratio": _bytes(OWN) / _bytes(PLAIN),
    }


def found(rounds: int = 5, given_rounds: int = 10, **changes: int) -> Found:
    """Make the weights that are given in so many rounds, and go on from them in as many others, three ways."""
    plain, experts = replace(PLAIN, **changes), replace(OWN, **changes)  # type: ignore[arg-type]
    soup = replace(plain, outer="mean", outer_momentum="0", inner_steps=rounds * plain.inner_steps)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        texts, public, held_out = _texts(folder)
        scored = folder / "all"
        scored.write_bytes(b"".join(path.read_bytes() for path in held_out))

        def go(name: str, recipe: Recipe, members: dict[str, int], texts: list[Path], **more: object) -> Result:
            result = simulate(
                folder / name,
                members,
                recipe=recipe,
                texts=texts,
                held_out=scored,
                deadline_s=3600,
                **more,  # type: ignore[arg-type]
            )
            assert (result.report.findings, result.excluded) == ([], ())
            return result

        all_ = dict.fromkeys(KINDS, 1)
        start = _last(go("given", plain, {"public": 1}, [public], rounds=given_rounds))

        def mixed() -> Path:
            """Each member's weights, trained apart, made one mixture's, and that trained together."""
            alone = replace(soup, inner_steps=(rounds - 1) * plain.inner_steps)
            branches = [
                weights.read(_last(go(f"{name} alone", alone, {name: 1}, [text], rounds=1, start=start)))[0]
                for name, text in zip(KINDS, texts, strict=True)
            ]
            mix, joined = replace(_mix(plain), outer="mean", outer_momentum="0"), folder / "joined"
            save_file(_joined(branches, mix), joined)
            return _last(go("mix", mix, all_, texts, rounds=1, start=joined))

        run = go("experts", experts, all_, texts, rounds=rounds, start=start)
        (trained, _), (given, _) = weights.read(_last(run)), weights.read(start)
        return Found(
            measure(trained, given, run.manifest, held_out),
            _scored(_last(go("default", plain, all_, texts, rounds=rounds, start=start)), plain, held_out),
            _scored(_last(go("soup", soup, all_, texts, rounds=1, start=start)), plain, held_out),
            _scored(mixed(), _mix(plain), held_out),
            rounds,
        )


def _mix(plain: Recipe) -> Recipe:
    """As many experts as members, each as wide as the only feed-forward was, and a token goes through two of them."""
    return replace(plain, experts=len(KINDS), experts_per_token=2, feed_dim=plain.feed_width)


def _joined(branches: list[weights.Stored], mix: Recipe) -> weights.Weights:
    """A mixture whose experts are the branches' feed-forwards. The router is new; all else is the branches' mean."""
    made = outer.first(mix)
    for name in made:
        layer, _, rest = name.partition(".experts.")
        if rest:
            number, _, matrix = rest.partition(".")
            made[name] = branches[int(number)][f"{layer}.{matrix}"]
        elif ".router." not in name:
            made[name] = np.mean([branch[name] for branch in branches], axis=0, dtype=np.float32)
    return made


def _last(result: Result) -> Path:
    """The file of the checkpoint that a run ended with."""
    end = result.report.books.runs["r1"].checkpoint
    return result.founded.coordinator.path / "checkpoints" / f"{end}.safetensors"


def _scored(checkpoint: Path, recipe: Recipe, texts: list[Path]) -> tuple[float, ...]:
    model, tensors = outer.model(recipe), weights.read(checkpoint)[0]
    drawn = (
        hygiene.spread(hygiene.EVALUATED, recipe.context, corpus.given(text, recipe.context + 1)) for text in texts
    )
    return tuple(hygiene.held_out_loss(model, tensors, each)(None) for each in drawn)


def _bytes(recipe: Recipe) -> int:
    return codecs.total(recipe.up, gpt.shapes(own.alone(gpt.Shape.of(recipe))))


def _documents(kind: str) -> Iterator[tuple[str, bytes]]:
    """(name, text) of every document of a kind."""
    if kind == "english":
        for name, text in sorted(pydoc_data.topics.topics.items()):
            yield name, text.encode()
        return
    root = Path(sysconfig.get_path("stdlib")) if kind == "python" else Path(torch.__file__).parent / "include"
    for path in sorted(root.rglob("*.py" if kind == "python" else "*.h")):
        inside = path.relative_to(root)
        if {"site-packages", "dist-packages", "pydoc_data"}.isdisjoint(inside.parts):
            yield inside.as_posix(), path.read_bytes()


def _texts(folder: Path) -> tuple[list[Path], Path, list[Path]]:
    """The files of each member's text, of the public one, and of what is held out of each kind.

    By hash of its name a document is held out (one in ten), public (three) or the member's.
    """
    parts: dict[str, tuple[bytes, bytes, bytes]] = {}
    for kind in KINDS.values():
        dealt: tuple[list[bytes], list[bytes], list[bytes]] = ([], [], [])
        hashed = {hashlib.sha256(name.encode()).digest(): text for name, text in _documents(kind)}
        for drawn in sorted(hashed):
            dealt[(0, 1, 1, 1, 2, 2, 2, 2, 2, 2)[drawn[-1] % 10]].append(hashed[drawn])
        held, public, closed = (b"\n".join(each) for each in dealt)
        parts[kind] = held[:MOST_BYTES], public[: MOST_BYTES // 2], closed[:MOST_BYTES]
    least = min(len(public) for _, public, _ in parts.values())
    everybody_s = b"\n".join(public[:least] for _, public, _ in parts.values())
    texts, held_out = list[Path](), list[Path]()
    for kind, (held, _, closed) in parts.items():
        half = min(len(closed), len(everybody_s))
        texts.append(folder / f"{kind}.closed")
        texts[-1].write_bytes(closed[:half] + everybody_s[:half])
        held_out.append(folder / f"{kind}.held-out")
        held_out[-1].write_bytes(held)
    shared = folder / "public"
    shared.write_bytes(everybody_s)
    return texts, shared, held_out


def main() -> None:
    """Measure and print; for a reader the losses themselves, too."""
    came = found()
    if "--json" not in sys.argv:
        rows = {" ".join(sorted(who)) or "as it was given": losses for who, losses in came.worth.losses.items()}
        for name, losses in rows.items():
            print(f"{name:20}", *(f"{loss / 1e6:8.4f}" for loss in losses))
        for name, dense in (("default", came.default), ("soup", came.soup), ("mix", came.mix)):
            print(f"{name:20}", *(f"{loss:8.4f}" for loss in dense))
        print("worth:", json.dumps({name: round(float(share) / 1e6, 4) for name, share in came.worth.shares().items()}))
    report("experts", told(came), MEANING)


if __name__ == "__main__":
    main()
