"""Clients of F5-TTS's socket server: they send a text, and play samples until END."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from threading import Event, Thread

import numpy as np
import pytest
from examples.stream_client import listen
from tests.compat.conftest import RATE, RECORDING, SAID, Published

from f5_tts.api import F5TTS
from f5_tts.commands import find_command
from f5_tts.socket_server import PIECE, SpeechServer, TTSStreamingProcessor

main = find_command("serve-speech").main

# the reference's 14 bytes take 0.9 s, so that a quarter of what fits into a chunk is 82 bytes
FIRST, SECOND = "nine four eight, one two three, four five six, seven eight.", "zero one two three four five six."
SEED = 7
TIMEOUT_S = 20.0


@pytest.fixture(scope="module")
def processor(published: Published) -> TTSStreamingProcessor:
    model = (published.config, published.ckpt, published.vocab, RECORDING, SAID, "cpu")
    vocoder = ["model.vocoder.is_local=true", f"model.vocoder.local_path={published.vocoder}"]
    return TTSStreamingProcessor(*model, overrides=[f"infer.seed={SEED}", *vocoder])


@pytest.fixture(scope="module")
def address(processor: TTSStreamingProcessor) -> Iterator[tuple[str, int]]:
    with SpeechServer(("127.0.0.1", 0), processor) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield ("127.0.0.1", server.server_address[1])
        server.shutdown()


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=TIMEOUT_S)


def heard(conn: socket.socket) -> np.ndarray:
    """Play what comes until END."""
    received = b""
    while not (len(received) % 4 == 3 and received.endswith(b"END")):
        data = conn.recv(8192)
        assert data, "the connection was closed"
        received += data
    return np.frombuffer(received[:-3], dtype="<f4")


def chunk(tts: F5TTS, text: str, seed: int) -> np.ndarray:
    """Return the speech of a chunk by our own interface."""
    return tts.infer(RECORDING, SAID, text, progress=None, seed=seed)[0]


def test_a_client_plays_the_speech_of_each_chunk_and_stops_at_the_end(address, tts: F5TTS) -> None:
    with connect(address) as conn:
        conn.sendall(f"{FIRST} {SECOND}".encode())
        played = heard(conn)
        conn.sendall(FIRST.encode())  # another text on the same connection
        again = heard(conn)
    expected = chunk(tts, FIRST, SEED)
    np.testing.assert_allclose(played, np.concatenate([expected, chunk(tts, SECOND, SEED + 1)]), atol=1e-4)
    np.testing.assert_allclose(again, expected, atol=1e-4)
    assert played.std() > 1e-3 and len(played) > RATE


def test_the_first_samples_arrive_before_the_last_chunk_is_generated(address, processor, monkeypatch) -> None:
    generate, heard_first = processor.synthesizer.generate_mels, Event()

    def generate_slowly(requests):
        if SECOND in requests[0].text:
            assert heard_first.wait(TIMEOUT_S), "nothing was sent before the last chunk"
        return generate(requests)

    monkeypatch.setattr(processor.synthesizer, "generate_mels", generate_slowly)
    with connect(address) as conn:
        conn.sendall(f"{FIRST} {SECOND}".encode())
        assert len(conn.recv(4)) == 4
        heard_first.set()
        assert len(heard(conn)) > PIECE


def test_a_client_that_leaves_and_a_text_that_cannot_be_spoken_stop_nobody_else(address, capfd) -> None:
    with connect(address) as conn:
        conn.sendall(f"{FIRST} {SECOND}".encode())
        conn.recv(1)
    with connect(address) as conn:
        conn.sendall("\U0001f600".encode())
        assert len(heard(conn)) == 0
        conn.sendall(FIRST.encode())
        assert len(heard(conn)) > PIECE
    assert "is not spoken: the model's vocabulary holds none of the symbols" in capfd.readouterr().out


def test_the_example_hears_what_any_client_hears(address, tts: F5TTS) -> None:
    samples, first_s = listen(FIRST, address)
    np.testing.assert_allclose(samples, chunk(tts, FIRST, SEED), atol=1e-4)
    assert 0 < first_s < TIMEOUT_S


def test_a_long_text_that_arrives_in_parts_is_one_text(address, tts: F5TTS) -> None:
    with connect(address) as conn:
        middle = len(FIRST) // 2
        conn.sendall(FIRST[:middle].encode())
        conn.sendall(FIRST[middle:].encode())
        np.testing.assert_allclose(heard(conn), chunk(tts, FIRST, SEED), atol=1e-4)


def test_a_wrong_model_is_refused_as_everywhere() -> None:
    with pytest.raises(ValueError, match="no config is named F5TTS_v1_Bas"):
        main(["--model", "F5TTS_v1_Bas"])
