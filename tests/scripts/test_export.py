from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from f5_tts.commands import find_command
from f5_tts.data.tokenizer import byte_vocabulary
from f5_tts.model.checkpoint import read_checkpoint, write_checkpoint
from f5_tts.scripts.export import PUBLISHED_SIZE, default_dtype, describe, export

main = find_command("export").main

WEIGHTS = {
    "transformer.text_embed.text_embed.weight": torch.zeros(4, 2),
    "transformer.proj_out.bias": torch.tensor([0.5, -1.25]),
    "transformer.proj_out_ln_sig.bias": torch.tensor([0.0, 0.0]),
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model_last.pt"
    write_checkpoint(path, {"model_state_dict": WEIGHTS, "update": 12})
    return path


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "letters.txt"
    path.write_text(" \na\nb\n", encoding="utf-8")
    return path


def test_an_export_is_named_by_its_update_and_holds_half_precision_weights_without_the_head(
    checkpoint: Path, vocabulary: Path, tmp_path: Path
) -> None:
    path = export(read_checkpoint(checkpoint), tmp_path / "out", vocabulary)
    assert path == tmp_path / "out" / "model_12.safetensors"
    tensors = load_file(path)
    names = {f"ema_model.{name}" for name in WEIGHTS if "ln_sig" not in name}
    assert tensors.keys() == names | {"initted", "step"}
    assert tensors["ema_model.transformer.proj_out.bias"].dtype == torch.float16
    assert (tmp_path / "out" / "vocab.txt").read_text("utf-8") == vocabulary.read_text("utf-8")


def test_an_export_reads_back_as_the_weights_it_was_made_from(
    checkpoint: Path, vocabulary: Path, tmp_path: Path
) -> None:
    again = read_checkpoint(export(read_checkpoint(checkpoint), tmp_path / "out", vocabulary))
    kept = {name: value for name, value in WEIGHTS.items() if "ln_sig" not in name}
    torch.testing.assert_close(again.weights, kept)


def test_an_empty_vocabulary_is_refused_before_anything_is_written(checkpoint: Path, tmp_path: Path) -> None:
    empty = tmp_path / "vocab.txt"
    empty.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"vocab\.txt is empty"):
        export(read_checkpoint(checkpoint), tmp_path / "out", empty)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_with_its_vocabulary_needs_no_file_and_one_without_is_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"model_last\.pt does not hold its vocabulary: add --vocab FILE"):
        export(read_checkpoint(checkpoint), tmp_path / "out")
    write_checkpoint(checkpoint, {"model_state_dict": WEIGHTS, "model": {}, "vocabulary": [" ", "é", "ü"]})
    export(read_checkpoint(checkpoint), tmp_path / "out")
    assert (tmp_path / "out" / "vocab.txt").read_text("utf-8") == " \né\nü\n"


def test_the_command_exports_the_weights_it_is_asked_for(checkpoint: Path, vocabulary: Path, tmp_path: Path) -> None:
    average = {f"ema_model.{name}": value + 1 for name, value in WEIGHTS.items()}
    write_checkpoint(checkpoint, {"model_state_dict": WEIGHTS, "ema_model_state_dict": average, "update": 3})
    assert main([str(checkpoint), str(tmp_path / "out"), "--vocab", str(vocabulary), "--weights", "ema"])
    tensors = load_file(tmp_path / "out" / "model_3.safetensors")
    assert tensors["ema_model.transformer.proj_out.bias"].tolist() == [1.5, -0.25]


EMBEDDING = {"transformer.text_embed.text_embed.weight": torch.zeros(4, 2)}


def test_a_vocabulary_of_another_size_is_refused(tmp_path: Path, vocabulary: Path) -> None:
    path = tmp_path / "a.pt"
    write_checkpoint(path, {"model_state_dict": EMBEDDING})
    export(read_checkpoint(path), tmp_path / "out", vocabulary)
    vocabulary.write_text(" \na\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.pt was trained with 3 symbols, .*letters\.txt has 2"):
        export(read_checkpoint(path), tmp_path / "out", vocabulary)


def test_the_weights_that_a_checkpoint_recommends_are_exported(tmp_path: Path, vocabulary: Path) -> None:
    average = {f"ema_model.{name}": value + 1 for name, value in EMBEDDING.items()}
    run = {"model_state_dict": EMBEDDING, "ema_model_state_dict": average, "recommended": "ema"}
    write_checkpoint(tmp_path / "a.pt", run)
    assert main([str(tmp_path / "a.pt"), str(tmp_path / "out"), "--vocab", str(vocabulary)])
    (tensors,) = (load_file(path) for path in (tmp_path / "out").glob("*.safetensors"))
    assert tensors["ema_model.transformer.text_embed.text_embed.weight"].unique().tolist() == [1.0]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_precision_may_be_chosen_and_the_last_line_says_what_was_written(
    dtype, checkpoint, vocabulary, tmp_path, capsys
):
    assert main([str(checkpoint), str(tmp_path / "out"), "--vocab", str(vocabulary), "--dtype", dtype])
    tensors = load_file(tmp_path / "out" / "model_12.safetensors")
    assert tensors["ema_model.transformer.proj_out.bias"].dtype == getattr(torch, dtype)
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"the raw weights (the only ones) of update 12, in {dtype} (--dtype); next: f5-tts infer -mc " in last


def test_published_sizes_are_exported_in_single_precision_and_smaller_ones_in_half(checkpoint: Path) -> None:
    small = read_checkpoint(checkpoint)
    large = replace(small, weights={"a": torch.empty(1).expand(PUBLISHED_SIZE)})  # without its memory
    assert (default_dtype(small), default_dtype(large)) == (torch.float16, torch.float32)
    assert "in float32 (published sizes are published so)" in describe(large, None, None)
    assert describe(small, "raw", None).startswith("the raw weights (--weights) of update 12, in float16 (smaller than")


def test_a_model_of_bytes_needs_no_vocabulary_file(tmp_path: Path) -> None:
    symbols = list(byte_vocabulary().symbols)
    weights = {"transformer.text_embed.text_embed.weight": torch.zeros(257, 2)}
    write_checkpoint(tmp_path / "a.pt", {"model_state_dict": weights, "model": {}, "vocabulary": symbols})
    export(read_checkpoint(tmp_path / "a.pt"), tmp_path / "out")
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".safetensors"]
