"""Lists, texts, vocabularies, sounds and names of weights as people have them: small inputs, and what is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from f5_tts.data.audio import BadAudio, load_audio
from f5_tts.data.formats import read_entries
from f5_tts.data.rows import Row
from f5_tts.data.texts import TextRules
from f5_tts.data.tokenizer import Vocabulary, read_vocabulary
from f5_tts.infer.chunking import fit_chunks, split_text
from f5_tts.infer.settings import split_by_voice
from f5_tts.model.checkpoint import plain_name

# --- lists: the content of a file, and name and text of each recording (or what is wrong) ---

A, B, BOTH = ("a.wav", "one two"), ("b.wav", "three"), [("a.wav", "one two"), ("b.wav", "three")]
LISTS: dict[str, tuple[str, bytes, list[tuple[str, str]]]] = {
    "tab with header": ("l.tsv", b"path\ttext\nwavs/a.wav\tone two\nwavs/b.wav\tthree\n", BOTH),
    "semicolon, text first": ("l.csv", b"text;audio\none two;wavs/a.wav\nthree;wavs/b.wav\n", BOTH),
    "old line ends of Macs": ("l.csv", b"audio_file|text\rwavs/a.wav|one two\rwavs/b.wav|three\r", BOTH),
    "wav, transcript": ("l.csv", b"wav,transcript\nwavs/a.wav,one two\nwavs/b.wav,three\n", BOTH),
    "filename, normalized_text": ("l.csv", b"filename|normalized_text\na.wav|one two\nb.wav|three\n", BOTH),
    "audio_path, sentence": ("l.csv", b"audio_path,sentence\nwavs/a.wav,one two\nwavs/b.wav,three\n", BOTH),
    "File-Name, Text": ("l.csv", b"File-Name;Text\na.wav;one two\nb.wav;three\n", BOTH),
    "an index of pandas": ("l.csv", b",audio_file,text\n0,wavs/a.wav,one two\n1,wavs/b.wav,three\n", BOTH),
    "quoted header, bare rows": ("l.csv", b'"audio_file";"text"\nwavs/a.wav;one two\nwavs/b.wav;three\n', BOTH),
    "a comma in a pipe list": ("l.csv", b"audio_file|text\nwavs/a.wav|one, two\n", [("a.wav", "one, two")]),
    "a pipe in a comma list": ("l.csv", b"audio_file,text\nwavs/a.wav,one|two\n", [("a.wav", "one|two")]),
    "a semicolon in a comma list": ("l.csv", b"audio_file,text\nwavs/a.wav,one;two\n", [("a.wav", "one;two")]),
    "no header, a pipe in quotes": ("l.csv", b'wavs/a.wav,"one|two"\nwavs/b.wav,three\n', [("a.wav", "one|two"), B]),
    "no header, all quoted": ("l.csv", b'"wavs/a.wav";"one\ttwo"\n"wavs/b.wav";"three"\n', BOTH),
    "a cell of two lines with commas": ("l.csv", b'audio_file,text\nwavs/a.wav,"1,\n2, 3"\n', [("a.wav", "1, 2, 3")]),
    "quotes of the text, doubled": ("l.csv", b'audio_file,text\nwavs/a.wav,"""Oh"""\n', [("a.wav", '"Oh"')]),
    "an empty quoted text": ("l.csv", b'audio_file,text\nwavs/a.wav,""\n', [("a.wav", "no text")]),
    "white space around fields": ("l.csv", b"audio_file , text\n wavs/a.wav , one  two \n", [A]),
    "a no-break space": ("l.csv", "audio_file|text\nwavs/a.wav|one\u00a0two\n".encode(), [A]),
    "a tab in the text": ("l.csv", b"audio_file|text\nwavs/a.wav|one\ttwo\n", [A]),
    "rows of commas alone": ("l.csv", b"audio_file,text\nwavs/a.wav,one two\n,\n,\n", [A]),
    "a row too wide": ("l.csv", b"audio_file,text\nwavs/a.wav,one,two\n", [("", "3 fields, where the header has 2")]),
    "a file list of VITS in .txt": ("train.txt", b"wavs/a.wav|one two\nwavs/b.wav|three\n", BOTH),
    "no header, commas": ("l.csv", b"wavs/a.wav,one two\nwavs/b.wav,three\n", BOTH),
    "no header, one row": ("l.csv", b"wavs/a.wav|one two\n", [A]),
    "a header of other words": ("l.csv", b"clip|speaker|words\na.wav|ann|one two\nb.wav|ann|three\n", BOTH),
    "ids without an ending": ("metadata.csv", b"a|one two\nb|three\n", BOTH),
    "Common Voice without wavs/": ("t.tsv", b"client_id\tpath\tsentence\nx\tc.mp3\tone\n", [("c.mp3", "one")]),
    "JSON lines of NeMo": ("m.json", b'{"audio_filepath": "wavs/a.wav", "duration": 1, "text": "one two"}\n', [A]),
    "JSON lines with BOM": ("m.jsonl", b'\xef\xbb\xbf{"audio": "wavs/a.wav", "text": "one two"}\n', [A]),
    "JSON lines of Whisper": ("m.jsonl", b'{"path": "wavs/a.wav", "sentence": "one two", "lang": "en"}\n', [A]),
    "a year as text": ("m.jsonl", b'{"audio": "wavs/a.wav", "text": 1984}\n', [("a.wav", "1984")]),
    "null as text": ("m.jsonl", b'{"audio": "wavs/a.wav", "text": null}\n', [("a.wav", "no text")]),
    "a list as text": ("m.jsonl", b'{"audio": "wavs/a.wav", "text": ["a"]}\n', [("a.wav", "no text")]),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_gives_its_recordings_with_their_texts(name: str, tmp_path: Path):
    file, content, expected = LISTS[name]
    for sound in ("wavs/a.wav", "wavs/b.wav", "clips/c.mp3"):
        (tmp_path / sound).parent.mkdir(exist_ok=True)
        (tmp_path / sound).touch()
    (tmp_path / file).write_bytes(content)
    entries = read_entries(tmp_path / file)[1]
    assert [(Path(entry.audio).name, entry.text or entry.problem) for entry in entries] == expected
    assert all(Path(entry.audio).is_file() for entry in entries if not entry.problem)


# --- texts: vocabulary, text, its ids, and what is wrong with such a row ---

ACUTE, VIETNAMESE = "e\u0301", "vie\u0323\u0302t"
TEXTS: dict[str, tuple[str, str, list[int], str | None]] = {
    "known": (" ab", "ab", [1, 2], None),
    "capitals": (" ab", "AB", [0, 0], "no known symbol"),
    "one capital": (" ab", "Ab", [0, 2], None),
    "figures": (" ab", "12", [0, 0], "no known symbol"),
    "zero-width signs": (" ab", "\u200b\u200d", [0, 0], "no known symbol"),
    "a zero-width sign inside": (" ab", "a\u200bb", [1, 0, 2], None),
    "spaces": (" ab", "  ", [0, 0], "no text"),
    "decomposed text, composed vocabulary": (" \u00e9", ACUTE, [1], None),
    "composed text, decomposed vocabulary": (" e\u0301", "\u00e9", [1, 2], None),
    "Vietnamese tones": (" vi\u1ec7t", VIETNAMESE, [1, 2, 3, 4], None),
    "a mark that stays unknown": (" e", ACUTE, [1, 0], None),
    "Hangul of vowels and consonants": (" \ud55c", "\u1112\u1161\u11ab", [1], None),
    "a no-break space": (" ab", "a\u00a0b", [1, 0, 2], None),
    "an emoji": (" ab", "\U0001f600", [0], "no known symbol"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_is_read_by_the_vocabulary_or_is_a_bad_row(name: str):
    symbols, text, ids, problem = TEXTS[name]
    vocabulary = Vocabulary(list(symbols))
    assert vocabulary.encode([text]).tolist() == [ids]
    row = Row(audio_path="a.wav", text=text, duration=1.0, speaker=None)
    found = TextRules(vocabulary).problem(row)
    assert (found and found[0]) == problem


# --- vocabulary files: bytes, symbols, and a part of what is said (None: nothing) ---

VOCABULARIES: dict[str, tuple[bytes, str, str | None]] = {
    "plain": (b" \na\nb\n", " ab", None),
    "byte order mark": (b"\xef\xbb\xbf \na\nb\n", " ab", "a byte order mark is at its beginning"),
    "line ends of Windows": (b" \r\na\r\nb\r\n", " ab", "its lines end with CRLF"),
    "no last line end": (b" \na\nb", " ab", "its last line has no line end"),
    "first line stripped": (b"\na\nb\n", " ab", "its first line is empty and read as the space"),
    "another first symbol": (b"a\nb\n", "ab", "symbol 0 is 'a', not the space"),
}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_vocabulary_file_is_read_as_editors_leave_it(name: str, tmp_path: Path):
    content, symbols, note = VOCABULARIES[name]
    (tmp_path / "vocab.txt").write_bytes(content)
    vocabulary = read_vocabulary(tmp_path / "vocab.txt")
    assert "".join(vocabulary.symbols) == symbols
    assert any(note in said for said in vocabulary.notes) if note else not vocabulary.notes


# --- sounds: format and change of a second of a sine at half of full scale, and its largest sample or the problem ---

RATE = 8_000
SINE = 0.5 * np.sin(2 * np.pi * 400 / RATE * np.arange(RATE))
SOUNDS: dict[str, tuple[str, np.ndarray, float | str]] = {
    "16 bits": ("PCM_16", SINE, 0.5),
    "8 bits": ("PCM_U8", SINE, 0.5),
    "24 bits": ("PCM_24", SINE, 0.5),
    "32 bits": ("PCM_32", SINE, 0.5),
    "mu-law": ("ULAW", SINE, 0.5),
    "floats": ("FLOAT", SINE, 0.5),
    "doubles": ("DOUBLE", SINE, 0.5),
    "floats somewhat above full scale": ("FLOAT", 4 * SINE, 2.0),
    "floats in the range of 16 bits": ("FLOAT", 32768 * SINE, 0.5),
    "doubles in the range of 16 bits": ("DOUBLE", 32768 * SINE, 0.5),
    "floats in the range of 32 bits": ("FLOAT", 2.0**31 * SINE, "not finite"),
    "stereo": ("PCM_16", np.stack([SINE, SINE], axis=1), 0.5),
    "one silent channel": ("PCM_16", np.stack([SINE, 0 * SINE], axis=1), 0.25),
    "antiphase": ("PCM_16", np.stack([SINE, -SINE], axis=1), "antiphase"),
    "digital silence": ("PCM_16", 0 * SINE, "silent"),
    "a tenth of what is needed": ("PCM_16", SINE[:80], "too short"),
    "NaN": ("FLOAT", np.where(np.arange(RATE) < 9, np.nan, SINE), "not finite"),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_a_sound_has_its_level_or_a_kind_of_trouble(name: str, tmp_path: Path):
    subtype, samples, expected = SOUNDS[name]
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype=subtype)
    try:
        found: float | str = float(load_audio(tmp_path / "a.wav", RATE).abs().max())
    except BadAudio as error:
        found = error.kind
    assert found == (expected if isinstance(expected, str) else pytest.approx(expected, abs=0.02))


# --- names of tensors in checkpoints ---

NAMES = {
    "transformer.proj_out.bias": "transformer.proj_out.bias",
    "ema_model.transformer.proj_out.bias": "transformer.proj_out.bias",
    "module.ema_model.transformer.proj_out.bias": "transformer.proj_out.bias",
    "_orig_mod.module.transformer.proj_out.bias": "transformer.proj_out.bias",
    "transformer._orig_mod.proj_out.bias": "transformer.proj_out.bias",
    "_fsdp_wrapped_module.transformer.proj_out.bias": "transformer.proj_out.bias",
    "online_model.module.transformer.proj_out.bias": "transformer.proj_out.bias",
    "module_a.proj_out.bias": "module_a.proj_out.bias",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_loses_what_wrappers_put_into_it(name: str):
    assert plain_name(name) == NAMES[name]


# --- speech: text, bytes that a chunk may have, and the chunks ---

CHUNKS: dict[tuple[str, int], list[str]] = {
    ("One. Two. Three.", 11): ["One. Two.", "Three."],
    ("no mark in this one at all", 10): ["no mark in", "this one", "at all"],
    ("\u0915\u0964 \u0916\u0964 \u0917\u0964", 13): ["\u0915\u0964 \u0916\u0964", "\u0917\u0964"],
    ("\u0e01" * 5, 6): ["\u0e01" * 2, "\u0e01" * 2, "\u0e01"],
    ("aaa\u2026 bbb\u2014 ccc", 13): ["aaa\u2026 bbb\u2014", "ccc"],
    ("\u4f60\u597d\u3002\u518d\u89c1\u3002", 9): ["\u4f60\u597d\u3002", "\u518d\u89c1\u3002"],
    ("word", 2): ["wo", "rd"],
}


@pytest.mark.parametrize(("text", "limit"), CHUNKS)
def test_a_text_is_spoken_in_chunks_of_at_most_this_size(text: str, limit: int):
    assert fit_chunks(split_text(text, limit), limit) == CHUNKS[text, limit]


BRACKETS: dict[tuple[str, str], list[str]] = {
    ("one [sic] two", "main"): ["one [sic] two"],
    (r"one \[b] two", "main b"): ["one [b] two"],
    ("one [b] two", "main b"): ["one", "two"],
    ("one [2 times] two", "main b"): ["one [2 times] two"],
}


@pytest.mark.parametrize(("text", "voices"), BRACKETS)
def test_brackets_are_text_where_they_name_no_voice(text: str, voices: str):
    assert [part for _, part in split_by_voice(text, voices.split())] == BRACKETS[text, voices]
