"""Whether what `member.toml` says of a machine goes with a run's recipe: how its processes share a batch, or a model.

The one place for it: a daemon asks before it consents, training before it begins. Nothing heavy is imported here,
and nothing of the machine itself is looked at.
"""

from typing import Protocol

from shared_models.lm import borrowed
from shared_models.records.kinds import Recipe
from shared_models.records.refusals import Refusal, Refused


class Chosen(Protocol):
    """What is chosen of a machine: `client.home.Settings`, and `client.training.Machine`, which is told it."""

    @property
    def processes(self) -> int: ...
    @property
    def shard(self) -> bool: ...
    @property
    def tensor(self) -> bool: ...
    @property
    def compile(self) -> bool: ...
    @property
    def recompute(self) -> bool: ...


def shares(chosen: Chosen) -> int:
    """So many parts a batch is trained in, each by another process."""
    return 1 if chosen.tensor else chosen.processes


def check_alone(chosen: Chosen) -> None:
    """Whether what is chosen goes together, whatever the recipe. Raises `Refused(BAD_FIELD)`."""
    for name in ("shard", "compile"):
        if chosen.tensor and getattr(chosen, name):
            raise Refused(Refusal.BAD_FIELD, f"tensor = true does not go with {name} = true: take one of them")


def check(chosen: Chosen, recipe: Recipe) -> None:
    """Whether what is chosen goes with this recipe. Raises `Refused`: BAD_FIELD; as `borrowed.check`."""
    check_alone(chosen)
    borrowed.check(recipe.inner, parts="shard" if chosen.shard else "tensor" if chosen.tensor else "")
    for name in ("shard", "tensor", "recompute"):
        if getattr(chosen, name) and not recipe.ours:
            raise Refused(Refusal.BAD_FIELD, f"{name} = true is for the layers of our model, and this is a file's")
    if recipe.batch % shares(chosen):
        cause = f"processes = {chosen.processes} do not divide the run's batch of {recipe.batch}"
        raise Refused(Refusal.BAD_FIELD, cause)
    if chosen.tensor:
        _check_parts(chosen.processes, recipe)


def _check_parts(processes: int, recipe: Recipe) -> None:
    """Whether a layer comes in as many equal parts as there are processes. Raises `Refused(BAD_FIELD)`."""
    for name in ("experts", "member_experts", "adapter"):
        if getattr(recipe, name):
            cause = f"tensor = true does not cut a model with {name}: shard = true does"
            raise Refused(Refusal.BAD_FIELD, cause)
    kv_heads = recipe.kv_heads or recipe.heads
    for name, size in (("heads", recipe.heads), ("kv_heads", kv_heads), ("feed_width", recipe.feed_width)):
        if size % processes:
            cause = f"tensor = true: processes = {processes} do not divide the run's {name} = {size}"
            raise Refused(Refusal.BAD_FIELD, f"{cause}; take as many as do, or shard = true")
