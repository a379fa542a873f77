"""One file over http(s): resumed where the server can, ended where it is silent, no secret told."""

import base64
import contextlib
import fcntl
import http.client
import os
import string
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from barlow_atlas.atomic import writing
from barlow_atlas.data.errors import DataError

TIMEOUT_S = 45.0
"""How long a server may be silent, before it answers and within its answer."""
TRIES = 3
"""How often a download that broke off is gone on with, while it gets further."""
REPORT_EVERY_S = 10.0
_BLOCK = 1 << 18
_PAGE = (b"<!doctype", b"<html")


def taken_apart(url: str) -> SplitResult:
    """The parts of a URL; raises DataError, which repeats nothing of it, if it has none."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # looked at here, as nothing else does before a request
    except ValueError:
        raise DataError(
            "this is no URL: a bracket is open, or its port is no number. In user and password "
            "write / ? # @ : as %2F %3F %23 %40 %3A"
        ) from None
    return parts


def below(url: str, name: str) -> str:
    """The URL of a file in the folder that `url` is of; what a query says goes for both."""
    parts = taken_apart(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def public(url: str) -> str:
    """A URL without what may be secret in it: user, password, query."""
    try:
        parts = taken_apart(url)
    except DataError:
        return f"{url.partition('://')[0]}://..."
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def fetch(url: str, path: Path, report: Callable[[str], None]) -> None:
    """Fetches `url` into `path`; proxies are those of the environment.

    What is there of an earlier call is gone on with if the server can; whether all of it is the
    right content, only a checksum tells. What cannot be gone on with is removed.

    Raises:
        DataError: the server does not answer, breaks off or hands out something else.
        WriteError: the disk does not take it.
    """
    with writing(path), path.open("ab") as file, _alone(file, path):
        for tries_left in reversed(range(TRIES)):
            before = _size(file)
            try:
                _go_on(url, file, report)
                return
            except _BrokenOff as error:
                if not error.resumable:
                    path.unlink(missing_ok=True)
                if not (error.resumable and tries_left and _size(file) > before):
                    raise
                report(f"{error}; going on from there")


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


class _BrokenOff(DataError):
    def __init__(self, told: str, resumable: bool) -> None:
        super().__init__(told)
        self.resumable = resumable


@contextlib.contextmanager
def _alone(file: IO[bytes], path: Path) -> Iterator[None]:
    """Keeps a second process from writing to the same file, where the file system can."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataError(f"another process is writing {path}: wait for it") from error
    except OSError:
        pass  # a file system without locks
    yield


def _go_on(url: str, file: IO[bytes], report: Callable[[str], None]) -> None:
    """Fetches what `file` does not hold yet, or all of it anew."""
    name, start = Path(urlsplit(url).path).name, _size(file)
    resumable = start > 0  # of another call, which kept it for that
    try:
        with urllib.request.urlopen(_request(url, start), timeout=TIMEOUT_S) as answer:
            if answer.headers.get_content_type() == "text/html" or _is_page(answer):
                raise _BrokenOff(f"{name}: a web page comes instead; must one sign in?", resumable)
            resumable = answer.headers.get("Accept-Ranges") == "bytes" or answer.status == 206
            if answer.status != 206 and start:
                start = 0
                with writing(Path(name)):
                    file.truncate(0)
            _copy(answer, file, name, start, report)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # what is there is as long as the file, or longer: the checksum tells
            # What follows the first line, or names another URL, is not for everybody.
            circle = "it is sent on in a circle, or to what is no http(s) URL"
            told = circle if 300 <= error.code < 400 else str(error).partition("\n")[0]
            raise _BrokenOff(f"{name}: {told}", resumable) from error
    except (OSError, ValueError, http.client.HTTPException, zlib.error) as error:
        reason = getattr(error, "reason", error)
        silent = f"no answer for {TIMEOUT_S:g} s"
        what = silent if isinstance(reason, TimeoutError) else str(error) or type(error).__name__
        raise _BrokenOff(f"{name}: {what}, after {_size(file):,} bytes", resumable) from error


def _is_page(answer: http.client.HTTPResponse) -> bool:
    """Whether what comes begins as a web page does, whatever its headers say."""
    return answer.peek(len(_PAGE[0])).lstrip().lower().startswith(_PAGE)


def _request(url: str, start: int) -> urllib.request.Request:
    parts = taken_apart(url)
    user, at, host = parts.netloc.rpartition("@")
    path, query = (quote(part, safe=string.punctuation) for part in (parts.path, parts.query))
    clean = parts._replace(netloc=host, path=path, query=query)
    request = urllib.request.Request(urlunsplit(clean))
    request.add_header("User-Agent", "barlow-atlas")
    request.add_header("Accept-Encoding", "identity")
    if start:
        request.add_header("Range", f"bytes={start}-")
    if at:
        secret = base64.b64encode(unquote(user).encode()).decode()
        # Not sent to where a redirection leads.
        request.add_unredirected_header("Authorization", f"Basic {secret}")
    return request


def _copy(
    answer: http.client.HTTPResponse,
    file: IO[bytes],
    name: str,
    start: int,
    report: Callable[[str], None],
) -> None:
    told, length = time.monotonic(), answer.headers.get("Content-Length")
    began, whole = told, start + int(length) if length else None
    packed = answer.headers.get("Content-Encoding") == "gzip"
    unpack = zlib.decompressobj(31).decompress if packed else bytes
    received = start
    while block := answer.read1(_BLOCK):
        received += len(block)
        with writing(Path(name)):
            file.write(unpack(block))
            file.flush()
        now = time.monotonic()
        if now - told > REPORT_EVERY_S:
            told = now
            report(f"{name}: {progress(received, start, whole, now - began)}")
    if whole is not None and received < whole:
        raise http.client.HTTPException(f"the server broke off at {received:,} of {whole:,} bytes")


def progress(received: int, start: int, whole: int | None, seconds: float) -> str:
    """Such as `120 of 170 MB, 5.1 MB/s, 10 s left`; `start` bytes were there before."""
    speed = (received - start) / seconds
    told = f"{received / 1e6:.0f}{f' of {whole / 1e6:.0f}' if whole else ''} MB"
    left = f", {(whole - received) / speed:.0f} s left" if whole and speed else ""
    return f"{told}, {speed / 1e6:.1f} MB/s{left}"
