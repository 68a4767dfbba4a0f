"""Command lines: the configurations that they compose, and the messages for errors."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest

from f5_tts.config.checks import check
from f5_tts.config.command_line import load_config
from f5_tts.config.foreign import ABSENT_KEYS, FOREIGN_NAMES, ForeignName, foreign_table
from f5_tts.config.keys import has_key
from f5_tts.config.load import compose_config, compose_synthesis_config, read_config, schema_of, with_overrides
from f5_tts.config.schema import ConfigError, RLTrainConfig, TrainConfig, WorkerConfig, group_size, vocab_path
from f5_tts.config.yaml_files import CONFIG_DIR, config_names, look_alikes


def words(command: str, folder: str = "/home/someone/f5") -> list[str]:
    """Split a command into its arguments as a shell does in `folder`."""
    return shlex.split(command.replace("$PWD", folder))


STAGE_2 = ("_RL", "_Draft", "_GRPO")  # how the names of its configs end


def mini_rl(*overrides: str) -> RLTrainConfig:
    return load_config(list(overrides), default="F5TTS_Mini_RL", schema=RLTrainConfig)


def mini(*overrides: str) -> TrainConfig:
    return load_config(list(overrides), default="F5TTS_Mini", schema=TrainConfig)


def sentence(*overrides: str) -> str:
    """Return the error message for overrides of the small stage-2 config."""
    with pytest.raises(ConfigError) as caught:
        mini_rl(*overrides)
    return str(caught.value)


# --- valid command lines ---


def test_a_path_with_spaces_needs_no_more_than_the_shells_quotes():
    command = "model.tokenizer_path='$PWD/my data/vocab.txt'"
    assert mini(*words(command)).model.tokenizer_path == "/home/someone/f5/my data/vocab.txt"


HOME = "a leading ~ is your home folder, $NAME a variable that is set"
PATHS = {
    "datasets.name": "~/mine",
    "model.tokenizer_path": "~/vocab.txt",
    "ckpts.save_dir": "~/run",
    "ckpts.init_from": "$HOME/model.pt",
    "eval.items_dir": "~/lists",
    "eval.ckpt": "~/model.pt",
    "eval.out": "$HOME/out",
    "eval.known": "~/known",
    "eval.list": "~/meta.lst",
    "eval.wavs": "~/clips",
    "eval.against": "~/out",
    "eval.dev_list": "~/dev.jsonl",
    "eval.recordings": "$HOME/LibriSpeech/test-clean",
    "rl.ref_model_ckpt": "~/model.pt",
    "audition.folder": "~/clips (b)",
    "audition.out": "~/out",
    "rl.rewards.providers.0.worker.python": "~/venv/bin/python",
    "rl.rewards.providers.0.config.ckpts": "~/reward.pt",
}


@pytest.mark.parametrize("key", PATHS)
def test_home_is_expanded_in_every_key_that_names_a_path(key: str, monkeypatch):
    """No shell does it behind an equals sign, and a folder called ~ is one `rm -rf ~` away from a loss."""
    monkeypatch.setenv("HOME", "/home/ann")
    value: object = mini_rl(f"{key}={PATHS[key]}")
    for part in key.split("."):
        value = (
            value[int(part)]
            if isinstance(value, list)
            else value[part]
            if isinstance(value, dict)
            else getattr(value, part)
        )
    assert value == PATHS[key].replace("$HOME", "~").replace("~", "/home/ann")


def test_a_vocoder_in_the_home_folder_is_found_there(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    changes = ["model.vocoder.name=vocos", "model.vocoder.is_local=true", "model.vocoder.local_path=~/vocos"]
    assert mini(*changes).model.vocoder.local_path == "/home/ann/vocos"
    assert compose_synthesis_config("F5TTS_Mini", changes).model.vocoder.local_path == "/home/ann/vocos"


@pytest.mark.parametrize("value", ["~nobody_of_this_name/run", "$NOWHERE/run"])
def test_a_user_or_variable_that_there_is_not_is_said_and_makes_no_folder(value: str, monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    expected = (
        f"ckpts.save_dir={value} is not allowed; allowed: a path; a leading ~ is your home folder, $NAME a variable"
    )
    assert sentence(f"ckpts.save_dir={value}").startswith(expected)


@pytest.mark.parametrize("key", ["optim.seed", "eval.seed", "optim.max_updates", "datasets.max_samples"])
def test_a_whole_number_beyond_64_bits_is_said_so(key: str):
    assert sentence(f"{key}={2**64}") == f"{key}={2**64} is too large: whole numbers are below 2^63"
    assert mini_rl(f"optim.seed={2**63 - 1}").optim.seed == 2**63 - 1


@pytest.mark.parametrize("name", config_names())
def test_every_config_fits_its_schema_and_its_own_checks(name: str):
    schema = RLTrainConfig if name.endswith(STAGE_2) else TrainConfig
    assert type(compose_config(name, [], schema)) is schema


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_hydras_prefixes_set_a_key_as_well(prefix: str):
    assert mini_rl(f"{prefix}rl.steps=5").rl.steps == 5


def test_options_and_overrides_may_come_in_any_order():
    cfg = mini_rl("optim.epochs=3", "--config-name", "F5TTS_RL.yaml", "model.tokenizer=custom")
    assert (cfg.model.name, cfg.optim.epochs) == ("F5TTS_v1_Base", 3)


def test_the_last_of_two_values_holds():
    assert mini_rl("rl.steps=5", "rl.steps=6").rl.steps == 6


def test_a_section_given_as_a_whole_keeps_the_keys_it_does_not_name():
    window = mini_rl("rl.window={size: 4, schedule: fixed}").rl.window
    assert (window.size, window.t_range, window.schedule) == (4, mini_rl().rl.window.t_range, "fixed")


def test_a_provider_may_get_any_key_in_its_own_config():
    assert mini_rl("rl.rewards.providers.1.config.processes=2").rl.rewards.providers[1].config == {"processes": 2}


@pytest.mark.parametrize(
    "overrides, python, url, retries",
    [
        (["python=env/bin/python"], "env/bin/python", None, 2),
        (["retries=5", "url=https://asr.example:8008"], None, "https://asr.example:8008", 5),
    ],
)
def test_a_worker_is_null_until_one_of_its_keys_is_set(overrides, python, url, retries):
    cfg = mini_rl(*[f"rl.rewards.providers.1.worker.{override}" for override in overrides])
    here, there = cfg.rl.rewards.providers
    assert here.worker is None
    assert there.worker == WorkerConfig(python=python, url=url, timeout_s=300.0, retries=retries)


def test_a_worker_can_be_set_whole_and_taken_away():
    key = "rl.rewards.providers.0.worker"
    worker = mini_rl(f"{key}={{url: http://127.0.0.1:8008}}").rl.rewards.providers[0].worker
    assert worker == WorkerConfig(url="http://127.0.0.1:8008")
    assert mini_rl(f"{key}.url=http://127.0.0.1:8008", f"{key}=null").rl.rewards.providers[0].worker is None


def test_the_list_of_rewards_can_be_replaced():
    cfg = mini_rl("rl.rewards.providers=[{name: digits_wer, weight: 2, floor: 0.1, config: {}}]")
    assert [(entry.name, entry.weight, entry.floor) for entry in cfg.rl.rewards.providers] == [("digits_wer", 2.0, 0.1)]


def test_the_word_no_is_a_precision_and_not_a_boolean():
    assert mini("optim.mixed_precision=no").optim.mixed_precision == "no"


def test_the_save_folder_follows_the_models_name():
    assert mini("model.name=Tiny").ckpts.save_dir == "ckpts/Tiny"


def test_the_vocabulary_lies_in_the_data_set_unless_the_run_says_otherwise():
    assert vocab_path(mini("datasets.name=digits")) == Path("data/digits_custom/vocab.txt")
    assert vocab_path(mini("model.tokenizer_path=a/v.txt")) == Path("a/v.txt")


def test_a_data_set_of_the_hub_needs_a_vocabulary_from_elsewhere():
    assert mini("datasets.name=hf://org/repo:dev", "model.tokenizer=pinyin").datasets.name == "hf://org/repo:dev"
    assert mini("datasets.name=hf://a/b", "model.tokenizer_path=v.txt").datasets.name == "hf://a/b"
    with pytest.raises(ConfigError, match=r"hf://a/b has no vocabulary for model\.tokenizer=custom; set model"):
        mini("datasets.name=hf://a/b")


def test_a_group_is_all_repeats_of_a_prompt_unless_its_size_is_given():
    assert group_size(mini_rl("rl.repeat_count=2", "rl.mini_repeat_count=3").rl) == 6
    assert group_size(mini_rl("rl.group_size=8", "rl.mini_repeat_count=4").rl) == 8


def test_help_names_the_configs_and_where_keys_are_explained(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        mini_rl("-h")
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert all(name in text for name in config_names()) and "_base.yaml" in text


# --- YAML files ---


def test_stage_2_of_the_published_model_trains_the_model_of_stage_1():
    base = asdict(compose_config("F5TTS_v1_Base", [], TrainConfig))["model"]
    tuned = asdict(compose_config("F5TTS_RL", [], RLTrainConfig))["model"]
    assert {key for key in base if base[key] != tuned[key]} == {"output_dist", "objective", "use_rl_head"}


def test_the_published_architecture_is_that_of_f5tts_v1_base():
    arch = compose_config("F5TTS_v1_Base", [], TrainConfig).model.arch
    assert (arch.dim, arch.depth, arch.heads, arch.dim_head) == (1024, 22, 16, 64)
    assert (arch.ff_mult, arch.text_dim, arch.conv_layers) == (2, 512, 4)


@pytest.mark.parametrize("name", ["_base.yaml", "_rl.yaml"])
def test_every_key_has_a_comment_where_it_is_defined(name: str):
    lines = (CONFIG_DIR / name).read_text(encoding="utf-8").splitlines()
    leaves = [line for line in lines if re.match(r" *\w+: *[^ #]", line)]
    assert len(leaves) > 15
    assert [line for line in leaves if not re.search(r"  # \S", line)] == []


def test_run_files_define_no_key_of_their_own():
    defined = {key for name in ("_base.yaml", "_rl.yaml") for key in keys_of(CONFIG_DIR / name)}
    entry = {"name", "weight", "floor", "config"}  # keys of a reward, documented above rl.rewards.providers
    for name in config_names():
        assert keys_of(CONFIG_DIR / f"{name}.yaml") - defined - entry == {"defaults"}


def keys_of(path: Path) -> set[str]:
    return set(re.findall(r"^[ -]*(\w+):", path.read_text(encoding="utf-8"), flags=re.MULTILINE))


# --- error messages ---


def test_a_mistyped_key_names_the_nearest_one():
    assert sentence("rl.stpes=8") == "unknown key rl.stpes in F5TTS_Mini_RL: did you mean rl.steps?"
    for key, first in (("rl.draft.k", "rl.draft.weight"), ("rl.sde.zz", "rl.sde.kernel")):  # alike by the section alone
        assert sentence(f"{key}=2").startswith(f"unknown key {key} in F5TTS_Mini_RL; known there: {first}")
    assert sentence("lerning_rate=1") == "unknown key lerning_rate in F5TTS_Mini_RL: did you mean optim.learning_rate?"
    assert (
        sentence("rl.window={sise: 1}") == "unknown key rl.window.sise in F5TTS_Mini_RL: did you mean rl.window.size?"
    )
    assert sentence("eval.items=a.lst") == "unknown key eval.items in F5TTS_Mini_RL: did you mean eval.list?"


def test_a_key_like_no_other_gets_the_keys_beside_it():
    assert sentence("rl.window.foo=8") == (
        "unknown key rl.window.foo in F5TTS_Mini_RL; known there: rl.window.size, rl.window.t_range, "
        "rl.window.schedule, rl.window.noise_block"
    )
    assert sentence("foo=8").endswith("known there: datasets, model, optim, ckpts, eval, infer, lora, rl, audition")


def test_a_reward_that_is_not_there_is_an_unknown_key():
    assert sentence("rl.rewards.providers.2.weight=1").startswith("unknown key rl.rewards.providers.2.weight")


def test_an_unknown_key_of_a_worker_names_the_nearest_one():
    key = "rl.rewards.providers.0.worker"
    assert sentence(f"{key}.pyton=a").endswith(f"did you mean {key}.python?")
    assert sentence(f"{key}={{ulr: a}}").endswith(f"did you mean {key}.url?")


def test_an_unknown_key_is_named_even_where_its_value_cannot_be_read():
    assert sentence("rl.stpes=(").startswith("unknown key rl.stpes")


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("rl.steps=abc", "rl.steps", "a whole number, 1 or more"),
        ("rl.steps=8.5", "rl.steps", "a whole number, 1 or more"),
        ("optim.max_updates=many", "optim.max_updates", "a whole number, 1 or more, or null"),
        ("rl.train_sigma=maybe", "rl.train_sigma", "true or false"),
        ("ckpts.save_dir=null", "ckpts.save_dir", f"a path; {HOME}"),
        ("ckpts.wandb_project=null", "ckpts.wandb_project", "text"),
        ("rl.window=3", "rl.window", "a section of keys"),
        ("rl.window={size: abc}", "rl.window.size", "a whole number, 1 or more"),
        ("rl.window.t_range=0.5", "rl.window.t_range", "[low, high] with 0 <= low <= high <= 1"),
        ("rl.window.t_range=[a,b]", "rl.window.t_range", "[low, high] with 0 <= low <= high <= 1"),
        ("rl.rewards.providers=3", "rl.rewards.providers", "a list of sections"),
        ("rl.rewards.providers.0.weight=x", "rl.rewards.providers.0.weight", "a number"),
        ("rl.rewards.providers.0.worker=3", "rl.rewards.providers.0.worker", "a section of keys, or null"),
        (
            "rl.rewards.providers.0.worker.retries=x",
            "rl.rewards.providers.0.worker.retries",
            "a whole number, 0 or more",
        ),
    ],
)
def test_a_value_of_the_wrong_type_names_key_value_and_type(override: str, key: str, expected: str):
    assert sentence(override) == f"{override} does not fit: {key} is {expected}"


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("rl.steps=0", "a whole number, 1 or more"),
        ("rl.algorithm=ppo", "auto or gaussian_grpo or flow_grpo or nft or draft or f5r, or module:attribute"),
        ("rl.duration_jitter=0.6", "a number from 0 to 0.5"),
        ("rl.sde.eta=1.5", "a number from 0 to below 1"),
        ("lora.target_modules=[]", "a list of names of layers, at least one"),
        ("ckpts.logger=mlflow", "wandb or tensorboard or trackio, or null"),
        ("rl.temperature=0.0", "a number above 0"),
        ("model.cond_drop_prob=1.5", "a number from 0 to 1"),
        ("rl.window.t_range=[0.6, 0.1]", "[low, high] with 0 <= low <= high <= 1"),
        ("model.frac_lengths_mask=[0.7]", "[low, high] with 0 <= low <= high <= 1"),
        ("eval.cfg_strengths=[]", "a list of numbers, each 0 or more"),
        ("rl.rewards.providers.0.floor=-1.0", "a number, 0 or more"),
    ],
)
def test_a_value_that_is_not_allowed_names_key_value_and_what_is(override: str, allowed: str):
    assert sentence(override) == f"{override} is not allowed; allowed: {allowed}"


def test_an_infinite_or_undefined_number_is_not_allowed():
    assert sentence("optim.learning_rate=inf").startswith("optim.learning_rate=Infinity is not allowed")
    assert sentence("rl.kl_weight=nan").startswith("rl.kl_weight=NaN is not allowed")


@pytest.mark.parametrize(
    ("override", "start"),
    [
        ("rl.steps", "'rl.steps' has no '='"),
        ("~rl.steps", "~rl.steps would remove a key"),
        ("optim.seed=1,2", "optim.seed=1,2 names several values"),
        ("datasets.name=/a (b)/c", "could not read datasets.name=/a (b)/c; put the value into quotes"),
        (
            "eval.recognisers=[耳语]",
            "could not read eval.recognisers=[耳语]; close its brackets, and put its texts into q",
        ),
        ("ckpts.save_dir=${nope}", "ckpts.save_dir cannot be resolved"),
        ("rl.steps=???", "rl.steps has no value"),
        ("rl.rewards.providers=[{weight: 1}]", "rl.rewards.providers.0.name has no value"),
        ("--multirun", "unrecognized arguments: --multirun; usage: "),
    ],
)
def test_an_override_that_is_no_override_is_said_so(override: str, start: str):
    assert sentence(override).startswith(start)


def test_the_quotes_that_an_unreadable_value_asks_for_make_it_readable():
    quoted = sentence("datasets.name=/a (b)/c").rpartition("quotes: ")[2]
    assert mini_rl(*words(quoted)).datasets.name == "/a (b)/c"


def test_the_quotes_never_lead_to_a_folder_called_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert mini_rl('datasets.name="~/a (b)/c"').datasets.name == "/home/ann/a (b)/c"


def test_an_unknown_config_is_answered_with_the_known_ones():
    assert sentence("-cn", "F5TTS_Mnii_RL") == (
        "no config is named F5TTS_Mnii_RL: did you mean F5TTS_Mini_RL?; "
        "known: E2TTS_Base, E2TTS_Base_RL, E2TTS_Small, F5TTS_Base, F5TTS_Base_RL, F5TTS_Mini, "
        "F5TTS_Mini_Draft, F5TTS_Mini_GRPO, F5TTS_Mini_RL, F5TTS_RL, F5TTS_Small, F5TTS_v1_Base, F5TTS_v1_Small"
    )


def test_a_config_of_the_other_stage_is_answered_with_those_that_fit():
    assert sentence("-cn", "F5TTS_Mini") == (
        "config F5TTS_Mini has no section audition, rl and is not for this command; "
        "it takes E2TTS_Base_RL or F5TTS_Base_RL or F5TTS_Mini_Draft or F5TTS_Mini_GRPO or F5TTS_Mini_RL or F5TTS_RL"
    )
    with pytest.raises(ConfigError, match=r"has a section audition, rl .* it takes E2TTS_Base or .* or F5TTS_v1_Small"):
        mini("-cn", "F5TTS_RL")


# --- keys that depend on each other ---


@pytest.mark.parametrize(
    ("override", "start"),
    [
        ("model.output_dist=deterministic", "model.use_rl_head=true does not go with model.output_dist=deterministic"),
        ("rl.draft={weight: 1, last_steps: 5}", "rl.draft.last_steps=5 is more than rl.steps=4"),
        ("model.use_rl_head=false", "model.use_rl_head=false does not go with model.output_dist=gaussian"),
        ("model.objective=gaussian_nll", "model.objective=gaussian_nll is not stage 2"),
        ("model.arch.text_mask_padding=false", "model.arch.text_embedding_average_upsampling=true needs"),
        ("model.mel_spec.n_fft=512", "model.mel_spec.win_length=1024 is more than model.mel_spec.n_fft=512"),
        ("datasets.pair_speakers=false", "rl.prompt_frac_range=null needs datasets.pair_speakers=true"),
        ("rl.prompt_frac_range=[0.2,1]", "rl.prompt_frac_range=[0.2, 1.0] may leave no frames to generate"),
        ("rl.rewards.providers=[]", "rl.rewards.providers is empty"),
        (
            "rl.rewards.providers.1.worker={}",
            "rl.rewards.providers.1.worker has python=null and url=null",
        ),
        (
            "rl.rewards.providers.1.worker={python: a, url: http://b}",
            "rl.rewards.providers.1.worker has python=a and url=http://b; give exactly one",
        ),
        (
            "rl.rewards.providers=[{name: voice_simm, worker: {python: python3}}]",
            "rl.rewards.providers.0.name: no reward provider is called 'voice_simm' (did you mean voice_sim?)",
        ),
        ("rl.rewards.providers.1.worker.url=b:80", "rl.rewards.providers.1.worker.url=b:80 is not allowed"),
        (
            "rl.rewards.providers=[{name: a:b, config: {x: 1, y: null}, worker: {url: http://c}}]",
            "rl.rewards.providers.0.config.x would not reach rl.rewards.providers.0.worker.url=http://c; set it",
        ),
        ("rl.shared_noise=true", "rl.algorithm=nft with rl.shared_noise=true compares samples"),
        ("rl.ref_model_use_ema=true", "rl.ref_model_use_ema=true is for rl.ref_model_ckpt, which is null"),
        ("lora.dropout=0.1", "lora.dropout=0.1: stage 2 samples and trains without dropout"),
        ("rl.updates_per_rollout=7", "optim.max_updates=180 is not a multiple of rl.updates_per_rollout=7"),
        ("rl.updates_per_rollout=4", "ckpts.save_per_updates=50 is not a multiple of rl.updates_per_rollout=4"),
    ],
)
def test_keys_of_stage_2_that_contradict_each_other_are_refused(override: str, start: str):
    assert start in problems(override)[0]


def problems(*overrides: str) -> list[str]:
    """Return the problems of overrides of the small stage-2 config, without their numbers."""
    first, *lines = sentence(*overrides).splitlines()
    return [line.partition(". ")[2] for line in lines] or [first]


def test_all_problems_are_told_at_once_each_with_its_cure():
    """Check wrong keys, values and names, then keys that contradict each other, each once and in this order."""
    wrong = ["rl.stpes=4", "optim.epochs=x", "optim.max_skips=-1", "rl.epsilon=0.2", "rl.steps", "lora.dropout=0.5"]
    found = problems(*wrong, "rl.ref_model_use_ema=true", "datasets.pair_speakers=false")
    assert [text.split()[0] for text in found] == [
        *("unknown", "optim.epochs=x", "optim.max_skips=-1", "rl.epsilon", "'rl.steps'"),
        *("rl.prompt_frac_range=null", "rl.ref_model_use_ema=true", "lora.dropout=0.5:"),
    ]
    assert sentence(*wrong).startswith("6 problems\n1. unknown key rl.stpes in F5TTS_Mini_RL: did you mean rl.steps?")


def test_a_contradiction_that_a_wrong_value_may_have_made_is_not_told():
    """The head would fit to output_dist=gaussian, which is misspelt here."""
    with pytest.raises(ConfigError) as caught:
        mini("model.output_dist=gausian", "model.use_rl_head=true", "model.objective=gaussian_nll")
    assert str(caught.value).startswith("model.output_dist=gausian is not allowed; allowed: ")


def test_missing_files_are_told_with_the_wrong_keys():
    def missing(key: str) -> None:
        raise FileNotFoundError(f"no file at a.pt, which {key} names")

    with pytest.raises(ConfigError) as caught:
        compose_config(
            "F5TTS_Mini",
            ["optim.epochs=0", "ckpts.init_form=a.pt"],
            TrainConfig,
            lambda cfg: [lambda: missing("ckpts.init_from"), lambda: missing("model.tokenizer_path")],
        )
    first, *lines = str(caught.value).splitlines()
    assert first == "3 problems"  # not that of ckpts.init_from, which is misspelt
    assert lines[-1] == "3. no file at a.pt, which model.tokenizer_path names"


def test_a_misspelt_name_of_another_project_is_told_with_ours():
    found = sentence("rl.num_generation=4")
    assert found.endswith("did you mean num_generations (TRL, ms-swift), which is rl.group_size here?")


def test_one_problem_is_one_sentence():
    assert "\n" not in sentence("rl.steps=0")


@pytest.mark.parametrize(("size", "count"), [(4, 4), (12, 6), (13, 1), (16, 8)])
def test_a_group_size_lowers_the_samples_of_a_pass_to_a_divisor(size: int, count: int, capsys):
    rl = mini_rl(f"num_generations={size}").rl
    assert (group_size(rl), rl.mini_repeat_count) == (size, count)
    note = f"rl.mini_repeat_count={count} instead of 8: rl.group_size={size} is a multiple of it\n"
    assert (note in capsys.readouterr().err) == (count != 8)


def test_samples_of_a_pass_that_are_given_are_not_changed_and_a_group_of_others_is_refused():
    found = sentence("rl.group_size=13", "rl.mini_repeat_count=8")
    assert found.startswith("rl.group_size=13 is not a multiple of rl.mini_repeat_count=8")


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        (["rl.draft.last_steps=5"], "rl.draft.last_steps=5 is more than rl.steps=4; set it to 4 or less"),
        (
            ["rl.updates_per_rollout=2"],
            "rl.updates_per_rollout=2 does not go with rl.algorithm=draft: the gradient of a reward belongs",
        ),
    ],
)
def test_what_draft_cannot_do_is_refused(overrides: list[str], start: str):
    assert sentence("rl.algorithm=draft", *overrides).startswith(start)


NO_HEAD = ("model.output_dist=deterministic", "model.use_rl_head=false")


@pytest.mark.parametrize("algorithm", ["gaussian_grpo", "f5r"])
def test_an_algorithm_that_samples_from_the_head_needs_one(algorithm: str):
    found = sentence(f"rl.algorithm={algorithm}", *NO_HEAD)
    assert found.startswith(f"rl.algorithm={algorithm} samples from a Gaussian head, which model.output_dist=")
    assert "take flow_grpo, nft or draft" in found


@pytest.mark.parametrize("algorithm", ["auto", "flow_grpo", "nft", "draft"])
def test_the_other_algorithms_need_no_head(algorithm: str):
    cfg = compose_config("F5TTS_Mini_RL", [f"rl.algorithm={algorithm}", *NO_HEAD], RLTrainConfig)
    assert cfg.model.output_dist == "deterministic"


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        (["model.objective=gaussian_nll"], "model.objective=gaussian_nll does not go with"),
        (["model.output_dist=gaussian", "model.use_rl_head=true"], "model.objective=mse does not go with"),
        (["model.sample_from_dist=true"], "model.sample_from_dist=true needs a Gaussian head"),
        (["model.use_rl_head=true"], "model.use_rl_head=true does not go with"),
        (["model.arch.pe_attn_head=4"], "model.arch.pe_attn_head=4 is more than model.arch.heads=3"),
        (["model.backbone=UNetT", "model.arch.depth=5"], "model.arch.depth=5 is odd"),
        (
            ["model.backbone=UNetT", "model.arch.long_skip_connection=true"],
            "model.arch.long_skip_connection=true is for",
        ),
        (["model.arch.skip_connect_type=add"], "model.arch.skip_connect_type=add is for model.backbone=UNetT"),
        (["model.vocoder.is_local=true"], "model.vocoder.is_local=true does not go with model.vocoder.local_path=null"),
        (["model.vocoder.local_path=v"], "model.vocoder.is_local=false does not go with model.vocoder.local_path=v"),
    ],
)
def test_keys_of_stage_1_that_contradict_each_other_are_refused(overrides: list[str], start: str):
    with pytest.raises(ConfigError, match=f"^(2 problems\n1. )?{re.escape(start)}"):
        mini(*overrides)


@pytest.mark.parametrize(
    "override",
    [
        "optim.bnb_optimizer=true",
        "optim.ema.device=cpu",
        "rl.ref_model_device=cpu",
        "rl.algorithm=f5r",
        "eval.every_updates=5",
    ],
)
def test_what_a_model_in_shards_cannot_do_is_refused(override: str):
    assert sentence("optim.shard=true", override).startswith(f"optim.shard=true does not go with {override}: ")


def test_in_stage_1_a_model_in_shards_does_not_speak_and_in_stage_2_it_need_not():
    with pytest.raises(ConfigError, match=r"^optim\.shard=true does not go with ckpts\.log_samples=true: one process"):
        mini("optim.shard=true", "ckpts.log_samples=true")
    assert mini_rl("optim.shard=true", "ckpts.log_samples=true").optim.shard


def test_stage_1_refuses_the_objective_of_stage_2_and_says_who_runs_it():
    overrides = ["model.objective=grpo", "model.output_dist=gaussian", "model.use_rl_head=true"]
    with pytest.raises(ConfigError, match=r"model\.objective=grpo is stage 2; run f5-tts train-rl"):
        mini(*overrides)


def test_both_stages_may_validate_but_not_with_a_sharded_model():
    for stage in (mini, mini_rl):
        assert stage("eval.every_updates=5").eval.every_updates == 5
        with pytest.raises(ConfigError, match=r"optim\.shard=true does not go with eval\.every_updates=5"):
            stage("eval.every_updates=5", "optim.shard=true")


def test_a_run_that_stops_by_its_judge_needs_validations():
    with pytest.raises(
        ConfigError, match=r"^rl\.stop_when=judge_worse needs validations.*eval\.every_updates is 0; set"
    ):
        mini_rl("rl.stop_when=judge_worse", "eval.every_updates=0")
    assert mini_rl("rl.stop_when=judge_worse", "eval.every_updates=20").rl.stop_when == "judge_worse"
    with pytest.raises(ConfigError, match=r"rl\.stop_when=never is not allowed; allowed: .*judge_worse"):
        mini_rl("rl.stop_when=never")


def test_checks_hold_for_a_config_changed_in_code_too():
    cfg = mini()
    cfg.optim.epochs = 0
    with pytest.raises(ConfigError, match=r"optim\.epochs=0 is not allowed"):
        check(cfg)


# --- synthesis ---

UPSTREAM = """
hydra:
  run:
    dir: ckpts/${model.name}_${model.mel_spec.mel_spec_type}/${now:%Y-%m-%d}
datasets: {name: Emilia_ZH_EN, batch_size_per_gpu: 38400}
optim: {epochs: 11}
model:
  name: E2TTS_Base
  tokenizer: pinyin
  tokenizer_path: null
  backbone: UNetT
  arch: {dim: 1024, depth: 24, heads: 16, ff_mult: 4, text_mask_padding: False, qk_norm: null, pe_attn_head: 1,
    attn_backend: torch, attn_mask_enabled: True, checkpoint_activations: False}
  mel_spec: {target_sample_rate: 24000, n_mel_channels: 100, hop_length: 256, win_length: 1024, n_fft: 1024,
    mel_spec_type: vocos}
  vocoder: {is_local: False, local_path: null}
ckpts: {logger: wandb, wandb_project: CFM-TTS, save_dir: "ckpts/${model.name}"}
"""


def own_file(folder: Path, text: str, *overrides: str):
    (folder / "own.yaml").write_text(text, encoding="utf-8")
    return compose_synthesis_config("F5TTS_v1_Base", list(overrides), str(folder / "own.yaml"))


@pytest.mark.parametrize("name", config_names())
def test_every_config_says_how_its_model_speaks(name: str):
    cfg = compose_config(name, [], RLTrainConfig if name.endswith(STAGE_2) else TrainConfig)
    speech = compose_synthesis_config(name, [])
    assert (speech.model, speech.infer) == (cfg.model, cfg.infer)


def test_a_config_file_of_upstream_is_the_published_model(tmp_path: Path):
    assert own_file(tmp_path, UPSTREAM) == compose_synthesis_config("E2TTS_Base", [])


def test_a_file_of_ones_own_may_build_on_a_config_and_say_how_to_speak(tmp_path: Path):
    text = "defaults: [F5TTS_Mini, _self_]\nmodel: {arch: {depth: 3}}\ninfer: {nfe_step: 9}\n"
    run = own_file(tmp_path, text, "infer.speed=2")
    assert (run.model.name, run.model.arch.depth, run.infer.nfe_step, run.infer.speed) == ("F5TTS_Mini", 3, 9, 2.0)
    assert run.infer.cfg_strength == compose_synthesis_config("F5TTS_Mini", []).infer.cfg_strength


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (UPSTREAM.replace("heads:", "heds:"), "unknown key model.arch.heds in {}: did you mean model.arch.heads?"),
        (UPSTREAM.replace("heads: 16", "heads: many"), "model.arch.heads in {} does not fit: it is a whole number, 1"),
        (UPSTREAM.replace("heads: 16", "heads: 0"), "model.arch.heads=0 is not allowed"),
        (UPSTREAM.replace("ckpts:", "ckpt:"), "unknown section ['ckpt'] in {}; known: datasets, model, "),
        ("model: {arch: 3}", "model.arch in {} does not fit: it is a section of keys"),
        ("model: {name: a}\ninfer: 3", "infer in {} does not fit: it is a section of keys"),
        ("defaults: [F5TTS_Mnii]\nmodel: {}", "no config is named F5TTS_Mnii: did you mean F5TTS_Mini?"),
        ("model: {name: a, tokenizer: char}", "model.arch.dim has no value"),
        ("- model", "{} has no section model"),
        ("model: [", "{} cannot be read as YAML: "),
    ],
)
def test_a_mistake_in_a_file_of_ones_own_names_key_and_file(tmp_path: Path, text: str, words: str):
    with pytest.raises(ConfigError) as caught:
        own_file(tmp_path, text)
    assert words.format(tmp_path / "own.yaml") in str(caught.value)


def test_a_config_file_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"no config file at gone\.yaml"):
        compose_synthesis_config("F5TTS_Mini", [], "gone.yaml")


def test_changing_a_config_leaves_the_given_one_as_it_is_and_checks():
    cfg = compose_synthesis_config("F5TTS_Mini", [])
    other = with_overrides(cfg, ["infer.seed=3"])
    assert (cfg.infer.seed, other.infer.seed, other.model) == (None, 3, cfg.model)
    with pytest.raises(ConfigError, match=r"infer\.speed=-1\.0 is not allowed; allowed: a number from 0\.01 on"):
        with_overrides(cfg, ["infer.speed=-1"])


# --- sections of a config ---


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.arch.dim=100"], "model.arch.dim=100 is not a multiple of 16"),
        (["model.arch.dim_head=7"], "model.arch.dim_head=7 is odd"),
        (["model.arch.text_dim=9"], "model.arch.text_dim=9 is odd"),
        (["model.vocoder.is_local=true", "model.vocoder.local_path=a"], "is for vocos alone"),
    ],
)
def test_sizes_that_no_network_can_have_are_refused_before_it_is_built(overrides: list[str], words: str):
    assert words in sentence(*overrides)


@pytest.mark.parametrize("text", ["defaults: 3", "defaults: [[a]]", "defaults: [F5TTS_Mini]\nmodel: {name: '${'}"])
def test_a_file_of_ones_own_that_makes_no_sense_is_a_sentence(tmp_path: Path, text: str):
    (tmp_path / "own.yaml").write_text(text if "model:" in text else f"{text}\nmodel: {{}}", encoding="utf-8")
    with pytest.raises(ConfigError):
        compose_synthesis_config("F5TTS_Mini", [], str(tmp_path / "own.yaml"))


# --- keys of other projects ---


@pytest.mark.parametrize("key", ABSENT_KEYS)
def test_a_key_of_the_fork_that_is_not_here_is_answered_with_what_is_so_here(key: str):
    assert sentence(f"{key}=1") == f"{key} is not a key here: {ABSENT_KEYS[key]}; leave it out"


@pytest.mark.parametrize("entry", FOREIGN_NAMES, ids=lambda entry: entry.names[0])
def test_a_name_of_another_project_is_a_key_of_ours_or_refused_with_the_difference(entry: ForeignName):
    for name in entry.names:
        if entry.difference:
            assert sentence(f"{name}=1").startswith(
                f"{name} ({entry.programs}) is {entry.key} here, and not the same: "
            )
        else:
            assert has_key(read_config("F5TTS_Mini_RL", RLTrainConfig), entry.key)


@pytest.mark.parametrize(
    "override, key, value",
    [
        ("rl.num_generations=16", "rl.group_size", 16),
        ("num_generations=16", "rl.group_size", 16),
        ("sample.num_steps=9", "rl.steps", 9),
        ("lr=3e-5", "optim.learning_rate", 3e-5),
        ("optim.lr=3e-5", "optim.learning_rate", 3e-5),
        ("scale_rewards=batch", "rl.advantage", "global_std"),
        ("rl.scale_rewards=False", "rl.advantage", "dr_grpo"),
        ("bf16=true", "optim.mixed_precision", "bf16"),
        ("report_to=none", "ckpts.logger", None),
        ("report_to=wandb", "ckpts.logger", "wandb"),
        ("output_dir=runs/mine", "ckpts.save_dir", "runs/mine"),
        ("lora_rank=8", "lora.rank", 8),
    ],
)
def test_a_setting_of_another_project_is_translated_and_said(override: str, key: str, value: object, capsys):
    found: object = mini_rl(override)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value
    assert f"is {key}=" in capsys.readouterr().err


def test_only_the_first_rank_says_what_was_translated(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert mini_rl("max_steps=7").optim.max_updates == 7
    assert capsys.readouterr().err == ""


def test_the_page_has_the_table_of_names():
    """Print the table with `python -c "from f5_tts.config import foreign; print(foreign.foreign_table())"`."""
    assert foreign_table() in (Path(__file__).parents[1] / "docs/coming_from.md").read_text("utf-8")


@pytest.mark.parametrize(
    "words, keys",
    [
        (["--rl.group_size=8"], "rl.group_size=8"),
        (["--num-generations", "8"], "rl.group_size=VALUE"),
        (["optim.seed=1", "--beta=1", "--output-dir=x"], "beta=1 ckpts.save_dir=x"),
    ],
)
def test_keys_written_as_options_are_answered_with_the_form_of_keys(words: list[str], keys: str):
    with pytest.raises(ConfigError, match=re.escape(f"keys are written without dashes, key=value: {keys}")):
        load_config(words, default="F5TTS_Mini_RL", schema=RLTrainConfig)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("F5TTS_RL", ["F5TTS_Base", "F5TTS_Base_RL"]),
        ("F5TTS_Base_RL", ["F5TTS_RL", "F5TTS_v1_Base"]),
        ("E2TTS_Base_RL", []),
        ("F5TTS_Mini", []),
    ],
)
def test_configs_whose_networks_have_the_same_tensors_and_compute_something_else(name: str, others: list[str]):
    assert look_alikes(asdict(compose_config(name, [], schema_of(name)).model)) == others
