"""The inner optimisers that are not PyTorch's but of the library pytorch_optimizer, which not every member has.

Another release of it may step to other bits, so a receipt's build says which one it was. Nothing heavy is imported
here: a daemon asks before it consents, and does not train.
"""

from importlib import metadata

from shared_models.records.refusals import Refusal, Refused

LIBRARY, NAMES = "pytorch_optimizer", ("lamb", "lion", "scion")
# What several processes may share out, each a part of every parameter: what steps each number by itself, and Muon.
SHARED_OUT = ("adamw", "muon", "lion")


def version(inner: str) -> str:
    """The release of the library here, or nothing where the optimiser is PyTorch's.

    Raises `Refused(NOT_SET_UP)` without the library.
    """
    if inner not in NAMES:
        return ""
    try:
        return metadata.version(LIBRARY)
    except metadata.PackageNotFoundError:
        cause = f"inner = \"{inner}\" needs the library {LIBRARY}: pip install 'training-consortium[optim]'"
        raise Refused(Refusal.NOT_SET_UP, cause) from None


def check(inner: str, *, parts: str = "") -> None:
    """Whether a machine can train with this optimiser, where by the setting of this name, if any, each of its processes
    holds a part of the model. Raises `Refused`: BAD_FIELD, and as `version`.
    """
    if parts and inner not in SHARED_OUT:
        cause = f"{parts} = true does with {', '.join(SHARED_OUT)}, and this run's inner is {inner}"
        raise Refused(Refusal.BAD_FIELD, cause)
    version(inner)
