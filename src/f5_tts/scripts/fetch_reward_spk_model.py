"""Fetches the speaker encoder of the reward wespeaker_sim into the folder cnceleb_resnet34 of --cache_dir."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from f5_tts.download import fetch
from f5_tts.download.archive import unpack
from f5_tts.download.source import Source, from_folder, from_url, list_hub_files
from f5_tts.entrypoint import run_command

REPOSITORY = "Wespeaker/wespeaker-cnceleb-resnet34"
COLLECTION = "openspeech/wespeaker-models"  # archives of many models, asked where the repository has nothing
MODEL = "cnceleb_resnet34"
FILES = ("config.yaml", "avg_model.pt")
ARCHIVES = (f"{MODEL}.zip", f"{MODEL}.tar.gz")  # in the repository, where it has no loose files
ADVICE = "give a zip or tar.gz of it: --archive FILE_OR_URL"


def command_line() -> argparse.ArgumentParser:
    parser = fetch.command_line("f5_tts.scripts.fetch_reward_spk_model", __doc__)
    parser.add_argument(
        "--archive",
        metavar="FILE_OR_URL",
        help="a zip or tar.gz of the model; default: what the hub has",
    )
    return parser


def main(argv: list[str]) -> bool:
    """False if it was interrupted."""
    arguments = command_line().parse_args(argv)
    root, folder = arguments.cache_dir, arguments.cache_dir / MODEL
    try:
        if arguments.archive:
            install_unpacked(find_archive(arguments), folder, root)
        else:
            install_from_hub(arguments, folder, root)
    except KeyboardInterrupt:
        return False
    print(f"{MODEL} is in {folder}: rl.rewards.providers.0.config.model_dir={folder}")
    return True


def install_from_hub(arguments: argparse.Namespace, folder: Path, root: Path) -> None:
    """The loose files where there are any, else the archive, which stays in `root` to compare with next time."""
    source = find_on_hub(arguments, folder, root)
    archive = archive_of(source, root)
    if archive is None or has_files(source, folder):
        fetch.ensure_files(source, FILES, folder, root, ADVICE)
    else:
        fetch.ensure_files(source, [archive], root, root)
        install_unpacked(root / archive, folder, root)


def find_on_hub(arguments: argparse.Namespace, folder: Path, root: Path) -> Source:
    """The first repository that has the model in one form or the other; where none has, what the first one has.

    Raises ValueError where there is neither. A revision is of the first alone.
    """
    failures, sources = [], []
    for repository in (REPOSITORY, COLLECTION)[: 1 if arguments.revision else 2]:
        try:
            source = list_hub_files(repository, [*FILES, *ARCHIVES], arguments.revision, offline=arguments.offline)
        except ValueError as error:
            failures.append(error)
            continue
        if has_files(source, folder) or archive_of(source, root):
            return source
        sources.append(source)
    if not sources:
        raise failures[0]
    return sources[0]


def has_files(source: Source, folder: Path) -> bool:
    return all(source.has(name, folder) for name in FILES)


def archive_of(source: Source, root: Path) -> str | None:
    return next((name for name in ARCHIVES if source.has(name, root)), None)


def find_archive(arguments: argparse.Namespace) -> Path:
    """The archive that the user names; one at a URL is fetched into the folder under a name of its own."""
    named, root = arguments.archive, arguments.cache_dir
    if arguments.revision:
        raise ValueError("--revision is of the hub's repository, --archive is not from there: give one of them")
    if named.startswith(("http://", "https://")):
        name = f"{MODEL}.{hashlib.sha256(named.encode()).hexdigest()[:8]}.archive"
        fetch.ensure_files(from_url(named, name, offline=arguments.offline), [name], root, root)
        return root / name
    if not Path(named).is_file():
        raise FileNotFoundError(f"no file at --archive {named}")
    return Path(named)


def install_unpacked(archive: Path, folder: Path, root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root, prefix=".unpacked-") as unpacked:
        unpack(archive, FILES, Path(unpacked))
        fetch.ensure_files(from_folder(str(archive), FILES, Path(unpacked)), FILES, folder, root)


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
