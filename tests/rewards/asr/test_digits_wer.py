from __future__ import annotations

import gc
import subprocess
import sys
from dataclasses import replace
from math import nan

import pytest
import soxr
import torch

from f5_tts.rewards.asr import pocketsphinx_worker as sphinx
from f5_tts.rewards.asr.digits_wer import DigitsRecognizer, DigitsWer, PocketsphinxProcess, pcm16
from f5_tts.types import RewardInput

CLIPS = {
    "low_314": "three one four",
    "low_9265": "nine two six five",
    "high_314": "three one four",
    "high_9265": "nine two six five",
}


@pytest.fixture(scope="module")
def digits() -> DigitsWer:
    return DigitsWer(workers=2)


def test_clear_digits_are_understood_and_come_back_in_order(digits, spoken):
    names = list(CLIPS) * 3  # more pieces than workers
    assert digits.transcribe([spoken(name) for name in names], 16_000) == [CLIPS[name] for name in names]


def test_clips_of_24_khz_are_resampled(digits, spoken):
    clips = [torch.from_numpy(soxr.resample(spoken(name).numpy(), 16_000, 24_000)) for name in CLIPS]
    assert digits.transcribe(clips, 24_000) == list(CLIPS.values())


def test_score_is_the_share_of_words_that_were_heard(digits, spoken):
    texts = ["three one four", "three one five", "three one", "zero zero zero"]
    inputs = [RewardInput(audio=spoken("low_314"), sample_rate=16_000, text=text) for text in texts]
    scores = digits.score(inputs)
    torch.testing.assert_close(scores["acc"], torch.tensor([1.0, 2 / 3, 0.5, 0.0]))
    torch.testing.assert_close(scores["wer"], torch.tensor([0.0, 1 / 3, 0.5, 1.0]))


def test_more_words_heard_than_written_raise_the_error_rate_above_one(digits, spoken):
    scores = digits.score([RewardInput(audio=spoken("low_9265"), sample_rate=16_000, text="zero")])
    assert (scores["acc"].item(), scores["wer"].item()) == (0.0, 4.0)


def test_words_earn_what_was_heard_of_them_in_the_clip_after_its_lead(digits, spoken):
    text, clip, lead = "nine two six five three one five", spoken("low_314"), spoken("low_9265")
    item = RewardInput(audio=clip, prompt_audio=lead, sample_rate=16_000, text=text)
    scores = digits.score([item, replace(item, text="nine two")])
    expected = torch.tensor([[1, 1, 1, 1, 1, 1, 0], [1, -4, *[nan] * 5]])  # five words inserted after "two"
    torch.testing.assert_close(scores["words"], expected, equal_nan=True)
    assert scores["heard"] == ["nine two six five three one four"] * 2


def test_where_no_word_is_written_no_score_applies_whatever_is_heard(digits, spoken):
    noise = 0.01 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    inputs = [RewardInput(audio=clip, sample_rate=16_000, text="…") for clip in (noise, spoken("low_314"))]
    scores = digits.score(inputs)
    assert scores["acc"].isnan().all() and scores["wer"].isnan().all() and scores["words"].shape == (2, 0)


def test_clips_without_sound_score_zero_and_leave_their_neighbours_alone(digits, spoken):
    clips = [torch.zeros(0), spoken("low_314"), torch.full((8000,), nan), torch.zeros(8000)]
    inputs = [RewardInput(audio=clip, sample_rate=16_000, text="three one four") for clip in clips]
    with pytest.warns(UserWarning, match="worst score"):
        scores = digits.score(inputs)
    assert scores["acc"].tolist() == [0.0, 1.0, 0.0, 0.0] and scores["wer"].tolist() == [1.0, 0.0, 1.0, 1.0]
    assert scores["unusable"].tolist() == [1.0, 0.0, 1.0, 1.0]
    assert scores["heard"] == ["", "three one four", "", ""]


def test_a_clip_without_sound_is_worst_even_where_nothing_should_be_said(digits):
    with pytest.warns(UserWarning, match="worst score"):
        scores = digits.score([RewardInput(audio=torch.zeros(8000), sample_rate=16_000, text="")])
    assert scores["acc"].item() == 0.0


def test_nothing_to_hear_is_no_error(digits):
    assert digits.transcribe([], 16_000) == []


def test_a_transcript_does_not_depend_on_the_clips_before(spoken):
    generator = torch.Generator().manual_seed(0)
    clips = [pcm16(0.5 * torch.randn(3200 + 400 * i, generator=generator).cumsum(0).sin()) for i in range(12)]
    clips += [pcm16(spoken(name) * 0.02) for name in CLIPS]
    decoder = sphinx.digit_decoder()
    forward = [sphinx.transcribe(decoder, clip) for clip in clips]
    backward = [sphinx.transcribe(decoder, clip) for clip in reversed(clips)]
    assert forward == backward[::-1]


def test_louder_than_full_scale_is_clipped_not_wrapped_and_a_tenth_of_a_second_of_quiet_stands_around_it():
    quiet = bytes(2 * 1600)
    assert pcm16(torch.tensor([2.0, -2.0, 0.5])) == quiet + b"\xff\x7f\x01\x80\xff\x3f" + quiet  # ±32767, 16383


def test_a_worker_ends_when_nobody_can_ask_it_any_more():
    process = PocketsphinxProcess().process
    assert process.stdin is not None
    process.communicate()  # closes the stdin of the process
    assert process.returncode == 0


def test_workers_end_with_their_recogniser():
    recognizer = DigitsRecognizer(workers=2)
    processes = [worker.process for worker in recognizer._workers]
    del recognizer
    gc.collect()
    assert all(process.returncode is not None for process in processes)


def test_a_worker_that_is_killed_is_started_anew_and_no_transcript_is_lost(spoken):
    recognizer = DigitsRecognizer(workers=1)
    recognizer._workers[0].process.kill()
    with pytest.warns(UserWarning, match="a pocketsphinx process was killed by SIGKILL: the system does this when mem"):
        assert recognizer.transcribe([spoken("low_314")], 16_000) == ["three one four"]


def test_a_worker_that_is_killed_again_is_one_sentence_with_its_key(spoken, monkeypatch):
    recognizer = DigitsRecognizer(workers=1)
    monkeypatch.setattr(PocketsphinxProcess, "start", lambda worker: None)  # the process stays dead
    recognizer._workers[0].process.kill()
    with (
        pytest.warns(UserWarning, match="it is started anew"),
        pytest.raises(ChildProcessError, match=r"^digits_wer: a pocketsphinx .* lower config\.workers of digits_wer$"),
    ):
        recognizer.transcribe([spoken("low_314")], 16_000)


@pytest.mark.parametrize("workers", [0, -1])
def test_workers_must_be_a_positive_whole_number(workers):
    with pytest.raises(ValueError, match=f"digits_wer: workers must be a whole number from 1, got {workers!r}"):
        DigitsWer(workers=workers)


def test_a_worker_imports_neither_torch_nor_numpy():
    imports = "import sys, f5_tts.rewards.asr.pocketsphinx_worker as s; s.digit_decoder()"
    program = f"{imports}; print(sys.modules.keys() & {{'torch', 'numpy'}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n" and done.stderr == ""
