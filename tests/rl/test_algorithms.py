"""The registry of algorithms: what each entry needs, and how one of the user's own is found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLConfig, RLTrainConfig
from f5_tts.rl.algorithms import ALGORITHMS, Algorithm, find_algorithm

SOURCE = """
from f5_tts.rl.algorithms import ALGORITHMS, Algorithm

mine = Algorithm(loss_terms=ALGORITHMS["nft"].loss_terms)
not_mine = "nft"
"""


def rl(*overrides: str) -> RLConfig:
    return compose_config("F5TTS_Mini_RL", [f"rl.{override}" for override in overrides], RLTrainConfig).rl


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_algorithms.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_algorithms", raising=False)
    return "own_algorithms"


def test_a_name_gives_its_entry_and_auto_the_larger_of_what_it_may_become():
    assert {name: find_algorithm(name) for name in ALGORITHMS} == ALGORITHMS
    assert find_algorithm("auto") is ALGORITHMS["gaussian_grpo"]


def test_module_and_attribute_give_an_algorithm_of_ones_own(own_module: str):
    own = f"algorithm={own_module}:mine"
    result = find_algorithm(rl(own).algorithm)
    assert isinstance(result, Algorithm) and result.loss_terms is ALGORITHMS["nft"].loss_terms
    assert not result.needs_trained_head and result.warning is None
    uses = [result.uses_window(rl(own, f"shared_noise={shared}")) for shared in ("false", "true")]
    assert uses == [False, True]  # as it draws by `draw_finished`


def test_what_is_no_algorithm_is_refused_with_the_key(own_module: str):
    with pytest.raises(ValueError, match=r"rl\.algorithm: there is no module nowhere for nowhere:mine"):
        find_algorithm("nowhere:mine")
    for attribute in ("not_mine", "missing"):
        with pytest.raises(ValueError, match=rf"rl\.algorithm: module {own_module} has no .*Algorithm '{attribute}'"):
            find_algorithm(f"{own_module}:{attribute}")


def test_sigma_is_trained_where_the_policy_draws_from_the_head_and_rl_train_sigma_says_so():
    trains = {name: entry.trains_sigma(rl("train_sigma=true")) for name, entry in ALGORITHMS.items()}
    assert trains == {"gaussian_grpo": True, "flow_grpo": False, "nft": False, "draft": False, "f5r": True}
    assert not any(entry.trains_sigma(rl("train_sigma=false")) for entry in ALGORITHMS.values())


def test_arrays_recorded_of_a_sample_count_trained_steps_and_what_each_holds():
    settings = rl("window.size=3", "steps=8", "draft.last_steps=2")
    arrays = {name: entry.recorded_arrays(settings) for name, entry in ALGORITHMS.items()}
    assert arrays == {"gaussian_grpo": 4 * 3, "flow_grpo": 3 * 3, "nft": 0, "draft": 2 + 1, "f5r": 4 * 8}
    assert ALGORITHMS["flow_grpo"].recorded_arrays(rl("window.size=9", "steps=2")) == 3 * 2
