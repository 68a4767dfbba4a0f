"""Error rate by FunASR's Paraformer in Chinese, as Seed-TTS-eval measures it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from f5_tts.rewards.asr.funasr_model import FunasrKind, FunasrModel, find_directory
from f5_tts.rewards.asr.normal_form import HAN
from f5_tts.rewards.asr.transcript_reward import SpokenTextReward, with_prompt
from f5_tts.rewards.audio import shared_rate, to_16k_mono
from f5_tts.types import RewardInput

BETWEEN_CHARACTERS = re.compile(f"(?<=[{HAN}]) (?=[{HAN}])")  # spaces, which models with timestamps write
PARAFORMER = FunasrKind(
    provider="paraformer_wer",
    title="Paraformer",
    files=("config.yaml", "configuration.json", "model.pt", "am.mvn", "tokens.json", "seg_dict"),
    components={
        "model": ("SeacoParaformer", "BiCifParaformer", "Paraformer"),
        "encoder": ("SANMEncoder",),
        "tokenizer": ("CharTokenizer",),
        "frontend": ("WavFrontend",),
    },
    tokenizer={"token_list": "tokens.json", "seg_dict": "seg_dict"},
    directory="checkpoints/funasr/paraformer-zh",
    advice="copy the files of {hub}/funasr/paraformer-zh to {directory}",
    hub_names={"paraformer-zh": "funasr/paraformer-zh"},
    has_more_weights=True,
)


class ParaformerWer(SpokenTextReward):
    """Reward by the error rate of Paraformer's transcripts of Chinese; components as in `TranscriptReward`.

    The published file was never loaded by this project; the code is tested with a small model of random weights.

    Args:
        model_id: directory of paraformer-zh, or its name on the hub.
        device: torch device of the model.
    """

    requires = ("funasr",)
    languages = ("zh",)
    title = "Paraformer"
    num_parameters = 220_000_000

    def __init__(self, model_id: str | None, *, device: str = "cpu"):
        self.recognizer = Paraformer(find_directory(model_id, PARAFORMER), device)

    def transcribe_inputs(self, inputs: Sequence[RewardInput]) -> list[str]:
        """Transcribe each clip, together with its prompt."""
        return [self.recognizer.transcribe(with_prompt(item), shared_rate(inputs)) for item in inputs]

    def text_language(self, item: RewardInput) -> str:
        """Return Chinese, the only language of the model."""
        return "zh"


class Paraformer(FunasrModel):
    """Paraformer recognizer of Chinese, with or without its decoder of hot words, of which there are none."""

    def __init__(self, directory: Path, device: str = "cpu"):
        super().__init__(directory, device, PARAFORMER)

    def transcribe(self, clip: Tensor, sample_rate: int) -> str:
        """Transcribe a mono clip; empty where it finds no word. Clips of a batch would change each other's padding."""
        return BETWEEN_CHARACTERS.sub("", "".join(self.infer([to_16k_mono(clip, sample_rate)])))
