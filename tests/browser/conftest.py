"""Pages in a real, headless Chromium."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import pytest
from browsing import Opener, draw_figures, figures_in

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; where it or Playwright is missing, skipped, but never where CI is set.

    A module's, since Playwright runs an event loop in this thread, and tests of other modules that
    the same process runs later may need to run one.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        _lacking("Playwright is not installed: `make .venv/installed`")
    if CHROMIUM is None:
        _lacking("there is no chromium on the path: install your distribution's")
    with sync_playwright() as playwright:
        # The sandbox of Chromium needs rights that containers do not give.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def _lacking(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"CI is set, so the page must be tested, but {what}")
    pytest.skip(what)


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Opener]:
    """Opens HTML in a fresh context: `opened(html, width=360, color_scheme="dark")`.

    Afterwards no page may have reported anything on its console, or have asked for anything but
    itself and its figures, which lie beside it.
    """
    reports: list[str] = []
    with ExitStack() as stack:

        def open_page(html: str, url: str | None = None, **options: Any) -> Page:
            width, height = options.pop("width", 1200), options.pop("height", 900)
            if url is None:
                file = tmp_path / f"page-{len(reports)}-{id(html)}.html"
                file.write_text(html, encoding="utf-8")
                draw_figures(html, tmp_path)
                url = file.as_uri()
            figures = {urljoin(url, name) for name in figures_in(html)}
            context = browser.new_context(viewport={"width": width, "height": height}, **options)
            stack.callback(context.close)
            page = context.new_page()
            page.on("console", lambda message: reports.append(f"{message.type}: {message.text}"))
            page.on("pageerror", lambda error: reports.append(f"error: {error}"))
            page.on("dialog", lambda dialog: reports.append(f"dialog: {dialog.message}"))
            page.on(
                "request",
                lambda request: (
                    None
                    if request.url.startswith("data:")
                    or request.url.partition("#")[0] in {url, *figures}
                    else reports.append(f"request: {request.url}")
                ),
            )
            page.goto(url)
            return page

        yield open_page
    assert reports == []


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A static server on loopback: its address, and the folder that it serves."""
    folder = tmp_path / "site"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()
        thread.join()
