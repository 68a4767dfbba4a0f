"""Finished parts of an evaluation: computed once, bit for bit, and left alone by other settings."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from f5_tts.eval.progress import NOTHING_KEPT, Progress, close_progress, open_progress

CLIP = torch.tensor([0.1, -1.5, 1e-9, math.nan])


def test_a_finished_part_is_not_computed_again(tmp_path: Path):
    progress = Progress(tmp_path).part("dev")
    assert progress.kept("a/0", lambda: {"x": 0.1}) == {"x": 0.1}
    assert progress.kept("a/0", lambda: {"x": 0.2}) == {"x": 0.1}
    assert (tmp_path / "dev/a/0.json").is_file()
    assert [NOTHING_KEPT.kept("a", lambda value=value: value) for value in (1, 2)] == [1, 2]


def test_clips_come_back_bit_for_bit_and_a_part_whose_clips_are_not_all_there_is_made_again(tmp_path: Path):
    progress, asked = Progress(tmp_path, 16_000), list[int]()

    def speak() -> list[Tensor]:
        asked.append(1)
        return [CLIP, -CLIP]

    progress.write_clip(tmp_path / "1/0/a.wav", torch.zeros(3))  # as a kill before the second clip leaves it
    for _ in range(2):
        clips = progress.kept_clips("1/0", ["a", "b"], speak)
        assert all(torch.equal(x, y) or x.isnan().any() for x, y in zip(clips, [CLIP, -CLIP], strict=True))
        assert clips[0][:3].tolist() == CLIP[:3].tolist() and clips[0][3].isnan()
    assert len(asked) == 1
    assert soundfile.info(tmp_path / "1/0/b.wav").samplerate == 16_000
    assert progress.seconds("1") >= 0


def test_only_the_same_settings_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settings = {"the weights": "a", "eval.seed": 0}
    open_progress(tmp_path, settings, 1).kept("rate", lambda: 1)
    assert capsys.readouterr().out == ""
    assert open_progress(tmp_path, settings, 1).kept("rate", lambda: 2) == 1
    assert "it goes on" in capsys.readouterr().out
    changed = open_progress(tmp_path, {"the weights": "b", "eval.seed": 0}, 1)
    assert "had other settings (the weights); this one starts anew" in capsys.readouterr().out
    assert changed.kept("rate", lambda: 3) == 3
    (tmp_path / "unfinished/settings.json").write_text("{", encoding="utf-8")
    assert open_progress(tmp_path, settings, 1).kept("rate", lambda: 4) == 4
    close_progress(tmp_path)
    assert not list(tmp_path.iterdir())
