from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes.digits.judges import digit_words
from tests.rewards.multilingual_whisper import make_multilingual_whisper
from torch import Tensor

from f5_tts.data.audio import load_audio
from f5_tts.rewards.asr.error_rate import word_errors
from f5_tts.rewards.asr.whisper import WhisperWer, index_of
from f5_tts.types import RewardInput

ROOT = Path(__file__).parents[3]
RATE = 16_000


def clip_of(audio: Tensor, text: str = "one", rate: int = RATE, language: str = "en") -> RewardInput:
    return RewardInput(audio=audio, sample_rate=rate, text=text, language=language)


def heard(judge: WhisperWer, clips: list[Tensor], rate: int = RATE) -> list[str]:
    return judge.score([clip_of(clip, rate=rate) for clip in clips])["heard"]


@pytest.fixture(scope="module")
def judge() -> WhisperWer:
    return WhisperWer()


@pytest.fixture(scope="module")
def recordings() -> dict[str, Tensor]:
    """Load two prompts of each of the four test speakers, by transcript."""
    lines = (ROOT / "data/mini_custom/test.jsonl").read_text().splitlines()
    prompts = {row["prompt_audio"]: row["prompt_text"] for row in map(json.loads, lines)}
    chosen = [f"data/mini_custom/wavs/test_0{voice}_test_prompt_{n}.flac" for voice in range(4) for n in (0, 1)]
    return {prompts[path]: load_audio(ROOT / path, RATE) for path in chosen}


def test_real_recordings_are_heard_as_what_they_say(judge: WhisperWer, recordings: dict[str, Tensor]):
    # Of all 78 prompts in the data, 77 transcripts are exact: 1 wrong word of 184.
    # Of these 8, one may differ by one word.
    transcripts = [digit_words(text) for text in heard(judge, list(recordings.values()))]
    edits = [word_errors(text, words)[0] for text, words in zip(recordings, transcripts, strict=True)]
    assert sum(edits) <= 1, list(zip(recordings, transcripts, strict=True))


def test_a_transcript_does_not_depend_on_the_batch(judge: WhisperWer, recordings: dict[str, Tensor]):
    clips = list(recordings.values())[:3]
    longer = torch.cat([clips[0], clips[1], clips[2]])
    assert heard(judge, [longer, *clips]) == [heard(judge, [clip])[0] for clip in (longer, *clips)]


def test_other_sample_rates_are_heard_too(judge: WhisperWer, recordings: dict[str, Tensor]):
    text, clip = next(iter(recordings.items()))
    doubled = torch.nn.functional.interpolate(clip[None, None], scale_factor=2, mode="linear")[0, 0]
    assert [digit_words(text) for text in heard(judge, [doubled], 2 * RATE)] == [text]


def test_clips_without_sound_are_worst(judge: WhisperWer):
    nothing = [torch.zeros(RATE), torch.ones(10), torch.full((RATE,), torch.nan)]
    with pytest.warns(UserWarning, match="worst score"):
        scores = judge.score([clip_of(clip) for clip in nothing])
    assert scores["heard"] == ["", "", ""] and scores["acc"].tolist() == [0, 0, 0]


def test_a_long_clip_is_heard_to_its_end(judge: WhisperWer, recordings: dict[str, Tensor]):
    clips = list(recordings.values())
    silence = torch.zeros(RATE // 2)
    long = torch.cat([part for clip in clips for part in (clip, silence)])
    assert len(long) > 7.7 * RATE
    said, texts = digit_words(heard(judge, [long])[0]), " ".join(recordings)
    edits, words = word_errors(texts, said)
    assert edits <= 0.2 * words, said


def test_the_words_of_a_text_are_scored_in_their_normal_form(
    judge: WhisperWer, recordings: dict[str, Tensor], monkeypatch
):
    clip = next(iter(recordings.values()))
    monkeypatch.setattr(judge, "transcribe_inputs", lambda inputs: ["I have 25 eggs."] * len(inputs))
    scores = judge.score([clip_of(clip, "I have twenty-five eggs!"), clip_of(clip, "I had twenty five eggs")])
    torch.testing.assert_close(scores["wer"], torch.tensor([0.0, 0.2]))


def test_the_installed_weights_know_english_and_a_model_that_is_not_there_is_named(judge: WhisperWer, monkeypatch):
    assert judge.languages == ("en",) and judge.title == "Whisper tiny.en"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"whisper: config\.model=no/model cannot be loaded .* give a size of faster"):
        WhisperWer("no/model")


@pytest.mark.slow
def test_a_multilingual_model_hears_each_clip_in_the_language_of_its_text(tmp_path: Path, monkeypatch):
    """The code is faster-whisper's; the weights are random, so that what is heard means nothing."""
    judge = WhisperWer(str(make_multilingual_whisper(tmp_path)))
    assert {"de", "ru", "zh", "fi"} <= set(judge.languages or ()) and judge.title == "Whisper model"
    asked, transcribe = [], judge.general.transcribe

    def listen(clip: Tensor, language: str | None, **settings: Any) -> Any:
        asked.append(language)
        return transcribe(clip, language=language, **settings)

    monkeypatch.setattr(judge.general, "transcribe", listen)
    noise = 0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    texts = [("Guten Tag", "de"), ("Привет", "ru"), ("今天", "auto"), ("Hei", "xx")]
    scores = judge.score([clip_of(noise, text, language=language) for text, language in texts])
    assert asked == ["de", "ru", "zh", None]  # by the script, or left to the model
    assert len(scores["heard"]) == 4 and scores["unusable"].sum() == 0


def test_each_process_of_a_run_hears_on_its_own_gpu(monkeypatch):
    """CTranslate2 takes a number, and the first GPU would be that of all processes."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert [index_of(torch.device(name)) for name in ("cuda", "cuda:1", "cuda:0", "cpu")] == [3, 1, 0, 0]
