"""A run's configuration: composed from `configs/*.yaml`, typed and checked here; values live in the YAML alone."""

from __future__ import annotations

import argparse
import difflib
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException, ValidationError

CONFIG_DIR = Path(__file__).parent / "configs"
Node = Any  # a config that OmegaConf holds; its schema checks it while it runs


class ConfigError(ValueError):
    """What is wrong with a run's configuration and what to type instead, in one sentence."""


# --- what a field may hold ---


@dataclass(frozen=True, slots=True)
class Allowed:
    """A test that a value of the right type must pass, and the words for both."""

    words: str
    test: Callable[[Any], bool]


def one_of(*names: str) -> Allowed:
    return Allowed(" or ".join(names), names.__contains__)


def some_recognisers(names: list[str]) -> bool:
    return bool(names) and set(names) <= {"pocketsphinx", "whisper"}


def is_range(pair: list[float]) -> bool:
    return len(pair) == 2 and 0 <= pair[0] <= pair[1] <= 1


Count = Annotated[int, Allowed("a whole number, 1 or more", lambda n: n >= 1)]
Natural = Annotated[int, Allowed("a whole number, 0 or more", lambda n: n >= 0)]
Amount = Annotated[float, Allowed("a number, 0 or more", lambda x: 0 <= x < math.inf)]
Positive = Annotated[float, Allowed("a number above 0", lambda x: 0 < x < math.inf)]
Speed = Annotated[float, Allowed("a number from 0.01 on", lambda x: 0.01 <= x < math.inf)]
Minutes = Annotated[float, Allowed("a number above 0 and at most 600", lambda x: 0 < x <= 600)]
Seed = Annotated[int, Allowed("a whole number from 0 to 2^31", lambda n: 0 <= n <= 2**31)]
Finite = Annotated[float, Allowed("a number", math.isfinite)]
Fraction = Annotated[float, Allowed("a number from 0 to 1", lambda x: 0 <= x <= 1)]
Sway = Annotated[float, Allowed("a number from -1 to 1", lambda x: -1 <= x <= 1)]
Range = Annotated[list[float], Allowed("[low, high] with 0 <= low <= high <= 1", is_range)]
Amounts = Annotated[list[float], Allowed("a list of numbers, each 0 or more", lambda xs: xs and min(xs) >= 0)]
PLAIN_WORDS = {bool: "true or false", float: "a number", str: "text", type(None): "null"}


def allowed_words(hint: Any) -> str:
    """What a field with this annotation may hold."""
    if get_origin(hint) is Annotated:
        return hint.__metadata__[0].words
    if get_origin(hint) in (Union, UnionType):
        return ", or ".join(allowed_words(option) for option in get_args(hint))
    return PLAIN_WORDS.get(hint, "a list of sections" if get_origin(hint) is list else "a section of keys")


# --- sections; what each key means stands beside its value, in configs/_base.yaml and configs/_rl.yaml ---


@dataclass(kw_only=True, slots=True)
class DatasetsConfig:
    name: str
    batch_size_per_gpu: Count
    batch_size_type: Annotated[str, one_of("frame", "sample")]
    max_samples: Natural
    num_workers: Natural
    pair_speakers: bool


@dataclass(kw_only=True, slots=True)
class ArchConfig:
    dim: Count
    depth: Count
    heads: Count
    dim_head: Count
    ff_mult: Count
    text_dim: Count | None
    conv_layers: Natural
    text_mask_padding: bool
    text_embedding_average_upsampling: bool
    qk_norm: Annotated[str, one_of("rms_norm")] | None
    pe_attn_head: Count | None
    attn_mask_enabled: bool
    long_skip_connection: bool
    skip_connect_type: Annotated[str, one_of("concat", "add", "none")]
    dropout: Fraction
    checkpoint_activations: bool


@dataclass(kw_only=True, slots=True)
class MelSpecConfig:
    target_sample_rate: Count
    n_mel_channels: Count
    hop_length: Count
    win_length: Count
    n_fft: Count
    mel_spec_type: Annotated[str, one_of("vocos", "bigvgan")]

    @property
    def frames_per_second(self) -> float:
        return self.target_sample_rate / self.hop_length


@dataclass(kw_only=True, slots=True)
class VocoderConfig:
    name: Annotated[str, one_of("vocos", "griffin_lim")]
    iterations: Count
    is_local: bool
    local_path: str | None


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    name: str
    tokenizer: Annotated[str, one_of("custom", "char", "pinyin", "byte")]
    tokenizer_path: str | None
    backbone: Annotated[str, one_of("DiT", "UNetT")]
    output_dist: Annotated[str, one_of("deterministic", "gaussian")]
    objective: Annotated[str, one_of("mse", "gaussian_nll", "grpo")]
    use_rl_head: bool
    sample_from_dist: bool
    nll_t2: Amount
    warmup_scope: Annotated[str, one_of("full", "head")]
    ln_sigma_init: Finite
    time_sampling: Annotated[str, one_of("uniform", "sway")]
    frac_lengths_mask: Range
    audio_drop_prob: Fraction
    cond_drop_prob: Fraction
    arch: ArchConfig
    mel_spec: MelSpecConfig
    vocoder: VocoderConfig


@dataclass(kw_only=True, slots=True)
class EmaConfig:
    beta: Fraction
    update_after_step: Natural
    update_every: Count
    power: Amount


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    epochs: Count
    max_updates: Count | None
    learning_rate: Amount
    num_warmup_updates: Natural
    grad_accumulation_steps: Count
    max_grad_norm: Positive
    bnb_optimizer: bool
    mixed_precision: Annotated[str, one_of("auto", "no", "bf16")]
    seed: Natural
    ema: EmaConfig


@dataclass(kw_only=True, slots=True)
class CkptsConfig:
    save_dir: str
    save_per_updates: Count
    last_per_updates: Count
    keep_last_n_checkpoints: Annotated[int, Allowed("a whole number, -1 or more", lambda n: n >= -1)]
    log_samples: bool
    logger: Annotated[str, one_of("wandb", "tensorboard")] | None


@dataclass(kw_only=True, slots=True)
class EvalConfig:
    steps: Count
    sway_sampling_coef: Sway | None
    cfg_strengths: Amounts
    batch_size: Count
    takes: Count
    dev_takes: Count
    seed: Natural
    items_dir: str
    ckpt: str | None
    out: str | None
    known: str | None
    recognisers: Annotated[list[str], Allowed("a list of pocketsphinx, whisper", some_recognisers)]
    num_wavs: Count


@dataclass(kw_only=True, slots=True)
class InferConfig:
    nfe_step: Count
    cfg_strength: Amount
    sway_sampling_coef: Sway | None
    ode_method: Annotated[str, one_of("euler", "midpoint")]
    epss: bool
    speed: Speed
    target_rms: Positive
    cross_fade_duration: Amount
    fix_duration: Minutes | None
    batch_size: Count
    seed: Seed | None


@dataclass(kw_only=True, slots=True)
class WindowConfig:
    size: Count
    t_range: Range
    schedule: Annotated[str, one_of("fixed", "random")]


@dataclass(kw_only=True, slots=True)
class SdeConfig:
    a: Amount


@dataclass(kw_only=True, slots=True)
class NftConfig:
    num_times: Count


@dataclass(kw_only=True, slots=True)
class ProviderConfig:
    name: str
    weight: Finite
    floor: Amount
    config: dict[str, Any]


@dataclass(kw_only=True, slots=True)
class RewardsConfig:
    providers: list[ProviderConfig]


@dataclass(kw_only=True, slots=True)
class RLConfig:
    algorithm: Annotated[str, one_of("gaussian_grpo", "flow_grpo", "nft")]
    group_size: Count | None
    repeat_count: Count
    mini_repeat_count: Count
    steps: Count
    cfg_strength: Amount
    sway_sampling_coef: Sway | None
    kl_weight: Amount
    temperature: Positive
    train_sigma: bool
    shared_noise: bool
    window: WindowConfig
    sde: SdeConfig
    nft: NftConfig
    credit: Annotated[str, one_of("sample", "word")]
    prompt_frac_range: Range | None
    prompt_length_mode: Annotated[str, one_of("min", "per_sample")]
    clip_low: Amount
    clip_high: Amount
    advantage_clip: Amount
    rewards: RewardsConfig


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """A run of stage 1, or of ordinary training."""

    datasets: DatasetsConfig
    model: ModelConfig
    optim: OptimConfig
    ckpts: CkptsConfig
    eval: EvalConfig
    infer: InferConfig


@dataclass(kw_only=True, slots=True)
class RLRunConfig(RunConfig):
    """A run of stage 2."""

    rl: RLConfig


@dataclass(kw_only=True, slots=True)
class SpeechConfig:
    """What a model needs to speak: these two sections of a run."""

    model: ModelConfig
    infer: InferConfig


Run = TypeVar("Run", bound=RunConfig)
Config = TypeVar("Config", RunConfig, RLRunConfig, SpeechConfig)


# --- values that follow from several keys ---


def dataset_dir(cfg: RunConfig) -> Path:
    """Where the run's data set lies, relative to the current directory."""
    return Path("data") / f"{cfg.datasets.name}_{cfg.model.tokenizer}"


def vocab_path(cfg: RunConfig) -> Path:
    """The run's vocabulary file."""
    return Path(cfg.model.tokenizer_path) if cfg.model.tokenizer_path else dataset_dir(cfg) / "vocab.txt"


def group_size(rl: RLConfig) -> int:
    """How many samples of one prompt are compared with each other."""
    return rl.group_size or rl.repeat_count * rl.mini_repeat_count


# --- loading ---


def load_run(argv: list[str], *, default: str, schema: type[Run]) -> Run:
    """The run that a command line asks for: `-cn NAME` picks the config, `key=value` changes it.

    Raises ConfigError for anything that cannot be run as written; `-h` prints usage and exits.
    """
    args = command_line(default).parse_intermixed_args(argv)
    cfg = compose_run(args.config_name, args.overrides, schema)
    check_available(cfg)
    return cfg


def compose_run(name: str, overrides: list[str], schema: type[Run]) -> Run:
    """The config `name` with `overrides` applied, typed as `schema`; every key and value checked."""
    name = name.removesuffix(".yaml")
    return finished(read_config(name, schema), overrides, name, schema)


def compose_speech(name: str, overrides: list[str], file: str | None = None) -> SpeechConfig:
    """What the config `name` says of speaking, or a YAML `file` instead, with `overrides` applied; checked.

    A file may be one of upstream F5-TTS: `model.arch.attn_backend` (how attention is computed, not what) and all
    sections but `model` and `infer` are for training and are not read. Keys that it leaves out are as in the configs
    that its `defaults` name, else as in _base.yaml.
    """
    name = name.removesuffix(".yaml")
    cfg = OmegaConf.structured(SpeechConfig)
    if file is None:
        require_config(name)
        cfg = OmegaConf.merge(cfg, speech_sections(read_yaml(name)))
    else:
        values = read_file(Path(file))
        cfg = OmegaConf.merge(cfg, *[speech_sections(base) for base in bases_of(values)])
        cfg = add_file(cfg, values, file)
    run = finished(cfg, overrides, file or name, SpeechConfig)
    check_available(run)
    return run


def changed(cfg: SpeechConfig, overrides: list[str]) -> SpeechConfig:
    """A config with `overrides` applied; the one given stays as it is."""
    return finished(OmegaConf.structured(cfg), overrides, cfg.model.name, SpeechConfig)


def finished(cfg: Node, overrides: list[str], name: str, schema: type[Config]) -> Config:
    """The typed object of a config, overrides applied, every key and value checked."""
    for override in overrides:
        apply_override(cfg, override, name, schema)
    run = to_object(cfg)
    check(run)
    return run


def config_names() -> list[str]:
    """The names that `-cn` takes."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.yaml") if not path.stem.startswith("_"))


class CommandLine(argparse.ArgumentParser):
    """argparse, with its errors as ConfigError."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; usage: {self.usage}; -h says more")


def command_line(default: str) -> CommandLine:
    keys = f"Every key with its meaning, unit and range: _base.yaml and _rl.yaml in {CONFIG_DIR}"
    parser = CommandLine(usage="[-cn NAME] [key=value ...]", epilog=keys, allow_abbrev=False)
    parser.add_argument(
        "-cn", "--config-name", metavar="NAME", default=default, help=f"{', '.join(config_names())}; default: {default}"
    )
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="e.g. optim.epochs=2")
    return parser


def read_config(name: str, schema: type[RunConfig]) -> Node:
    """The YAML of `name` merged into the types of `schema`; the values are the file's own."""
    require_config(name)
    values = read_yaml(name)
    sections = set(get_type_hints(schema))
    if set(values) != sections:
        fitting = [other for other in config_names() if set(read_yaml(other)) == sections]
        odd = ", ".join(sorted(str(key) for key in sections ^ set(values)))
        found = "has a section" if odd in values else "has no section"
        raise ConfigError(f"config {name} {found} {odd} and is not for this command; it takes {' or '.join(fitting)}")
    return OmegaConf.merge(OmegaConf.structured(schema), values)


def require_config(name: str) -> None:
    if name not in config_names():
        hint = nearest(name, config_names(), cutoff=0.6)
        raise ConfigError(f"no config is named {name}{hint}; known: {', '.join(config_names())}")


@cache
def read_yaml(name: str) -> Node:
    """The values of a config and of those it builds on; shared, so not to be changed."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        values = compose(name)
    OmegaConf.set_struct(values, False)  # the schema decides which keys exist; a provider's config is open
    return values


def read_file(path: Path) -> dict[str, Any]:
    """A config file outside the package; ConfigError where it is none, or has a section that no config has."""
    if not path.is_file():
        raise ConfigError(f"no config file at {path}")
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        raise ConfigError(f"{path} has no section model; write one like that of {CONFIG_DIR / 'F5TTS_v1_Base.yaml'}")
    sections = {str(key): value for key, value in values.items()}
    known = [*get_type_hints(RLRunConfig), "hydra", "defaults"]
    odd = [key for key in sections if key not in known]
    require(not odd, f"unknown section {odd} in {path}; known: {', '.join(known)}")
    return sections


def bases_of(values: dict[str, Any]) -> list[Node]:
    """The configs that a config file builds on."""
    names = values.get("defaults", ["_base"])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"defaults: {names} is not a list of config names, such as [F5TTS_v1_Base, _self_]")
    for name in names:
        if not name.startswith("_"):
            require_config(name)
    return [read_yaml(name) for name in names if name == "_base" or not name.startswith("_")]


def speech_sections(values: Node) -> dict[str, Node]:
    return {section: values[section] for section in get_type_hints(SpeechConfig) if section in values}


def add_file(cfg: Node, values: dict[str, Any], file: str) -> Node:
    """`cfg` with what a config file says of speaking."""
    arch = values["model"].get("arch")
    if isinstance(arch, dict):
        arch.pop("attn_backend", None)
    try:
        OmegaConf.merge(OmegaConf.structured(SpeechConfig), speech_sections(values))  # names the key of any error
        return OmegaConf.merge(cfg, speech_sections(values))
    except ConfigKeyError as error:
        raise unknown_key(cfg, key_in(error, ""), file) from error
    except ValidationError as error:
        key = key_in(error, "")
        raise ConfigError(f"{key} in {file} does not fit: it is {allowed_words(type_at(SpeechConfig, key))}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{file} cannot be read: {str(error).partition(chr(10))[0]}") from error


def apply_override(cfg: Node, override: str, name: str, schema: type[Config]) -> None:
    """Set one `key=value` in place; hydra's `+key` and `++key` mean the same, since every key already exists."""
    if override.startswith("~"):
        raise ConfigError(f"{override} would remove a key, but every key needs a value; to change it write key=value")
    key, equals, text = override.lstrip("+").partition("=")
    if not equals:
        raise ConfigError(f"'{override}' has no '='; write key=value, e.g. optim.epochs=2")
    if not has_key(cfg, key, schema):
        raise unknown_key(cfg, key, name)
    try:
        OmegaConf.update(cfg, key, parse_value(key, text))
    except ConfigKeyError as error:
        raise unknown_key(cfg, key_in(error, key), name) from error
    except ValidationError as error:
        place = re.sub(r"\.\d+$", "", key_in(error, key))  # the list, not its entry
        raise ConfigError(f"{key}={text} does not fit: {place} is {allowed_words(type_at(schema, place))}") from error


def parse_value(key: str, text: str) -> Any:
    """The value that `key=text` means in hydra's grammar."""
    try:
        parsed = OverridesParser.create().parse_override(f"{key}={text}")
    except HydraException as error:
        raise ConfigError(f"could not read {key}={text}; put the value into quotes: '{key}=\"{text}\"'") from error
    if parsed.is_sweep_override():
        raise ConfigError(f"{key}={text} names several values and a run takes one; a list is written {key}=[{text}]")
    return parsed.value()


def to_object(cfg: Node) -> Any:
    """The dataclasses, interpolations resolved."""
    try:
        return OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        key, missing = key_in(error, ""), isinstance(error, MissingMandatoryValue)
        raise ConfigError(f"{key} {'has no value' if missing else 'cannot be resolved'}; write {key}=...") from error


def key_in(error: OmegaConfBaseException, key: str) -> str:
    """The key an error is about, inside the value given for `key`; list entries as in an override."""
    found = re.sub(r"\[(\d+)\]", r".\1", error.full_key or "")
    return found if found.startswith(key) else f"{key}.{found}"


# --- keys ---


def has_key(cfg: Node, key: str, schema: type[Config]) -> bool:
    """Whether the config has this key, or a section there that takes any (a provider's own `config`)."""
    paths, parent = key_paths(cfg), parent_key(key)
    return key in paths or (parent in paths and get_origin(type_at(schema, parent)) is dict)


def key_paths(cfg: Any, prefix: str = "") -> list[str]:
    """Every section and every key as a dotted path; list entries by their index."""
    node = OmegaConf.to_container(cfg) if OmegaConf.is_config(cfg) else cfg
    if isinstance(node, list) and any(isinstance(item, dict) for item in node):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return []
    paths = []
    for name, value in node.items():
        paths += [f"{prefix}{name}", *key_paths(value, f"{prefix}{name}.")]
    return paths


def unknown_key(cfg: Node, key: str, name: str) -> ConfigError:
    """The error for a key that does not exist, with the most similar one, else its neighbours."""
    paths = key_paths(cfg)
    around = {path for path in map(parent_key, paths) if key.startswith(f"{path}.")}
    hint = nearest(key, [path for path in paths if path not in around], cutoff=0.75)
    if not hint:
        section = max(around, key=len, default="")
        keys = [path for path in paths if parent_key(path) == section]
        hint = f"; known there: {', '.join(keys)}"
    return ConfigError(f"unknown key {key} in {name}{hint}")


def parent_key(key: str) -> str:
    return key.rpartition(".")[0]


def nearest(word: str, known: list[str], cutoff: float) -> str:
    """': did you mean X?' for the most similar known word, or nothing."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return f": did you mean {found[0]}?" if found else ""


def type_at(hint: Any, key: str) -> Any:
    """The annotation of a key, reached from the schema; Any below a section that takes anything."""
    for part in key.split("."):
        if get_origin(hint) is list:
            hint = get_args(hint)[0]
            if part.isdigit():
                continue
        hint = get_type_hints(hint, include_extras=True)[part] if is_dataclass(hint) else Any
    return hint


# --- checks ---


def check(cfg: RunConfig | SpeechConfig) -> None:
    """Every value is allowed, and the keys agree with each other."""
    for key, value, hint in typed_values(cfg):
        rules = [rule for option in (hint, *get_args(hint)) for rule in getattr(option, "__metadata__", ())]
        fits = value is None or all(rule.test(value) for rule in rules)
        require(fits, f"{key}={shown(value)} is not allowed; allowed: {allowed_words(hint)}")
    check_model(cfg.model)
    if isinstance(cfg, RLRunConfig):
        check_rl(cfg)
    elif isinstance(cfg, RunConfig):
        require(
            cfg.model.objective != "grpo",
            "model.objective=grpo is stage 2; run python -m f5_tts.train.train_rl with an *_RL config",
        )


def require(fits: bool, sentence: str) -> None:
    if not fits:
        raise ConfigError(sentence)


def shown(value: Any) -> str:
    """A value as one would type it."""
    return json.dumps(value, default=str).strip('"')


def typed_values(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Key, value and annotation of every field, those of inner sections included."""
    for name, hint in get_type_hints(type(section), include_extras=True).items():
        key, value = f"{prefix}{name}", getattr(section, name)
        if is_dataclass(value):
            yield from typed_values(value, f"{key}.")
        elif isinstance(value, list) and any(map(is_dataclass, value)):
            for index, item in enumerate(value):
                yield from typed_values(item, f"{key}.{index}.")
        else:
            yield key, value, hint


def check_model(model: ModelConfig) -> None:
    """Keys of model.* that contradict each other."""
    arch, mel = model.arch, model.mel_spec
    gaussian = model.output_dist == "gaussian"
    require(
        gaussian == (model.objective in ("gaussian_nll", "grpo")),
        f"model.objective={model.objective} does not go with model.output_dist={model.output_dist}; "
        "mse needs deterministic, gaussian_nll and grpo need gaussian",
    )
    require(
        gaussian == model.use_rl_head,
        f"model.use_rl_head={shown(model.use_rl_head)} does not go with model.output_dist={model.output_dist}; "
        "gaussian needs true, deterministic needs false",
    )
    require(
        gaussian or not model.sample_from_dist,
        "model.sample_from_dist=true has nothing to draw from with model.output_dist=deterministic; set it to false",
    )
    require(
        arch.text_mask_padding or not arch.text_embedding_average_upsampling,
        "model.arch.text_embedding_average_upsampling=true needs model.arch.text_mask_padding=true, "
        "to know where a text ends",
    )
    require(
        arch.pe_attn_head is None or arch.pe_attn_head <= arch.heads,
        f"model.arch.pe_attn_head={arch.pe_attn_head} is more than model.arch.heads={arch.heads}; "
        "make it heads or less, or null for all",
    )
    require(arch.dim % 16 == 0, f"model.arch.dim={arch.dim} is not a multiple of 16, the groups of its convolutions")
    require(arch.dim_head % 2 == 0, f"model.arch.dim_head={arch.dim_head} is odd; positions turn pairs of channels")
    text_dim = mel.n_mel_channels if arch.text_dim is None else arch.text_dim
    require(
        arch.conv_layers == 0 or text_dim % 2 == 0,
        f"model.arch.text_dim={text_dim} is odd; positions are pairs of a sine and a cosine",
    )
    require(
        model.backbone != "UNetT" or arch.depth % 2 == 0,
        f"model.arch.depth={arch.depth} has no two halves to join, as model.backbone=UNetT does; make it even",
    )
    require(
        mel.win_length <= mel.n_fft,
        f"model.mel_spec.win_length={mel.win_length} is more than model.mel_spec.n_fft={mel.n_fft}; "
        "make it n_fft or less",
    )
    require(
        model.vocoder.is_local == bool(model.vocoder.local_path),
        f"model.vocoder.is_local={shown(model.vocoder.is_local)} does not go with model.vocoder.local_path="
        f"{shown(model.vocoder.local_path)}; a vocoder in a folder needs true and the folder, the hub's false and null",
    )
    require(
        model.vocoder.name == "vocos" or not model.vocoder.is_local,
        f"model.vocoder.is_local=true is for vocos alone; model.vocoder.name={model.vocoder.name} has no weights",
    )


def check_rl(cfg: RLRunConfig) -> None:
    """Keys of stage 2 that contradict each other, or ask for what cannot be done."""
    rl, prompt = cfg.rl, cfg.rl.prompt_frac_range
    require(
        cfg.model.objective == "grpo",
        f"model.objective={cfg.model.objective} is not stage 2; train_rl needs model.objective=grpo, "
        "the other objectives run with python -m f5_tts.train.train",
    )
    require(
        group_size(rl) % rl.mini_repeat_count == 0,
        f"rl.group_size={rl.group_size} is not a multiple of rl.mini_repeat_count={rl.mini_repeat_count}; "
        "change one of them, or set rl.group_size=null",
    )
    require(
        rl.algorithm != "nft" or not rl.shared_noise,
        "rl.algorithm=nft adds no noise on the way, so with rl.shared_noise=true all samples of a group would be the "
        "same; set it to false",
    )
    require(
        prompt is not None or cfg.datasets.pair_speakers,
        "rl.prompt_frac_range=null needs datasets.pair_speakers=true: items have no prompt of their own without it; "
        "or give a range, e.g. rl.prompt_frac_range=[0.1,0.3]",
    )
    require(
        prompt is None or prompt[1] < 1,
        f"rl.prompt_frac_range={shown(prompt)} may leave nothing to speak; let it end below 1",
    )
    require(
        prompt is None or not cfg.datasets.pair_speakers,
        f"rl.prompt_frac_range={shown(prompt)} cuts a clip, but datasets.pair_speakers=true makes items that bring "
        "their own prompt; set the range to null or pair_speakers to false",
    )
    require(
        bool(rl.rewards.providers), "rl.rewards.providers is empty; name at least one reward, as F5TTS_RL.yaml does"
    )


READY = {
    "model.sample_from_dist": False,
    "optim.bnb_optimizer": False,
    "ckpts.log_samples": False,
    "ckpts.logger": None,
}


def check_available(cfg: RunConfig | SpeechConfig) -> None:
    """The run asks for nothing that this release would pass over in silence."""
    for key, ready in READY.items():
        if not hasattr(cfg, key.partition(".")[0]):
            continue
        value = attrgetter(key)(cfg)
        require(value == ready, f"{key}={shown(value)} comes with a later release; until then use {key}={shown(ready)}")
