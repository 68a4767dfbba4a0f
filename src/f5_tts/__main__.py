"""Command `f5-tts`, or `python -m f5_tts`: all commands by one name, with completion for bash, zsh and fish."""

from __future__ import annotations

import re
import sys
from contextlib import redirect_stdout, suppress
from io import StringIO
from typing import Any

import click
from click.shell_completion import CompletionItem

import f5_tts
from f5_tts.commands import COMMANDS, Command
from f5_tts.config.key_help import key_comments
from f5_tts.config.keys import nearest
from f5_tts.config.yaml_files import config_names
from f5_tts.entrypoint import run_command

NAME = "f5-tts"
TAKES_CONFIG = ("-cn", "--config-name", "-m", "--model")  # options whose value is the name of a config
OPTION = re.compile(r"(?<![\w-])--?[a-z][\w-]*")
END = """f5-tts COMMAND --help shows examples and arguments; --help rl explains keys of rl.
completion: eval "$(_F5_TTS_COMPLETE=bash_source f5-tts)"; or zsh_source, fish_source
"""


class Leaf(click.Command):
    """A command, which reads its arguments itself."""

    def __init__(self, command: Command) -> None:
        super().__init__(command.name, add_help_option=False)
        self.command = command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments as they are."""
        ctx.args = args
        return args

    def invoke(self, ctx: click.Context) -> None:
        """Run the command and end the process."""
        run_command(self.command.main, ctx.args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """List the words that may follow: what the help lists, keys of the config, or files."""
        if ctx.args and ctx.args[-1] in TAKES_CONFIG:
            words = config_names()
        else:
            text = help_of(self.command)
            words = [*dict.fromkeys(OPTION.findall(text))] if incomplete.startswith("-") else []
            words += [f"{key}=" for key in key_comments()] if "--help SECTION" in text else []
        found = [CompletionItem(word) for word in words if word.startswith(incomplete)]
        return found if found and incomplete else [*found, CompletionItem(incomplete, type="file")]


class Branch(click.Group):
    """The commands whose names begin in the same way: all of them, or those of `fetch`."""

    def __init__(self, prefix: str = "", **settings: Any) -> None:
        super().__init__(prefix.strip() or NAME, **settings)
        self.prefix = prefix

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the words that may follow."""
        names = [command.name.removeprefix(self.prefix) for command in self.members()]
        return list(dict.fromkeys(name.partition(" ")[0] for name in names))

    def members(self) -> list[Command]:
        """Return the commands of this branch."""
        return [command for command in COMMANDS if command.name.startswith(self.prefix)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command or branch of the next word."""
        name = self.prefix + cmd_name
        if any(command.name.startswith(f"{name} ") for command in COMMANDS):
            return Branch(f"{name} ")
        return next((Leaf(command) for command in COMMANDS if command.name == name), None)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; end the process with a suggestion if there is none."""
        known = self.list_commands(ctx)
        if args[0] not in known and not ctx.resilient_parsing:
            hint = nearest(args[0], known, cutoff=0.6) or f"; known: {', '.join(known)}"
            print(f"error: {NAME} {self.prefix}has no command {args[0]}{hint}", file=sys.stderr)
            ctx.exit(2)
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a line for each command, by groups."""
        formatter.write(f"usage: {NAME} {self.prefix}COMMAND [arguments]\n")
        group = ""
        for command in self.members():
            heading, group = command.group if command.group != group else "", command.group
            formatter.write(f"  {heading:14} {command.name:14} {command.brief}\n")
        formatter.write(END)


def help_of(command: Command) -> str:
    """Return the help of a command as it prints it."""
    with redirect_stdout(StringIO()) as printed, suppress(SystemExit):
        command.main(["--help"])
    return printed.getvalue()


def main() -> None:
    """Run the command that the arguments of the process name, or list all."""
    group = Branch(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
    group.params.append(
        click.Option(["--version"], is_flag=True, is_eager=True, expose_value=False, callback=print_version)
    )
    group.main(prog_name=NAME)


def print_version(ctx: click.Context, parameter: click.Parameter, is_asked: bool) -> None:
    """Print the version and end the process."""
    if is_asked:
        print(f"f5-tts-rl {f5_tts.__version__}")
        ctx.exit()


if __name__ == "__main__":
    main()
