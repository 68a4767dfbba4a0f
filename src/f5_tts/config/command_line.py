"""Command lines of configurations: `-cn NAME key=value ...`, their help and their mistakes."""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any, NoReturn

from f5_tts.commands import new_parser
from f5_tts.config.foreign import find_foreign
from f5_tts.config.key_help import explain_section, list_sections
from f5_tts.config.load import MoreChecks, TrainConfigT, compose_config, no_checks
from f5_tts.config.schema import ConfigError
from f5_tts.config.yaml_files import config_names

ABOUT_KEYS = "keys, explained by --help SECTION or --help KEY (and in _base.yaml and _rl.yaml):"


class CommandLine(ArgumentParser):
    """Argument parser whose errors are ConfigErrors."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError with the message and the usage."""
        raise ConfigError(f"{message}; {self.format_usage().strip()}; -h prints the help")


class ShowHelp(Action):
    """Option that prints the help, or with a section or key the meaning of its keys, and ends the process."""

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: str | Sequence[Any] | None,
        option: str | None = None,
    ) -> None:
        """Print what was asked for."""
        wanted = str(values) if values and "=" not in values else ""
        if wanted:
            print(explain_section(wanted, namespace.config_name))
        else:
            parser.epilog = f"{ABOUT_KEYS}\n{list_sections(parser.get_default('config_name'))}"
            parser.print_help()
        parser.exit()


def key_parser(command: str, default: str) -> CommandLine:
    """Build the parser of a command that takes `-cn NAME key=value ...`."""
    parser = new_parser(command, CommandLine, usage="[-cn NAME] [key=value ...]", allow_abbrev=False, add_help=False)
    parser.add_argument(
        "-cn", "--config-name", metavar="NAME", default=default, help=f"{', '.join(config_names())}; default: {default}"
    )
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="e.g. optim.epochs=2")
    parser.add_argument(
        "-h", "--help", nargs="?", metavar="SECTION", action=ShowHelp, help="this help, or the keys of a section"
    )
    return parser


def load_config(
    argv: list[str],
    *,
    default: str,
    schema: type[TrainConfigT],
    command: str = "train-rl",
    more_checks: MoreChecks = no_checks,
) -> TrainConfigT:
    """Load the configuration that a command line describes: `-cn NAME` selects it, `key=value` changes it.

    `-h` prints the help and exits.

    Raises:
        ConfigError: the command line or a value is invalid.
    """
    args = read_keys(key_parser(command, default), argv)
    return compose_config(args.config_name, args.overrides, schema, more_checks)


def read_keys(parser: CommandLine, argv: list[str]) -> Namespace:
    """Read a command line that has keys; raise ConfigError for keys that are written as options."""
    check_dashes(argv)
    return parser.parse_intermixed_args(argv)


def check_dashes(argv: list[str]) -> None:
    """Raise ConfigError for keys that are written as options, with all of them in the form of keys."""
    flags = [word for word in argv if word.startswith("--") and is_key_name(word)]
    if flags:
        keys = [key_form(flag.lstrip("-")) for flag in flags]
        raise ConfigError(f"{' '.join(flags)}: keys are written without dashes, key=value: {' '.join(keys)}")


def is_key_name(flag: str) -> bool:
    """Check whether an option is a key, with its sections, or a name that other projects have for one."""
    name = flag.lstrip("-").partition("=")[0].replace("-", "_")
    return "." in name or find_foreign(name) is not None


def key_form(flag: str) -> str:
    """Return an option as a key with a value: that of a name of another project, else the option's own name."""
    name, _, text = flag.partition("=")
    name = name.replace("-", "_")
    foreign = find_foreign(name)
    return f"{foreign.key if foreign and not foreign.difference else name}={text or 'VALUE'}"
