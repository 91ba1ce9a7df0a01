"""Every check is missed by a test when it is deleted: a quarter of them each day. `make mutate` deletes them all."""

import datetime
import subprocess
import sys
from pathlib import Path

import pytest

PARTS = 4


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_no_check_can_be_deleted_unnoticed():
    part = datetime.datetime.now(datetime.UTC).date().toordinal() % PARTS
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutate", f"--part={part}/{PARTS}"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        check=False,
    )
    assert done.returncode == 0, done.stdout
