"""Command `f5-tts_socket-server`: speech over TCP, the first of it before the last chunk is generated.

The protocol is that of F5-TTS's socket server. A client sends a text in UTF-8 and receives samples (float32, little
endian, mono, at the model's sample rate) and then the three bytes END; it may send further texts. All has arrived when
3 bytes more than a multiple of 4 are there and they are END; a client that keeps up gets END alone, END_PAUSE_S later.
"""

from __future__ import annotations

from f5_tts.commands import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("serve-speech")

import select
import socket
import socketserver
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock

import torch

from f5_tts.config.load import compose_synthesis_config
from f5_tts.files import user_path
from f5_tts.infer.chunking import chunk_size, split_for_stream
from f5_tts.infer.load import load_synthesizer
from f5_tts.infer.reference import read_reference
from f5_tts.infer.settings import EXAMPLE_VOICE
from f5_tts.infer.synthesizer import SynthesisInput, progress_bar, resolve_seed

PIECE = 2048  # samples that are sent at once
END, END_PAUSE_S = b"END", 0.05  # after the last sample of a text, and how long after
MAX_TEXT_BYTES = 2**20
PAUSE_S = 0.02  # s without further bytes, after which a text is complete: the protocol marks no end


class TTSStreamingProcessor:
    """A model with a voice that speaks one text at a time; name and arguments are those of F5-TTS."""

    def __init__(
        self,
        model: str,
        ckpt_file: str | Path,
        vocab_file: str | Path,
        ref_audio: str | Path,
        ref_text: str,
        device: str | None = None,
        dtype: torch.dtype = torch.float32,
        overrides: Sequence[str] = (),
    ) -> None:
        """Load the model of a config, and the voice of a recording; `overrides` change the config."""
        cfg = compose_synthesis_config(model, list(overrides), model if Path(model).is_file() else None)
        self.synthesizer = load_synthesizer(cfg, str(ckpt_file), str(vocab_file), device)
        self.synthesizer.model.to(dtype)
        self.lock = Lock()
        self.update_reference(ref_audio, ref_text)

    def update_reference(self, ref_audio: str | Path, ref_text: str) -> None:
        """Speak from now on in the voice of this recording, and once already, so that the first text waits no longer.

        An empty text is replaced by a transcript.
        """
        infer, rate = self.synthesizer.cfg.infer, self.synthesizer.sample_rate
        self.reference = read_reference(user_path(str(ref_audio)), ref_text, rate, trim=infer.trim)
        for _ in self.pieces(self.reference.text):
            pass

    def pieces(self, text: str) -> Iterator[bytes]:
        """Generate a text: yield pieces of up to PIECE samples, those of a chunk as soon as it is generated."""
        infer, reference = self.synthesizer.cfg.infer, self.reference
        chunks = split_for_stream(" ".join(text.split()), chunk_size(reference.text, reference.seconds, infer.speed))
        item = SynthesisInput(reference=reference, text=chunks, seed=resolve_seed(infer), speed=infer.speed)
        for wave in self.synthesizer.stream(item, progress_bar(None)):
            for piece in wave.split(PIECE):
                yield piece.numpy().astype("<f4").tobytes()

    def generate_stream(self, text: str, conn: socket.socket) -> None:
        """Send the speech of a text, then END; print how long the first piece took.

        Texts of several connections take turns. Of one that cannot be spoken, the reason is printed.
        """
        with self.lock:
            start, first, num_bytes = time.perf_counter(), 0.0, 0
            try:
                for piece in self.pieces(text):
                    first = first or time.perf_counter() - start
                    conn.sendall(piece)
                    num_bytes += len(piece)
            except ValueError as error:
                print(f"a text of {len(text)} characters is not spoken: {error}")
            print(f"{num_bytes / 4 / self.synthesizer.sample_rate:.1f} s of speech, the first after {first:.2f} s")
        time.sleep(END_PAUSE_S)
        conn.sendall(END)


class SpeechServer(socketserver.ThreadingTCPServer):
    """TCP server of one processor, which all connections share."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: tuple[str, int], processor: TTSStreamingProcessor) -> None:
        super().__init__(address, Connection)
        self.processor = processor


class Connection(socketserver.BaseRequestHandler):
    """Connection of one client, which sends texts and receives speech."""

    def handle(self) -> None:
        """Answer texts until the client closes the connection."""
        assert isinstance(self.server, SpeechServer)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while data := receive(self.request):
                text = data.decode("utf-8", "replace").strip()
                if text:
                    self.server.processor.generate_stream(text, self.request)
        except OSError as error:
            print(f"{self.client_address[0]} is gone: {error}")


def receive(conn: socket.socket) -> bytes:
    """Receive a text: what comes until nothing more does for PAUSE_S; nothing once the client has closed."""
    data = b""
    while not data or (len(data) < MAX_TEXT_BYTES and select.select([conn], [], [], PAUSE_S)[0]):
        received = conn.recv(2**16)
        data += received
        if not received:
            break
    return data


def run(args: Namespace) -> bool:
    """Load the model and serve until Ctrl-C."""
    voice = {"ref_audio": args.ref_audio, "ref_text": args.ref_text} if args.ref_audio else EXAMPLE_VOICE
    processor = TTSStreamingProcessor(
        args.model,
        args.ckpt_file,
        args.vocab_file,
        **voice,
        device=args.device,
        dtype=getattr(torch, args.dtype),
        overrides=args.overrides,
    )
    with SpeechServer((args.host, args.port), processor) as server:
        host, port = server.server_address[:2]
        print(f"speaking on {host}:{port} at {processor.synthesizer.sample_rate} Hz", flush=True)
        server.serve_forever()
    return True
