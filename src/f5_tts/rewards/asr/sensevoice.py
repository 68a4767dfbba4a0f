"""Transcription by FunASR's SenseVoiceSmall."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from f5_tts.rewards.asr.funasr_model import FunasrKind, FunasrModel, find_directory
from f5_tts.rewards.audio import to_16k_mono, usable_indices

LANGUAGES = ("auto", "zh", "en", "yue", "ja", "ko")
TAG = re.compile(r"<\|[^|]*\|>")  # language, emotion, event and style tags at the start of each text

BPE = "chn_jpn_yue_eng_ko_spectok.bpe.model"
DEFAULT_DIRECTORY = "checkpoints/funasr/SenseVoiceSmall"
SENSEVOICE = FunasrKind(
    provider="funasr_wer",
    title="SenseVoiceSmall",
    files=("config.yaml", "configuration.json", "model.pt", "am.mvn", BPE),
    components={
        "model": ("SenseVoiceSmall",),
        "encoder": ("SenseVoiceEncoderSmall",),
        "tokenizer": ("SentencepiecesTokenizer",),
        "frontend": ("WavFrontend",),
    },
    tokenizer={"bpemodel": BPE},
    directory=DEFAULT_DIRECTORY,
    advice="run: f5-tts fetch asr --cache_dir {directory}",
    hub_names={"iic/SenseVoiceSmall": "FunAudioLLM/SenseVoiceSmall"},
)
FILES = SENSEVOICE.files


class SenseVoice(FunasrModel):
    """SenseVoiceSmall recognizer: transcripts without tags, punctuation or inverse text normalization."""

    def __init__(self, directory: Path, device: str, batch_size: int):
        super().__init__(directory, device, SENSEVOICE)
        self.batch_size = batch_size

    def transcribe(self, clips: list[Tensor], sample_rate: int, languages: list[str]) -> list[str]:
        """Transcribe mono clips, in order, each in its language of LANGUAGES; unusable clips get ""."""
        resampled = {i: to_16k_mono(clips[i], sample_rate) for i in usable_indices(clips, sample_rate)}
        texts: dict[int, str] = {}
        for language in dict.fromkeys(languages):
            same_language = sorted((i for i in resampled if languages[i] == language), key=lambda i: len(resampled[i]))
            for start in range(0, len(same_language), self.batch_size):
                batch = same_language[start : start + self.batch_size]  # clips of similar length need little padding
                texts.update(zip(batch, self._transcribe_batch([resampled[i] for i in batch], language), strict=True))
        return [texts.get(i, "") for i in range(len(clips))]

    def _transcribe_batch(self, clips: list[Tensor], language: str) -> list[str]:
        """Transcribe clips at 16 kHz in one language."""
        texts = self.infer(clips, language=language, use_itn=False)
        if len(texts) != len(clips):
            raise RuntimeError(f"funasr_wer: {len(texts)} texts were returned for {len(clips)} clips")
        return [TAG.sub("", text) for text in texts]


def find_sensevoice(model_id: str | None) -> Path:
    """Return the directory of SenseVoiceSmall of that name, or download it."""
    return find_directory(model_id, SENSEVOICE)
