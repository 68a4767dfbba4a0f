"""Differentiable word error of spoken digits by small CTC recognizers on the model's own log-mel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from f5_tts.config.schema import MelSpecConfig
from f5_tts.data.texts import normalize
from f5_tts.model.mel import LogMel
from f5_tts.rewards.asr.ctc import ctc_nll, greedy_labels, label_spans, min_frames
from f5_tts.rewards.asr.digits_network import (
    MEL_SPEC,
    WORDS,
    DigitsNetwork,
    phone_labels,
    read_network,
    word_labels,
)
from f5_tts.rewards.asr.transcript_reward import TranscriptReward, transcript_word_scores, with_prompt
from f5_tts.rewards.audio import shared_rate, to_16k_mono, usable_indices
from f5_tts.types import RewardInput

CKPTS = ("pretrained/digits_ctc/a.safetensors", "pretrained/digits_ctc/b.safetensors")
PHONE_WEIGHT = 0.5  # of the phones' negative log-likelihood, beside that of the words
COMPONENTS = ("acc", "fit")


class DigitsCtc(TranscriptReward):
    """Reward by CTC recognizers of digit words: the accuracy of their transcript, or the likelihood of the text.

    A recognizer gives -log p(text) in nats, of the words and of their phones. With w words, its loss is
    l = (nll_words + nll_phones / 2) / w, limited smoothly to `cap`: cap tanh(l / cap). Recognizers are averaged.

    Components: those of `TranscriptReward`, from the transcript of the first recognizer. `fit`: minus the loss, in
    [-cap, 0]; NaN for a text without words, -cap for a clip that cannot be scored. `words`: a score for each word of
    the text, NaN after the last. With component acc it is that of `error_rate.word_scores`. With component fit it is
    -cap tanh(l_k / cap), l_k = -log p(word k | frames of word k): word k alone has to be heard in the frames that the
    best alignment of the text gives it, and a pause is divided in the middle (`ctc.label_spans`). Where no two
    neighbors are equal, the sum of -l_k is a lower bound of log p(words), without the alignments that cross the limits.

    Args:
        ckpts: weights files, one or several.
        component: acc | fit.
        cap: upper limit of the loss, nats per word.
    """

    has_word_scores = True
    languages = ("en",)
    known_words = frozenset(WORDS)
    takes = "mel"
    num_parameters = 1_486_862  # of the two shipped recognizers

    def __init__(self, ckpts: Sequence[str] = CKPTS, *, component: str = "acc", cap: float = 6.0):
        if isinstance(ckpts, str) or not ckpts:
            raise ValueError(f"digits_ctc: config.ckpts must be a list of one or more files, got {ckpts!r}")
        if component not in COMPONENTS:
            raise ValueError(f"digits_ctc: config.component={component!r} is none of {', '.join(COMPONENTS)}")
        if not 0 < cap < math.inf:
            raise ValueError(f"digits_ctc: config.cap must be above 0 nats and finite, got {cap!r}")
        self.component, self.cap = component, float(cap)
        self.recognizers = [read_network(Path(path)) for path in ckpts]
        self.log_mel = LogMel(MEL_SPEC)

    def loss(self, inputs: Sequence[RewardInput]) -> Float[Tensor, " b"]:
        """Compute the loss of each clip, differentiable in its log-mel; in [0, cap], nats per word.

        NaN, without a gradient, for a text without words or a log-mel that is not finite. A clip with too few frames
        for its text has the loss `cap`, without a gradient.

        Raises:
            ValueError: a text has other words than digits, or a log-mel has other settings than `MEL_SPEC`.
        """
        texts = [digit_words(item.text) for item in inputs]
        mels = [self.heard_mel(item) for item in inputs]
        rows = [i for i, (mel, words) in enumerate(zip(mels, texts, strict=True)) if words and mel.isfinite().all()]
        losses = torch.full((len(inputs),), math.nan)
        if not rows:
            return losses
        lens, kept = torch.tensor([len(mels[i]) for i in rows]), [texts[i] for i in rows]
        outputs = self.run([mels[i] for i in rows])
        return losses.to(outputs[0][0]).index_copy(0, torch.tensor(rows), self.mean_loss(outputs, lens, kept))

    @staticmethod
    def loss_mib(seconds: float, num_clips: int) -> float:
        """Return the memory of the loss of clips of this length (s), forward and backward, in MiB: all together."""
        return 1.4 * seconds * num_clips

    def heard_mel(self, item: RewardInput) -> Float[Tensor, "n d"]:
        """Return the log-mel that the text covers: of the prompt, if it was cut from the same clip, and of the span."""
        check_mel_spec(item.mel_spec)
        assert item.mel is not None, "the loss takes the log-mel"
        mel = item.mel.cpu()
        if item.prompt_audio is None:
            return mel
        return torch.cat([self.prompt_mel(item.prompt_audio, item.sample_rate).to(mel), mel])

    @torch.no_grad()
    def prompt_mel(self, prompt: Float[Tensor, " nl"], sample_rate: int) -> Float[Tensor, "n d"]:
        """Compute the frames of a prompt that precede the generated span: one per whole hop."""
        wave = to_16k_mono(prompt, sample_rate)
        num_frames, min_samples = len(wave) // MEL_SPEC.hop_length, MEL_SPEC.n_fft // 2 + 1
        return self.log_mel(pad(wave, (0, max(0, min_samples - len(wave))))[None])[0, :num_frames]

    @torch.no_grad()
    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
        """Compute all components from the audio.

        Raises:
            ValueError: a text has other words than digits, or the sample rates differ.
        """
        texts = [digit_words(item.text) for item in inputs]
        usable = usable_indices([item.audio for item in inputs], shared_rate(inputs))
        mels = [self.audio_mel(inputs[i]) for i in usable]
        outputs, lens = self.run(mels), torch.tensor([len(mel) for mel in mels])
        transcripts = transcripts_of(outputs[0][0], lens) if usable else []
        heard = dict(zip(usable, transcripts, strict=True))
        components = self.score_transcripts(inputs, [heard.get(i) for i in range(len(inputs))])
        components["fit"] = self.text_fits(outputs, lens, usable, texts)
        if self.component == "fit":
            components["words"] = self.word_fits(outputs, lens, usable, texts)
        else:
            components["words"] = transcript_word_scores(inputs, components["heard"])
        return components

    def transcribe_inputs(self, inputs: Sequence[RewardInput]) -> list[str]:
        """Transcribe each clip, together with its prompt, by the first recognizer."""
        mels = [self.audio_mel(item) for item in inputs]
        return transcripts_of(self.run(mels)[0][0], torch.tensor([len(mel) for mel in mels]))

    def audio_mel(self, item: RewardInput) -> Float[Tensor, "n d"]:
        """Compute the log-mel of the audio that the text covers."""
        return self.log_mel(to_16k_mono(with_prompt(item), item.sample_rate)[None])[0]

    def run(self, mels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Compute the log-probabilities of words and of phones by recognizer, from log-mels n x d of any lengths."""
        lens = torch.tensor([len(mel) for mel in mels])
        return [network(batch_for(network, mels), lens) for network in self.recognizers] if mels else []

    def mean_loss(
        self, outputs: Sequence[tuple[Tensor, Tensor]], lens: Tensor, texts: Sequence[Sequence[str]]
    ) -> Float[Tensor, " b"]:
        """Compute the limited loss of each text, averaged over the recognizers."""
        losses = [self.cap * torch.tanh(nats_per_word(*output, lens, texts) / self.cap) for output in outputs]
        return torch.stack(losses).mean(dim=0)

    def text_fits(
        self,
        outputs: Sequence[tuple[Tensor, Tensor]],
        lens: Tensor,
        usable: Sequence[int],
        texts: Sequence[Sequence[str]],
    ) -> Float[Tensor, " b"]:
        """Compute minus the loss of each clip; -cap for unusable clips, NaN for texts without words."""
        fits = torch.full((len(texts),), -self.cap)
        if usable:
            fits[usable] = -self.mean_loss(outputs, lens, [texts[i] for i in usable])
        return fits.masked_fill(torch.tensor([not words for words in texts]), math.nan)

    def word_fits(
        self,
        outputs: Sequence[tuple[Tensor, Tensor]],
        lens: Tensor,
        usable: Sequence[int],
        texts: Sequence[Sequence[str]],
    ) -> Float[Tensor, "b w"]:
        """Compute the limited log-likelihood of each word, averaged over the recognizers; -cap for unusable clips."""
        scores = [torch.full((len(words),), -self.cap) for words in texts]
        for row, index in enumerate(usable):
            nats = [word_nats(words[row, : lens[row]], texts[index]) for words, _ in outputs]
            scores[index] = -(self.cap * torch.tanh(torch.stack(nats) / self.cap)).mean(dim=0)
        return pad_sequence(scores, batch_first=True, padding_value=math.nan)


def digit_words(text: str) -> list[str]:
    """Return the words of a text; raise ValueError if one of them is no digit."""
    words = normalize(text).split()
    unknown = [word for word in words if word not in WORDS]
    if unknown:
        raise ValueError(
            f"digits_ctc knows the words zero to nine only, and the text {text!r} has {unknown[0]!r}: spell digits as "
            "words, or take a reward for this language, such as funasr_wer"
        )
    return words


def check_mel_spec(mel_spec: MelSpecConfig | None) -> None:
    """Raise ValueError unless a log-mel has the settings that the recognizers were trained on."""
    if mel_spec != MEL_SPEC:
        raise ValueError(
            f"digits_ctc hears log-mels of {MEL_SPEC}, and the model's are of {mel_spec}: it is a reward for "
            "F5TTS_Mini; take funasr_wer, which hears audio"
        )


def batch_for(network: DigitsNetwork, mels: Sequence[Tensor]) -> Float[Tensor, "b n d"]:
    """Pad log-mels to a batch in the precision of a network."""
    return pad_sequence([mel.to(network.mean.dtype) for mel in mels], batch_first=True)


def nats_per_word(
    words: Float[Tensor, "b n kw"], phones: Float[Tensor, "b n kp"], lens: Tensor, texts: Sequence[Sequence[str]]
) -> Float[Tensor, " b"]:
    """Compute (nll_words + nll_phones / 2) / number of words; infinite where a clip is too short for its text."""
    nll = ctc_nll(words, lens, [word_labels(text) for text in texts])
    nll = nll + PHONE_WEIGHT * ctc_nll(phones, lens, [phone_labels(text) for text in texts])
    return nll / torch.tensor([max(1, len(text)) for text in texts])


def word_nats(log_probs: Float[Tensor, "n k"], words: Sequence[str]) -> Float[Tensor, " w"]:
    """Compute -log p of each word in its frames; infinite where the clip is too short for the text."""
    labels = word_labels(words)
    if not labels or len(log_probs) < min_frames(labels):
        return log_probs.new_full((len(labels),), math.inf)
    spans = label_spans(log_probs, labels)
    pieces = pad_sequence([log_probs[first:end] for first, end in spans], batch_first=True)
    return ctc_nll(pieces, torch.tensor([end - first for first, end in spans]), [[label] for label in labels])


def transcripts_of(log_probs: Float[Tensor, "b n k"], lens: Tensor) -> list[str]:
    """Return the greedy transcripts of a batch."""
    labels = [greedy_labels(rows[:length]) for rows, length in zip(log_probs, lens.tolist(), strict=True)]
    return [" ".join(WORDS[label - 1] for label in row) for row in labels]
