from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]
from tests.download.hub import Hub

from f5_tts.data.rows import read_hub
from f5_tts.download.hub import find_file
from f5_tts.infer.settings import say_flags
from f5_tts.model.vocoders.vocos import fetch_vocos


def test_a_path_is_itself_and_a_missing_one_is_named_with_its_key(tmp_path: Path):
    (tmp_path / "a.pt").touch()
    assert find_file(str(tmp_path / "a.pt"), "ckpt_file") == tmp_path / "a.pt"
    with pytest.raises(FileNotFoundError, match=r"no file at .*gone\.pt, which ckpt_file names"):
        find_file(str(tmp_path / "gone.pt"), "ckpt_file")


@pytest.mark.parametrize("name", ["hf://org", "hf://org/repo", "hf://org/repo/", "hf:///repo/file"])
def test_an_incomplete_hub_name_is_refused(name: str):
    with pytest.raises(ValueError, match=r"is not of the form hf://org/repo/path"):
        find_file(name, "ckpt_file")


def test_a_file_in_the_hubs_cache_is_found_without_a_network(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "models--org--repo"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc" / "sub").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "sub" / "a.txt").write_text("here")
    assert find_file("hf://org/repo/sub/a.txt", "vocab_file").read_text() == "here"


def test_without_a_network_a_sentence_says_what_to_bring_and_who_takes_it(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    expected = r"copy https://huggingface\.co/org/repo/resolve/main/sub/a\.txt here and give its path as vocab_file"
    with pytest.raises(FileNotFoundError, match=expected):
        find_file("hf://org/repo/sub/a.txt", "vocab_file")


def test_a_download_that_breaks_off_is_a_sentence_with_its_reason(monkeypatch):
    def fails(repository: str, path: str, **_: object) -> str:
        raise HTTPError("connection dropped.")

    monkeypatch.setattr("f5_tts.download.hub.ask_once", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fails)
    with pytest.raises(FileNotFoundError, match=r"a\.txt of org/repo could not be downloaded \(connection dropped\)"):
        find_file("hf://org/repo/a.txt", "vocab_file")


# --- the hub that HF_ENDPOINT names ---

NOBODY = "http://127.0.0.1:9"  # nothing listens there
Endpoint = Callable[[str], None]


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """Return a function that sets what HF_ENDPOINT is when the client is imported; its cache is empty."""

    def set_endpoint(url: str) -> None:
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")

    return set_endpoint


def test_a_file_comes_from_the_hub_of_the_endpoint_and_then_from_the_cache(hub: Hub, endpoint: Endpoint):
    endpoint(hub.url)
    hub.repositories["org/repo", "main"] = {"sub/a.txt": b"here"}
    assert find_file("hf://org/repo/sub/a.txt", "vocab_file").read_text() == "here"
    hub.asked.clear()
    assert find_file("hf://org/repo/sub/a.txt", "vocab_file").read_text() == "here" and hub.asked == []


def test_a_hub_that_fails_is_asked_once(hub: Hub, endpoint: Endpoint):
    """The client itself would ask six times in half a minute, and print each time that it does."""
    endpoint(hub.url)
    hub.repositories["org/repo", "main"] = {"a.txt": b"here"}
    hub.down = True
    with pytest.raises(FileNotFoundError, match=rf"Otherwise copy {hub.url}/org/repo/resolve/main/a\.txt here"):
        find_file("hf://org/repo/a.txt", "vocab_file")
    assert len(hub.asked) == 1


def test_without_a_hub_the_vocoder_is_asked_for_in_the_words_of_infer_which_takes_no_keys(endpoint: Endpoint):
    endpoint(NOBODY)
    with pytest.raises(FileNotFoundError) as caught, say_flags():
        fetch_vocos()
    advice = "into ../checkpoints/vocos-mel-24khz and add --load_vocoder_from_local; or use --vocoder_name griffin_lim"
    message = str(caught.value)
    assert advice in message and "model.vocoder" not in message


@pytest.mark.parametrize("is_offline", [False, True])
def test_a_data_set_that_cannot_be_reached_is_one_sentence_with_what_to_do(
    is_offline: bool, endpoint: Endpoint, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    endpoint(NOBODY)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", is_offline)
    reason = "HF_HUB_OFFLINE is set" if is_offline else r"the hub cannot be reached \(.*Connection refused\)"
    advice = r"copy the data set into a folder and say datasets\.name=hf://FOLDER$"
    with pytest.raises(FileNotFoundError, match=rf"the hub's cache does not hold it, and {reason}; {advice}"):
        read_hub("hf://org/repo")
    assert not [text for _, _, text in caplog.record_tuples if "Retry" in text]
