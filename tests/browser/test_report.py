"""The report in a real browser: it loads without errors, fits a phone, can be read, played and answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.browser.page import Browser
from tests.report.folders import updates, write_evaluation, write_metrics, write_samples

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig
from f5_tts.report.render import write_page
from f5_tts.report.run_record import write_record
from f5_tts.report.sources import find_sources

pytestmark = pytest.mark.browser

PLAYING = "return [...document.querySelectorAll('audio')].filter((a) => !a.paused).map((a) => a.ariaLabel)"
ORDER = "return [...document.querySelectorAll('.sentence')].map((card) => card.dataset.id)"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the report of two runs, and of three models whose clips last a few seconds."""
    folder: Path = tmp_path_factory.mktemp("runs")
    for name in ("nft", "draft_with_a_long_name_of_its_own"):
        write_metrics(folder / name, updates(30))
        write_samples(folder / name, 30)
        write_record(
            folder / name, compose_config("F5TTS_Mini_RL", [f"optim.seed={len(name)}"], RLTrainConfig), "8 rows"
        )
    heard = {"a": "one two x four", "b": "five six x x", "c": "nine one nine one"}
    write_evaluation(folder / "eval" / "base", heard, seconds=4)
    write_evaluation(folder / "eval" / "nft", {**heard, "a": "one two three four"}, seconds=4, rewards=["voice_sim"])
    write_evaluation(folder / "eval" / "draft", {**heard, "c": ""}, seconds=4, rewards=["voice_sim"])
    write_page(find_sources([folder]), folder / "report.html")
    return folder / "report.html"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_can_be_read_and_named_and_logs_nothing(browser: Browser, report: Path, width: int, dark: bool):
    browser.open(report, width=width, dark=dark)
    browser.run("for (const part of document.querySelectorAll('details')) part.open = true")
    assert browser.problems() == {}


def test_what_is_wrong_with_a_page_is_found(browser: Browser, tmp_path: Path):
    page = tmp_path / "bad.html"
    body = "<p style='color:#999;background:#fff'>pale</p><div style='width:2000px'>wide</div><audio controls></audio>"
    page.write_text(f"<!DOCTYPE html><meta name=viewport content='width=device-width'>{body}<script>fail()</script>")
    browser.open(page, width=390)
    found = browser.problems()
    assert found["pale"] == ["pale: 2.85"] and found["unnamed"] == ['<audio controls=""></audio>']
    assert found["wide"] == ["the page scrolls sideways", '<div style="width:2000px">wide</div>']
    assert len(found["console"]) == 1 and "fail" in found["console"][0]


def test_all_clips_can_be_played(browser: Browser, report: Path):
    browser.open(report)
    durations = browser.durations()
    assert len(durations) == 3 * 4 + 2 * 3
    assert durations[:4] == pytest.approx([0.2, 4, 4, 4], abs=0.01) and min(durations) > 0.1


def test_keys_go_through_the_sentences_and_hop_between_versions_at_the_same_place(browser: Browser, report: Path):
    browser.open(report)
    browser.durations()
    browser.press("jj1")  # "j" first finds the first sentence
    assert browser.run(PLAYING) == ["base: Five Six Seven Eight"]
    browser.wait(lambda: browser.run("return playing.currentTime") > 0.3, "the clip does not go on")
    browser.press("3")
    assert browser.run(PLAYING) == ["nft: Five Six Seven Eight"]
    assert browser.run("return playing.currentTime") > 0.3
    assert browser.text("#status") == "playing nft: Five Six Seven Eight"
    browser.press("k1")
    assert browser.run(PLAYING) == ["base: One Two Three Four"] and browser.run("return playing.currentTime") < 0.3
    browser.press("\ue00c")  # escape
    assert browser.run(PLAYING) == []


def test_play_all_goes_on_to_the_next_clip_and_stops(browser: Browser, report: Path):
    browser.open(report)
    browser.durations()
    browser.click("#play-all")
    browser.wait(
        lambda: browser.run(PLAYING) == ["base: One Two Three Four"], "the clip after the prompt does not play"
    )
    assert browser.text("#play-all") == "Stop"
    browser.click("#play-all")
    assert browser.run(PLAYING) == [] and browser.text("#play-all") == "Play all"


def test_the_order_can_be_chosen(browser: Browser, report: Path):
    browser.open(report)
    orders = browser.run("return [...document.querySelectorAll('#order option')].map((option) => option.innerText)")
    found = {}
    assert "".join(browser.run(ORDER)) == "abc"
    for order in orders:
        browser.choose("#order", order)
        found[order] = "".join(browser.run(ORDER))
    assert found == {
        "most improved by draft": "abc",
        "most worsened by draft": "cab",
        "most improved by nft": "abc",
        "most worsened by nft": "bca",
        "most errors of base": "bac",
        "most errors of draft": "cba",
        "most errors of nft": "bac",
    }


def test_a_blind_comparison_hides_the_models_counts_the_answers_and_saves_them(browser: Browser, report: Path):
    browser.open(report)
    browser.click("#blind-form button")
    assert browser.text("#blind-progress") == "Sentence 1 of 3"
    assert "base" not in browser.text("#blind-round") and "nft" not in browser.text("#blind-round")
    browser.press("1")
    browser.wait(lambda: browser.run("return blindAudio.currentTime") > 0, "side A does not play")
    better = [browser.run(f"return trials[{number}].a.model") for number in range(2)]
    browser.press("a")
    browser.press("at")
    result = browser.text("#blind-result")
    wins = better.count("base")
    assert result.startswith(f"base {wins}, nft {2 - wins}, ties 1.") and "no clear preference" in result
    browser.click("#blind-download")
    saved = browser.downloads / "preferences.jsonl"
    browser.wait(saved.is_file, "the answers are not saved")
    first, second, tie = map(json.loads, saved.read_text("utf-8").splitlines())
    assert {first["id"], second["id"], tie["id"]} == {"a", "b", "c"}
    for record, model in ((first, better[0]), (second, better[1])):
        assert record["models"][0] == model and record["chosen"] == f"eval/{model}/wavs/{record['id']}.wav"
        assert record["rejected"] != record["chosen"] and record["prompt"] == f"eval/base/prompts/{record['id']}.wav"
        assert record["prompt_text"] == "zero <b>" and (report.parent / record["rejected"]).is_file()
    assert tie["chosen"] is tie["rejected"] is None and len(tie["tie"]) == len(tie["models"]) == 2
