from __future__ import annotations

import json
from pathlib import Path

import pytest

from f5_tts.data.formats import Entry, read_entries
from f5_tts.data.tables import AUDIO_NAMES


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def places(entries: list[Entry]) -> list[tuple[str, str, str]]:
    """Return, for each entry, its line or path in the source, the file name, and the text or the problem."""
    return [(entry.place, Path(entry.audio).name, entry.text or entry.problem) for entry in entries]


@pytest.mark.parametrize("sign", ["|", "\t", ","], ids=["pipe", "tab", "comma"])
def test_a_csv_is_recognised_by_its_header_whatever_separates_it(sign, tmp_path):
    lines = [["audio_file", "text", "speaker"], ["a.wav", "one  two", "ann"], ["/b/c.wav", "three", "bob"]]
    kind, entries = read_entries(write(tmp_path / "list.csv", *map(sign.join, lines)))
    assert kind == "csv"
    assert [entry.audio for entry in entries] == [str((tmp_path / "a.wav").resolve()), "/b/c.wav"]
    assert places(entries) == [("line 2", "a.wav", "one two"), ("line 3", "c.wav", "three")]
    assert [entry.columns for entry in entries] == [{"speaker": "ann"}, {"speaker": "bob"}]


def test_quotes_are_text_between_pipes_and_hold_commas_between_commas(tmp_path):
    _, piped = read_entries(write(tmp_path / "a.csv", "audio_file|text", 'a.wav|"Oh," she said', "b.wav|no"))
    _, commas = read_entries(write(tmp_path / "b.csv", "audio_file,text", 'a.wav,"Oh, she said"', "b.wav,no"))
    assert [entry.text for entry in piped] == ['"Oh," she said', "no"]
    assert [entry.text for entry in commas] == ["Oh, she said", "no"]


def test_lines_that_are_no_entry_are_named_with_what_is_wrong(tmp_path):
    lines = ["\ufeffaudio_file|text", "a.wav|one", "", "b.wav", "c.wav|two|2", "d.wav| ", "|three"]
    _, entries = read_entries(write(tmp_path / "list.csv", *lines))
    assert places(entries) == [
        ("line 2", "a.wav", "one"),
        ("line 4", "", "1 fields, where the header has 2"),
        ("line 5", "", "3 fields, where the header has 2"),
        ("line 6", "d.wav", "no text"),
        ("line 7", "", "no recording: needs " + " or ".join(AUDIO_NAMES)),
    ]


def test_ljspeech_is_a_list_beside_wavs_and_its_normalised_text_counts(tmp_path):
    (tmp_path / "wavs").mkdir()
    write(tmp_path / "metadata.csv", "LJ-1|Dr. 1|Doctor one", "LJ-2|two|", "seg_3.flac|three")
    for source in (tmp_path, tmp_path / "metadata.csv"):
        kind, entries = read_entries(source)
        assert kind == "ljspeech"
        assert [Path(entry.audio).relative_to(tmp_path.resolve()).as_posix() for entry in entries] == [
            "wavs/LJ-1.wav",
            "wavs/LJ-2.wav",
            "wavs/seg_3.flac",
        ]
        assert [entry.text for entry in entries] == ["Doctor one", "two", "three"]


def test_a_folder_has_texts_beside_recordings_and_speakers_in_subfolders(tmp_path):
    write(tmp_path / "ann/a.txt", "one")
    for name in ("ann/a.wav", "b.flac"):
        write(tmp_path / name, "")
    kind, entries = read_entries(tmp_path)
    assert kind == "folder"
    assert places(entries) == [("ann/a.wav", "a.wav", "one"), ("b.flac", "b.flac", "no text")]
    assert [entry.columns for entry in entries] == [{"speaker": "ann"}, {}]


def test_a_folder_names_texts_without_recording_and_sounds_that_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("f5_tts.data.formats.is_decoder_installed", lambda: False)
    for name in ("a.wav", "b.opus", "c.aif", "d.flac", "e.m4a", "e.txt", "vocab.txt"):
        write(tmp_path / name, "")
    for name, text in (("a.TXT", "one"), ("b.lab", "two"), ("c.txt", "III"), ("c.normalized.txt", "three")):
        write(tmp_path / name, text)
    write(tmp_path / "f.txt", "six")
    entries = read_entries(tmp_path)[1]
    assert [(entry.place, entry.text or entry.kind) for entry in entries] == [
        ("a.wav", "one"),
        ("b.opus", "two"),
        ("c.aif", "three"),
        ("d.flac", "no text"),
        ("e.m4a", "other format"),
        ("f.txt", "lonely text"),
    ]
    assert entries[4].problem.startswith(".m4a is not read without PyAV: ")
    assert entries[4].problem.endswith(", or make it a WAV file (ffmpeg -i e.m4a e.wav)")
    monkeypatch.setattr("f5_tts.data.formats.is_decoder_installed", lambda: True)
    assert [entry.problem for entry in read_entries(tmp_path)[1] if entry.place == "e.m4a"] == ["no text"]


@pytest.mark.parametrize("source", ["in", "in/", "./in", "../here/in"])
def test_relative_and_absolute_sources_are_read_alike(source, tmp_path, monkeypatch):
    root = tmp_path / "here"
    write(root / "in/ann/a.txt", "one")
    write(root / "in/ann/a.wav", "")
    for name, line in (("in/list.csv", "ann/a.wav|one"), ("in/lj/metadata.csv", "a|one")):
        write(root / name, *(["audio_file|text"] if name.endswith("list.csv") else []), line)
    write(root / "in/lj/wavs/a.wav", "")
    write(root / "in/list.jsonl", json.dumps({"audio": "ann/a.wav", "text": "one"}))
    monkeypatch.chdir(root)
    for name, kind in (("ann", "folder"), ("list.csv", "csv"), ("lj", "ljspeech"), ("list.jsonl", "jsonl")):
        relative, absolute = (read_entries(Path(at) / name) for at in (source, root / "in"))
        assert relative == absolute and relative[0] == kind
        (entry,) = relative[1]
        assert Path(entry.audio).is_absolute() and Path(entry.audio).is_file() and not entry.problem


def test_a_list_may_name_recordings_of_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    _, (entry,) = read_entries(write(tmp_path / "list.csv", "audio_file|text", "~/a.wav|one"))
    assert entry.audio == str(tmp_path / "home" / "a.wav")


@pytest.mark.parametrize(("name", "looked_for"), [("wavs\\a.wav", "wavs\\a.wav"), ("b.wav", "wavs/b.wav")])
def test_a_missing_recording_is_looked_for_in_wavs_if_its_name_has_no_folder(name: str, looked_for: str, tmp_path):
    write(tmp_path / "wavs/a.wav", "")
    _, (entry,) = read_entries(write(tmp_path / "list.csv", "audio_file|text", f"{name}|one"))
    assert entry.audio == str(tmp_path.resolve() / looked_for)  # so that the hint at backslashes finds wavs/a.wav


def test_jsonl_keeps_all_other_keys(tmp_path):
    messages = [
        {"audio": "a.wav", "text": "eins", "language": "de", "mood": 3},
        {"audio_path": "b.wav", "text": "zwei"},
    ]
    lines = [
        *map(json.dumps, messages),
        "[1]",
        "{",
        json.dumps({"text": "drei"}),
        json.dumps({"audio": "c", "text": None}),
    ]
    kind, entries = read_entries(write(tmp_path / "list.jsonl", *lines))
    assert kind == "jsonl"
    assert [entry.columns for entry in entries[:2]] == [{"language": "de", "mood": 3}, {}]
    assert [entry.text for entry in entries[:2]] == ["eins", "zwei"]
    wrong = [(entry.place, entry.problem.partition(":")[0]) for entry in entries[2:]]
    assert wrong == [
        ("line 3", "not a JSON object"),
        ("line 4", "not JSON"),
        ("line 5", "no recording"),
        ("line 6", "no text"),
    ]


def test_what_is_no_format_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder at .*gone"):
        read_entries(tmp_path / "gone")
    for source in (tmp_path, write(tmp_path / "list.csv", "one word, and another", "a line")):
        with pytest.raises(ValueError, match=r"is none of: csv .*audio_file.*ljspeech.*folder.*jsonl.*--format"):
            read_entries(source)
    with pytest.raises(ValueError, match=r"read as folder, lists no recordings"):
        read_entries(tmp_path, "folder")


def test_text_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"audio_file|text\na.wav|\xe9\n")
    with pytest.raises(ValueError, match=r"list\.csv is not text in UTF-8"):
        read_entries(tmp_path / "list.csv")


# --- lists as people have them ---

TWO = [("a.wav", "one two"), ("b.wav", "three")]
LISTS: dict[str, tuple[bytes, list[tuple[str, str]]]] = {
    "F5-TTS": (b"audio_file|text\nwavs/a.wav|one two\nwavs/b.wav|three\n", TWO),
    "Excel, semicolon, BOM, CRLF": (b"\xef\xbb\xbfaudio_file;text\r\nwavs/a.wav;one two\r\nwavs/b.wav;three\r\n", TWO),
    "Excel, sep=": (b"sep=;\r\naudio_file;text\r\nwavs/a.wav;one two\r\nwavs/b.wav;three\r\n", TWO),
    "Excel, UTF-16": ("audio_file\ttext\r\nwavs/a.wav\tone two\r\nwavs/b.wav\tthree".encode("utf-16"), TWO),
    "UTF-16, big end first": (b"\xfe\xff" + "path|text\nwavs/a.wav|one two\nwavs/b.wav|three".encode("utf-16-be"), TWO),
    "LibreOffice, all quoted": (b'"audio_file","text"\n"wavs/a.wav","one two"\n"wavs/b.wav","three"\n', TWO),
    "pandas, pipes and quotes": (
        b'audio_file|text\nwavs/a.wav|"He said ""hi"" to me"\nwavs/b.wav|three\n',
        [("a.wav", 'He said "hi" to me'), TWO[1]],
    ),
    "a lone quote": (
        b'audio_file,text\nwavs/a.wav,6" nails\nwavs/b.wav,"Oh\n',
        [("a.wav", '6" nails'), ("b.wav", '"Oh')],
    ),
    "quotes around a part": (b'audio_file|text\nwavs/a.wav|"Oh," she said\n', [("a.wav", '"Oh," she said')]),
    "separators in quotes": (b'audio_file;text\nwavs/a.wav;"one; two"\n', [("a.wav", "one; two")]),
    "a line break in quotes": (b'audio_file,text\nwavs/a.wav,"one\ntwo"\nwavs/b.wav,three\n', TWO),
    "header in capitals with spaces": (b" Audio File , TEXT \nwavs/a.wav,one two\nwavs/b.wav,three\n", TWO),
    "Common Voice": (b"client_id\tpath\tsentence\tup_votes\nx\tc.mp3\tone two\t2\n", [("c.mp3", "one two")]),
    "file_name, transcription": (b"file_name,transcription\nwavs/a.wav,one two\nwavs/b.wav,three\n", TWO),
    "other names": (b"sound;words\nwavs/a.wav;one two\nwavs/b.wav;three\n", TWO),
    "VITS": (b"wavs/a.wav|one two\nwavs/b.wav|three\n", TWO),
    "VITS with speakers": (b"wavs/a.wav|7|one two\nwavs/b.wav|7|three\n", TWO),
    "LJSpeech": (b"a|1 2|one two\nb|three|\n", TWO),
    "LJSpeech, ids with a folder": (b"wavs/a|1 2|one two\nwavs/b|three|three\n", TWO),
    "LJSpeech, ids with an ending": (b"a.wav|1 2|one two\nb.wav|3|three\n", TWO),
    "third column a number": (b"a|one two|12\nb|three|4.5\n", TWO),
    "third column a speaker": (b"a|one two|ann\nb|three|ann\n", TWO),
    "a number as text": (b"audio_file,text\nwavs/a.wav,12\n", [("a.wav", "12")]),
    "no last line end, empty lines": (b"\naudio_file|text\n\nwavs/a.wav|one two\n\nwavs/b.wav|three", TWO),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_are_read_as_people_have_them(name, tmp_path):
    content, expected = LISTS[name]
    for file in ("wavs/a.wav", "wavs/b.wav", "clips/c.mp3"):
        write(tmp_path / file, "")
    (tmp_path / "metadata.csv").write_bytes(content)
    _, entries = read_entries(tmp_path / "metadata.csv")
    assert [(Path(entry.audio).name, entry.text) for entry in entries] == expected
    assert all(Path(entry.audio).is_file() and not entry.problem for entry in entries)


def test_speakers_of_a_list_without_a_header_are_kept(tmp_path):
    (tmp_path / "list.txt").write_bytes(LISTS["VITS with speakers"][0])
    assert [entry.columns for entry in read_entries(tmp_path / "list.txt")[1]] == [{"speaker": "7"}] * 2


def test_a_quote_that_swallows_rows_is_named_with_its_line(tmp_path):
    lines = ["audio_file,text", 'a.wav,"Oh', "b.wav,two", 'c.wav,three"']
    with pytest.raises(ValueError, match=r"list\.csv, line 2: the quote in it closes only in line 4, after other rows"):
        read_entries(write(tmp_path / "list.csv", *lines))


@pytest.mark.parametrize("name", ["manifest.json", "manifest.jsonl"])
def test_a_manifest_of_nemo_is_read(name, tmp_path):
    line = json.dumps({"audio_filepath": "a.wav", "duration": 1.5, "text": 12})
    kind, (entry,) = read_entries(write(tmp_path / name, line))
    assert (kind, entry.text, entry.columns) == ("jsonl", "12", {"duration": 1.5})
