"""HTTP server of one reward provider: `python -m f5_tts.rewards.serve NAME` prints the URL for `worker.url`."""

from __future__ import annotations

import argparse
import hmac
import json
import os
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
from typing import Any, NoReturn, TextIO

from f5_tts.entrypoint import run_command
from f5_tts.rewards.registry import build_local_provider, has_word_scores, provider_scores
from f5_tts.rewards.remote.protocol import PROTOCOL, TOKEN, decode_inputs, encode_scores, is_loopback, shared_token
from f5_tts.types import RewardInput, RewardProvider

SOCKET_TIMEOUT_S = 30.0  # socket timeout: no byte received, or none could be sent
USER_ERRORS = (ValueError, OSError, ImportError)  # the message of these is enough, without a traceback


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
        """Describe the provider: protocol version, name, component, and whether it has word scores."""
        return {
            "protocol": PROTOCOL,
            "name": self.name,
            "component": self.provider.component,
            "words": has_word_scores(self.provider),
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

    It accepts bodies up to `max_bytes`, and only requests with `token` unless that is "".
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: tuple[str, int], service: Service, *, token: str, max_bytes: int) -> None:
        self.service, self.token, self.max_bytes = service, token, max_bytes
        super().__init__(address, Handler)

    @property
    def port(self) -> int:
        """Return the port that the server listens on."""
        return self.socket.getsockname()[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an error of a request, unless the client has closed the connection."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """HTTP handler: GET / describes the provider, POST /score takes clips and returns scores (see `protocol`)."""

    server: RewardServer  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = SOCKET_TIMEOUT_S

    def do_GET(self) -> None:
        """Reply with the description."""
        self.reply(self.description)

    def do_POST(self) -> None:
        """Reply with the scores of the clips."""
        self.reply(self.scores)

    def reply(self, content: Callable[[], bytes]) -> None:
        """Send status 200 and the content, or the status and the reason of a refused request."""
        try:
            self.check_token()
            status, body = HTTPStatus.OK, content()
        except RequestRefused as refusal:
            status, body = refusal.status, str(refusal).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if status != HTTPStatus.OK:
            self.drain_request()

    def drain_request(self) -> None:
        """Read and discard what a refused client still sends.

        If the server closed the connection at once, the client would not read the reason.
        """
        deadline = time.monotonic() + SOCKET_TIMEOUT_S
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while time.monotonic() < deadline and self.rfile.read1(2**16):
                pass

    def check_token(self) -> None:
        """Refuse a request without the server's token."""
        received, expected = self.headers.get("Authorization", ""), f"Bearer {self.server.token}"
        if self.server.token and not hmac.compare_digest(received.encode(), expected.encode()):
            raise RequestRefused(HTTPStatus.UNAUTHORIZED, f"set {TOKEN} to the server's value on each client")

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
        body = self.rfile.read(length)
        if len(body) < length:
            raise ValueError(f"the body ended after {len(body)} of {length} bytes")
        return body

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Ignore requests, so that they are not logged."""


# --- command ---


def command_line() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(prog="python -m f5_tts.rewards.serve", description=__doc__)
    parser.add_argument("name", metavar="NAME", help="a built-in reward provider, or module:attribute of your own")
    parser.add_argument("--config", default="{}", metavar="JSON", help="""its config: '{"model_dir": "..."}'""")
    parser.add_argument(
        "--host", default="127.0.0.1", help=f"address to listen at; one that other machines can reach needs {TOKEN}"
    )
    parser.add_argument("--port", type=int, default=8008, help="0: any free port")
    parser.add_argument("--max_mb", type=float, default=1024, help="the largest request body that is accepted, in MB")
    parser.add_argument("--owned", metavar="KEY", help="for a run that starts its own server: its config key")
    return parser


def main(argv: list[str]) -> bool:
    """Serve until Ctrl-C; with --owned until stdin ends.

    With --owned, the URL or the error is printed as JSON.
    """
    args = command_line().parse_args(argv)
    if args.owned:
        threading.Thread(target=exit_with_parent, daemon=True).start()
    with stdout_for_one_line() as line:
        try:
            server = build_server(args)
        except Exception as error:  # a custom provider may raise any error, which the parent process must report
            if not args.owned:
                raise
            print(json.dumps({"error": error_text(error)}), file=line)
            sys.exit(2)
        url = f"http://{reachable_host(args.host)}:{server.port}"
        message = f"{args.name} ({server.service.provider.component}) is served at {url}"
        print(json.dumps({"url": url}) if args.owned else message, file=line)
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()
    exit_now()


def reachable_host(host: str) -> str:
    """Return the host name for clients: this computer's name if the server listens on all addresses."""
    return socket.gethostname() if host in ("0.0.0.0", "") else host


def build_server(args: argparse.Namespace) -> RewardServer:
    """Create a listening server, and remove the token from the environment.

    Raises ValueError for invalid arguments, for a host other than this computer without a token, and if the address is
    not available.
    """
    token = shared_token()
    os.environ.pop(TOKEN, None)
    if not (is_loopback(args.host) or token):
        raise ValueError(
            f"--host {args.host} lets other machines send requests: set {TOKEN} to a secret first, here and where the "
            "run is"
        )
    service = Service(args.name, build_local_provider(args.name, read_config(args.config), args.owned or "serve"))
    address = (args.host, args.port)
    try:
        return RewardServer(address, service, token=token, max_bytes=int(args.max_mb * 2**20))
    except (OSError, OverflowError) as error:
        raise ValueError(f"cannot listen at --host {args.host} --port {args.port}: {error}") from error


def read_config(text: str) -> dict[str, Any]:
    """Parse the JSON object of --config; raise ValueError if it is none."""
    try:
        config = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"--config {text} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"""--config {text} is not a JSON object, such as '{{"model_dir": "..."}}'""")
    return config


def stdout_for_one_line() -> TextIO:
    """Return the original stdout, and redirect stdout to stderr for the output of libraries."""
    sys.stdout.flush()
    line = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return line


def exit_with_parent() -> None:
    """Wait until stdin ends, then end this process."""
    while os.read(0, 1024):
        pass
    exit_now()


def exit_now() -> NoReturn:
    """End this process at once; it holds no state worth saving and may be scoring for minutes."""
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(0)


def error_text(error: Exception) -> str:
    """Return an error as one message; print the traceback to stderr unless the error is a user's."""
    if isinstance(error, USER_ERRORS):
        return str(error)
    traceback.print_exc()
    return error_detail(error)


def error_detail(error: Exception) -> str:
    """Format an error as its type and its message on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
