"""How fast this machine trains: some seconds of a recipe, the way a round goes, in a process confined like it.

    python -m client.calibrate < ORDER    {"data": TEXT, "machine": {...}, "recipe": CANONICAL, "seconds": 3}

What it prints is `{"tokens_per_s": ..., "build": ...}`, or `{"code": ..., "detail": ...}` of what it was refused.
client/speed.py gives the order.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from client import data
from client.team import at_work
from client.training import Machine, build
from shared_models.lm import gpt, models, weights
from shared_models.lm.tokenizer import Tokens
from shared_models.records import canonical
from shared_models.records.kinds import Recipe
from shared_models.records.refusals import Refused


def tokens_per_s(recipe: Recipe, tokens: Tokens, machine: Machine, seconds: float) -> float:
    """How many tokens this recipe is trained on in a second here, over about so many seconds behind the first step.

    That one fills caches and may compile. Raises `Refused`, as `at_work`.
    """
    alone = replace(recipe, member_experts=min(1, recipe.member_experts))
    model = models.begun(alone, Path(machine.models), None)
    start = {name: weights.copied(weight) for name, weight in model.named_parameters()}
    if recipe.teacher is not None:
        start |= gpt.beside(gpt.Shape.of(recipe), weights.of(gpt.fresh(gpt.Shape.of(recipe.teacher), recipe.seed)))
    turn = {"member": "calibration", "round_": 1, "rounds": 1_000_000}  # So that the learning rate stays near nought.
    with at_work(start, recipe, tokens, {}, machine=machine, **turn) as training:
        done, more, took = 0, 1, 0.0
        while took < seconds / 2:  # As many steps as take long enough.
            more = more if done == 0 else min(16 * more, max(2 * more, round(more * seconds / max(took, 1e-3))))
            began = time.monotonic()
            for _ in training.until(done + more):
                pass
            done, took = done + more, time.monotonic() - began if done else 0.0
    return more * recipe.batch * recipe.context / took


def main() -> None:
    order = json.loads(sys.stdin.buffer.read())
    try:
        recipe = replace(canonical.decode(Recipe, order["recipe"].encode()), merge_dropout="0")  # It trains on bytes.
        machine = Machine.told(order["machine"])
        speed = tokens_per_s(recipe, data.load(order["data"]), machine, order["seconds"])
        built = build(recipe.precision, machine, recipe.inner)
        print(json.dumps({"tokens_per_s": max(1, round(speed)), "build": built}))
    except Refused as refused:
        print(json.dumps({"code": refused.refusal.value, "detail": refused.detail}))


if __name__ == "__main__":
    main()
