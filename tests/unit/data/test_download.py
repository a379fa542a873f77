"""Servers that are silent, break off, ask for a password or send elsewhere."""

import base64
import gzip
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest
from small_data import small_cifar, tree, with_facts_of

from barlow_atlas.atomic import WriteError
from barlow_atlas.data import download
from barlow_atlas.data.download import fetch, progress, public
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.sources import locate, parse_mirrors

CONTENT = bytes(range(256)) * 4000
SECRET = "s3cret"


class Server(BaseHTTPRequestHandler):
    """`/<fault>/...` hands out `CONTENT`, or not."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[tuple[str, str | None, str | None]]] = []
    ended: ClassVar[threading.Event] = threading.Event()
    content: ClassVar[bytes] = CONTENT

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        fault = urlsplit(self.path).path.split("/")[1]
        given, key = self.headers.get("Range"), self.headers.get("Authorization")
        Server.asked.append((self.path, given, key))
        start = int(given.removeprefix("bytes=").removesuffix("-")) if given else 0
        if fault == "noanswer":
            Server.ended.wait(20)
            return
        if fault in ("redirect", "loop", "away", "503", "404"):
            to = {"redirect": "/plain/x", "loop": self.path, "away": f"s3://b/x?key={SECRET}"}
            self.send_response(302 if fault in to else int(fault))
            if fault in to:
                self.send_header("Location", to[fault])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body, resumes = Server.content[start:], fault in ("drop", "resume", "stall-resume")
        if fault.startswith("login"):
            body = b"<html>please sign in</html>"
        if fault == "gzip":
            body = gzip.compress(body)
        if not resumes:
            body = Server.content if fault[:5] not in ("login", "gzip") else body
        self.send_response(206 if given and resumes else 200)
        self.send_header("Content-Type", "text/html" if fault == "login" else "application/x-tar")
        if resumes:
            self.send_header("Accept-Ranges", "bytes")
        if fault == "gzip":
            self.send_header("Content-Encoding", "gzip")
        if fault == "nolength":
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        broken = fault in ("break", "stall", "stall-resume", "nolength") or (
            fault == "drop" and not given
        )
        self.wfile.write(body[: len(body) // 2] if broken else body)
        self.wfile.flush()
        if fault.startswith("stall"):
            Server.ended.wait(20)
        if broken:
            self.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(Server, "asked", [])
    monkeypatch.setattr(Server, "ended", threading.Event())
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    Server.ended.set()
    running.shutdown()
    running.server_close()


def silent(_: str) -> None:
    pass


@pytest.mark.parametrize("fault", ["plain", "redirect", "gzip", "drop", "resume"])
def test_what_can_be_had_is_had(server: str, tmp_path: Path, fault: str) -> None:
    fetch(f"{server}/{fault}/x", tmp_path / "x", silent)
    assert (tmp_path / "x").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("noanswer", "no answer for 0.5 s, after 0 bytes"),
        ("stall", f"no answer for 0.5 s, after {len(CONTENT) // 2:,} bytes"),
        ("break", f"broke off at {len(CONTENT) // 2:,} of {len(CONTENT):,} bytes"),
        ("503", "HTTP Error 503"),
        ("404", "HTTP Error 404"),
        ("loop", "it is sent on in a circle, or to what is no http"),
        ("away", "it is sent on in a circle, or to what is no http"),
        ("login", "a web page comes instead; must one sign in?"),
        ("login-untyped", "a web page comes instead; must one sign in?"),
    ],
)
def test_what_cannot_is_said_in_time_and_leaves_nothing(
    server: str, tmp_path: Path, fault: str, told: str
) -> None:
    started = time.monotonic()
    with pytest.raises(DataError, match=f"^x: .*{told}") as caught:
        fetch(f"{server}/{fault}/x", tmp_path / "x", silent)
    assert time.monotonic() - started < 10
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_ended_download_is_gone_on_with(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no answer"):
        fetch(f"{server}/stall-resume/x", tmp_path / "x", silent)
    there = (tmp_path / "x").stat().st_size
    assert 0 < there < len(CONTENT)
    # A place that does not have it takes nothing away.
    for fault in ("noanswer", "404", "login"):
        with pytest.raises(DataError):
            fetch(f"{server}/{fault}/x", tmp_path / "x", silent)
    assert (tmp_path / "x").stat().st_size == there
    fetch(f"{server}/resume/x", tmp_path / "x", silent)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert Server.asked[-1][1] == f"bytes={there}-"


def test_a_server_that_cannot_go_on_starts_anew(server: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"something else")
    fetch(f"{server}/plain/x", tmp_path / "x", silent)
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_two_do_not_write_one_file(server: str, tmp_path: Path) -> None:
    with (
        (tmp_path / "x").open("ab") as file,
        download._alone(file, tmp_path / "x"),
        pytest.raises(DataError, match="another process is writing"),
    ):
        fetch(f"{server}/plain/x", tmp_path / "x", silent)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_ends_it_with_one_line(server: str) -> None:
    with pytest.raises(WriteError, match=r"^cannot write x: No space left on device.*make room"):
        fetch(f"{server}/plain/x", Path("/dev/full"), silent)


def test_a_proxy_of_the_environment_is_asked(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # A process reads its environment once.
    monkeypatch.setattr(urllib.request, "_opener", None)
    fetch("http://nowhere.invalid/plain/x", tmp_path / "x", silent)
    assert Server.asked[0][0] == "http://nowhere.invalid/plain/x"


def test_progress_has_speed_and_time_left(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert progress(120_000_000, 20_000_000, 170_000_000, 20.0) == (
        "120 of 170 MB, 5.0 MB/s, 10 s left"
    )
    assert progress(5_000_000, 0, None, 1.0) == "5 MB, 5.0 MB/s"
    monkeypatch.setattr(download, "REPORT_EVERY_S", 0.0)
    said: list[str] = []
    fetch(f"{server}/plain/x", tmp_path / "x", said.append)
    assert all(line.startswith("x: ") and " MB/s" in line for line in said)
    assert said


# Passwords, and places that are no place


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("https://alice:s3cret@host:8443/sets", ("https://alice:s3cret@host:8443/sets",)),
        ("/data:https://a:b@h:1/x:../y", ("/data", "https://a:b@h:1/x", "../y")),
        ("http://h1:https://u:p@h2/z", ("http://h1", "https://u:p@h2/z")),
        ("s3://bucket/sets:/data", ("s3://bucket/sets", "/data")),
        ("http://[::1]:80/a:http://u:p@[::1]/b", ("http://[::1]:80/a", "http://u:p@[::1]/b")),
        ("https://u:p%40%2F@host", ("https://u:p%40%2F@host",)),
        ("ftp://host/a:~/b", ("ftp://host/a", "~/b")),
        ("HTTPS://host:8443/a:/b", ("HTTPS://host:8443/a", "/b")),
    ],
)
def test_places_are_taken_apart_as_they_are_meant(text: str, places: tuple[str, ...]) -> None:
    assert parse_mirrors(text) == places


def test_a_password_is_sent_to_its_server_only_and_never_told(
    server: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    facts, folder = small_cifar(tmp_path / "own")
    archive = tmp_path / "own/small.tar.gz"
    facts = with_facts_of(facts, folder, archive)
    said: list[str] = []
    host = server.removeprefix("http://")
    for fault in ("503", "404", "noanswer", "redirect", "away", "login", "stall"):
        place = f"http://alice:{SECRET}@{host}/{fault}?token={SECRET}"
        with pytest.raises(DataError) as caught:
            locate(facts, tmp_path / "raw", [place], said.append)
        said.append(str(caught.value))
    out = capfd.readouterr()
    assert SECRET not in "\n".join([*said, out.out, out.err])
    assert any(f"{server}/503: " in line for line in said)
    key = f"Basic {base64.b64encode(f'alice:{SECRET}'.encode()).decode()}"
    keys = {path: sent for path, _, sent in Server.asked}
    assert keys.pop("/plain/x") is None
    assert set(keys.values()) == {key}


@pytest.mark.parametrize(
    "url",
    [
        f"http://alice:{SECRET}#@host:80/sets",
        f"http://alice:{SECRET}?@host/sets",
        f"https://host:{SECRET}/sets",
        f"http://alice:{SECRET}@[::1/sets",
        f"file://alice:{SECRET}@[::1/sets",
    ],
)
def test_what_is_no_url_is_said_without_its_secret(tmp_path: Path, url: str) -> None:
    facts, _ = small_cifar(tmp_path / "own")
    said: list[str] = []
    with pytest.raises(DataError) as caught:
        locate(facts, tmp_path / "raw", [url], said.append)
    scheme = url.partition("://")[0]
    assert str(caught.value).count(f"{scheme}://...: this is no URL") == 1
    assert SECRET not in "\n".join([*said, str(caught.value)])


def test_a_mirror_may_have_a_signature_and_spaces(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, folder = small_cifar(tmp_path / "own")
    archive = tmp_path / "own/small.tar.gz"
    facts = with_facts_of(facts, folder, archive)
    monkeypatch.setattr(Server, "content", archive.read_bytes())
    mirror = f"{server}/plain/data sets%20/?sig=a%2Fb&key={SECRET}"
    locate(facts, tmp_path / "raw", [mirror], silent)
    (asked,) = (path for path, *_ in Server.asked)
    assert asked == f"/plain/data%20sets%20/small.tar.gz?sig=a%2Fb&key={SECRET}"


@pytest.mark.parametrize("scheme", ["s3", "gs", "ftp"])
def test_other_schemes_are_said_to_be_unsupported(tmp_path: Path, scheme: str) -> None:
    facts, _ = small_cifar(tmp_path / "own")
    with pytest.raises(DataError) as caught:
        locate(facts, tmp_path / "raw", [f"{scheme}://me:{SECRET}@bucket/sets"], silent)
    assert f"{scheme}://bucket/sets: the scheme {scheme} is not supported; http, https, file" in (
        str(caught.value)
    )
    assert SECRET not in str(caught.value)


def test_a_silent_mirror_gives_way_to_the_next_place(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, folder = small_cifar(tmp_path / "own")
    archive = tmp_path / "own/small.tar.gz"
    facts = with_facts_of(facts, folder, archive)
    monkeypatch.setattr(Server, "content", archive.read_bytes())
    raw, said = tmp_path / "raw", list[str]()
    raw.mkdir()
    (raw / ".download-abc").mkdir()
    mirrors = [f"{server}/{fault}" for fault in ("noanswer", "stall-resume", "login", "resume")]
    assert locate(facts, raw, mirrors, said.append) == raw / "small.tar.gz"
    assert (raw / "small.tar.gz").read_bytes() == Server.content
    assert "no answer for 0.5 s" in "\n".join(said)
    assert f"{raw / '.download-abc'} remains of a download that was ended" in said[0]
    # What the second left was gone on with by the last.
    started = int((Server.asked[-1][1] or "").removeprefix("bytes=").removesuffix("-"))
    assert started > len(Server.content) // 2
    assert list(tree(raw)) == ["small.tar.gz"]


def test_public_urls() -> None:
    assert public(f"https://alice:{SECRET}@host:8443/sets?key={SECRET}") == "https://host:8443/sets"
