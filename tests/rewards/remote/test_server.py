from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from math import nan
from typing import Any

import pytest
import torch
from torch import Tensor

from f5_tts.rewards.registry import FunctionProvider
from f5_tts.rewards.remote.protocol import TOKEN, decode_scores, encode_inputs
from f5_tts.rewards.remote.server import HEADER_TIMEOUT_S, SOCKET_TIMEOUT_S, Handler, RewardServer, Service
from f5_tts.types import RewardInput, RewardProvider

CLIPS = [RewardInput(audio=torch.ones(1600), sample_rate=16_000, text="one")] * 2
BODY = encode_inputs(CLIPS, "call")


class Hasty(Handler):
    timeout = 0.1


class Strict(Handler):
    header_timeout = 0.5


@contextmanager
def served(
    provider: RewardProvider, token: str = "", max_bytes: int = 2**20, handler: type[Handler] = Handler
) -> Iterator[RewardServer]:
    """Run a server on a free local port until the block ends."""
    with RewardServer(("127.0.0.1", 0), Service("probe", provider), token=token, max_bytes=max_bytes) as server:
        server.RequestHandlerClass = handler
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[..., RewardServer]]:
    """Yield a function that starts servers, which run until the test ends."""
    with ExitStack() as running:
        yield lambda *args, **options: running.enter_context(served(*args, **options))


def asked(server: RewardServer, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Send a request; return the status and the body of the response."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def lengths(inputs: Sequence[RewardInput]) -> Tensor:
    return torch.tensor([float(len(item.audio)) for item in inputs])


def test_a_server_says_what_it_serves_and_scores_what_it_gets(serve):
    server = serve(FunctionProvider(lengths), max_bytes=5000)
    status, output = asked(server, "GET", "/")
    assert status == 200
    assert json.loads(output) == {
        "protocol": 2,
        "name": "probe",
        "component": "score",
        "words": False,
        "languages": None,
        "known_words": None,
        "max_bytes": 5000,
    }
    status, answer = asked(serve(FunctionProvider(lengths)), "POST", "/score", BODY)
    assert status == 200
    torch.testing.assert_close(decode_scores(answer, "call"), {"score": torch.tensor([1600.0, 1600.0])})


class Mixed:
    component = "score"

    def score(self, inputs: Sequence[RewardInput]) -> Any:
        return {"score": [1, None], "whole": torch.tensor([2, 3]), "heard": ("one", "")}


def test_whatever_a_provider_may_give_in_a_run_becomes_tensors_and_texts(serve):
    _, answer = asked(serve(Mixed()), "POST", "/score", BODY)
    got = decode_scores(answer, "call")
    assert got.pop("heard") == ["one", ""]
    expected = {"score": torch.tensor([1.0, nan]), "whole": torch.tensor([2.0, 3.0])}
    torch.testing.assert_close(got, expected, equal_nan=True)


@pytest.mark.parametrize("method, path", [("GET", "/score"), ("GET", "/../etc/passwd"), ("POST", "/")])
def test_other_paths_are_not_found(serve, method, path):
    status, output = asked(serve(FunctionProvider(lengths)), method, path, BODY if method == "POST" else None)
    assert status == 404 and f"there is no {path}" in output.decode()


@pytest.mark.parametrize("given", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}])
def test_without_the_token_nothing_is_told_and_nothing_scored(serve, given):
    scored: list[int] = []

    def note(inputs: Sequence[RewardInput]) -> Tensor:
        scored.append(len(inputs))
        return lengths(inputs)

    server = serve(FunctionProvider(note), token="secret")
    for method, path, body in [("GET", "/", None), ("POST", "/score", BODY)]:
        status, output = asked(server, method, path, body, **given)
        assert status == 401 and TOKEN in output.decode() and "secret" not in output.decode()
    assert scored == []


def test_with_the_token_both_are(serve):
    server = serve(FunctionProvider(lengths), token="secret")
    assert asked(server, "GET", "/", Authorization="Bearer secret")[0] == 200
    assert asked(server, "POST", "/score", BODY, Authorization="Bearer secret")[0] == 200


def test_a_body_above_the_limit_is_refused_before_any_of_it_is_sent(serve):
    server = serve(FunctionProvider(lengths), max_bytes=1000)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(b"POST /score HTTP/1.1\r\nContent-Length: 1001\r\n\r\n")
        answer = client.makefile("rb").read().decode()
    assert " 413 " in answer.splitlines()[0] and "1001 bytes is more than the 1000" in answer and "--max_mb" in answer


@pytest.mark.parametrize("options, status", [({"max_bytes": 1000}, 413), ({"token": "secret"}, 401)])
def test_a_client_that_is_refused_comes_to_read_why_though_it_sends_more_than_a_socket_holds(serve, options, status):
    """Send 16 MB.

    If the server reset the connection during the upload, the client would read nothing.
    """
    assert asked(serve(FunctionProvider(lengths), **options), "POST", "/score", bytes(2**24))[0] == status


@pytest.mark.parametrize("length", ["", "-1", "1e3", "²"])
def test_a_body_must_say_how_long_it_is(serve, length):
    with socket.create_connection(("127.0.0.1", serve(FunctionProvider(lengths)).port), timeout=20) as client:
        client.sendall(f"POST /score HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode())
        assert b" 411 " in client.makefile("rb").readline()


def test_a_malformed_body_is_a_bad_request_and_the_server_goes_on(serve):
    server = serve(FunctionProvider(lengths))
    status, output = asked(server, "POST", "/score", BODY[:-1])
    assert status == 400 and "cannot be read" in output.decode()
    assert asked(server, "POST", "/score", BODY)[0] == 200


def test_a_body_that_ends_early_is_a_bad_request(serve):
    with socket.create_connection(("127.0.0.1", serve(FunctionProvider(lengths)).port), timeout=20) as client:
        client.sendall(b"POST /score HTTP/1.1\r\nContent-Length: 100\r\n\r\nabc")
        client.shutdown(socket.SHUT_WR)
        answer = client.makefile("rb").read()
    assert b" 400 " in answer and b"the body ended after 3 of 100 bytes" in answer


@pytest.mark.parametrize("sent", [b"", b"POST /sc", b"POST /score HTTP/1.1\r\nContent-Length: 100\r\n\r\nabc"])
def test_a_client_that_falls_silent_is_told_so_and_hung_up_on_while_others_are_served(serve, sent):
    server = serve(FunctionProvider(lengths), handler=Hasty)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(sent)
        assert asked(server, "POST", "/score", BODY)[0] == 200
        assert b" 408 " in client.makefile("rb").readline()
    assert (Handler.timeout, Handler.header_timeout) == (SOCKET_TIMEOUT_S, HEADER_TIMEOUT_S)


def drip(client: socket.socket) -> bytes:
    """Send a byte each 0.03 s until the server answers; return the answer."""
    client.settimeout(0.03)
    while True:
        try:
            client.recv(1, socket.MSG_PEEK)
            return client.makefile("rb").read()
        except TimeoutError:
            client.send(b"x")


def test_request_line_and_headers_have_one_deadline_however_they_drip_and_others_do_not_wait(serve):
    """Let 20 clients send a header slowly, which the time-out between two bytes allows for ever."""
    server, answers = serve(FunctionProvider(lengths), handler=Strict), []
    clients = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(20)]
    threads = [threading.Thread(target=lambda client=client: answers.append(drip(client))) for client in clients]
    for thread, client in zip(threads, clients, strict=True):
        client.sendall(b"GET / HTTP/1.1\r\nX: ")
        thread.start()
    began = time.monotonic()
    assert asked(server, "POST", "/score", BODY)[0] == 200
    assert time.monotonic() - began < 1
    for thread, client in zip(threads, clients, strict=True):
        thread.join(20)
        client.close()
    assert len(answers) == 20 and all(b" 408 " in answer and b"within 0.5 s" in answer for answer in answers)


def test_a_body_that_drips_has_a_deadline_by_its_length(serve, monkeypatch):
    monkeypatch.setattr("f5_tts.rewards.remote.server.MIN_BYTES_PER_S", 1000)
    server = serve(FunctionProvider(lengths), handler=Hasty)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(b"POST /score HTTP/1.1\r\nContent-Length: 200\r\n\r\n")
        answer = drip(client)
    assert b" 408 " in answer and b"the body of 200 bytes did not arrive within 0.3 s" in answer


def test_connections_above_the_most_are_told_to_come_back_and_free_ones_serve_again(serve, monkeypatch):
    monkeypatch.setattr("f5_tts.rewards.remote.server.MAX_CONNECTIONS", 2)
    server = serve(FunctionProvider(lengths))
    held = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(2)]
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        assert b" 503 " in client.makefile("rb").readline()
    for client in held:
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1000) == b""
    status = 503
    while status == 503:  # the threads end just after their connections
        status, _ = asked(server, "GET", "/")
    assert status == 200


# --- who is answered without a token ---

FOREIGN = [
    {"Host": "evil.example"},
    {"Host": "evil.example:8008", "Origin": "http://evil.example:8008"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "127.0.0.1@evil.example"},
    {"Host": "["},
    {"Host": ""},
    {"Origin": "http://evil.example"},
    {"Origin": "http://localhost:1"},
    {"Origin": "null"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_without_a_token_web_pages_of_other_sites_are_refused(serve, headers):
    scored: list[int] = []

    def note(inputs: Sequence[RewardInput]) -> Tensor:
        scored.append(len(inputs))
        return lengths(inputs)

    server = serve(FunctionProvider(note))
    for method, path, body in [("GET", "/", None), ("POST", "/score", BODY)]:
        status, output = asked(server, method, path, body, **headers)
        assert status == 403 and TOKEN in output.decode()
    assert scored == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1234", "[::1]:8008", "LOCALHOST"])
def test_without_a_token_requests_to_this_computer_are_answered(serve, host):
    server = serve(FunctionProvider(lengths))
    assert asked(server, "GET", "/", Host=host)[0] == 200
    assert asked(server, "GET", "/", Host=host, Origin=f"http://{host}")[0] == 200


def test_with_the_token_any_name_of_the_server_will_do(serve):
    server = serve(FunctionProvider(lengths), token="secret")
    assert asked(server, "GET", "/", Host="gpu.example.org", Authorization="Bearer secret")[0] == 200


def test_an_error_of_the_provider_is_told_in_a_sentence_and_its_trace_stays_with_the_server(serve, capsys):
    def broken(inputs: Sequence[RewardInput]) -> Tensor:
        raise KeyError(f"no such\n  key among {len(inputs)}")

    server = serve(FunctionProvider(broken))
    status, output = asked(server, "POST", "/score", BODY)
    assert status == 500
    assert output.decode().startswith("RewardError: reward provider probe raised KeyError: 'no such\\n key among 2' (")
    assert "Traceback" in capsys.readouterr().err
    assert asked(server, "GET", "/")[0] == 200


def test_scores_of_the_wrong_shape_are_an_error_that_names_the_provider(serve):
    status, output = asked(serve(FunctionProvider(lambda inputs: torch.ones(3))), "POST", "/score", BODY)
    assert status == 500 and "provider probe.score gave scores of shape (3,) for 2 clips" in output.decode()


def test_a_client_that_hangs_up_leaves_no_trace_and_others_are_served(serve, capsys):
    entered, leave = threading.Event(), threading.Event()

    def held(inputs: Sequence[RewardInput]) -> Tensor:
        entered.set()
        leave.wait()
        return lengths(inputs)

    server = serve(FunctionProvider(held))
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closing the socket sends a reset
        client.sendall(b"POST /score HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
        entered.wait(20)
    leave.set()
    assert asked(server, "POST", "/score", BODY)[0] == 200
    assert capsys.readouterr().err == ""


def test_one_thread_scores_for_all_clients(serve):
    threads: set[int] = set()

    def note(inputs: Sequence[RewardInput]) -> Tensor:
        threads.add(threading.get_ident())
        return lengths(inputs)

    server = serve(FunctionProvider(note))
    clients = [threading.Thread(target=asked, args=(server, "POST", "/score", BODY)) for _ in range(4)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert len(threads) == 1
