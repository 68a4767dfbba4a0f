"""Model cards, as the hub's own library reads them, and their upload to a hub on loopback."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from tests.tiny import tiny_arch

from f5_tts.commands import find_command
from f5_tts.config.load import compose_config, compose_synthesis_config
from f5_tts.config.schema import TrainConfig
from f5_tts.data.tokenizer import read_vocabulary
from f5_tts.eval.results import Result, write_result
from f5_tts.eval.statistics import Score
from f5_tts.model.build import build_model
from f5_tts.model.checkpoint import ModelSpec, read_checkpoint, write_checkpoint
from f5_tts.report.model_card import CardDetails, license_of, write_card

main = find_command("export").main
SETTINGS = {
    "rl.algorithm": "draft",
    "rl.rewards.providers.0.name": "voice_sim",
    "rl.rewards.providers.0.weight": 2.0,
    "rl.rewards.providers.1.name": "digits_ctc",
    "optim.learning_rate": 2e-4,
}


class UploadHub(BaseHTTPRequestHandler):
    """Takes what the hub's client uploads, all of it inside the commit; `files` has what arrived, by name."""

    files: ClassVar[dict[str, bytes]] = {}
    repositories: ClassVar[list[str]] = []
    tokens: ClassVar[set[str | None]] = set()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.tokens.add(self.headers.get("Authorization"))
        if self.path.endswith("/repos/create"):
            self.repositories.append(
                "/".join(filter(None, (json.loads(body).get(key) for key in ("organization", "name"))))
            )
            self.answer({"url": f"http://127.0.0.1/{self.repositories[-1]}"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(
                {
                    "success": True,
                    "commitOid": "0" * 40,
                    "commitUrl": "https://huggingface.co/someone/model/commit/0",
                    "hookOutput": "",
                }
            )
        else:
            self.answer({"errors": [], "warnings": []})

    def do_GET(self) -> None:
        self.answer({"id": "someone/model", "siblings": [], "sha": "0" * 40})

    def answer(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[UploadHub]]:
    bound = type("Bound", (UploadHub,), {"files": {}, "repositories": [], "tokens": set()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), bound)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield bound
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a training checkpoint of a tiny model with its settings."""
    cfg = compose_config("F5TTS_Mini", [], TrainConfig)
    cfg.model.arch = tiny_arch()
    folder: Path = tmp_path_factory.mktemp("run")
    (folder / "letters.txt").write_text(" \na\nb\n", encoding="utf-8")
    vocabulary = read_vocabulary(folder / "letters.txt")
    torch.manual_seed(0)
    model = build_model(cfg.model, vocabulary)
    spec = ModelSpec.of(cfg.model, vocabulary)
    path = folder / "model_last.pt"
    payload = {"model_state_dict": model.state_dict(), "update": 225, "settings": SETTINGS}
    write_checkpoint(path, {**payload, "model": spec.model, "vocabulary": spec.vocabulary})
    return path


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an evaluation of two clips, with 1 of 5 and 2 of 5 words wrong."""
    folder: Path = tmp_path_factory.mktemp("eval")
    scores = [
        Score(
            id=f"item{edits}",
            seen=False,
            edits=edits,
            words=5,
            char_edits=edits,
            chars=20,
            stutters=False,
            leaks=False,
            similarity=0.5,
            hypothesis="one two",
        )
        for edits in (1, 2)
    ]
    result = Result(ckpt="x", guidance={"whisper": 1.0}, dev_error_rates={}, scores={"whisper": scores}, rtf=0.1)
    write_result(result, folder)
    (folder / "wavs").mkdir()
    for edits in (1, 2):
        (folder / "wavs" / f"item{edits}.wav").write_bytes(b"RIFF")
    return folder


def test_the_card_has_what_the_hub_reads_how_the_model_was_trained_and_what_was_measured(
    checkpoint: Path, evaluation: Path, tmp_path: Path
):
    words = ["--languages", "en", "--datasets", "digits", "--license", "mit", "--eval", str(evaluation)]
    assert main([str(checkpoint), str(tmp_path / "mine"), *words])
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    data = card.data.to_dict()
    assert (data["license"], data["language"], data["datasets"]) == ("mit", ["en"], ["digits"])
    assert data["pipeline_tag"] == "text-to-speech" and "base_model" not in data
    (measured,) = data["model-index"][0]["results"][0]["metrics"]
    assert measured["value"] == 0.3  # 3 of 10 words
    assert "- `rl.algorithm`: draft" in card.text and "- `optim.learning_rate`: 0.0002" in card.text
    assert "- rewards: voice_sim (weight 2), digits_ctc (weight 1)" in card.text
    assert "30.0 % (20.0 to 40.0)" in card.text and "0.500 (0.500 to 0.500)" in card.text
    assert card.text.count("<audio") == 2 and (tmp_path / "mine/samples/item1.wav").read_bytes() == b"RIFF"


def test_the_config_beside_the_weights_is_read_by_the_option_of_that_name(checkpoint: Path, tmp_path: Path):
    assert main([str(checkpoint), str(tmp_path)])
    model = compose_synthesis_config("F5TTS_v1_Base", [], str(tmp_path / "config.yaml")).model
    expected = read_checkpoint(checkpoint).payload["model"]
    assert (model.arch.dim, model.arch.depth) == (expected["arch"]["dim"], expected["arch"]["depth"])
    assert model.tokenizer == expected["tokenizer"] and model.mel_spec.hop_length == expected["mel_spec"]["hop_length"]
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()).keys() == {"model"}


def test_a_checkpoint_without_settings_has_a_card_that_says_so(tmp_path: Path):
    path = tmp_path / "model_last.pt"
    write_checkpoint(path, {"model_state_dict": {"transformer.proj_out.bias": torch.zeros(2)}, "update": 3})
    (card,) = write_card(read_checkpoint(path).with_weights(), tmp_path / "out.safetensors", CardDetails())
    assert "The checkpoint does not record its settings." in card.read_text()


@pytest.mark.parametrize(
    "license_id, expected",
    [(None, "cc-by-nc-4.0"), ("cc-by-nc-sa-4.0", "cc-by-nc-sa-4.0"), ("CC-BY-NC-4.0", "CC-BY-NC-4.0")],
)
def test_a_license_is_carried_over_from_the_base(license_id: str | None, expected: str):
    assert license_of(CardDetails(base_model="SWivid/F5-TTS", license=license_id)) == expected


def test_a_license_that_allows_more_than_the_bases_is_refused_before_anything_is_written(
    checkpoint: Path, tmp_path: Path
):
    words = ["--base_model", "SWivid/F5-TTS", "--license", "apache-2.0"]
    with pytest.raises(ValueError, match=r"--license apache-2\.0: SWivid/F5-TTS has the license cc-by-nc-4\.0"):
        main([str(checkpoint), str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()


def test_an_upload_sends_the_exported_files_and_no_others(
    checkpoint: Path, evaluation: Path, tmp_path: Path, hub: type[UploadHub], capsys
):
    (tmp_path / "private.txt").write_text("secret")
    assert main([str(checkpoint), str(tmp_path), "--eval", str(evaluation), "--push", "someone/model"])
    assert hub.repositories == ["someone/model"] and hub.tokens == {"Bearer hf_write"}
    names = {"model_225.safetensors", "vocab.txt", "README.md", "config.yaml", "samples/item1.wav", "samples/item2.wav"}
    assert hub.files.keys() == names
    assert all(hub.files[name] == (tmp_path / name).read_bytes() for name in names)
    assert "/someone/model\n" in capsys.readouterr().out


def test_a_hub_that_is_away_is_one_sentence(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(OSError, match=r"could not be uploaded to someone/model .* HF_TOKEN"):
        main([str(checkpoint), str(tmp_path), "--push", "someone/model"])
