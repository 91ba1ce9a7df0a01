"""What of a recipe goes together, and what of a manifest: everything that one field asks of another."""

from dataclasses import replace
from fractions import Fraction

from shared_models.records import canonical
from shared_models.records.kinds import CODECS, FIRST, Manifest, Recipe
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.pricing import flop_per_token, lengths

COOLEST, HOTTEST = Fraction(1, 10), 100  # Temperatures.
LEAST = 256  # Tokens of a tokenizer.
MOST_CANDIDATES = 64
# What says of our model what it is made of. A file's may read its sizes, and of these all are as in SMALL.
OF_OURS = (
    *("kv_heads", "feed", "rank", "shared", "experts", "experts_per_token", "adapter", "member_experts"),
    *("teacher_layers", "teacher_heads", "teacher_width", "temperature", "taught"),
    *("feed_dim", "head_dim", "qk_norm", "bias", "embeddings", "expert_weights"),
    *("rope_theta", "rope_factor", "norm_eps", "candidates"),
)

# Who computes what a recipe says, as transformers calls it: by `feed`, whether there are experts, `qk_norm` and `bias`.
ARCHITECTURES = {
    ("gelu", False, "none", "none"): "arcee",
    ("swiglu", False, "none", "none"): "llama",
    ("swiglu", False, "none", "qkv"): "qwen2",
    ("swiglu", False, "head", "none"): "qwen3",
    ("swiglu", True, "none", "none"): "mixtral",
    ("swiglu", True, "whole", "none"): "olmoe",
    ("swiglu", True, "head", "none"): "qwen3_moe",
}

# What a run trains that names no other: a small GPT, by which a consortium sees that all of it works.
SMALL = Recipe(
    vocabulary=256,
    layers=4,
    heads=4,
    kv_heads=0,
    width=96,
    context=128,
    feed="gelu",
    rank=0,
    shared=1,
    experts=0,
    experts_per_token=0,
    adapter=0,
    batch=8,
    inner_steps=40,
    inner="muon",
    inner_rate="0.008",
    outer="nesterov",
    outer_rate="1",
    outer_momentum="0.6",
    aggregate="mean",
    influence="0.5",
    corpus="python-stdlib",
    seed=1,
    up="fp32",
    down="fp32",
    segment=10,
    precision="fp32",
    member_experts=0,
    shortest=0,
    teacher_layers=0,
    teacher_heads=0,
    teacher_width=0,
    temperature="0",
    taught="0",
    tokenizer="bytes",
    feed_dim=0,
    head_dim=0,
    qk_norm="none",
    bias="none",
    embeddings="apart",
    expert_weights="shares",
    rope_theta=10_000,
    rope_factor=0,
    norm_eps="0",
    merge_dropout="0",
    model="gpt",
    model_flop=0,
    model_flop_per_position=0,
    candidates=1,
)

# What trains in a second, and learns little: for benches, tests, and rules that only count.
TOY = replace(
    SMALL,
    layers=1,
    heads=2,
    width=16,
    context=16,
    batch=2,
    inner_steps=3,
    inner="adamw",
    inner_rate="0.004",
    outer="mean",
    outer_momentum="0",
    segment=2,
)


def check_recipe(recipe: Recipe) -> None:
    """Refuse a recipe by which nothing could be trained, or which says that it saves and does not. Raises `Refused`:
    BAD_FIELD, UNKNOWN_CODEC.

    0. Each field is in its domain.
    1. Updates and steps travel in codecs that there are.
    2. A head has an even number of numbers, for rotary positions turn them in pairs; and keys and values serve as many
       heads each. Where all heads are normed at once, they are as wide as the model.
    3. Layers that share weights come in whole groups.
    4. Two matrices of a rank are smaller than the one that they stand for.
    5. A token goes through some of several experts, and these have gates: no standard architecture has others.
    6. An adapter stands beside whole matrices that every token goes through, saves work, and is trained by AdamW: Muon
       counts no steps, and beside it would be nothing that AdamW trains; and others save next to nothing of so little.
    7. Members' experts stand beside one whole feed-forward with gates, alone, and nobody's moves by what others send.
    8. Sequences that begin shorter than the context come to it by doubling.
    9. A teacher is a model that could be trained, and is learnt from at a temperature that leaves numbers of use; what
        stands beside given weights has none, for these are a model already.
    10. A tokenizer has a token for each byte; how many in all, only who has it can say (`lm.tokenizer.held`). It alone
        has merges to leave out.
    11. It is one of `ARCHITECTURES`, so that others can read what was trained: members' experts too, with what they
        stand beside, and that alone. Where the weights of experts are no shares, the architecture leaves the choice.
    12. A model that is not ours has none of our model's options; and of ours no number says what it costs.
    13. A sequence is picked from a number of others that somebody may still want to pay for.
    """
    canonical.encode(recipe)
    _check_model(recipe)
    if unknown := {recipe.up, recipe.down} - set(CODECS):
        raise Refused(Refusal.UNKNOWN_CODEC, f"{', '.join(sorted(unknown))}: none of {', '.join(CODECS)}")
    if recipe.head_dim % 2:
        raise Refused(Refusal.BAD_FIELD, f"head_dim = {recipe.head_dim} is no even number")
    if not recipe.head_dim and recipe.width % (2 * recipe.heads):
        raise Refused(Refusal.BAD_FIELD, f"heads = {recipe.heads}: width = {recipe.width} is no even number for each")
    if recipe.qk_norm == "whole" and recipe.heads * recipe.head_width != recipe.width:
        cause = f'qk_norm = "whole" is of {recipe.width} numbers, and {recipe.heads} heads have {recipe.head_dim} each'
        raise Refused(Refusal.BAD_FIELD, cause)
    if recipe.kv_heads and recipe.heads % recipe.kv_heads:
        raise Refused(Refusal.BAD_FIELD, f"kv_heads = {recipe.kv_heads} do not divide heads = {recipe.heads}")
    if recipe.layers % recipe.shared:
        raise Refused(Refusal.BAD_FIELD, f"shared = {recipe.shared} does not divide layers = {recipe.layers}")
    most = (recipe.width * recipe.feed_width - 1) // (recipe.width + recipe.feed_width)
    if recipe.rank > most:
        raise Refused(Refusal.BAD_FIELD, f"rank = {recipe.rank} saves nothing: up to {most} it does, and 0 is whole")
    if recipe.experts and not 1 <= recipe.experts_per_token < recipe.experts:
        cause = f"experts_per_token = {recipe.experts_per_token} of {recipe.experts} experts: at least one, and not all"
        raise Refused(Refusal.BAD_FIELD, cause)
    if recipe.experts_per_token and not recipe.experts:
        raise Refused(Refusal.BAD_FIELD, f"experts_per_token = {recipe.experts_per_token}, and experts = 0")
    if recipe.member_experts:
        _check_member_experts(recipe)
    if recipe.adapter:
        _check_adapter(recipe)
    if recipe.teacher_layers or recipe.teacher_heads or recipe.teacher_width or recipe.taught != "0":
        _check_teacher(recipe)
    elif recipe.temperature != "0":
        raise Refused(Refusal.BAD_FIELD, f"temperature = {recipe.temperature}, and nobody teaches: 0")
    if recipe.experts and recipe.feed != "swiglu":
        raise Refused(Refusal.BAD_FIELD, f'experts = {recipe.experts} need feed = "swiglu", and it is {recipe.feed}')
    _check_architecture(recipe)
    if recipe.shortest and (recipe.shortest == recipe.context or lengths(recipe)[-1] != recipe.context):
        cause = f"shortest = {recipe.shortest}, doubled once or over and over, never is context = {recipe.context}"
        raise Refused(Refusal.BAD_FIELD, cause)
    if recipe.tokenizer != "bytes" and recipe.vocabulary < LEAST:
        cause = f"vocabulary = {recipe.vocabulary}: a tokenizer has a token for each byte, {LEAST} at least"
        raise Refused(Refusal.BAD_FIELD, cause)
    if recipe.tokenizer == "bytes" and recipe.merge_dropout != "0":
        raise Refused(Refusal.BAD_FIELD, f"merge_dropout = {recipe.merge_dropout}: bytes are merged by no tokenizer")
    if recipe.candidates > MOST_CANDIDATES:
        raise Refused(Refusal.BAD_FIELD, f"candidates = {recipe.candidates}, more than {MOST_CANDIDATES}")


def _check_model(recipe: Recipe) -> None:
    if recipe.ours:
        if recipe.model_flop or recipe.model_flop_per_position:
            cause = (
                f"model_flop = {recipe.model_flop}, {recipe.model_flop_per_position} per position, of our own model: 0"
            )
            raise Refused(Refusal.BAD_FIELD, cause)
        return
    for name in OF_OURS:
        if (said := getattr(recipe, name)) != (plain := getattr(SMALL, name)):
            cause = f"{name} = {said} is an option of our model, and this run's is a file's: {plain}"
            raise Refused(Refusal.BAD_FIELD, cause)


def _check_architecture(recipe: Recipe) -> None:
    said = (recipe.qk_norm, recipe.bias)
    for routed in {recipe.experts > 0, recipe.experts + recipe.member_experts > 0}:
        if (recipe.feed, routed, *said) not in ARCHITECTURES:
            what = f'feed = "{recipe.feed}" {"with" if routed else "without"} experts'
            cause = f'no architecture has {what}, qk_norm = "{recipe.qk_norm}" and bias = "{recipe.bias}"'
            raise Refused(Refusal.BAD_FIELD, cause)
    if recipe.expert_weights == "softmax" and not (recipe.experts and recipe.qk_norm != "none"):
        cause = 'expert_weights = "softmax": an architecture with experts has them so if qk_norm = "head" or "whole"'
        raise Refused(Refusal.BAD_FIELD, cause)


def _check_teacher(recipe: Recipe) -> None:
    said = [recipe.teacher_layers, recipe.teacher_heads, recipe.teacher_width, Fraction(recipe.taught)]
    if recipe.adapter:
        raise Refused(Refusal.BAD_FIELD, f"adapter = {recipe.adapter} has no teacher, and teacher_layers are {said[0]}")
    if not all(said):
        cause = "teacher_layers, teacher_heads, teacher_width and taught are 0 all of them, or none"
        raise Refused(Refusal.BAD_FIELD, f"{cause}: {', '.join(map(str, said[:3]))} and {recipe.taught}")
    if not COOLEST <= Fraction(recipe.temperature) <= HOTTEST:
        raise Refused(Refusal.BAD_FIELD, f"temperature = {recipe.temperature}, not from {COOLEST} to {HOTTEST}")
    try:
        assert recipe.teacher is not None
        check_recipe(recipe.teacher)
    except Refused as refused:
        raise Refused(refused.refusal, f"the teacher's {refused.detail}") from None


def _check_adapter(recipe: Recipe) -> None:
    for name in ("rank", "experts"):
        if getattr(recipe, name):
            cause = f"adapter = {recipe.adapter} stands beside whole matrices, and {name} = {getattr(recipe, name)}"
            raise Refused(Refusal.BAD_FIELD, cause)
    if recipe.inner != "adamw":
        cause = f'adapter = {recipe.adapter} is trained by inner = "adamw", and it is {recipe.inner}'
        raise Refused(Refusal.BAD_FIELD, cause)
    if flop_per_token(recipe) >= flop_per_token(replace(recipe, adapter=0)):
        raise Refused(Refusal.BAD_FIELD, f"adapter = {recipe.adapter} saves nothing: to train all weights is less work")


def _check_member_experts(recipe: Recipe) -> None:
    experts = f"member_experts = {recipe.member_experts}"
    for name in ("rank", "experts", "adapter", "teacher_layers"):
        if getattr(recipe, name):
            cause = f"{experts} stand beside one whole feed-forward, and {name} = {getattr(recipe, name)}"
            raise Refused(Refusal.BAD_FIELD, cause)
    for name, asked in (("feed", "swiglu"), ("outer", "mean"), ("outer_rate", "1"), ("aggregate", "mean")):
        if getattr(recipe, name) != asked:
            cause = f'{experts} need {name} = "{asked}", and it is {getattr(recipe, name)}'
            raise Refused(Refusal.BAD_FIELD, cause)


def check_start(manifest: Manifest) -> None:
    """Refuse a run that says it begins with weights that were given, and begins with others; or that has something to
    put beside given weights, and none; or members' experts, or steps, that are not one for each. Raises `Refused`:
    WRONG_BASE, BAD_FIELD.

    Beside given weights, which stay as they are, the first checkpoint is that of what is trained.
    """
    recipe = manifest.recipe
    if recipe.member_experts and recipe.member_experts != len(manifest.members):
        cause = f"member_experts = {recipe.member_experts}, and the run has {len(manifest.members)} members"
        raise Refused(Refusal.BAD_FIELD, cause)
    _check_steps(manifest)
    if (recipe.teacher is None) != (manifest.teacher == FIRST):
        cause = f"teacher_layers = {recipe.teacher_layers}, and the teacher is {manifest.teacher[:12]}…"
        raise Refused(Refusal.WRONG_BASE, f"{cause}: `--teacher`")
    if recipe.beside:
        if manifest.start == FIRST:
            name = "adapter" if recipe.adapter else "member_experts"
            cause = f"{name} = {getattr(recipe, name)} stands beside weights that are given: `--from`"
            raise Refused(Refusal.WRONG_BASE, cause)
    elif manifest.start not in (FIRST, manifest.base):
        cause = f"given are the weights {manifest.start[:12]}…, and the first checkpoint is {manifest.base[:12]}…"
        raise Refused(Refusal.WRONG_BASE, cause)


def _check_steps(manifest: Manifest) -> None:
    """What members train in a round is said in one way: the recipe says the most, and no steps where all do that."""
    said, most = manifest.steps, manifest.recipe.inner_steps
    if said and len(said) != len(manifest.members):
        cause = f"steps = {', '.join(map(str, said))}, and the run has {len(manifest.members)} members"
        raise Refused(Refusal.BAD_FIELD, cause)
    if said and manifest.recipe.aggregate in ("median", "trimmed"):
        cause = f'aggregate = "{manifest.recipe.aggregate}" sorts values of members that train equally long'
        raise Refused(Refusal.BAD_FIELD, f"{cause}, and steps = {', '.join(map(str, said))}")
    if said and not min(said) < max(said) == most:
        cause = f"steps = {', '.join(map(str, said))}: the most are not inner_steps = {most}, or all are"
        raise Refused(Refusal.BAD_FIELD, cause)
