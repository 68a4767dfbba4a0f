"""HTTP server of one reward provider: deadlines, limits, and who is answered."""

from __future__ import annotations

import hmac
import io
import json
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import urlsplit

from f5_tts.rewards.registry import has_word_scores, provider_scores
from f5_tts.rewards.remote.protocol import PROTOCOL, TOKEN, decode_inputs, encode_scores, is_loopback
from f5_tts.types import RewardInput, RewardProvider

SOCKET_TIMEOUT_S = 30.0  # socket timeout: no byte received, or none could be sent
HEADER_TIMEOUT_S = 10.0  # from the connection to the end of the headers, which a client of ours sends at once
LATE_S = 1.0  # for a client that was too slow to read so and to close the connection
MIN_BYTES_PER_S = 2**16  # slowest rate at which a body may arrive
MAX_CONNECTIONS = 256  # open at the same time, each of which holds a thread; a rank of a run has one
BUSY = b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 20\r\n\r\ntoo many connections"


class RequestRefused(Exception):
    """HTTP error response: a status and the reason."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Service:
    """Provider with its name; it scores one batch of clips at a time."""

    def __init__(self, name: str, provider: RewardProvider) -> None:
        self.name, self.provider = name, provider
        self.scorer = ThreadPoolExecutor(1)  # a single thread, because libraries keep caches per thread

    def description(self) -> dict[str, Any]:
        """Describe the provider: protocol version, name, component, whether it has word scores, and what it knows."""
        languages, words = (getattr(self.provider, name, None) for name in ("languages", "known_words"))
        return {
            "protocol": PROTOCOL,
            "name": self.name,
            "component": self.provider.component,
            "words": has_word_scores(self.provider),
            "languages": None if languages is None else list(languages),
            "known_words": None if words is None else sorted(words),
        }

    def answer(self, request_id: str, inputs: Sequence[RewardInput]) -> bytes:
        """Score the inputs, validate the scores as a training run does, and encode them."""
        try:
            return self.scorer.submit(
                lambda: encode_scores(provider_scores(self.provider, self.name, inputs), request_id)
            ).result()
        except Exception as error:  # any error of a provider goes to the client, and the server continues
            traceback.print_exc()
            raise RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, error_detail(error)) from error


class RewardServer(ThreadingTCPServer):
    """HTTP server of a service.

    It accepts bodies up to `max_bytes`, and only requests with `token` unless that is "". Without a token it answers
    only requests that are addressed to this computer, and none from web pages of other sites. Each connection has a
    thread; connections above MAX_CONNECTIONS get status 503, after which a run asks again.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], service: Service, *, token: str, max_bytes: int) -> None:
        self.service, self.token, self.max_bytes = service, token, max_bytes
        self.free_threads = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, or refuse it if too many are open."""
        if self.free_threads.acquire(blocking=False):
            try:
                return super().process_request(request, client_address)
            except RuntimeError:  # no thread can be started
                self.free_threads.release()
                raise
        with suppress(OSError):
            request.settimeout(0)  # nothing may hold up the thread that accepts connections
            request.send(BUSY)
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer the request of a connection, then give its thread back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free_threads.release()

    @property
    def port(self) -> int:
        """Return the port that the server listens on."""
        return self.socket.getsockname()[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an error of a request, unless the client has closed the connection."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class DeadlineReader(io.RawIOBase):
    """Received bytes of a connection, until a deadline and with at most `timeout_s` between two of them."""

    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        self.connection, self.timeout_s = connection, timeout_s

    def expect(self, what: str, seconds: float) -> None:
        """Set the deadline: `what` must have arrived in so many seconds from now."""
        self.what, self.seconds, self.deadline = what, seconds, time.monotonic() + seconds

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read what has arrived; raise RequestRefused at the deadline, or after `timeout_s` without a byte."""
        try:
            self.connection.settimeout(max(0.001, min(self.timeout_s, self.deadline - time.monotonic())))
            return self.connection.recv_into(buffer)
        except TimeoutError as error:
            reason = f"{self.what} did not arrive within {self.seconds:.3g} s, or nothing for {self.timeout_s:g} s"
            raise RequestRefused(HTTPStatus.REQUEST_TIMEOUT, reason) from error


class Handler(BaseHTTPRequestHandler):
    """HTTP handler: GET / describes the provider, POST /score takes clips and returns scores (see `protocol`)."""

    server: RewardServer  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout: float = SOCKET_TIMEOUT_S  # pyright: ignore[reportIncompatibleVariableOverride]
    header_timeout = HEADER_TIMEOUT_S
    request_version = "HTTP/1.0"  # of a request whose first line has not arrived

    def setup(self) -> None:
        """Read from the connection under deadlines, the first of which is that of the headers."""
        super().setup()
        self.rfile.close()
        self.received = DeadlineReader(self.connection, self.timeout)
        self.received.expect("request line and headers", self.header_timeout)
        self.rfile = io.BufferedReader(self.received)

    def handle(self) -> None:
        """Answer one request, or say why it is refused."""
        try:
            super().handle()
        except RequestRefused as refusal:
            self.refuse(refusal)

    def do_GET(self) -> None:
        """Reply with the description."""
        self.reply(self.description)

    def do_POST(self) -> None:
        """Reply with the scores of the clips."""
        self.reply(self.scores)

    def reply(self, content: Callable[[], bytes]) -> None:
        """Send status 200 and the content, unless the request is refused."""
        self.check_token()
        self.check_sender()
        self.send(HTTPStatus.OK, content())

    def refuse(self, refusal: RequestRefused) -> None:
        """Send the status and the reason of a refused request, and let the client read them."""
        self.send(refusal.status, str(refusal).encode())
        self.drain_request(LATE_S if refusal.status == HTTPStatus.REQUEST_TIMEOUT else SOCKET_TIMEOUT_S)

    def send(self, status: HTTPStatus, body: bytes) -> None:
        """Send a response."""
        self.connection.settimeout(self.timeout)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def drain_request(self, seconds: float) -> None:
        """Read and discard what a refused client still sends.

        If the server closed the connection at once, the client would not read the reason.
        """
        self.received.expect("the rest", seconds)
        with suppress(OSError, RequestRefused):
            self.connection.shutdown(socket.SHUT_WR)
            while time.monotonic() < self.received.deadline and self.rfile.read1(2**16):
                pass

    def check_token(self) -> None:
        """Refuse a request without the server's token."""
        received, expected = self.headers.get("Authorization", ""), f"Bearer {self.server.token}"
        if self.server.token and not hmac.compare_digest(received.encode(), expected.encode()):
            raise RequestRefused(HTTPStatus.UNAUTHORIZED, f"set {TOKEN} to the server's value on each client")

    def check_sender(self) -> None:
        """Refuse a request from a web page of another site, which needs no more than the user's browser to get here.

        Without a token such a page could ask this server by its address (Origin) or under a name of its own (Host).
        """
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        is_local = host is None or is_loopback(host_name(host))
        if not self.server.token and not (is_local and origin in (None, f"http://{host}")):
            raise RequestRefused(
                HTTPStatus.FORBIDDEN,
                f"without a token only requests to this computer are answered, not one to {host!r:.80} from "
                f"{origin!r:.80}; set {TOKEN} here and on each client",
            )

    def description(self) -> bytes:
        """Encode the description of the service and its `max_bytes` as JSON."""
        if self.path != "/":
            raise RequestRefused(HTTPStatus.NOT_FOUND, f"there is no {self.path}, only /")
        return json.dumps(self.server.service.description() | {"max_bytes": self.server.max_bytes}).encode()

    def scores(self) -> bytes:
        """Decode the clips of the request and return their encoded scores."""
        if self.path != "/score":
            raise RequestRefused(HTTPStatus.NOT_FOUND, f"there is no {self.path}, only /score")
        try:
            request_id, inputs = decode_inputs(self.body())
        except ValueError as error:
            raise RequestRefused(HTTPStatus.BAD_REQUEST, str(error)) from error
        return self.server.service.answer(request_id, inputs)

    def body(self) -> bytes:
        """Read the whole body; refuse one without a length or with more than `max_bytes` before reading it."""
        content_length = self.headers.get("Content-Length", "")
        if not (content_length.isascii() and content_length.isdecimal()):
            raise RequestRefused(HTTPStatus.LENGTH_REQUIRED, "a request body needs a Content-Length header")
        length = int(content_length[:20])
        if length > self.server.max_bytes:
            raise RequestRefused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"a body of {length} bytes is more than the {self.server.max_bytes} that the server takes; "
                "start it with a larger --max_mb",
            )
        self.received.expect(f"the body of {length} bytes", self.timeout + length / MIN_BYTES_PER_S)
        body = self.rfile.read(length)
        if len(body) < length:
            raise ValueError(f"the body ended after {len(body)} of {length} bytes")
        return body

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Ignore requests, so that they are not logged."""


def host_name(authority: str) -> str:
    """Return the host of a Host header, without its port; "" if there is none."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


def error_detail(error: Exception) -> str:
    """Format an error as its type and its message on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
