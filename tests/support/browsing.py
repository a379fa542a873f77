"""How a test opens a page, and waits for what the page does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

Opener = Callable[..., "Page"]
SECONDS = 30.0


def wait_for(happened: Callable[[], object]) -> None:
    """Waits for up to half a minute.

    Playwright's own waiting needs `eval`, which the page forbids.
    """
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)
