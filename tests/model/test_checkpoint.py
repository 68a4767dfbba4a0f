from __future__ import annotations

import pickle
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig, TrainConfig
from f5_tts.data.tokenizer import EMILIA_VOCAB, Vocabulary, read_vocabulary
from f5_tts.files import write_atomically
from f5_tts.model.build import build_model
from f5_tts.model.checkpoint import (
    Checkpoint,
    ModelSpec,
    check_spec,
    export_weights,
    find_checkpoint,
    load_weights,
    numbered_checkpoints,
    published_tensors,
    read_checkpoint,
    write_checkpoint,
)

HEAD = "transformer.proj_out_ln_sig."
FREQUENCIES = "transformer.rotary_embed.inv_freq"


class MakesFolder:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.mkdir, (self.path,)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


def nothing_said(said: str) -> None:
    raise AssertionError(f"not to be said: {said}")


# --- finding a checkpoint ---


def test_the_last_checkpoint_comes_before_numbered_and_pretrained_ones(tmp_path):
    touch(tmp_path, "model_last.pt", "model_100.pt", "pretrained_base.safetensors")
    assert find_checkpoint(tmp_path, pretrained=True) == tmp_path / "model_last.pt"


def test_numbered_checkpoints_go_by_number_not_by_letter(tmp_path):
    touch(tmp_path, "model_100.pt", "model_90.pt", "model_9.pt", "pretrained_base.pt")
    assert find_checkpoint(tmp_path, pretrained=True) == tmp_path / "model_100.pt"
    assert [path.name for path in numbered_checkpoints(tmp_path)] == ["model_9.pt", "model_90.pt", "model_100.pt"]


def test_of_several_pretrained_files_none_is_taken_in_silence(tmp_path):
    touch(tmp_path, "pretrained_a.safetensors", "pretrained_b.pt", "pretrained_c.txt")
    with pytest.raises(ValueError, match=r"has pretrained_a\.safetensors, pretrained_b\.pt, and a run starts from one"):
        find_checkpoint(tmp_path, pretrained=True)
    assert find_checkpoint(tmp_path, pretrained=False) is None
    touch(tmp_path, "model_3.pt")
    assert find_checkpoint(tmp_path, pretrained=True) == tmp_path / "model_3.pt"


@pytest.mark.parametrize("name", ["pretrained_base.pt", "pretrained_base.safetensors"])
def test_a_pretrained_file_is_taken_only_where_it_may_be(name, tmp_path):
    touch(tmp_path, name)
    assert find_checkpoint(tmp_path, pretrained=True) == tmp_path / name
    assert find_checkpoint(tmp_path, pretrained=False) is None


def test_other_files_and_folders_are_no_checkpoints(tmp_path):
    touch(tmp_path, "model_.pt", "model_12b.pt", "model_12.pt.old", ".model_3.pt.part", "pretrained_a.txt", "base.pt")
    (tmp_path / "model_last.pt").mkdir()
    assert find_checkpoint(tmp_path, pretrained=True) is None
    assert find_checkpoint(tmp_path / "not there", pretrained=True) is None


# --- reading a checkpoint ---


def test_a_training_checkpoint_comes_back_as_it_was_written(golden_model, tmp_path):
    model, path = golden_model("dit"), tmp_path / "new folder" / "model_7.pt"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    torch.stack([p.square().sum() for p in model.parameters()]).sum().backward()
    optimizer.step()
    run = {"optimizer_state_dict": optimizer.state_dict(), "objective": "gaussian_nll", "update": 7}
    write_checkpoint(path, {"model_state_dict": model.state_dict(), "ema_model_state_dict": {}, **run})

    result = read_checkpoint(path)
    torch.testing.assert_close(result.weights, dict(model.state_dict()), atol=0, rtol=0)
    assert result.path == path and result.has_head
    assert result.payload["update"] == 7 and result.payload["objective"] == "gaussian_nll"
    moments = result.payload["optimizer_state_dict"]["state"][0]
    torch.testing.assert_close(moments, optimizer.state_dict()["state"][0], atol=0, rtol=0)


def test_a_training_checkpoint_gives_its_raw_weights_not_their_average(tmp_path):
    raw, average = {"transformer.a": torch.ones(1)}, {"ema_model.transformer.a": torch.zeros(1)}
    write_checkpoint(tmp_path / "a.pt", {"model_state_dict": raw, "ema_model_state_dict": average})
    result = read_checkpoint(tmp_path / "a.pt")
    assert result.weights["transformer.a"] == 1
    assert result.payload["ema_model_state_dict"].keys() == average.keys()


def published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as published files hold them, with counters of the EMA and buffers of an old mel."""
    extra = {
        "initted": torch.tensor(True),
        "step": torch.tensor(0),
        "ema_model.mel_spec.mel_stft.window": torch.ones(3),
    }
    return {f"ema_model.{name}": value for name, value in weights.items()} | extra


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_published_files_load_without_their_prefix_counters_and_mel_buffers(suffix, golden_model, tmp_path):
    model, path = golden_model("dit_v1"), tmp_path / f"pretrained.{suffix}"
    tensors = published(dict(model.state_dict()))
    if suffix == "pt":
        torch.save({"ema_model_state_dict": tensors}, path)
    else:
        save_file(tensors, path)
    torch.testing.assert_close(read_checkpoint(path).weights, dict(model.state_dict()), atol=0, rtol=0)


WRAPPED = {  # prefix in the file -> what is said of it
    "module.": "module. (DistributedDataParallel)",
    "_orig_mod.": "_orig_mod. (torch.compile)",
    "module._orig_mod.": "module. (DistributedDataParallel), _orig_mod. (torch.compile)",
    "ema_model._orig_mod.module.": "ema_model. (EMA), _orig_mod. (torch.compile), module. (DistributedDataParallel)",
    "online_model.": "online_model. (EMA)",
    "": "",
}


@pytest.mark.parametrize("kind", ["model_state_dict", "ema_model_state_dict", "bare"])
@pytest.mark.parametrize("prefix", WRAPPED)
def test_wrappers_are_left_out_of_names_and_said(prefix, kind, golden_model, tmp_path):
    model, messages = golden_model("dit_v1"), []
    named = {f"{prefix}{name}": value + 1 for name, value in model.state_dict().items()}
    torch.save(named if kind == "bare" else {kind: named}, tmp_path / "a.pt")
    expected = {name: value + 1 for name, value in model.state_dict().items()}
    load_weights(model, read_checkpoint(tmp_path / "a.pt"), log=messages.append)
    assert (
        messages
        == [
            f"{tmp_path / 'a.pt'} was saved from inside a wrapper: the prefixes {WRAPPED[prefix]} are left "
            "out of its names"
        ][: bool(prefix)]
    )
    torch.testing.assert_close(dict(model.state_dict()), expected, atol=0, rtol=0)


def test_of_an_average_beside_the_model_that_it_is_of_the_average_counts(tmp_path):
    both = {"ema_model.transformer.a": torch.ones(1), "online_model.transformer.a": torch.zeros(1)}
    torch.save({"ema_model_state_dict": both}, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt").weights["transformer.a"] == 1


def test_the_first_bytes_tell_the_format_not_the_name(golden_model, tmp_path):
    weights = dict(golden_model("dit_v1").state_dict())
    save_file(published(weights), tmp_path / "a.pt")
    torch.save({"model_state_dict": weights}, tmp_path / "b.safetensors")
    for name in ("a.pt", "b.safetensors"):
        torch.testing.assert_close(read_checkpoint(tmp_path / name).weights, weights, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda name: f"generator.{name}", "the prefix 'generator.' of them makes the difference"),
        (lambda name: name.removeprefix("transformer."), "the prefix 'transformer.' of those of this model makes the"),
        (lambda name: f"x{len(name)}.{name}", "it is the file of another kind of model"),
    ],
)
def test_other_names_are_not_blamed_on_the_config(change, cause, golden_model, tmp_path):
    model = golden_model("dit_v1")
    named = {change(name): value for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"none of its tensors has a name of this model; {cause}"):
        load_weights(model, checkpoint(tmp_path, named), log=nothing_said)


def test_weights_come_back_in_single_precision(tmp_path):
    write_checkpoint(tmp_path / "a.pt", {"model_state_dict": {"transformer.a": torch.ones(2, dtype=torch.bfloat16)}})
    assert read_checkpoint(tmp_path / "a.pt").weights["transformer.a"].dtype == torch.float32


# --- exported weights ---


def checkpoint(tmp_path: Path, weights: dict[str, Tensor]) -> Checkpoint:
    write_checkpoint(tmp_path / "a.pt", {"model_state_dict": weights})
    return read_checkpoint(tmp_path / "a.pt")


def bare(weights: dict[str, Tensor]) -> Checkpoint:
    return Checkpoint(path=Path("model_last.pt"), weights=weights, payload={})


def test_exported_weights_are_named_as_published_ones_and_leave_the_head_out(golden_model, tmp_path):
    weights, path = golden_model("dit").state_dict(), tmp_path / "out" / "model.safetensors"
    export_weights(checkpoint(tmp_path, weights), path, torch.float16)
    tensors = load_file(path)
    assert tensors["initted"].dtype == torch.bool and tensors["step"].dtype == torch.int64
    names = {f"ema_model.{name}" for name in weights if not name.startswith(HEAD)}
    assert tensors.keys() == names | {"initted", "step"}
    assert tensors["ema_model.transformer.proj_out.weight"].dtype == torch.float16


def test_exported_weights_come_back_rounded_to_the_chosen_precision(golden_model, tmp_path):
    model = golden_model("dit_v1")
    with torch.no_grad():
        model.transformer.proj_out.weight.mul_(1.2345)
    export_weights(checkpoint(tmp_path, model.state_dict()), tmp_path / "model.safetensors", torch.bfloat16)
    result = read_checkpoint(tmp_path / "model.safetensors")
    rounded = {name: p.detach().bfloat16().float() for name, p in model.named_parameters()}
    assert result.payload.keys() <= {"ema_model_state_dict"}
    torch.testing.assert_close({name: result.weights[name] for name in rounded}, rounded, atol=0, rtol=0)


def test_a_half_precision_export_keeps_the_rotary_frequencies_exact(golden_model, tmp_path):
    """Compare without tolerance: an angle is frames times frequency.

    Rounding to half precision would shift it by radians at the end of a long clip.
    """
    model = golden_model("dit_v1")
    export_weights(checkpoint(tmp_path, model.state_dict()), tmp_path / "model.safetensors", torch.float16)
    result = read_checkpoint(tmp_path / "model.safetensors").weights[FREQUENCIES]
    torch.testing.assert_close(result, model.state_dict()[FREQUENCIES], atol=0, rtol=0)


# --- loading weights into a model ---


def test_weights_that_fit_are_loaded_without_a_word(golden_model, tmp_path):
    source, target = golden_model("dit"), golden_model("dit")
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.zero_()
    load_weights(target, checkpoint(tmp_path, source.state_dict()), log=nothing_said)
    torch.testing.assert_close(target.state_dict(), source.state_dict(), atol=0, rtol=0)


def test_a_missing_gaussian_head_stays_as_it_was_and_that_is_said(golden_model, tmp_path):
    model, messages = golden_model("dit"), []
    head = {name: value.clone() for name, value in model.state_dict().items() if name.startswith(HEAD)}
    body = {name: torch.zeros_like(value) for name, value in model.state_dict().items() if name not in head}
    load_weights(model, checkpoint(tmp_path, body), messages.append)
    assert messages == [f"{tmp_path / 'a.pt'} has no Gaussian head: it starts at model.ln_sigma_init"]
    torch.testing.assert_close(dict(model.state_dict()), body | head, atol=0, rtol=0)


def test_a_gaussian_head_too_many_is_left_out_and_that_is_said(golden_model, tmp_path):
    model, messages = golden_model("dit_v1"), []
    head = {f"{HEAD}weight": torch.zeros(20, 32), f"{HEAD}bias": torch.zeros(20)}
    load_weights(model, checkpoint(tmp_path, dict(model.state_dict()) | head), messages.append)
    assert len(messages) == 1
    assert "has a Gaussian head, which this deterministic model leaves out" in messages[0]


def test_weights_of_another_architecture_are_refused_with_file_key_and_both_shapes(golden_model, tmp_path):
    model, key = golden_model("dit_v1"), "transformer.proj_out.weight"
    other = dict(model.state_dict()) | {key: torch.zeros(100, 32)}
    with pytest.raises(ValueError) as error:
        load_weights(model, checkpoint(tmp_path, other), log=nothing_said)
    assert f"{tmp_path / 'a.pt'} does not fit this model (1 tensors differ" in str(error.value)
    assert f"{key}: [20, 32] here, [100, 32] in the file" in str(error.value)
    assert "model.arch" in str(error.value)


def test_a_shallower_models_weights_are_refused_and_the_model_keeps_its_own(golden_model, tmp_path):
    model, shallower = golden_model("dit_v1"), golden_model("dit_avgup").state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"transformer_blocks\.2\.attn\S+: \[\d+.*\] here, nothing in the file"):
        load_weights(model, checkpoint(tmp_path, shallower), log=nothing_said)
    torch.testing.assert_close(dict(model.state_dict()), before, atol=0, rtol=0)


def test_a_left_over_tensor_is_refused_by_name(golden_model, tmp_path):
    model = golden_model("dit_v1")
    other = dict(model.state_dict()) | {"transformer.extra.weight": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"transformer\.extra\.weight: nothing here, \[3\] in the file"):
        load_weights(model, checkpoint(tmp_path, other), log=nothing_said)


def test_another_vocabulary_is_named_as_the_cause_with_both_sizes(golden_model, tmp_path):
    model, key = golden_model("dit_v1"), "transformer.text_embed.text_embed.weight"
    other = dict(model.state_dict()) | {key: torch.zeros(2546, 24)}
    with pytest.raises(ValueError, match=r"its vocabulary has 2545 symbols, this run's 30; set model\.tokenizer_path"):
        load_weights(model, checkpoint(tmp_path, other), log=nothing_said)


def test_a_tensor_beside_the_network_that_is_no_counter_is_refused_by_name(golden_model, tmp_path):
    model = golden_model("dit_v1")
    other = published(dict(model.state_dict())) | {"ema_model.duration.weight": torch.zeros(3)}
    save_file(other, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"duration\.weight: nothing here, \[3\] in the file"):
        load_weights(model, read_checkpoint(tmp_path / "a.safetensors"), log=nothing_said)


# --- the specification in a file ---


def card(*overrides: str, symbols: str = " ab") -> ModelSpec:
    return ModelSpec.of(compose_config("F5TTS_Mini", list(overrides), TrainConfig).model, Vocabulary(symbols))


def with_card(tmp_path: Path, made_with: ModelSpec) -> Checkpoint:
    weights = {"transformer.a": torch.ones(1)}
    write_checkpoint(tmp_path / "a.pt", {"model_state_dict": weights, **asdict(made_with)})
    return read_checkpoint(tmp_path / "a.pt")


def test_a_run_like_the_one_that_made_the_weights_is_told_nothing(tmp_path):
    check_spec(with_card(tmp_path, card()), card(), log=nothing_said)


def test_what_another_stage_or_machine_changes_is_no_difference(tmp_path):
    made = with_card(tmp_path, card("model.tokenizer_path=/there/vocab.txt"))
    gaussian = ["model.output_dist=gaussian", "model.objective=gaussian_nll", "model.use_rl_head=true"]
    check_spec(made, card(*gaussian, "model.arch.dropout=0.1", "model.arch.checkpoint_activations=true"), nothing_said)


def test_every_key_that_gives_weights_another_meaning_is_said(tmp_path):
    messages: list[str] = []
    made = with_card(tmp_path, card("model.arch.pe_attn_head=1", "model.mel_spec.hop_length=256"))
    check_spec(made, card(), messages.append)
    assert messages == [
        f"{tmp_path / 'a.pt'} was made with model.arch.pe_attn_head=1, this run has None",
        f"{tmp_path / 'a.pt'} was made with model.mel_spec.hop_length=256, this run has 320",
    ]


@pytest.mark.parametrize(
    ("symbols", "found"),
    [
        (" ba", "3 symbols here, 3 there, and line 2 is 'a' here, 'b' there"),
        (" abc", "3 symbols here, 4 there, and line 4 is nothing here, 'c' there"),
    ],
)
def test_another_vocabulary_is_refused_with_the_first_line_that_differs(symbols, found, tmp_path):
    with pytest.raises(ValueError, match=rf"a\.pt has another vocabulary: {found}; set model\.tokenizer_path"):
        check_spec(with_card(tmp_path, card(symbols=symbols)), card(), nothing_said)


def test_a_file_that_says_nothing_of_its_weights_is_taken_with_a_notice(tmp_path):
    messages: list[str] = []
    check_spec(checkpoint(tmp_path, {"transformer.a": torch.ones(1)}), card(), messages.append)
    sentence = "does not say which model keys and vocabulary it was made with: this run's are assumed"
    assert messages == [f"{tmp_path / 'a.pt'} {sentence}"]


def test_where_another_published_config_has_the_same_shapes_it_is_named(tmp_path):
    sentence = "weights of F5TTS_Base or F5TTS_Base_RL have the same shapes and compute other numbers"
    spec = ModelSpec.of(compose_config("F5TTS_RL", [], RLTrainConfig).model, Vocabulary(" a"))
    v0 = ModelSpec.of(compose_config("F5TTS_Base", [], TrainConfig).model, Vocabulary(" a"))
    messages: list[str] = []
    check_spec(checkpoint(tmp_path, {"transformer.a": torch.ones(1)}), spec, messages.append)
    assert sentence in messages[-1] and "choose that config (-cn, for inference -m)" in messages[-1]
    check_spec(with_card(tmp_path, v0), spec, messages.append)
    assert any("arch.pe_attn_head=1, this run has None; weights of F5TTS_Base" in message for message in messages)
    (tmp_path / "F5TTS_v1_Base").mkdir()
    check_spec(checkpoint(tmp_path / "F5TTS_v1_Base", {"transformer.a": torch.ones(1)}), spec, messages.append)
    assert messages[-1].endswith("this run's are assumed")


def test_an_export_whose_checksum_lost_its_name_is_damaged(tmp_path):
    path = tmp_path / "model.safetensors"
    export_weights(with_card(tmp_path, card()), path, torch.float16)
    path.write_bytes(path.read_bytes().replace(b'"checksum"', b'"cheaksum"'))
    with pytest.raises(ValueError, match=r"model\.safetensors has a damaged header: it holds 'cheaksum'"):
        read_checkpoint(path)


def test_an_export_says_of_its_weights_what_its_source_said(tmp_path):
    export_weights(with_card(tmp_path, card()), tmp_path / "b.safetensors", torch.float16)
    assert read_checkpoint(tmp_path / "b.safetensors").spec == card()


# --- raw or EMA weights ---


@pytest.fixture
def both(tmp_path) -> Callable[..., Checkpoint]:
    """Return a function that writes a training checkpoint with raw weight 1 and EMA weight 2."""

    def write(**run: str | int) -> Checkpoint:
        average = {"ema_model.transformer.a": torch.tensor(2.0), "initted": torch.tensor(True), "step": torch.tensor(7)}
        raw = {"transformer.a": torch.tensor(1.0)}
        write_checkpoint(tmp_path / "a.pt", {"model_state_dict": raw, "ema_model_state_dict": average, **run})
        return read_checkpoint(tmp_path / "a.pt")

    return write


@pytest.mark.parametrize(("which", "value"), [("raw", 1.0), ("ema", 2.0)])
def test_weights_are_those_asked_for_else_those_that_the_file_recommends(which, value, both):
    assert both().with_weights(which).weights == {"transformer.a": value}
    assert both(recommended=which).with_weights().weights == {"transformer.a": value}
    assert both().with_weights().weights == {"transformer.a": 2.0}  # as in F5-TTS
    assert both().weights == {"transformer.a": 1.0}  # training resumes from the raw weights


def test_weights_that_a_file_does_not_hold_are_refused(golden_model, tmp_path):
    save_file(published(golden_model("dit_v1").state_dict()), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors holds no raw weights; it has the ema ones"):
        read_checkpoint(tmp_path / "a.safetensors").with_weights("raw")


@pytest.mark.parametrize(("run", "update"), [({"update": 5}, 5), ({"step": 6}, 6), ({}, 7)])
def test_the_number_of_updates_is_found_under_its_older_names_too(run, update, both):
    assert both(**run).update == update


@pytest.mark.parametrize("name", ["F5TTS_v1_Base", "F5TTS_Base", "E2TTS_Base"])
def test_an_export_has_the_names_and_shapes_of_the_published_file(name, table):
    expected = table("g1_state_dicts")[name]["model_state_dict"]
    gaussian = ["model.output_dist=gaussian", "model.objective=gaussian_nll", "model.use_rl_head=true"]
    with torch.device("meta"):
        model = build_model(compose_config(name, gaussian, TrainConfig).model, read_vocabulary(EMILIA_VOCAB, "pinyin"))
    result = {key: list(value.shape) for key, value in published_tensors(model.state_dict(), torch.float16).items()}
    assert result == {f"ema_model.{key}": shape for key, shape in expected.items()} | {"initted": [], "step": []}


# --- files that are not checkpoints ---


def refusal(path: Path) -> str:
    """Return the error message for a file, and check that it names the file in one line."""
    with pytest.raises(ValueError) as error:
        read_checkpoint(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*gone\.pt"):
        read_checkpoint(tmp_path / "gone.pt")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_a_file_cut_short_is_refused(suffix, share, tmp_path):
    path, tensors = tmp_path / f"a.{suffix}", {"transformer.a": torch.arange(1000.0)}
    if suffix == "pt":
        write_checkpoint(path, {"model_state_dict": tensors})
    else:
        save_file(tensors, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "cannot be read as a checkpoint" in refusal(path)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_file_with_code_in_it_is_refused_and_the_code_does_not_run(how, tmp_path):
    path, harmful = tmp_path / "a.pt", {"model_state_dict": MakesFolder(tmp_path / "made")}
    if how == "pickle":
        path.write_bytes(pickle.dumps(harmful, protocol=2))
    else:
        torch.save(harmful, path)
    message = refusal(path)
    assert "not only weights" in message
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "text", ["version https://git-lfs.github.com/spec/v1", "<!DOCTYPE html>", "Repository not found"]
)
def test_a_text_that_was_fetched_in_place_of_a_checkpoint_is_refused(text, tmp_path):
    (tmp_path / "a.pt").write_text(text)
    assert "cannot be read as a checkpoint" in refusal(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "payload",
    [{"state_dict": {}}, {"model_state_dict": 3}, {"model_state_dict": {}}, [1, 2], torch.zeros(2)],
    ids=["other name", "a number", "empty", "a list", "a tensor"],
)
def test_a_file_without_weights_is_refused(payload, tmp_path):
    torch.save(payload, tmp_path / "a.pt")
    assert "holds neither model_state_dict nor ema_model_state_dict" in refusal(tmp_path / "a.pt")


def test_weights_that_are_no_tensors_are_refused(tmp_path):
    torch.save({"model_state_dict": {"transformer.a": 3}}, tmp_path / "a.pt")
    assert "is not a state dict" in refusal(tmp_path / "a.pt")


def test_a_write_below_a_file_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write .*file/a\.pt"):
        write_checkpoint(tmp_path / "file" / "a.pt", {})


# --- writing ---


@contextmanager
def full_disk() -> Iterator[None]:
    """Limit files to 2 KiB: larger writes get an error from the system.

    This is no fixture, because pytest might write a long report within a fixture's scope.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def assert_only_old(path: Path) -> None:
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    assert path.read_text() == "old"


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_old_one(tmp_path):
    path = tmp_path / "model_last.pt"
    path.write_text("old")
    with full_disk(), pytest.raises(OSError, match=r"cannot write .*model_last\.pt .*the disk is full"):
        write_checkpoint(path, {"model_state_dict": {"transformer.a": torch.zeros(10_000)}})
    assert_only_old(path)


def test_an_export_that_does_not_fit_on_the_disk_leaves_the_old_one(golden_model, tmp_path):
    path = tmp_path / "model.safetensors"
    source = bare(golden_model("dit_v1").state_dict())
    path.write_text("old")
    with full_disk(), pytest.raises(OSError, match=r"cannot write .*model\.safetensors .*the disk is full"):
        export_weights(source, path, torch.float16)
    assert_only_old(path)


def test_a_write_that_fails_half_way_leaves_the_old_file_and_no_part(tmp_path):
    def write(part: Path) -> None:
        part.write_text("ne")
        raise OSError("device went away")

    path = tmp_path / "model_last.pt"
    path.write_text("old")
    with pytest.raises(OSError, match=r"cannot write .*model_last\.pt \(device went away\).*is not writable"):
        write_atomically(path, write)
    assert_only_old(path)


def test_an_export_may_be_read_by_whoever_may_read_other_new_files(golden_model, tmp_path):
    path, plain = tmp_path / "model.safetensors", tmp_path / "plain"
    plain.touch()
    export_weights(bare(golden_model("dit_v1").state_dict()), path, torch.float16)
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_folder_in_the_way_is_said_and_left_alone(tmp_path):
    path = tmp_path / "model_last.pt"
    path.mkdir()
    with pytest.raises(OSError, match=r"cannot write .*model_last\.pt"):
        write_checkpoint(path, {})
    assert list(tmp_path.iterdir()) == [path] and path.is_dir()


def test_a_new_file_takes_the_place_of_the_old_one_and_of_a_part_left_by_an_interrupt(tmp_path):
    path = tmp_path / "model_last.pt"
    path.write_text("old")
    (tmp_path / ".model_last.pt.part").write_text("half of an old one")
    write_checkpoint(path, {"model_state_dict": {"transformer.a": torch.ones(1)}})
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert read_checkpoint(path).weights["transformer.a"] == 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"numbered": ["/../../other"]}, "numbered is list, where a list of updates is expected"),
        ({"settings": {1: 2}}, "settings is dict, where a section of plain values"),
        ({"batches": -1}, "batches is -1, where an integer of 0 or more"),
        (
            {"validation": {"every_updates": 0, "dev": None}},
            "validation is dict, where every_updates, an integer above 0",
        ),
        ({"validation": {"every_updates": 5, "dev": 3}}, "validation is dict, where every_updates, an integer above 0"),
    ],
)
def test_entries_that_a_resume_relies_on_are_checked(tmp_path, entry, message: str):
    torch.save({"model_state_dict": {"w": torch.zeros(1)}, **entry}, tmp_path / "model_last.pt")
    with pytest.raises(ValueError, match=message):
        read_checkpoint(tmp_path / "model_last.pt")
