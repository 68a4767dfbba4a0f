"""Command `f5-tts_infer-cli`: synthesis of a text in the voice of one or several recordings, as a WAV file."""

from __future__ import annotations

import re
import sys
import unicodedata
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import torch

from f5_tts.config.checks import check
from f5_tts.config.load import CommandLine, compose_synthesis_config, config_names, nearest, with_overrides
from f5_tts.config.schema import ConfigError, InferConfig, SynthesisConfig
from f5_tts.data.audio import write_wav
from f5_tts.data.tables import read_text as read_text_file
from f5_tts.entrypoint import run_command
from f5_tts.files import ensure_writable_dir, user_path
from f5_tts.infer.load import load_synthesizer
from f5_tts.infer.reference import Reference, read_reference
from f5_tts.infer.silence import shorten_pauses
from f5_tts.infer.synthesizer import SynthesisInput, SynthesisResult, resolve_seed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

MODEL = "F5TTS_v1_Base"
FOLDER = "runs/infer"
LOCAL_VOCOS = "../checkpoints/vocos-mel-24khz"
EXAMPLES = Path(__file__).with_name("examples")
IN_PACKAGE = "infer/examples/"  # in a path: a file of EXAMPLES, as in F5-TTS
EXAMPLE_VOICE = {"ref_audio": str(EXAMPLES / "basic/seven_two_four.flac"), "ref_text": "seven two four"}
EXAMPLE_TEXT = "nine four eight"
MAIN_VOICE = "main"  # name of the voice of ref_audio and ref_text
ANY_NAME = r"\w+"
MAX_NAME_CHARS = 60  # characters of a chunk's text in its file name

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
VOICE_KEYS = ("ref_audio", "ref_text", "speed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Voice:
    """Reference recording of a voice, and its speed."""

    reference: Reference
    speed: float


# --- arguments and config ---


def command_line() -> CommandLine:
    """Build the argument parser."""
    parser = CommandLine(
        prog="f5-tts_infer-cli",
        usage="f5-tts_infer-cli -m MODEL -p CKPT -r AUDIO -s TEXT -t TEXT [other flags]",
        description=__doc__,
    )
    for names, words in TEXT_FLAGS.items():
        parser.add_argument(*names.split("/"), help=words)
    for name, words in SWITCHES.items():
        parser.add_argument(name, action="store_const", const=True, help=words)
    for name in NUMBER_FLAGS:
        parser.add_argument(f"--{name}", help=f"instead of the config's infer.{name}, see configs/_base.yaml")
    return parser


def read_settings(argv: list[str]) -> dict[str, Any]:
    """Merge the flags with the TOML file; flags win, and keys that neither sets are left out."""
    flags = {name: value for name, value in vars(command_line().parse_args(argv)).items() if value is not None}
    return with_paths({**read_toml(flags["config"]), **flags} if "config" in flags else flags)


def with_examples(settings: dict[str, Any]) -> dict[str, Any]:
    """Add the voice and the text of the packaged example where none is given, and say so."""
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


def read_voices(settings: dict[str, Any], names: set[str], cfg: SynthesisConfig) -> dict[str, Voice]:
    """Load the reference recordings of these voices."""
    tables = {**settings.get("voices", {}), MAIN_VOICE: settings}
    return {name: read_voice(name, tables[name], cfg) for name in sorted(names)}


def read_voice(name: str, table: dict[str, Any], cfg: SynthesisConfig) -> Voice:
    """Load a voice from a table with ref_audio, ref_text and speed; raise ValueError without ref_audio."""
    if not table.get("ref_audio"):
        advice = "give one with --ref_audio" if name == MAIN_VOICE else f"write it into [voices.{name}]"
        raise ValueError(f"the voice {name} has no ref_audio, a recording of it: {advice}")
    speed = [f"infer.speed={table['speed']}"] if "speed" in table else []
    rate, audio = cfg.model.mel_spec.target_sample_rate, packaged(Path(table["ref_audio"]))
    return Voice(
        reference=read_reference(audio, table.get("ref_text", ""), rate, trim=cfg.infer.trim),
        speed=with_overrides(cfg, speed).infer.speed,
    )


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


def write_chunks(results: list[SynthesisResult], out: Path, sample_rate: int, *, ascii_names: bool) -> None:
    """Write each chunk as a numbered WAV file, named after its text."""
    folder = out.with_name(f"{out.stem}_chunks")
    chunks = [chunk for result in results for chunk in result.chunks]
    for number, (text, wave) in enumerate(chunks):
        write_wav(folder / f"{number:03d}_{file_name(text, ascii_names)}.wav", wave, sample_rate)
    print(f"wrote {len(chunks)} chunks into {folder}")


def file_name(text: str, ascii_only: bool) -> str:
    """Make a file name of the letters and digits of a text; ASCII names drop accents and other scripts."""
    if ascii_only:
        text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"\W+", "_", text)[:MAX_NAME_CHARS].strip("_")


# --- command ---


def run_cli(argv: list[str]) -> bool:
    """Run the command; all inputs are checked before the model is loaded."""
    settings = with_examples(read_settings(argv))
    cfg = synthesis_config(settings)
    segments = split_by_voice(read_text(settings), [MAIN_VOICE, *settings.get("voices", {})])
    voices = read_voices(settings, {name for name, _ in segments}, cfg)
    out = output_path(settings)
    synthesizer = load_synthesizer(
        cfg, settings.get("ckpt_file", ""), settings.get("vocab_file", ""), settings.get("device")
    )
    seed = resolve_seed(cfg.infer)
    inputs = [
        SynthesisInput(reference=voices[name].reference, text=text, seed=seed + i, speed=voices[name].speed)
        for i, (name, text) in enumerate(segments)
    ]
    results = synthesizer.synthesize(inputs)
    wave = torch.cat([result.wave for result in results])
    if settings.get("remove_silence"):
        wave = shorten_pauses(wave, synthesizer.sample_rate)
    if settings.get("save_chunk"):
        write_chunks(results, out, synthesizer.sample_rate, ascii_names=not settings.get("no_legacy_text"))
    write_wav(out, wave, synthesizer.sample_rate)
    print(f"wrote {out}, {len(wave) / synthesizer.sample_rate:.1f} s, seed {seed}")
    return True


def main() -> NoReturn:
    """Run the command with the arguments of the process."""
    run_command(run_cli, sys.argv[1:])


if __name__ == "__main__":
    main()
