"""The API's document as the project keeps it, and as a ledger says it.

`python tests/openapi.py` writes docs/openapi.json anew; a difference in it is a change of the API, and is reviewed so.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from ledger_service import serving

from shared_models.ledger_http import LedgerHttp

KEPT = Path(__file__).parent.parent / "docs" / "openapi.json"


def said(ledger: LedgerHttp) -> dict[str, Any]:
    """What this ledger says of its API."""
    found: dict[str, Any] = json.loads(ledger.read("openapi.json"))
    return found


def spelled(document: dict[str, Any]) -> str:
    """The document as it is kept: a difference is a few lines."""
    return json.dumps(document, indent=1) + "\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as served:
        KEPT.write_text(spelled(said(served)))
