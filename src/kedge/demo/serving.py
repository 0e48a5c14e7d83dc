"""The page's server: it answers this machine alone unless told otherwise, fetches nothing and writes no file."""

import json
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from kedge.data import DataError
from kedge.demo.answering import Answering, Gone

PORT = 7860
LARGEST = 30 << 20  # bytes of a photo
WAITING = 8  # photos that are held while others are answered; more are turned away
SLOW = 30  # seconds for a photo to arrive, or without a request, after which a connection is closed
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors {framed}"
)


def _is_local(host: str | None) -> bool:
    """Whether this machine alone is called so."""
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


class Server(ThreadingHTTPServer):
    """Serves the page of one model; `serve_forever`, `shutdown` and `server_close` are those of `http.server`.

    On an address of this machine alone it answers only requests that name this machine, so that no page of the web can
    reach it under a name of its own.

    Args:
        answering: what answers.
        host: the address to listen at; "0.0.0.0" for all of this machine's.
        port: 0 for any that is free.
        framed: the sites that may show the page within theirs, as Content-Security-Policy writes them.

    Raises:
        ValueError: the port is taken or may not be used, or there is no such address here.
    """

    daemon_threads = True

    def __init__(self, answering: Answering, host: str = "127.0.0.1", port: int = PORT, framed: str = "'none'") -> None:
        self.answering = answering
        self.policy = POLICY.format(framed=framed)
        self.local = _is_local(host)
        if ":" in host:
            self.address_family = socket.AF_INET6
        self.places = threading.BoundedSemaphore(WAITING)
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"cannot listen at {host}:{port} ({reason}): name another --port, or 0 for any") from None

    @property
    def address(self) -> str:
        """Where the page is."""
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, unless a browser only went away."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            print(f"kedge demo: {type(error).__name__}: {error}", file=sys.stderr)


class Handler(BaseHTTPRequestHandler):
    """One connection of a browser."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "kedge", ""
    timeout = SLOW

    def log_message(self, format: str, *args: Any) -> None:
        """Keep no record of who asked what."""

    def do_GET(self) -> None:
        """The page, its parts, and what it says of the model."""
        path = self.path.partition("?")[0]
        if self._refused():
            return
        if path == "/about":
            self._json(200, {**self.server.answering.about(), "largest": LARGEST})
        elif path in PAGE:
            name, kind = PAGE[path]
            self._send(200, files("kedge.demo").joinpath("page", name).read_bytes(), kind)
        else:
            self._json(404, {"error": "there is no such page"})

    def do_POST(self) -> None:
        """A photo: its answer, or the map of it."""
        self.close_connection = True  # until its body is read whole
        ways: Mapping[str, Callable[[bytes], dict[str, Any]]] = {
            "/answer": self.server.answering.answer,
            "/map": lambda photo: self.server.answering.saliency(photo, self._gone),
        }
        if self._refused():
            return
        if self.path not in ways:
            self._json(404, {"error": "there is no such page"})
        elif self.headers.get("Content-Type") != "application/octet-stream":
            self._json(415, {"error": "send the photo itself, as application/octet-stream"})
        elif not (size := self.headers.get("Content-Length", "")).isascii() or not size.isdigit():
            self._json(411, {"error": "say how long the photo is, in Content-Length"})
        elif int(size) > LARGEST:
            self._json(
                413, {"error": f"the photo has {int(size) / 2**20:.0f} MB, and at most {LARGEST >> 20} are read"}
            )
        elif not self.server.places.acquire(blocking=False):
            self._json(503, {"error": f"{WAITING} photos are waiting already: try again in a moment"})
        else:
            try:
                self._answer(ways[self.path], int(size))
            finally:
                self.server.places.release()

    def _answer(self, way: Callable[[bytes], dict[str, Any]], size: int) -> None:
        photo, until = bytearray(), time.monotonic() + SLOW
        while len(photo) < size:
            part = self.rfile.read1(min(size - len(photo), 1 << 20))
            if not part or time.monotonic() > until:
                return  # the browser went away, or holds a place without sending
            photo += part
        self.close_connection = False
        try:
            said = way(bytes(photo))
        except Gone:
            self.close_connection = True
        except DataError as error:
            self._json(400, {"error": f"this cannot be read as a photo: {getattr(error, 'reason', error)}"})
        except (ValueError, ImportError, RuntimeError, MemoryError) as error:
            self._json(500, {"error": str(error) or type(error).__name__})
        else:
            self._json(200, said)

    def _gone(self) -> bool:
        """Whether the browser closed the connection."""
        readable = select.select([self.connection], [], [], 0)[0]
        return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""

    def _refused(self) -> bool:
        """Whether the request came under a name that is not ours, or from a page that is not ours; answered then."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        foreign = self.server.local and not _is_local(_name(f"//{host}"))
        if foreign or (origin is not None and urlsplit(origin).netloc != host):
            self.close_connection = True
            self._json(403, {"error": f"this page answers at {self.server.address} alone"})
            return True
        return False

    def _json(self, status: int, content: Mapping[str, Any]) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": self.server.policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
            "Cache-Control": "no-store",
            **({"Connection": "close"} if self.close_connection else {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def serve(model: Any, name: str, *, host: str = "127.0.0.1", port: int = PORT, framed: str = "'none'") -> None:
    """Serve the page of a model until the program ends: what a Space runs. No training photo is shown.

    Args:
        model: a kedge model, or the folder of one.
        name: what people call it.
        host, port, framed: as of `Server`.

    Raises:
        ValueError: it is no classifier of images, or the port is taken.
    """
    from kedge.anchoring import PixelModel
    from kedge.checkpoint import load

    loaded = model if isinstance(model, PixelModel) else load(model)
    with Server(Answering(loaded.eval(), name), host, port, framed) as server:
        print(f"{name}: {server.address}", file=sys.stderr)
        server.serve_forever()


def _name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
