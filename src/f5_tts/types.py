"""Objects that cross from one room to another, in the order of the flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def split_range(num: int) -> list[slice]:
    """Places 0 to num in two parts, the larger first; one place in one."""
    middle = (num + 1) // 2
    return [rows for rows in (slice(0, middle), slice(middle, num)) if rows.start < rows.stop]


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """One training item: the prompt (what is given) followed by the target (what is to be spoken)."""

    audio: Float[Tensor, " nw"]  # waveform of both
    mel: Float[Tensor, "n d"]  # log-mel of both, natural log
    prompt_frames: int  # how many frames at the start are prompt; 0 where the stage decides
    text: str | list[str]  # what is said in all frames, the prompt's included; or its symbols
    target_text: str  # what is said after the prompt
    prompt_id: int  # names the pair (prompt, text); samples drawn for it form a group
    prompt_text: str = ""  # what the prompt says, where it is a recording of its own
    row: Mapping[str, Any] = field(default_factory=dict)  # the target's row of the data set, for rewards


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """A row of the data set that nothing can be learnt from, in place of an utterance."""

    index: int
    path: str
    kind: str  # in two words at most, e.g. "too short"
    reason: str  # in a sentence


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechBatch:
    """Utterances padded to one length."""

    mel: Float[Tensor, "b n d"]  # padded with zeros
    lens: Int[Tensor, " b"]  # valid frames
    prompt_lens: Int[Tensor, " b"]  # frames of the prompt; 0 where the stage decides
    text: Int[Tensor, "b nt"]  # token ids, padded with -1
    target_texts: list[str]  # what a perfect sample says after the prompt
    group_ids: Int[Tensor, " b"]  # samples of one prompt share an id
    audio: list[Tensor]  # waveforms, unpadded
    prompt_texts: list[str] = field(default_factory=list)  # as in Utterance; empty where nobody asks
    rows: list[Mapping[str, Any]] = field(default_factory=list)

    def to(self, device: torch.device) -> SpeechBatch:
        """The same batch with its tensors on `device`; waveforms stay where they are."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return replace(self, **{k: v.to(device) for k, v in values.items() if isinstance(v, Tensor)})

    def repeat(self, times: int) -> SpeechBatch:
        """Each item `times` times, neighbours in the new batch."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        tensors = {k: v.repeat_interleave(times, dim=0) for k, v in values.items() if isinstance(v, Tensor)}
        lists = {k: [item for item in v for _ in range(times)] for k, v in values.items() if isinstance(v, list)}
        return replace(self, **tensors, **lists)

    def select(self, rows: slice) -> SpeechBatch:
        """Some of its items, padded as before."""
        return replace(self, **{entry.name: getattr(self, entry.name)[rows] for entry in fields(self)})

    @property
    def num_entries(self) -> int:
        """Mel entries, padding included."""
        return self.mel.numel()

    def split(self) -> list[SpeechBatch]:
        """Its items in two batches; one item stays whole."""
        return [self.select(rows) for rows in split_range(len(self.lens))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """What the policy drew for a batch of prompts; states and actions of the trained steps only. No
    gradients, but f5r's, whose actions, means and stds keep theirs."""

    batch: SpeechBatch  # prompts, repeated; their target frames are what the data set holds
    cond: Float[Tensor, "b n d"]  # mel of the prompt frames, zeros elsewhere: what the policy was shown
    target_mask: Bool[Tensor, "b n"]  # True on generated frames; False on prompt and padding
    mel: Float[Tensor, "b n d"]  # finished log-mel, prompt frames included
    times: Float[Tensor, " s"]  # flow time of each trained step, in [0, 1], ascending
    next_times: Float[Tensor, " s"]  # where each of them leads
    states: Float[Tensor, "s b n d"]  # x_t shown to the policy
    actions: Float[Tensor, "s b n d"]  # what was drawn there
    means: Float[Tensor, "s b n d"]  # of the Gaussian that it was drawn from
    stds: Float[Tensor, "s ..."]  # and its standard deviation: s b n d, or one number a step, s 1 1 1

    def __post_init__(self) -> None:
        empty = (~self.target_mask.any(dim=1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"samples {empty} have no frames to generate: lower rl.prompt_frac_range")

    def select(self, rows: slice) -> Rollout:
        """Some of its samples."""
        by_sample = {name: getattr(self, name)[rows] for name in ("cond", "target_mask", "mel")}
        by_step = {name: getattr(self, name)[:, rows] for name in ("states", "actions", "means")}
        stds = self.stds[:, rows] if self.stds.shape == self.means.shape else self.stds
        return replace(self, batch=self.batch.select(rows), stds=stds, **by_sample, **by_step)


Vocoder = Callable[[Tensor, Tensor], list[Tensor]]  # log-mels b n d and their lengths b in frames -> waveforms


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardInput:
    """One generated clip and what it should have been; providers see nothing else."""

    audio: Float[Tensor, " nw"]  # the generated span alone, mono, about [-1, 1]
    sample_rate: int  # Hz, of all waveforms here
    text: str  # what `prompt_audio` and `audio` together should say
    language: str = "auto"  # of the text: the row's `language`, e.g. "en", "zh"
    # the prompt, where it is the beginning of the same clip and of its text
    prompt_audio: Float[Tensor, " nl"] | None = None
    reference_audio: Float[Tensor, " nr"] | None = None  # a recording of the voice to match
    reference_text: str = ""  # what that recording says
    target_audio: Float[Tensor, " nt"] | None = None  # how a person said what `audio` should say
    row: Mapping[str, Any] = field(default_factory=dict)  # the row of the data set, all its columns

    @property
    def lead(self) -> Float[Tensor, " nl"] | None:
        """Return `prompt_audio`, by the name that it had; it goes with the next release."""
        return self.prompt_audio


Numbers = Tensor | Sequence[float | int | None]  # one a clip, of shape b; None is NaN
Scores = Numbers | Mapping[str, Numbers | Sequence[str]]  # or several by component; that of the provider counts


@runtime_checkable
class RewardProvider(Protocol):
    """Scores finished clips; higher is better, NaN where the reward does not apply to a clip."""

    component: str  # what the number is, e.g. "acc"; logged as reward/<provider>.<component>

    def score(self, inputs: Sequence[RewardInput]) -> Scores:
        """Of each clip a number, or several by name: `component` is the reward, the others, numbers or texts, are
        reported beside it. Where the provider says `has_word_scores = True`, `words` is what each word of a clip's text
        earned, a tensor b x w, NaN after its last."""
        ...


@dataclass(frozen=True, slots=True)
class ProviderScores:
    """What rewards said of clips, raw, by "<provider>.<component>"."""

    components: dict[str, Float[Tensor, " b"]]  # what is rewarded; NaN where it does not apply
    diagnostics: dict[str, Float[Tensor, " b"]]  # what is only looked at
    # of parts that know which word earned them
    word_scores: dict[str, Float[Tensor, "b w"]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)  # what is only read


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardBatch:
    """What the reward models said about a rollout."""

    total: Float[Tensor, " b"]  # weighted sum of the parts that apply
    components: dict[
        str, Float[Tensor, " b"]
    ]  # "<provider>.<component>" -> raw score, before weights; NaN: does not apply
    weights: dict[str, float]  # by the same names
    # parts that know which word earned them
    frame_scores: dict[str, Float[Tensor, "b n"]] = field(default_factory=dict)
    diagnostics: dict[str, Float[Tensor, " b"]] = field(default_factory=dict)  # other components, to be looked at
    texts: dict[str, list[str]] = field(default_factory=dict)  # and to be read, e.g. what was heard
    seconds: float = 0.0  # of speech that was scored


@dataclass(frozen=True, kw_only=True, slots=True)
class ExperienceBatch:
    """A rollout with what the objective needs to know of its rewards."""

    rollout: Rollout
    advantages: Float[Tensor, " b"] | Float[Tensor, "b n"]  # of each sample, or of each of its frames
    loss_weight: float  # of the update's samples that are in this batch, times the number of processes
    metrics: dict[str, float]  # of the whole update: rewards, groups, seconds
    rewards: RewardBatch | None = None  # of its samples; None where nobody looks at them
    is_on_policy: bool = True  # no update has learnt from it yet, so the policy is still the one that drew

    @property
    def num_entries(self) -> int:
        """Mel entries of its samples, padding included."""
        return self.rollout.mel.numel()

    def split(self) -> list[ExperienceBatch]:
        """Its samples in two batches whose losses add up to its own; what rewards said stays with the first.

        One sample stays whole, and so do samples with gradients of their drawing (f5r), which are there once.
        """
        num = len(self.rollout.mel)
        if self.rollout.actions.requires_grad:
            return [self]
        return [
            replace(
                self,
                rollout=self.rollout.select(rows),
                advantages=self.advantages[rows],
                loss_weight=self.loss_weight * (rows.stop - rows.start) / num,
                rewards=self.rewards if rows.start == 0 else None,
            )
            for rows in split_range(num)
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossOutput:
    """A slice of an item's loss, and the numbers worth a look."""

    loss: Float[Tensor, ""]
    metrics: dict[str, float]
    seconds: float = 0.0  # of speech that is in no other slice: stage 1 learnt from it, stage 2 drew it
