"""A reward from another process: from a server that others run, or one of our own under an interpreter of its own."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener
from uuid import uuid4

from f5_tts.config.schema import ProviderConfig, WorkerConfig
from f5_tts.rewards.remote.protocol import (
    PROTOCOL,
    Address,
    WorkerError,
    is_loopback,
    json_object,
    pack_inputs,
    sentence,
    shared_token,
    unpack_scores,
)
from f5_tts.rewards.remote.subprocess_server import OwnServer
from f5_tts.types import RewardInput, RewardProvider

PASSING = (502, 503, 504)  # what a proxy says while the server behind it starts anew
SERVED = {"name": str, "component": str, "words": bool, "max_bytes": int}  # what a server says of itself
MB = 2**20


def build_worker(entry: ProviderConfig, where: str) -> RewardProvider:
    """A provider that another process serves, which has said so already; `where` is its config key, for messages.

    Raises WorkerError where there is none, or another.
    """
    worker = entry.worker
    assert worker is not None
    server = UrlServer(worker.url, where) if worker.url else OwnServer(entry, worker, where)
    ask = Caller(server, worker)
    served = read_description(ask("/"), entry.name, server.name)
    return Worker(ask, served)


def read_description(answer: bytes, wanted: str, server: str) -> dict[str, Any]:
    """What a server says of itself; WorkerError where it is not what the config names."""
    served = json_object(answer)
    if served.get("protocol") != PROTOCOL:
        raise WorkerError(
            f"{server} is no reward server of this release; start one there: python -m f5_tts.rewards.serve {wanted}"
        )
    if any(not isinstance(served.get(key), kind) for key, kind in SERVED.items()):
        raise WorkerError(f"{server} does not say what it serves; it must say {', '.join(SERVED)}")
    if served["name"] != wanted:
        raise WorkerError(f"{server} serves {served['name']}, not {wanted}; correct one of them")
    return served


# --- providers ---


class Worker:
    """Scores of another process, as if they were made in this one."""

    def __init__(self, ask: Caller, served: Mapping[str, Any]) -> None:
        self.ask, self.max_bytes = ask, served["max_bytes"]
        self.component, self.knows_words = served["component"], served["words"]

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
        call = uuid4().hex
        body = pack_inputs(inputs, call)
        if len(body) > self.max_bytes:
            raise WorkerError(
                f"{self.ask.server.name}: {len(inputs)} clips are {len(body) / MB:.0f} MB, and the server takes "
                f"{self.max_bytes / MB:.0f}; start it with a larger --max_mb, or draw fewer samples at a time"
            )
        answer = self.ask("/score", body)
        try:
            return unpack_scores(answer, call)
        except ValueError as error:
            raise WorkerError(f"{self.ask.server.name}: {error}") from error


# --- how a server is asked ---


class UrlServer:
    """A server that others look after."""

    pause_s = 0.5  # before the first further try; then twice that, and so on

    def __init__(self, url: str, where: str) -> None:
        self.name, self.hint = f"{where}.worker.url={url}", "is python -m f5_tts.rewards.serve running there?"
        self.address = Address(url.rstrip("/"), shared_token())

    def reach(self) -> Address:
        return self.address

    def drop(self, address: Address) -> None:
        """Nothing: it may be back by the next try."""


class Caller:
    """Sends requests to a server until one is answered: at most 1 + `worker.retries` times."""

    def __init__(self, server: UrlServer | OwnServer, worker: WorkerConfig) -> None:
        self.server, self.timeout_s, self.retries = server, worker.timeout_s, worker.retries

    def __call__(self, path: str, body: bytes | None = None) -> bytes:
        """The answer to a GET, or with a body to a POST; WorkerError where there is none."""
        failure: Exception = ConnectionError("not asked")
        for tries in range(self.retries + 1):
            if tries:
                warnings.warn(f"{self.server.name}: {self.reason(failure)}; asking again", stacklevel=2)
                time.sleep(self.server.pause_s * 2 ** (tries - 1))
            try:
                return self.once(path, body)
            except WorkerError:
                raise
            except (OSError, HTTPException) as error:
                failure = error
        raise WorkerError(
            f"{self.server.name}: {self.reason(failure)}, at the last of {self.retries + 1} tries; {self.server.hint}"
        ) from failure

    def once(self, path: str, body: bytes | None) -> bytes:
        address = self.server.reach()
        request = Request(address.url + path, body, {"Content-Type": "application/octet-stream"})
        if address.token:
            request.add_unredirected_header("Authorization", f"Bearer {address.token}")
        try:
            with opener(address.url).open(request, timeout=self.timeout_s) as answer:
                return answer.read()
        except HTTPError as error:
            if error.code in PASSING:
                raise
            raise WorkerError(f"{self.server.name}: {error.code}, {sentence(error.read())}") from error
        except (OSError, HTTPException):
            self.server.drop(address)
            raise

    def reason(self, error: Exception) -> str:
        cause = error.reason if isinstance(error, URLError) else error
        if isinstance(cause, TimeoutError):
            return f"no answer within worker.timeout_s={self.timeout_s:g}"
        return str(cause) or type(cause).__name__


class NoRedirect(HTTPRedirectHandler):
    """Clips and tokens go where the config says, or nowhere."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


def opener(url: str) -> OpenerDirector:
    """What opens a URL: past any proxy if it is on this machine."""
    here = is_loopback(urlsplit(url).hostname or "")
    return build_opener(NoRedirect, *([ProxyHandler({})] if here else []))
