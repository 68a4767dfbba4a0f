"""Commands of `f5-tts`: what each one does, its examples, and the functions that read its arguments and run it.

Functions are named as "module:function" and imported when they are needed: those that read arguments import no torch,
so that help and mistakes are answered before the libraries of a command are imported.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from textwrap import fill
from typing import Any, NoReturn, TypeVar

from f5_tts.entrypoint import end_on_ctrl_c, run_command
from f5_tts.threads import limit_threads

HELP_WIDTH = 100  # characters
Parser = TypeVar("Parser", bound=ArgumentParser)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command: `f5-tts NAME`, or `python -m MODULE`."""

    name: str
    module: str
    group: str
    brief: str  # some words, for the list of commands
    does: str  # one sentence
    examples: tuple[str, str]  # the two commonest, without the name
    arguments: str  # the function that reads a list of arguments
    run: str  # the function that gets what it returns, and returns whether it finished
    script: str = ""  # a console script of its own, as F5-TTS or its forks have it
    computes: bool = False  # with torch, so long that its number of threads matters

    def main(self, argv: list[str]) -> bool:
        """Read the arguments, then import the libraries and run the command; return False if it was interrupted."""
        return self.start(resolve_name(self.arguments)(argv))

    def start(self, arguments: Any) -> bool:
        """Import the libraries and run the command; return False if it was interrupted."""
        with end_on_ctrl_c():
            run = resolve_name(self.run)
        if self.computes:
            limit_threads()
        return run(arguments)


COMMANDS = (
    Command(
        name="prepare",
        module="f5_tts.scripts.prepare",
        group="Data",
        brief="recordings and texts to a data set",
        does="Convert recordings and their texts (a CSV, LJSpeech, a folder of wav and txt, or JSONL) to a data set; "
        "the same command goes on where it was interrupted.",
        examples=("my_recordings/list.csv data/mine_custom", "my_recordings/list.csv data/mine_pinyin --copy"),
        arguments="f5_tts.scripts.flags:prepare",
        run="f5_tts.scripts.prepare:run",
    ),
    Command(
        name="check-dataset",
        module="f5_tts.scripts.check_dataset",
        group="Data",
        brief="bad rows and missing symbols of a data set",
        does="Decode every row of a data set, and list bad rows, totals and the symbols that a vocabulary lacks.",
        examples=("data/mine_custom", "data/mine_custom --vocab vocab.txt --plot durations.png"),
        arguments="f5_tts.scripts.flags:check_dataset",
        run="f5_tts.scripts.check_dataset:run",
    ),
    Command(
        name="extend-vocab",
        module="f5_tts.scripts.extend_vocab",
        group="Data",
        brief="new symbols for a checkpoint",
        does="Give a checkpoint the symbols of a list that it lacks, so that it can be fine-tuned for texts with them.",
        examples=(
            "ckpts/en/model_last.pt letters.txt extended",
            "model.pt letters.txt extended --base_vocab vocab.txt",
        ),
        arguments="f5_tts.scripts.flags:extend_vocab",
        run="f5_tts.scripts.extend_vocab:run",
    ),
    Command(
        name="fetch asr",
        module="f5_tts.scripts.fetch_reward_asr_model",
        group="Data",
        brief="download the recognizer of funasr_wer",
        does="Download SenseVoiceSmall, the speech recognizer of the reward funasr_wer, to a folder.",
        examples=(
            "--cache_dir checkpoints/funasr/SenseVoiceSmall",
            "--cache_dir checkpoints/funasr/SenseVoiceSmall --offline",
        ),
        arguments="f5_tts.scripts.fetch_reward_asr_model:read_arguments",
        run="f5_tts.scripts.fetch_reward_asr_model:run",
    ),
    Command(
        name="fetch speaker",
        module="f5_tts.scripts.fetch_reward_spk_model",
        group="Data",
        brief="download the encoder of wespeaker_sim",
        does="Download the speaker encoder of the reward wespeaker_sim to a folder.",
        examples=(
            "--cache_dir checkpoints/wespeaker/cnceleb_resnet34",
            "--cache_dir checkpoints/wespeaker/cnceleb_resnet34 --archive cnceleb_resnet34.zip",
        ),
        arguments="f5_tts.scripts.fetch_reward_spk_model:read_arguments",
        run="f5_tts.scripts.fetch_reward_spk_model:run",
    ),
    Command(
        name="train",
        module="f5_tts.train.train",
        group="Training",
        brief="train on recordings (stage 1)",
        does="Train or fine-tune a model on recordings (stage 1); the same command resumes a run.",
        examples=(
            "-cn F5TTS_v1_Base datasets.name=mine model.tokenizer=custom ckpts.save_dir=ckpts/mine",
            "-cn F5TTS_Mini datasets.name=mini ckpts.save_dir=runs/mine/stage_1 "
            "ckpts.init_from=pretrained/F5TTS_Mini/model_800.safetensors",
        ),
        arguments="f5_tts.train.flags:stage_1",
        run="f5_tts.train.train:train",
        computes=True,
    ),
    Command(
        name="train-rl",
        module="f5_tts.train.train_rl",
        group="Training",
        brief="train by rewards (stage 2)",
        does="Train a model further by rewards (stage 2), without new recordings; the same command resumes a run.",
        examples=(
            "-cn F5TTS_Mini_Draft ckpts.init_from=pretrained/F5TTS_Mini/model_800.safetensors",
            "-cn F5TTS_RL datasets.name=mine ckpts.save_dir=ckpts/mine_rl rl.group_size=16 optim.learning_rate=1e-6",
        ),
        arguments="f5_tts.train.flags:stage_2",
        run="f5_tts.train.train_rl:train_rl",
        script="f5-tts_train-rl",
        computes=True,
    ),
    Command(
        name="doctor",
        module="f5_tts.scripts.doctor",
        group="Before a run",
        brief="check a run before it starts",
        does="Check a run before it starts, with the arguments of train or train-rl: libraries, data, checkpoint, "
        "rewards, one update, and its cost.",
        examples=(
            "-cn F5TTS_Mini_Draft ckpts.init_from=pretrained/F5TTS_Mini/model_800.safetensors",
            "-cn F5TTS_v1_Base datasets.name=mine model.tokenizer=custom",
        ),
        arguments="f5_tts.scripts.flags:doctor",
        run="f5_tts.scripts.doctor:run",
        computes=True,
    ),
    Command(
        name="budget",
        module="f5_tts.scripts.budget",
        group="Before a run",
        brief="memory that a run needs",
        does="Estimate the memory of a run of train-rl from shapes alone: no weights, no data and no GPU are needed.",
        examples=("optim.bnb_optimizer=true --limit 8", "-cn F5TTS_RL rl.group_size=16 --seconds 12"),
        arguments="f5_tts.scripts.flags:budget",
        run="f5_tts.scripts.budget:run",
    ),
    Command(
        name="scale",
        module="f5_tts.scripts.scale",
        group="Before a run",
        brief="memory and communication on many GPUs",
        does="Estimate memory and communication of train-rl on 1, 8, 64 and 512 GPUs of given bandwidths.",
        examples=("-cn F5TTS_RL", "-cn F5TTS_RL --inside 400 --between 25"),
        arguments="f5_tts.scripts.flags:scale",
        run="f5_tts.scripts.scale:run",
    ),
    Command(
        name="evaluate",
        module="f5_tts.scripts.evaluate",
        group="Measuring",
        brief="error rate and similarity on a test set",
        does="Evaluate a checkpoint, or clips of another system, on a test set: error rate and speaker similarity.",
        examples=(
            "-cn F5TTS_Mini datasets.name=mini eval.ckpt=runs/mine/model_last.pt eval.out=runs/eval",
            "-cn F5TTS_v1_Base eval.ckpt=model.safetensors eval.out=runs/eval eval.list=seedtts/en/meta.lst",
        ),
        arguments="f5_tts.scripts.flags:evaluate",
        run="f5_tts.scripts.evaluate:run",
        computes=True,
    ),
    Command(
        name="best-of",
        module="f5_tts.scripts.best_of",
        group="Measuring",
        brief="the best of N samples, without training",
        does="Evaluate best-of-N sampling: of N samples of each test item the rewards choose one; nothing is trained.",
        examples=(
            "-cn F5TTS_Mini_RL eval.ckpt=model.pt eval.out=runs/best eval.cfg_strengths=[1]",
            "-cn F5TTS_Mini_RL eval.ckpt=model.pt eval.out=runs/best eval.cfg_strengths=[1] eval.best_of=8",
        ),
        arguments="f5_tts.scripts.flags:best_of",
        run="f5_tts.scripts.best_of:run",
        computes=True,
    ),
    Command(
        name="audition",
        module="f5_tts.rewards.audition",
        group="Measuring",
        brief="whether rewards judge as a person would",
        does="Show whether the rewards of a run put recordings and corrupted copies in the order a person would.",
        examples=("-cn F5TTS_Mini_RL", "-cn F5TTS_Mini_RL audition.folder=my_recordings audition.out=runs/audition"),
        arguments="f5_tts.rewards.flags:audition",
        run="f5_tts.rewards.audition:run",
        computes=True,
    ),
    Command(
        name="report",
        module="f5_tts.scripts.report",
        group="Measuring",
        brief="a page to look at, listen to and send on",
        does="Write the report of runs and evaluations, one HTML page: verdict, clips, a blind comparison and curves.",
        examples=("ckpts/mine_rl", "runs/nft runs/draft --out compared.html --judge whisper"),
        arguments="f5_tts.scripts.flags:report",
        run="f5_tts.scripts.report:run",
    ),
    Command(
        name="infer",
        module="f5_tts.infer.cli",
        group="Using a model",
        brief="speak a text in the voice of a recording",
        does="Speak a text in the voice of one or several recordings, into a WAV file.",
        examples=(
            '-r voice.wav -s "what it says" -t "Some text."',
            "-m F5TTS_Mini -p pretrained/F5TTS_Mini/model_800.safetensors",
        ),
        arguments="f5_tts.infer.settings:read_command",
        run="f5_tts.infer.cli:speak",
        script="f5-tts_infer-cli",
        computes=True,
    ),
    Command(
        name="interpolate",
        module="f5_tts.scripts.interpolate",
        group="Using a model",
        brief="weights between those before and after a run",
        does="Interpolate between the weights at the start of a run and those that it trained.",
        examples=(
            "ckpts/mine/model_best.pt ckpts/mine/model_80.safetensors",
            "ckpts/mine/model_best.pt ckpts/mine/model_60.safetensors --share 0.6",
        ),
        arguments="f5_tts.scripts.flags:interpolate",
        run="f5_tts.scripts.interpolate:run",
    ),
    Command(
        name="export",
        module="f5_tts.scripts.export",
        group="Using a model",
        brief="a checkpoint as F5-TTS loads it, with a card",
        does="Export a checkpoint as plain weights that F5-TTS loads, with vocabulary, config and model card.",
        examples=(
            "ckpts/mine/model_last.pt exported",
            "ckpts/mine/model_last.pt exported --languages en --push ME/NAME",
        ),
        arguments="f5_tts.scripts.flags:export",
        run="f5_tts.scripts.export:run",
    ),
    Command(
        name="serve-reward",
        module="f5_tts.rewards.serve",
        group="Using a model",
        brief="a reward by HTTP",
        does="Serve a reward over HTTP, and print the URL for its worker.url.",
        examples=(
            """funasr_wer --config '{"model_id": "checkpoints/funasr/SenseVoiceSmall"}'""",
            "my_rewards:SameLevel --port 0",
        ),
        arguments="f5_tts.rewards.flags:serve",
        run="f5_tts.rewards.serve:run",
        computes=True,
    ),
    Command(
        name="serve-speech",
        module="f5_tts.socket_server",
        group="Using a model",
        brief="speech by TCP",
        does="Speak texts that arrive over TCP; the first speech is sent before the last chunk is generated.",
        examples=("--port 9998", "--model F5TTS_Mini --ckpt_file model.safetensors infer.nfe_step=16"),
        arguments="f5_tts.scripts.flags:serve_speech",
        run="f5_tts.socket_server:run",
        script="f5-tts_socket-server",
        computes=True,
    ),
    Command(
        name="ui",
        module="f5_tts.ui",
        group="Using a model",
        brief="a web page over these commands",
        does="Serve a web page for the files of a folder: speak, make a data set, start and watch runs, compare blind.",
        examples=("", "my_folder --port 7861"),
        arguments="f5_tts.scripts.flags:ui",
        run="f5_tts.ui.__main__:run",
    ),
    Command(
        name="env",
        module="f5_tts.scripts.env",
        group="Help",
        brief="what a bug report needs",
        does="Print what a bug report needs: versions, Python, the system, processors and installed extras.",
        examples=("", "> env.txt"),
        arguments="f5_tts.scripts.flags:env",
        run="f5_tts.scripts.env:run",
    ),
)


def find_command(name: str) -> Command:
    """Return the command of this name."""
    return next(command for command in COMMANDS if command.name == name)


def start(name: str) -> NoReturn:
    """Run a command with the arguments of this process; a module that is a command calls it before its imports."""
    run_command(find_command(name).main, sys.argv[1:])


def start_script() -> NoReturn:
    """Run the command that has a console script of its own, with the arguments of this process."""
    called = Path(sys.argv[0]).stem
    start(next(command.name for command in COMMANDS if command.script == called))


class FlagParser(ArgumentParser):
    """Parser of a command that has flags and no keys."""

    def error(self, message: str) -> NoReturn:
        """End the process with the usage and the message, which says so of words that look like keys."""
        is_key = message.startswith("unrecognized arguments") and "=" in message
        super().error(f"{message}; {self.prog} takes no keys, only the flags above" if is_key else message)


def new_parser(name: str, kind: type[Parser] = FlagParser, usage: str | None = None, **settings: Any) -> Parser:
    """Make an argument parser without arguments for a command, with its sentence and its examples."""
    command = find_command(name)
    examples = "\n".join(f"  f5-tts {name} {words}".rstrip() for words in command.examples)
    other_names = f"python -m {command.module}{command.script and f', {command.script}'}"
    return kind(
        prog=f"f5-tts {name}",
        usage=usage and f"f5-tts {name} {usage}",
        description=f"{fill(command.does, HELP_WIDTH)}\n\nexamples:\n{examples}\n\nthe same: {other_names}",
        formatter_class=RawDescriptionHelpFormatter,
        **settings,
    )


def commands_table() -> str:
    """Format the table of docs/commands.md."""
    rows = ["| | command | what it is for | the same |", "| --- | --- | --- | --- |"]
    group = ""
    for command in COMMANDS:
        heading, group = command.group if command.group != group else "", command.group
        other_names = ", ".join(f"`{name}`" for name in [f"python -m {command.module}", command.script] if name)
        rows.append(f"| {heading} | `f5-tts {command.name}` | {command.brief} | {other_names} |")
    return "\n".join(rows)
