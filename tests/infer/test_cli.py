from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.test_guides import speaking_commands

from f5_tts import infer
from f5_tts.config.schema import ConfigError
from f5_tts.data.audio import load_audio
from f5_tts.entrypoint import run_command
from f5_tts.infer import silence
from f5_tts.infer.cli import file_name, read_voices, run_cli
from f5_tts.infer.settings import (
    output_path,
    packaged,
    read_settings,
    read_text,
    split_by_voice,
    synthesis_config,
)
from f5_tts.rewards.asr.digits_wer import DigitsWer
from f5_tts.rewards.asr.error_rate import word_errors

ROOT = Path(__file__).parents[2]
BASE = "pretrained/F5TTS_Mini/model_800.safetensors"
CLIP = "data/mini_custom/wavs/test_00_test_prompt_1.flac"
SPEAK = ["-m", "F5TTS_Mini", "-p", BASE, "-r", CLIP, "-s", "seven two four", "-t", "nine four eight"]
EXAMPLES = ROOT / str(infer.__path__[0]) / "examples"
EXAMPLE = EXAMPLES / "basic/basic.toml"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)


def toml(folder: Path, text: str) -> list[str]:
    (folder / "say.toml").write_text(text, encoding="utf-8")
    return ["-c", str(folder / "say.toml")]


def complaint(capsys, *argv: str) -> str:
    """Run the command and return its one-line error message."""
    with pytest.raises(SystemExit) as stop:
        run_command(run_cli, list(argv))
    output = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(output) == 1 and output[0].startswith("error: ")
    return output[0].removeprefix("error: ")


def test_home_is_expanded_in_flags_and_in_the_file_with_its_voices(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = (
        'ref_audio = "~/a.wav"\ngen_file = "$HOME/t.txt"\n[voices.bob]\nref_audio = "~/b.wav"\nref_text = "~/no path"'
    )
    toml(tmp_path, file)
    settings = read_settings(["-c", "~/say.toml", "--output_dir=~/out"])
    expected = {"ref_audio": "a.wav", "gen_file": "t.txt", "output_dir": "out"}
    assert {key: settings[key] for key in expected} == {key: str(tmp_path / name) for key, name in expected.items()}
    assert settings["voices"]["bob"] == {"ref_audio": str(tmp_path / "b.wav"), "ref_text": "~/no path"}


# --- speech ---


@pytest.mark.slow
@pytest.mark.usefixtures("real_start")
def test_the_command_of_the_readme_speaks_with_the_base_that_ships_here(tmp_path: Path):
    words = [*speaking_commands()[0], "-o", str(tmp_path), "-w", "said.wav"]
    done = subprocess.run([sys.executable, "-m", "f5_tts.infer.cli", *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"wrote {tmp_path / 'said.wav'}, ")
    clip = load_audio(tmp_path / "said.wav", 16_000)
    assert soundfile.info(tmp_path / "said.wav").samplerate == 16_000
    edits, _ = word_errors("nine four eight", DigitsWer().transcribe([clip], 16_000)[0])
    assert edits <= 1


def test_the_example_speaks_with_two_voices_in_turn(tmp_path: Path, capsys):
    assert run_cli(["-c", str(EXAMPLE), "-o", str(tmp_path), "--save_chunk"])
    spoken, rate = soundfile.read(tmp_path / "infer_cli_basic.wav")
    chunks = sorted((tmp_path / "infer_cli_basic_chunks").iterdir())
    assert [chunk.name for chunk in chunks] == [
        "000_nine_four_eight.wav",
        "001_three_one_four_one_five.wav",
        "002_six_two_three_eight.wav",
    ]
    np.testing.assert_array_equal(np.concatenate([soundfile.read(chunk)[0] for chunk in chunks]), spoken)
    assert rate == 16_000 and "seed 1" in capsys.readouterr().out


@pytest.mark.slow
def test_a_switch_shortens_the_pauses_of_the_result(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(silence, "MAX_PAUSE_S", 0.02)  # the length of pauses between two words
    slow = [*SPEAK, "-o", str(tmp_path), "--seed", "1", "--fix_duration", "8"]
    assert run_cli([*slow, "-w", "a.wav"]) and run_cli([*slow, "-w", "b.wav", "--remove_silence"])
    whole, shorter = (load_audio(tmp_path / name, 16_000) for name in ("a.wav", "b.wav"))
    assert 0.2 * len(whole) < len(shorter) < len(whole)


# --- arguments and config ---


def test_every_flag_of_f5_tts_is_understood_and_changes_the_config(tmp_path: Path):
    flags = """-c {example} -m F5TTS_Mini -p a.pt -v v.txt -r r.wav -s said -t say -f f.txt -o {out} -w w.wav
    --save_chunk --no_legacy_text --remove_silence --load_vocoder_from_local --vocoder_name vocos --target_rms 0.2
    --cross_fade_duration 0.1 --nfe_step 8 --cfg_strength 1.5 --sway_sampling_coef -0.5 --speed 1.1 --fix_duration 4
    --device cpu --seed 5 --batch_size 2 --sample_from_dist"""
    given = read_settings(shlex.split(flags.format(example=EXAMPLE, out=tmp_path / "out")))
    cfg = synthesis_config(given)
    assert (given["ckpt_file"], given["vocab_file"], given["ref_audio"], given["ref_text"]) == (
        "a.pt",
        "v.txt",
        "r.wav",
        "said",
    )
    assert (given["gen_text"], given["gen_file"], given["device"]) == ("say", "f.txt", "cpu")
    assert given["save_chunk"] and given["no_legacy_text"] and given["remove_silence"]
    assert output_path(given) == tmp_path / "out" / "w.wav"
    assert (cfg.infer.target_rms, cfg.infer.cross_fade_duration, cfg.infer.nfe_step) == (0.2, 0.1, 8)
    assert (cfg.infer.cfg_strength, cfg.infer.sway_sampling_coef, cfg.infer.speed) == (1.5, -0.5, 1.1)
    assert (cfg.infer.fix_duration, cfg.infer.seed, cfg.infer.batch_size) == (4.0, 5, 2)
    assert cfg.model.sample_from_dist and not synthesis_config({"model": "F5TTS_Mini"}).model.sample_from_dist
    assert (cfg.model.vocoder.is_local, cfg.model.vocoder.local_path) == (True, "../checkpoints/vocos-mel-24khz")
    long = {"--config": str(EXAMPLE), "--model_cfg": "m.yaml", "--ckpt_file": "a.pt", "--vocab_file": "v.txt"}
    long |= {"--ref_audio": "r", "--ref_text": "t", "--gen_text": "g", "--gen_file": "f", "--output_dir": "o"}
    output = read_settings([word for pair in long.items() for word in pair])
    assert {f"--{key}": value for key, value in output.items() if f"--{key}" in long} == long


def test_flags_come_before_the_file_and_the_file_before_the_config(tmp_path: Path):
    config = toml(tmp_path, 'model = "F5TTS_Mini"\nnfe_step = 6\nspeed = 2\nsave_chunk = false\n')
    cfg = synthesis_config(read_settings([*config, "--nfe_step", "7"]))
    assert (cfg.infer.nfe_step, cfg.infer.speed, cfg.infer.cfg_strength) == (7, 2.0, 1.0)
    assert read_settings([*config, "--save_chunk"])["save_chunk"] is True


def test_a_model_can_be_described_by_a_file_of_ones_own(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("model: {name: Mine, tokenizer: char, arch: {dim: 16, depth: 2, heads: 1}}")
    cfg = synthesis_config(read_settings(["-mc", str(tmp_path / "mine.yaml"), "--nfe_step", "3"]))
    assert (cfg.model.name, cfg.model.arch.dim, cfg.infer.nfe_step) == ("Mine", 16, 3)


def test_a_file_of_text_comes_before_a_text(tmp_path: Path):
    (tmp_path / "say.txt").write_text("nine\n你好\n", encoding="utf-8")
    assert read_text({"gen_text": "four", "gen_file": str(tmp_path / "say.txt")}) == "nine\n你好\n"
    assert read_text({"gen_text": "four", "gen_file": ""}) == "four"


def test_a_name_in_brackets_switches_the_voice():
    assert split_by_voice("one [b] two\n[main]three [b][main] four", ["main", "b"]) == [
        ("main", "one"),
        ("b", "two"),
        ("main", "three"),
        ("main", "four"),
    ]
    assert split_by_voice("[b] two", ["main", "b"]) == [("b", "two")]


@pytest.mark.parametrize("voices", [["main"], ["main", "b"]])
def test_a_bracket_after_a_backslash_is_text(voices: list[str]):
    assert split_by_voice(r"one \[b] \[main] two", voices) == [("main", "one [b] [main] two")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_text_and_a_toml_file_may_begin_with_a_byte_order_mark(encoding: str, tmp_path: Path):
    (tmp_path / "say.txt").write_text("né\n", encoding=encoding)
    (tmp_path / "a.toml").write_text('gen_text = "né"\n', encoding=encoding)
    assert read_text({"gen_file": str(tmp_path / "say.txt")}) == "né\n"
    assert read_settings(["-c", str(tmp_path / "a.toml")])["gen_text"] == "né"


def test_files_are_named_after_what_they_say_in_ascii_unless_asked_otherwise():
    assert file_name("Très: bien/sûr.. 你好!", ascii_only=True) == "Tres_bien_sur"
    assert file_name("Très: bien/sûr.. 你好!", ascii_only=False) == "Très_bien_sûr_你好"
    assert len(file_name("a" * 500, ascii_only=True)) == 60


def test_a_name_that_is_no_voice_is_text_without_voices_and_the_main_voice_with_some(capsys):
    assert split_by_voice("one [town] two", ["main"]) == [("main", "one [town] two")]
    assert split_by_voice("one [main] two", ["main"]) == [("main", "one"), ("main", "two")]
    assert capsys.readouterr().out == ""
    assert split_by_voice("one [othre] two [other] three", ["main", "other"]) == [
        ("main", "one"),
        ("main", "two"),
        ("other", "three"),
    ]
    assert capsys.readouterr().out == (
        "gen_text names the voice [othre], but the voices are main, other: did you mean other?; the main voice speaks\n"
    )


def test_flags_may_be_abbreviated_and_whole_numbers_written_as_decimals(tmp_path: Path):
    given = read_settings([*toml(tmp_path, "nfe_step = 4.0\nspeed = 1.5\n"), "--ref_aud", "a.wav"])
    assert (given["ref_audio"], given["nfe_step"], given["speed"]) == ("a.wav", 4, 1.5)
    assert synthesis_config({**given, "model": "F5TTS_Mini"}).infer.nfe_step == 4


def test_unknown_keys_of_a_file_are_said_and_ignored(tmp_path: Path, capsys):
    text = "gen_txt = 'a'\nfrobnicate = 1\n[voices.other]\nref_adio = 'a'\nref_text = 'b'\n"
    flags = toml(tmp_path, text)
    assert read_settings(flags) == {"config": flags[1], "voices": {"other": {"ref_text": "b"}}}
    output = capsys.readouterr().out.splitlines()
    assert output[0] == f"unknown key gen_txt in {flags[1]} is ignored: did you mean gen_text?"
    assert output[1].startswith(f"unknown key frobnicate in {flags[1]} is ignored; known: config, model, ")
    assert output[2] == f"unknown key ref_adio in {flags[1]}, [voices.other] is ignored: did you mean ref_audio?"


def test_the_main_voice_may_be_a_table_and_the_top_of_the_file_comes_before_it(tmp_path: Path):
    table = "[voices.main]\nref_audio = 'a.wav'\nref_text = 'b'\n"
    given = read_settings(toml(tmp_path, table))
    assert (given["ref_audio"], given["ref_text"], given["voices"]) == ("a.wav", "b", {})
    assert read_settings(toml(tmp_path, "ref_text = 'top'\n" + table))["ref_text"] == "top"


def test_the_packaged_example_speaks_where_nothing_is_given(tmp_path: Path, capsys):
    out = tmp_path / "elsewhere" / "said.wav"  # an absolute name, whatever the folder is
    assert run_cli(["-m", "F5TTS_Mini", "-p", BASE, "-w", str(out), "-o", str(tmp_path / "folder"), "--seed", "1"])
    output = capsys.readouterr().out
    assert "no gen_text is given: that of the example is used, nine four eight" in output
    assert f"wrote {out}, " in output and soundfile.info(out).samplerate == 16_000


@pytest.mark.parametrize("where", ["", "src/f5_tts/", "/gone/site-packages/f5_tts/"])
def test_packaged_examples_are_found_by_their_path_in_the_package(where: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("basic/basic.toml", "basic.toml"):
        assert packaged(Path(f"{where}infer/examples/{name}")) == EXAMPLE
    given = read_settings(["-c", f"{where}infer/examples/multi/story.toml"])
    cfg = synthesis_config(given)
    voices = ["main", *given["voices"]]
    segments = split_by_voice(read_text(given), voices)
    assert [name for name, _ in segments] == ["main", "town", "country", "main"]
    spoken = read_voices(given, set(voices), cfg)
    assert {name: (voice.reference.text, voice.speed) for name, voice in spoken.items()} == {
        "main": ("seven two four", 1.0),
        "town": ("four eight", 0.8),
        "country": ("six two three", 1.0),
    }


def test_a_file_of_ones_own_comes_before_a_packaged_example(tmp_path: Path):
    mine = tmp_path / "infer/examples/basic/basic.toml"
    assert packaged(mine) == EXAMPLE
    mine.parent.mkdir(parents=True)
    mine.touch()
    assert packaged(mine) == mine


def test_an_example_that_f5_tts_alone_has_is_named_with_those_that_are_here(capsys):
    output = complaint(capsys, *with_flag("-r", "infer/examples/basic/basic_ref_en.wav"))
    assert "the examples of this package are basic.toml, seven_two_four.flac, four_eight.flac" in output


# --- error messages ---


def with_flag(flag: str, value: str) -> list[str]:
    """Return the valid command line with another value for one flag."""
    words = list(SPEAK)
    if flag in words:
        words[words.index(flag) + 1] = value
        return words
    return [*words, flag, value]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (with_flag("-t", ""), "gen_text is empty: give a text with --gen_text or --gen_file"),
        (with_flag("-t", "  [main] "), "gen_text is empty"),
        (with_flag("-f", "gone.txt"), "no text file at gone.txt, which gen_file names"),
        (with_flag("-f", CLIP), "is not text in UTF-8"),
        (with_flag("-r", "gone.wav"), "no audio file at gone.wav"),
        (with_flag("-r", "README.md"), "cannot read README.md as audio"),
        (with_flag("-r", ""), "the voice main has no ref_audio, a recording of it: give one with --ref_audio"),
        (with_flag("-m", "F5TTS_Mnii"), "no config is named F5TTS_Mnii: did you mean F5TTS_Mini?"),
        (with_flag("-p", "gone.pt"), "no file at gone.pt, which ckpt_file names"),
        (with_flag("-p", "pretrained/gone.pt"), "names; pretrained/ is a folder of the repository: start in a clone"),
        (with_flag("-p", ""), "no checkpoint of F5TTS_Mini is published"),
        (with_flag("-p", "pretrained/F5TTS_Mini/README.md"), "README.md cannot be read as a checkpoint"),
        (with_flag("-v", "gone.txt"), "no file at gone.txt, which vocab_file names"),
        (with_flag("-mc", "gone.yaml"), "no config file at gone.yaml"),
        (with_flag("-c", "gone.toml"), "no TOML file at gone.toml"),
        (with_flag("--nfe_step", "x"), "--nfe_step x does not fit: --nfe_step is a whole number, 1 or more"),
        (with_flag("--speed", "0.0"), "--speed 0.0 is not allowed; allowed: a number from 0.01 on"),
        (with_flag("--vocoder_name", "x"), "--vocoder_name x is not allowed"),
        (with_flag("--device", "gpu"), "device gpu cannot be used here"),
        (with_flag("--frob", "3"), "unrecognized arguments: --frob 3; usage: f5-tts infer -m MODEL"),
        (with_flag("--gen", "3"), "ambiguous option: --gen could match --gen_text, --gen_file"),
    ],
)
def test_a_mistake_gets_one_sentence(capsys, argv: list[str], words: str):
    assert words in complaint(capsys, *argv)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ref_audio = 3", "ref_audio = 3 in {} does not fit: it is text"),
        ("remove_silence = 'no'", "remove_silence = 'no' in {} does not fit: it is true or false"),
        ("nfe_step = true", "nfe_step = True in {} does not fit: it is a number"),
        ("voices = 'a'", "voices in {} is not a table of tables; write [voices.NAME]"),
        ("[voices]\nother = 3", "voices in {} is not a table of tables; write [voices.NAME]"),
        ("[voices.other]\nspeed = 'a'", "speed = 'a' in {}, [voices.other] does not fit: it is a number"),
        ("a = [", "{} cannot be read as TOML: "),
    ],
)
def test_a_mistake_in_a_toml_file_names_key_and_file(tmp_path: Path, text: str, words: str):
    flags = toml(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_settings(flags)
    assert words.format(flags[1]) in str(caught.value)


def test_a_transcript_without_its_recording_is_refused(capsys):
    output = complaint(capsys, "-s", "seven two four", "-t", "one")
    assert output == "ref_text=seven two four is given without its recording: give it with --ref_audio"


def test_a_voice_of_a_file_needs_its_recording_where_it_speaks(tmp_path: Path, capsys):
    flags = [*toml(tmp_path, "[voices.other]\nref_text = 'one'\n"), *SPEAK]
    output = complaint(capsys, *flags, "-t", "one [other] two")
    assert output == "the voice other has no ref_audio, a recording of it: write it into [voices.other]"


def test_a_voices_speed_is_checked_like_any_other(tmp_path: Path, capsys):
    flags = [*toml(tmp_path, f"[voices.other]\nref_audio = '{CLIP}'\nref_text = 'a'\nspeed = 0\n"), *SPEAK]
    assert "--speed 0.0 is not allowed" in complaint(capsys, *flags, "-t", "[other] two")


def test_where_the_result_goes_is_looked_at_before_any_model(tmp_path: Path, capsys):
    (tmp_path / "file").touch()
    gone = [*SPEAK, "-p", "gone.pt"]
    assert "it must end with .wav" in complaint(capsys, *gone, "-o", str(tmp_path), "-w", "a.mp3")
    assert "cannot write to output_dir=" in complaint(capsys, *gone, "-o", str(tmp_path / "file"), "-w", "a.wav")


def test_a_local_vocoder_is_refused_where_another_kind_speaks(capsys):
    assert "--load_vocoder_from_local is for vocos alone" in complaint(capsys, *SPEAK, "--load_vocoder_from_local")


def test_a_voice_that_no_text_could_name_is_refused(tmp_path: Path, capsys):
    file = toml(tmp_path, '[voices.my-voice]\nref_audio = "a.wav"')
    assert "[voices.my-voice]" in complaint(capsys, *file, *SPEAK)


def test_an_empty_text_in_a_file_is_as_if_it_were_not_there(tmp_path: Path):
    assert read_settings(toml(tmp_path, 'model_cfg = ""\ndevice = ""\nref_text = ""')).keys() == {
        "config",
        "ref_text",
        "voices",
    }
