"""Work: what a token costs in FLOP, what FLOP cost in money, and what no honest machine can claim."""

from dataclasses import replace
from fractions import Fraction

from shared_models.records.kinds import Charter, Manifest, Receipt, Recipe
from shared_models.records.refusals import Refusal, Refused

FLOP_PER_NCU = (
    10**18
)  # 1 NCU is 10^18 accepted model-FLOP: output, not hours, so every kind of machine compares by itself.


def matmul_parameters(recipe: Recipe) -> int:
    """The weights that a token is multiplied with, each time that it is: those of every layer and of the head,
    embeddings not. Layers that share weights count each, and of experts those that a token goes through.

    With GELU and nothing else chosen, a layer holds 4·d² of attention (query, key, value, output) and 8·d² of a
    feed-forward four times as wide. Where `kv_heads` are fewer than `heads`, keys and values are so much narrower;
    where `head_dim` says how wide a head is, all of attention is; a matrix d × w of rank r is two, d × r and r × w;
    experts have a router, d × experts. The head counts where it is the embedding, too. What is added and what norms
    multiply with are not matrices.
    """
    width, inner = recipe.width, recipe.feed_width
    attention = width * _projected(recipe) + attended(recipe) * width
    matrix = recipe.rank * (width + inner) if recipe.rank else width * inner
    feed = matrix * (2 if recipe.feed == "gelu" else 3)
    routed = feed * recipe.experts_per_token + width * recipe.experts if recipe.experts else feed
    return recipe.layers * (attention + routed) + width * recipe.vocabulary


def flop_per_token(recipe: Recipe) -> int:
    """Model-FLOP to train on one token of a sequence as long as the context: 6 for each matmul weight, and 6·L·T·d for
    causal attention, however many its heads share keys and values; d is then how wide its heads are together.

    Forward 2 and backward 4 FLOP per weight, 2 of them for its own gradient and 2 for that of what it was multiplied
    with; attention's two products take 4·T·d forward, half of it under a causal mask, and three times that in all.
    Recomputation does not count: it is how, not what (arXiv:2204.02311, appendix B, with the causal half).

    With an adapter, weights that are frozen have no gradient of their own: 4 each, and 4 for each weight of A. Those of
    B have: 6. And nobody needs a gradient of what comes before the first matrix, for the embedding is frozen too: that
    saves 2 for each weight of the first matrix, its A and its B.

    With members' experts, a member trains its own beside the given feed-forward, and each token goes through both:
    frozen weights 4 again, those of the expert and its row of the router 6. Nobody needs a gradient of what comes
    before the first layer's: its attention and given feed-forward go forward only, and of the expert what goes into
    the row, the gate and the first matrix has no gradient.

    A teacher goes forward only: 2 for each of its matmul weights, and 2·L·T·d of its attention. So does each token of
    a step's candidates, to pick the hardest sequences: 2 for each weight that it is multiplied with, adapters and the
    member's expert included, and 2·L·T·d.

    Of a model that is not ours, the recipe has two numbers. Whoever can run it counts its products, and refuses others
    (`lm.models.check`); who cannot, an auditor, knows that the run's members have.
    """
    if not recipe.ours:
        return recipe.model_flop + recipe.model_flop_per_position * recipe.context
    if recipe.candidates > 1:
        return flop_per_token(replace(recipe, candidates=1)) + recipe.candidates * _forward(recipe)
    if (teacher := recipe.teacher) is not None:
        forward = 2 * matmul_parameters(teacher) + 2 * teacher.layers * teacher.context * attended(teacher)
        return flop_per_token(replace(recipe, teacher_layers=0)) + forward
    attention = 6 * recipe.layers * recipe.context * attended(recipe)
    if recipe.member_experts:
        return 4 * matmul_parameters(recipe) + attention + _of_own_expert(recipe)
    if not recipe.adapter:
        return 6 * matmul_parameters(recipe) + attention
    width, projected = recipe.width, _projected(recipe)
    inside, outside = _beside_adapters(recipe)
    adapters = recipe.layers * recipe.adapter * (4 * inside + 6 * outside)
    first = 2 * width * projected + 2 * recipe.adapter * (width + projected)
    return 4 * matmul_parameters(recipe) + adapters - first + attention


def _forward(recipe: Recipe) -> int:
    """FLOP of a token that goes forward only, in a sequence as long as the context."""
    weights = matmul_parameters(recipe)
    if recipe.adapter:
        weights += recipe.layers * recipe.adapter * sum(_beside_adapters(recipe))
    if recipe.member_experts:
        weights += recipe.layers * (3 * recipe.width * recipe.feed_width + recipe.width)
    return 2 * weights + 2 * recipe.layers * recipe.context * attended(recipe)


def _beside_adapters(recipe: Recipe) -> tuple[int, int]:
    """How wide what goes into the matrices of a layer is, all of it, and what comes out of them."""
    feeds = 1 if recipe.feed == "gelu" else 2  # Matrices into a feed-forward; out of it there is one.
    inside = recipe.width + attended(recipe) + feeds * recipe.width + recipe.feed_width
    outside = _projected(recipe) + recipe.width + feeds * recipe.feed_width + recipe.width
    return inside, outside


def _of_own_expert(recipe: Recipe) -> int:
    """What a member's expert adds to its frozen model, less what the first layer need not do."""
    width = recipe.width
    matrix, qkv_and_out = width * recipe.feed_width, width * _projected(recipe) + attended(recipe) * width
    expert = 3 * matrix + width
    first = 2 * (qkv_and_out + 3 * matrix + 2 * matrix + width) + 4 * recipe.context * attended(recipe)
    return 6 * recipe.layers * expert - first


def _projected(recipe: Recipe) -> int:
    """How wide queries, keys and values are together."""
    return (recipe.heads + 2 * (recipe.kv_heads or recipe.heads)) * recipe.head_width


def attended(recipe: Recipe) -> int:
    """How wide the heads of attention are together."""
    return recipe.heads * recipe.head_width


def lengths(recipe: Recipe) -> tuple[int, ...]:
    """Tokens in a sequence, in the order of a run's equal parts: from the shortest, each twice the one before."""
    found = [recipe.shortest or recipe.context]
    while found[-1] < recipe.context:
        found.append(2 * found[-1])
    return tuple(found)


def length_at(recipe: Recipe, rounds: int, step: int) -> int:
    """Tokens in each sequence of this step of a run of so many rounds, counted over all of them from 0."""
    every = lengths(recipe)
    return every[step * len(every) // (rounds * recipe.inner_steps)]


def round_flop(manifest: Manifest, round_: int, member: str) -> int:
    """FLOP of this member in this round, counted from 1."""
    return rounds_flop(manifest, round_, round_, member)


def rounds_flop(manifest: Manifest, from_: int, to: int, member: str) -> int:
    """FLOP of this member in these rounds, the last one included: tokens × the manifest's FLOP per token; where
    sequences are shorter, attention has as much less to look at, or of a model that is not ours what looks back at each
    position.
    """
    recipe = manifest.recipe_of(member)
    every, whole = lengths(recipe), manifest.rounds * recipe.inner_steps
    begin, end = (from_ - 1) * recipe.inner_steps, to * recipe.inner_steps
    missing = 0  # Tokens from the lengths of a step's sequences to the context, over the rounds' steps.
    for number, length in enumerate(every):
        first, after = (-(-part * whole // len(every)) for part in (number, number + 1))
        missing += max(0, min(end, after) - max(begin, first)) * (recipe.context - length)
    attention = 6 * recipe.layers * attended(recipe)
    if not recipe.ours:
        attention = recipe.model_flop_per_position
    elif (teacher := recipe.teacher) is not None:
        attention += 2 * teacher.layers * attended(teacher)
    if recipe.candidates > 1:
        attention += 2 * recipe.candidates * recipe.layers * attended(recipe)
    whole_flop = (to - from_ + 1) * tokens_asked(recipe) * manifest.flop_per_token
    return whole_flop - attention * recipe.batch * recipe.context * missing


def value(flop: int, price: Fraction) -> Fraction:
    """What this much accepted work is worth, in minor units, exactly, at a price in minor units for one NCU."""
    return price * flop / FLOP_PER_NCU


def tokens_asked(recipe: Recipe) -> int:
    """The tokens of one member in one round, by its own recipe (`Manifest.recipe_of`)."""
    return recipe.inner_steps * recipe.batch * recipe.context


def check_claim(receipt: Receipt, manifest: Manifest, charter: Charter) -> None:
    """Refuse what no honest machine can have done. Anyone who holds the log can ask the same. Raises `Refused`.

    1. It is of a member of the run, and tokens are exactly those the round asked of it, in whole steps.
    2. FLOP are what these take (`round_flop`).
    3. The time can have been spent so (`check_time`).
    """
    recipe = manifest.recipe_of(receipt.member)
    if receipt.steps != recipe.inner_steps or receipt.tokens != tokens_asked(recipe):
        raise Refused(
            Refusal.IMPLAUSIBLE,
            f"{receipt.tokens} tokens in {receipt.steps} steps, asked for {tokens_asked(recipe)}"
            f" in {recipe.inner_steps}",
        )
    if receipt.flop != (right := round_flop(manifest, receipt.round, receipt.member)):
        raise Refused(
            Refusal.WRONG_FLOP,
            f"{receipt.flop} FLOP for {receipt.tokens} tokens in round {receipt.round}: it is {right}",
        )
    check_time(
        charter,
        receipt.flop,
        receipt.busy_ms,
        receipt.wall_ms,
        receipt.started_ms,
        receipt.ended_ms,
        receipt.device,
        receipt.devices,
    )


def check_time(
    charter: Charter,
    flop: int,
    busy_ms: int,
    wall_ms: int,
    started_ms: int,
    ended_ms: int,
    device: str,
    devices: int,
) -> None:
    """Refuse what no machine of the charter can have done in that time. Raises `Refused(IMPLAUSIBLE)`.

    1. Time inside the steps is not more than the time that passed, and it ended after it began.
    2. The FLOP fit into that time at the device's peak: a model-FLOP utilisation above 1 is impossible.
    """
    if busy_ms > wall_ms:
        raise Refused(Refusal.IMPLAUSIBLE, f"busy for {busy_ms} ms of {wall_ms} ms")
    if started_ms > ended_ms:
        raise Refused(Refusal.IMPLAUSIBLE, f"ended at {ended_ms}, started at {started_ms}")
    for known in charter.devices:
        if known.name == device:
            peak = known.peak_flops
            break
    else:
        raise Refused(Refusal.IMPLAUSIBLE, f"the charter names no device {device}")
    if flop * 1000 > peak * devices * wall_ms:
        raise Refused(Refusal.IMPLAUSIBLE, f"{flop} FLOP in {wall_ms} ms is above the peak of {devices} × {device}")
