from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import pytest
import torch
from torch import Tensor

from f5_tts.commands import find_command
from f5_tts.rewards.remote.protocol import TOKEN, decode_scores, encode_inputs
from f5_tts.rewards.serve import reachable_host
from f5_tts.types import RewardInput

main = find_command("serve-reward").main

ROOT = Path(__file__).parents[2]
CLIPS = [RewardInput(audio=torch.ones(1600), sample_rate=16_000, text="one")] * 2
BODY = encode_inputs(CLIPS, "call")


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
