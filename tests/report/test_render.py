from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.report.folders import updates, write_evaluation, write_metrics, write_samples

from f5_tts.commands import find_command
from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig
from f5_tts.report import players
from f5_tts.report.clips import Clip
from f5_tts.report.render import report_run
from f5_tts.report.run_record import write_record

VOID = {"meta", "img", "br"}
main = find_command("report").main
BEFORE = {"a": "one two x four", "b": "five six x x", "c": "nine one nine one"}
AFTER = {"a": "one two three four", "b": "five six x x", "c": "nine x nine one"}


class Reader(HTMLParser):
    """Parser that collects tags with their attributes and text, and checks that every tag is closed by its own."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a run with samples and two evaluations of it."""
    folder = write_metrics(tmp_path_factory.mktemp("runs") / "my<run>", updates(6))
    write_samples(folder, 6)
    write_record(folder, compose_config("F5TTS_Mini_RL", [], RLTrainConfig), "148 rows with checksum 12345678")
    write_evaluation(folder / "eval" / "base", BEFORE)
    write_evaluation(folder / "eval" / "best", AFTER, rewards=["voice_sim"])
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Reader:
    assert main([str(run), "--out", str(run / "page.html")])
    return Reader((run / "page.html").read_text("utf-8"))


def test_the_page_needs_no_other_file_and_no_network(page: Reader):
    links = [a[key] for _, a in page.tags for key in ("src", "href") if a.get(key)]
    assert links and all(str(link).startswith(("data:", "#")) for link in links)
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object")]
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none';") and "http" not in policy


def test_the_verdict_comes_first_and_then_the_clips(page: Reader):
    titles = [a["id"] for tag, a in page.tags if tag == "section"]
    assert titles == ["verdict", "listen", "blind", "table", "curves", "sampled", "settings"]
    assert "undecided best: no clear difference from base, +0 points (" in page.text
    meaning = "all samples of every group had the same score, so that nothing was learned"
    assert f"my<run>: {meaning} (updates 5 to 6) no_spread" in page.text


def test_every_player_and_picture_has_a_name_of_its_own(page: Reader):
    labels = [a["aria-label"] for a in page.all("audio")]
    assert len(labels) == 3 * 3 + 3
    assert {"prompt: zero <b>", "base: One Two Three Four", "best: One Two Three Four"} <= set(labels)
    assert all(a["alt"] for a in page.all("img"))


def test_the_most_improved_sentence_is_first_and_errors_are_marked(page: Reader):
    cards = [a for a in page.all("article") if a["class"] == "sentence"]
    assert [(card["data-id"], card["data-errors"]) for card in cards] == [
        ("a", "1 0"),
        ("b", "2 2"),
        ("c", "0 1"),
    ]
    assert "Whisper tiny.en, 1 error: one two x four" in page.text


def test_clips_carry_the_paths_that_answers_of_the_blind_comparison_name(page: Reader):
    files = [a["data-file"] for a in page.all("figure") if "data-file" in a]
    assert files[:3] == ["eval/base/prompts/a.wav", "eval/base/wavs/a.wav", "eval/best/wavs/a.wav"]


def test_table_curves_samples_and_settings_are_there(page: Reader):
    assert "error rate by Whisper tiny.en 25.0 % (0.0 to 50.0) 25.0 % (0.0 to 50.0)" in page.text
    assert "error rate by pocketsphinx eval/wer" in page.text
    assert "my<run>, update 6: six" in page.text and "heard: r0.75, reward 0.75" in page.text
    assert "mini, 148 rows with checksum 12345678" in page.text and "F5TTS_Mini" in page.text


def test_settings_in_which_runs_differ_are_listed(run: Path, tmp_path: Path):
    for seed in (1, 2):
        write_metrics(tmp_path / f"seed{seed}", updates(3))
        cfg = compose_config("F5TTS_Mini_RL", [f"optim.seed={seed}"], RLTrainConfig)
        write_record(tmp_path / f"seed{seed}", cfg, "8 rows")
    assert main([str(tmp_path / "seed1"), str(tmp_path / "seed2")])
    found = Reader((tmp_path / "seed1" / "report.html").read_text("utf-8"))
    assert "Where the runs differ seed1 seed2 optim.seed 1 2" in found.text


def test_clips_are_compressed_and_then_left_out_where_the_file_would_be_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = write_evaluation(tmp_path / "base", BEFORE, seconds=1.5, prompt_s=0.8)
    clips = [Clip.read(whole / folder / "a.wav") for folder in ("wavs", "prompts")]
    pictures = sum(len(clip.spectrogram()) for clip in clips)
    lossless, compressed = (pictures + sum(len(clip.audio(kind)) for clip in clips) for kind in ("FLAC", "MP3"))
    assert compressed < lossless
    monkeypatch.setattr(players, "MAX_AUDIO", 3 * lossless - 1)
    assert main([str(whole)])
    found = (whole / "report.html").read_text("utf-8")
    assert found.count("data:audio/mpeg") == 6 and "data:audio/flac" not in found
    monkeypatch.setattr(players, "MAX_AUDIO", compressed)
    assert main([str(whole)])
    found = (whole / "report.html").read_text("utf-8")
    assert found.count("data:audio/mpeg") == 2 and "2 more sentences have clips" in found


def test_an_evaluation_of_an_earlier_version_has_its_clips_without_prompts(tmp_path: Path):
    folder = write_evaluation(tmp_path / "base", BEFORE)
    (folder / "examples.jsonl").unlink()
    assert main([str(folder)])
    page = Reader((folder / "report.html").read_text("utf-8"))
    assert page.all("audio")[0]["aria-label"] == "base: one two three four"


def test_a_run_that_ends_writes_its_report_and_a_damaged_file_does_not_make_it_fail(run: Path, tmp_path: Path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    assert re.fullmatch(
        rf"report: {folder}/report.html \(0\.\d MB, one file\); open it in a browser", report_run(folder)
    )
    (folder / "eval" / "base" / "scores.json").write_text("{")
    assert "no report of the run: " in report_run(folder) and "is damaged" in report_run(folder)
