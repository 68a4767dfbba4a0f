from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig, TrainConfig
from f5_tts.data.rows import Row
from f5_tts.model.checkpoint import Checkpoint
from f5_tts.rl.gather import SingleRank
from f5_tts.train.auto_validation import Cost, choose_validation, describe_validation
from f5_tts.train.build import text_rules
from f5_tts.train.build_eval import dev_items
from f5_tts.train.held_out import split_rows
from f5_tts.types import RewardInput

FILE = "data/mini_custom/wavs/dev_00_dev_prompt_0.flac"
EARS = "tests.train.test_auto_validation:Ears"
JUDGES = [f"eval.recognisers=[{{name: '{EARS}'}}]", "eval.speaker={name: 'tests.train.test_auto_validation:Voice'}"]
SHORT = [
    *["datasets.batch_size_type=sample", "datasets.batch_size_per_gpu=4", "datasets.pair_speakers=false"],
    "model.tokenizer_path=data/mini_custom/vocab.txt",
    *[
        "eval.items_dir=null",
        "eval.every_updates=null",
        "eval.dev_items=2",
        "eval.dev_takes=1",
        "eval.steps=1",
        "infer.cfg_strength=0",
    ],
    *["optim.max_updates=1000", *JUDGES],
]  # a validation is 4 clips of 200 frames, times 5 for the judges: 4000; an update 4 rows of 100 frames, times 3: 1200


class Ears:
    """Recognizer that knows English."""

    component, languages = "acc", ("en",)

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
        return {"acc": [1.0] * len(inputs), "heard": ["one"] * len(inputs)}


class Voice:
    component = "sim"

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        return [0.5] * len(inputs)


class Uninstalled(Ears):
    requires = ("no_such_library",)


class Broken(Ears):
    def __init__(self) -> None:
        raise ConnectionError("the model cannot be fetched")


class OtherRankFails(SingleRank):
    """Two ranks, the other of which has a judge that cannot be built."""

    world_size = 2

    def gather_objects(self, value: Any) -> list[Any]:
        return [value, "no whisper on machine 2"]


def config(*more: str) -> TrainConfig:
    return compose_config("F5TTS_Mini", [*SHORT, *more], TrainConfig)


def rl_config(*more: str) -> RLTrainConfig:
    return compose_config("F5TTS_Mini_RL", [*SHORT, "rl.prompt_frac_range=[0.1,0.2]", *more], RLTrainConfig)


def table(num: int = 400) -> list[Row]:
    """Return rows of 2 s, 100 frames."""
    return [Row(audio_path=FILE, text="one two", duration=2.0, speaker=str(i // 2)) for i in range(num)]


def chosen(cfg: TrainConfig, rows: list[Row], start: Checkpoint | None = None, ranks: Any = None) -> str:
    """Choose the validations of a run; return the lines that say so."""
    lines: list[str] = []
    choose_validation(cfg, rows, start, ranks or SingleRank(), lines.append)
    return "\n".join(lines)


# --- what it costs ---


@pytest.mark.parametrize(
    ("updates", "num", "interval"),
    [(334, 4, 83), (1000, 14, 71), (1400, 20, 70), (1439, 20, 71), (20_000, 20, 1000)],
)
def test_a_run_makes_the_validations_that_take_at_most_5_percent_of_it_and_the_last_at_its_end(updates, num, interval):
    """Count: 0.05 x 1200 / 4000 = 0.015 validations an update, one of them before the first."""
    cost = Cost.of(config("eval.dev=held_out", f"optim.max_updates={updates}"), table(), 1)
    assert (cost.one, cost.run, cost.total) == (4000, 1200 * updates, updates)
    assert (cost.num, cost.interval, cost.problem) == (num, interval, None)
    assert updates // interval <= num and (1 + num) * cost.one <= 0.05 * cost.run
    assert updates - updates // interval * interval < interval / 2 + 1


def test_guidance_takes_a_second_list_and_ranks_count(tmp_path):
    line = f'{{"prompt_audio": "{Path(FILE).absolute()}", "prompt_text": "a", "text": "one"}}\n'
    (tmp_path / "list.jsonl").write_text(3 * line)
    lists = [f"eval.dev={tmp_path / 'list.jsonl'}", f"eval.forgot={tmp_path / 'list.jsonl'}"]
    changes = [["infer.cfg_strength=2"], ["eval.dev_takes=2"], ["eval.steps=3"], lists]
    assert [Cost.of(config("eval.dev=held_out", *more), table(), 1).one for more in changes] == [
        8000,
        8000,
        12_000,
        9000,
    ]
    accumulated = Cost.of(config("eval.dev=held_out", "optim.grad_accumulation_steps=2"), table(), world_size=4)
    assert accumulated.run == 1000 * 1200 * 8


def test_stage_2_counts_the_passes_that_draw_a_group_and_one_trained_step():
    group = ["eval.dev=held_out", "rl.mini_repeat_count=4", "rl.steps=3", "rl.cfg_strength=0"]
    reused = ["rl.updates_per_rollout=2", "ckpts.save_per_updates=50"]
    runs = [Cost.of(rl_config(*group, *more), table(), 1).run for more in ([], ["rl.cfg_strength=1"], reused)]
    assert runs == [1000 * 400 * 4 * (3 + 3), 1000 * 400 * 4 * (6 + 3), 500 * 400 * 4 * (3 + 2 * 3)]


# --- what is chosen ---


def test_rows_are_held_out_and_the_interval_is_said_where_a_judge_can_be_used():
    cfg = config()
    assert "after every 71 updates, about 5.0% of the run" in chosen(cfg, table())
    assert (cfg.eval.every_updates, cfg.eval.dev) == (71, "held_out")
    assert len(split_rows(table(), cfg)[1]) == 2


def test_a_list_of_ones_own_is_used_and_all_rows_are_trained_on(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_text(f'{{"prompt_audio": "{Path(FILE).absolute()}", "prompt_text": "a", "text": "one"}}\n')
    cfg = config(f"eval.dev={path}")
    chosen(cfg, table(8))
    assert (cfg.eval.every_updates, cfg.eval.dev) == (50, str(path))  # 2000 each: 30 of them, 20 at most
    assert split_rows(table(8), cfg)[1] == []


@pytest.mark.parametrize(
    ("more", "num", "line"),
    [
        (
            [],
            199,
            "no rows are held out of a data set of fewer than 200, and this one has 199; name a list",
        ),
        (
            ["optim.max_updates=333"],
            400,
            "5 validations would take about 5.0% of this run of 333 updates, more than ",
        ),
        (
            ["optim.max_updates=100"],
            400,
            "16.7% of this run of 100 updates, more than 5%; eval.every_updates=25 ",
        ),
        ([f"eval.recognisers=['{EARS.replace('Ears', 'Uninstalled')}']"], 400, "no no_such_library: pip install "),
        ([f"eval.recognisers=['{EARS.replace('Ears', 'Broken')}']"], 400, "the model cannot be fetched"),
        (["eval.language=de"], 400, "Ears knows en, and item held_out_000 ('one two') is in the language de"),
        (["model.vocoder.name=vocos", "model.vocoder.is_local=true", "model.vocoder.local_path=gone"], 400, "gone"),
        (["optim.shard=true"], 400, "a sharded model (optim.shard=true) does not speak while it trains"),
    ],
)
def test_what_stands_against_it_is_said_in_a_line_and_is_no_error(more, num, line):
    cfg = config(*more)
    assert line in chosen(cfg, table(num)).removeprefix("no validation while training: ")
    assert (cfg.eval.every_updates, cfg.eval.dev) == (0, None) and split_rows(table(num), cfg)[1] == []


def test_a_run_whose_rewards_are_its_only_recognizers_has_none_and_says_what_to_add():
    cfg = rl_config(f"rl.rewards.providers=[{{name: '{EARS}'}}]")
    assert f"{EARS} is a reward of this run, so no judge chooses model_best.pt" in chosen(cfg, table())
    assert cfg.eval.every_updates == 0
    judged = rl_config(f"rl.rewards.providers=[{{name: '{EARS}', weight: 0}}, {{name: clipping}}]")
    chosen(judged, table())
    assert judged.eval.every_updates


def test_what_one_rank_lacks_decides_for_all():
    cfg = config()
    assert "no validation while training: no whisper on machine 2" in chosen(cfg, table(), ranks=OtherRankFails())
    assert (cfg.eval.every_updates, cfg.eval.dev) == (0, None)


@pytest.mark.parametrize("more", ["eval.every_updates=0", "eval.every_updates=7"])
def test_what_the_command_says_is_done_without_a_word(more):
    cfg = config(more)
    assert chosen(cfg, table()) == "" and more == f"eval.every_updates={cfg.eval.every_updates}"


def test_an_interval_alone_holds_rows_out_unless_there_is_a_list():
    asked, listed, pathless = (
        config("eval.every_updates=7"),
        config("eval.every_updates=7", "eval.items_dir=lists"),
        config("eval.every_updates=7", "eval.dev=list.jsonl"),
    )
    for cfg in (asked, listed, pathless):
        assert chosen(cfg, table()) == ""
    assert [cfg.eval.dev for cfg in (asked, listed, pathless)] == ["held_out", None, "list.jsonl"]


def test_the_dev_list_of_the_shipped_model_is_used_where_a_run_chooses_for_itself():
    cfg = config("eval.items_dir=data/mini_custom", "optim.max_updates=20000")
    assert "validation before the first update and after every" in chosen(cfg, table())
    assert cfg.eval.dev is None and len(dev_items(cfg, [], text_rules(cfg))) == 48
    assert Cost.of(cfg, table(), 1).one == 2 * 48 * 200 * 5


# --- a resumed run ---


def saved(**payload: Any) -> Checkpoint:
    whole = {"objective": "mse", "optimizer_state_dict": {}, **payload}
    return Checkpoint(path=Path("model_last.pt"), weights={}, weights_kind="raw", payload=whole)


def test_a_resumed_run_has_the_validations_that_it_began_with():
    first, later, without = config(), config("optim.max_updates=30"), config()
    chosen(first, table())
    assert chosen(later, table(), saved(validation=describe_validation(first))) == (
        "validation after every 71 updates, as before"
    )
    assert (later.eval.every_updates, later.eval.dev) == (71, "held_out")
    assert split_rows(table(), later) == split_rows(table(), first)
    assert chosen(without, table(), saved()).startswith("no validation while training, as before; ")
    assert (without.eval.every_updates, without.eval.dev) == (0, None) and describe_validation(without) == {}


def test_a_run_that_starts_from_weights_or_from_another_stage_chooses_anew():
    of_stage_1 = saved(objective="gaussian_nll", validation={"every_updates": 3, "dev": "held_out"})
    weights = replace(of_stage_1, payload={"objective": "mse"})
    for start in (of_stage_1, weights):
        cfg = config()
        chosen(cfg, table(), start)
        assert cfg.eval.every_updates == 71
