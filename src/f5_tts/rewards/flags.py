"""Arguments of the commands in this folder, which are read before the libraries of a command are imported."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from f5_tts.commands import new_parser
from f5_tts.config.command_line import load_config
from f5_tts.config.reward_names import provider_path
from f5_tts.config.schema import RLTrainConfig, dataset_dir
from f5_tts.data.paths import require_data_set
from f5_tts.files import HUB, expand_texts

TOKEN = "F5TTS_REWARD_TOKEN"  # environment variable with the token that server and clients share


def audition(argv: list[str]) -> RLTrainConfig:
    """Load the config of audition; raise FileNotFoundError if there is nothing to listen to."""
    return load_config(
        argv,
        default="F5TTS_RL",
        schema=RLTrainConfig,
        command="audition",
        more_checks=lambda cfg: [lambda: require_recordings(cfg)],
    )


def require_recordings(cfg: RLTrainConfig) -> None:
    """Raise FileNotFoundError unless the folder of recordings is there, or the data set where none is named."""
    folder = cfg.audition.folder
    if folder is not None and not Path(folder).is_dir():
        raise FileNotFoundError(
            f"no folder at {folder}, which audition.folder names; it holds recordings with their text beside them, "
            "a.wav and a.txt"
        )
    if folder is None and not cfg.datasets.name.startswith(HUB):
        require_data_set(dataset_dir(cfg))


def serve_parser() -> ArgumentParser:
    """Build the argument parser of serve-reward."""
    parser = new_parser("serve-reward")
    parser.add_argument("name", metavar="NAME", help="a built-in reward provider, or module:attribute of your own")
    parser.add_argument("--config", default="{}", metavar="JSON", help="""its config: '{"model_dir": "..."}'""")
    parser.add_argument(
        "--host", default="127.0.0.1", help=f"address to listen at; one that other machines can reach needs {TOKEN}"
    )
    parser.add_argument("--port", type=int, default=8008, help="0: any free port")
    parser.add_argument("--max_mb", type=float, default=1024, help="the largest request body that is accepted, in MB")
    parser.add_argument("--owned", metavar="KEY", help="for a run that starts its own server: its config key")
    return parser


def serve(argv: list[str]) -> Namespace:
    """Read the arguments of serve-reward; raise ValueError if NAME or --config is none.

    With --owned the command itself says so, to the run that started it.
    """
    arguments = serve_parser().parse_args(argv)
    if not arguments.owned:
        provider_path(arguments.name, "serve")
        read_config(arguments.config)
    return arguments


def read_config(text: str) -> dict[str, Any]:
    """Parse the JSON object of --config; raise ValueError if it is none."""
    try:
        config = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"--config {text} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"""--config {text} is not a JSON object, such as '{{"model_dir": "..."}}'""")
    return expand_texts(config)
