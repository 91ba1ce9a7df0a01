"""Every check is missed by a test when it is deleted: one in 36 of them here, all by `make mutate`."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_no_check_can_be_deleted_unnoticed():
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutate", "--part"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        check=False,
    )
    assert done.returncode == 0, done.stdout
