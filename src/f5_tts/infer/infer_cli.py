"""Command `f5-tts_infer-cli` by the name of its module in F5-TTS."""

from __future__ import annotations

from typing import NoReturn

from f5_tts.commands import start


def main() -> NoReturn:
    """Run the command with the arguments of the process."""
    start("infer")


if __name__ == "__main__":
    main()
