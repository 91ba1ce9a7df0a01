"""Every check is missed by a test when it is deleted: an eighth of them each day, all by `make mutate`."""

import datetime
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_no_check_can_be_deleted_unnoticed():
    part = f"--part={datetime.datetime.now(datetime.UTC).toordinal() % 8}/8"
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutate", part],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        check=False,
    )
    assert done.returncode == 0, done.stdout
