"""The server of `watch`: read-only, and blind to everything but a study's page and reports/."""

import ipaddress
import json
import re
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any
from urllib.parse import unquote_to_bytes

from barlow_atlas.errors import AtlasError
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import REPORTS
from barlow_atlas.tools.watch.live import Live

SECONDS_OF_SILENCE = 30.0
"""How long whoever has connected may take to ask."""
LOCAL_NAMES = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
JSON = "application/json; charset=utf-8"
HTML = "text/html; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
TYPES = {
    ".csv": "text/csv; charset=utf-8",
    ".html": HTML,
    ".json": JSON,
    ".md": TEXT,
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".tex": TEXT,
}
FRAMED_NOWHERE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_POLICY = f"default-src 'unsafe-inline' data:; connect-src 'self'; {FRAMED_NOWHERE}"
"""Pages carry a stricter one themselves, with the hashes of their script and style."""
FILE_POLICY = f"default-src 'none'; style-src 'unsafe-inline'; {FRAMED_NOWHERE}"


class WatchError(AtlasError):
    """A study cannot be watched; the message says what to do."""


def serve(name: str, study: Study, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serves a study's page until Ctrl-C.

    Args:
        name: of the study, whose files lie below the working directory.
        host: the address to listen on; on others than loopback everybody may read.
        port: 0 for any that is free.
        say: told where the page is, and that the server has ended.

    Raises:
        WatchError: see `listen`.
    """
    live = Live(name, study)
    with listen(live, host, port) as server:
        now = live.status()
        done = "finished" if now["finished"] else f"{now['done']} of {now['total']} jobs done"
        say(f"{name} ({done}) is shown at {url(server)} until Ctrl-C")
        if not server.is_private:
            say(f"warning: whoever reaches {host} can read it, and all of {REPORTS}/")
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    say("No longer shown; jobs that run are left alone.")


def listen(live: Live, host: str, port: int) -> "Server":
    """A server that holds its port, and answers once its `serve_forever` is called.

    Raises:
        WatchError: if it cannot listen at that address, such as on a port that is taken.
    """
    try:
        return Server(live, host, port)
    except (OSError, OverflowError) as error:
        raise WatchError(
            f"cannot listen on {host}, port {port}: {error}. Give another port by --port (0: any "
            "that is free), or another address by --host"
        ) from error


def url(server: "Server") -> str:
    """Where a browser finds the page."""
    host, port = str(server.server_address[0]), server.server_address[1]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def report_file(path: str) -> Path | None:
    """The file below reports/ that a URL names; None if there is none, or none to be shown.

    Hidden files are not, nor what a link leads to outside of reports/.

    Args:
        path: as it was sent: with its leading slash, and percent signs for other signs.
    """
    try:
        parts = unquote_to_bytes(path).decode().removeprefix("/").split("/")
    except UnicodeError:
        return None
    if any(not part or part.startswith(".") or {"\\", "\0"} & set(part) for part in parts):
        return None
    root = REPORTS.resolve()
    try:
        file = root.joinpath(*parts).resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    return file if file.is_relative_to(root) and file.is_file() else None


class Server(ThreadingHTTPServer):
    """A study and the address at which it is shown."""

    daemon_threads = True
    # Where it is on by default, a second server would share a port that is taken.
    allow_reuse_port = False

    def __init__(self, live: Live, host: str, port: int) -> None:
        self.live = live
        self.is_private = is_loopback(host)
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), Handler)

    def server_bind(self) -> None:
        """Without HTTPServer's look-up of this machine's name, which may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of readers that went away."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request, one answer: HTTP/1.0, so that nothing of a request can be taken for another."""

    server: Server
    server_version = "barlow-atlas"
    sys_version = ""
    timeout = SECONDS_OF_SILENCE

    def do_GET(self) -> None:
        """All that can be asked for. What is not named here does not exist."""
        hosts = self.headers.get_all("Host") or []
        if self.server.is_private and not (len(hosts) == 1 and LOCAL_NAMES.fullmatch(hosts[0])):
            # A foreign web page may have had its own name resolved to this machine.
            self.send_error(HTTPStatus.FORBIDDEN, explain="This is shown at a local address only.")
            return
        live = self.server.live
        home = f"/{live.name}/"
        path = self.path.partition("?")[0]
        # JSON beside the page, where the page asks for it, and at the root, where people do.
        asked = path.removeprefix(home) if path.startswith(home) else path.removeprefix("/")
        try:
            if path == "/":
                self._send(HTTPStatus.FOUND, b"", TEXT, Location=home)
            elif path == home:
                self._send(HTTPStatus.OK, live.page(), HTML)
            elif asked == "status.json":
                self._send(HTTPStatus.OK, json.dumps(live.status()).encode(), JSON)
            elif asked == "data.json":
                self._send(HTTPStatus.OK, live.data(), JSON)
            else:
                self._send_report(path)
        except AtlasError as error:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain=str(error))

    do_HEAD = do_GET

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """A line of text; a method that there is not is refused as not allowed."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            refused = HTTPStatus.METHOD_NOT_ALLOWED
            self._send(refused, b"This can only be read: GET or HEAD.\n", TEXT, Allow="GET, HEAD")
            return
        status = HTTPStatus(code)
        self._send(status, f"{explain or status.phrase}\n".encode(), TEXT)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a page that asks every other second would fill the terminal."""

    def _send_report(self, path: str) -> None:
        file = report_file(path) if path.startswith("/") else None
        try:
            content = file.open("rb") if file else None
        except OSError:
            content = None
        if file is None or content is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with content:
            kind = TYPES.get(file.suffix, "application/octet-stream")
            self._head(HTTPStatus.OK, file.stat().st_size, kind)
            if self.command != "HEAD":
                shutil.copyfileobj(content, self.wfile)

    def _send(self, status: HTTPStatus, body: bytes, kind: str, **headers: str) -> None:
        self._head(status, len(body), kind, **headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: HTTPStatus, length: int, kind: str, **headers: str) -> None:
        self.send_response(status)
        told = {
            **headers,
            "Content-Type": kind,
            "Content-Length": str(length),
            "Content-Security-Policy": PAGE_POLICY if kind == HTML else FILE_POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        for name, value in told.items():
            self.send_header(name, value)
        self.end_headers()
