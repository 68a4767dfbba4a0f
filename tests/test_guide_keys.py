"""Keys of the guide's commands: each exists, is documented once, and is suggested when it is misspelled."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from tests import guide

from f5_tts.config.command_line import load_config
from f5_tts.config.keys import key_paths
from f5_tts.config.load import compose_config
from f5_tts.config.schema import ConfigError, ProviderConfig, RLTrainConfig, TrainConfig, dataset_dir
from f5_tts.config.yaml_files import CONFIG_DIR
from f5_tts.rewards.registry import build_providers

STAGES = {"F5TTS_v1_Base": ("f5_tts.train.train", TrainConfig), "F5TTS_RL": ("f5_tts.train.train_rl", RLTrainConfig)}


def overrides(config: str) -> list[str]:
    """Return the overrides of the guide's command for a config."""
    words = guide.arguments(STAGES[config][0])
    return words[2:] if words[0] == "-cn" else words


def keys() -> list[tuple[str, str]]:
    return [(config, override.partition("=")[0]) for config in STAGES for override in overrides(config)]


OWN = [(config, key) for config, key in keys() if ".config." not in key]  # without keys of a reward's own config
OF_REWARDS = [key for _, key in keys() if ".config." in key]


def mistyped(key: str) -> set[str]:
    """Return misspellings of a key: a letter of its last part is dropped, doubled, or swapped with the next one."""
    section, _, word = key.rpartition(".")
    middle = len(word) // 2
    a, b, c, d = word[:middle], word[middle], word[middle + 1 : middle + 2], word[middle + 2 :]
    return {f"{section}.{typo}" for typo in (a + c + d, a + b + b + c + d, a + c + b + d)} - {key}


@pytest.mark.parametrize("config", STAGES)
def test_the_guides_commands_compose_with_every_value_that_they_give(config: str) -> None:
    module, schema = STAGES[config]
    run = OmegaConf.structured(load_config(guide.arguments(module), default="F5TTS_RL", schema=schema))
    assert overrides(config)
    for override in overrides(config):
        key, _, text = override.partition("=")
        assert OmegaConf.select(run, key) == OmegaConf.from_dotlist([f"value={text}"]).value


def test_relative_paths_are_those_seen_from_where_the_user_stands() -> None:
    stage_1, stage_2 = (compose_config(config, overrides(config), schema) for config, (_, schema) in STAGES.items())
    assert dataset_dir(stage_1) == Path("data/mini_rl_custom")
    assert stage_1.ckpts.save_dir == "ckpts/mini_rl_warmup"
    assert isinstance(stage_2, RLTrainConfig)
    assert stage_2.rl.rewards.providers[0].config == {
        "model_dir": "checkpoints/wespeaker/cnceleb_resnet34/cnceleb_resnet34"
    }
    assert stage_2.rl.rewards.providers[1].config == {"model_id": "/home/someone/f5/checkpoints/funasr/SenseVoiceSmall"}


@pytest.mark.parametrize("config, key", OWN)
def test_a_mistyped_key_stops_the_run_with_the_right_one(config: str, key: str) -> None:
    for typo in mistyped(key):
        with pytest.raises(ConfigError, match=rf"^unknown key {re.escape(typo)} in {config}: did you mean {key}\?$"):
            compose_config(config, [f"{typo}=1"], STAGES[config][1])


@pytest.mark.parametrize("key", OF_REWARDS)
def test_a_mistyped_key_of_a_reward_stops_the_run_with_the_right_one(key: str) -> None:
    for typo in mistyped(key):
        cfg = compose_config("F5TTS_RL", [f"{typo}=1"], RLTrainConfig)
        place, word = int(key.split(".")[3]), key.rpartition(".")[2]
        # the other provider needs its model files
        entries = [ProviderConfig(name="clipping"), cfg.rl.rewards.providers[place]]
        with pytest.raises(ValueError, match=rf"\.config\.{typo.rpartition('.')[2]} \(did you mean {word}\?\)"):
            build_providers(entries)


@pytest.mark.parametrize("key", sorted({key for _, key in OWN}))
def test_a_key_stands_in_one_of_the_two_files_that_explain_keys(key: str) -> None:
    files = [OmegaConf.load(CONFIG_DIR / f"{name}.yaml") for name in ("_base", "_rl")]
    assert [key in key_paths(file) for file in files].count(True) == 1


@pytest.mark.parametrize("key", OF_REWARDS)
def test_a_key_of_a_reward_is_told_on_the_page_of_rewards(key: str) -> None:
    text = (CONFIG_DIR.parents[2] / "docs/rewards.md").read_text("utf-8")
    assert f"`{key.rpartition('.')[2]}`" in text or f"config.{key.rpartition('.')[2]}" in text
