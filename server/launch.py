"""Launching a run: the manifest is signed and logged, members consent, then Flower starts the ServerApp."""

import hashlib
import json
import logging
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from server import outer, updates
from server.home import Home
from shared_models import durable, huggingface
from shared_models.bundle import Bundle, build
from shared_models.ledger_http import LedgerHttp
from shared_models.lm import gpt, models, tokenizer, weights
from shared_models.published import bundles
from shared_models.records import entry as entries
from shared_models.records.kinds import FIRST, Manifest, Receipt, Recipe
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules import pace
from shared_models.rules.agreement import Agreement
from shared_models.rules.pricing import flop_per_token
from shared_models.rules.recipes import SMALL, check_recipe, check_start

POLL_S = 0.5
PIECE_BYTES = 2**20

log = logging.getLogger(__name__)


def read_recipe(
    path: Path | None, start: Path | None = None, cut: Path | None = None, model: str | None = None
) -> Recipe:
    """The small recipe with what this TOML file changes; of a run that begins with a folder of transformers', in the
    shape that the folder has; in the tokens of the tokenizer in the file `cut`; with the `model` of FILE:FUNCTION.

    Raises `Refused`: BAD_FIELD, UNKNOWN_CODEC; as `huggingface.described`, `tokenizer.read` and `models.name`.
    """
    shape = huggingface.described(start) if start is not None and start.is_dir() else {}
    changes = tomllib.loads(path.read_text()) if path is not None else {}
    unknown = changes.keys() - {field.name for field in fields(Recipe)}
    if unknown:
        raise Refused(Refusal.BAD_FIELD, f"{path}: a recipe has no {', '.join(sorted(unknown))}")
    named = {"tokenizer": tokenizer.read(cut).name} if cut is not None else {}
    named |= {"model": models.name(model)} if model is not None else {}
    recipe = replace(SMALL, **shape | changes | named)
    check_recipe(recipe)
    return recipe


def propose(
    agreement: Agreement,
    run: str,
    recipe: Recipe,
    bundle: Bundle,
    *,
    rounds: int,
    quorum: int | None,
    deadline_ms: int,
    wait: str = "all",
    late: int = 0,
    patience: int = 0,
    texts: Path = Path(),
    start: Path | None = None,
    checkpoints: Path = Path(),
    teacher: Path | None = None,
    tokenizers: Path = Path(),
    files: Path = Path(),
    members: tuple[str, ...] | None = None,
    processor: str = "cpu",
    steps: tuple[int, ...] = (),
) -> Manifest:
    """The manifest of a run for these members, or all present; its first checkpoint is made here once, to be named and
    scored.

    `texts` holds what it is scored on, where that is a file. `start` is a file or a folder of weights to begin with,
    of which `checkpoints` then holds a copy (`huggingface.keep`); else the recipe's seed draws them. So it does of
    `teacher`, a file. `tokenizers` holds the one that the recipe names, and `files` what builds a model that is not
    ours: its code runs here, and is checked. The first checkpoint is scored on this processor, as `Outer` scores those
    behind it. `steps` are those of each member, in order; none: the recipe's. Raises `Refused`: BAD_FIELD for a recipe
    that cannot be followed, or has no teacher where one is given, UNKNOWN_CODEC; as `outer.held_out`,
    `huggingface.keep`, `models.check` and `check_start`.
    """
    check_recipe(recipe)  # Now there is a model of it.
    models.check(recipe, files)
    tokenizer.held(recipe.tokenizer, recipe.vocabulary, tokenizers)
    members = agreement.present() if members is None else members
    teaching = FIRST
    if teacher is not None:
        if recipe.teacher is None:
            raise Refused(Refusal.BAD_FIELD, f"--teacher {teacher}: in the recipe teacher_layers are 0")
        teaching = huggingface.keep(teacher, recipe.teacher, checkpoints)
    given = FIRST if start is None else huggingface.keep(start, recipe, checkpoints, files)
    model = models.begun(recipe, files, None if start is None else weights.stored(checkpoints, given))
    first = weights.of(model)
    model.to(processor)
    manifest = Manifest(
        seq=0,
        prev=FIRST,
        run=run,
        charter=agreement.hash,
        bundle=bundle.sha256,
        recipe=recipe,
        members=members,
        rounds=rounds,
        deadline_ms=deadline_ms,
        quorum=len(members) // 2 + 1 if quorum is None else quorum,
        wait=wait,
        late=late,
        patience=patience,
        flop_per_token=flop_per_token(recipe),
        start=given,
        base=weights.digest(first),
        loss_unats=round(1e6 * outer.held_out_loss(model, first, recipe, texts=texts, tokenizers=tokenizers)),
        teacher=teaching,
        steps=steps,
    )
    check_start(manifest)
    return manifest


def taught(ledger: LedgerHttp, agreement: Agreement, teacher: Path) -> tuple[str, ...]:
    """The members present that may have this artefact, by whose weights a run is to be taught: they alone are asked.

    Raises `Refused`: NOT_FOUND for no file, or none that is an artefact of the log.
    """
    try:
        with teacher.open("rb") as file:
            artefact = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Refused(Refusal.NOT_FOUND, f"the teacher {teacher}: {error.strerror}") from None
    found = list[str]()
    for member in agreement.present():
        told = ledger.access(member, artefact)
        if told["granted"]:
            found.append(member)
        else:
            log.warning("%s is not asked: it may not have the teacher: %s", member, "; ".join(told["reasons"]))
    return tuple(found)


def read_steps(text: str) -> dict[str, int]:
    """What `acme=40,birch=10` says of members' steps; nothing of it, if it is empty. Raises `Refused(BAD_FIELD)`."""
    found = dict[str, int]()
    for each in filter(None, text.split(",")):
        member, _, number = each.partition("=")
        if not number.isdecimal() or not int(number) or member in found:
            cause = f"--steps {text}: {each} is not of the form MEMBER=STEPS, once of each, from 1"
            raise Refused(Refusal.BAD_FIELD, cause)
        found[member] = int(number)
    return found


def steps_of(
    ledger: LedgerHttp, members: tuple[str, ...], recipe: Recipe, named: Mapping[str, int], *, paced: bool
) -> tuple[int, ...]:
    """The steps of each of these members, as `pace.steps`; `paced`: by what receipts in the log say of their speed."""
    if not paced:
        return pace.steps(members, recipe.inner_steps, named)
    leaves = (leaf for bundle in bundles(ledger.read, ledger.size()) for leaf in bundle.leaves)
    said = pace.speeds(record for leaf in leaves if isinstance(record := entries.peek(leaf), Receipt))
    return pace.steps(members, recipe.inner_steps, named, said)


def launch(
    folder: Path,
    run: str,
    *,
    recipe: Path | None,
    rounds: int,
    quorum: int | None,
    deadline_s: float,
    consents_s: float,
    wait: str = "all",
    late: int = 0,
    patience: int = 0,
    held_out: Path | None = None,
    start: Path | None = None,
    teacher: Path | None = None,
    cut: Path | None = None,
    model: str | None = None,
    show_updates: bool = False,
    steps: str = "",
    paced: bool = False,
) -> tuple[str, str]:
    """Launch a run and wait for its end: (Flower's status, details). Raises `Refused`.

    With `held_out` its checkpoints are scored on that file, with `start` it begins with the weights there, and by those
    of `teacher` it is taught, as `propose`; its tokens are those of the tokenizer in the file `cut`, and its model that
    of `model`, FILE:FUNCTION. The coordinator's folder keeps a copy of each. `recipe` is read by `read_recipe`. With
    `show_updates` members are shown the updates of each round that has closed. `steps` says of members how many they
    train in a round (`read_steps`); with `paced` the log says it of the others (`steps_of`).
    """
    home, named = Home(folder), read_steps(steps)
    gpt.check_processor(home.settings.processor)
    ledger, bundle = home.ledger(), build()
    home.learn_keys(ledger)
    asked = read_recipe(recipe, start, cut, model)
    if held_out is not None:
        asked = replace(asked, corpus=keep_text(held_out, home.texts_path))
    if cut is not None:
        asked = replace(asked, tokenizer=tokenizer.keep(cut, home.tokenizers_path).name)
    if model is not None:
        asked = models.stated(replace(asked, model=models.keep(model, home.models_path)), home.models_path)
    members = taught(ledger, home.keyring.agreement, teacher) if teacher else home.keyring.agreement.present()
    manifest = propose(
        home.keyring.agreement,
        run,
        asked,
        bundle,
        rounds=rounds,
        quorum=quorum,
        deadline_ms=round(1000 * deadline_s),
        wait=wait,
        late=late,
        patience=patience,
        texts=home.texts_path,
        start=start,
        checkpoints=home.path / "checkpoints",
        tokenizers=home.tokenizers_path,
        files=home.models_path,
        teacher=teacher,
        members=members,
        processor=home.settings.processor,
        steps=steps_of(ledger, members, asked, named, paced=paced),
    )
    leaf, proof = home.say(ledger, home.key, manifest)
    log.info("the manifest of run %s is entry %d", run, proof.index)
    if manifest.steps:
        each = zip(manifest.members, manifest.steps, strict=True)
        log.info("steps in a round: %s", ", ".join(f"{member} {number}" for member, number in each))
    if start is not None:
        log.info("it begins with the weights %s…, held-out loss %.3f", manifest.start[:12], manifest.loss_unats / 1e6)
    until, consents = time.monotonic() + consents_s, list[str]()
    while len(consents) < len(manifest.members) and time.monotonic() < until:
        before, consents = consents, next(each.consents for each in ledger.runs() if each.manifest == leaf)
        for member in sorted(set(consents) - set(before)):
            log.info("%s has consented", member)
        time.sleep(POLL_S)
    if len(consents) < manifest.quorum:
        raise Refused(
            Refusal.NO_CONSENT, f"{len(consents)} members consented, the quorum of run {run} is {manifest.quorum}"
        )
    return _started(home, run, bundle, show_updates)


def keep_text(text: Path, folder: Path) -> str:
    """Keep a copy of this file under its SHA-256; how a recipe names it. Raises `Refused(NOT_FOUND)`."""
    durable.make_folder(folder)
    hashed = hashlib.sha256()
    try:
        with text.open("rb") as file, durable.writing(folder / "text", 0o600, hashed.hexdigest) as copy:
            while piece := file.read(PIECE_BYTES):
                hashed.update(piece)
                copy.write(piece)
    except OSError as error:
        raise Refused(Refusal.NOT_FOUND, f"the held-out text {text}: {error.strerror}") from None
    return f"sha256:{hashed.hexdigest()}"


def resume(folder: Path, run: str, *, show_updates: bool = False) -> tuple[str, str]:
    """Go on with a run whose coordinator was stopped, and wait for its end: (Flower's status, details).

    What the run is stands in the log. Raises `Refused`: UNKNOWN_RUN, NOT_APPROVED if this is other code than the
    members consented to.
    """
    home = Home(folder)
    ledger, bundle = home.ledger(), build()
    home.learn_keys(ledger)
    manifest, _, _ = home.run(ledger, run)
    if manifest.bundle != bundle.sha256:
        raise Refused(
            Refusal.NOT_APPROVED, f"run {run} is of bundle {manifest.bundle[:12]}…, here is {bundle.sha256[:12]}…"
        )
    return _started(home, run, bundle, show_updates)


def _started(home: Home, run: str, bundle: Bundle, show_updates: bool) -> tuple[str, str]:
    from server.superlink import Control

    with Control(home) as control:
        number, told, named, closed = control.start_run(bundle, run), "", set[str](), 0
        while True:
            status = control.status(number)
            shown = _shown(home, run)
            for each in _refused(shown):
                if each not in named:
                    log.warning("%s", each)
                    named.add(each)
            if (now := _progress(shown, run)) != told:
                log.info("%s", now)
                told = now
            ended = status[0].startswith("finished")
            if show_updates and (ended or shown.get("round", 0) > closed + 1):
                _show_updates(home, run, 1 if ended else closed + 1)
                closed = shown.get("round", 1) - 1
            if ended:
                return status
            time.sleep(POLL_S)


def _show_updates(home: Home, run: str, since: int) -> None:
    """What the ledger does not take now it takes at the end of the run, or by `consortium show-updates`."""
    try:
        list(updates.show(home.path, run, since))
    except Refused as refused:
        log.warning("updates are not shown: %s", refused)


def _shown(home: Home, run: str) -> dict[str, Any]:
    """What the ServerApp of this run last wrote; empty before it has written anything."""
    path = home.path / "status.json"
    status: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return status if status.get("run") == run else {}


def _refused(status: dict[str, Any]) -> Iterator[str]:
    """Whose answer does not count, why, and what helps."""
    for number, answers in status.get("answers", {}).items():
        for member, answer in answers.items():
            if "refused" in answer:
                yield f"round {number}: {member} does not count: {answer['refused']}\n  do  {answer['remedy']}"


def _progress(status: dict[str, Any], run: str) -> str:
    """Where a run is, and who is waited for."""
    if not status:
        return f"run {run} is starting"
    if status["phase"] != "training":
        return f"run {run}: {status['phase']}"
    waiting = ", ".join(status["waiting"])
    where = f"round {status['round']} of {status['rounds']}, held-out loss {status['loss']:.3f}"
    return f"{where}: {f'waiting for {waiting}' if waiting else 'averaging'}"
