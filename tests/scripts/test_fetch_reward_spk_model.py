from __future__ import annotations

import hashlib
import io
import random
import tarfile
import zipfile

import pytest
from tests.download.conftest import lying_in
from tests.download.hub import Hub

from f5_tts.scripts.fetch_reward_spk_model import ARCHIVES, COLLECTION, REPOSITORY

pytestmark = pytest.mark.slow

SPK = "fetch_reward_spk_model"
CONFIG, WEIGHTS = b"model: ResNet34\n", random.Random(0).randbytes(3000)
MODEL = {"cnceleb_resnet34/config.yaml": CONFIG, "cnceleb_resnet34/avg_model.pt": WEIGHTS}


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        for name, data in files.items():
            written.writestr(name, data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as written:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            written.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def serve(hub: Hub, files: dict[str, bytes]) -> None:
    hub.repositories[REPOSITORY, "main"] = files


def test_loose_files_of_the_hub_lie_in_a_folder_of_the_models_name(hub, user, tmp_path):
    serve(hub, {"config.yaml": CONFIG, "avg_model.pt": WEIGHTS, ARCHIVES[0]: b"not looked at"})
    root = tmp_path / "model"
    done = user.run(SPK, "--cache_dir", root)
    assert (done.returncode, lying_in(root)) == (0, MODEL)
    assert f"avg_model.pt: sha256 {hashlib.sha256(WEIGHTS).hexdigest()} (fetched; as in {REPOSITORY}" in done.stdout
    folder = root / "cnceleb_resnet34"
    assert done.stdout.endswith(f"next: f5-tts train-rl rl.rewards.providers.0.config.model_dir={folder}\n")
    hub.served.clear()
    assert user.run(SPK, "--cache_dir", root).returncode == 0
    assert hub.served == []


@pytest.mark.parametrize("name, data", [(ARCHIVES[0], zipped(MODEL)), (ARCHIVES[1], tarred(MODEL))], ids=ARCHIVES)
def test_without_loose_files_the_hubs_archive_will_do_and_is_fetched_once(hub, user, tmp_path, name: str, data: bytes):
    serve(hub, {"README.md": b"", "config.yaml": CONFIG, name: data})
    assert user.run(SPK, "--cache_dir", tmp_path / "model").returncode == 0
    assert lying_in(tmp_path / "model") == {**MODEL, name: data}
    assert hub.served == [(name, 0)]
    done = user.run(SPK, "--cache_dir", tmp_path / "model")
    assert done.returncode == 0 and done.stdout.count("(already present; as in ") == 3
    assert hub.served == [(name, 0)]


@pytest.mark.parametrize("first", [None, {"README.md": b""}], ids=["no repository", "nothing in it"])
def test_where_the_repository_has_nothing_the_collection_is_asked(hub, user, tmp_path, first):
    if first is not None:
        serve(hub, first)
    archive = zipped(MODEL)
    hub.repositories[COLLECTION, "main"] = {ARCHIVES[0]: archive, "another.zip": b""}
    done = user.run(SPK, "--cache_dir", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert lying_in(tmp_path / "model") == {**MODEL, ARCHIVES[0]: archive}
    assert f"as in {COLLECTION}" in done.stdout
    done = user.run(SPK, "--cache_dir", tmp_path / "model", "--revision", "v9")
    assert done.returncode == 2 and f"{REPOSITORY} at v9" in done.stderr and COLLECTION not in done.stderr


def test_without_loose_files_or_an_archive_it_says_what_to_do(hub, user, tmp_path):
    serve(hub, {"README.md": b""})
    done = user.run(SPK, "--cache_dir", tmp_path / "model")
    assert done.returncode == 2 and not (tmp_path / "model").exists()
    assert "has no config.yaml, avg_model.pt: try another --revision, or give a zip or tar.gz of it" in done.stderr


def test_an_archive_that_the_user_has_is_taken_without_a_network(hub, user, tmp_path):
    (tmp_path / "mine.zip").write_bytes(zipped(MODEL))
    done = user.run(SPK, "--cache_dir", tmp_path / "model", "--archive", tmp_path / "mine.zip", "--offline")
    assert (done.returncode, lying_in(tmp_path / "model"), hub.asked) == (0, MODEL, [])
    assert f"(copied; as in {tmp_path}/mine.zip)" in done.stdout


def test_an_archive_elsewhere_is_fetched_once_and_gets_no_token(hub, user, tmp_path):
    hub.elsewhere["download"] = zipped(MODEL)
    words = ["--cache_dir", tmp_path / "model", "--archive", f"{hub.url}/elsewhere/download"]
    assert user.run(SPK, *words, HF_TOKEN="hf_secret").returncode == 0
    assert MODEL.items() <= lying_in(tmp_path / "model").items()
    assert [asked.token for asked in hub.asked] == [None]
    assert user.run(SPK, *words, "--offline").returncode == 0
    assert hub.served == [("download", 0)]


def test_the_hub_gets_the_users_token(hub, user, tmp_path):
    serve(hub, {"config.yaml": CONFIG, "avg_model.pt": WEIGHTS})
    user.run(SPK, "--cache_dir", tmp_path / "model", HF_TOKEN="hf_secret")
    tokens = {asked.path.split("/")[1]: asked.token for asked in hub.asked if "agent" not in asked.path}
    assert tokens == {"api": "Bearer hf_secret", "Wespeaker": "Bearer hf_secret", "cdn": None}


def test_a_hostile_archive_leaves_the_model_that_is_there_as_it_was(user, tmp_path):
    (tmp_path / "mine.zip").write_bytes(zipped(MODEL))
    (tmp_path / "hostile.zip").write_bytes(zipped({**MODEL, "../../up": b""}))
    user.run(SPK, "--cache_dir", tmp_path / "model", "--archive", tmp_path / "mine.zip")
    done = user.run(SPK, "--cache_dir", tmp_path / "model", "--archive", tmp_path / "hostile.zip")
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {tmp_path}/hostile.zip is refused: its member '../../up' would lie outside of the folder\n"
    )
    assert lying_in(tmp_path / "model") == MODEL


def test_an_archive_that_is_not_there_and_one_of_a_revision_are_refused(user, tmp_path):
    done = user.run(SPK, "--cache_dir", tmp_path, "--archive", "gone.zip")
    assert (done.returncode, done.stderr) == (2, "error: no file at --archive gone.zip\n")
    done = user.run(SPK, "--cache_dir", tmp_path, "--archive", "gone.zip", "--revision", "v1")
    assert done.returncode == 2 and "give only one of them" in done.stderr


def test_offline_without_the_files_it_says_what_to_bring_where(hub, user, tmp_path):
    done = user.run(SPK, "--cache_dir", tmp_path / "model", "--offline", "--revision", "v1")
    assert (done.returncode, hub.asked) == (2, [])
    place = f"{hub.url}/{REPOSITORY}/resolve/v1"
    assert done.stderr == (
        "error: no connection was made, because of --offline; "
        f"copy these files to {tmp_path}/model/cnceleb_resnet34 manually:\n"
        f"  config.yaml from {place}/config.yaml\n"
        f"  avg_model.pt from {place}/avg_model.pt\n"
        "or give a zip or tar.gz of it: --archive FILE_OR_URL\n"
    )


def test_offline_an_archive_of_the_cache_will_do(hub, user, tmp_path):
    serve(hub, {ARCHIVES[0]: zipped(MODEL)})
    user.fill_cache(REPOSITORY, ARCHIVES[0])
    hub.asked.clear()
    assert user.run(SPK, "--cache_dir", tmp_path / "model", "--offline").returncode == 0
    assert hub.asked == [] and MODEL.items() <= lying_in(tmp_path / "model").items()
