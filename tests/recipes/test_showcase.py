"""What `make showcase` renews of README.md and docs/quickstart.md."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
from PIL import Image
from recipes.digits.showcase import SCALE, showcase
from tests.browser.chromium import missing
from tests.recipes.test_quickstart import write_metrics
from tests.report.folders import RATE, TEXTS, score, write_evaluation

from f5_tts.report.charts import WIDTH

ITEM = "test-test_00-000"
HEARD = {"base": "x x x x", "grpo": "one x x x", "draft": "one two three four"}  # 4, 3 and 0 wrong words of 4


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the folder of a quick start with two sentences, the first of which gets better."""
    monkeypatch.setitem(TEXTS, ITEM, TEXTS["a"])
    for name, heard in HEARD.items():
        sentences = {ITEM: heard, "b": "five x x x"}
        by = {
            asr: [score(each, TEXTS[each], words) for each, words in sentences.items()]
            for asr in ("pocketsphinx", "whisper")
        }
        more = {"scores": by, "guidance": {}, "ckpt": f"{name}.pt", "rewards": [] if name == "base" else ["voice_sim"]}
        write_evaluation(tmp_path / "eval" / name, sentences, **more)
    for name in ("grpo", "draft"):
        write_metrics(tmp_path / name)
    return tmp_path


def test_without_a_browser_it_says_how_to_get_one(run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match=r"no chromium on the PATH, .*: make test-browser installs it"):
        showcase(run_dir, run_dir / "picture.png", run_dir, None)


@pytest.mark.browser
def test_picture_clips_and_tables_are_those_of_the_run(run_dir: Path):
    if reason := missing():
        pytest.skip(reason)
    text = showcase(run_dir, run_dir / "picture.png", run_dir, None)
    for name, file in (("base", "base.flac"), ("grpo", "stage_2_grpo.flac"), ("draft", "stage_2.flac")):
        clip, rate = soundfile.read(run_dir / file)
        kept, _ = soundfile.read(run_dir / "eval" / name / "wavs" / f"{ITEM}.wav")
        assert rate == RATE and (clip == kept).all()
        assert HEARD[name] in next(line for line in text.splitlines() if f"(audio/{file})" in line)
    assert "| draft | 37.5 %" in " ".join(text.split()), text  # 3 of 8 words
    assert "The prompt: data/mini_custom/wavs/test_00_test_prompt_0.flac" in text
    assert f"{ITEM}: One Two Three Four: wrong words base 4, grpo 3, draft 0\nb: " in text
    with Image.open(run_dir / "picture.png") as picture:
        low, high = picture.convert("L").getextrema()
        assert picture.width == SCALE * 2 * WIDTH and high == 255 and isinstance(low, int) and low < 128
    with pytest.raises(ValueError, match=f"--item c: no clip of it in .*; found {ITEM}, b"):
        showcase(run_dir, run_dir / "picture.png", run_dir, "c")
