from __future__ import annotations

import json
from pathlib import Path

import pytest
from recipes.digits import results
from tests.recipes.test_quickstart import result

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLConfig, RLTrainConfig
from f5_tts.eval.results import write_result


def rl_of(*overrides: str) -> RLConfig:
    return compose_config("F5TTS_Mini_RL", list(overrides), RLTrainConfig).rl


@pytest.mark.slow
def test_the_table_compares_each_algorithm_with_the_base_over_all_seeds_and_says_what_it_cost(tmp_path: Path):
    for name, edits in {"base": 2, "best_of": 1}.items():
        write_result(result(edits), tmp_path / name)
    for seed in (4, 9):
        for name, edits in {"gaussian_grpo": 1, "flow_grpo": 2, "nft": 0}.items():
            write_result(result(edits), tmp_path / f"seed_{seed}" / "eval" / name)
            folder = tmp_path / f"seed_{seed}" / name
            folder.mkdir()
            peaks = (100.0, 10.0 * seed)
            rows = [{"update": i, "time/update": 60.0 * seed, "mem/peak_mb": peak} for i, peak in enumerate(peaks, 1)]
            (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    text = results.table(tmp_path, "whisper", [4, 9])
    assert "seeds 4, 9, measured by the judge" in text
    gaussian = next(line for line in text.splitlines() if "gaussian_grpo" in line)
    assert "| 25.0 % | 0.620 | -25.0 (-25.0 to -25.0) | -50.0 (-50.0 to -50.0)" in gaussian
    assert gaussian.endswith("| 214 | 215 | 13.0 | 100 | 1 |")  # (2·4 + 2·9) / 2 minutes
    best = next(line for line in text.splitlines() if "best of 8" in line)
    assert "| 25.0 % | 0.620 | -25.0" in best and best.endswith("| 8 |")


def test_evaluations_of_an_update_by_hand():
    """There are 32 samples. nft draws 4 steps and learns at one time: forward, backward counted as two, reference.

    With a window of one of the steps 1 and 2, shared noise solves 1.5 steps per prompt on average.
    """
    assert results.evaluations(rl_of("rl.algorithm=nft"), 4) == 32 * (4 + 4)
    shared = rl_of("rl.algorithm=flow_grpo", "rl.shared_noise=true")
    assert results.evaluations(shared, 4) == 32 * 2.5 + 4 * 1.5 + 32 * 4
    apart = rl_of("rl.algorithm=flow_grpo", "rl.shared_noise=false", "rl.kl_weight=0", "rl.cfg_strength=1")
    assert results.evaluations(apart, 4) == 2 * 32 * (4 + 3)


def test_all_algorithms_spend_as_many_evaluations_in_training():
    spent = []
    for name in results.ALGORITHMS:
        cfg = compose_config("F5TTS_Mini_RL", results.settings_of(name), RLTrainConfig)
        assert cfg.optim.max_updates is not None
        spent.append(results.evaluations(cfg.rl, 4) * cfg.optim.max_updates)
    assert max(spent) == pytest.approx(min(spent), rel=0.01)


def test_seed_by_seed_so_that_one_seed_is_a_whole_table():
    titles = [phase.arguments[-1].rpartition("/")[2] for phase in results.phases([1, 2])]
    one = ["nft", "nft", "gaussian_grpo", "gaussian_grpo", "flow_grpo", "flow_grpo"]
    assert titles == ["base", "best_of", "warmup", *one, "warmup", *one]
