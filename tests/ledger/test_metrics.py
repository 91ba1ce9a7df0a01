"""What operators watch: the numbers are the log's, the rules fire when they should, every panel shows something."""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import pytest
from ledger_service import serving
from prometheus_client.parser import text_string_to_metric_families
from reading import served
from world import World

from shared_models.processes import free_port
from shared_models.records.kinds import Excluded
from shared_models.records.refusals import Refused

RULES, DASHBOARD = (Path(str(files("ledger").joinpath(name))) for name in ("alerts.yml", "grafana.json"))
TESTS = Path(__file__).with_name("alerts_test.yml")


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        if os.environ.get("CONSORTIUM_REQUIRE_PROMETHEUS"):
            raise RuntimeError("prometheus is not installed")
        pytest.skip("prometheus is not installed")
    return found


@contextmanager
def watching(world, folder) -> Iterator[str]:
    """The address of the metrics of a ledger that serves this world's log."""
    address = f"127.0.0.1:{free_port()}"
    with served(world, folder, metrics=address):
        yield address


@pytest.fixture
def world():
    """A run that was billed; and in the newest run, of birch and cedar, a round that waits for birch."""
    world = World()
    world.start()
    world.round()
    world.bill()
    world.say(world.coordinator, world.manifest("r4", members=("birch", "cedar"), quorum=1, loss_unats=5_545_177))
    for member in ("birch", "cedar"):
        world.say(f"{member}/compute", world.consent(member, "r4"))
    world.say(world.coordinator, world.opened("r4", invited=("birch", "cedar")))
    world.say("cedar/compute", world.receipt("cedar", "r4"))
    return world


@pytest.fixture
def watched(world, tmp_path):
    with watching(world, tmp_path) as address:
        yield address


def read(address: str) -> dict[str, dict[tuple[str, ...], float]]:
    """{name: {values of its labels, in order of their names: value}} of what is ours."""
    with urllib.request.urlopen(f"http://{address}/metrics") as reply:
        text = reply.read().decode()
    return {
        family.name: {tuple(value for _, value in sorted(each.labels.items())): each.value for each in family.samples}
        for family in text_string_to_metric_families(text)
        if family.name.startswith("consortium_")
    }


def test_the_numbers_are_those_of_the_log(world, watched):
    found, books = read(watched), world.books
    assert found["consortium_log_writable"] == {(): 1}
    assert found["consortium_log_entries"] == {(): len(world.leaves)}
    assert found["consortium_log_waiting_entries"] == found["consortium_log_cosigned_entries"] == {(): 0}
    assert found["consortium_unbilled_entries"] == {(): len(world.leaves) - books.statements[-1].end}
    present = books.agreement.present()
    assert found["consortium_members"] == {(): len(present)}
    assert found["consortium_witness_quorum"] == {(): books.charter.quorum}
    assert found["consortium_witnessed_entries"] == {(name,): 0 for name in present}
    assert (found["consortium_run_round"], found["consortium_run_rounds"]) == (
        {("r4",): 1},
        {("r4",): books.runs["r4"].manifest.rounds},
    )
    assert found["consortium_run_loss_nats"] == {("r4",): books.runs["r4"].manifest.loss_unats / 1e6}
    assert found["consortium_run_ended"] == {("r4",): 0}
    assert found["consortium_round_waited_for"] == {("birch", "r4"): 1, ("cedar", "r4"): 0}
    assert found["consortium_round_left_out"] == {("birch", "r4"): 0, ("cedar", "r4"): 0}
    assert found["consortium_round_deadline_timestamp_seconds"] == {("r4",): 1_060}


def test_who_was_left_out_of_the_last_round_is_named_until_the_next_one_ends(world, tmp_path):
    (cedar,) = world.books.runs["r4"].rounds[-1].receipts
    included, left = {"cedar": cedar}, (Excluded(member="birch", reason="late"),)
    world.say(world.coordinator, world.close(included, "r4", loss_unats=5_000_000, excluded=left))
    (tmp_path / "closed").mkdir()
    with watching(world, tmp_path / "closed") as address:
        found = read(address)
    assert found["consortium_round_left_out"] == {("birch", "r4"): 1, ("cedar", "r4"): 0}
    assert found["consortium_run_loss_nats"] == {("r4",): 5}
    assert set(found["consortium_round_waited_for"].values()) == {0}
    assert "consortium_round_deadline_timestamp_seconds" not in found
    world.say(world.coordinator, world.opened("r4", invited=("birch", "cedar")))
    (tmp_path / "opened").mkdir()
    with watching(world, tmp_path / "opened") as address:
        found = read(address)
    assert found["consortium_round_left_out"] == {("birch", "r4"): 1, ("cedar", "r4"): 0}
    assert found["consortium_round_waited_for"] == {("birch", "r4"): 1, ("cedar", "r4"): 1}


def test_an_empty_log_has_numbers_too_and_who_names_no_address_has_none(tmp_path):
    with serving(tmp_path) as ledger:
        assert ledger.size() == 0
    address = f"127.0.0.1:{free_port()}"
    with serving(tmp_path, metrics=address):
        assert read(address)["consortium_log_entries"] == {(): 0}


def test_an_address_that_is_none_and_one_that_is_taken_are_refused_by_name(tmp_path):
    for address in ("9100", "127.0.0.1:", "127.0.0.1:0", ":9100", "127.0.0.1:70000"):
        with pytest.raises(Refused, match="bad_field: metrics = "), serving(tmp_path, metrics=address):
            pass
    address = f"127.0.0.1:{free_port()}"
    other = tmp_path / "other"
    other.mkdir()
    with (
        serving(tmp_path, metrics=address),
        pytest.raises(Refused, match=f"locked: metrics at {address}"),
        serving(other, metrics=address),
    ):
        pass


def test_every_alert_is_tested_and_fires_when_it_should(promtool, tmp_path):
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    tests = TESTS.read_text().replace("../../ledger/alerts.yml", str(RULES))
    (tmp_path / "alerts_test.yml").write_text(tests)
    assert alerts == set(re.findall(r"alertname: (\w+)\n        exp_alerts:\n", tests))
    assert alerts == set(re.findall(r"alertname: (\w+), exp_alerts: \[\]", tests))
    for command in (["check", "rules", str(RULES)], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run([promtool, *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_and_panels_name_only_what_is_there(watched):
    there = read(watched).keys()
    for page in (RULES, DASHBOARD):
        assert set(re.findall(r"consortium_[a-z_]+", page.read_text())) <= there, page


@pytest.mark.slow
def test_a_real_prometheus_answers_every_query_of_the_dashboard_and_every_rule(promtool, watched, tmp_path):
    port = free_port()
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 500ms, evaluation_interval: 500ms}\n"
        f"rule_files: [{RULES}]\n"
        f"scrape_configs: [{{job_name: consortium-ledger, static_configs: [{{targets: ['{watched}']}}]}}]\n"
    )
    command = ["prometheus", f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}"]
    with (tmp_path / "prometheus.log").open("w") as output:
        process = subprocess.Popen(
            [*command, f"--storage.tsdb.path={tmp_path / 'tsdb'}"], stdout=output, stderr=subprocess.STDOUT
        )

    def ask(path: str, **query: str):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(query)}") as reply:
            return json.load(reply)["data"]

    def shown(expr: str) -> bool:
        return bool(ask("query", query=expr)["result"])

    try:
        wanted = [each["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for each in panel["targets"]]
        assert len(wanted) > 10
        until, missing = time.monotonic() + 60, wanted
        while missing:
            assert time.monotonic() < until, missing
            time.sleep(0.5)
            try:
                missing = [expr for expr in missing if not shown(expr)]
            except OSError:
                continue  # It has not started yet.
        (group,) = ask("rules")["groups"]
        assert {rule["health"] for rule in group["rules"]} == {"ok"}
        assert {rule["name"] for rule in group["rules"] if rule["state"] == "firing"} <= {"RoundOverdue"}
    finally:
        process.terminate()
        process.wait(60)
