from __future__ import annotations

import gc
import json
import os
import signal
import site
import subprocess
import sys
import threading
import venv
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from math import nan
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

import pytest
import torch
from torch import Tensor

from f5_tts.config.load import compose_config
from f5_tts.config.schema import ProviderConfig, RLTrainConfig, WorkerConfig
from f5_tts.rewards.registry import FunctionProvider, build_local_provider, has_word_scores, score_all
from f5_tts.rewards.remote.client import RemoteProvider, build_remote_provider
from f5_tts.rewards.remote.protocol import PROTOCOL, TOKEN, WorkerError, encode_scores
from f5_tts.rewards.remote.server import RewardServer, Service
from f5_tts.rewards.remote.subprocess_server import SubprocessServer, find_program
from f5_tts.rl.scoring import differentiable_rewards
from f5_tts.types import DifferentiableReward, RewardInput, RewardProvider

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
WHERE = "rl.rewards.providers.0"
PROBE = "tests.rewards.probe"


def clip(samples: int) -> RewardInput:
    return RewardInput(audio=torch.ones(samples), sample_rate=16_000, text="one")


CLIPS = [clip(1600), clip(3200)]
SECONDS = torch.tensor([0.1, 0.2])


def build(name: str, config: dict[str, Any] | None = None, **worker: Any) -> Any:
    return build_remote_provider(ProviderConfig(name=name, config=config or {}, worker=WorkerConfig(**worker)), WHERE)


def own_server(provider: RemoteProvider) -> SubprocessServer:
    assert isinstance(provider.client.server, SubprocessServer)
    return provider.client.server


@contextmanager
def served(provider: RewardProvider, token: str = "", max_bytes: int = 2**20) -> Iterator[str]:
    """Serve a provider until the block ends; yield the URL."""
    with RewardServer(("127.0.0.1", 0), Service("probe", provider), token=token, max_bytes=max_bytes) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def scripted(answers: Sequence[tuple[int, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """Serve these responses in turn; yield the URL and the list of requests."""
    left, requests = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(f"{self.command} {self.path} {self.headers.get('Authorization')}")
            status, body = left.pop(0)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """Ignore the message."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def until_the_end() -> Iterator[Callable[..., Any]]:
    """Yield a function that enters a context, which is left when the test ends."""
    with ExitStack() as stack:
        yield stack.enter_context


@pytest.fixture(autouse=True)
def from_the_project_without_a_token(monkeypatch):
    """Change to the project folder, so that `tests.rewards.probe` can be imported, and unset the token."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv(TOKEN, raising=False)


# --- external server ---


class Attentive:
    """Provider that keeps the clips of its last call."""

    component = "acc"

    def __init__(self) -> None:
        self.seen: list[RewardInput] = []

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
        self.seen = list(inputs)
        return {"wer": torch.tensor([0.5, nan]), "heard": ["öins", ""], "acc": torch.tensor([nan, 1.0])}


def test_a_provider_elsewhere_sees_all_of_a_clip_and_its_components_come_back(until_the_end):
    provider = Attentive()
    sent = [
        RewardInput(
            audio=torch.tensor([0.5, nan]),
            sample_rate=24_000,
            text="eins",
            language="de",
            reference_audio=torch.ones(3),
            reference_text="zwei",
            row={"stars": 4},
        ),
        clip(5),
    ]
    elsewhere = build("probe", url=until_the_end(served(provider)))
    scores = elsewhere.score(sent)
    assert elsewhere.component == "acc" and not has_word_scores(elsewhere)
    assert list(scores) == ["wer", "heard", "acc"] and scores.pop("heard") == ["öins", ""]
    expected = {"wer": torch.tensor([0.5, nan]), "acc": torch.tensor([nan, 1.0])}
    torch.testing.assert_close(scores, expected, equal_nan=True)
    first, second = provider.seen
    assert (first.text, first.language, first.reference_text, first.row) == ("eins", "de", "zwei", {"stars": 4})
    assert first.reference_audio is not None and first.reference_audio.tolist() == [1.0] * 3
    assert first.audio[0] == 0.5 and first.audio[1].isnan() and second.reference_audio is None
    here, there = (score_all({"p": one}, sent) for one in (provider, elsewhere))
    torch.testing.assert_close(
        [here.components, here.diagnostics], [there.components, there.diagnostics], equal_nan=True
    )
    assert here.texts == there.texts == {"p.heard": ["öins", ""]}


def test_voices_are_scored_as_in_process(until_the_end, spoken):
    pairs = [("low_314", "low_9265"), ("high_314", "low_9265")]
    inputs = [
        RewardInput(audio=spoken(one), reference_audio=spoken(other), sample_rate=16_000, text="")
        for one, other in pairs
    ]
    here = build_local_provider("voice_sim", {}, WHERE)
    there = build("probe", url=until_the_end(served(build_local_provider("voice_sim", {}, WHERE), max_bytes=2**24)))
    torch.testing.assert_close(there.score(inputs), here.score(inputs), rtol=0, atol=0)


def test_a_reward_in_another_process_has_no_gradient_though_it_has_one_here(until_the_end):
    here = build_local_provider("clipping", {}, WHERE)
    there = build("probe", url=until_the_end(served(here)))
    assert isinstance(here, DifferentiableReward) and not isinstance(there, DifferentiableReward)
    rl = compose_config("F5TTS_RL", ["rl.algorithm=draft", "rl.mini_repeat_count=1"], RLTrainConfig).rl
    rl.rewards.providers = [ProviderConfig(name="probe", worker=WorkerConfig(url="http://127.0.0.1:8008"))]
    with pytest.raises(ValueError, match=r"and probe in another process has none \(rl\.rewards\.providers\.0\)"):
        differentiable_rewards({"probe": there}, lambda mel, lens: [], rl)


def test_two_threads_get_their_own_scores(until_the_end):
    provider = build(
        "probe", url=until_the_end(served(FunctionProvider(lambda x: torch.tensor([1.0 * len(i.audio) for i in x]))))
    )
    with ThreadPoolExecutor(2) as threads:
        scores = list(
            threads.map(lambda size: provider.score([clip(size), clip(2 * size)])["score"].tolist(), range(1, 21))
        )
    assert scores == [[size, 2 * size] for size in range(1, 21)]


def test_the_token_of_the_environment_opens_a_server(until_the_end, monkeypatch):
    url = until_the_end(served(FunctionProvider(lambda x: torch.zeros(len(x))), token="secret"))
    monkeypatch.setenv(TOKEN, "secret")
    assert build("probe", url=url).score(CLIPS)["score"].tolist() == [0.0, 0.0]
    monkeypatch.setenv(TOKEN, "wrong")
    with pytest.raises(WorkerError, match=rf"^{WHERE}\.worker\.url={url}: 401, set {TOKEN} to the server's"):
        build("probe", url=url)


@pytest.mark.parametrize("token", ["sec ret\nnext", "gehörim"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_told(monkeypatch, token):
    monkeypatch.setenv(TOKEN, token)
    with pytest.raises(ValueError, match=f"^{TOKEN} in the environment must have only printable ASCII") as raised:
        build("probe", url="http://127.0.0.1:1")
    assert token not in str(raised.value) and repr(token) not in str(raised.value)


def test_a_token_may_come_with_the_line_end_of_its_file(until_the_end, monkeypatch):
    monkeypatch.setenv(TOKEN, "secret\n")
    url = until_the_end(served(FunctionProvider(lambda x: torch.zeros(len(x))), token="secret"))
    assert build("probe", url=url).score(CLIPS)["score"].tolist() == [0.0, 0.0]


def test_a_server_started_anew_with_less_room_still_says_so(until_the_end):
    provider = build(
        "probe", url=until_the_end(served(FunctionProvider(lambda x: torch.zeros(len(x))), max_bytes=2**20))
    )
    provider.max_bytes = 2**30  # an outdated limit
    with pytest.raises(WorkerError, match=r"413, a body of \d+ bytes is more than the 1048576 that the server takes"):
        provider.score([clip(2**22)])


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(until_the_end, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    url = until_the_end(served(FunctionProvider(lambda x: torch.zeros(len(x)))))
    assert build("probe", url=url, retries=0).score(CLIPS)["score"].tolist() == [0.0, 0.0]


def test_an_error_of_the_provider_is_told_at_once_and_not_tried_again(until_the_end):
    calls: list[int] = []

    def broken(inputs: Sequence[RewardInput]) -> Tensor:
        calls.append(len(inputs))
        raise ZeroDivisionError("nothing")

    url = until_the_end(served(FunctionProvider(broken)))
    provider = build("probe", url=url)
    message = rf"^{WHERE}\.worker\.url={url}: 500, RewardError: reward provider probe raised ZeroDivisionError: nothing"
    with pytest.raises(WorkerError, match=message):
        provider.score(CLIPS)
    assert calls == [2]


def test_clips_above_the_servers_limit_are_not_sent(until_the_end):
    provider = build(
        "probe", url=until_the_end(served(FunctionProvider(lambda x: torch.zeros(len(x))), max_bytes=2**20))
    )
    with pytest.raises(WorkerError, match=r"1 clips are 4 MB, and the server takes 1; start it with a larger --max_mb"):
        provider.score([clip(2**20)])
    assert provider.score(CLIPS)["score"].tolist() == [0.0, 0.0]


def test_a_server_that_does_not_answer_in_time_is_asked_again_and_then_given_up(until_the_end):
    release = threading.Event()
    calls: list[int] = []

    def held(inputs: Sequence[RewardInput]) -> Tensor:
        calls.append(1)
        release.wait()
        return torch.zeros(len(inputs))

    url = until_the_end(served(FunctionProvider(held)))
    provider = build("probe", url=url, timeout_s=0.2, retries=1)
    with (
        pytest.warns(UserWarning, match=r"no answer within worker\.timeout_s=0\.2; retrying"),
        pytest.raises(WorkerError, match=r"no answer within worker\.timeout_s=0\.2, at the last of 2 tries"),
    ):
        provider.score(CLIPS)
    scored_at_once = list(calls)
    release.set()
    assert scored_at_once == [1]  # the second request waited for the first


def read_headers(stream: BufferedIOBase) -> None:
    """Read a request without a body; a connection that is closed with unread bytes is reset."""
    while stream.readline().strip():
        pass


@contextmanager
def endless(start: bytes, piece: bytes, pause_s: float) -> Iterator[str]:
    """Answer each request by `start`, and pieces without end until the block ends; yield the URL."""
    over = threading.Event()

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            read_headers(self.rfile)
            with suppress(OSError):
                self.wfile.write(start)
                while not over.wait(pause_s):
                    self.wfile.write(piece)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01]).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            over.set()
            server.shutdown()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 OK\r\nServer: ", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 500 Oh\r\n\r\n"]
)
def test_the_timeout_is_that_of_the_whole_call_whatever_the_server_drips(start: bytes):
    with (
        endless(start, b"a", 0.05) as url,
        pytest.raises(WorkerError, match=r"no answer within worker\.timeout_s=0\.5,"),
    ):
        build("probe", url=url, timeout_s=0.5, retries=0)


@pytest.mark.timeout(60)
def test_an_answer_without_end_fills_no_memory(monkeypatch):
    monkeypatch.setattr("f5_tts.rewards.remote.client.MAX_ANSWER_BYTES", 2**20)
    with (
        endless(b"HTTP/1.1 200 OK\r\n\r\n", bytes(2**16), 0) as url,
        pytest.raises(WorkerError, match=r"answered with more than 1 MB"),
    ):
        build("probe", url=url, timeout_s=50.0, retries=0)


@pytest.mark.filterwarnings("ignore:.*retrying")
def test_an_answer_that_is_cut_short_is_asked_for_again():
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            read_headers(self.rfile)
            self.wfile.write(cut)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01]).start()
        with pytest.raises(WorkerError, match=r"1 bytes read, 899 more expected.*, at the last of 2 tries"):
            build("probe", url=f"http://127.0.0.1:{server.server_address[1]}", retries=1)
        server.shutdown()


def test_a_url_where_nobody_listens_is_one_error_after_the_last_try(until_the_end):
    with scripted([]) as (url, _):
        pass  # the server has ended, and its port is free again
    message = rf"^{WHERE}\.worker\.url={url}: .*Connection refused.*, at the last of 2 tries; is f5-tts serve-reward"
    with (
        pytest.warns(UserWarning, match="Connection refused.*; retrying"),
        pytest.raises(WorkerError, match=message),
    ):
        build("probe", url=url, retries=1)


DESCRIPTION = {"protocol": PROTOCOL, "name": "probe", "component": "acc", "words": False, "max_bytes": 2**20}


def described(**changes: Any) -> tuple[int, bytes]:
    return 200, json.dumps({**DESCRIPTION, **changes}).encode()


def test_a_proxys_passing_trouble_is_waited_out():
    with scripted([(503, b"starting"), described()]) as (url, requests):
        with pytest.warns(UserWarning, match="Service Unavailable; retrying"):
            assert build("probe", url=f"{url}/asr/").component == "acc"
        assert requests == ["GET /asr/ None"] * 2


@pytest.mark.parametrize(
    "answer, message",
    [
        (
            (200, b"<html>welcome"),
            "is not a reward server of this release; start one there: f5-tts .* probe$",
        ),
        ((200, b"[]"), "is not a reward server of this release"),
        (described(protocol=PROTOCOL + 1), "is not a reward server of this release"),
        (described(name="other"), "serves other, not probe; correct one of them"),
        ((404, b"<html>\n nothing  here"), "404, <html> nothing here"),
        ((307, b""), "307, "),
    ],
)
def test_another_server_is_refused_at_once_and_redirects_are_not_followed(answer, message, monkeypatch):
    monkeypatch.setenv(TOKEN, "secret")
    with scripted([answer]) as (url, requests), pytest.raises(WorkerError, match=message):
        build("probe", url=url)
    assert requests == ["GET / Bearer secret"]


@pytest.mark.parametrize(
    "answer, message",
    [(encode_scores({"acc": SECONDS}, "other"), "belongs to another request"), (b"1, 2", "cannot be read")],
)
def test_an_answer_that_is_not_to_this_request_is_refused(answer, message):
    with scripted([described(), (200, answer)]) as (url, _):
        provider = build("probe", url=url)
        with pytest.raises(WorkerError, match=message):
            provider.score(CLIPS)


# --- subprocess server ---


@pytest.fixture
def environment(tmp_path) -> Callable[..., Path]:
    """Return a function that makes a virtual environment with these folders on its path, and its interpreter.

    The environment has no pip, so it is made quickly.
    """

    def make(*folders: str | Path) -> Path:
        venv.create(tmp_path / "env", symlinks=True)
        packages = next((tmp_path / "env").glob("lib/python*/site-packages"))
        (packages / "seen.pth").write_text("\n".join(map(str, folders)))
        return tmp_path / "env/bin/python"

    return make


def test_another_interpreter_scores_with_its_own_packages_and_without_our_secret(environment, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    python = environment(ROOT / "src", *site.getsitepackages())
    provider = build(f"{PROBE}:Surroundings", python=str(python))
    scores = provider.score(CLIPS)
    prefix = str(python.parents[1])
    assert list(scores) == [prefix, "acc", "knows_token"] and prefix != sys.prefix
    torch.testing.assert_close(scores["acc"], SECONDS)
    assert scores[prefix].isnan().all() and scores["knows_token"].tolist() == [0.0, 0.0]
    server = own_server(provider)
    assert server.address is not None and not any(server.address.token in word for word in server.arguments)
    assert os.getsid(server.process.pid) == server.process.pid  # Ctrl-C must reach the run alone


def test_an_interpreter_without_f5_tts_is_told_how_to_get_it(environment, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    python = environment()
    message = (
        rf"^{WHERE}\.worker\.python={python} ended with exit code 1: .*No module named '?f5_tts'?.*; "
        rf"in the folder of f5-tts-rl, run: {python} -m pip install -e \.$"
    )
    with pytest.raises(WorkerError, match=message):
        build("voice_sim", python=str(python))


@pytest.mark.parametrize("name, message", [("Unlucky", "RuntimeError: no model anywhere"), ("None", "has no class")])
@pytest.mark.slow
def test_what_the_provider_says_against_it_is_said_at_start_up(name, message):
    with pytest.raises(WorkerError, match=rf"^{WHERE}\.worker\.python={sys.executable}: .*{message}"):
        build(f"{PROBE}:{name}", python=sys.executable)


def test_a_provider_that_is_not_ready_in_time_is_ended(capfd):
    with pytest.raises(WorkerError, match=r"was not ready within worker\.timeout_s=0\.01; raise that"):
        build("voice_sim", python=sys.executable, timeout_s=0.01)


@pytest.mark.parametrize("python", ["/no/python", ".", "no-such-program"])
def test_a_path_that_is_no_program_is_named(python):
    with pytest.raises(WorkerError, match=rf"{WHERE}\.worker\.python={python} is not a program that can be run"):
        build("voice_sim", python=python)


def test_a_program_that_cannot_be_started_is_named(tmp_path):
    program = tmp_path / "python"
    program.touch(mode=0o755)
    with pytest.raises(WorkerError, match=rf"{program} (cannot be run: Exec format error|ended with exit code)"):
        build("voice_sim", python=str(program))


def test_a_worker_that_is_killed_while_it_starts_is_started_again(tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho started >> $0.log\nkill -9 $$\n")
    program.chmod(0o755)
    with (
        pytest.warns(UserWarning, match="signal 9 ended it before it was ready; retrying"),
        pytest.raises(WorkerError, match=rf"{program}: signal 9 ended it .*, at the last of 3 tries; its output"),
    ):
        build("voice_sim", python=str(program))
    assert (tmp_path / "python.log").read_text().split() == ["started"] * 3


@pytest.mark.slow
def test_an_interpreter_behind_a_script_that_talks_on_stdout_serves_and_its_talk_is_shown(tmp_path, capfd):
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho activating\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    assert build(f"{PROBE}:Surroundings", python=str(program)).score(CLIPS)["acc"].tolist() == SECONDS.tolist()
    assert "activating\n" in capfd.readouterr().err


def test_an_interpreter_is_sought_from_where_the_user_stands(tmp_path, monkeypatch):
    (tmp_path / "env").mkdir()
    (tmp_path / "env/python").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    result = {find_program(path, "") for path in ("env/python", "./env/python", "~/env/python")}
    assert result == {str(tmp_path / "env/python")}  # the symbolic link, by which a virtual environment is found


@pytest.fixture
def doors(tmp_path) -> Iterator[Path]:
    """Make a folder with the two FIFOs of a `Held` reward."""
    os.mkfifo(tmp_path / "entered")
    os.mkfifo(tmp_path / "leave")
    yield tmp_path


def enter(doors: Path) -> int:
    """Wait until a clip is being scored; return the process id."""
    return int((doors / "entered").read_text())


def leave(doors: Path) -> None:
    (doors / "leave").write_text("")


@pytest.mark.slow
def test_a_worker_killed_between_or_during_requests_is_started_anew_and_every_score_comes_once(doors):
    provider = build(f"{PROBE}:Held", {"folder": str(doors)}, python=sys.executable)
    with ThreadPoolExecutor(2) as threads:
        during = [threads.submit(provider.score, [clip(size), clip(2 * size)]) for size in (1600, 4800)]
        first = enter(doors)
        with pytest.warns(UserWarning, match=rf"{WHERE}\.worker\.python={sys.executable}.*(retrying|it was restarted)"):
            os.kill(first, signal.SIGKILL)
            second = enter(doors)
        leave(doors)
        assert enter(doors) == second != first
        leave(doors)
        torch.testing.assert_close([one.result()["acc"] for one in during], [SECONDS, 3 * SECONDS])
        process = own_server(provider).process
        process.kill()
        process.wait()
        with pytest.warns(UserWarning, match=r"had ended \(exit code -9\); it was restarted"):
            after = threads.submit(provider.score, CLIPS)
            assert enter(doors) not in (first, second)
        leave(doors)
        torch.testing.assert_close(after.result()["acc"], SECONDS)


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced_and_ends_with_its_provider(doors):
    provider = build(f"{PROBE}:Held", {"folder": str(doors)}, python=sys.executable, retries=0)
    hung = own_server(provider).process
    provider.client.timeout_s = 0.5  # timeout of a request; a start takes longer
    with pytest.raises(WorkerError, match=r"no answer within worker\.timeout_s=0\.5, at the last of 1 tries"):
        provider.score(CLIPS)
    assert hung.returncode == -signal.SIGKILL
    with ThreadPoolExecutor(1) as threads:
        provider.client.timeout_s = 60.0
        scores = threads.submit(provider.score, CLIPS)
        enter(doors)
        leave(doors)
        torch.testing.assert_close(scores.result()["acc"], SECONDS)
    process = own_server(provider).process
    assert process.poll() is None
    del provider, scores
    gc.collect()
    assert process.returncode == -signal.SIGKILL


PARENT = f"""
from f5_tts.rewards.remote.client import build_remote_provider
from f5_tts.config.load import compose_config
from f5_tts.config.schema import ProviderConfig, RLTrainConfig, WorkerConfig
from f5_tts.types import RewardInput
import sys, torch
worker = WorkerConfig(python=sys.executable)
entry = ProviderConfig(name="{PROBE}:Held", config={{"folder": sys.argv[1]}}, worker=worker)
provider = build_remote_provider(entry, "here")
provider.score([RewardInput(audio=torch.ones(1), sample_rate=1, text="")])
"""


@pytest.mark.slow
def test_a_worker_ends_with_a_run_that_is_killed_even_while_it_scores(doors):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(doors)], stderr=subprocess.PIPE)
    child = enter(doors)
    parent.kill()
    parent.communicate(timeout=60)  # waits for the child too, which shares its stderr
    assert child != parent.pid and parent.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_words_are_scored_as_in_process(spoken):
    texts = ["three one four", "three one five nine", "zero"]
    inputs = [RewardInput(audio=spoken("low_314"), sample_rate=16_000, text=text) for text in texts]
    here = build_local_provider("digits_wer", {"workers": 1}, WHERE)
    there = build("digits_wer", {"workers": 1}, python=sys.executable)
    assert has_word_scores(here) and has_word_scores(there)
    one, other = (score_all({"ear": provider}, inputs) for provider in (here, there))
    for kind in ("components", "diagnostics", "word_scores"):
        torch.testing.assert_close(getattr(other, kind), getattr(one, kind), rtol=0, atol=0, equal_nan=True)
    assert one.word_scores["ear.acc"].shape == (3, 4) and other.texts == one.texts == {
        "ear.heard": ["three one four"] * 3
    }
    assert there.component == here.component == "acc"
