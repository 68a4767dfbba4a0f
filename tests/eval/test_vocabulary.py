from __future__ import annotations

from pathlib import Path

import pytest

from f5_tts.config.load import compose_config
from f5_tts.config.schema import TrainConfig
from f5_tts.data.tokenizer import read_vocabulary
from f5_tts.eval.evaluator import find_eval_vocabulary
from f5_tts.model.checkpoint import Checkpoint

SHIPPED = Path("pretrained/F5TTS_Mini")


def symbols(folder: Path, *overrides: str) -> list[str]:
    """Return the symbols with which a file of bare weights in a folder is evaluated."""
    cfg = compose_config("F5TTS_Mini", list(overrides), TrainConfig)
    return list(
        find_eval_vocabulary(cfg, Checkpoint(path=folder / "model_800.safetensors", weights={}, payload={})).symbols
    )


def test_a_checkpoint_is_evaluated_without_the_data_set_that_it_was_trained_on(tmp_path: Path):
    beside = list(read_vocabulary(SHIPPED / "vocab.txt").symbols)
    assert symbols(SHIPPED, "datasets.name=gone") == beside
    (tmp_path / "own.txt").write_text(" \na\n", encoding="utf-8")
    assert symbols(SHIPPED, "datasets.name=gone", f"model.tokenizer_path={tmp_path / 'own.txt'}") == [" ", "a"]
    with pytest.raises(FileNotFoundError, match=r"no vocabulary at data/gone_custom/vocab\.txt: set model"):
        symbols(tmp_path, "datasets.name=gone")
