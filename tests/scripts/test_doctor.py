"""The doctor on runs of a tiny model over eight recordings of noise: valid runs, and one of each kind of fault."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import soundfile
import torch
import yaml
from datasets import Dataset as Table
from packaging.requirements import Requirement

from f5_tts.commands import find_command
from f5_tts.config.load import compose_config, schema_of
from f5_tts.config.reward_names import PROVIDERS
from f5_tts.config.schema import ConfigError, RLTrainConfig, TrainConfig
from f5_tts.config.yaml_files import config_names
from f5_tts.doctor.checks import COMMON_CHECKS, Check, run_check
from f5_tts.doctor.context import RunUnderTest
from f5_tts.doctor.rewards import max_group_sum
from f5_tts.doctor.run_setup import evenly_spaced, libraries
from f5_tts.doctor.update import disk
from f5_tts.extras import ASSET_PACKAGES, install_hint
from f5_tts.rewards.registry import provider_attribute
from f5_tts.train import train, train_rl

doctor = find_command("doctor").main

EXTRAS = {
    "pocketsphinx": "mini",
    "funasr": "reward_funasr",
    "sentencepiece": "reward_funasr",
    "wandb": "track",
    "tensorboard": "track",
    "trackio": "trackio",
    "bitsandbytes": "bnb",
    "peft": "lora",
    "faster_whisper": "eval",
    "transformers": "wavlm",
    "matplotlib": "mini",
}  # library, as it is imported -> the extra that is named
REPOSITORY = Path(__file__).parents[2]
RATE = 16_000
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
MODULE = """
def loudness(inputs):
    return [float(item.audio.std()) for item in inputs]

def same(inputs):
    return [0.5 for item in inputs]

def ill(inputs):
    raise KeyError("no model\\nanywhere")
"""
COMMON = [
    f"model.tokenizer_path={REPOSITORY / 'data/mini_custom/vocab.txt'}",
    "datasets.name=own",
    "datasets.pair_speakers=false",
    "datasets.batch_size_type=sample",
    "datasets.batch_size_per_gpu=2",
]
STAGE_1 = ["-cn", "F5TTS_Mini", *COMMON]
WARM_UP = ["model.output_dist=gaussian", "model.objective=gaussian_nll", "model.use_rl_head=true"]
STAGE_2 = [
    *["-cn", "F5TTS_Mini_RL", *COMMON],
    *["rl.algorithm=auto", "rl.shared_noise=true", "rl.steps=4", "rl.mini_repeat_count=2"],
    *["rl.prompt_frac_range=[0.2,0.3]", "rl.credit=sample"],
]
ORDER = {
    1: ["packages", "machine", "config", "data", "checkpoint", "judges", "gradient", "cost"],
    2: [
        *["packages", "machine", "config", "data", "checkpoint", "judges", "rewards"],
        *["rollout", "ratio", "gradient", "advantages", "cost"],
    ],
}
FILES = ("data", "checkpoint")  # checks whose missing files are told first
Examine = Callable[..., dict[str, tuple[str, str]]]


@pytest.fixture(scope="module")
def ward(tmp_path_factory, tiny):
    """Make a working directory with `data/own_custom`, a module of rewards and a stage-1 checkpoint."""
    home = tmp_path_factory.mktemp("ward")
    folder = home / "data" / "own_custom"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    paths = [f"data/own_custom/{number}.wav" for number in range(8)]
    for path in paths:
        soundfile.write(home / path, draw.normal(scale=0.1, size=RATE // 2), RATE)
    Table.from_dict({"audio_path": paths, "text": WORDS}).save_to_disk(str(folder / "raw"))
    (folder / "duration.json").write_text(json.dumps({"duration": [0.5] * 8}))
    (home / "ward_rewards.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.syspath_prepend(home)
        assert train.main([*STAGE_1[:2], *tiny, *COMMON, *WARM_UP, "optim.max_updates=2", "ckpts.save_dir=warm"])
        yield home


@pytest.fixture
def examine(ward, tiny, capsys) -> Examine:
    """Return a function that runs the doctor and returns state and message of each check."""

    def of_run(stage: int, *options: str, reward: str = "loudness") -> dict[str, tuple[str, str]]:
        providers = f"rl.rewards.providers=[{{name: 'ward_rewards:{reward}', floor: 0.001}}]"
        argv = [*STAGE_2, *tiny, *COMMON, providers] if stage == 2 else [*STAGE_1, *tiny, *COMMON]
        capsys.readouterr()
        try:
            code = 0 if doctor([*argv, *options]) else None
        except SystemExit as end:
            code = end.code
        *lines, last = capsys.readouterr().out.splitlines()
        result = [re.fullmatch(r"(ok|FAIL|--) +(\w+): (.+)", line) for line in lines]
        seen = {line[2]: (line[1], line[3]) for line in result if line}
        assert set(seen) == set(ORDER[stage]) and len(lines) == len(seen)
        later = [*itertools.dropwhile(lambda name: seen[name][0] == "FAIL" and name in FILES, seen)]
        assert later == [name for name in ORDER[stage] if name in later]
        failed = sum(state == "FAIL" for state, _ in seen.values())
        skipped = sum(state == "--" for state, _ in seen.values())
        command = "train-rl" if stage == 2 else "train"
        advice = "mend what failed, and ask again" if failed else f"next: f5-tts {command} with the same arguments"
        assert last == f"{failed} of {len(seen)} checks failed, {skipped} skipped; {advice}"
        assert code == (2 if failed else 0)
        return seen

    return of_run


@pytest.fixture
def tuned(ward, tmp_path) -> str:
    """Copy the stage-1 checkpoint to a new folder of stage 2; return the folder as an override."""
    shutil.copy(ward / "warm" / "model_last.pt", tmp_path)
    return f"ckpts.save_dir={tmp_path}"


def states(seen: dict[str, tuple[str, str]], state: str) -> list[str]:
    return [name for name, (found, _) in seen.items() if found == state]


# --- valid runs ---


@pytest.mark.slow
def test_a_run_of_stage_2_that_is_well_passes_every_check_and_stays_as_it_was(examine, tuned, tmp_path):
    before = (tmp_path / "model_last.pt").read_bytes()
    seen = examine(2, tuned)
    assert states(seen, "ok") == ORDER[2], seen
    assert [path.name for path in tmp_path.iterdir()] == ["model_last.pt"]
    assert (tmp_path / "model_last.pt").read_bytes() == before
    assert seen["ratio"][1] == "off by 0 before any update"
    assert seen["checkpoint"][1].startswith(f"{tmp_path}/model_last.pt fits: update 2 of gaussian_nll, of F5TTS_Mini")
    assert "trained Gaussian head, so gaussian_grpo" in seen["checkpoint"][1]
    assert seen["rollout"][1].startswith("4 samples of 2 prompts, ")
    assert "2 of 2 groups have differing scores" in seen["advantages"][1]
    assert "the Gaussian head is not trained" in seen["gradient"][1]
    assert "for 4 of 4 updates" in seen["cost"][1]


def test_stage_1_from_random_weights_passes_and_leaves_no_folder(examine, tmp_path):
    """Layers that start at zero pass no gradient to earlier layers.

    The check reports this, and that these layers pass it after they have changed.
    """
    seen = examine(1, f"ckpts.save_dir={tmp_path / 'new'}", "eval.items_dir=null", "eval.every_updates=null")
    assert states(seen, "ok") == ORDER[1], seen
    assert list(tmp_path.iterdir()) == []
    assert seen["data"][1].startswith("no validation while training: no rows are held out of a data set of fewer than")
    assert "training starts from random weights" in seen["checkpoint"][1]
    assert re.match(r"reaches 2 of \d+ trained tensors; \d+ more once layers", seen["gradient"][1])


@pytest.mark.slow
def test_an_adapters_first_factor_waits_for_its_second(examine, tuned):
    lora = ["lora.rank=2", "lora.target_modules=[to_q]", "rl.algorithm=nft", "rl.shared_noise=false"]
    seen = examine(2, tuned, *lora)
    assert states(seen, "ok") == ORDER[2], seen
    assert "reaches 2 of 6 trained tensors; 2 more once layers that start at zero" in seen["gradient"][1]
    assert "attn.to_q.lora_A.default.weight" in seen["gradient"][1]
    assert seen["ratio"][1] == "nft has no probability ratio"


@pytest.mark.slow
def test_an_objective_that_learns_through_the_drawing_has_no_ratio_and_reaches_sigma(examine, tuned):
    seen = examine(2, tuned, "rl.algorithm=f5r", "rl.train_sigma=true")
    assert states(seen, "ok") == ORDER[2], seen
    assert seen["ratio"][1] == "f5r has no probability ratio" and re.fullmatch(
        r"reaches (\d+) of \1 .*", seen["gradient"][1]
    )


@pytest.mark.slow
def test_gradients_of_rewards_have_no_ratio_and_reach_a_model_without_a_head(examine, tuned):
    no_head = ["model.output_dist=deterministic", "model.use_rl_head=false"]
    bright = ["rl.rewards.providers=[{name: 'tests.e2e.runs:Bright'}]", "rl.credit=sample"]
    seen = examine(2, tuned, "rl.algorithm=draft", "rl.draft.last_steps=2", *no_head, *bright)
    assert states(seen, "ok") == ORDER[2], seen
    assert seen["ratio"][1] == "draft has no probability ratio"
    assert re.fullmatch(r"reaches (\d+) of \1 .*", seen["gradient"][1])


# --- faulty runs ---


def test_a_mistyped_key_and_name_are_the_usual_sentences(ward):
    providers = "rl.rewards.providers=[{name: voice_simm}, {name: 'absent:elsewhere'}]"
    argv = [*STAGE_2, "rl.step=4", providers]
    with pytest.raises(ConfigError) as refused:
        doctor(argv)
    assert str(refused.value).startswith(
        "2 problems\n1. unknown key rl.step in F5TTS_Mini_RL: did you mean rl.steps?\n"
        "2. rl.rewards.providers.0.name: no reward provider is called 'voice_simm' (did you mean voice_sim?); known: "
    )


def test_a_judge_that_training_could_not_load_is_refused_with_its_sentence(ward, examine, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    watch = [f"ckpts.save_dir={tmp_path / 'new'}", f"eval.items_dir={REPOSITORY / 'data/mini_custom'}"]
    watch += ["eval.every_updates=1", "eval.recognisers=[{name: whisper, config: {model: nowhere/model}}]"]
    seen = examine(1, *watch)
    assert states(seen, "FAIL") == ["judges"] and states(seen, "--") == []
    with pytest.raises(ValueError, match=r"^whisper: config\.model=nowhere/model cannot be loaded") as refused:
        train.main([*STAGE_1[:2], *tiny, *COMMON, *watch])
    assert seen["judges"][1] == " ".join(str(refused.value).split())


def test_a_missing_data_set_hides_no_checkpoint(examine, tuned):
    seen = examine(2, tuned, "datasets.name=nowhere")
    assert seen["data"][0] == "FAIL" and "f5-tts prepare makes one" in seen["data"][1]
    assert states(seen, "ok") == ["packages", "machine", "config", "checkpoint"]
    assert seen["rollout"] == ("--", "skipped: needs data")


@pytest.mark.slow
def test_a_broken_recording_is_named_and_the_rest_is_tried(examine, tuned, ward):
    path = ward / "data" / "own_custom" / "3.wav"
    whole = path.read_bytes()
    path.write_bytes(b"RIFF")
    try:
        seen = examine(2, tuned)
    finally:
        path.write_bytes(whole)
    assert states(seen, "FAIL") == ["data"] and states(seen, "--") == []
    output = seen["data"][1]
    assert output.startswith("1 of 8 rows decoded are bad: repair or remove them (f5-tts check-dataset data/")
    assert "; row 3, unreadable: cannot read data/own_custom/3.wav as audio" in output


def test_a_text_without_words_is_named_where_a_reward_compares_words(examine, tuned, ward):
    folder = ward / "data" / "own_custom"
    shutil.copytree(folder, ward / "data" / "dots_custom")
    shutil.rmtree(ward / "data" / "dots_custom" / "raw")
    columns = {"audio_path": Table.load_from_disk(str(folder / "raw"))["audio_path"]}
    columns["text"] = [*WORDS[:3], "…", *WORDS[4:]]
    Table.from_dict(columns).save_to_disk(str(ward / "data" / "dots_custom" / "raw"))
    vocab = ward / "dots.txt"
    vocab.write_text((REPOSITORY / "data/mini_custom/vocab.txt").read_text("utf-8") + "…\n", encoding="utf-8")
    known = ["datasets.name=dots", f"model.tokenizer_path={vocab}"]
    by_word = "rl.rewards.providers=[{name: speech_rate, floor: 0.001}, {name: 'ward_rewards:loudness'}]"
    state, message = examine(2, tuned, *known, by_word)["data"]
    assert state == "FAIL" and "1 of 8 rows have bad texts: repair or remove them" in message
    assert "; row 3, no word: the text of data/own_custom/3.wav has no word that a reward could compare" in message
    assert examine(2, tuned, *known)["data"][0] == "ok"  # loudness needs no words


def test_a_reward_that_knows_digits_alone_refuses_other_texts_here_and_before_stage_2(examine, tuned, tiny, ward):
    folder = ward / "data" / "tones_custom"
    shutil.copytree(ward / "data" / "own_custom", folder)
    shutil.rmtree(folder / "raw")
    columns = {"audio_path": Table.load_from_disk(str(ward / "data/own_custom/raw"))["audio_path"]}
    Table.from_dict({**columns, "text": ["one tone", "ten noon"] * 4}).save_to_disk(str(folder / "raw"))
    weights = [str(REPOSITORY / "pretrained/digits_ctc" / f"{name}.safetensors") for name in "ab"]
    options = [
        tuned,
        "datasets.name=tones",
        f"rl.rewards.providers=[{{name: digits_ctc, config: {{ckpts: {weights}}}}}]",
    ]
    refusal = (
        r"rl\.rewards\.providers.*: digits_ctc knows the words .* alone, and 8 of 8 texts have others: 'one tone' has"
    )
    state, message = examine(2, *options)["rewards"]
    assert state == "FAIL" and re.search(refusal, message)
    too_long = "optim.num_warmup_updates=9999"
    both = rf"^2 problems\n1\. {too_long} does not end .*\n2\. {refusal}"
    with pytest.raises(ValueError, match=both):
        train_rl.main([*STAGE_2, *tiny, *COMMON, *options, too_long])


def test_texts_that_the_vocabulary_lacks_are_an_error_where_most_have_them(examine, tuned, tmp_path):
    few = tmp_path / "few.txt"
    few.write_text(" \no\n")
    seen = examine(2, tuned, f"model.tokenizer_path={few}")
    assert states(seen, "FAIL") == ["data", "checkpoint"]
    assert "is model.tokenizer_path the vocabulary" in seen["data"][1] and "of 8 rows" in seen["data"][1]


def test_a_checkpoint_of_another_architecture_is_said_and_rewards_are_tried(examine, tuned):
    seen = examine(2, tuned, "model.arch.depth=3")
    assert states(seen, "FAIL") == ["checkpoint"]
    assert "does not fit this model" in seen["checkpoint"][1] and "choose its config" in seen["checkpoint"][1]
    assert seen["rewards"][0] == "ok" and seen["rollout"] == ("--", "skipped: needs checkpoint")


def test_without_a_checkpoint_stage_2_says_where_to_put_one(examine, tmp_path):
    seen = examine(2, f"ckpts.save_dir={tmp_path / 'new'}")
    assert states(seen, "FAIL") == ["checkpoint"] and "or name a checkpoint in ckpts.init_from" in seen["checkpoint"][1]
    assert list(tmp_path.iterdir()) == []


def test_a_reward_that_raises_is_one_line_and_drawing_and_learning_are_tried(examine, tuned):
    seen = examine(2, tuned, reward="ill")
    state, message = seen["rewards"]
    assert state == "FAIL" and message.startswith("reward provider ward_rewards:ill raised KeyError: 'no model\\nany")
    assert "ward_rewards.py, line 9" in message
    assert states(seen, "--") == ["advantages", "cost"]
    assert [seen[name][0] for name in ("rollout", "ratio", "gradient")] == ["ok"] * 3


def test_code_of_the_users_that_exits_fails_its_check_and_the_doctor_goes_on():
    def exits(run: RunUnderTest) -> str:
        sys.exit(0)

    state, text = run_check(Check(exits), RunUnderTest("F5TTS_Mini", compose_config("F5TTS_Mini", [], TrainConfig)))
    assert state == "FAIL" and "code of your own called sys.exit(0)" in text


def test_each_reward_is_tried_whatever_is_wrong_with_the_one_before(examine, tuned):
    names = (
        "{name: 'nobody:here'}, {name: wespeaker_sim, config: {model_dir: nowhere}}, {name: 'ward_rewards:loudness'}"
    )
    state, output = examine(2, tuned, f"rl.rewards.providers=[{names}]")["rewards"]
    assert state == "FAIL" and "there is no module nobody for nobody:here" in output
    assert (
        "wespeaker_sim: " in output
        and "nowhere" in output
        and "loudness.score 0.10 and 0.10, with exchanged audio" in output
    )


@pytest.mark.slow
def test_a_reward_that_scores_all_alike_teaches_nothing_and_the_knobs_are_named(examine, tuned):
    seen = examine(2, tuned, reward="same")
    assert states(seen, "FAIL") == ["advantages"] and states(seen, "--") == []
    assert "all samples of each of 2 groups have the same score" in seen["advantages"][1]
    assert "raise rl.mini_repeat_count" in seen["advantages"][1]
    assert "0.50 and 0.50, with exchanged audio 0.50 and 0.50, no difference" in seen["rewards"][1]


@pytest.mark.slow
def test_a_config_that_lets_no_gradient_through_is_found(examine, tuned):
    seen = examine(2, tuned, "rl.advantage_clip=0")
    assert states(seen, "FAIL") == ["gradient"]
    assert re.match(r"(\d+) of \d+ trained tensors get no gradient and would never change \(", seen["gradient"][1])
    assert seen["gradient"][1].endswith("look at rl.advantage_clip")


def test_a_width_so_large_that_nothing_pulls_the_mean_is_found(examine):
    """The gradient of the mean is proportional to 1 / sigma^2, and e^-200 is 0 in single precision."""
    seen = examine(1, "model.ln_sigma_init=100", *WARM_UP, "ckpts.save_dir=new")
    assert states(seen, "FAIL") == ["gradient"] and seen["gradient"][1].endswith("look at model.ln_sigma_init")
    assert "get no gradient and would never change (transformer." in seen["gradient"][1]


def test_a_checkpoint_that_is_not_finite_is_said_before_it_speaks(examine, tuned, tmp_path):
    state = torch.load(tmp_path / "model_last.pt", weights_only=True)
    state["model_state_dict"]["transformer.proj_out.bias"][0] = torch.nan
    torch.save(state, tmp_path / "model_last.pt")
    seen = examine(2, tuned)
    assert seen["checkpoint"][0] == "FAIL" and "model_last.pt" in seen["checkpoint"][1]
    assert [seen[name][0] for name in ("rewards", "rollout", "ratio", "gradient")] == ["ok", "--", "--", "--"]


def test_a_folder_that_cannot_be_made_is_said_and_the_rest_is_tried(examine, tmp_path):
    (tmp_path / "file").touch()
    seen = examine(1, f"ckpts.save_dir={tmp_path / 'file' / 'run'}")
    assert states(seen, "FAIL") == ["machine"]
    assert "ckpts.save_dir" in seen["machine"][1] and "choose a folder that you can write to" in seen["machine"][1]


def test_more_checkpoints_than_the_disk_holds_are_an_error_that_names_the_keys(ward, tiny):
    run = RunUnderTest("F5TTS_Mini", compose_config("F5TTS_Mini", [*tiny, *COMMON, "ckpts.save_dir=new"], TrainConfig))
    for check in COMMON_CHECKS[:5]:
        assert run_check(check, run)[0] == "ok"
    assert disk(run, 4).startswith("up to 4 checkpoints of ")  # one per two updates, and model_last.pt twice
    with pytest.raises(ValueError, match=r"set ckpts\.keep_last_n_checkpoints=1 or raise ckpts\.save_per_updates, "):
        disk(run, 10**12)
    run.cfg.ckpts.keep_last_n_checkpoints = 1
    assert disk(run, 10**12).startswith("up to 3 checkpoints of ")


def test_a_full_disk_is_an_error_that_names_another_volume(ward, tiny, tmp_path, monkeypatch):
    options = [*tiny, *COMMON, "ckpts.save_dir=new", "ckpts.save_per_updates=9"]
    run = RunUnderTest("F5TTS_Mini", compose_config("F5TTS_Mini", options, TrainConfig))
    for check in COMMON_CHECKS[:5]:
        assert run_check(check, run)[0] == "ok"
    big = tmp_path / "big"
    big.mkdir()
    monkeypatch.setattr(psutil, "disk_partitions", lambda: [SimpleNamespace(mountpoint=str(big))])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3e11 if path == big else 100))
    words = rf"ckpts\.save_dir=new has 1e-07 GB free: set ckpts\.save_dir to a folder on another volume, such as {big} "
    with pytest.raises(ValueError, match=words + r"\(3e\+02 GB free\)"):
        disk(run, 4)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(ValueError, match=r"on another volume$"):
        disk(run, 4)


# --- its own functions ---


def test_all_missing_files_are_told_before_torch_is_imported(tmp_path):
    source = (
        "import sys; from f5_tts.scripts import flags\n"
        "arguments = ['-cn', 'F5TTS_Mini_RL', 'datasets.name=gone', 'model.tokenizer_path=gone.txt']\n"
        "print(flags.doctor(arguments)[2], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=tmp_path)
    data, checkpoint, last = done.stdout.splitlines()
    assert data.startswith("FAIL data: no data set at data/gone_custom: ") and "no file at gone.txt" in data
    assert checkpoint.startswith("FAIL checkpoint: no model_last.pt or model_<update>.pt in ckpts.save_dir=")
    assert last == "['data', 'checkpoint'] False"


@pytest.mark.slow
def test_an_extra_that_is_not_installed_is_named(tmp_path):
    source = (
        "import sys; sys.modules['peft'] = None\n"
        "from f5_tts.scripts import doctor, flags\n"
        "name, cfg, _ = flags.doctor(['-cn', 'F5TTS_Mini_RL', 'lora.rank=2'])\n"
        "run = doctor.RunUnderTest(name, cfg)\n"
        "print(*doctor.run_check(doctor.CHECKS[type(run.cfg)][0], run))"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == 'FAIL no peft: pip install -e ".[lora]"', done.stderr


def test_every_library_that_is_asked_for_comes_with_the_extra_that_is_named():
    text = (REPOSITORY / "pyproject.toml").read_text("utf-8")
    for library, extra in EXTRAS.items():
        assert install_hint(library) == f'pip install -e ".[{extra}]"'
        (line,) = re.findall(rf"^{extra} = (\[.*\])", text, re.MULTILINE)
        assert library.replace("_", "-") in {Requirement(entry).name for entry in yaml.safe_load(line)}
    required = {library for name in PROVIDERS for library in provider_attribute(name, "requires", ())}
    assert {"pocketsphinx", "funasr"} <= required <= {*EXTRAS, *ASSET_PACKAGES}
    assert install_hint("resemblyzer") == "pip install --no-deps -r requirements-assets.txt"


def test_only_what_a_config_uses_is_asked_for():
    def asked(name: str, *overrides: str) -> list[str]:
        return list(libraries(compose_config(name, list(overrides), schema_of(name))))

    assert asked("F5TTS_Mini") == []
    assert asked("F5TTS_Mini", "ckpts.logger=trackio", "optim.bnb_optimizer=true") == ["trackio", "bitsandbytes"]
    assert asked("F5TTS_Mini_RL", "lora.rank=1") == ["resemblyzer", "peft"]
    assert asked("F5TTS_Mini_Draft") == ["resemblyzer", "pocketsphinx"]  # a reward, and what transcribes validations
    elsewhere = "rl.rewards.providers=[{name: voice_sim}, {name: digits_wer, worker: {python: /usr/bin/python3}}]"
    assert asked("F5TTS_Mini_RL", elsewhere) == ["resemblyzer"]
    assert asked("F5TTS_RL", "ckpts.logger=null") == ["funasr", "sentencepiece"]


@pytest.mark.parametrize("name", config_names())
def test_a_config_says_of_which_stage_it_is(name: str):
    assert schema_of(f"{name}.yaml") is (RLTrainConfig if name.endswith(("_RL", "_Draft", "_GRPO")) else TrainConfig)


def test_rows_are_taken_from_the_first_to_the_last():
    assert evenly_spaced(list(range(100)), 4) == [0, 33, 66, 99]
    assert evenly_spaced([5, 7], 16) == [5, 7] and evenly_spaced([5, 7], 1) == [5]


def test_sums_are_of_groups_and_of_frames_that_all_of_a_group_speak():
    group_ids, everywhere = torch.tensor([4, 9, 4, 9]), torch.ones(4, 2, dtype=torch.bool)
    assert max_group_sum(torch.tensor([1.0, 2.0, -1.0, -1.75]), group_ids, everywhere) == 0.25
    frames = torch.tensor([[1.0, 5.0], [2.0, 3.0], [-1.0, 0.0], [-2.0, -2.5]])
    target = torch.tensor([[True, True], [True, True], [True, False], [True, True]])
    # only one sample has a frame there, so the 5 is not part of a sum
    assert max_group_sum(frames, group_ids, target) == 0.5
