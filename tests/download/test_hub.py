from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

from f5_tts.download.hub import find_file


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

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fails)
    with pytest.raises(FileNotFoundError, match=r"a\.txt of org/repo could not be downloaded \(connection dropped\)"):
        find_file("hf://org/repo/a.txt", "vocab_file")
