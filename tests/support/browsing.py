"""How a test opens a page, and waits for what the page does."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from PIL import Image

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


def figures_in(html: str) -> list[str]:
    """The names of the pictures beside a page that it asks for."""
    return re.findall(r'<img class="picture" src="([^":]+\.png)"', html)


def draw_figures(html: str, folder: Path) -> None:
    """Writes these pictures."""
    for name in figures_in(html):
        Image.new("RGB", (9, 5)).save(folder / unquote(name))
