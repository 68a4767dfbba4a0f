from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import Dataset as Table
from tests.forkserver import FORK
from tests.scripts.recordings import command_of, environment, record, run

from f5_tts.commands import find_command
from f5_tts.data.formats import Entry
from f5_tts.data.rows import Row, read_rows
from f5_tts.data.tokenizer import EMILIA_VOCAB, read_vocabulary
from f5_tts.download import fetch
from f5_tts.scripts import flags
from f5_tts.scripts.prepare import next_steps

main = find_command("prepare").main
check_dataset = find_command("check-dataset").main


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def prepared(source: Path, folder: Path, *options: str) -> list[Row]:
    assert main([str(source), str(folder), "--workers", "1", *options])
    return read_rows(folder)


def test_a_list_becomes_the_layout_with_its_columns_and_the_time_of_the_audio(tmp_path, capsys):
    for name, seconds in (("a.wav", 0.5), ("b.flac", 2.0)):
        record(tmp_path / name, seconds)
    messages = [
        {"audio": "a.wav", "text": "eins", "speaker": 7, "duration": 99},
        {"audio": "b.flac", "text": "zwei", "x": 1.5},
    ]
    folder = tmp_path / "data" / "mine_custom"
    one, two = prepared(write(tmp_path / "list.jsonl", *map(json.dumps, messages)), folder)
    assert (one.text, one.duration, one.speaker, one.columns["x"]) == ("eins", 0.5, "7", None)
    assert (two.text, two.duration, two.speaker, two.columns["x"]) == ("zwei", 2.0, None, 1.5)
    assert two.audio_path == str((tmp_path / "b.flac").resolve())
    assert (folder / "vocab.txt").read_text("utf-8") == " \ne\ni\nn\ns\nw\nz\n"
    assert sorted(path.name for path in folder.iterdir()) == ["duration.json", "prepare.jsonl", "raw", "vocab.txt"]
    console = capsys.readouterr().out
    assert "read as jsonl: 2 entries" in console and "2 rows; the audio stays where it is" in console
    assert "train with datasets.name=mine model.tokenizer=custom" in console
    assert f"\n  cd {tmp_path.resolve()}  #" in console  # where training finds data/


@pytest.mark.parametrize("options", [[], ["--copy"]])
def test_a_folder_is_prepared_and_checked_by_relative_paths(options, tmp_path, monkeypatch, capsys):
    record(tmp_path / "my_recordings" / "anna" / "a.wav", 0.5)
    write(tmp_path / "my_recordings" / "anna" / "a.txt", "one")
    monkeypatch.chdir(tmp_path)
    assert main(["my_recordings", "data/x_custom", "--workers", "1", *options])
    assert "\n  cd " not in capsys.readouterr().out
    (row,) = read_rows(Path("data/x_custom"))
    assert (row.text, row.speaker, row.duration) == ("one", "anna", 0.5)
    assert check_dataset(["data/x_custom", "--workers", "1"])
    assert "0 of 1 rows are bad" in capsys.readouterr().out


def test_home_is_expanded_in_the_paths_of_commands(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    arguments = [
        flags.prepare_parser().parse_args(["~/in", "$HOME/out"]).folder,
        flags.check_dataset_parser().parse_args(["x", "--report", "~/out"]).report,
        flags.export_parser().parse_args(["~/m.pt", "~/out"]).folder,
        fetch.command_line("fetch asr").parse_args(["--cache_dir", "~/out"]).cache_dir,
    ]
    assert arguments == [Path("/home/ann/out")] * 4


def test_what_is_no_use_is_left_out_counted_and_said_with_its_line(tmp_path, capsys):
    record(tmp_path / "good.wav")
    record(tmp_path / "silent.wav", volume=0)
    record(tmp_path / "short.wav", 0.05)
    record(tmp_path / "long.wav", 31)
    write(tmp_path / "words.wav", "no audio")
    names = ["silent", "good", "short", "long", "words", "gone"]
    lines = ["audio_file|text", *(f"{name}.wav|text" for name in names), "good.wav|", "good.wav"]
    (row,) = prepared(write(tmp_path / "list.csv", *lines), tmp_path / "out")
    assert row.text == "text"
    console = capsys.readouterr().out
    assert "left out 7: 1 silent, 1 too short, 1 too long, 1 unreadable, 1 missing, 1 no text, 1 no entry" in console
    assert "  line 2: " in console and "silent.wav is silent: all 8000 samples are zero" in console
    title, *report = map(json.loads, (tmp_path / "out" / "prepare.jsonl").read_text("utf-8").splitlines())
    assert title["entries"] == 8
    assert [entry["place"] for entry in report] == [f"line {number}" for number in (2, 4, 5, 6, 7, 8, 9)]


def test_how_long_a_recording_may_be_is_said_once_for_making_and_checking(tmp_path, capsys):
    record(tmp_path / "long.wav", 31)
    listed = write(tmp_path / "list.csv", "audio_file|text", "long.wav|text")
    (row,) = prepared(listed, tmp_path / "out", "--max_seconds", "31.5")
    assert row.duration == 31.0
    assert check_dataset([str(tmp_path / "out"), "--workers", "1", "--max_seconds", "31"])
    with pytest.raises(SystemExit):
        check_dataset([str(tmp_path / "out"), "--workers", "1"])
    assert (
        "lasts 31.0 s, longer than datasets.max_seconds=30: shorten it, or raise the limit" in capsys.readouterr().out
    )


def test_with_pinyin_the_symbols_are_stored_and_the_sentence_beside_them(tmp_path):
    record(tmp_path / "in" / "a.wav")
    write(tmp_path / "in" / "a.txt", "你好 ok")
    (row,) = prepared(tmp_path / "in", tmp_path / "mine_pinyin")  # the folder's name selects the tokenizer
    assert row.text == [" ", "ni2", " ", "hao3", " ", "o", "k"] and row.sentence == "你好 ok"
    assert not (tmp_path / "mine_pinyin" / "vocab.txt").exists()  # the released vocabulary is part of the package


def test_a_vocabulary_that_is_there_stays_and_audio_is_copied_where_asked(tmp_path, capsys):
    record(tmp_path / "in" / "ann" / "a.wav")
    record(tmp_path / "in" / "bob" / "a.wav", 2.0)
    for who in ("ann", "bob"):
        write(tmp_path / "in" / who / "a.txt", who)
    folder = tmp_path / "out"
    folder.mkdir()
    write(folder / "vocab.txt", " ", "a")
    rows = prepared(tmp_path / "in", folder, "--copy")
    assert [Path(str(row.audio_path)).relative_to(folder).as_posix() for row in rows] == [
        "wavs/000000_a.wav",
        "wavs/000001_a.wav",
    ]
    assert (folder / "wavs/000001_a.wav").read_bytes() == (tmp_path / "in/bob/a.wav").read_bytes()
    assert (folder / "vocab.txt").read_text("utf-8") == " \na\n"
    assert f"was copied to {folder / 'wavs'}" in capsys.readouterr().out


def test_the_vocabulary_of_earlier_rows_goes_with_them_and_one_of_yours_stays(tmp_path, capsys):
    """The advice to remove raw and duration.json left the old vocab.txt, which lacked the letters of the new rows."""
    record(tmp_path / "a.wav")
    source, folder = tmp_path / "list.csv", tmp_path / "out"
    for text in ("abc", "xyz"):
        prepared(write(source, "audio_file|text", f"a.wav|{text}"), folder)
        assert (folder / "vocab.txt").read_text("utf-8") == "\n".join([" ", *text, ""])
        shutil.rmtree(folder / "raw")
        (folder / "duration.json").unlink()
    write(folder / "vocab.txt", " ", "x", "y")
    capsys.readouterr()
    prepared(write(source, "audio_file|text", "a.wav|xyza"), folder)
    assert (folder / "vocab.txt").read_text("utf-8") == " \nx\ny\n"
    console = capsys.readouterr().out
    assert "the vocabulary lacks 2 symbols, of 1 texts; a model reads them as spaces:\n  'a' in 1, 'z' in 1" in console


def test_a_vocabulary_without_the_space_first_is_refused_before_anything_is_decoded(tmp_path):
    source = write(tmp_path / "list.csv", "audio_file|text", "gone.wav|ab")
    (tmp_path / "out").mkdir()
    write(tmp_path / "out" / "vocab.txt", "a", "b")
    with pytest.raises(ValueError, match=r"vocab\.txt: line 1 must be the space"):
        prepared(source, tmp_path / "out")


@pytest.mark.parametrize("tokenizer", ["custom", "pinyin"])
def test_a_base_vocabulary_comes_first_and_the_new_symbols_after_it(tokenizer: str, tmp_path, capsys):
    record(tmp_path / "a.wav")
    source, base = tmp_path / "list.csv", write(tmp_path / "base.txt", " ", "z", "b")
    options, folder = ["--base_vocab", str(base)], tmp_path / f"out_{tokenizer}"
    for text, new in (("abü", "aü"), ("yb", "y")):
        prepared(write(source, "audio_file|text", f"a.wav|{text}"), folder, *options)
        assert (folder / "vocab.txt").read_text("utf-8") == "\n".join([" ", "z", "b", *new, ""])
        console = capsys.readouterr().out
        assert f"begins with the 3 symbols of --base_vocab; {len(new)} are new: '{new[0]}'" in console
        assert f"-cn F5TTS_v1_Base datasets.name=NAME model.tokenizer={tokenizer} " in console
        assert " ckpts.init_from=CHECKPOINT\n" in console
        shutil.rmtree(folder / "raw")
        (folder / "duration.json").unlink()
    write(folder / "vocab.txt", " ", "x")
    with pytest.raises(FileExistsError, match="is a vocabulary of yours"):
        prepared(source, folder, *options)
    with pytest.raises(ValueError, match="has a symbol twice, so that it cannot grow"):
        prepared(source, tmp_path / "other", "--base_vocab", str(write(base, " ", "a", "a")))


def test_the_command_at_the_end_that_evaluates_reads_the_folder_that_was_written(tmp_path):
    """It named a folder of lists before, dev.jsonl and test.jsonl, which nothing writes."""
    folder = tmp_path / "data" / "mine_custom"
    steps = next_steps(folder, "custom", Entry(place="", audio="a", text="b"), None)
    (words,) = (step.split() for step in steps if "f5-tts evaluate" in step)
    assert f"eval.list={folder}" in words
    assert not any(word.startswith("eval.items_dir") for word in words)


def test_the_released_vocabulary_as_base_is_that_of_the_published_model(tmp_path):
    steps = next_steps(tmp_path, "pinyin", Entry(place="", audio="a", text="b"), read_vocabulary(EMILIA_VOCAB))
    (train,) = (line for line in steps if "f5-tts train" in line)
    assert train.endswith(" ckpts.init_from=hf://SWivid/F5-TTS/F5TTS_v1_Base/model_1250000.safetensors")


def test_changes_of_texts_are_counted_and_said_also_by_check_dataset(tmp_path, capsys):
    record(tmp_path / "a.wav")
    texts = ["vie\u0323\u0302t", "ab", " one\ttwo ", "a  e\u0301"]
    source = write(tmp_path / "list.jsonl", *(json.dumps({"audio": "a.wav", "text": text}) for text in texts))
    assert [row.text for row in prepared(source, tmp_path / "out")] == ["việt", "ab", "one two", "a é"]
    assert "ệ" in (tmp_path / "out" / "vocab.txt").read_text("utf-8")
    said = [
        "2 texts have letters with marks in another Unicode form: they are written as the vocabulary has them, or "
        "composed (NFC)",
        "2 texts have line breaks, tabs or several spaces in a row: each of these is written as one space",
    ]
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("2 texts")] == said
    assert check_dataset([str(tmp_path / "out"), "--workers", "1"])
    checked = capsys.readouterr().out.splitlines()
    assert [line for line in checked if "2 texts" in line] == [f"when they were prepared, {line}" for line in said]
    prepared(source, tmp_path / "out")
    assert "holds this data set already" in capsys.readouterr().out


def test_ljspeech_in_the_folder_that_it_becomes_a_data_set_of(tmp_path):
    record(tmp_path / "wavs" / "LJ-1.wav")
    write(tmp_path / "metadata.csv", "LJ-1|Dr. 1|Doctor one")
    assert [row.text for row in prepared(tmp_path, tmp_path)] == ["Doctor one"]


def test_the_same_again_changes_nothing_and_another_list_is_refused(tmp_path, capsys):
    record(tmp_path / "a.wav")
    source, folder = write(tmp_path / "list.csv", "audio_file|text", "a.wav|one", "b.wav|two"), tmp_path / "out"
    prepared(source, folder)
    capsys.readouterr()
    before = (folder / "raw" / "state.json").stat().st_mtime_ns
    prepared(source, folder)
    console = capsys.readouterr().out
    assert "holds this data set already" in console and "left out 1: 1 missing" in console
    assert (folder / "raw" / "state.json").stat().st_mtime_ns == before
    write(source, "audio_file|text", "a.wav|other")
    with pytest.raises(FileExistsError, match=r"out holds another data set, .* remove raw and duration\.json there"):
        prepared(source, folder)
    assert [row.text for row in read_rows(folder)] == ["one"]


def test_a_list_without_a_good_entry_is_refused_with_the_first_reason(tmp_path):
    source = write(tmp_path / "list.csv", "audio_file|text", "a.wav|one")
    with pytest.raises(ValueError, match=r"none of 1 entries can be used; line 2: no audio file at .*a\.wav"):
        prepared(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "kept").mkdir()
    write(tmp_path / "kept" / "vocab.txt", " ", "o")
    with pytest.raises(ValueError, match="none of 1 entries can be used"):
        prepared(source, tmp_path / "kept")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["vocab.txt"]
    record(tmp_path / "a.wav")  # the list stays as it was
    assert len(prepared(source, tmp_path / "kept")) == 1


def test_a_folder_of_recordings_without_texts_names_the_lists_there(tmp_path):
    record(tmp_path / "audio" / "a.wav")
    lists = [write(tmp_path / name, "path,text", "audio/a.wav,one") for name in ("dev.csv", "train.tsv")]
    with pytest.raises(ValueError, match=f"has recordings without texts beside them; .*: {lists[0]} or {lists[1]}$"):
        main([str(tmp_path), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    write(tmp_path / "audio" / "a.txt", "one")
    assert len(prepared(tmp_path, tmp_path / "out")) == 1


def test_writing_the_table_shows_no_bar_of_its_own(tmp_path, capsys):
    record(tmp_path / "a.wav")
    prepared(write(tmp_path / "list.csv", "audio,text", "a.wav,one"), tmp_path / "out")
    assert "Saving" not in capsys.readouterr().err


def test_recordings_that_are_scaled_or_flat_are_counted(tmp_path, capsys):
    noise = np.random.default_rng(0).normal(scale=0.1, size=8_000)
    for name, gain in (("a.wav", 1.0), ("b.wav", 32768.0)):
        soundfile.write(tmp_path / name, gain * noise, 8_000, subtype="FLOAT")
    rows = prepared(write(tmp_path / "list.csv", "audio_file|text", "a.wav|a", "b.wav|b"), tmp_path / "out")
    assert all(row.columns.keys() == {"audio_path", "text", "duration"} for row in rows)
    out = capsys.readouterr().out
    assert "2 recordings are odd: flat level (they are used" in out and "1 recordings are odd: scaled" in out


def test_a_column_of_two_kinds_is_written_as_texts_and_it_is_said(tmp_path, capsys):
    record(tmp_path / "a.wav")
    messages = [{"audio": "a.wav", "text": "a", "age": age} for age in (3, "three")]
    rows = prepared(write(tmp_path / "list.jsonl", *map(json.dumps, messages)), tmp_path / "out")
    assert [row.columns["age"] for row in rows] == ["3", "three"]
    assert "the column age holds values of several kinds: they are written as texts" in capsys.readouterr().out


def many(root: Path) -> Path:
    """Make a list whose first recording is short and whose others take a while to decode."""
    record(root / "first.wav")
    samples = np.random.default_rng(0).normal(scale=0.1, size=29 * 48_000)
    soundfile.write(root / "long.flac", samples, 48_000)
    names = ["first.wav", *["long.flac", "long.flac", "gone.wav"] * 7]
    return write(root / "list.csv", "audio_file|text", *(f"{name}|text {i}" for i, name in enumerate(names)))


def content(folder: Path) -> tuple[list[dict], bytes, bytes, bytes]:
    files = (folder / name for name in ("duration.json", "prepare.jsonl", "vocab.txt"))
    one, two, three = (path.read_bytes() for path in files)
    return Table.load_from_disk(str(folder / "raw")).to_list(), one, two, three


def num_lines(path: Path) -> int:
    return path.read_text("utf-8").count("\n") if path.is_file() else 0


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_stopped_and_makes_the_same(tmp_path, monkeypatch):
    source, whole, part = many(tmp_path), tmp_path / "whole", tmp_path / "part"
    prepared(source, whole)
    journal = part / ".prepare" / "journal.jsonl"
    with subprocess.Popen(command_of("prepare", source, part, "--workers", "1"), env=environment()) as process:
        while num_lines(journal) < 5:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert 5 <= num_lines(journal) < 20 and not (part / "raw").exists() and not (part / "duration.json").exists()
    record(tmp_path / "first.wav", volume=0)  # decoded before, and not decoded again
    with journal.open("a") as stream:
        stream.write('{"audio_path": "cut sh')
    monkeypatch.setenv(FORK, "0")
    again = run("prepare", source, part, "--workers", "2")
    assert again.returncode == 0, again.stderr
    assert content(part) == content(whole) and not (part / ".prepare").exists()
