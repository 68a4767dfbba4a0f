"""Best-of-N with a tiny random model; prompts, vocoder, recogniser and speaker encoder are the real ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.scripts.test_evaluate import TINY, few_items

from f5_tts.config.load import compose_config
from f5_tts.config.schema import ConfigError, RLTrainConfig
from f5_tts.data.tokenizer import build_vocabulary
from f5_tts.eval.results import Result, read_result
from f5_tts.model.build import build_model
from f5_tts.model.checkpoint import write_checkpoint
from f5_tts.scripts.best_of import best_of

BY_VOICE = ["rl.rewards.providers=[{name: voice_sim}]", "eval.speaker_judge=voice_sim"]


def choose(folder: Path, num: int, *more: str) -> Result:
    few_items(folder)
    paths = [f"eval.ckpt={folder / 'model.pt'}", f"eval.out={folder / 'out'}", f"eval.items_dir={folder}"]
    settings = [*TINY, *paths, f"eval.best_of={num}", "eval.cfg_strengths=[1]", *more]
    cfg = compose_config("F5TTS_Mini_RL", settings, RLTrainConfig)
    torch.manual_seed(0)
    model = build_model(cfg.model, build_vocabulary(cfg))
    with torch.no_grad():
        model.transformer.proj_out.weight.normal_(std=0.3)  # otherwise the speech hardly depends on the noise
    write_checkpoint(folder / "model.pt", {"model_state_dict": model.state_dict()})
    return best_of(cfg)


@pytest.mark.slow
def test_the_reward_chooses_the_clip_that_is_most_like_its_prompt(tmp_path: Path):
    """The only reward is the similarity; the first try of each item is the same in both runs."""
    one, three = (choose(tmp_path, num, *BY_VOICE).scores["pocketsphinx"] for num in (1, 3))
    assert [score.id for score in one] == [score.id for score in three] and len(one) == 8
    gains = [after.similarity - before.similarity for before, after in zip(one, three, strict=True)]
    assert min(gains) >= -1e-6 and sum(gain > 1e-3 for gain in gains) >= 3
    result = read_result(tmp_path / "out")
    assert result.scores["pocketsphinx"] == three and result.guidance == {"pocketsphinx": 1.0}


def test_it_wants_one_guidance_and_says_so(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"eval\.cfg_strengths=\[0\.0, 1\.0\]: name one"):
        choose(tmp_path, 2, "eval.cfg_strengths=[0,1]")
