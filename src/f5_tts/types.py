"""Data classes and protocols that the modules exchange, in the order of the data flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from f5_tts.config.schema import MelSpecConfig

Number = int | float  # of public functions, which programs also give whole numbers


def split_range(num: int) -> list[slice]:
    """Split `num` indices into two slices, the larger one first; return one slice for one index."""
    middle = (num + 1) // 2
    return [rows for rows in (slice(0, middle), slice(middle, num)) if rows.start < rows.stop]


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor to `device`; a GPU gets it from pinned memory, so that nothing waits for the copy."""
    is_upload = device.type == "cuda" and tensor.device.type == "cpu"
    return tensor.pin_memory().to(device, non_blocking=True) if is_upload else tensor.to(device)


def padding_mask(lens: Int[Tensor, " b"], length: int) -> Bool[Tensor, "b n"] | None:
    """Return a mask that is True on valid frames, or None if nothing is padded; attention is faster without a mask.

    On a GPU this waits for all work before it, so a learning pass takes the mask that was made with its batch.
    """
    if bool((lens == length).all()):
        return None
    return torch.arange(length, device=lens.device) < lens[:, None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """Training item: the prompt (given frames) followed by the target (frames to generate)."""

    audio: Float[Tensor, " nw"]  # waveform of prompt and target
    mel: Float[Tensor, "n d"]  # log-mel of prompt and target, natural log
    prompt_frames: int  # number of prompt frames at the start; 0 where the stage chooses them
    text: str | list[str]  # transcript of all frames, prompt included; or its list of tokens
    target_text: str  # transcript of the target
    prompt_id: int  # id of the pair (prompt, text); samples of one pair form a group
    prompt_text: str = ""  # transcript of the prompt, where it is a recording of its own
    row: Mapping[str, Any] = field(default_factory=dict)  # row of the target in the data set, for rewards


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """Row of the data set that cannot be used for training; it takes the place of an utterance."""

    index: int
    path: str
    kind: str  # at most two words, e.g. "too short"
    reason: str  # one sentence


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechBatch:
    """Batch of utterances, padded to one length."""

    mel: Float[Tensor, "b n d"]  # padded with zeros
    lens: Int[Tensor, " b"]  # valid frames
    prompt_lens: Int[Tensor, " b"]  # prompt frames; 0 where the stage chooses them
    text: Int[Tensor, "b nt"]  # token ids, padded with -1
    target_texts: list[str]  # transcripts of the targets
    group_ids: Int[Tensor, " b"]  # samples of one prompt share an id
    audio: list[Tensor]  # waveforms, unpadded
    prompt_texts: list[str] = field(default_factory=list)  # as in Utterance; empty where not needed
    rows: list[Mapping[str, Any]] = field(default_factory=list)

    def to(self, device: torch.device) -> SpeechBatch:
        """Move the tensors of the batch to `device`; the waveforms stay where they are."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return replace(self, **{k: move(v, device) for k, v in values.items() if isinstance(v, Tensor)})

    def repeat(self, times: int) -> SpeechBatch:
        """Repeat each item `times` times; the copies of an item are adjacent in the new batch."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        tensors = {k: v.repeat_interleave(times, dim=0) for k, v in values.items() if isinstance(v, Tensor)}
        lists = {k: [item for item in v for _ in range(times)] for k, v in values.items() if isinstance(v, list)}
        return replace(self, **tensors, **lists)

    def select(self, rows: slice) -> SpeechBatch:
        """Select a slice of the items, with their padding unchanged."""
        return replace(self, **{entry.name: getattr(self, entry.name)[rows] for entry in fields(self)})

    @property
    def num_entries(self) -> int:
        """Return the number of mel entries, padding included."""
        return self.mel.numel()

    def split(self) -> list[SpeechBatch]:
        """Split the batch into two by items; a batch of one item is returned alone."""
        return [self.select(rows) for rows in split_range(len(self.lens))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """Samples that the policy generated for a batch of prompts, with the recorded solver steps.

    States and actions are those of the trained steps only. Tensors have no gradient, except with f5r: its actions,
    means and standard deviations keep theirs.
    """

    batch: SpeechBatch  # repeated prompts; the target frames are those of the recordings
    cond: Float[Tensor, "b n d"]  # condition of the policy: mel of the prompt frames, zeros elsewhere
    target_mask: Bool[Tensor, "b n"]  # True on generated frames; False on prompt and padding
    mel: Float[Tensor, "b n d"]  # finished log-mel, prompt frames included
    times: Float[Tensor, " s"]  # flow time of each trained step, in [0, 1], ascending
    next_times: Float[Tensor, " s"]  # flow time at the end of each trained step
    states: Float[Tensor, "s b n d"]  # x_t at the start of each trained step
    # action drawn at each state; none with draft, whose steps follow the mean velocity
    actions: Float[Tensor, "a b n d"]
    means: Float[Tensor, "a b n d"]  # mean of the Gaussian of each action
    stds: Float[Tensor, "a ..."]  # its standard deviation: a b n d, or one number per step, a 1 1 1
    # found here, so that learning does not wait for a GPU to answer
    mask: Bool[Tensor, "b n"] | None = field(init=False)  # True on valid frames; None if nothing is padded
    group: Int[Tensor, " b"] = field(init=False)  # group of each sample, by the order of their ids, from 0
    num_groups: int = field(init=False)

    def __post_init__(self) -> None:
        empty = (~self.target_mask.any(dim=1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"samples {empty} have no frames to generate: lower rl.prompt_frac_range")
        ids, group = torch.unique(self.batch.group_ids, return_inverse=True)
        found = {"mask": padding_mask(self.batch.lens, self.mel.shape[1]), "group": group, "num_groups": len(ids)}
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def select(self, rows: slice) -> Rollout:
        """Select a slice of the samples."""
        by_sample = {name: getattr(self, name)[rows] for name in ("cond", "target_mask", "mel")}
        by_step = {name: getattr(self, name)[:, rows] for name in ("states", "actions", "means")}
        stds = self.stds[:, rows] if self.stds.shape == self.means.shape else self.stds
        return replace(self, batch=self.batch.select(rows), stds=stds, **by_sample, **by_step)


Vocoder = Callable[[Tensor, Tensor], list[Tensor]]  # log-mels b n d and their lengths b in frames -> waveforms


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardInput:
    """One generated clip and what it is compared with; a reward provider gets nothing else.

    `loss` of a differentiable reward gets `mel`, or `audio`, with its gradient; `score` gets `audio` without one.
    """

    audio: Float[Tensor, " nw"]  # generated span only, mono, about [-1, 1]; empty for a `loss` that takes the mel
    sample_rate: int  # Hz, of all waveforms here
    text: str  # transcript that `prompt_audio` and `audio` together should have
    language: str = "auto"  # language of the text, from the row's `language`, e.g. "en", "zh"
    # prompt, where it is the beginning of the same clip and text
    prompt_audio: Float[Tensor, " nl"] | None = None
    reference_audio: Float[Tensor, " nr"] | None = None  # recording of the speaker to match
    reference_text: str = ""  # transcript of that recording
    target_audio: Float[Tensor, " nt"] | None = None  # recording of what `audio` should say
    row: Mapping[str, Any] = field(default_factory=dict)  # row of the data set with all its columns
    mel: Float[Tensor, "n d"] | None = None  # log-mel of the generated span, for `loss`; None for `score`
    mel_spec: MelSpecConfig | None = None  # settings of that log-mel

    @property
    def lead(self) -> Float[Tensor, " nl"] | None:
        """Return `prompt_audio`, by the name that it had; it goes with the next release."""
        return self.prompt_audio


Numbers = Tensor | Sequence[float | int | None]  # one number per clip, of shape b; None means NaN
# scores of one or of several components; the provider's `component` is the reward
Scores = Numbers | Mapping[str, Numbers | Sequence[str]]


@runtime_checkable
class RewardProvider(Protocol):
    """Reward model: scores finished clips. Higher is better; NaN where the reward does not apply to a clip."""

    component: str  # name of the score, e.g. "acc"; logged as reward/<provider>.<component>

    def score(self, inputs: Sequence[RewardInput]) -> Scores:
        """Score each clip by one number, or by several named components.

        The entry `component` is the reward; other entries, numbers or texts, are only reported. A provider that sets
        `has_word_scores = True` also returns `words`, a tensor b x w with the score of each word of a clip's text, NaN
        after the last word.
        """
        ...


@runtime_checkable
class DifferentiableReward(Protocol):
    """Reward model that also offers its gradient, for rl.algorithm=draft and rl.draft.weight.

    Attributes:
        takes: "mel" | "wave". What `loss` differentiates: `mel` of its inputs, in any of our mel settings, or `audio`,
            which needs a vocoder with gradients (Vocos).
        takes_unchanged: optional. True: rl.draft.augmentation does not change what `loss` gets.
    """

    takes: str

    def loss(self, inputs: Sequence[RewardInput]) -> Float[Tensor, " b"]:
        """Compute a loss of each clip, differentiable in its mel or audio; lower is better.

        NaN, without a gradient, where the reward does not apply to a clip; such clips count as 0.
        """
        ...


@dataclass(frozen=True, slots=True)
class ProviderScores:
    """Raw scores of the reward providers, by "<provider>.<component>"."""

    components: dict[str, Float[Tensor, " b"]]  # rewards; NaN where one does not apply
    diagnostics: dict[str, Float[Tensor, " b"]]  # diagnostics, which are only logged
    # word scores of the rewards that have them
    word_scores: dict[str, Float[Tensor, "b w"]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)  # texts, such as transcripts, which are only shown


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardBatch:
    """Rewards of the samples of a rollout."""

    total: Float[Tensor, " b"]  # weighted sum of the components that apply
    components: dict[
        str, Float[Tensor, " b"]
    ]  # "<provider>.<component>" -> raw score, before weights; NaN: does not apply
    weights: dict[str, float]  # weight of each component
    # frame scores of the components with word scores
    frame_scores: dict[str, Float[Tensor, "b n"]] = field(default_factory=dict)
    diagnostics: dict[str, Float[Tensor, " b"]] = field(default_factory=dict)  # other numbers, which are only logged
    texts: dict[str, list[str]] = field(default_factory=dict)  # texts, e.g. transcripts
    seconds: float = 0.0  # seconds of scored speech


@dataclass(frozen=True, kw_only=True, slots=True)
class ExperienceBatch:
    """Rollout with its advantages: the input of the loss of stage 2."""

    rollout: Rollout
    advantages: Float[Tensor, " b"] | Float[Tensor, "b n"]  # one per sample, or one per frame; zeros with mel_gradient
    loss_weight: float  # fraction of the update's samples in this batch, times the number of ranks
    metrics: dict[str, float]  # metrics of the whole update: rewards, groups, seconds
    rewards: RewardBatch | None = None  # rewards of its samples; None where not needed
    is_on_policy: bool = True  # first use of the rollout: the policy is still the one that drew it
    update: int = 0  # number of updates made before the one that learns from it
    # gradient of each sample's reward loss with respect to its finished log-mel: rl.algorithm=draft, rl.draft.weight
    mel_gradient: Float[Tensor, "b n d"] | None = None

    @property
    def num_entries(self) -> int:
        """Return the number of mel entries of the samples, padding included."""
        return self.rollout.mel.numel()

    def split(self) -> list[ExperienceBatch]:
        """Split the samples into two batches whose losses add up to the loss of this one.

        The rewards stay with the first batch. A single sample is not split. Samples whose actions carry gradients (f5r)
        are not split either: their graph exists once.
        """
        num = len(self.rollout.mel)
        if self.rollout.actions.requires_grad:
            return [self]
        return [
            replace(
                self,
                rollout=self.rollout.select(rows),
                advantages=self.advantages[rows],
                mel_gradient=None if self.mel_gradient is None else self.mel_gradient[rows],
                loss_weight=self.loss_weight * (rows.stop - rows.start) / num,
                rewards=self.rewards if rows.start == 0 else None,
            )
            for rows in split_range(num)
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossOutput:
    """Loss of one slice of an item, with its metrics.

    Metrics may be tensors: the loop reads the numbers of all slices at once, and so waits for a GPU once an update.
    """

    loss: Float[Tensor, ""]
    metrics: dict[str, float | Tensor]  # scalars, without gradient
    seconds: float = 0.0  # seconds of speech counted in this slice only: trained on in stage 1, drawn in stage 2
    # raises an error where the numbers of the metrics show one; called before the optimizer step
    check: Callable[[dict[str, float]], object] | None = None


def detached(metrics: Mapping[str, Tensor]) -> dict[str, float | Tensor]:
    """Return scalars as metrics of a slice, without their graphs."""
    return {name: value.detach() for name, value in metrics.items()}


ScoreFn = Callable[[Rollout], RewardBatch]


@runtime_checkable
class Scorer(Protocol):
    """Rewards of rollouts with their gradients; `scoring.RewardScorer` is the one of a run."""

    def __call__(self, rollout: Rollout) -> RewardBatch:
        """Score the samples of a rollout."""
        ...

    def differentiate(self, rollout: Rollout) -> tuple[RewardBatch, Tensor]:
        """Compute the reward losses of a rollout, and their gradient with respect to its log-mel."""
        ...
