"""Download the speaker encoder of the reward wespeaker_sim to the folder cnceleb_resnet34 of --cache_dir."""

from __future__ import annotations

import hashlib
from argparse import ArgumentParser, Namespace
from pathlib import Path
from tempfile import TemporaryDirectory

from f5_tts.commands import start
from f5_tts.download import fetch
from f5_tts.download.archive import unpack
from f5_tts.download.source import Source, from_folder, from_url, list_hub_files
from f5_tts.files import user_path

REPOSITORY = "Wespeaker/wespeaker-cnceleb-resnet34"
COLLECTION = "openspeech/wespeaker-models"  # archives of many models, used if the repository has nothing
MODEL = "cnceleb_resnet34"
FILES = ("config.yaml", "avg_model.pt")
ARCHIVES = (f"{MODEL}.zip", f"{MODEL}.tar.gz")  # used if a repository has no separate files
ADVICE = "give a zip or tar.gz of it: --archive FILE_OR_URL"


def command_line() -> ArgumentParser:
    """Build the argument parser."""
    parser = fetch.command_line("fetch speaker")
    parser.add_argument(
        "--archive",
        metavar="FILE_OR_URL",
        help="a zip or tar.gz of the model; default: what the hub has",
    )
    return parser


def read_arguments(argv: list[str]) -> Namespace:
    """Read the arguments."""
    return command_line().parse_args(argv)


def run(arguments: Namespace) -> bool:
    """Run the command; return False if it was interrupted."""
    root, folder = arguments.cache_dir, arguments.cache_dir / MODEL
    try:
        if arguments.archive:
            install_unpacked(find_archive(arguments), folder, root)
        else:
            install_from_hub(arguments, folder, root)
    except KeyboardInterrupt:
        return False
    print(f"{MODEL} is in {folder}; next: f5-tts train-rl rl.rewards.providers.0.config.model_dir={folder}")
    return True


def install_from_hub(arguments: Namespace, folder: Path, root: Path) -> None:
    """Download the model's separate files or else its archive, which stays in `root` for later comparison."""
    source = find_on_hub(arguments, folder, root)
    archive = archive_of(source, root)
    if archive is None or has_files(source, folder):
        fetch.ensure_files(source, FILES, folder, root, ADVICE)
    else:
        fetch.ensure_files(source, [archive], root, root)
        install_unpacked(root / archive, folder, root)


def find_on_hub(arguments: Namespace, folder: Path, root: Path) -> Source:
    """Find the first repository that has the model as files or as an archive; without one, return the first.

    --revision applies to the first repository only. Raises ValueError if no repository can be listed.
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
    """Check whether the source has all separate files of the model."""
    return all(source.has(name, folder) for name in FILES)


def archive_of(source: Source, root: Path) -> str | None:
    """Return the name of an archive of the model that the source has, or None."""
    return next((name for name in ARCHIVES if source.has(name, root)), None)


def find_archive(arguments: Namespace) -> Path:
    """Return the path of the archive that --archive names; download it to --cache_dir if it is a URL.

    Raises ValueError if --revision is given as well, FileNotFoundError if the file does not exist.
    """
    named, root = arguments.archive, arguments.cache_dir
    if arguments.revision:
        raise ValueError(
            "--revision selects a version of the hub's repository, which --archive does not use: give only one of them"
        )
    if named.startswith(("http://", "https://")):
        name = f"{MODEL}.{hashlib.sha256(named.encode()).hexdigest()[:8]}.archive"
        fetch.ensure_files(from_url(named, name, offline=arguments.offline), [name], root, root)
        return root / name
    archive = user_path(named)
    if not archive.is_file():
        raise FileNotFoundError(f"no file at --archive {named}")
    return archive


def install_unpacked(archive: Path, folder: Path, root: Path) -> None:
    """Unpack the archive, and install the model's files in `folder` after verification."""
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root, prefix=".unpacked-") as unpacked:
        unpack(archive, FILES, Path(unpacked))
        fetch.ensure_files(from_folder(str(archive), FILES, Path(unpacked)), FILES, folder, root)


if __name__ == "__main__":
    start("fetch speaker")
