"""Client of `f5-tts_socket-server`: writes the speech of a text to a WAV file, and prints when the first of it came.

`python examples/stream_client.py "Some text." out.wav` asks the server on this machine. The protocol is in
`f5_tts.socket_server`.
"""

from __future__ import annotations

import argparse
import socket
import time

import numpy as np
import soundfile

END = b"END"
RECEIVED = 8192  # bytes at once: 2048 samples


def listen(text: str, address: tuple[str, int]) -> tuple[np.ndarray, float]:
    """Return the speech of a text, float32, and the seconds until its first samples arrived."""
    data, first_s, start = b"", 0.0, time.perf_counter()
    with socket.create_connection(address) as connection:
        connection.sendall(text.encode())
        while not is_complete(data) and (received := connection.recv(RECEIVED)):
            first_s = first_s or time.perf_counter() - start
            data += received
    return np.frombuffer(data.removesuffix(END), dtype="<f4"), first_s


def is_complete(data: bytes) -> bool:
    """Check whether the end has arrived; samples have four bytes each."""
    return len(data) % 4 == len(END) and data.endswith(END)


def main() -> None:
    """Ask the server for a text and write the answer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text")
    parser.add_argument("out", help="WAV file to write")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9998)
    parser.add_argument("--rate", type=int, default=24000, help="sample rate of the model, Hz")
    args = parser.parse_args()
    start = time.perf_counter()
    samples, first_s = listen(args.text, (args.host, args.port))
    total_s = time.perf_counter() - start
    soundfile.write(args.out, samples, args.rate)
    print(
        f"{len(samples) / args.rate:.1f} s of speech, the first after {first_s:.2f} s, the last after {total_s:.2f} s"
    )


if __name__ == "__main__":
    main()
