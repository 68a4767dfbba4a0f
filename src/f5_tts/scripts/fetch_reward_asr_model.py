"""Download SenseVoiceSmall, the speech recogniser (ASR model) of the reward funasr_wer, to the folder --cache_dir."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from f5_tts.commands import start
from f5_tts.download import fetch
from f5_tts.download.source import list_hub_files

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


def command_line() -> ArgumentParser:
    """Build the argument parser."""
    return fetch.command_line("fetch asr")


def read_arguments(argv: list[str]) -> Namespace:
    """Read the arguments."""
    return command_line().parse_args(argv)


def run(arguments: Namespace) -> bool:
    """Run the command; return False if it was interrupted."""
    folder = arguments.cache_dir
    try:
        source = list_hub_files(REPOSITORY, FILES, arguments.revision, offline=arguments.offline)
        names = [name for name in FILES if name != OPTIONAL or source.has(OPTIONAL, folder)]
        fetch.ensure_files(source, names, folder, root=folder)
    except KeyboardInterrupt:
        return False
    print(f"SenseVoiceSmall is in {folder}; next: f5-tts train-rl rl.rewards.providers.1.config.model_id={folder}")
    return True


if __name__ == "__main__":
    start("fetch asr")
