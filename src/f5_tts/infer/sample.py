"""Sampling of mel spectrograms from prompts and texts, deterministic for given noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from f5_tts.data.masking import span_mask
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.model.cfm import CFM, velocity_field
from f5_tts.model.flow import solve
from f5_tts.types import padding_mask


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Input for the synthesis of one text in the voice of a prompt."""

    prompt_mel: Float[Tensor, "p d"]  # log-mel
    text: str  # transcript of the prompt, then the text to synthesize
    frames: int  # of the speech, without the prompt
    seed: int  # of all its noise; the result does not depend on the rest of the batch

    @property
    def total(self) -> int:
        """Return the number of frames of prompt and speech."""
        return len(self.prompt_mel) + self.frames


@torch.no_grad()
def sample_requests(
    model: CFM,
    requests: Sequence[Request],
    vocabulary: Vocabulary,
    times: Float[Tensor, " s"],
    cfg_strength: float,
    method: str = "euler",
) -> list[Float[Tensor, "n d"]]:
    """Sample the log-mel of each request, without its prompt."""
    device = next(model.parameters()).device
    streams = [noise_stream(request) for request in requests]

    def step_noise() -> Float[Tensor, "b n d"]:
        return pad_sequence([next(source) for source in streams], batch_first=True).to(device)

    mels = sample(
        model,
        pad_sequence([request.prompt_mel for request in requests], batch_first=True).to(device),
        torch.tensor([len(request.prompt_mel) for request in requests], device=device),
        torch.tensor([request.total for request in requests], device=device),
        vocabulary.encode([request.text for request in requests]).to(device),
        step_noise(),
        times.to(device),
        cfg_strength,
        method,
        step_noise if model.sample_from_dist else None,
    )
    return [mel[len(r.prompt_mel) : r.total] for mel, r in zip(mels, requests, strict=True)]


def initial_noise(request: Request) -> Float[Tensor, "n d"]:
    """Return the initial noise of a request."""
    return next(noise_stream(request))


def noise_stream(request: Request) -> Iterator[Float[Tensor, "n d"]]:
    """Yield the noise of a request's seed: the initial noise, then the noise of each drawn velocity."""
    generator = torch.Generator().manual_seed(request.seed % 2**64)
    while True:
        yield torch.randn(request.total, request.prompt_mel.shape[1], generator=generator)


@torch.no_grad()
def sample(
    model: CFM,
    prompt: Float[Tensor, "b p d"],
    prompt_lens: Int[Tensor, " b"],
    lens: Int[Tensor, " b"],
    text: Int[Tensor, "b nt"],
    noise: Float[Tensor, "b n d"],
    times: Float[Tensor, " s"],
    cfg_strength: float,
    method: str = "euler",
    step_noise: Callable[[], Float[Tensor, "b n d"]] | None = None,
) -> Float[Tensor, "b n d"]:
    """Solve the flow from `noise` along `times` by `method` (euler or midpoint) with the mean velocity.

    With a source of step noise, each velocity is drawn: mean + σ ε, where σ of the Gaussian head is the one without
    guidance. Prompt frames are restored at the end. `lens` counts prompt and speech in frames; frames after it are
    noise.
    """
    length = noise.shape[1]
    prompt_mask = span_mask(torch.zeros_like(prompt_lens), prompt_lens, length)[..., None]
    cond = torch.zeros_like(noise)
    cond[:, : prompt.shape[1]] = prompt[:, :length]
    cond = cond.masked_fill(~prompt_mask, 0.0)
    mask = padding_mask(lens, length)
    velocity = velocity_field(model, cond, text, mask, cfg_strength)

    def slope(x: Tensor, time: Tensor) -> Tensor:
        output = velocity(x, time)
        mean = output.mean.to(x.dtype)
        if step_noise is None or output.ln_sigma is None:
            return mean
        return mean + output.ln_sigma.float().exp() * step_noise()

    speech = solve(slope, noise, times, method)
    return torch.where(prompt_mask, cond, speech)
