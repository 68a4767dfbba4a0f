"""Command `f5-tts ui` (`python -m f5_tts.ui`): a web page over the commands, for the files of one folder."""

from __future__ import annotations

from f5_tts.commands import start

if __name__ == "__main__":  # before the imports below
    start("ui")

import secrets
from argparse import Namespace
from ipaddress import ip_address
from typing import NoReturn

from f5_tts.extras import install_hint


def run(arguments: Namespace) -> bool:
    """Serve the page until Ctrl-C; beyond loopback only who knows the token is answered."""
    from f5_tts.ui.app import build_app  # here, since the scripts of F5-TTS's pages import this module first

    try:
        import uvicorn
    except ImportError as error:
        raise ImportError(f"the page needs uvicorn; run: {install_hint('uvicorn')}") from error
    root, token = arguments.folder.resolve(), ""
    app = build_app(root)
    if not is_loopback(arguments.host):
        token = secrets.token_urlsafe(24)
        app = build_app(root, token, hosts=None)
    address = f"http://{arguments.host}:{arguments.port}/" + (f"?token={token}" if token else "")
    print(f"{address} shows {root}; Ctrl-C ends the page, not its jobs", flush=True)
    uvicorn.run(app, host=arguments.host, port=arguments.port, log_level="warning")
    return True


def is_loopback(host: str) -> bool:
    """Check whether a name or address is of this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main() -> NoReturn:
    """Run the command under the names of F5-TTS's pages."""
    start("ui")
