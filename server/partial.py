"""A checkpoint without some members' experts, to be published for those to whom these members grant theirs not."""

from collections.abc import Collection
from pathlib import Path

from shared_models.huggingface import check_weights
from shared_models.lm import own, weights
from shared_models.records.kinds import Manifest
from shared_models.records.refusals import Refusal, Refused


def without(manifest: Manifest, file: Path, left_out: Collection[str], folder: Path) -> Path:
    """The checkpoint in this file without these members' experts, the others' numbered anew; in a file of this folder.

    Raises `Refused`: NOT_FOUND, CORRUPT; BAD_FIELD if there is no such expert, or none would be left; WRONG_MODEL if it
    is no checkpoint of the run.
    """
    owners = manifest.members if manifest.recipe.member_experts else ()
    numbers = [number for number, name in enumerate(owners) if name not in left_out]
    if not set(left_out) <= set(owners) or not numbers:
        cause = f"run {manifest.run} has experts of {', '.join(owners) or 'nobody'}, of whom some are to stay"
        raise Refused(Refusal.BAD_FIELD, f"--without {' '.join(left_out)}: {cause}")
    experts, _ = weights.read(file)
    check_weights(experts, manifest.recipe)
    return folder / f"{weights.keep(own.among(experts, numbers), folder)}.safetensors"
