"""The page of a study that runs, in a real browser: it grows by itself."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browsing import wait_for

from barlow_atlas.atlas.records import job_files, recorded
from barlow_atlas.study.file import load_study
from barlow_atlas.study.paths import probe_file
from barlow_atlas.tools.watch import Live, listen
from barlow_atlas.tools.watch.server import url

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PARAMS = Path.cwd() / "params"


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """A tab whose console must stay silent."""
    complaints: list[str] = []
    with browser.new_context(viewport={"width": 1100, "height": 900}) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text))
        yield page
    assert complaints == []


def test_jobs_and_curves_grow_without_loading_the_page_anew(
    tab: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(PARAMS / "demo.yaml")
    probed = {
        file.path: file.content
        for run in study.runs()
        for file in job_files("demo", run, recorded("demo", run))
        if "probes" in file.path.parts
    }
    monkeypatch.chdir(tmp_path)
    shutil.copytree(PARAMS, "params")
    # All of mix, and the end of bt.
    later = [
        probe_file("demo", run, epoch)
        for run in study.runs()
        for epoch in study.milestones_of(run)
        if run.method == "mix" or epoch == 100
    ]
    for file, content in probed.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        if file not in later:
            file.write_bytes(content)
    with listen(Live("demo", study, lambda _: None), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            tab.goto(url(server))
            wait_for(lambda: "jobs done" in strip(tab))
            before = strip(tab), points(tab)
            assert methods(tab) == {"bt"}
            tab.evaluate("window.loadedOnce = true")
            for file in later:
                file.write_bytes(probed[file])
            wait_for(lambda: points(tab) == before[1] + 1)
            wait_for(lambda: methods(tab) == {"bt", "mix"})
            wait_for(lambda: strip(tab) != before[0])
            assert tab.evaluate("window.loadedOnce")
            assert done(strip(tab)) > done(before[0])
        finally:
            server.shutdown()
            thread.join()


def strip(tab: Page) -> str:
    return str(tab.inner_text("#live-text"))


def methods(tab: Page) -> set[str]:
    """Those that the curve's controls offer."""
    controls = tab.inner_text("#controls").split()
    return {"bt", "mix"} & set(controls)


def points(tab: Page) -> int:
    """Milestones on the first curve that is drawn."""
    path: str = tab.evaluate("document.querySelector('#plot path.mean').getAttribute('d')")
    return 1 + path.count("L")


def done(strip: str) -> int:
    """The first number of such as `71 of 77 jobs done`."""
    return int(strip.split()[0])
