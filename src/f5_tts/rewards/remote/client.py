"""Client of reward providers in other processes: external servers, or subprocesses with another interpreter."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from http import HTTPStatus
from http.client import HTTPException, IncompleteRead
from threading import Thread
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener
from uuid import uuid4

from f5_tts.config.schema import ProviderConfig, WorkerConfig
from f5_tts.rewards.remote.protocol import (
    PROTOCOL,
    Address,
    WorkerError,
    decode_scores,
    encode_inputs,
    is_loopback,
    json_object,
    one_line,
    shared_token,
)
from f5_tts.rewards.remote.subprocess_server import SubprocessServer
from f5_tts.types import RewardInput, RewardProvider

RETRYABLE_STATUS = (502, 503, 504)  # status of a proxy while its server restarts
DESCRIPTION_TYPES = {"name": str, "component": str, "words": bool, "max_bytes": int}  # fields of a server's description
MB = 2**20
MAX_ANSWER_BYTES = 64 * MB  # scores are a few numbers and words for each clip
Result = TypeVar("Result")


def build_remote_provider(entry: ProviderConfig, config_key: str) -> RewardProvider:
    """Connect to a provider in another process and read its description.

    The second argument is its config key, for messages. Raises WorkerError if there is no server, or if it serves
    another provider.
    """
    worker = entry.worker
    assert worker is not None
    server = UrlServer(worker.url, config_key) if worker.url else SubprocessServer(entry, worker, config_key)
    client = RetryingClient(server, worker)
    description = read_description(client("/"), entry.name, server.name)
    return RemoteProvider(client, description)


def read_description(answer: bytes, expected: str, server: str) -> dict[str, Any]:
    """Parse a server's description; raise WorkerError if it does not match the config."""
    description = json_object(answer)
    if description.get("protocol") != PROTOCOL:
        raise WorkerError(
            f"{server} is not a reward server of this release; start one there: f5-tts serve-reward {expected}"
        )
    if any(not isinstance(description.get(key), kind) for key, kind in DESCRIPTION_TYPES.items()):
        raise WorkerError(f"{server} does not describe its reward; it must give {', '.join(DESCRIPTION_TYPES)}")
    if description["name"] != expected:
        raise WorkerError(f"{server} serves {description['name']}, not {expected}; correct one of them")
    return description


# --- providers ---


class RemoteProvider:
    """Provider that sends the clips to another process for scoring.

    It has no `loss`, whatever the provider there has: a gradient needs its graph in this process.
    """

    def __init__(self, client: RetryingClient, description: Mapping[str, Any]) -> None:
        self.client, self.max_bytes = client, description["max_bytes"]
        self.component, self.has_word_scores = description["component"], description["words"]
        languages, words = description.get("languages"), description.get("known_words")  # older servers send none
        self.languages = tuple(languages) if isinstance(languages, list) else None
        self.known_words = frozenset(words) if isinstance(words, list) else None

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
        """Score the inputs by one request; raise WorkerError if that is too large or the response is invalid."""
        request_id = uuid4().hex
        body = encode_inputs(inputs, request_id)
        if len(body) > self.max_bytes:
            raise WorkerError(
                f"{self.client.server.name}: {len(inputs)} clips are {len(body) / MB:.0f} MB, and the server takes "
                f"{self.max_bytes / MB:.0f}; start it with a larger --max_mb, or generate fewer samples at a time"
            )
        answer = self.client("/score", body)
        try:
            return decode_scores(answer, request_id)
        except ValueError as error:
            raise WorkerError(f"{self.client.server.name}: {error}") from error


# --- requests ---


class UrlServer:
    """External reward server, not managed by this process."""

    pause_s = 0.5  # before the first retry; doubles with each further one

    def __init__(self, url: str, config_key: str) -> None:
        self.name, self.hint = f"{config_key}.worker.url={url}", "is f5-tts serve-reward running there?"
        self.address = Address(url.rstrip("/"), shared_token())

    def ensure_running(self) -> Address:
        """Return the address."""
        return self.address

    def discard(self, address: Address) -> None:
        """Keep the address, because the server may be back at the next attempt."""


class RetryingClient:
    """HTTP client that repeats a request until it is answered, at most 1 + `worker.retries` times."""

    def __init__(self, server: UrlServer | SubprocessServer, worker: WorkerConfig) -> None:
        self.server, self.timeout_s, self.retries = server, worker.timeout_s, worker.retries

    def __call__(self, path: str, body: bytes | None = None) -> bytes:
        """Send a GET request, or a POST request if there is a body; raise WorkerError if no attempt succeeds."""
        failure: Exception = ConnectionError("not asked")
        for tries in range(self.retries + 1):
            if tries:
                warnings.warn(f"{self.server.name}: {self.reason(failure)}; retrying", stacklevel=2)
                time.sleep(self.server.pause_s * 2 ** (tries - 1))
            try:
                return self.request_once(path, body)
            except WorkerError:
                raise
            except (OSError, HTTPException) as error:
                failure = error
        raise WorkerError(
            f"{self.server.name}: {self.reason(failure)}, at the last of {self.retries + 1} tries; {self.server.hint}"
        ) from failure

    def request_once(self, path: str, body: bytes | None) -> bytes:
        """Send one request and return the body of the response."""
        address = self.server.ensure_running()
        request = Request(address.url + path, body, {"Content-Type": "application/octet-stream"})
        if address.token:
            request.add_unredirected_header("Authorization", f"Bearer {address.token}")
        try:
            status, content = call_within(self.timeout_s, partial(exchange, request, self.timeout_s))
        except (OSError, HTTPException):
            self.server.discard(address)
            raise
        if status in RETRYABLE_STATUS:
            raise ConnectionError(f"HTTP Error {status}: {HTTPStatus(status).phrase}")
        if status != HTTPStatus.OK:
            raise WorkerError(f"{self.server.name}: {status}, {one_line(content)}")
        if len(content) > MAX_ANSWER_BYTES:
            raise WorkerError(
                f"{self.server.name} answered with more than {MAX_ANSWER_BYTES // MB} MB; scores need less"
            )
        return content

    def reason(self, error: Exception) -> str:
        """Describe a connection error for messages."""
        cause = error.reason if isinstance(error, URLError) else error
        if isinstance(cause, TimeoutError):
            return f"no answer within worker.timeout_s={self.timeout_s:g}"
        return str(cause) or type(cause).__name__


def exchange(request: Request, timeout_s: float) -> tuple[int, bytes]:
    """Send a request and read the response, of which no more than is allowed; return its status and its content.

    Raises TimeoutError when the whole takes longer than the timeout, which sockets apply to each byte they wait for.
    """
    deadline = time.monotonic() + timeout_s
    try:
        answer: Any = opener(request.full_url).open(request, timeout=timeout_s)
    except HTTPError as error:
        answer = error
    content = bytearray()
    with answer:
        while len(content) <= MAX_ANSWER_BYTES and (piece := answer.read1(2**16)):
            content += piece
            if time.monotonic() > deadline:
                raise TimeoutError
        if answer.length and len(content) <= MAX_ANSWER_BYTES:  # the number of bytes that are missing
            raise IncompleteRead(bytes(content), answer.length)
        return answer.status, bytes(content)


def call_within(seconds: float, call: Callable[[], Result]) -> Result:
    """Return the result of a call in a thread; raise TimeoutError after these seconds, and leave the thread behind."""
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # raised again in the calling thread
            outcome.set_exception(error)

    Thread(target=run, daemon=True).start()
    try:
        return outcome.result(seconds)
    except FutureTimeout:
        raise TimeoutError from None


class NoRedirect(HTTPRedirectHandler):
    """Redirect handler that follows no redirect, so that clips and tokens reach only the configured address."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        """Return None, which refuses the redirect."""
        return None


def opener(url: str) -> OpenerDirector:
    """Build a URL opener, which ignores proxies if the host is this computer."""
    is_local = is_loopback(urlsplit(url).hostname or "")
    return build_opener(NoRedirect, *([ProxyHandler({})] if is_local else []))
