from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from f5_tts.data.audio import load_audio
from f5_tts.eval.whisper_judge import WhisperJudge, digit_words
from f5_tts.rewards.asr.error_rate import word_errors

ROOT = Path(__file__).parents[2]
RATE = 16_000


@pytest.fixture(scope="module")
def judge() -> WhisperJudge:
    return WhisperJudge()


@pytest.fixture(scope="module")
def recordings() -> dict[str, Tensor]:
    """Load two prompts of each of the four test speakers, by transcript."""
    lines = (ROOT / "data/mini_custom/test.jsonl").read_text().splitlines()
    prompts = {row["prompt_audio"]: row["prompt_text"] for row in map(json.loads, lines)}
    chosen = [f"data/mini_custom/wavs/test_0{voice}_test_prompt_{n}.flac" for voice in range(4) for n in (0, 1)]
    return {prompts[path]: load_audio(ROOT / path, RATE) for path in chosen}


def test_real_recordings_are_heard_as_what_they_say(judge: WhisperJudge, recordings: dict[str, Tensor]):
    # Of all 78 prompts in the data, 77 transcripts are exact: 1 wrong word of 184.
    # Of these 8, one may differ by one word.
    transcripts = judge.transcribe(list(recordings.values()), RATE)
    edits = [word_errors(text, words)[0] for text, words in zip(recordings, transcripts, strict=True)]
    assert sum(edits) <= 1, list(zip(recordings, transcripts, strict=True))


def test_a_transcript_does_not_depend_on_the_batch(judge: WhisperJudge, recordings: dict[str, Tensor]):
    clips = list(recordings.values())[:3]
    longer = torch.cat([clips[0], clips[1], clips[2]])
    together = judge.transcribe([longer, *clips], RATE)
    assert together == [judge.transcribe([clip], RATE)[0] for clip in (longer, *clips)]


def test_other_sample_rates_are_heard_too(judge: WhisperJudge, recordings: dict[str, Tensor]):
    text, clip = next(iter(recordings.items()))
    doubled = torch.nn.functional.interpolate(clip[None, None], scale_factor=2, mode="linear")[0, 0]
    assert judge.transcribe([doubled], 2 * RATE) == [text]


def test_clips_without_sound_give_empty_texts_and_long_ones_are_refused(judge: WhisperJudge):
    nothing = [torch.zeros(RATE), torch.ones(10), torch.full((RATE,), torch.nan)]
    assert judge.transcribe(nothing, RATE) == ["", "", ""]
    assert judge.transcribe([], RATE) == []
    with pytest.raises(ValueError, match=r"clips of at most 7\.7 s, got 9\.0 s"):
        judge.transcribe([torch.ones(9 * RATE)], RATE)


@pytest.mark.parametrize(
    "written, words",
    [
        ("315", "three one five"),
        (" 3, 1-5. ", "three one five"),
        ("Won for, two", "one four two"),
        ("To fore. Too!", "two four two"),
        ("I ate oh O", "i eight zero zero"),
        ("Seven, Sam's nine", "seven sams nine"),
        ("77four", "seven seven four"),
        ("", ""),
    ],
)
def test_transcripts_become_digit_words_and_other_words_stay(written: str, words: str):
    assert digit_words(written) == words
