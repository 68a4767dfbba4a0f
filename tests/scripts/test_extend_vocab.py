from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from f5_tts.commands import find_command
from f5_tts.data.tokenizer import EMILIA_VOCAB, byte_vocabulary, read_vocabulary
from f5_tts.model.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from f5_tts.train.checkpoint_dir import initial_weights, sha256_of

main = find_command("extend-vocab").main

NAME = "transformer.text_embed.text_embed.weight"
OLD = torch.tensor([[9.0, 9.0], [1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])  # filler, and the rows of " ab"
MEAN = [3.0, 5.0]
SPEC = {"model": {"name": "mine"}, "vocabulary": [" ", "a", "b"]}


def weights(prefix: str = "", plus: float = 0.0) -> dict[str, torch.Tensor]:
    return {f"{prefix}{NAME}": OLD + plus, f"{prefix}transformer.proj_out.bias": torch.tensor([0.5])}


def symbols(folder: Path, *new: str) -> Path:
    path = folder / "new.txt"
    path.write_text("\n".join(new) + "\n", encoding="utf-8")
    return path


def extended(checkpoint: Path, new: Path, *options: str) -> Checkpoint:
    folder = checkpoint.parent / "out"
    assert main([str(checkpoint), str(new), str(folder), *options])
    return read_checkpoint(folder / checkpoint.name)


def test_a_training_checkpoint_gets_rows_at_the_mean_for_new_symbols_in_all_its_weights(tmp_path: Path, capsys) -> None:
    payload = {"model_state_dict": weights(), "ema_model_state_dict": weights("ema_model.", 1.0), **SPEC}
    write_checkpoint(tmp_path / "a.pt", {**payload, "optimizer_state_dict": {}, "update": 7, "recommended": "ema"})
    grown = extended(tmp_path / "a.pt", symbols(tmp_path, "ü", "a", "", "é", "ü"))
    assert grown.weights[NAME].tolist() == [*OLD.tolist(), MEAN, MEAN]
    assert grown.with_weights().weights[NAME].tolist() == [*(OLD + 1).tolist(), [4.0, 6.0], [4.0, 6.0]]
    assert grown.weights["transformer.proj_out.bias"].tolist() == [0.5]
    assert grown.spec is not None and grown.spec.vocabulary == [" ", "a", "b", "ü", "é"]
    assert grown.payload.keys() == payload.keys() | {"recommended"}
    assert (tmp_path / "out" / "vocab.txt").read_text("utf-8") == " \na\nb\nü\né\n"
    assert "has 3 symbols; 2 are new: 'ü', 'é'" in capsys.readouterr().out


def test_a_published_file_with_2545_symbols_is_taken_to_have_the_released_vocabulary(tmp_path: Path, capsys) -> None:
    embedding = torch.randn(2546, 2, generator=torch.Generator().manual_seed(0)).half()
    save_file({f"ema_model.{NAME}": embedding, "step": torch.tensor(5)}, tmp_path / "model.safetensors")
    extended(tmp_path / "model.safetensors", symbols(tmp_path, "ӄ", "a"))
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors.keys() == {f"ema_model.{NAME}", "step"}
    grown = tensors[f"ema_model.{NAME}"]
    assert torch.equal(grown[:2546], embedding) and torch.equal(grown[2546], embedding[1:].float().mean(0).half())
    assert read_vocabulary(tmp_path / "out" / "vocab.txt").symbols == (*read_vocabulary(EMILIA_VOCAB).symbols, "ӄ")
    assert (
        "holds no vocabulary, and has 2545 symbols: the released vocabulary is taken for it" in capsys.readouterr().out
    )


def test_any_other_published_file_needs_its_vocabulary(tmp_path: Path) -> None:
    save_file(weights("ema_model."), tmp_path / "model.safetensors")
    new, base = symbols(tmp_path, "z"), tmp_path / "base.txt"
    with pytest.raises(ValueError, match="does not hold its vocabulary: name it by --base_vocab FILE"):
        extended(tmp_path / "model.safetensors", new)
    base.write_text(" \na\n")
    with pytest.raises(ValueError, match=r"base\.txt is not the vocabulary of .*, which has 3 symbols"):
        extended(tmp_path / "model.safetensors", new, "--base_vocab", str(base))
    base.write_text(" \na\nb\n")
    grown = extended(tmp_path / "model.safetensors", new, "--base_vocab", str(base))
    assert grown.weights[NAME].tolist() == [*OLD.tolist(), MEAN]
    with pytest.raises(FileExistsError, match=r"model\.safetensors would be overwritten"):
        extended(tmp_path / "model.safetensors", new, "--base_vocab", str(base))


def test_the_vocabulary_beside_a_file_is_its_own(tmp_path: Path, capsys) -> None:
    save_file(weights("ema_model."), tmp_path / "model.safetensors")
    (tmp_path / "vocab.txt").write_text(" \na\nb\n")
    grown = extended(tmp_path / "model.safetensors", symbols(tmp_path, "b"))
    assert grown.weights[NAME].tolist() == OLD.tolist()
    assert "it has every symbol of the list" in capsys.readouterr().out


def test_the_reference_of_stage_2_grows_with_its_run(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "reference.pt", {"model_state_dict": weights(plus=2.0), **SPEC})
    origin = {"file": "reference.pt", "sha256": sha256_of(tmp_path / "reference.pt")}
    write_checkpoint(tmp_path / "a.pt", {"model_state_dict": weights(), **SPEC, "origin": origin})
    grown = extended(tmp_path / "a.pt", symbols(tmp_path, "z"))
    assert initial_weights(grown).weights[NAME].tolist() == [*(OLD + 2).tolist(), [5.0, 7.0]]


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [(list(byte_vocabulary().symbols), "is a model of bytes"), ([" ", "a", "a"], r"\['a'\] are there more than once")],
)
def test_a_vocabulary_that_cannot_grow_is_refused(tmp_path: Path, vocabulary: list[str], message: str) -> None:
    write_checkpoint(tmp_path / "a.pt", {"model_state_dict": weights(), "model": {}, "vocabulary": vocabulary})
    with pytest.raises(ValueError, match=message):
        extended(tmp_path / "a.pt", symbols(tmp_path, "z"))
    assert not (tmp_path / "out").exists()
