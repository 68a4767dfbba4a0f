"""Download SenseVoiceSmall, the speech recogniser (ASR model) of the reward funasr_wer, to the folder --cache_dir."""

from __future__ import annotations

import argparse
import sys

from f5_tts.download import fetch
from f5_tts.download.source import list_hub_files
from f5_tts.entrypoint import run_command

REPOSITORY = "FunAudioLLM/SenseVoiceSmall"
OPTIONAL = "tokens.json"  # inference does not read it
WEIGHTS = "model.pt"
FILES = (
    "am.mvn",
    "chn_jpn_yue_eng_ko_spectok.bpe.model",
    "config.yaml",
    "configuration.json",
    OPTIONAL,
    WEIGHTS,
)


def command_line() -> argparse.ArgumentParser:
    """Build the argument parser."""
    return fetch.command_line("f5_tts.scripts.fetch_reward_asr_model", __doc__)


def main(argv: list[str]) -> bool:
    """Run the command; return False if it was interrupted."""
    arguments = command_line().parse_args(argv)
    folder = arguments.cache_dir
    try:
        source = list_hub_files(REPOSITORY, FILES, arguments.revision, offline=arguments.offline)
        names = [name for name in FILES if name != OPTIONAL or source.has(OPTIONAL, folder)]
        fetch.ensure_files(source, names, folder, root=folder)
    except KeyboardInterrupt:
        return False
    print(f"SenseVoiceSmall is in {folder}: rl.rewards.providers.1.config.model_id={folder}")
    return True


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
