"""Schemathesis asks a served ledger, by its own description, what no person would ask, and compares every answer.

Nothing but what the description says comes back: no fault of ours, no status, code, type or field that is not in it; an
address tells by which methods it is asked; what the description forbids is not taken.
"""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from ledger_service import serving
from openapi import KEPT
from world import key, whole

from shared_models.records import tlog

# Names that are there, so that not every question ends at one that is not.
CONFIG = """
[[operations]]
include-name = "GET /tile/{{path}}"
parameters = {{ path = "{tile}" }}
[[operations]]
include-name = "GET /v1/authors/{{author}}"
parameters = {{ author = "acme/compute" }}
[[operations]]
include-name = "GET /v1/access/{{member}}/{{artefact}}"
parameters = {{ member = "acme", artefact = "{artefact}" }}
"""
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "negative_data_rejection", "missing_required_header", "ignored_auth"),
)
# A ledger for members only tells nobody else which methods there are. What it leaves out: that whatever fits the
# description is taken. No description of bytes says that they are signed.
OPEN = (*CHECKS, "unsupported_method", "allow_header_conformance")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("members_only", "examples", "checks"), [(False, 20, OPEN), (True, 5, CHECKS)], ids=["open", "members only"]
)
def test_what_is_answered_is_what_the_description_says(tmp_path, members_only, examples, checks):
    world = whole()
    with serving(tmp_path, members_only=members_only) as ledger:
        for leaf in world.leaves:
            ledger.append(leaf)
        size, config = len(world.leaves), tmp_path / "schemathesis.toml"
        artefact = next(iter(world.books.library.artefacts))
        config.write_text(CONFIG.format(tile=tlog.tile_path("entries", 0, size), artefact=artefact))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", str(KEPT)),
                *("--url", ledger.url, "--checks", ",".join(checks), "--exclude-path", "/events", "--no-color"),
                *("--max-examples", str(examples), "--generation-deterministic", "--continue-on-failure"),
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONWARNINGS": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[:8_000] + done.stderr[-2_000:]
        assert replace(ledger, key=key("acme/compute")).size() == size
