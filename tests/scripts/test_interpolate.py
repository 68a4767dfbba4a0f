"""Interpolation between the weights before and after a run, against hand arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from f5_tts.commands import find_command
from f5_tts.model.checkpoint import read_checkpoint, write_checkpoint
from f5_tts.train.checkpoint_dir import sha256_of

main = find_command("interpolate").main

BIAS, HEAD = "transformer.proj_out.bias", "transformer.proj_out_ln_sig.bias"
SPEC = {"model": {"name": "mine"}, "vocabulary": [" ", "a", "b"]}


def weights(*values: float, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {BIAS: torch.tensor(values), HEAD: torch.tensor([7.0]), **more}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Return the folder of a run that started from (1, -4): its raw weights are (3, 4), their average (2, 0)."""
    write_checkpoint(tmp_path / "reference.pt", {"model_state_dict": weights(1.0, -4.0), **SPEC})
    origin = {"file": "reference.pt", "sha256": sha256_of(tmp_path / "reference.pt")}
    average = {f"ema_model.{name}": value for name, value in weights(2.0, 0.0).items()}
    trained = {"model_state_dict": weights(3.0, 4.0), "ema_model_state_dict": average, "update": 9, "origin": origin}
    write_checkpoint(tmp_path / "model_best.pt", {**trained, **SPEC, "recommended": "raw"})
    return tmp_path


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], [2.6, 2.4]),  # 0.8 of the way from (1, -4) to (3, 4)
        (["--share", "0.25"], [1.5, -2.0]),
        (["--share", "1"], [3.0, 4.0]),
        (["--share", "0.5", "--weights", "ema"], [1.5, -2.0]),
        (["--share", "0.5", "--base", "other.pt"], [6.5, 2.0]),
    ],
)
def test_weights_lie_a_share_of_the_way_from_the_first_to_the_trained_ones(
    run_dir: Path, monkeypatch, capsys, options: list[str], expected: list[float]
) -> None:
    monkeypatch.chdir(run_dir)
    write_checkpoint(run_dir / "other.pt", {"model_state_dict": weights(10.0, 0.0)})
    assert main(["model_best.pt", "a/b.safetensors", *options])
    tensors = load_file(run_dir / "a" / "b.safetensors")
    assert tensors.keys() == {f"ema_model.{BIAS}", "initted", "step"}  # as published models, without the head
    torch.testing.assert_close(tensors[f"ema_model.{BIAS}"], torch.tensor(expected))
    read = read_checkpoint(run_dir / "a" / "b.safetensors")
    assert (read.update, read.spec and read.spec.vocabulary) == (9, [" ", "a", "b"])
    kind = "ema" if "ema" in options else "raw"
    assert f"to model_best.pt (update 9, {kind} weights); next: f5-tts evaluate" in capsys.readouterr().out


def refusal(error: type[Exception], *arguments: str) -> str:
    with pytest.raises(error) as found:
        main(list(arguments))
    return str(found.value)


def test_what_cannot_be_interpolated_is_refused_in_a_sentence(run_dir: Path, monkeypatch) -> None:
    monkeypatch.chdir(run_dir)
    write_checkpoint(run_dir / "alone.pt", {"model_state_dict": weights(3.0, 4.0)})
    write_checkpoint(run_dir / "longer.pt", {"model_state_dict": weights(3.0, 4.0, 5.0)})
    write_checkpoint(run_dir / "more.pt", {"model_state_dict": weights(3.0, 4.0, **{"transformer.x": torch.ones(1)})})
    assert refusal(ValueError, "alone.pt", "a.safetensors") == (
        "alone.pt does not name the weights at its start: add --base FILE"
    )
    assert refusal(ValueError, "model_best.pt", "a.safetensors", "--base", "longer.pt") == (
        f"longer.pt and model_best.pt are not weights of one model: {BIAS} is (3,) and (2,)"
    )
    assert refusal(ValueError, "model_best.pt", "a.safetensors", "--base", "more.pt") == (
        "more.pt and model_best.pt are not weights of one model: only one has transformer.x"
    )
    assert refusal(ValueError, "model_best.pt", "a.pt") == "OUT is a.pt: a file of weights ends in .safetensors"
    (run_dir / "reference.pt").unlink()
    assert refusal(FileNotFoundError, "model_best.pt", "b.safetensors") == (
        "no reference.pt, the weights at the start of model_best.pt: restore it, or add --base FILE"
    )
    (run_dir / "a.safetensors").touch()
    assert "a.safetensors would be overwritten" in refusal(FileExistsError, "model_best.pt", "a.safetensors")
    assert (run_dir / "a.safetensors").stat().st_size == 0
