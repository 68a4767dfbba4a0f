"""Settings of `infer`: its flags, TOML files and texts, which are read before torch is imported."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from f5_tts.commands import new_parser
from f5_tts.config.checks import check
from f5_tts.config.command_line import CommandLine
from f5_tts.config.key_help import key_comments
from f5_tts.config.keys import nearest
from f5_tts.config.load import compose_synthesis_config
from f5_tts.config.schema import ConfigError, InferConfig, SynthesisConfig
from f5_tts.config.yaml_files import config_names
from f5_tts.data.paths import require_audio
from f5_tts.data.tables import read_text as read_text_file
from f5_tts.download.hub import require_file
from f5_tts.files import ensure_writable_dir, user_path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

MODEL = "F5TTS_v1_Base"
PUBLISHED = {
    "F5TTS_v1_Base": "hf://SWivid/F5-TTS/F5TTS_v1_Base/model_1250000.safetensors",
    "F5TTS_Base": "hf://SWivid/F5-TTS/F5TTS_Base/model_1200000.safetensors",
    "E2TTS_Base": "hf://SWivid/E2-TTS/E2TTS_Base/model_1200000.safetensors",
}  # model.name -> published checkpoint
FOLDER = "runs/infer"
LOCAL_VOCOS = "../checkpoints/vocos-mel-24khz"
EXAMPLES = Path(__file__).with_name("examples")
IN_PACKAGE = "infer/examples/"  # in a path: a file of EXAMPLES, as in F5-TTS
EXAMPLE_VOICE = {"ref_audio": str(EXAMPLES / "basic/seven_two_four.flac"), "ref_text": "seven two four"}
EXAMPLE_TEXT = "nine four eight"
MAIN_VOICE = "main"  # name of the voice of ref_audio and ref_text
ANY_NAME = r"\w+"

TEXT_FLAGS = {
    "-c/--config": "a TOML file with the names of these flags as keys; flags come before it",
    "-m/--model": f"{', '.join(config_names())}; default: {MODEL}",
    "-mc/--model_cfg": "a YAML file instead, with a model section (and perhaps an infer section)",
    "-p/--ckpt_file": "weights: a path or hf://org/repo/path; default: the published ones of the model",
    "-v/--vocab_file": "vocabulary: as for weights; default: vocab.txt beside them, else the released one",
    "-r/--ref_audio": "a recording of the voice, 3 to 12 s, any format",
    "-s/--ref_text": "its transcript; without it, an installed recognizer hears it (Whisper or SenseVoice)",
    "-t/--gen_text": "text to synthesize; [NAME] switches to the voice of [voices.NAME] of the TOML file, [main] in "
    "the first; \\[ is a bracket",
    "-f/--gen_file": "a text file to synthesize, instead of gen_text",
    "-o/--output_dir": f"default: {FOLDER}",
    "-w/--output_file": "default: infer_cli_<date>_<time>.wav",
    "--vocoder_name": "default: the config's model.vocoder.name",
    "--trim": "how recordings are trimmed: upstream or ours, instead of the config's infer.trim",
    "--device": "cpu, cuda, cuda:1, xpu, mps, ...; default: a GPU if there is one",
}
SWITCHES = {
    "--save_chunk": "also write each chunk, into <output_dir>/<output_file>_chunks",
    "--no_legacy_text": "names of these files keep letters that are not ASCII",
    "--remove_silence": "shorten pauses longer than a second to a second",
    "--sample_from_dist": "sample each velocity from the Gaussian head of stage 1 or 2, with the seed; default: its "
    "mean",
    "--load_vocoder_from_local": f"read Vocos from model.vocoder.local_path, or from {LOCAL_VOCOS} if that is null",
}
NUMBER_FLAGS = [field.name for field in fields(InferConfig) if field.name not in ("ode_method", "epss", "trim")]
PATH_KEYS = ("ref_audio", "gen_file", "output_dir", "output_file")  # other paths are expanded where they are read
FLAGS_OF_KEYS = {
    r"into a folder and add model\.vocoder\.is_local=true model\.vocoder\.local_path=FOLDER": f"into {LOCAL_VOCOS} and "
    "add --load_vocoder_from_local",
    r"model\.vocoder\.is_local=true": "--load_vocoder_from_local",
    r"model\.vocoder\.name=": "--vocoder_name ",
    rf"\binfer\.({'|'.join(NUMBER_FLAGS)}|trim)(=| )": r"--\1 ",
}  # pattern of what an error says -> the same in words of this command
VOICE_KEYS = ("ref_audio", "ref_text", "speed")


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechOrder:
    """What a command line of `infer` asks for."""

    settings: dict[str, Any]  # flags and TOML keys
    cfg: SynthesisConfig
    segments: list[tuple[str, str]]  # pairs of voice and text
    out: Path


@contextmanager
def say_flags() -> Iterator[None]:
    """Let the errors of the block name flags where they name keys that have one: this command takes no keys."""
    try:
        yield
    except (ValueError, OSError) as error:
        text = str(error)
        for key, flag in FLAGS_OF_KEYS.items():
            text = re.sub(key, flag, text)
        raise type(error)(text) from error


def read_command(argv: list[str]) -> SpeechOrder:
    """Read the flags, compose the config and split the text; raise an error if a file is missing that they name."""
    with say_flags():
        return read_order(argv)


def read_order(argv: list[str]) -> SpeechOrder:
    """Read what a command line asks for; errors name keys of the config."""
    settings = with_examples(read_settings(argv))
    cfg = synthesis_config(settings)
    segments = split_by_voice(read_text(settings), [MAIN_VOICE, *settings.get("voices", {})])
    for name in dict.fromkeys(name for name, _ in segments):
        require_audio(reference_of(voice_table(settings, name), name))
    out = output_path(settings)
    for key in ("ckpt_file", "vocab_file"):
        if settings.get(key):
            require_file(settings[key], key)
    return SpeechOrder(settings=settings, cfg=cfg, segments=segments, out=out)


# --- arguments and config ---


class FlagLine(CommandLine):
    """Argument parser of a command that takes flags, where a user of the other commands writes keys."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError that says so of keys; `say_flags` writes those that have a flag as flags."""
        start = "unrecognized arguments: "
        is_key = message.startswith(start) and "=" in message and not message.startswith(f"{start}-")
        super().error(message.replace(start, "this command takes flags, not keys: ") if is_key else message)


def command_line() -> FlagLine:
    """Build the argument parser."""
    usage = "-m MODEL -p CKPT -r AUDIO -s TEXT -t TEXT [other flags]"
    parser = new_parser("infer", FlagLine, usage=usage)
    for names, words in TEXT_FLAGS.items():
        parser.add_argument(*names.split("/"), help=words)
    for name, words in SWITCHES.items():
        parser.add_argument(name, action="store_const", const=True, help=words)
    for name in NUMBER_FLAGS:
        parser.add_argument(f"--{name}", help=key_comments()[f"infer.{name}"].replace("%", "%%"))
    return parser


def read_settings(argv: list[str]) -> dict[str, Any]:
    """Merge the flags with the TOML file; flags win, and keys that neither sets are left out."""
    flags = {name: value for name, value in vars(command_line().parse_args(argv)).items() if value is not None}
    return with_paths({**read_toml(flags["config"]), **flags} if "config" in flags else flags)


def with_examples(settings: dict[str, Any]) -> dict[str, Any]:
    """Add the voice and the text of the packaged example where none is given, and say so.

    Raises ConfigError for a transcript without its recording.
    """
    if settings.get("ref_text") and "ref_audio" not in settings:
        raise ConfigError(f"ref_text={settings['ref_text']} is given without its recording: give it with --ref_audio")
    added: dict[str, Any] = {} if "ref_audio" in settings else EXAMPLE_VOICE
    if not {"gen_text", "gen_file"} & settings.keys():
        added = {**added, "gen_text": EXAMPLE_TEXT}
    for key, value in added.items():
        print(f"no {key} is given: that of the example is used, {value}")
    return {**settings, **added}


def with_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Expand ~ and variables in the paths of flags, or of a TOML file and its voices."""
    voices = {name: with_paths(table) for name, table in settings.get("voices", {}).items()}
    paths = {key: str(user_path(value)) for key, value in settings.items() if key in PATH_KEYS and value}
    return {**settings, **paths, **({"voices": voices} if voices else {})}


def read_toml(name: str) -> dict[str, Any]:
    """Read a TOML file; raise ConfigError for an unknown key or a value of the wrong type."""
    path = packaged(user_path(name))
    if not path.is_file():
        raise ConfigError(f"no TOML file at {path}")
    try:
        values = tomllib.loads(read_text_file(path))
    except (ValueError, RecursionError) as error:  # ValueError: not a text, or no TOML
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from error
    voices = values.pop("voices", {})
    types = toml_types()
    values = known_values(values, types, name)
    values = {key: value for key, value in values.items() if value != "" or key == "ref_text"}
    if not isinstance(voices, dict) or not all(isinstance(voice, dict) for voice in voices.values()):
        raise ConfigError(f"voices in {path} is not a table of tables; write [voices.NAME]")
    for voice, table in voices.items():
        if not re.fullmatch(r"\w+", voice):
            raise ConfigError(f"[voices.{voice}] in {path}: a voice's name may have only letters, digits and _")
        voices[voice] = known_values(table, {key: types[key] for key in VOICE_KEYS}, f"{name}, [voices.{voice}]")
    return {**voices.pop(MAIN_VOICE, {}), **values, "voices": voices}


def toml_types() -> dict[str, tuple[type, ...]]:
    """List the allowed types of each TOML key."""
    texts = {flag.rpartition("--")[2]: (str,) for flag in TEXT_FLAGS}
    switches = {flag.removeprefix("--"): (bool,) for flag in SWITCHES}
    return texts | switches | dict.fromkeys(NUMBER_FLAGS, (int, float))


def packaged(path: Path) -> Path:
    """Return the file of this package that a path such as infer/examples/basic/basic.toml names, unless it is there.

    Raises FileNotFoundError where the package has no example of that name.
    """
    if IN_PACKAGE not in path.as_posix() or path.is_file():
        return path
    examples = {file.name: file for file in sorted(EXAMPLES.rglob("*.*"))}
    if path.name not in examples:
        raise FileNotFoundError(
            f"no file at {path}, and the examples of this package are {', '.join(examples)} (those of F5-TTS are not "
            "here): name one of them, or a file of yours"
        )
    return examples[path.name]


def known_values(values: dict[str, Any], types: dict[str, tuple[type, ...]], source_name: str) -> dict[str, Any]:
    """Return the values of known keys, whole numbers as such; print unknown keys, each with the most similar known one.

    Raises ConfigError for a value of the wrong type.
    """
    words = {(str,): "text", (bool,): "true or false", (int, float): "a number"}
    for key, value in values.items():
        if key not in types:
            hint = nearest(key, list(types), cutoff=0.6) or f"; known: {', '.join(types)}"
            print(f"unknown key {key} in {source_name} is ignored{hint}")
        elif type(value) not in types[key]:
            raise ConfigError(f"{key} = {value!r} in {source_name} does not fit: it is {words[types[key]]}")
    known = {key: value for key, value in values.items() if key in types}
    return {key: int(v) if isinstance(v, float) and v.is_integer() else v for key, v in known.items()}


def synthesis_config(settings: dict[str, Any]) -> SynthesisConfig:
    """Compose the config with the overrides of the flags."""
    overrides = [f"infer.{name}={settings[name]}" for name in NUMBER_FLAGS if name in settings]
    if "trim" in settings:
        overrides.append(f"infer.trim={settings['trim']}")
    if "vocoder_name" in settings:
        overrides.append(f"model.vocoder.name={settings['vocoder_name']}")
    cfg = compose_synthesis_config(settings.get("model", MODEL), overrides, settings.get("model_cfg"))
    if settings.get("load_vocoder_from_local"):
        cfg.model.vocoder.is_local = True
        cfg.model.vocoder.local_path = cfg.model.vocoder.local_path or LOCAL_VOCOS
        check(cfg)
    if settings.get("sample_from_dist"):
        cfg.model.sample_from_dist = True  # the checkpoint decides whether there is a Gaussian head
    return cfg


# --- voices and texts ---


def voice_table(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the table of a voice; that of the main one are the settings themselves."""
    return {**settings.get("voices", {}), MAIN_VOICE: settings}[name]


def reference_of(table: dict[str, Any], name: str) -> Path:
    """Return the path of a voice's recording; raise ValueError without one."""
    if not table.get("ref_audio"):
        advice = "give one with --ref_audio" if name == MAIN_VOICE else f"write it into [voices.{name}]"
        raise ValueError(f"the voice {name} has no ref_audio, a recording of it: {advice}")
    return packaged(Path(table["ref_audio"]))


def read_text(settings: dict[str, Any]) -> str:
    """Return the text to synthesize; as in F5-TTS, a file takes precedence over a text."""
    if not settings.get("gen_file"):
        return settings.get("gen_text", "")
    path = packaged(Path(settings["gen_file"]))
    if not path.is_file():
        raise FileNotFoundError(f"no text file at {path}, which gen_file names")
    return read_text_file(path)


def split_by_voice(text: str, voices: list[str]) -> list[tuple[str, str]]:
    """Split a text at its [NAME] tags into pairs of voice and text; it starts with the main voice.

    Without other voices than the main one, another tag is text. With other voices, an unknown one is printed, and the
    main voice speaks. A bracket after a backslash is text. Raises ValueError for an empty text.
    """
    tag = rf"(?<!\\)\[({ANY_NAME if len(voices) > 1 else MAIN_VOICE})\]"
    names, texts = [MAIN_VOICE, *re.findall(tag, text)], re.split(tag, text)[::2]
    for name in sorted(set(names) - set(voices)):
        print(
            f"gen_text names the voice [{name}], but the voices are {', '.join(voices)}"
            f"{nearest(name, voices, cutoff=0.6)}; the main voice speaks"
        )
    names = [name if name in voices else MAIN_VOICE for name in names]
    texts = [text.replace(r"\[", "[").strip() for text in texts]
    segments = [(name, text) for name, text in zip(names, texts, strict=True) if text]
    if not segments:
        raise ValueError("gen_text is empty: give a text with --gen_text or --gen_file")
    return segments


# --- files ---


def output_path(settings: dict[str, Any]) -> Path:
    """Return the path of the WAV file, after making its folder and checking that it is writable."""
    name = settings.get("output_file") or f"infer_cli_{datetime.now():%Y%m%d_%H%M%S}.wav"
    if ".." in Path(name).parts:
        raise ValueError(f"output_file={name} lies outside of output_dir: name the folder there")
    path = Path(settings.get("output_dir") or FOLDER) / name
    if path.suffix.lower() != ".wav":
        raise ValueError(f"output_file={name} is not the name of a WAV file: it must end with .wav")
    ensure_writable_dir(path.parent, "output_dir")
    return path
