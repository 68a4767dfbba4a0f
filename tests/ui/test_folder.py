from __future__ import annotations

from pathlib import Path

import pytest
from tests.report.folders import tone

from f5_tts.ui.folder import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    root = tmp_path / "work"
    tone(root / "speech" / "a.wav", 440)
    for name in ("ckpts/mine/model_last.pt", "ckpts/mine/metrics.jsonl", ".hidden/model.pt", "data/mini_custom/raw/x"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (tmp_path / "secret.wav").touch()
    return Folder(root)


def test_what_the_page_offers_is_in_the_folder_and_not_hidden(folder: Folder):
    assert folder.checkpoints() == ["ckpts/mine/model_last.pt"]
    assert folder.recordings() == ["speech"]
    assert folder.runs() == ["ckpts/mine"] and folder.data_sets() == ["mini_custom"]


@pytest.mark.parametrize("name", ["../secret.wav", "/etc/passwd", "speech/../../secret.wav", "", "link"])
def test_no_path_outside_is_reached_also_by_a_link(folder: Folder, name: str):
    (folder.root / "link").symlink_to(folder.root.parent / "secret.wav")
    with pytest.raises(ValueError, match="no path in the folder of this page"):
        folder.existing(name)


def test_uploads_get_names_of_their_own_and_must_be_recordings(folder: Folder):
    names = {folder.save_upload("../../my voice.WAV", b"RIFF") for _ in range(2)}
    assert len(names) == 2 and all(name.startswith(".f5-tts/uploads/") for name in names)
    assert all(folder.existing(name).read_bytes() == b"RIFF" and name.endswith("_my_voice.wav") for name in names)
    with pytest.raises(ValueError, match=r"run\.sh is no recording"):
        folder.save_upload("run.sh", b"")
