from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from f5_tts.model.safe_load import checksum
from f5_tts.rewards.asr.digits_ctc import CKPTS, DigitsCtc
from f5_tts.rewards.asr.digits_network import (
    PHONES,
    WORDS,
    DigitsNetwork,
    NetworkSizes,
    phone_labels,
    read_network,
    word_labels,
    write_network,
)

ROOT = Path(__file__).parents[3]
SHIPPED = [ROOT / ckpt for ckpt in CKPTS]
SMALL = NetworkSizes(width=8, kernel_size=3, dilations=(1, 2))


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    write_network(DigitsNetwork(SMALL), tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def rewrite(path: Path, *, sizes: str | None = None, **changes: torch.Tensor | None) -> None:
    """Write a file again with other sizes or tensors (None removes one) and the checksum that goes with them."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = {name: value for name, value in {**load_file(path), **changes}.items() if value is not None}
    metadata = {"sizes": sizes or metadata["sizes"]}
    save_file(tensors, path, metadata={**metadata, "checksum": checksum(tensors, metadata)})


# --- shipped files ---


@pytest.mark.parametrize("path", sorted(SHIPPED[0].parent.glob("*.safetensors")), ids=lambda path: path.stem)
def test_a_shipped_file_is_below_2_mb_in_half_precision_and_of_the_stated_size(path):
    assert path.stat().st_size < 2e6
    assert {value.dtype for value in load_file(path).values()} == {torch.float16}
    assert 0.6e6 < sum(parameter.numel() for parameter in read_network(path).parameters()) < 0.8e6


def test_the_shipped_networks_are_of_different_make_and_their_parameters_are_counted():
    networks = [read_network(path) for path in SHIPPED]
    assert len({network.sizes for network in networks}) == len(networks)
    count = sum(parameter.numel() for network in networks for parameter in network.parameters())
    assert count == DigitsCtc.num_parameters


# --- network ---


def test_ten_words_have_nineteen_phones_and_label_zero_is_the_blank():
    assert (len(WORDS), len(PHONES)) == (10, 19)
    assert word_labels(WORDS) == list(range(1, 11)) and set(phone_labels(WORDS)) == set(range(1, 20))
    assert [PHONES[label - 1] for label in phone_labels(["six", "two"])] == ["S", "IH", "K", "S", "T", "UW"]


def test_outputs_are_log_probabilities_for_each_frame_whatever_the_padding_holds():
    torch.manual_seed(0)
    network, mel = DigitsNetwork(NetworkSizes(width=8, kernel_size=3, dilations=(1, 2))).eval(), torch.randn(2, 9, 100)
    lens = torch.tensor([9, 6])
    outputs = network(mel, lens)
    assert [tuple(output.shape) for output in outputs] == [(2, 9, 11), (2, 9, 20)]
    torch.testing.assert_close(outputs[0].exp().sum(dim=-1), torch.ones(2, 9))
    other = mel.clone()
    other[1, 6:] = torch.nan
    for one, two, alone in zip(outputs, network(other, lens), network(mel[1:, :6], lens[1:]), strict=True):
        torch.testing.assert_close(one[1, :6], two[1, :6])
        torch.testing.assert_close(one[1, :6], alone[0])


# --- file ---


def test_a_file_gives_back_the_network_rounded_to_half_precision_frozen_and_in_eval_mode(small_file):
    torch.manual_seed(0)
    original, loaded = DigitsNetwork(SMALL), read_network(small_file)
    assert loaded.sizes == SMALL and not loaded.training
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, original.state_dict()[name].half().float())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no recognizer at .*none.safetensors \(config.ckpts\); .*train_reward"
    ):
        read_network(tmp_path / "none.safetensors")


@pytest.mark.parametrize("position", [3, 300, -1])
def test_a_damaged_file_is_refused(small_file, position):
    content = bytearray(small_file.read_bytes())
    content[position] ^= 0x55
    small_file.write_bytes(content)
    with pytest.raises(ValueError, match=r"small.safetensors (cannot be read|is damaged)"):
        read_network(small_file)


def test_another_kind_of_file_is_refused():
    with pytest.raises(ValueError, match="is damaged, or not a digit recognizer"):
        read_network(ROOT / "pretrained/F5TTS_Mini/model_800.safetensors")


@pytest.mark.parametrize(
    "changes, name",
    [
        ({"words.bias": torch.zeros(12, dtype=torch.float16)}, "words.bias"),
        ({"words.bias": None}, "words.bias"),
        ({"more": torch.zeros(1)}, "more"),
        ({"words.bias": torch.zeros(11, dtype=torch.int32)}, "words.bias"),
        ({"words.bias": torch.full((11,), torch.nan)}, "words.bias"),
    ],
)
def test_tensors_that_do_not_belong_to_the_stated_sizes_are_named(small_file, changes, name):
    rewrite(small_file, **changes)
    with pytest.raises(ValueError, match=f"is not a digit recognizer, it differs in {name}"):
        read_network(small_file)


@pytest.mark.parametrize(
    "sizes",
    [
        "{",
        "[]",
        "{}",
        json.dumps({"width": 8, "kernel_size": 3, "dilations": 1}),
        json.dumps({"width": 8, "kernel_size": 4, "dilations": [1]}),
        json.dumps({"width": 10**9, "kernel_size": 3, "dilations": [1]}),
        json.dumps({"width": 8, "kernel_size": 3, "dilations": []}),
        json.dumps({"width": 8, "kernel_size": 3, "dilations": [1], "depth": 2}),
    ],
)
def test_sizes_that_are_none_are_refused_before_a_network_is_built(small_file, sizes):
    rewrite(small_file, sizes=sizes)
    with pytest.raises(ValueError, match="states no valid sizes"):
        read_network(small_file)


def test_a_file_of_another_kind_is_named_with_its_key_and_what_to_run(tmp_path: Path):
    path = tmp_path / "readme.md"
    path.write_text("# not weights")
    with pytest.raises(ValueError, match=r"^digits_ctc: config\.ckpts: .*readme\.md cannot be read.*train_reward"):
        read_network(path)
