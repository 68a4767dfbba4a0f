from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset as Table
from tests.scripts.recordings import record, run

from f5_tts.commands import find_command
from f5_tts.scripts.check_dataset import vocabulary_of
from f5_tts.scripts.flags import check_dataset as check_dataset_flags

main = find_command("check-dataset").main


def data_set(folder: Path, rows: list[tuple[str, str, float]], speakers: list[str] | None = None) -> Path:
    """Make a data set from rows of (audio, text, duration in duration.json)."""
    columns: dict[str, list] = {
        "audio_path": [str(folder / audio) for audio, _, _ in rows],
        "text": [text for _, text, _ in rows],
    }
    if speakers:
        columns["speaker"] = speakers
    Table.from_dict(columns).save_to_disk(str(folder / "raw"))
    (folder / "duration.json").write_text(json.dumps({"duration": [seconds for _, _, seconds in rows]}))
    return folder


def check(folder: Path, *options: object) -> None:
    assert main([str(folder), "--workers", "1", *map(str, options)])


def test_a_data_set_with_an_audio_column_is_checked_by_its_name(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [str(record(tmp_path / "0.wav")), str(tmp_path / "gone.wav")]
    Table.from_dict({"audio_path": paths, "text": ["one", "two"]}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(SystemExit) as end:
        main(["hf://saved", "--workers", "1"])
    assert end.value.code == 1
    assert "1 of 2 rows are bad; wrote check.jsonl with every finding; repair or remove them" in capsys.readouterr().out


def test_a_good_data_set_is_summed_up(tmp_path, capsys):
    for number in range(3):
        record(tmp_path / f"{number}.wav", 1.0 + number)
    rows = [("0.wav", "abc de", 1.05), ("1.wav", "abc de fghij", 1.95), ("2.wav", "abc de fghij klmno", 3.0)]
    check(data_set(tmp_path, rows, ["x", "y", "x"]))
    console = capsys.readouterr().out
    assert "3 rows, speakers: 2, 0.00 hours; a row lasts 2.00 s on average, 1.00 to 3.00 s" in console
    assert "0 of 3 rows are bad" in console
    assert (tmp_path / "check.jsonl").read_text() == ""


def test_every_bad_row_is_in_the_report_and_the_first_of_each_kind_are_said(tmp_path, capsys):
    record(tmp_path / "good.wav", 2.0)
    record(tmp_path / "silent.wav", volume=0)
    (tmp_path / "words.wav").write_text("none")
    missing = [(f"gone_{number}.wav", "text", 1.0) for number in range(5)]
    rows = [
        *missing,
        ("good.wav", "text", 1.0),
        ("silent.wav", "text", 1.0),
        ("words.wav", "text", 1.0),
        ("good.wav", "", 2.0),
        ("good.wav", " \t", 2.0),
        ("good.wav", "?!", 2.0),
    ]
    folder = data_set(tmp_path, rows)
    with pytest.raises(SystemExit) as ended:
        check(folder, "--report", tmp_path / "r.jsonl")
    assert ended.value.code == 1
    console = capsys.readouterr().out
    assert "5 missing:\n  row 0: " in console and "  and 2 more\n" in console and "row 3:" not in console
    assert "duration.json says 1.00 s, the audio lasts 2.00 s" in console
    assert "1 no word (stage 1 trains on them; stage 2 leaves them out where a reward compares words):" in console
    assert "11 of 11 rows are bad" in console
    result = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text("utf-8").splitlines()]
    kinds = [*["missing"] * 5, "wrong duration", "silent", "unreadable", "no text", "no text", "no word"]
    assert [(row["index"], row["kind"]) for row in result] == list(enumerate(kinds))


def test_rows_spoken_far_faster_or_slower_than_most_are_shown_and_are_not_bad(tmp_path, capsys):
    record(tmp_path / "a.wav")
    texts = ["ten chars.", "ten chars.", "ten chars.", "a" * 31, "abc"]
    check(data_set(tmp_path, [("a.wav", text, 1.0) for text in texts]))
    console = capsys.readouterr().out
    assert "2 odd tempo (worth a look, not counted as bad):\n  row 3:" in console
    assert "3.0 characters a second, where the median is 10.0" in console


def test_symbols_that_the_vocabulary_lacks_are_listed_with_how_many_rows_they_hit(tmp_path, capsys):
    record(tmp_path / "a.wav")
    folder = data_set(tmp_path, [("a.wav", text, 1.0) for text in ("abab", "abcb", "abcd")])
    (tmp_path / "letters.txt").write_text(" \na\nb\n")
    check(folder, "--vocab", tmp_path / "letters.txt")
    assert (
        "lacks 2 symbols, of 2 rows; a model reads them as spaces:\n  'c' in 2, 'd' in 1\n" in capsys.readouterr().out
    )
    (tmp_path / "vocab.txt").write_text(" \na\nb\nc\nd\n")  # the data set's own vocabulary
    check(folder)
    assert "the vocabulary (5 symbols) has every symbol of the texts" in capsys.readouterr().out


def test_sentences_of_a_pinyin_data_set_are_compared_as_the_model_reads_them(tmp_path, capsys):
    folder = tmp_path / "mine_pinyin"
    record(folder / "a.wav")
    data_set(folder, [("a.wav", "你好", 1.0)])
    (tmp_path / "v.txt").write_text(" \nhao3\n")
    check(folder, "--vocab", tmp_path / "v.txt")
    assert "'ni2' in 1" in capsys.readouterr().out
    check(folder)
    assert "the vocabulary (2545 symbols) has every symbol" in capsys.readouterr().out  # that of published weights


def test_keys_of_the_training_are_understood_where_the_command_has_them_as_flags(tmp_path, capsys):
    record(tmp_path / "a.wav")
    folder = data_set(tmp_path, [("a.wav", "ab", 1.0)])
    (tmp_path / "v.txt").write_text(" \nb\n")
    check(folder, "model.tokenizer=char", f"model.tokenizer_path={tmp_path / 'v.txt'}", "datasets.max_seconds=3")
    assert "'a' in 1" in capsys.readouterr().out
    assert vocabulary_of(check_dataset_flags([str(folder), "--tokenizer", "byte"])) is None  # it has no file
    with pytest.raises(SystemExit, match="2"):
        check_dataset_flags([str(folder), "optim.epochs=2"])
    words = "unrecognized arguments: optim.epochs=2; f5-tts check-dataset takes no keys, only the flags above\n"
    assert capsys.readouterr().err.endswith(words)


def test_the_durations_are_drawn(tmp_path):
    record(tmp_path / "a.wav")
    check(data_set(tmp_path, [("a.wav", "text", 1.0)]), "--plot", tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.usefixtures("real_start")
def test_the_command_ends_with_1_when_rows_are_bad(tmp_path):
    record(tmp_path / "a.wav")
    done = run("check_dataset", data_set(tmp_path, [("a.wav", "text", 1.0), ("b.wav", "text", 1.0)]))
    assert done.returncode == 1 and "1 of 2 rows are bad" in done.stdout, done.stderr
    assert json.loads((tmp_path / "check.jsonl").read_text("utf-8"))["index"] == 1
