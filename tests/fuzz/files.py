"""Valid small files of every format that the package reads, each with its reader."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml
from datasets import Dataset as Table
from safetensors.torch import save_file
from tests.fuzz.mutations import Case
from tests.rewards.wespeaker import make_directory
from tests.tiny import MINI_MEL

from f5_tts.config.load import compose_config, compose_synthesis_config
from f5_tts.config.schema import TrainConfig
from f5_tts.data.audio import load_audio
from f5_tts.data.formats import read_entries
from f5_tts.data.rows import read_rows
from f5_tts.data.tokenizer import read_vocabulary
from f5_tts.download.archive import unpack
from f5_tts.eval.results import Result, Score, read_result, write_result
from f5_tts.eval.test_set import read_items
from f5_tts.infer.reference import read_reference
from f5_tts.infer.settings import read_settings, read_text, split_by_voice, synthesis_config
from f5_tts.model.checkpoint import Checkpoint, export_weights, read_checkpoint, write_checkpoint
from f5_tts.model.vocoders.vocos import Vocos, read_vocos
from f5_tts.rewards.asr import sensevoice
from f5_tts.rewards.asr.funasr_model import check_files, weight_shapes
from f5_tts.rewards.asr.sensevoice import FILES
from f5_tts.rewards.remote.client import read_description
from f5_tts.rewards.remote.protocol import decode_inputs, decode_scores, encode_inputs, encode_scores
from f5_tts.rewards.speaker.wespeaker_sim import read_resnet
from f5_tts.scripts.prepare import Journal
from f5_tts.train.metrics_log import MetricsLog
from f5_tts.train.trackers import run_id
from f5_tts.types import RewardInput

WEIGHTS = {"transformer.a": torch.arange(12.0).reshape(3, 4), "transformer.b": torch.tensor([0.5, -1.25])}
ITEM = {"id": "a_0", "prompt_audio": "a.wav", "prompt_text": "one", "text": "two", "duration": 1.5, "speaker": "x"}
ROWS = {"audio_path": ["a.wav", "b.wav"], "text": ["one", "zwei ü"], "duration": [1.0, 2.0], "speaker": ["x", "y"]}
SENSEVOICE = {
    "model": "SenseVoiceSmall",
    "encoder": "SenseVoiceEncoderSmall",
    "tokenizer": "SentencepiecesTokenizer",
    "frontend": "WavFrontend",
}
CLIP = RewardInput(audio=torch.ones(40), sample_rate=16_000, text="one", row={"mood": "glad"})
DESCRIPTION = {"protocol": 2, "name": "probe", "component": "wer", "words": True, "max_bytes": 100}


def cases(folder: Path) -> Iterator[Case]:
    for part in (checkpoints, models, data_sets, lists, recordings, configs, kept, messages, archives):
        (home := folder / part.__name__).mkdir()
        yield from part(home)


def checkpoints(folder: Path) -> Iterator[Case]:
    raw, exported, bare = folder / "model_last.pt", folder / "ours.safetensors", folder / "bare.safetensors"
    card = {"model": {"backbone": "DiT"}, "vocabulary": [" ", "a"]}
    write_checkpoint(raw, {"model_state_dict": WEIGHTS, "update": 3, "objective": "mse", **card})
    yield Case("checkpoint .pt", raw, lambda: read_checkpoint(raw), raw.name, is_ours(read_checkpoint(raw)))
    export_weights(read_checkpoint(raw), exported, torch.float32)
    ours = is_ours(read_checkpoint(exported))
    yield Case("checkpoint .safetensors, ours", exported, lambda: read_checkpoint(exported), exported.name, ours)
    save_file({f"ema_model.{name}": value for name, value in WEIGHTS.items()}, bare)
    yield Case("checkpoint .safetensors, published", bare, lambda: read_checkpoint(bare), bare.name)


def is_ours(whole: Checkpoint) -> Callable[[Checkpoint], bool]:
    """Return a function that checks whether a checkpoint equals this one bit for bit."""

    def same(found: Checkpoint) -> bool:
        alike = found.weights.keys() == whole.weights.keys() and found.update == whole.update
        alike = alike and found.spec == whole.spec
        return alike and all(torch.equal(value, found.weights[name]) for name, value in whole.weights.items())

    return same


def models(folder: Path) -> Iterator[Case]:
    vocos = folder / "vocos"
    vocos.mkdir()
    sizes = {"dim": 8, "intermediate_dim": 12, "num_layers": 1}
    torch.save(Vocos(MINI_MEL, **sizes).state_dict(), vocos / "pytorch_model.bin")
    (vocos / "config.yaml").write_text(yaml.safe_dump(vocos_config(sizes)))
    for name in ("config.yaml", "pytorch_model.bin"):
        yield Case(f"Vocos {name}", vocos / name, lambda: read_vocos(vocos, MINI_MEL), str(vocos))
    speaker = make_directory(folder / "wespeaker", m_channels=1, feat_dim=8, embed_dim=2)
    for name in ("config.yaml", "avg_model.pt"):
        yield Case(f"WeSpeaker {name}", speaker / name, lambda: read_resnet(speaker), str(speaker))
    hearing, kind = folder / "sensevoice", sensevoice.SENSEVOICE
    hearing.mkdir()
    for name in FILES:
        (hearing / name).write_text("{}")
    (hearing / "config.yaml").write_text(yaml.safe_dump(SENSEVOICE))
    torch.save(WEIGHTS, hearing / "model.pt")
    yield Case("SenseVoice config.yaml", hearing / "config.yaml", lambda: check_files(hearing, kind), "config.yaml")
    shapes = {name: value.shape for name, value in WEIGHTS.items()}
    same = shapes.__eq__
    yield Case(
        "SenseVoice model.pt", hearing / "model.pt", lambda: weight_shapes(hearing / "model.pt", kind), "pt", same
    )


def vocos_config(sizes: dict[str, int]) -> dict[str, Any]:
    """Return a config.yaml like the published one, for the mels of the small models."""
    mel = {"sample_rate": 16_000, "n_fft": 1024, "hop_length": 320, "n_mels": 100, "padding": "center"}
    head = {"dim": 8, "n_fft": 1024, "hop_length": 320, "padding": "center"}
    return {
        "feature_extractor": {"class_path": "vocos.feature_extractors.MelSpectrogramFeatures", "init_args": mel},
        "backbone": {"class_path": "vocos.models.VocosBackbone", "init_args": {"input_channels": 100, **sizes}},
        "head": {"class_path": "vocos.heads.ISTFTHead", "init_args": head},
    }


def data_sets(folder: Path) -> Iterator[Case]:
    saved, plain = folder / "saved", folder / "plain"
    for place in (saved, plain):
        place.mkdir()
        (place / "duration.json").write_text(json.dumps({"duration": [1.0, 2.0]}))
    Table.from_dict(ROWS).save_to_disk(str(saved / "raw"))
    (plain / "raw.arrow").write_bytes((saved / "raw" / "data-00000-of-00001.arrow").read_bytes())
    for path in (saved / "duration.json", *sorted((saved / "raw").iterdir())):
        yield Case(f"data set {path.name}", path, lambda: read_rows(saved), str(saved), cost=4)
    yield Case("data set raw.arrow", plain / "raw.arrow", lambda: read_rows(plain), str(plain), cost=2)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text(" \na\nü\n")
    yield Case("vocab.txt", vocabulary, lambda: read_vocabulary(vocabulary), "vocab.txt")


def lists(folder: Path) -> Iterator[Case]:
    texts = {
        "csv": ("list.csv", "audio_file|text|mood\na.wav|one|glad\nb.wav|zwei ü|sad\n"),
        "commas": ("commas.csv", 'audio_file,text\na.wav,"one, two"\n'),
        "ljspeech": ("metadata.csv", "LJ001|One.|one\nLJ002|Two.|two\n"),
        "jsonl": ("list.jsonl", '{"audio": "a.wav", "text": "one", "mood": 3}\n{"audio": "b.wav", "text": "zwei"}\n'),
    }
    (folder / "wavs").mkdir()
    for kind, (name, text) in texts.items():
        path, forced = folder / name, "csv" if kind == "commas" else kind
        path.write_text(text)
        yield Case(f"list {kind}", path, lambda path=path, forced=forced: entries(path, forced), name)
    (output := folder / "folder").mkdir()
    soundfile.write(output / "a.wav", np.ones(2000), 8000)
    (output / "a.txt").write_text("one ü")
    yield Case("list folder", output / "a.txt", lambda: entries(output, "folder"), "a.txt")
    items = folder / "test.jsonl"
    items.write_text("".join(json.dumps({**ITEM, "id": name, "seen": False}) + "\n" for name in ("a_0", "b")))
    yield Case("items .jsonl", items, lambda: read_items(items), items.name)


def entries(path: Path, kind: str) -> None:
    """Read all entries and write them as JSON, as `prepare` does."""
    for entry in read_entries(path, kind)[1]:
        json.dumps([entry.place, entry.audio, entry.text, dict(entry.columns), entry.problem]).encode()
        f"{entry}".encode()


def recordings(folder: Path) -> Iterator[Case]:
    wave = 0.3 * np.sin(0.2 * np.arange(8000))
    for name, subtype in (("a.wav", "PCM_16"), ("b.wav", "FLOAT"), ("a.flac", None), ("a.ogg", None), ("a.mp3", None)):
        path = folder / name
        soundfile.write(path, wave, 8000, subtype=subtype)
        kind = f"{path.suffix[1:]} {subtype or ''}".strip()
        yield Case(f"audio {kind}", path, lambda path=path: heard(load_audio(path, 16_000, 30.0)), name, cost=2)
    voice = folder / "a.wav"
    spoken = lambda: heard(read_reference(voice, "one", 16_000).wave)  # noqa: E731
    yield Case("reference", voice, spoken, voice.name, cost=2)


def heard(wave: torch.Tensor) -> None:
    assert wave.ndim == 1 and len(wave) > 1000 and bool(wave.isfinite().all()) and bool(wave.any())


def configs(folder: Path) -> Iterator[Case]:
    config, toml, text = folder / "model.yaml", folder / "say.toml", folder / "say.txt"
    config.write_text("defaults: [F5TTS_Mini, _self_]\nmodel:\n  arch: {dim: 32, depth: 2}\ninfer:\n  speed: 1.5\n")
    yield Case("config YAML", config, lambda: compose_synthesis_config("F5TTS_Mini", [], str(config)), "", cost=8)
    toml.write_text(
        'model = "F5TTS_Mini"\nref_audio = "a.wav"\ngen_text = "one [other] two"\nspeed = 1.5\nseed = 3\n'
        'remove_silence = true\n[voices.other]\nref_audio = "b.wav"\n'
    )
    yield Case("config TOML", toml, lambda: asked(["-c", str(toml)]), "", cost=8)
    text.write_text("one [main] zwei ü")
    yield Case("gen_file", text, lambda: split_by_voice(read_text({"gen_file": str(text)}), ["main"]), "")


def asked(argv: list[str]) -> None:
    given = read_settings(argv)
    split_by_voice(read_text(given), ["main", *given["voices"]])
    synthesis_config(given)


def kept(folder: Path) -> Iterator[Case]:
    metrics, scores, tracker = folder / "metrics.jsonl", folder / "scores.json", folder / "tracker_id"
    metrics.write_text("".join(json.dumps({"update": n, "loss": 0.5, "x": None}) + "\n" for n in range(1, 5)))
    yield Case("metrics.jsonl", metrics, lambda: resumed(folder), metrics.name)
    transcripts = {
        "edits": 1,
        "words": 3,
        "char_edits": 2,
        "chars": 9,
        "stutters": False,
        "leaks": True,
        "hypothesis": "one",
    }
    score = Score(id="a", seen=False, similarity=0.5, opinions={"utmos": 3.5}, **transcripts)
    rates = {"pocketsphinx": {"1.0": 0.25}}
    whole = {"pocketsphinx": [score]}
    result = Result(ckpt="a.pt", guidance={"pocketsphinx": 1.0}, dev_error_rates=rates, scores=whole, rtf=0.1, mark="m")
    write_result(result, folder)
    yield Case("scores.json", scores, lambda: summarised(folder), scores.name)
    tracker.write_text("abcd1234\n")
    ckpts = compose_config("F5TTS_Mini", [f"ckpts.save_dir={folder}"], TrainConfig).ckpts
    yield Case("tracker_id", tracker, lambda: run_id(ckpts, 1).encode("ascii"), tracker.name)
    journal = folder / "journal.jsonl"
    journal.write_text('{"entries": 2}\n{"text": "zwei ü", "duration": 1.0}\n{"text": "two", "duration": 2.0}\n')
    yield Case("prepare journal", journal, lambda: Journal(journal, '{"entries": 2}').results, journal.name)


def resumed(folder: Path) -> None:
    """Resume a metrics log at update 3 and check that it holds each update at most once."""
    MetricsLog(folder, first=3, total=3, title="fuzz").close()
    updates = [json.loads(line)["update"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(update <= 3 for update in updates)


def summarised(folder: Path) -> None:
    result = read_result(folder)
    for asr in result.scores:
        if result.unseen(asr):
            result.summary(asr)


def messages(folder: Path) -> Iterator[Case]:
    request, answer, description = folder / "request", folder / "answer", folder / "description"
    request.write_bytes(encode_inputs([CLIP], "call"))
    yield Case("wire request", request, lambda: decode_inputs(request.read_bytes()), "")
    answer.write_bytes(encode_scores({"wer": torch.tensor([0.5]), "text": ["one"]}, "call"))
    yield Case("wire scores", answer, lambda: decode_scores(answer.read_bytes(), "call"), "")
    description.write_text(json.dumps(DESCRIPTION))
    yield Case("wire description", description, lambda: described(description.read_bytes()), "host")


def described(answer: bytes) -> None:
    served = read_description(answer, "probe", "host")
    assert [type(served[key]) for key in ("component", "words", "max_bytes")] == [str, bool, int]


def archives(folder: Path) -> Iterator[Case]:
    names = ("config.yaml", "avg_model.pt")
    content = {f"m/{name}": name.encode() * 40 for name in names}
    packed, zipped = folder / "a.tar.gz", folder / "a.zip"
    with tarfile.open(packed, "w:gz") as tar:
        for name, data in content.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, BytesIO(data))
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    for path in (packed, zipped):
        yield Case(f"archive {path.name}", path, lambda path=path: unpacked(path, names), path.name)


def unpacked(path: Path, names: tuple[str, ...]) -> None:
    """Extract the named files and check that nothing else is written, inside or outside of the folder."""
    around = path.parent / "around"
    inside = around / "inside"
    inside.mkdir(parents=True, exist_ok=True)
    try:
        unpack(path, names, inside)
        assert all((inside / name).read_bytes() == name.encode() * 40 for name in names)
    finally:
        assert {found.name for found in around.rglob("*")} <= {"inside", *names}
        for name in names:
            (inside / name).unlink(missing_ok=True)
