from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests.report.folders import tone, updates, write_metrics, write_samples

from f5_tts.scripts.flags import ui
from f5_tts.ui.__main__ import is_loopback
from f5_tts.ui.app import ANSWERS, MAX_UPLOAD, build_app
from f5_tts.ui.jobs import ENDED, JOB, LOG, Job, Jobs

HERE = "http://127.0.0.1:7860"
ORIGIN = {"origin": HERE}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_samples(write_metrics(tmp_path / "ckpts" / "mine", updates(6)), 6)
    return tmp_path


@pytest.fixture
def client(root: Path) -> TestClient:
    return TestClient(build_app(root), base_url=HERE, follow_redirects=False)


def job_of(root: Path, name: str, ended: str | None, **order: object) -> Path:
    """Write a job as a worker leaves it."""
    folder = root / ".f5-tts" / "jobs" / name
    folder.mkdir(parents=True)
    (folder / JOB).write_text(
        json.dumps({"commands": [["infer"]], "clips": [], "kind": "data", "title": name, **order})
    )
    (folder / LOG).write_text("0 %\r100 %\ndone <b>")
    if ended is not None:
        (folder / ENDED).write_text(ended)
    return folder


@pytest.mark.parametrize("address", ["/", "/compare", "/data", "/train", "/train?command=train", "/runs"])
def test_every_page_is_there_and_loads_nothing_from_elsewhere(client: TestClient, address: str):
    answer = client.get(address)
    assert answer.status_code == 200 and "http" not in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_fields_of_a_run_have_their_comments_beside_them(client: TestClient):
    assert "peak learning rate of AdamW" in client.get("/train").text


def test_a_run_is_watched_with_its_curves_alarms_and_samples(client: TestClient):
    part = client.get("/runs/ckpts/mine?part").text
    assert "Update 6." in part and "error rate by pocketsphinx" in part and "<code>no_spread</code>" in part
    clip = "/files/ckpts/mine/samples/update_6_gen.wav"
    assert clip in part and client.get(clip).headers["content-type"] == "audio/x-wav"


def test_a_run_is_there_from_the_start_of_its_job_and_says_how_it_ended(client: TestClient, root: Path):
    job_of(root, "a1", "2", kind="run", run="ckpts/new")
    part = client.get("/runs/ckpts/new?part").text
    assert "No update yet." in part and "data-ended>failed" in part and 'href="/jobs/a1"' in part
    assert client.get("/runs/ckpts/unknown").status_code == 400


@pytest.mark.parametrize(
    "address",
    ["/files/%2e%2e/x.wav", "/files//etc/passwd", "/files/ckpts/mine/metrics.jsonl", "/runs/%2e%2e"],
)
def test_files_outside_and_others_than_recordings_are_refused(client: TestClient, root: Path, address: str):
    tone(root.parent / "x.wav", 440)
    assert client.get(address).status_code in (400, 404)


def test_a_page_of_another_site_can_neither_read_nor_send(client: TestClient):
    assert client.get("/", headers={"host": "rebound.example"}).status_code == 403
    for origin in ({}, {"origin": "http://evil.example"}, {"origin": "null"}):
        assert client.post("/data", data={"name": "x"}, headers=origin).status_code == 403
    assert client.post("/data", data={"name": "x"}, headers=ORIGIN).status_code == 400  # the form itself is wrong


def test_what_is_too_large_is_refused_before_it_is_read(client: TestClient):
    size = {"content-length": str(MAX_UPLOAD + 1)}
    assert client.post("/", content=b"x", headers={**ORIGIN, **size}).status_code == 413
    assert client.post("/", content=iter([b"x"]), headers=ORIGIN).status_code == 411


def test_beyond_loopback_only_who_knows_the_token_is_answered(root: Path):
    client = TestClient(build_app(root, "secret", hosts=None), base_url="http://10.1.2.3:7860")
    assert client.get("/runs").status_code == client.get("/runs?token=wrong").status_code == 403
    assert client.get("/runs?token=secret").status_code == 200
    assert client.get("/runs").status_code == 200  # by the cookie
    assert ui([]).host == "127.0.0.1"
    assert [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "box")] == [True] * 3 + [
        False
    ] * 2


def test_a_job_shows_its_output_and_an_unknown_one_is_refused(client: TestClient, root: Path):
    job_of(root, "abc1", "2")
    part = client.get("/jobs/abc1?part").text
    assert "failed" in part and "100 %\ndone &lt;b&gt;" in part and "0 %\r" not in part
    assert client.get("/jobs/abc2").status_code == client.get("/jobs/%2e%2e").status_code == 400


def test_a_blind_comparison_names_the_models_after_the_one_answer_that_it_keeps(client: TestClient, root: Path):
    order = {
        "kind": "comparison",
        "clips": ["a.wav", "b.wav"],
        "models": ["x.pt", "y.pt"],
        "prompt": "p",
        "prompt_text": "q",
    }
    folder = job_of(root, "abc1", "0", **order)
    tone(folder / "b.wav", 440)
    before = client.get("/jobs/abc1").text
    assert "x.pt" not in before and "y.pt" not in before and client.get("/jobs/abc1/b.wav").status_code == 200
    assert client.get("/jobs/abc1/job.json").status_code == 400
    assert client.post("/jobs/abc1/answer", data={"answer": "b"}, headers=ORIGIN).status_code == 303
    assert "A was x.pt, B was y.pt" in client.get("/jobs/abc1").text
    assert client.post("/jobs/abc1/answer", data={"answer": "a"}, headers=ORIGIN).status_code == 400
    (record,) = map(json.loads, (root / ANSWERS).read_text().splitlines())
    clips = [f".f5-tts/jobs/abc1/{side}.wav" for side in "ba"]
    assert record == {
        **{"id": "abc1", "prompt": "p", "prompt_text": "q", "text": "abc1"},
        **{"chosen": clips[0], "rejected": clips[1], "models": ["y.pt", "x.pt"]},
    }


@pytest.mark.slow
def test_a_job_goes_on_without_the_page_and_ends_at_the_first_command_that_fails(tmp_path: Path):
    commands = [["env"], ["nonsense"], ["env"]]
    name = Jobs(tmp_path / "jobs").start(tmp_path, commands, {"title": "t", "kind": "data", "clips": []}).id
    job = Jobs(tmp_path / "jobs").find(name)
    assert job.process() is not None
    deadline = time.monotonic() + 60
    while job.state == "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert job.state == "failed" and job.output().count("f5-tts-rl") == 1 and "nonsense" in job.output()


def test_a_job_whose_process_is_gone_was_killed(tmp_path: Path):
    folder = job_of(tmp_path, "abc1", None)
    (folder / "process.json").write_text(json.dumps({"pid": 1, "created": 0.0}))  # that of another process now
    assert Job(folder).state == "killed"
    Job(folder).stop()
