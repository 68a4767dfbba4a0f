"""The page of `f5-tts ui` in a real browser: it fits, can be read, speaks, compares, and starts and watches a run."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from tests.browser.page import Browser
from tests.e2e.runs import REPOSITORY, make_data_set

from f5_tts.ui.app import ANSWERS, build_app

pytestmark = [pytest.mark.browser, pytest.mark.slow]
JOB_S = 240  # on a busy machine
PAGES = ("", "compare", "data", "train", "train?command=train", "runs")
TINY = "model.arch.dim=16\nmodel.arch.depth=1\nmodel.arch.heads=1\nmodel.arch.text_dim=8\nmodel.arch.conv_layers=0"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with two copies of the shipped model, a data set of noise, and a recording."""
    folder: Path = tmp_path_factory.mktemp("work")
    for name in ("F5TTS_Mini", "copy/F5TTS_Mini"):
        shutil.copytree(REPOSITORY / "pretrained" / "F5TTS_Mini", folder / name)
    shutil.copytree(REPOSITORY / "pretrained" / "digits_ctc", folder / "pretrained" / "digits_ctc")  # a reward's
    make_data_set(folder, num=4)
    shutil.copy(REPOSITORY / "data/mini_custom/wavs/test_00_test_prompt_1.flac", folder / "voice.flac")
    return folder


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    """Serve the page of the folder on loopback."""
    server = uvicorn.Server(uvicorn.Config(build_app(root), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


def fill(browser: Browser, **values: str) -> None:
    for name, value in values.items():
        browser.driver.find_element("name", name).send_keys(value)


def ended(browser: Browser) -> str:
    """Wait until a job has ended, as its page shows; return its state."""
    browser.wait(
        lambda: browser.run("return !!document.querySelector('[data-ended]')"), "the job does not end", seconds=JOB_S
    )
    return browser.text("#state")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_every_page_fits_can_be_read_and_logs_nothing(browser: Browser, address: str, width: int, dark: bool):
    found = {}
    for page in PAGES:
        browser.open(address + page, width=width, dark=dark)
        browser.run("for (const part of document.querySelectorAll('details')) part.open = true")
        found[page] = browser.problems()
    assert not any(found.values()), found


def test_it_speaks_in_the_voice_of_a_recording(browser: Browser, address: str, root: Path):
    browser.open(address)
    browser.choose("#checkpoint", "F5TTS_Mini/model_800.safetensors")
    fill(browser, recording_0=str(root / "voice.flac"), said_0="seven two four", text="nine four eight")
    browser.click("main button")
    assert ended(browser) == "done"
    (duration,) = browser.durations()
    assert 0.3 < duration < 3 and browser.problems() == {}


def test_it_compares_two_checkpoints_blind_and_keeps_the_answer(browser: Browser, address: str, root: Path):
    browser.open(address + "compare")
    browser.choose("#checkpoint", "F5TTS_Mini/model_800.safetensors")
    browser.choose("#other", "copy/F5TTS_Mini/model_800.safetensors")
    fill(browser, recording_0=str(root / "voice.flac"), said_0="seven two four", text="one five")
    browser.click("main button")
    assert ended(browser) == "done" and "safetensors" not in browser.text("main")
    browser.click("[value=b]")
    browser.wait(lambda: "You answered B." in browser.text("main"), "the answer")
    record = json.loads((root / ANSWERS).read_text("utf-8"))
    assert record["models"][0] in browser.text("main") and (root / record["chosen"]).name == "b.wav"


def test_it_starts_a_run_and_watches_it(browser: Browser, address: str, root: Path):
    browser.open(address + "train?command=train")
    browser.choose("#config", "F5TTS_Mini")
    browser.choose("#data_set", "noise_custom")
    keys = {"optim.max_updates": "2", "datasets.batch_size_per_gpu": "500", "eval.every_updates": "0"}
    fill(browser, name="tiny", more=f"{TINY}\ndatasets.pair_speakers=false\noptim.num_warmup_updates=0", **keys)
    browser.click("main button")
    assert ended(browser).startswith("done"), browser.text("pre")
    browser.click("#state a")
    assert "Update 2." in browser.text("main") and browser.run("return document.querySelectorAll('svg').length") >= 2
    assert browser.problems() == {} and (root / "ckpts/tiny/run.yaml").is_file()


def test_it_starts_stage_2_and_shows_it_live_to_its_report(browser: Browser, address: str, root: Path):
    browser.open(address + "train")
    browser.choose("#config", "F5TTS_Mini_Draft")
    browser.choose("#data_set", "noise_custom")
    browser.choose("#start", "F5TTS_Mini/model_800.safetensors")
    keys = {"optim.max_updates": "3", "datasets.batch_size_per_gpu": "2", "eval.every_updates": "0"}
    saved = {"ckpts.log_samples": "true", "ckpts.save_per_updates": "2"}
    more = ["datasets.pair_speakers=false", "rl.prompt_frac_range=[0.2,0.4]", "rl.stop_when=null"]
    more += ["optim.num_warmup_updates=0"]
    fill(browser, name="tiny_rl", more="\n".join(more), **keys, **saved)
    browser.click("main button")
    browser.wait(lambda: browser.run("return !!document.querySelector('#state a')"), "the job does not start")
    browser.click("#state a")  # to the run, which has no folder yet
    assert browser.text("#state").startswith("running") and browser.text("#update") == "No update yet."
    assert ended(browser).startswith("done"), root
    assert browser.text("#update") == "Update 3. Report" and min(browser.durations()) > 0.1 and browser.problems() == {}
    assert browser.run("return document.querySelectorAll('svg').length") >= 4
    browser.click("#update a")
    assert "tiny_rl: not evaluated" in browser.text("#verdict") and browser.problems() == {}
