from __future__ import annotations

from pathlib import Path

import pytest
import torch

from f5_tts.data.audio import load_audio
from f5_tts.infer.whisper import transcribe
from f5_tts.rewards.asr.whisper import weights_folder

CLIP = Path(__file__).parents[2] / "data/mini_custom/wavs/test_00_test_prompt_1.flac"


def test_a_recording_is_heard_as_whisper_writes_it():
    assert transcribe(load_audio(CLIP, 24_000), 24_000).strip(".") in ("724", "7, 2, 4", "Seven two four")


def test_a_recording_longer_than_whispers_context_is_refused():
    with pytest.raises(ValueError, match=r"clips of at most 29\.7 s, got 31\.0 s"):
        transcribe(torch.rand(31 * 16_000), 16_000)


def test_missing_weights_are_named_with_the_command_that_fetches_them():
    with pytest.raises(ImportError, match=r"in the package no_such_ears; .*--no-deps -r requirements-assets\.txt"):
        weights_folder("no_such_ears")
