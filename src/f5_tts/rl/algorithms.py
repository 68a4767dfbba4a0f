"""The algorithms of stage 2."""

from __future__ import annotations

from f5_tts.config.schema import RLRunConfig, RunConfig

WHAT_IS_WRONG_WITH_F5R = (
    "warning: rl.algorithm=f5r is the published objective, here to compare with, and wrong: its samples are not "
    "detached, so that the pull on the mean cancels without guidance and points the wrong way with it; it uses the "
    "density, not its logarithm; its memory grows with rl.steps. rl.algorithm=gaussian_grpo is the correct one"
)


def is_sigma_frozen(run: RunConfig) -> bool:
    """Whether nothing asks for the gradient of ln sigma."""
    if not isinstance(run, RLRunConfig):
        return False
    return run.rl.algorithm in ("nft", "flow_grpo") or not run.rl.train_sigma
