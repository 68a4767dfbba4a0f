from __future__ import annotations

import pytest
import torch
from torch import Tensor

from f5_tts.infer.chunking import (
    chunk_size,
    cross_fade,
    fit_chunks,
    gain,
    speech_frames,
    split_for_stream,
    split_text,
    with_full_stop,
    with_trailing_space,
)

HOP = 256  # samples per frame in the golden runs, which used 24 kHz
RATE = 24_000


@pytest.fixture(scope="module")
def golden(table) -> dict:
    return table("g8_inference_rules")


def total_frames(case: dict, text: str) -> int:
    """Compute the frames of reference and speech by the rules."""
    prompt = with_trailing_space(case["ref_text"])
    if "fix_duration" in case["kw"]:
        return int(case["kw"]["fix_duration"] * RATE / HOP)
    frames = case["cond_len"] // HOP
    return frames + speech_frames(frames, prompt, text, case["kw"].get("speed", 1.0))


def test_texts_are_cut_as_published(golden):
    assert len(golden["chunk_text"]) == 40
    for case in golden["chunk_text"]:
        assert split_text(case["text"], case["max_chars"]) == case["chunks"], case


def test_a_chunk_may_be_as_long_as_published(golden):
    for case in golden["max_chars_rule"]:
        result = chunk_size(case["ref_text"], case["samples"] / case["sr"], case["speed"])
        assert result == case["max_chars"], case


def test_reference_texts_end_as_published(golden):
    assert [with_full_stop(case["in"]) for case in golden["ref_text_ending"]] == [
        case["out"] for case in golden["ref_text_ending"]
    ]


def test_speech_lasts_as_long_as_published(golden):
    for case in golden["infer"]:
        assert case["cond_len"] // HOP == case["ref_frames"]
        assert [total_frames(case, text) for text in case["gen_text"]] == case["durations"], case


def test_what_the_vocoder_gets_is_all_but_the_references_frames(golden):
    for case in golden["infer"]:
        made = [frames - case["ref_frames"] for frames in case["durations"]]
        assert [shape[2] for shape in case["vocoder_in_shapes"]] == made


def test_reference_and_text_are_joined_as_published(golden):
    for case in golden["infer"]:
        if case["ref_text"].isascii():  # Chinese cases are stored as syllables
            assert [with_trailing_space(case["ref_text"]) + text for text in case["gen_text"]] == case["joined_tokens"]
    assert with_trailing_space("你好。") == "你好。" and with_trailing_space("") == ""


def test_quiet_references_are_raised_and_their_speech_lowered_as_published(golden):
    cases = [case for case in golden["infer"] if case["sr"] == RATE]  # resampling changes the level of noise
    assert {case["rms_in"] < 0.1 for case in cases} == {True, False}
    for case in cases:
        factor = gain(case["rms_in"], 0.1)
        assert case["rms_in"] * factor == pytest.approx(case["cond_rms"], rel=1e-6)
        if len(case["gen_text"]) == 1 and "wave_key" not in case:
            assert case["final_abs_max"] == pytest.approx(0.5 / factor, rel=1e-4)  # of a sine with amplitude 0.5


def sines(case: dict) -> list[Tensor]:
    """Return the waveforms that the golden runs joined: sines computed in single precision."""
    lens = [4 * shape[2] for shape in case["vocoder_in_shapes"]]
    return [0.5 * (0.05 * torch.arange(length) * k).sin().double() for k, length in enumerate(lens, start=1)]


@pytest.mark.parametrize("key", ["xfade0.final", "xfade15.final", "xfade1_quiet.final"])
def test_chunks_fade_into_each_other_as_published(key, golden, tensors):
    case = next(case for case in golden["infer"] if case.get("wave_key") == key)
    overlap = int(case["kw"].get("cross_fade_duration", 0.15) * RATE)
    joined = cross_fade(sines(case), overlap) / gain(case["rms_in"], 0.1)
    torch.testing.assert_close(joined, tensors("g8_crossfade")[key], atol=1e-7, rtol=0)


def test_a_cross_fade_of_equal_constants_keeps_them_and_shortens_by_the_overlap():
    joined = cross_fade([torch.ones(5), torch.ones(4)], 3)
    torch.testing.assert_close(joined, torch.ones(6))
    rising = cross_fade([torch.zeros(4), torch.ones(4)], 3)
    torch.testing.assert_close(rising, torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))
    assert torch.equal(cross_fade([torch.arange(3.0)], 3), torch.arange(3.0))


HINDI = "वह घर गया। फिर उसने खाना खाया। " * 3
TOO_LONG = {  # text, limit in bytes -> chunks
    ("ab. cd", 9): ["ab. cd"],
    ("aa bb cc", 5): ["aa bb", "cc"],
    ("abcdefg", 3): ["abc", "de", "fg"],  # no chunk of one letter
    ("one two three four a", 18): ["one two", "three four a"],
    ("a" * 21 + ". Ja.", 10): ["a" * 10, "a" * 6, "aaaaa. Ja."],
    ("हैलोहैहै", 18): ["हैलो", "हैहै"],
    ("हैलो", 6): ["है", "लो"],  # a letter keeps its vowel sign
    ("कखगघ।चछ।जझ", 22): ["कखगघ।", "चछ।जझ"],
    ("سلام؟ خوبی، من خوبم؛ پایان۔ بله", 16): ["سلام؟", "خوبی،", "من خوبم؛", "پایان۔", "بله"],
    ("ab — cd … ef", 10): ["ab —", "cd … ef"],
    ("ሰላም።ደህና፣ነኝ", 12): ["ሰላም።", "ደህና፣", "ነኝ"],
    ("សួស្តី។លា៕", 22): ["សួស្តី។", "លា៕"],
    ("τι; ναι· οχι", 9): ["τι;", "ναι·", "οχι"],
    ("ab cd", 0): ["ab cd"],
}


@pytest.mark.parametrize(("text", "limit"), TOO_LONG)
def test_what_is_too_long_is_cut_after_marks_then_at_spaces_then_between_letters(text: str, limit: int):
    assert fit_chunks([text], limit) == TOO_LONG[text, limit]


@pytest.mark.parametrize("limit", [8, 20, 60])
@pytest.mark.parametrize(
    "text", [HINDI, "สวัสดีครับ" * 9, "a" * 99, "Ja. " * 30, "ab cd, " * 20, "こんにちは。元気？" * 5]
)
def test_no_chunk_is_longer_than_the_limit_and_no_letter_is_lost(text: str, limit: int):
    chunks = fit_chunks(split_text(" ".join(text.split()), limit), limit)
    assert max(len(chunk.encode()) for chunk in chunks) <= limit
    assert "".join("".join(chunks).split()) == "".join(text.split())


def test_a_stream_begins_with_a_short_chunk_and_none_is_too_long():
    assert split_for_stream("one. two. three four five. six", 24) == ["one.", "two. three four five.", "six"]
    assert split_for_stream("a" * 45, 20) == ["a" * 20, "a" * 13, "a" * 12]


def test_one_and_two_bytes_past_the_limit_start_a_new_chunk():
    assert split_text("ab. cd.", 7) == ["ab. cd."]
    assert split_text("ab. cd.", 6) == ["ab.", "cd."]
    assert split_text("1.5 is one,half", 3) == ["1.5 is one,half"]
