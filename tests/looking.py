"""A window of Chromium in a test, and whatever goes wrong in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def looking(chromium: Any, width: int, scheme: str, **more: Any) -> Iterator[tuple[Any, list[str]]]:
    """(a page of this width, whatever went wrong in it so far)."""
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, **more)
    page, wrong = context.new_page(), list[str]()
    page.set_default_timeout(120_000)  # For what hangs.
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    try:
        yield page, wrong
    finally:
        context.close()
