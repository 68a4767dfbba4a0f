"""Negative log-likelihood of texts under SenseVoiceSmall, differentiable in the waveform."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.data.texts import word_prefixes
from f5_tts.rewards.asr.ctc import BLANK, ctc_nll, label_spans, min_frames
from f5_tts.rewards.asr.normal_form import HAN, KANA
from f5_tts.rewards.asr.number_words import spell_out
from f5_tts.rewards.asr.sensevoice import SenseVoice
from f5_tts.rewards.audio import ASR_RATE
from f5_tts.rewards.speaker.fbank import FRAME, SHIFT, kaldi_fbank

SCALE = 32768.0  # the front end works on 16-bit sample values
# settings of FunASR's front end that `kaldi_fbank` computes; frame and shift in ms
FRONTEND = {
    "fs": ASR_RATE,
    "window": "hamming",
    "frame_length": 1000 * FRAME // ASR_RATE,
    "frame_shift": 1000 * SHIFT // ASR_RATE,
    "snip_edges": True,
    "upsacle_samples": True,  # the name that FunASR gives it
}
EVENT_AND_EMOTION = (1, 2)  # rows of the query embedding
NUM_QUERIES = 4  # language, event, emotion, style; the outputs at their places are tags
NO_ITN, NO_ITN_TAG = "woitn", "<|woitn|>"  # style without inverse text normalization
APOSTROPHES = str.maketrans("’＇`", "'''")
SPACE_BESIDE_CHARACTER = re.compile(f"(?<=[{KANA}{HAN}]) | (?=[{KANA}{HAN}])")


class TextLikelihood:
    """Likelihood of a text under a SenseVoice recognizer, by its CTC, for one clip at a time.

    The features are those of FunASR's front end.
    """

    def __init__(self, recognizer: SenseVoice) -> None:
        """Raise ValueError if the front end of the model has other settings than those computed here."""
        self.recognizer, self.frontend, self.tokenizer = recognizer, recognizer.frontend, recognizer.tokenizer
        for name, expected in FRONTEND.items():
            if (actual := getattr(self.frontend, name)) != expected:
                raise ValueError(
                    f"funasr_wer: the config.yaml of the model has frontend_conf.{name}: {actual}, but the gradient of "
                    f"the reward is computed for {expected}; use SenseVoiceSmall, or rl.algorithm=nft, which needs none"
                )

    def token_ids(self, text: str, language: str) -> list[int]:
        """Return the tokens of a text as the model writes it, without those that it does not know."""
        tag = self.tokenizer.encode(NO_ITN_TAG)
        ids = self.tokenizer.encode(NO_ITN_TAG + written(text, language))[len(tag) :]
        return [token for token in ids if token != BLANK]

    def word_ends(self, text: str, language: str) -> list[int]:
        """Count the tokens of a text up to the end of each of its words, which are those of `normalize`."""
        counts = [len(self.token_ids(prefix, language)) for prefix in word_prefixes(text)]
        return [min(count, counts[-1]) for count in accumulate(counts, max)]

    def fits(self, num_samples: int, ids: list[int]) -> bool:
        """Check whether a clip at 16 kHz has enough frames for the tokens."""
        num_frames = max(0, 1 + (num_samples - FRAME) // SHIFT)
        return min_frames(ids) <= -(-num_frames // self.frontend.lfr_n)

    def log_probabilities(self, wave: Float[Tensor, " nw"], language: str) -> Float[Tensor, "n v"]:
        """Compute the log-probabilities of the tokens at each frame of 60 ms, without those of the tags."""
        model = self.recognizer.model
        with self.recognizer.exclusive():
            features = front_end(wave.to(model.embed.weight), self.frontend)
            inputs = torch.cat([self.queries(language), features])[None]
            hidden, _ = model.encoder(inputs, torch.tensor([inputs.shape[1]], device=inputs.device))
            return model.ctc.log_softmax(hidden)[0, NUM_QUERIES:]

    def queries(self, language: str) -> Float[Tensor, "4 d"]:
        """Embed the queries that the model gets before the features, as in FunASR's inference."""
        model = self.recognizer.model
        rows = [model.lid_dict[language], *EVENT_AND_EMOTION, model.textnorm_dict[NO_ITN]]
        return model.embed(torch.tensor(rows, device=model.embed.weight.device))


def token_nats(scores: Float[Tensor, "n v"], ids: Sequence[int]) -> Float[Tensor, ""]:
    """Compute the negative log-likelihood of the tokens in these frames, per token; infinite unless they fit."""
    (total,) = ctc_nll(scores[None], torch.tensor([len(scores)]), [ids])
    return total / len(ids)


def word_nats(scores: Float[Tensor, "n v"], ids: Sequence[int], ends: Sequence[int]) -> Float[Tensor, " w"]:
    """Compute the negative log-likelihood of each word in its frames, per token; NaN for a word without tokens.

    The frames of a word are those of its tokens in the best alignment of the whole text (`ctc.label_spans`).
    """
    spans, nats = label_spans(scores, ids), []
    for first, end in pairwise([0, *ends]):
        if first == end:
            nats.append(scores.new_tensor(math.nan))
        else:
            nats.append(token_nats(scores[spans[first][0] : spans[end - 1][1]], ids[first:end]))
    return torch.stack(nats) if nats else scores.new_zeros(0)


def written(text: str, language: str) -> str:
    """Write a text as SenseVoice does without inverse text normalization.

    That is in lower case, numbers spelled out in `language`, without punctuation except apostrophes within words, and
    without spaces beside Chinese and Japanese characters.
    """
    lowered = unicodedata.normalize("NFKC", text).lower().translate(APOSTROPHES)
    spelled = spell_out(lowered, "zh" if language == "yue" else language)
    kept = "".join(c if c == "'" or unicodedata.category(c)[0] not in "PSC" else " " for c in spelled)
    words = (word.strip("'") for word in kept.split())
    return SPACE_BESIDE_CHARACTER.sub("", " ".join(filter(None, words)))


def front_end(wave: Float[Tensor, " nw"], frontend: Any) -> Float[Tensor, "n d"]:
    """Compute the features of FunASR's WavFrontend: filter bank, low frame rate, normalization by global statistics.

    The waveform is at 16 kHz, in [-1, 1].
    """
    stacked = low_frame_rate(kaldi_fbank(wave * SCALE, frontend.n_mels), frontend.lfr_m, frontend.lfr_n)
    shift, scale = frontend.cmvn.to(wave)
    return (stacked + shift) * scale


def low_frame_rate(frames: Float[Tensor, "n d"], num: int, step: int) -> Float[Tensor, "m k"]:
    """Stack `num` frames around every frame of a step; the first and last frame are repeated beyond the ends."""
    centers = torch.arange(0, len(frames), step, device=frames.device)
    offsets = torch.arange(num, device=frames.device) - (num - 1) // 2
    positions = (centers[:, None] + offsets).clamp(0, len(frames) - 1)
    return frames[positions].flatten(1)
