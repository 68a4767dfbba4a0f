"""Members of F5-TTS's class CFM that programs use: its mel, its vocabulary, and `sample` on raw audio and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from f5_tts.data.masking import span_mask
from f5_tts.model.flow import solve, time_grid
from f5_tts.model.modules import MelSpec
from f5_tts.model.utils import list_str_to_idx, list_str_to_tensor

METHODS = ("euler", "midpoint")
TRAINING = ("sigma", "audio_drop_prob", "cond_drop_prob", "frac_lengths_mask", "num_channels")  # nothing to synthesis


class PublicMembers(nn.Module):
    """Base of CFM with the members that programs use; it holds no weights and no submodules."""

    vocab_char_map: Mapping[str, int] | None
    odeint_kwargs: dict[str, Any]

    def describe(
        self,
        *,
        mel_spec_module: nn.Module | None = None,
        mel_spec_kwargs: Mapping[str, Any] | None = None,
        vocab_char_map: Mapping[str, int] | None = None,
        odeint_kwargs: Mapping[str, Any] | None = None,
        **training: Any,
    ) -> None:
        """Keep the public arguments: mel, vocabulary (None for bytes) and solver; those of training have no effect."""
        if unknown := sorted(training.keys() - set(TRAINING)):
            raise TypeError(f"CFM has no argument {', '.join(unknown)}")
        self.vocab_char_map, self.odeint_kwargs = vocab_char_map, {"method": "euler", **(odeint_kwargs or {})}
        method = self.odeint_kwargs["method"]
        if method not in METHODS:
            raise ValueError(f"odeint_kwargs: method={method} is not allowed; allowed: {' or '.join(METHODS)}")
        # in a tuple, so that it is no submodule
        self._mel_spec = (mel_spec_module or MelSpec(**(mel_spec_kwargs or {})),)

    @property
    def mel_spec(self) -> Any:
        """Return the module that computes the log-mel (bins first) of waveforms."""
        return self._mel_spec[0].to(self.device)

    @property
    def num_channels(self) -> int:
        """Return the number of mel bins."""
        return int(self.mel_spec.n_mel_channels)

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return next(self.parameters()).device

    def velocity(self, cond: Tensor, text: Tensor, mask: Tensor | None, cfg_strength: float) -> Any:
        """Return the function (x, t) -> velocity of these items."""
        raise NotImplementedError

    @torch.no_grad()
    def sample(
        self,
        cond: Float[Tensor, "b nw"] | Float[Tensor, "b p d"],
        text: Int[Tensor, "b nt"] | Sequence[str | Sequence[str]],
        duration: int | Int[Tensor, " b"],
        *,
        lens: Int[Tensor, " b"] | None = None,
        steps: int = 32,
        cfg_strength: float | int = 1.0,
        sway_sampling_coef: float | int | None = None,
        seed: int | None = None,
        max_duration: int = 65536,
        vocoder: Any = None,
        use_epss: bool = True,
        no_ref_audio: bool = False,
        edit_mask: Bool[Tensor, "b e"] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Synthesize log-mels (frames first) from prompts and texts: return them and all states of the solver.

        Args:
            cond: waveforms or log-mels (frames first) of the prompts.
            text: transcript of prompt and text together: strings, lists of symbols, or ids padded with -1.
            duration: frames of prompt and text together; raised where prompt or text need more.
            lens: frames of each prompt; None means all.
            steps: solver steps.
            cfg_strength: strength of classifier-free guidance.
            sway_sampling_coef: shift of the time grid; None means none.
            seed: seed of the noise, the same for each item; None means torch's random numbers.
            max_duration: limit of frames.
            vocoder: called with the log-mels (bins first); its result takes the place of the log-mels.
            use_epss: use the pruned time grid where there is one for `steps`.
            no_ref_audio: hide the prompts from the model, and leave them out of the result.
            edit_mask: True on frames of the prompt to keep; the others are synthesized too.
        """
        self.eval()
        prompt = self.mel_spec(cond).transpose(1, 2) if cond.ndim == 2 else cond.float()
        prompt_lens = torch.full((len(prompt),), prompt.shape[1], device=prompt.device) if lens is None else lens
        ids = self.token_ids(text).to(prompt.device)
        total = total_frames(duration, ids, prompt_lens, max_duration)
        length = int(total.max())
        known = known_frames(prompt_lens, edit_mask, length)[..., None]
        prompt = fitted(torch.zeros_like(prompt) if no_ref_audio else prompt, length)
        mask = None if bool((total == length).all()) else span_mask(torch.zeros_like(total), total, length)
        slope = self.velocity(torch.where(known, prompt, 0.0), ids, mask, float(cfg_strength))
        states = [draw_noise(total, prompt.shape[2], seed).to(prompt.device)]
        times = time_grid(steps, sway_sampling_coef, epss=use_epss).to(prompt.device)
        for step in pairwise(times):
            states.append(solve(slope, states[-1], torch.stack(step), self.odeint_kwargs["method"]))
        out = torch.where(known, prompt, states[-1])
        return (out if vocoder is None else vocoder(out.transpose(1, 2))), torch.stack(states)

    def token_ids(self, text: Tensor | Sequence[str | Sequence[str]]) -> Int[Tensor, "b nt"]:
        """Encode texts; ids are returned as they are."""
        if isinstance(text, Tensor):
            return text
        if self.vocab_char_map is not None:
            return list_str_to_idx(text, self.vocab_char_map)
        return list_str_to_tensor(["".join(item) for item in text])


def total_frames(
    duration: int | Int[Tensor, " b"], ids: Int[Tensor, "b nt"], prompt_lens: Int[Tensor, " b"], max_duration: int
) -> Int[Tensor, " b"]:
    """Return the frames of each item: those asked for, but one more than prompt and text have, up to the limit."""
    needed = torch.maximum((ids != -1).sum(dim=1), prompt_lens) + 1
    return torch.maximum(needed, torch.as_tensor(duration, device=ids.device)).clamp(max=max_duration)


def known_frames(
    prompt_lens: Int[Tensor, " b"], edit_mask: Bool[Tensor, "b e"] | None, length: int
) -> Bool[Tensor, "b n"]:
    """Return a mask of the frames that the prompts give and that are to be kept."""
    known = span_mask(torch.zeros_like(prompt_lens), prompt_lens, length)
    if edit_mask is None:
        return known
    return known & pad(edit_mask, (0, max(0, length - edit_mask.shape[1])))[:, :length].to(known.device)


def fitted(mel: Float[Tensor, "b p d"], length: int) -> Float[Tensor, "b n d"]:
    """Return mels cut, or padded with zeros, to this length."""
    return pad(mel, (0, 0, 0, max(0, length - mel.shape[1])))[:, :length]


def draw_noise(total: Int[Tensor, " b"], bins: int, seed: int | None) -> Float[Tensor, "b n d"]:
    """Draw the noise of each item, padded with zeros: with a seed as a request of this seed, else from torch's."""
    noises = []
    for frames in total.tolist():
        generator = None if seed is None else torch.Generator().manual_seed(seed % 2**64)
        noises.append(torch.randn(frames, bins, generator=generator))
    return pad_sequence(noises, batch_first=True)
