"""HTTP server of one reward provider: `python -m f5_tts.rewards.serve NAME` prints the URL for `worker.url`."""

from __future__ import annotations

from f5_tts.commands import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("serve-reward")

import json
import os
import socket
import sys
import threading
import traceback
from argparse import Namespace
from contextlib import suppress
from typing import NoReturn, TextIO

from f5_tts.rewards.flags import TOKEN, read_config
from f5_tts.rewards.registry import build_local_provider
from f5_tts.rewards.remote.protocol import is_loopback, shared_token
from f5_tts.rewards.remote.server import RewardServer, Service, error_detail

USER_ERRORS = (ValueError, OSError, ImportError)  # the message of these is enough, without a traceback


def run(args: Namespace) -> bool:
    """Serve until Ctrl-C; with --owned until stdin ends.

    With --owned, the URL or the error is printed as JSON.
    """
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


def build_server(args: Namespace) -> RewardServer:
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
