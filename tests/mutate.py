"""Is each check tested? Delete it, and a test must fail: `python -m tests.mutate [--learn] [--new] [--part] [FILE]`.

A mutant is this code without one refusal (a `raise` or a `yield` of one) or without one call of a check. What survives
is a check that nothing would miss. Each mutant meets first the test that noticed it last time, as `noticed_by.json`
says; --learn adds to that file, and --new takes only mutants of which it says nothing. --part takes one mutant in
36 only: which, the mutated files themselves choose, so that one commit has one answer whenever it is asked, and the
next change asks for others.
"""

import ast
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).parent.parent
NOTICED_BY = Path(__file__).with_name("noticed_by.json")
WORKERS = 2
PART = 36
LIMIT_S = 600.0
PHASES = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # That it fails is enough; how simply does not matter.
WARM = ("fastapi", "flwr.serverapp", "flwr.clientapp", "hypothesis.stateful", "psutil", "sqlmodel", "torch", "uvicorn")

# What is mutated, and the quick tests that must notice.
GUARDED: dict[str, list[str]] = {
    "shared_models/records/canonical.py": ["tests/records/test_canonical.py", "tests/records"],
    "shared_models/records/keys.py": ["tests/records/test_keys.py", "tests/records"],
    "shared_models/records/note.py": ["tests/records/test_note.py", "tests/records"],
    "shared_models/records/merkle.py": ["tests/records/test_merkle.py", "tests/records"],
    "shared_models/records/tlog.py": ["tests/records/test_tlog.py", "tests/records"],
    "shared_models/records/entry.py": ["tests/records/test_entry.py", "tests/records"],
    "shared_models/records/policy.py": ["tests/records/test_policy.py", "tests/records"],
    "shared_models/rules/agreement.py": ["tests/rules/test_agreement.py", "tests/attacks/test_bought_votes.py"],
    "shared_models/rules/keyring.py": ["tests/rules/test_keyring.py", "tests/rules"],
    "shared_models/rules/access.py": ["tests/rules/test_access.py"],
    "shared_models/http_answers.py": ["tests/server/test_blobs.py", "tests/ledger/test_artefacts.py"],
    "shared_models/transport.py": ["tests/server/test_blobs.py", "tests/server/test_beside.py"],
    "server/blobs.py": ["tests/server/test_blobs.py"],
    "server/gateway.py": ["tests/server/test_gateway.py"],
    "server/https.py": ["tests/server/test_gateway.py", "tests/server/test_blobs.py"],
    "server/offers.py": ["tests/server/test_beside.py"],
    "shared_models/http_signatures.py": ["tests/ledger/test_http_signatures.py", "tests/ledger/test_artefacts.py"],
    "client/models.py": ["tests/client/test_models.py", "tests/client/test_huggingface.py"],
    "shared_models/gguf.py": [
        "tests/training/test_foreign.py",
        "tests/client/test_gguf.py",
        "tests/server/test_tokenized.py",
    ],
    "shared_models/huggingface.py": [
        "tests/client/test_huggingface.py",
        "tests/training/test_foreign.py",
        "tests/training/test_adapter.py",
        "tests/server/test_adapted.py",
        "tests/training/test_own.py",
    ],
    "shared_models/lm/models.py": ["tests/training/test_foreign.py"],
    "shared_models/lm/borrowed.py": ["tests/training/test_optimisers.py"],
    "shared_models/invites.py": [
        "tests/client/test_join.py",
        "tests/attacks/test_stolen_invite.py",
        "tests/server/test_takeover.py",
    ],
    "client/invites.py": ["tests/client/test_join.py", "tests/attacks/test_stolen_invite.py"],
    "client/join.py": ["tests/client/test_join.py", "tests/attacks/test_stolen_invite.py"],
    "ledger/invites.py": [
        "tests/client/test_join.py",
        "tests/attacks/test_stolen_invite.py",
        "tests/client/test_decided.py",
    ],
    "server/partial.py": ["tests/server/test_partial.py"],
    "server/nodes.py": ["tests/server/test_nodes.py"],
    "server/takeover.py": ["tests/server/test_takeover.py"],
    "client/follow.py": ["tests/server/test_takeover.py"],
    "shared_models/shelf.py": ["tests/ledger/test_shelf.py", "tests/ledger/test_artefacts.py"],
    "ledger/access.py": [
        "tests/ledger/test_artefacts.py",
        "tests/ledger/test_openings.py",
        "tests/attacks/test_model_theft.py",
    ],
    "ledger/openings.py": ["tests/ledger/test_openings.py"],
    "ledger/guard.py": ["tests/client/test_guard.py"],
    "client/confine.py": ["tests/attacks/test_confined.py"],
    "shared_models/relay.py": ["tests/client/test_relay.py"],
    "client/speed.py": ["tests/client/test_doctor.py"],
    "client/sharing.py": ["tests/client/test_sharing.py"],
    "ledger/limits.py": ["tests/ledger/test_limits.py", "tests/client/test_guard.py"],
    "ledger/ready.py": ["tests/ledger/test_ready.py"],
    "shared_models/release.py": ["tests/ledger/test_ready.py"],
    "ledger/curve.py": ["tests/ledger/test_pages.py", "tests/ledger/test_forms.py"],
    "ledger/metrics.py": ["tests/ledger/test_metrics.py"],
    "ledger/signers.py": ["tests/client/test_guard.py", "tests/ledger/test_artefacts.py"],
    "shared_models/rules/skim.py": ["tests/rules/test_skim.py", "tests/rules"],
    "shared_models/rules/pricing.py": ["tests/rules/test_pricing.py", "tests/rules"],
    "shared_models/rules/recipes.py": ["tests/rules/test_recipes.py"],
    "shared_models/rules/pace.py": ["tests/rules/test_pace.py"],
    "shared_models/rules/challenge.py": ["tests/rules/test_challenge.py"],
    "shared_models/rules/books.py": [
        "tests/rules/test_books.py",
        "tests/rules/test_challenge.py",
        "tests/rules/test_stopping.py",
        "tests/rules",
    ],
    "shared_models/rules/audit.py": [
        "tests/rules",
        "tests/attacks/test_forged_amount.py",
        "tests/attacks/test_operators_resign.py",
        "tests/attacks/test_replayed_receipt.py",
    ],
    "shared_models/rules/allocation.py": ["tests/rules/test_allocation.py", "tests/rules"],
    "shared_models/rules/netting.py": ["tests/rules/test_netting.py"],
    "shared_models/rules/games.py": ["tests/rules/test_games.py"],
    "shared_models/rules/quote.py": ["tests/rules/test_quote.py"],
    "shared_models/rules/worth.py": ["tests/rules/test_worth.py"],
    "shared_models/rules/served.py": ["tests/rules/test_served.py"],
    "shared_models/rules/quotes.py": ["tests/rules/test_quotes.py"],
    "shared_models/rules/accounts.py": [
        "tests/rules/test_accounts.py",
        "tests/rules/test_served.py",
        "tests/client/test_objections.py",
        "tests/client/test_bill.py",
        "tests/attacks/test_bent_quotes.py",
        "tests/attacks/test_sham_default.py",
    ],
    "shared_models/rules/currency.py": ["tests/rules/test_accounts.py", "tests/client/test_cost.py"],
    "shared_models/rules/tricks.py": ["tests/rules/test_tricks.py"],
    "shared_models/rules/settlement.py": ["tests/rules/test_settlement.py"],
    "client/allocate.py": ["tests/client/test_allocate.py", "tests/client/test_plan.py"],
    "client/plan.py": ["tests/client/test_plan.py"],
    "client/worth.py": ["tests/server/test_member_experts.py"],
    "client/routes.py": ["tests/server/test_member_experts.py"],
    "client/scaling.py": ["tests/client/test_plan.py"],
    "client/explain.py": ["tests/client/test_bill.py", "tests/client/test_expert_bill.py"],
    "client/export.py": ["tests/client/test_journals.py", "tests/client/test_bill.py"],
    "client/notebook.py": ["tests/client/test_notebook.py"],
    "client/focus.py": ["tests/client/test_focus.py"],
    "shared_models/messages.py": ["tests/server/test_admission.py"],
    "shared_models/folder.py": ["tests/client", "tests/server/test_rounds.py"],
    "shared_models/published.py": ["tests/client/test_auditor.py", "tests/ledger/test_log.py", "tests/test_cli.py"],
    "client/signer.py": [
        "tests/server/test_foreign_consent.py",
        "tests/training/test_optimisers.py",
        "tests/client/test_signer.py",
        "tests/client",
        "tests/server/test_tokenized.py",
    ],
    "client/energy.py": ["tests/client/test_energy.py"],
    "client/half.py": ["tests/training/test_training.py"],
    "client/train.py": ["tests/training/test_training.py", "tests/server/test_hardest.py"],
    "client/limits.py": ["tests/client/test_memory_limit.py"],
    "client/runs.py": ["tests/client/test_site_policy.py"],
    "client/policy.py": ["tests/client/test_site_policy.py", "tests/client/test_tariff.py"],
    "client/tariff.py": ["tests/client/test_tariff.py"],
    "client/door.py": ["tests/client/test_door.py", "tests/client"],
    "client/cost.py": ["tests/client/test_cost.py", "tests/client", "tests/test_cli.py"],
    "client/quotes.py": ["tests/client/test_quotes_kept.py"],
    "client/settle.py": ["tests/client/test_settle.py"],
    "client/charter.py": ["tests/client/test_charter.py"],
    "client/objections.py": ["tests/client/test_objections.py"],
    "client/keys.py": ["tests/client/test_key_changes.py", "tests/client/test_guard.py"],
    "client/witness.py": ["tests/client/test_witness.py", "tests/attacks/test_two_histories.py"],
    "client/witness_http.py": ["tests/client/test_witness.py"],
    "client/attest.py": ["tests/client/test_attest.py"],
    "client/auditor.py": [
        "tests/client/test_auditor.py",
        "tests/client/test_quotes_kept.py",
        "tests/server/test_unequal_steps.py",
    ],
    "shared_models/rules/fork.py": ["tests/client/test_witness.py", "tests/attacks/test_two_histories.py"],
    "shared_models/artefacts.py": ["tests/client/test_models.py"],
    "server/cli.py": ["tests/client/test_models.py", "tests/server/test_partial.py"],
    "server/admission.py": ["tests/server/test_admission.py"],
    "ledger/log.py": [
        "tests/ledger/test_log.py",
        "tests/ledger/test_projections.py",
        "tests/ledger/test_faulty_disk.py",
        "tests/ledger/test_api.py",
        "tests/ledger/test_artefacts.py",
        "tests/ledger/test_openings.py",
        "tests/ledger/test_pages.py",
        "tests/ledger/test_ready.py",
    ],
    "ledger/api.py": ["tests/ledger/test_api.py", "tests/ledger/test_limits.py", "tests/ledger/test_ready.py"],
    "ledger/pages.py": ["tests/ledger/test_pages.py", "tests/ledger/test_forms.py"],
    "ledger/views.py": ["tests/ledger/test_pages.py"],
    "ledger/decided.py": ["tests/client/test_decided.py"],
    "ledger/shown.py": ["tests/ledger/test_pages.py", "tests/ledger/test_forms.py"],
    "ledger/events.py": ["tests/ledger/test_events.py"],
    "shared_models/rules/what_if.py": [
        "tests/rules/test_what_if.py",
        "tests/rules/test_served.py",
        "tests/client/test_bill.py",
    ],
    "shared_models/rules/wording.py": ["tests/client/test_charter.py", "tests/client/test_decided.py"],
    "ledger/hot.py": ["tests/ledger/test_api.py", "tests/ledger/test_ready.py", "tests/client/test_openapi.py"],
    "ledger/sequencer.py": ["tests/ledger/test_sequencer.py"],
    "ledger/register.py": ["tests/ledger/test_log.py", "tests/ledger/test_sequencer.py"],
    "ledger/store.py": ["tests/ledger/test_log.py", "tests/ledger/test_sequencer.py"],
    "ledger/witnesses.py": ["tests/ledger/test_witnesses.py", "tests/client/test_witness.py"],
    "ledger/projections.py": ["tests/ledger/test_projections.py"],
    "ledger/billing.py": [
        "tests/test_cli.py",
        "tests/ledger/test_witnesses.py",
        "tests/client/test_quotes_kept.py",
        "tests/client/test_objections.py",
    ],
    "ledger/cli.py": ["tests/test_cli.py", "tests/client/test_objections.py"],
    "shared_models/claims.py": ["tests/client"],
    "shared_models/ledger_http.py": [
        "tests/client/test_guard.py",
        "tests/ledger/test_api.py",
        "tests/ledger/test_artefacts.py",
        "tests/ledger/test_kill.py",
    ],
    "shared_models/lm/weights.py": ["tests/training", "tests/client/test_huggingface.py"],
    "shared_models/lm/corpus.py": [
        "tests/server/test_simulation.py",
        "tests/client/test_gguf.py",
        "tests/server/test_tokenized.py",
    ],
    "shared_models/lm/tokenizer.py": ["tests/training/test_tokenizer.py", "tests/server/test_tokenized.py"],
    "shared_models/lm/codecs.py": ["tests/training/test_codecs.py"],
    "shared_models/lm/kept.py": ["tests/training/test_kept.py"],
    "shared_models/lm/own.py": ["tests/training/test_own.py"],
    "client/doctor.py": ["tests/client/test_doctor.py"],
    "client/begun.py": ["tests/client/test_reexecute.py"],
    "client/reexecute.py": [
        "tests/client/test_app.py",
        "tests/client/test_reexecute.py",
        "tests/server/test_synthetic.py",
        "tests/server/test_hardest.py",
        "tests/attacks/test_skipped_steps.py",
        "tests/attacks/test_altered_opening.py",
        "tests/attacks/test_training_made_up.py",
    ],
    "client/work.py": ["tests/client/test_work.py", "tests/server/test_synthetic.py"],
    "client/sample.py": ["tests/training/test_sample.py", "tests/server/test_synthetic.py"],
    "client/app.py": ["tests/client/test_app.py", "tests/server/test_adapted.py", "tests/client"],
    "client/training.py": [
        "tests/training/test_foreign.py",
        "tests/training/test_machine.py",
        "tests/training/test_optimisers.py",
        "tests/training/test_training.py",
    ],
    "client/team.py": ["tests/training/test_machine.py", "tests/training/test_optimisers.py"],
    "client/data.py": ["tests/training"],
    "client/memory.py": ["tests/client/test_memory.py", "tests/client/test_app.py"],
    "client/cli.py": [
        "tests/test_cli.py",
        "tests/client/test_bill.py",
        "tests/client/test_cost.py",
        "tests/client/test_site_policy.py",
        "tests/client/test_doctor.py",
    ],
    "server/rounds.py": [
        "tests/server/test_simulation.py",
        "tests/server/test_rounds.py",
        "tests/server/test_resume.py",
        "tests/server/test_late.py",
    ],
    "client/steps.py": [
        "tests/server/test_resume.py",
        "tests/server/test_updates.py",
        "tests/attacks/test_poisoned_update.py",
    ],
    "server/updates.py": ["tests/server/test_updates.py"],
    "server/app.py": ["tests/server/test_exchange.py", "tests/server/test_simulation.py"],
    "server/launch.py": [
        "tests/server/test_foreign_consent.py",
        "tests/client/test_huggingface.py",
        "tests/test_cli.py",
        "tests/server/test_rounds.py",
        "tests/server/test_simulation.py",
        "tests/server/test_adapted.py",
        "tests/server/test_distilled.py",
    ],
    "consortium/commands.py": [
        "tests/server/test_foreign_run.py",
        "tests/test_cli.py",
        "tests/server/test_adapted.py",
        "tests/client/test_gguf.py",
        "tests/server/test_member_experts.py",
        "tests/training/test_tokenizer.py",
    ],
}
CHECKS = ("check", "verif", "_follow", "_note_logged", "flock")  # A statement that calls one of these is a check.
# Mutants that change nothing anybody could see, each with its reason.
EQUIVALENT: dict[tuple[str, str], str] = {
    (
        "shared_models/records/merkle.py",
        'raise Refused(Refusal.BAD_PROOF, "the inclusion proof is too long")',
    ): "one hash more makes another root, so the comparison below refuses it too; RFC 9162 stops here",
    (
        "shared_models/records/merkle.py",
        "raise bad  # Too long.",
    ): "the same",
    (
        "client/auditor.py",
        "yield waiting.popleft().answer() (2)",
    ): "it bounds how far is read ahead, and so the memory; what is left waiting is yielded below, in the same order",
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One statement of one file, to be deleted."""

    path: str
    first: int
    last: int
    column: int
    text: str  # Beginning with the second of one text in a file, its number too.

    @property
    def name(self) -> str:
        """Its name wherever it stands in its file."""
        return f"{self.path}: {self.text}"

    def __str__(self) -> str:
        return f"{self.path}:{self.first}: {self.text}"


def mutants(path: str) -> Iterator[Mutant]:
    source = (ROOT / path).read_text()
    lines, seen = source.splitlines(), Counter[str]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and "Refus" in ast.unparse(node) + "Refused" * (node.exc is not None):
            found: ast.stmt = node
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Yield | ast.YieldFrom):
            found = node
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            name = ast.unparse(node.value.func).rpartition(".")[2]
            if not any(check in name for check in CHECKS):
                continue
            found = node
        else:
            continue
        assert found.end_lineno is not None
        text = "".join(line.strip() for line in lines[found.lineno - 1 : found.end_lineno])[:90]
        seen[text] += 1
        text += f" ({seen[text]})" if seen[text] > 1 else ""
        yield Mutant(path, found.lineno, found.end_lineno, found.col_offset, text)


class Noticed:
    """A plugin of pytest that writes down the first test that fails."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self._path.exists():
            self._path.write_text(report.nodeid)


def start(mutant: Mutant, copy: Path, first: str | None) -> int:
    """Run every test that guards this file, without the statement, this one first; the number of the process."""
    target, noticed = copy / mutant.path, copy / "noticed"
    for each in (noticed, copy / "said"):
        each.unlink(missing_ok=True)
    lines = target.read_text().splitlines()
    lines[mutant.first - 1 : mutant.last] = [" " * mutant.column + "pass"]
    if (pid := os.fork()) == 0:
        code = 99
        try:  # The interpreter is warm already: what takes seconds to import was imported once, and nothing of ours.
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for each in (1, 2):
                os.dup2(os.open(copy / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND), each)
            target.write_text("\n".join(lines) + "\n")
            os.chdir(copy)
            own = copy.with_name(f"{copy.name}-temporary")  # Two that clear away the same old folders would trip.
            own.mkdir(exist_ok=True)
            os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DEBUG_TEMPROOT": str(own)}
            sys.dont_write_bytecode = True
            sys.path.insert(0, str(copy))
            hypothesis.settings.register_profile("mutant", database=None, phases=PHASES)
            hypothesis.settings.load_profile("mutant")
            options = ["-x", "-q", "-p", "no:cacheprovider", "--timeout", "30", "-m", "not slow"]
            options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # Of hypothesis, which is warm.
            options += ["-p", "no:unraisableexception"]  # A test that fails leaves things open; it has failed already.
            but = "not quick"  # A test of how long something takes may fail on a busy machine, whatever was deleted.
            if mutant.path != "ledger/store.py":  # Starting a server for each mutant would take longer than the tests.
                but += " and not postgresql"
            options += ["-k", but]
            for tests in ([first] if first else [], GUARDED[mutant.path]):
                if tests and (code := pytest.main([*tests, *options], [Noticed(noticed)])) in (1, 2):
                    break
        finally:  # Nothing of the parent may run here, its clean-up least of all.
            os.write(2, traceback.format_exc().encode())
            os._exit(code)
    return pid


def main(words: list[str]) -> int:
    paths = [word for word in words if not word.startswith("--")]
    todo = [mutant for path in paths or GUARDED for mutant in mutants(path)]
    if "--part" in words:
        todo = todo[zlib.crc32(b"".join((ROOT / path).read_bytes() for path in GUARDED)) % PART :: PART]
    names = {mutant.name for path in GUARDED for mutant in mutants(path)}
    noticed_by: dict[str, str] = json.loads(NOTICED_BY.read_text()) if NOTICED_BY.is_file() else {}
    noticed_by = {name: test for name, test in noticed_by.items() if name in names}
    if "--new" in words:
        todo = [each for each in todo if each.name not in noticed_by and (each.path, each.text) not in EQUIVALENT]
    waiting, alive = list(reversed(todo)), list[Mutant]()
    running: dict[int, tuple[Mutant, Path, float]] = {}
    for name in WARM:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as scratch:
        free = [Path(scratch) / str(number) for number in range(WORKERS)]
        ignore = shutil.ignore_patterns(".venv", ".git", ".consortium-demo", "__pycache__", ".*_cache", ".hypothesis")
        shutil.copytree(ROOT, free[0], ignore=ignore)
        # Compiled once, for all that is not mutated: mutants write no bytecode.
        collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests"]
        subprocess.run(collect, cwd=free[0], check=True, stdout=subprocess.DEVNULL)
        for copy in free[1:]:
            shutil.copytree(free[0], copy)
        while waiting or running:
            while waiting and free:
                mutant, copy = waiting.pop(), free.pop()
                running[start(mutant, copy, noticed_by.get(mutant.name))] = mutant, copy, time.monotonic() + LIMIT_S
            for pid, (mutant, copy, until) in list(running.items()):
                if time.monotonic() > until:
                    os.kill(pid, signal.SIGKILL)
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    del running[pid]
                    shutil.copy2(ROOT / mutant.path, copy / mutant.path)
                    free.append(copy)
                    code = os.waitstatus_to_exitcode(status)
                    assert code in (0, 1, 2, -signal.SIGKILL), f"{mutant}: {code}\n{(copy / 'said').read_text()}"
                    alive += [mutant] if status == 0 else []
                    if (copy / "noticed").is_file():
                        noticed_by[mutant.name] = (copy / "noticed").read_text()
                    if "--learn" in words:
                        NOTICED_BY.write_text(json.dumps(noticed_by, indent=0, sort_keys=True) + "\n")
            time.sleep(0.01)
    unknown = [mutant for mutant in alive if (mutant.path, mutant.text) not in EQUIVALENT]
    for mutant in unknown:
        print(f"survived  {mutant}")
    print(f"{len(todo)} checks deleted one by one, {len(todo) - len(alive)} noticed, {len(unknown)} not")
    return 1 if unknown or not todo else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
