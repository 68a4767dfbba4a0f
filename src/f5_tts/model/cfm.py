"""Conditional flow matching model: a backbone with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from f5_tts.model.backbones.layers import Backbone
from f5_tts.model.heads import Velocity, VelocityModel, init_gaussian_head
from f5_tts.model.public import PublicMembers


class CFM(PublicMembers):
    """Conditional flow matching (CFM) model; everything that needs gradients goes through `forward`.

    Parameter names carry the prefix `transformer.`, as in published checkpoints. `public` are keyword arguments of
    F5-TTS's class (`PublicMembers.describe`).
    """

    def __init__(
        self, transformer: Backbone, ln_sigma_init: float = 0.0, sample_from_dist: bool = False, **public: Any
    ) -> None:
        super().__init__()
        self.describe(**public)
        self.transformer = transformer
        # at inference: sample velocities from the Gaussian head, or use the mean
        self.sample_from_dist = sample_from_dist
        if transformer.proj_out_ln_sig is not None:
            init_gaussian_head(transformer.proj_out_ln_sig, ln_sigma_init)

    @property
    def is_gaussian(self) -> bool:
        """Check whether the model has a Gaussian head."""
        return self.transformer.proj_out_ln_sig is not None

    def velocity(self, cond: Tensor, text: Tensor, mask: Tensor | None, cfg_strength: float) -> Any:
        """Return the function (x, t) -> mean velocity of these items."""
        field = velocity_field(self, cond, text, mask, cfg_strength)
        return lambda x, time: field(x, time).mean

    def freeze_all_but_head(self) -> None:
        """Freeze all weights but those of ln σ; the mean velocity, and so deterministic sampling, does not change."""
        self.requires_grad_(False)
        assert self.transformer.proj_out_ln_sig is not None, "only a Gaussian model has a head"
        self.transformer.proj_out_ln_sig.requires_grad_(True)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        cond: Float[Tensor, "b n d"],
        text: Int[Tensor, "b nt"],
        time: Float[Tensor, " b"] | Float[Tensor, ""],
        mask: Bool[Tensor, "b n"] | None = None,
        *,
        drop_audio: Bool[Tensor, " b"] | None = None,
        drop_text: Bool[Tensor, " b"] | None = None,
        cfg_strength: float = 0.0,
        grad_uncond: bool = True,
        text_embedding: Float[Tensor, "bb n e"] | None = None,
    ) -> Velocity:
        """Compute the velocity at flow time `time`, with classifier-free guidance of strength w = `cfg_strength`.

        Flow time is 0 for noise and 1 for speech. The guided mean is μ_c + w (μ_c - μ_u), where μ_u is computed without
        prompt and text. The standard deviation is the conditional one. `text_embedding` is that of an earlier velocity
        of the same items, texts and guidance; it saves the text encoder's work.

        Both halves are computed in one pass of twice the batch. Where μ_u gets no gradient (`grad_uncond` is false), it
        is computed by itself without a graph, which takes two thirds of the time and half the activations.
        """
        num = len(x)
        time = time.expand(num)
        all_false, all_true = x.new_zeros(num, dtype=torch.bool), x.new_ones(num, dtype=torch.bool)
        dropped = all_false if drop_audio is None else drop_audio, all_false if drop_text is None else drop_text
        inputs = x, cond, text, time, mask
        if cfg_strength == 0.0:
            return self.transformer(*inputs, *dropped, text_embedding)
        if grad_uncond or not torch.is_grad_enabled():
            doubled = (None if tensor is None else torch.cat([tensor, tensor]) for tensor in inputs)
            outputs = self.transformer(*doubled, *(torch.cat([drop, all_true]) for drop in dropped), text_embedding)
            mean, uncond_mean = outputs.mean.chunk(2)
            ln_sigma = None if outputs.ln_sigma is None else outputs.ln_sigma[:num]
            embedding = outputs.text_embedding
        else:
            mean, ln_sigma, _ = self.transformer(*inputs, *dropped)
            with torch.no_grad():  # second: autocast would keep casts without a graph for the first
                uncond_mean = self.transformer(*inputs, all_true, all_true).mean
            embedding = None  # that of one half is not what the next velocity needs
        return Velocity(mean + cfg_strength * (mean - uncond_mean), ln_sigma, embedding)


def velocity_field(
    model: VelocityModel, cond: Tensor, text: Tensor, mask: Tensor | None, cfg_strength: float
) -> Callable[[Tensor, Tensor], Velocity]:
    """Return the function (x, t) -> velocity of these items along one path of a solver.

    The text is embedded at the first point only. All points share that embedding, so the function is not for gradients.
    """
    text_embedding: Tensor | None = None

    def velocity(x: Float[Tensor, "b n d"], time: Float[Tensor, ""]) -> Velocity:
        nonlocal text_embedding
        output = model(x, cond, text, time, mask, cfg_strength=cfg_strength, text_embedding=text_embedding)
        text_embedding = output.text_embedding
        return output

    return velocity
