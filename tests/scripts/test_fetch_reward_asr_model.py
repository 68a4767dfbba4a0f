from __future__ import annotations

import hashlib
import re

from tests.download.conftest import lying_in

from f5_tts.scripts.fetch_reward_asr_model import FILES, REPOSITORY

ASR = "fetch_reward_asr_model"


def test_the_model_lies_directly_in_the_folder_and_every_checksum_is_printed(hub, files, user, tmp_path):
    files["README.md"] = b"no part of the model"
    done = user.run(ASR, "--cache_dir", tmp_path / "model")
    assert (done.returncode, lying_in(tmp_path / "model")) == (0, {name: files[name] for name in FILES})
    for name in FILES:
        digest = hashlib.sha256(files[name]).hexdigest()
        assert (
            f"{name}: sha256 {digest} (fetched; as in {REPOSITORY} at {hub.commit(REPOSITORY, 'main')})" in done.stdout
        )
    last = done.stdout.splitlines()[-1]
    words = "next: f5-tts train-rl rl.rewards.providers.1.config.model_id="
    assert last == f"SenseVoiceSmall is in {tmp_path}/model; {words}{tmp_path}/model"


def test_a_file_that_the_hub_does_not_have_is_named_and_nothing_is_fetched(hub, files, user, tmp_path):
    del files["am.mvn"]
    done = user.run(ASR, "--cache_dir", tmp_path / "model")
    assert done.returncode == 2
    assert re.fullmatch(rf"error: {REPOSITORY} at \w{{40}} has no am\.mvn: try another --revision\n", done.stderr)
    assert hub.served == [] and not (tmp_path / "model").exists()


def test_a_file_that_nothing_needs_may_be_missing(files, user, tmp_path):
    del files["tokens.json"]
    assert user.run(ASR, "--cache_dir", tmp_path / "model").returncode == 0
    assert lying_in(tmp_path / "model") == files
