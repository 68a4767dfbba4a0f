"""Arguments of the commands in this folder, which are read before the libraries of a command are imported."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from typing import Any

from f5_tts.commands import new_parser
from f5_tts.config.command_line import load_config
from f5_tts.config.schema import RLTrainConfig
from f5_tts.files import expand_texts

TOKEN = "F5TTS_REWARD_TOKEN"  # environment variable with the token that server and clients share


def audition(argv: list[str]) -> RLTrainConfig:
    """Load the config of audition."""
    return load_config(argv, default="F5TTS_RL", schema=RLTrainConfig, command="audition")


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
    """Read the arguments of serve-reward."""
    return serve_parser().parse_args(argv)


def read_config(text: str) -> dict[str, Any]:
    """Parse the JSON object of --config; raise ValueError if it is none."""
    try:
        config = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"--config {text} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"""--config {text} is not a JSON object, such as '{{"model_dir": "..."}}'""")
    return expand_texts(config)
