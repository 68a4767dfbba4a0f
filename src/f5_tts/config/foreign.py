"""Keys of the fork of the two-stage guide and of F5-TTS that are not here: what does here what they do there."""

from __future__ import annotations

ABSENT_KEYS = {
    "rl.steps_plus_one": "rl.steps counts solver steps, as with true there; rl.algorithm=f5r alone counts grid points, "
    "give it one more",
    "rl.align_kl_steps": "the KL is always measured at the steps that are trained, as with true there",
    "rl.reward_ref_source": "the reference of a speaker reward is always the recording (audio_path there): that of the "
    "item, or of its prompt with datasets.pair_speakers=true",
    "rl.reward_ref_cache_size": "a batch holds its recordings, so that none is read again for a reward",
    "rl.max_duration": "datasets.max_seconds limits recordings, and a sample is as long as its recording",
    "rl.legacy_length_check": "a sample always has the length of its recording, which rl.duration_jitter varies",
    "ckpts.allow_extra_keys": "weights have to fit exactly; a Gaussian head alone may be missing or left over, and the "
    "run says so",
}  # key -> what is so here
ABSENT_REWARD_KEYS = {
    "cache_enabled": "embeddings of references are always cached, and scores of new clips never",
    "cache_dir": "embeddings of references are cached in memory, nothing is on disk",
    "cache_size": "the last 1024 embeddings of references are cached",
}  # key of a reward's config -> what is so here
