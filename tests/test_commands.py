"""The table of commands: their help, their examples, and what is imported before their arguments are known."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name

import click
import pytest
from omegaconf import DictConfig, OmegaConf

import f5_tts
from f5_tts.__main__ import Branch, Leaf
from f5_tts.commands import COMMANDS, Command, commands_table, find_command
from f5_tts.config.command_line import load_config
from f5_tts.config.keys import key_paths
from f5_tts.config.schema import TOKENIZERS, ConfigError, RLTrainConfig
from f5_tts.config.yaml_files import read_yaml
from f5_tts.data import formats, tokenizer
from f5_tts.scripts import flags

SRC = Path(f5_tts.__file__).parent
ROOT = Path(__file__).parents[1]
NAMES = [command.name for command in COMMANDS]
HEAVY = ["torch", "numpy", "scipy", "datasets", "accelerate", "soundfile", "huggingface_hub", "transformers"]
EVERYTHING_LIGHT = """
import json, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

from f5_tts.__main__ import main
from f5_tts.train import finetune_cli
from f5_tts.ui.__main__ import main as page_of_f5_tts

def ended(*words):
    sys.argv[1:] = words
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        try:
            main()
        except SystemExit as end:
            return end.code, out.getvalue(), err.getvalue()

def flags_of_f5_tts():
    with redirect_stdout(StringIO()) as out:
        try:
            finetune_cli.run_cli(["--help"])
        except SystemExit as end:
            return end.code, out.getvalue(), ""

asked, heavy = json.loads(sys.argv[1])
answers = [ended(*words) for words in asked] + [flags_of_f5_tts()]
print(json.dumps([answers, [name for name in heavy if name in sys.modules]]))
"""
START = "ckpts.init_from=pretrained/F5TTS_Mini/model_800.safetensors"
CLIPS = "eval.wavs=docs eval.out=b"
MISTAKES = {
    f"train-rl -cn F5TTS_Mini_RL {START} rl.stpes=8": "unknown key rl.stpes in F5TTS_Mini_RL: did you mean rl.steps?",
    "train -cn F5TTS_Mini datasets.name=gone": "no data set at data/gone_custom",
    "train -cn F5TTS_Mini datasets.name=mini ckpts.init_from=a.pt": "no file at a.pt, which ckpts.init_from names",
    f"train-rl -cn F5TTS_Mini_RL {START} rl.ref_model_ckpt=a": "no checkpoint at a, which rl.ref_model_ckpt names",
    "evaluate eval.ckpt=a.pt eval.out=b": "no checkpoint at a.pt, which eval.ckpt names",
    "audition -cn F5TTS_Mini_RL audition.folder=gone": "no folder at gone, which audition.folder names",
    "audition datasets.name=gone": "no data set at data/gone_pinyin",
    "report runs/gone": "no folder at runs/gone; a report is of a run (ckpts.save_dir)",
    "train-rl -cn F5TTS_Mini_RL ckpts.save_dir=gone": "no model_last.pt or model_<update>.pt in ckpts.save_dir=gone",
    f"train-rl -cn F5TTS_Mini_RL {START} rl.rewards.providers.0.name=a": "no reward provider is called 'a'; known: ",
    f"evaluate {CLIPS} eval.recognisers=[whispr]": "eval.recognisers.0.name: no reward provider is called 'whispr'",
    "doctor -cn F5TTS_Mini rl.step=2": "unknown key rl.step",
    "serve-reward voice_simm": "serve.name: no reward provider is called 'voice_simm' (did you mean voice_sim?)",
    "serve-reward funasr_wer --config gone.json": "--config gone.json is not JSON",
    "ui gone": "no folder at gone",
    f"evaluate {CLIPS} eval.items_dir=docs": "no dev.jsonl and no test.jsonl in eval.items_dir=docs, seen from here",
    f"evaluate {CLIPS} eval.list=gone.lst": "no file at gone.lst, which eval.list names",
    "infer model.vocoder.name=griffin_lim": "takes flags, not keys: --vocoder_name griffin_lim; usage: f5-tts infer -m",
    "infer -r a.wav": "no audio file at a.wav",
    "infer -p a.pt": "no file at a.pt, which ckpt_file names",
    "prepare a.csv data/b_custom": "no file or folder at a.csv",
    "check-dataset data/b_custom": "no data set at data/b_custom",
    "export a.pt out": "no checkpoint at a.pt",
    "extend-vocab a.pt a.txt out": "no file at a.pt, which CKPT names",
    "interpolate a.pt b.safetensors": "no file at a.pt, which CKPT names",
    "trian": "has no command trian: did you mean train?",
    "fetch asrr": "has no command asrr: did you mean asr?",
}


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[int, str, str]]:
    """Return exit code, stdout and stderr of each command's help and of mistakes, all from one process.

    The last one is the help of f5-tts_finetune-cli.
    """
    lines = ["--help", "--version", *(f"{name} --help" for name in NAMES), "train-rl --help rl", *MISTAKES]
    asked = json.dumps([[line.split() for line in lines], HEAVY])
    output = subprocess.check_output([sys.executable, "-c", EVERYTHING_LIGHT, asked], text=True, cwd=ROOT)
    told, heavy = json.loads(output)
    assert heavy == []
    return dict(zip([*lines, "finetune"], told, strict=True))


def test_the_list_of_commands_fits_a_screen_and_has_each(answers):
    code, text, _ = answers["--help"]
    lines = text.splitlines()
    assert code == 0 and len(lines) <= 24 and max(map(len, lines)) <= 90
    assert all(f" {command.name:14} {command.brief}\n" in text for command in COMMANDS)
    assert answers["--version"][:2] == [0, f"f5-tts-rl {f5_tts.__version__}\n"]


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_help_has_a_sentence_and_two_examples_and_starts_nothing(answers, command: Command):
    code, text, error = answers[f"{command.name} --help"]
    assert (code, error) == (0, "")
    assert text.startswith(f"usage: f5-tts {command.name}")
    assert command.does in " ".join(text.split()) and command.does.endswith(".")
    assert all(f"f5-tts {command.name} {words}".rstrip() + "\n" in text for words in command.examples)
    assert f"python -m {command.module}" in text


def test_help_of_f5_ttss_flags_starts_nothing_either(answers):
    assert answers["finetune"][0] == 0 and "--exp_name" in answers["finetune"][1]


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_are_answered_before_torch_is_imported(answers, line: str):
    code, _, error = answers[line]
    assert code == 2
    assert error.startswith("error: ") and error.count("\n") == 1 and MISTAKES[line] in error


def test_help_on_a_section_explains_its_keys_with_their_values(answers):
    code, text, _ = answers["train-rl --help rl"]
    assert code == 0
    told = re.findall(r"^(rl\.\S+)=", text, re.MULTILINE)
    assert told == [key for key in key_paths(read_yaml("F5TTS_RL")) if has_value(key)]
    assert "rl.group_size=null\n    samples of one prompt that are compared;" in text
    assert "rl.rewards.gates=[]\n    a list; each entry: reward" in text


def has_value(key: str) -> bool:
    """Check whether a key is one of the section rl, none of an entry of a list, and no section itself."""
    value = None if re.search(r"\.\d", key) else OmegaConf.select(read_yaml("F5TTS_RL"), key)
    return key.startswith("rl.") and not re.search(r"\.\d", key) and not isinstance(value, DictConfig)


def explained(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit):
        load_config([*words], default="F5TTS_RL", schema=RLTrainConfig)
    return capsys.readouterr().out


def test_help_on_one_key_has_the_value_of_the_named_config(capsys):
    assert explained(capsys, "-cn", "F5TTS_Mini_RL", "--help", "rl.steps").startswith("rl.steps=4\n    solver steps")


def test_help_on_a_key_that_there_is_not_suggests_one(capsys):
    with pytest.raises(ConfigError, match=r"F5TTS_RL has no section or key rl\.stpes: did you mean rl\.steps\?"):
        load_config(["--help", "rl.stpes"], default="F5TTS_RL", schema=RLTrainConfig)


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_examples_are_understood_and_name_files_of_yours_at_most(command: Command):
    for words in command.examples:
        with suppress(FileNotFoundError):
            resolve_name(command.arguments)(shlex.split(words.partition(">")[0]))
    assert callable(resolve_name(command.run))


def documented_lines() -> list[str]:
    """List the arguments of each `f5-tts` in a bash block of the documents."""
    texts = [path.read_text("utf-8") for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]]
    blocks: list[str] = [block for text in texts for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [
        line.partition("f5-tts ")[2]
        for line in lines
        if re.match(r"([A-Z_]+=\S+ )*(\S*bin/)?f5-tts (?!.*--help)", line)
    ]


@pytest.mark.parametrize("line", documented_lines())
def test_documented_lines_are_understood(line: str):
    """Find no problem but files that a reader has: one is a FileNotFoundError, several are numbered."""
    command = max((command for command in COMMANDS if line.startswith(command.name)), key=lambda found: len(found.name))
    problems = ""
    try:
        resolve_name(command.arguments)(shlex.split(line.removeprefix(command.name), comments=True))
    except FileNotFoundError:
        return
    except ValueError as error:
        problems = str(error)
    assert [
        text
        for text in re.split(r"\n?\d+\. ", problems)[1:]
        if not re.match("no (file|data set) at|no model_last.pt", text)
    ] == []
    assert re.fullmatch(r"(\d+ problems)?", problems.partition("\n")[0])


def test_the_page_on_commands_has_the_table():
    """Print the table with `python -c "from f5_tts.commands import commands_table; print(commands_table())"`."""
    assert commands_table() in (ROOT / "docs/commands.md").read_text("utf-8")


def test_every_module_that_is_a_command_is_in_the_table():
    texts = {path: path.read_text("utf-8") for path in SRC.rglob("*.py")}
    called = {
        name: ".".join(("f5_tts", *path.relative_to(SRC).with_suffix("").parts)).removesuffix(".__main__")
        for path, text in texts.items()
        for name in re.findall(r"^if __name__ == .*\n    start\(\"(.*)\"\)", text, re.MULTILINE)
    }
    assert called == {command.name: command.module for command in COMMANDS}


def test_scripts_of_their_own_are_installed_for_those_that_f5_tts_has():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    installed = re.findall(r'^(f5-tts\S+) = "f5_tts\.commands:start_script"', text, re.MULTILINE)
    assert set(installed) == {command.script for command in COMMANDS if command.script}


def test_flags_allow_what_the_data_layer_knows():
    assert list(flags.FORMATS) == list(formats.FORMATS)
    assert list(TOKENIZERS) == list(tokenizer.TOKENIZERS)


@pytest.mark.parametrize(
    ("line", "incomplete", "words"),
    [
        ("train-rl", "rl.group", ["rl.group_size="]),
        ("train -cn", "F5TTS_v1", ["F5TTS_v1_Base", "F5TTS_v1_Small"]),
        ("prepare", "--t", ["--tokenizer"]),
    ],
)
def test_words_are_completed(line: str, incomplete: str, words: list[str]):
    name, *given = line.split()
    leaf = Leaf(find_command(name))
    context = click.Context(leaf)
    context.args = given
    assert [item.value for item in leaf.shell_complete(context, incomplete)] == words


def test_names_of_commands_are_completed():
    branch = Branch()
    assert [item.value for item in branch.shell_complete(click.Context(branch), "f")] == ["fetch"]


def test_env_has_what_a_bug_report_needs_and_no_path(capsys):
    assert find_command("env").main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:6]] == ["f5-tts-rl", "Python", "system", "CPU", "GPU", "torch"]
    assert f5_tts.__version__ in lines[0] and str(Path.home()) not in "\n".join(lines)
    assert "doctor" in lines[-1]
