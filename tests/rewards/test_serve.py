from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from f5_tts.rewards.registry import FunctionProvider
from f5_tts.rewards.remote.protocol import TOKEN, decode_scores, encode_inputs
from f5_tts.rewards.serve import SOCKET_TIMEOUT_S, Handler, RewardServer, Service, main, reachable_host
from f5_tts.types import RewardInput, RewardProvider

ROOT = Path(__file__).parents[2]
CLIPS = [RewardInput(audio=torch.ones(1600), sample_rate=16_000, text="one")] * 2
BODY = encode_inputs(CLIPS, "call")


class Hasty(Handler):
    timeout = 0.1


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
def test_a_client_that_falls_silent_is_hung_up_on_while_others_are_served(serve, sent):
    server = serve(FunctionProvider(lengths), handler=Hasty)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(sent)
        assert asked(server, "POST", "/score", BODY)[0] == 200
        assert client.recv(1000) == b""
    assert Handler.timeout == SOCKET_TIMEOUT_S


def test_an_error_of_the_provider_is_told_in_a_sentence_and_its_trace_stays_with_the_server(serve, capsys):
    def broken(inputs: Sequence[RewardInput]) -> Tensor:
        raise KeyError(f"no such\n  key among {len(inputs)}")

    server = serve(FunctionProvider(broken))
    status, output = asked(server, "POST", "/score", BODY)
    assert (status, output.decode()) == (500, "KeyError: 'no such\\n key among 2'")
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


# --- command ---


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["voice"], r"serve\.name: no reward provider is called 'voice'"),
        (["voice_sim", "--config", "{"], r"--config \{ is not JSON"),
        (
            ["voice_sim", "--config", "[1]"],
            r"--config \[1\] is not a JSON object, such as '\{\"model_dir\": ",
        ),
        (["voice_sim", "--config", '{"dim": 1}'], r"unknown key serve\.config\.dim; voice_sim takes no keys"),
        (
            ["voice_sim", "--host", "0.0.0.0"],
            rf"--host 0\.0\.0\.0 lets other machines send requests: set {TOKEN} to a secret first",
        ),
        (["speech_rate", "--host", "example.org"], "--host example.org lets other machines send requests"),
        (["tests.rewards.probe:Surroundings", "--port", "70000"], "cannot listen at --host 127.0.0.1 --port 70000"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_is(arguments, message, monkeypatch, capfd):
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(ValueError, match=message):
        main(arguments)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "192.168.1.5", "gpu.example.org"])
def test_the_url_that_is_printed_has_the_host_that_was_asked_for(host):
    assert reachable_host(host) == host


def test_where_all_addresses_are_listened_at_the_url_has_the_machines_name():
    assert reachable_host("0.0.0.0") == socket.gethostname()


@pytest.mark.slow
def test_ctrl_c_ends_a_server_at_once_though_it_scores(tmp_path):
    os.mkfifo(tmp_path / "entered")
    os.mkfifo(tmp_path / "leave")
    config = json.dumps({"folder": str(tmp_path)})
    command = [sys.executable, "-m", "f5_tts.rewards.serve", "tests.rewards.probe:Held", "--config", config]
    process = subprocess.Popen([*command, "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    port = int(process.stdout.readline().decode().rpartition(":")[2])
    connections = [HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(2)]
    for connection in connections:  # the second request waits for the first
        connection.request("POST", "/score", BODY)
    (tmp_path / "entered").read_text()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0 and b"Traceback" not in process.communicate()[1]
    for connection in connections:
        with pytest.raises(ConnectionError):  # after this error a run retries
            connection.getresponse()


@pytest.mark.slow
@pytest.mark.usefixtures("real_start")
def test_the_command_says_in_one_line_where_it_serves_keeps_its_token_and_ends_with_ctrl_c():
    command = [sys.executable, "-m", "f5_tts.rewards.serve", "tests.rewards.probe:Surroundings", "--port", "0"]
    environment = {**os.environ, TOKEN: "secret"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    result = re.fullmatch(r"tests\.rewards\.probe:Surroundings \(acc\) is served at http://127\.0\.0\.1:(\d+)\n", line)
    assert result
    connection = HTTPConnection("127.0.0.1", int(result[1]), timeout=20)
    connection.request("POST", "/score", BODY, {"Authorization": "Bearer secret"})
    scores = decode_scores(connection.getresponse().read(), "call")
    assert isinstance(scores["knows_token"], Tensor) and scores["knows_token"].tolist() == [0.0, 0.0]
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, b"")
    assert errors == b"what a library may say on stdout when it is imported\n"
