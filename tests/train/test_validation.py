from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from tests.tiny import MINI_MEL, tiny_arch
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from f5_tts.config.load import compose_config
from f5_tts.config.schema import ConfigError, EmaConfig, ProviderConfig, RLTrainConfig, TrainConfig
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.eval.evaluator import EvalSynthesizer, Evaluator, in_order, reward_inputs
from f5_tts.eval.judges import Judges, build_scorers
from f5_tts.eval.test_set import EvalItem
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import BEST, ModelSpec, read_checkpoint
from f5_tts.model.mel import LogMel
from f5_tts.train.alarms import AlarmMonitor
from f5_tts.train.build import build_ema
from f5_tts.train.build_eval import conditions, metrics_of_rewards
from f5_tts.train.build_rl import build_alarms, build_best
from f5_tts.train.checkpoint_dir import CheckpointDir
from f5_tts.train.distributed import AllRanks
from f5_tts.train.train_state import TrainState
from f5_tts.train.validation import Best, Validation, selecting_metric
from f5_tts.types import RewardInput

PROMPT = "data/mini_custom/wavs/dev_00_dev_prompt_0.flac"
ITEMS = [
    EvalItem(id=str(i), prompt_audio=PROMPT, prompt_text="a", text="b a", duration=0.1, speaker="s", seen=False)
    for i in range(3)
]
HEARD = ("wer", "cer", "repeat_rate", "leak_rate")
ALONE = AllRanks(Accelerator(cpu=True))
MEASURED = [f"{who}/{name}" for who in ("eval", "judge") for name in HEARD] + ["eval/sim", "eval/utmos"]


class Loudness:
    """Stand-in for speaker similarity: the mean absolute value of a clip."""

    component = "sim"

    def score(self, inputs: Sequence[RewardInput]) -> Tensor:
        return torch.stack([item.audio.abs().mean() for item in inputs])


class Taste:
    """Judge that scores the first and the third clip and does not apply to the second."""

    component = "utmos"

    def score(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return [3.0, None, 4.0]


class One(Taste):
    """Judge of another name."""


class Other(Taste):
    """Judge of a third name."""


def vocoder(mels: Tensor, lens: Tensor) -> list[Tensor]:
    return [mel[:length].mean(dim=1) for mel, length in zip(mels, lens.tolist(), strict=True)]


class Hears:
    """Recognizer that hears the same in every clip."""

    component = "acc"

    def __init__(self, heard: str) -> None:
        self.heard = heard

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
        return {"acc": [1.0] * len(inputs), "heard": [self.heard] * len(inputs)}


@pytest.fixture
def cfg() -> TrainConfig:
    return compose_config("F5TTS_Mini", ["eval.steps=2"], TrainConfig)


@pytest.fixture
def state(cfg) -> TrainState:
    torch.manual_seed(0)
    model = CFM(DiT(tiny_arch(dim=16, depth=1, heads=1, ff_mult=1), mel_dim=100, num_tokens=3)).eval()
    ema = build_ema(model, EmaConfig(beta=0.5, update_after_step=0, update_every=1, power=1.0, device=None))
    optimizer = SGD(model.parameters(), lr=0.1)
    return TrainState(
        model=model,
        spec=ModelSpec.of(cfg.model, Vocabulary(" ab")),
        ema=ema,
        optimizer=optimizer,
        scheduler=LambdaLR(optimizer, lambda update: 1.0),
        objective="grpo",
    )


@pytest.fixture
def evaluator(cfg) -> Evaluator:
    voice = EvalSynthesizer(mel=LogMel(MINI_MEL), vocoder=vocoder, vocabulary=Vocabulary(" ab"), settings=cfg.eval)
    return Evaluator(
        items=ITEMS,
        synthesizer=voice,
        judges=Judges(
            recognizers={"pocketsphinx": Hears("b"), "whisper": Hears("B, a.")},
            scorers={"voice": Loudness(), "taste": Taste()},
        ),
        cfg_strength=0.0,
    )


# --- the evaluator ---


def test_the_rewards_ears_are_eval_and_the_judges_are_judge(evaluator, state):
    result = evaluator(state.model)
    assert result.keys() == {f"{name}{ending}" for name in MEASURED for ending in ("", "_ci95")} | {"eval/rtf"}
    assert result["eval/wer"] == 0.5 and result["judge/wer"] == 0.0 and result["eval/cer"] == 0.5
    assert result["eval/repeat_rate"] == result["eval/leak_rate"] == result["eval/wer_ci95"] == 0
    assert result["eval/utmos"] == 3.5  # mean over the two clips that it applies to
    assert result["eval/rtf"] > 0


def test_two_judges_that_call_something_the_same_are_refused(cfg):
    for name in ("wer", "twice"):
        cfg.eval.providers = [ProviderConfig(name=f"tests.train.test_validation:{judge}") for judge in ("One", "Other")]
        One.component, Other.component = name, "twice"
        with pytest.raises(ValueError, match=f"eval.providers: eval/{name} would have two meanings"):
            build_scorers(cfg.eval)


def test_an_exam_repeats_exactly_and_reads_no_random_state(evaluator, state):
    torch.manual_seed(1)
    first = evaluator(state.model)
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after)
    assert evaluator(state.model) | {"eval/rtf": 0} == first | {"eval/rtf": 0}


def test_an_item_without_a_duration_gets_the_frames_per_byte_of_its_prompt(evaluator):
    request = evaluator.synthesizer.request
    given, derived = (request(replace(ITEMS[0], text="a b a b a b", duration=seconds), 0) for seconds in (0.5, None))
    assert given.frames == 26  # 0.5 s at 16 kHz, hop 320, with the frame at the end
    assert derived.frames == int(len(derived.prompt_mel) / len("a ") * len("a b a b a b"))


@pytest.fixture
def clip_by_clip(evaluator) -> Evaluator:
    """Return an evaluator without the judge Taste, which tells the places in a batch apart."""
    return replace(evaluator, judges=replace(evaluator.judges, scorers={"voice": Loudness()}))


@pytest.mark.parametrize("world_size", [2, 5])
def test_shares_of_ranks_give_what_one_process_measures(clip_by_clip, state, world_size):
    """Of five ranks, two have no item."""
    evaluator = clip_by_clip
    shares = [evaluator.measure(state.model, rank, world_size) for rank in range(world_size)]
    assert [len(share.scores["whisper"]) for share in shares] == ([2, 1] if world_size == 2 else [1, 1, 1, 0, 0])
    found, whole = evaluator.metrics(shares), evaluator(state.model)
    assert whole["eval/sim_ci95"] > 0  # the clips differ
    assert {**found, "eval/rtf": 0} == pytest.approx({**whole, "eval/rtf": 0}, abs=1e-6)
    speech_s = sum(share.speech_s for share in shares)
    assert speech_s == pytest.approx(3 * 6 * 1 / 16_000)  # 0.1 s are 6 frames, of which the vocoder makes 1 sample each
    assert found["eval/rtf"] == pytest.approx(sum(share.seconds for share in shares) / speech_s)


def test_the_order_of_items_is_that_of_the_list_whoever_measured_them(clip_by_clip, state):
    shares = [clip_by_clip.measure(state.model, rank, 2).scores["whisper"] for rank in range(2)]
    assert [score.id for score in in_order(shares)] == ["0", "1", "2"]


def test_a_score_that_only_later_items_have_is_reported(clip_by_clip, state):
    """Items of the first rank may all be without a recording of their text."""
    voiced = replace(clip_by_clip, items=[*ITEMS[:2], replace(ITEMS[2], target_audio=PROMPT)])
    shares = [voiced.measure(state.model, rank, 3) for rank in range(3)]
    assert "eval/sim_target" in voiced.metrics(shares)


def test_judges_get_the_language_and_the_recording_of_an_item(evaluator):
    items = [replace(ITEMS[0], language="de", target_audio=PROMPT), ITEMS[1]]
    told, plain = reward_inputs(items, [torch.zeros(4)] * 2, evaluator.synthesizer)
    assert (told.language, plain.language) == ("de", "en") and told.reference_text == "a"
    assert told.target_audio is not None and told.reference_audio is not None and plain.target_audio is None
    assert torch.equal(told.target_audio, told.reference_audio)


# --- the best validation ---


def metrics(wer: float, sim: float = 0.7, judge: float | None = None) -> dict[str, float]:
    return {"eval/wer": wer, "eval/sim": sim} | ({} if judge is None else {"judge/wer": judge})


def taken(*seen: dict[str, float], judge: str = "eval/wer") -> list[bool]:
    best = Best(judge, "voice_sim")
    return [best.is_new_best(one, update) for update, one in enumerate(seen)]


def test_the_start_is_the_first_best_then_the_lowest_error_and_of_equals_the_oldest():
    assert taken(metrics(0.4), metrics(0.5), metrics(0.3), metrics(0.3), metrics(0.2)) == [
        True,
        False,
        True,
        False,
        True,
    ]


def test_the_selecting_judge_decides_whatever_another_hears():
    seen = metrics(0.4, judge=0.4), metrics(0.1, judge=0.5), metrics(0.9, judge=0.3)
    assert taken(*seen, judge="judge/wer") == [True, False, True]
    assert taken(*seen, judge="eval/wer") == [True, True, False]


@pytest.mark.parametrize(
    ("recognizers", "rewards", "expected"),
    [
        (["pocketsphinx"], {"digits_ctc": 1.0}, "eval/wer"),
        (["pocketsphinx", "whisper"], {"digits_ctc": 1.0}, "eval/wer"),
        (["pocketsphinx", "whisper"], {"digits_wer": 1.0}, "judge/wer"),
        (["pocketsphinx", "whisper"], {"digits_wer": 0.0}, "eval/wer"),
        (["whisper"], {"digits_wer": 1.0}, "judge/wer"),
        (["pocketsphinx"], {"digits_wer": 1.0}, None),
        (["pocketsphinx", "funasr"], {"digits_wer": 1.0}, "funasr/wer"),
        (["funasr", "mine:Ears"], {"funasr_wer": 1.0}, "mine:Ears/wer"),
        (["funasr", "whisper_wer"], {"whisper": 1.0, "funasr_wer": 1.0}, None),
    ],
)
def test_the_first_recogniser_that_is_no_reward_selects(recognizers, rewards, expected):
    entries = [ProviderConfig(name=name, weight=weight) for name, weight in rewards.items()]
    assert selecting_metric(recognizers, entries) == expected


def test_similarity_more_than_two_hundredths_below_the_start_is_never_best():
    """Measure the drop from the start, not from the best."""
    seen = metrics(0.5, 0.7), metrics(0.3, 0.679), metrics(0.4, 0.69), metrics(0.39, 0.675), metrics(0.38, 0.681)
    assert taken(*seen) == [True, False, True, False, True]


def test_a_drop_of_similarity_within_its_uncertainty_at_the_start_is_allowed():
    best = Best("eval/wer", "ecapa_sim")
    assert best.is_new_best(metrics(0.5, 0.7) | {"eval/sim_ci95": 0.06}, 0)
    assert not best.is_new_best(metrics(0.3, 0.63) | {"eval/sim_ci95": 0.2}, 2)  # the uncertainty at the start counts
    assert best.is_new_best(metrics(0.3, 0.65), 4)
    assert "eval/sim at least 0.640 (0.06 below the start)" in str(best)


def test_the_best_goes_on_where_it_was():
    best, later = (Best("eval/wer", "voice_sim") for _ in range(2))
    assert best.is_new_best(metrics(0.4), 0) and best.is_new_best(metrics(0.3), 2)
    later.load_state_dict(best.state_dict())
    assert not later.is_new_best(metrics(0.35), 4) and not later.is_new_best(metrics(0.2, 0.67), 6)
    assert later.is_new_best(metrics(0.2), 8) and later.update == 8


@pytest.mark.parametrize("judges", [("judge/wer", "voice_sim"), ("eval/wer", "ecapa_sim")])
def test_another_judge_than_before_starts_anew(judges):
    best, later = Best("eval/wer", "voice_sim"), Best(*judges)
    assert best.is_new_best(metrics(0.1), 0)
    later.load_state_dict(best.state_dict())
    assert later.is_new_best(metrics(0.9, sim=0.1, judge=0.9), 2) and not later.is_new_best(metrics(0.9, 0.1, 0.9), 4)


def test_a_speaker_judge_must_score_similarity(cfg):
    cfg.eval.speaker = ProviderConfig(name="tests.train.test_validation:Taste")
    with pytest.raises(ValueError, match=r"eval\.speaker=tests.*Taste scores utmos; a speaker judge scores sim"):
        build_scorers(cfg.eval)


# --- validation ---


def validation(evaluator: Evaluator, folder: Path, said: list[str]) -> Validation:
    settings = compose_config("F5TTS_Mini", [f"ckpts.save_dir={folder}"], TrainConfig).ckpts
    return Validation(evaluator, 2, Best("judge/wer", "voice_sim"), CheckpointDir(settings), said.append, ALONE)


def test_the_start_is_heard_at_the_guidance_of_the_reference(evaluator, state, tmp_path):
    with torch.no_grad():  # a new model has the same velocity with and without text
        for parameter in state.model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    guided = replace(evaluator, cfg_strength=2.0)
    settings = compose_config("F5TTS_Mini", [f"ckpts.save_dir={tmp_path}"], TrainConfig).ckpts
    best = Best("judge/wer", "voice_sim")
    validate = Validation(evaluator, 2, best, CheckpointDir(settings), print, ALONE, start_guidance=2.0)
    assert validate(state)["eval/sim"] == guided(state.model)["eval/sim"] != evaluator(state.model)["eval/sim"]
    state.update = 2
    assert validate(state)["eval/sim"] == evaluator(state.model)["eval/sim"]


def test_raw_and_averaged_weights_are_heard_when_it_is_due_and_nothing_is_changed(evaluator, state, tmp_path):
    with torch.no_grad():
        state.ema.ema_model.transformer.proj_out.bias.add_(1.0)
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    validate = validation(evaluator, tmp_path, output := [])
    result = validate(state)
    measured = {f"{name}{of}" for name in MEASURED for of in ("", "_ema", "_ci95")}
    assert result.keys() == measured | {"eval/rtf", "time/validation"}
    assert result["eval/sim"] == evaluator(state.model)["eval/sim"] != result["eval/sim_ema"]
    assert all(torch.equal(value, before[name]) for name, value in state.model.state_dict().items())
    state.update = 1
    assert validate(state) == {}
    assert len(output) == 1 and "validation at update 0: eval/wer=0.5000" in output[0]
    assert re.search(r"; took \d+\.\d s; lowest", output[0])
    state.update = 4
    validate(state)
    assert re.search(r"; took \d+\.\d s, (100\.0|\d\d?\.\d)% of the time since the last; the best", output[1])


def test_the_best_is_the_better_of_the_raw_and_the_averaged_weights(evaluator, state, tmp_path):
    validate = validation(evaluator, tmp_path, [])

    def kept(update: int, raw: dict[str, float], ema: dict[str, float]) -> tuple[str, str, int]:
        state.update = update
        end = validate.keep_best({"raw": raw, "ema": ema}, state)
        best = read_checkpoint(tmp_path / BEST)
        return end.partition(": ")[2], best.payload["recommended"], best.update

    start = metrics(0.5, judge=0.5)
    assert kept(0, start, start) == (f"written to {BEST}", "raw", 0)  # of equal ones the raw weights
    assert kept(2, metrics(0.5, judge=0.4), metrics(0.5, judge=0.3))[0] == f"averaged weights written to {BEST}"
    assert kept(4, metrics(0.5, judge=0.2), metrics(0.5, judge=0.25)) == (f"written to {BEST}", "raw", 4)
    said, *best = kept(6, metrics(0.5, judge=0.2), metrics(0.5, judge=0.1, sim=0.2))  # an average without the voice
    assert best == ["raw", 4] and "here judge/wer is lower, but eval/sim is below" in said
    (tmp_path / BEST).unlink()
    assert kept(8, metrics(0.5, judge=0.4), metrics(0.5, judge=0.3))[1:] == ("ema", 8)


def test_a_judge_that_fails_on_the_average_leaves_both_models_with_their_weights(evaluator, state, tmp_path):
    """The average is measured in the model's place, because it may live on another device."""

    class FailsLater(Hears):
        calls = 0

        def score(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("the ear fell off")
            return super().score(inputs)

    with torch.no_grad():
        state.ema.ema_model.transformer.proj_out.bias.add_(1.0)
    models = (state.model, state.ema.ema_model)
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
    judges = replace(evaluator.judges, recognizers={"whisper": FailsLater("a")})
    with pytest.raises(ValueError, match=r"a validation failed: .*the ear fell off.*eval\.every_updates=0"):
        validation(replace(evaluator, judges=judges), tmp_path, [])(state)
    for model, weights in zip(models, before, strict=True):
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_validation_without_enough_memory_is_repeated_in_smaller_batches(clip_by_clip, state, tmp_path):
    """Let a vocoder take clips one by one."""
    evaluator = clip_by_clip
    sizes: list[int] = []

    def small(mels: Tensor, lens: Tensor) -> list[Tensor]:
        sizes.append(len(mels))
        if len(mels) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nand more")
        return vocoder(mels, lens)

    whole = evaluator(state.model)
    synthesizer = replace(evaluator.synthesizer, vocoder=small, settings=replace(evaluator.synthesizer.settings))
    synthesizer.settings.batch_size = 4
    result = validation(replace(evaluator, synthesizer=synthesizer), tmp_path, output := [])(state)
    assert result["eval/sim"] == pytest.approx(whole["eval/sim"]) and sizes == [3, 2, *[1] * 6]
    assert output[0] == "CUDA out of memory. Tried to allocate: the validation is repeated with eval.batch_size=2"
    assert output[1].endswith("eval.batch_size=1") and "validation at update 0" in output[2]


def test_a_best_on_other_items_or_by_another_model_of_a_judge_is_not_compared(evaluator, cfg):
    def found(evaluator: Evaluator = evaluator, selecting: str = "judge/wer", **changes: Any) -> str:
        return conditions(replace(cfg.eval, **changes), evaluator, selecting)

    sizes = [ProviderConfig(name="whisper", config={"model": size}) for size in ("small", "large-v3")]
    digits, other = ProviderConfig(name="pocketsphinx"), ProviderConfig(name="funasr", config={"model_id": "x"})
    same = [
        *[found(), found(batch_size=1), found(num_wavs=1), found(recognisers=[other])],
        found(replace(evaluator, items=[replace(item, prompt_audio="moved/elsewhere.wav") for item in ITEMS])),
    ]
    others = [
        *[found(steps=9), found(seed=1), found(recognisers=[sizes[0]]), found(recognisers=[digits, sizes[1]])],
        *[found(replace(evaluator, items=ITEMS[:2])), found(replace(evaluator, cfg_strength=1.0))],
    ]
    assert len(set(same)) == 1 and len({*same, *others}) == 7
    best, later = Best("judge/wer", "voice_sim"), Best("judge/wer", "voice_sim")
    best.judges.append(found())
    assert best.is_new_best(metrics(0.5, judge=0.1), 0)
    later.judges.append(found(steps=9))
    later.load_state_dict(best.state_dict())
    assert later.is_new_best(metrics(0.5, judge=0.9), 2)


def test_the_best_weights_are_written_with_the_rule_that_chose_them_and_stay(evaluator, state, tmp_path):
    validate = validation(evaluator, tmp_path, output := [])
    validate(state)
    start = state.model.state_dict()["transformer.proj_out.bias"].clone()
    with torch.no_grad():
        state.model.transformer.proj_out.bias.add_(1.0)
    state.update = 2
    validate(state)
    kept = read_checkpoint(tmp_path / "model_best.pt")
    assert torch.equal(kept.weights["transformer.proj_out.bias"], start) and kept.update == 0
    assert "lowest judge/wer so far with eval/sim at least" in output[0] and "written to model_best.pt" in output[0]
    assert output[1].endswith("the best so far is that of update 0")


def test_fewer_errors_in_a_voice_that_is_lost_are_refused_with_the_reason():
    best = Best("judge/wer", "mine")
    assert best.is_new_best({"judge/wer": 0.5, "eval/sim": 0.8, "eval/sim_ci95": 0.05}, 0)
    assert not best.is_new_best({"judge/wer": 0.3, "eval/sim": 0.74}, 1)
    reason = best.describe_refusal({"judge/wer": 0.3, "eval/sim": 0.74})
    assert reason == ": here judge/wer is lower, but eval/sim is below 0.750"
    assert best.describe_refusal({"judge/wer": 0.6, "eval/sim": 0.74}) == ""
    assert best.describe_refusal({"judge/wer": 0.6, "eval/sim": 0.9}) == ""


def test_a_best_whose_file_was_set_aside_is_followed_by_the_next_that_is_similar_enough(evaluator, state, tmp_path):
    """Let a run that keeps its record, at an error rate of 0, go on without the file of it."""
    validate = validation(evaluator, tmp_path, output := [])
    validate(state)
    (tmp_path / "model_best.pt").unlink()
    state.update = 2
    assert validate.best is not None
    validate.best.first_similarity += 2.0
    validate(state)
    assert not (tmp_path / "model_best.pt").exists()
    assert output[1].endswith("the best so far is that of update 0, whose file is gone")
    validate.best.first_similarity -= 2.0
    state.update = 4
    validate(state)
    assert output[2].endswith("the best before is no longer there: written to model_best.pt")
    assert validate.best.update == read_checkpoint(tmp_path / "model_best.pt").update == 4


def test_a_validation_in_which_nothing_could_be_measured_is_recorded_as_numbers_or_not_at_all():
    best = Best("eval/wer", "voice_sim")
    assert not best.is_new_best(metrics(math.nan), 0)
    assert best.is_new_best(metrics(0.5, math.nan), 2) and best.first_similarity == -1
    assert best.is_new_best(metrics(0.4, 0.6), 4) and not best.is_new_best(metrics(math.nan, 0.6), 6)
    assert all(math.isfinite(value) for value in best.state_dict().values() if isinstance(value, float))


def test_without_a_judge_that_is_no_reward_nothing_is_called_the_best(evaluator, state, tmp_path):
    settings = compose_config("F5TTS_Mini", [f"ckpts.save_dir={tmp_path}"], TrainConfig).ckpts
    result = Validation(evaluator, 2, None, CheckpointDir(settings), (output := []).append, ALONE)(state)
    assert result["eval/wer"] == 0.5 and not (tmp_path / "model_best.pt").exists() and "best" not in output[0]


REWARDED = ["eval.every_updates=1", "rl.rewards.providers=[{name: digits_wer}]", "eval.recognisers=[pocketsphinx]"]


def test_a_run_whose_recognizers_are_all_rewards_says_so_before_it_starts():
    cfg = compose_config("F5TTS_Mini_RL", REWARDED, RLTrainConfig)
    assert build_best(cfg, (said := []).append) is None and "reward_hacked" not in build_alarms(cfg)
    assert "pocketsphinx is a reward of this run, so no judge chooses model_best.pt" in said[0]
    with pytest.raises(ConfigError, match=r"rl\.stop_when=judge_worse needs a judge that is no reward; eval\.recog"):
        build_best(compose_config("F5TTS_Mini_RL", [*REWARDED, "rl.stop_when=judge_worse"], RLTrainConfig))
    judged = compose_config("F5TTS_Mini_RL", [*REWARDED, "eval.recognisers=[pocketsphinx,whisper]"], RLTrainConfig)
    assert build_best(judged) is not None and "reward_hacked" in build_alarms(judged)


def test_speech_that_gets_monotone_is_an_alarm_even_where_the_recognizer_is_the_reward():
    """The F0 spread falls to half in two validations, while the reward's own recognizer hears fewer errors."""
    alarms = build_alarms(compose_config("F5TTS_Mini_RL", REWARDED, RLTrainConfig))
    watch = AlarmMonitor({"less_natural": alarms["less_natural"]})
    rows = [{"eval/wer": wer, "eval/f0_spread": spread} for wer, spread in ((0.4, 2.0), (0.3, 1.0), (0.3, 1.0))]
    assert [list(watch(row)[0]) for row in rows] == [[], [], ["health/alarm_less_natural"]]


def test_a_run_whose_speaker_judge_is_a_reward_says_so_before_it_starts():
    rewards = "rl.rewards.providers=[{name: wespeaker_sim, config: {model_dir: x}}, {name: clipping}]"
    for speaker, lines in (("wespeaker", 1), ("resemblyzer", 0)):
        cfg = compose_config(
            "F5TTS_Mini_RL", ["eval.every_updates=1", rewards, f"eval.speaker={speaker}"], RLTrainConfig
        )
        assert build_best(cfg, (said := []).append) is not None and len(said) == lines
        assert metrics_of_rewards(cfg) == ({"eval/sim"} if lines else set())
    assert metrics_of_rewards(compose_config("F5TTS_Mini_RL", REWARDED, RLTrainConfig)) == {"eval/wer"}


def test_what_a_reward_measures_is_marked_in_the_line_of_a_validation(evaluator, state, tmp_path):
    validate = validation(evaluator, tmp_path, output := [])
    validate.of_rewards = {"eval/wer", "eval/sim"}
    validate(state)
    marked = ("eval/wer", "eval/wer_ema", "eval/sim", "eval/sim_ema")
    assert all(re.search(rf" {name}=-?\d\.\d+ \(reward\)[,;]", output[0]) for name in marked)
    assert "judge/wer=0.0000, " in output[0] and output[0].count("(reward)") == 4
