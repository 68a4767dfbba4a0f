from __future__ import annotations

from pathlib import Path

import pytest

from f5_tts import __version__
from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig
from f5_tts.report.run_record import RunRecord, read_record, write_record


def test_a_record_has_configuration_data_set_and_versions_but_no_reward_servers(tmp_path: Path):
    url = "+rl.rewards.providers.0.worker={url: 'http://secret:1'}"
    cfg = compose_config("F5TTS_Mini_RL", ["optim.seed=7", url], RLTrainConfig)
    write_record(tmp_path, cfg, "8 rows")
    found = read_record(tmp_path)
    assert found.config["optim.seed"] == 7 and found.data_set == "8 rows"
    assert found.versions["f5-tts-rl"] == __version__
    assert "secret" not in (tmp_path / "run.yaml").read_text()


def test_runs_of_earlier_versions_have_no_record_and_a_damaged_one_is_named(tmp_path: Path):
    assert read_record(tmp_path) == RunRecord()
    (tmp_path / "run.yaml").write_text("config: 3")
    with pytest.raises(ValueError, match=r"run\.yaml is damaged"):
        read_record(tmp_path)
