from __future__ import annotations

import re
import subprocess
import sys
from math import nan
from pathlib import Path

import pytest
import soundfile
import torch

from f5_tts.config.load import compose_config
from f5_tts.config.schema import ConfigError, RLTrainConfig
from f5_tts.rewards.audit.corruptions import words_of
from f5_tts.rewards.audition import Audition, audition, ranking_verdict, read_folder, report, select_rows, time_stretch


def folder_of(root: Path, names: list[str], text: str = "one two") -> Path:
    for number, name in enumerate(names):
        path = root / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        tone = 0.3 * torch.sin(0.1 * (number + 1) * torch.arange(16_000))
        soundfile.write(path, tone.numpy(), 16_000)
        path.with_suffix(".txt").write_text(text)
    return root


def settings(*changes: str) -> RLTrainConfig:
    return compose_config("F5TTS_Mini_RL", list(changes), RLTrainConfig)


# --- variants ---


def test_a_folder_is_read_with_its_speakers(tmp_path):
    rows = read_folder(folder_of(tmp_path, ["ann/a", "bob/b", "c"]))
    assert [(row.speaker, row.text, row.duration) for row in rows] == [
        ("ann", "one two", 1.0),
        ("bob", "one two", 1.0),
        (None, "one two", 1.0),
    ]


def test_a_relative_folder_is_read_as_an_absolute_one(tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "clips", ["ann/a", "bob/b"])
    monkeypatch.chdir(tmp_path)
    assert read_folder(Path("clips")) == read_folder(folder)


def test_a_recording_without_a_text_is_named(tmp_path):
    (folder_of(tmp_path, ["a", "b"]) / "b.txt").unlink()
    with pytest.raises(ConfigError, match=r"a\.wav and a\.txt; no text for .*b\.wav"):
        read_folder(tmp_path)
    with pytest.raises(ConfigError, match=r"found none"):
        read_folder(tmp_path / "nowhere")


def test_every_recording_comes_with_its_own_voice_and_another(tmp_path):
    folder = folder_of(tmp_path, ["ann/a", "ann/b", "bob/c", "bob/d", "eve/e", "eve/f"])
    trios = select_rows(settings(f"audition.folder={folder}", "audition.clips=4"))
    assert len({own.audio_path for own, _, _ in trios}) == 4
    for own, same, other in trios:
        assert own.speaker == same.speaker != other.speaker and own.audio_path != same.audio_path


def test_where_nobody_is_known_a_recording_is_its_own_reference(tmp_path):
    folder = folder_of(tmp_path, ["a", "b"])
    for own, same, other in select_rows(settings(f"audition.folder={folder}")):
        assert own is same and other is not own


@pytest.mark.parametrize("text, number", [("九四八", 3), ("ゼロ、いち", 4)])
def test_where_words_are_not_spaced_each_character_is_one(tmp_path, text, number):
    chosen = select_rows(settings(f"audition.folder={folder_of(tmp_path, ['a', 'b'], text)}"))
    assert [len(words_of(own.sentence)) for own, _, _ in chosen] == [number] * 2


@pytest.mark.parametrize(
    "names, text, message",
    [
        (["a"], "one two", r"has 1 recordings of two words and more; an audition needs two"),
        (["a", "b"], "one", r"has 0 recordings of two words"),
        (["ann/a", "ann/b"], "one two", r"needs another speaker beside it"),
        (["ann/a", "bob/b"], "one two", r"needs another recording beside it"),
    ],
)
def test_too_little_to_compare_is_said_so(names, text, message, tmp_path):
    folder = folder_of(tmp_path, names, text)
    with pytest.raises(ConfigError, match=message):
        select_rows(settings(f"audition.folder={folder}"))


def test_slow_speech_has_the_same_sounds_in_more_frames():
    mel = torch.linspace(0, 1, 20)[:, None].repeat(1, 3)
    stretched = time_stretch(mel)
    assert stretched.shape == (36, 3) and bool((stretched.diff(dim=0) >= 0).all())


# --- report ---

SCORES = {
    "recording": {"ear.acc": torch.tensor([1.0, 1.0, 1.0]), "voice.sim": torch.tensor([0.9, 0.8, 0.7])},
    "copy": {"ear.acc": torch.tensor([1.0, 1.0, 0.9]), "voice.sim": torch.tensor([0.8, 0.7, 0.6])},
    "noise": {"ear.acc": torch.tensor([0.0, 0.1, 1.0]), "voice.sim": torch.tensor([0.9, 0.8, 0.7])},
}


def test_the_total_is_in_units_of_each_rewards_spread():
    total = Audition(SCORES, {}).total({"ear.acc": 1.0, "voice.sim": 0.5})
    acc = torch.cat([part["ear.acc"] for part in SCORES.values()]).std(correction=0)
    sim = torch.cat([part["voice.sim"] for part in SCORES.values()]).std(correction=0)
    torch.testing.assert_close(total["copy"][0], 1.0 / acc + 0.5 * 0.8 / sim)


@pytest.mark.parametrize(
    "heard, above, says",
    [
        ("noise", [-1.0, -1.0, 0.5], "yes"),
        ("noise", [-1.0, -1.0, nan], "yes"),  # does not apply to one clip
        ("noise", [-1.0, 0.1, 0.5], "no"),  # lower in the mean, but for one clip of three
        ("noise", [-0.1, -0.1, 0.5], "no"),  # lower for most, but not in the mean
        ("noise", [0.0, 0.0, 0.0], "no"),
        ("recording", [0.0, 0.1, 0.2], "yes"),
        ("recording", [-1.0, -1.0, 0.5], "no"),
        ("copy", [0.0, 0.0, 0.0], ""),
    ],
)
def test_a_person_puts_damage_below_and_the_recording_not(heard: str, above: list[float], says: str):
    assert ranking_verdict(heard, torch.tensor(above)) == says


def test_the_report_says_what_each_reward_lowers_and_raises():
    lines = report(Audition(SCORES, {"ear": 0.5, "voice": 0.002}), {"ear.acc": 1.0, "voice.sim": 1.0}).splitlines()
    assert lines[0] == "| audio | ear.acc | voice.sim | all | ranked correctly |"
    assert lines[4].startswith("| noise | 0.367 (67%) | 0.800 (0%) | ")
    assert "ear.acc: lowers noise; raises nothing; from recording to copy -0.033 ± 0.047; 500.0 ms a clip" in lines
    assert "ear.acc: the recording scores above copy 33%, noise 67%" in lines
    assert "voice.sim: lowers nothing; raises noise; from recording to copy -0.100 ± 0.000; 2.0 ms a clip" in lines


@pytest.mark.slow
@pytest.mark.usefixtures("real_start")
def test_the_embedded_rewards_order_everything_as_a_person_would(tmp_path):
    command = [sys.executable, "-m", "f5_tts.rewards.audition", "-cn", "F5TTS_Mini_RL", f"audition.out={tmp_path}"]
    done = subprocess.run([*command, "audition.clips=12"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    verdicts = dict(re.findall(r"^\| ([a-z ]+) \|.*\| (yes|no|) \|$", done.stdout, re.MULTILINE))
    assert verdicts.pop("copy") == "" and len(verdicts) == 11
    assert set(verdicts.values()) == {"yes"}, done.stdout
    assert (tmp_path / "audition.md").read_text() in done.stdout
    assert (tmp_path / "audition.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.glob("*.wav"))) == 12


def test_a_reward_that_knows_digits_alone_refuses_other_texts(tmp_path):
    folder = folder_of(tmp_path, ["a", "b"], "the quick fox")
    chosen = settings(f"audition.folder={folder}", "rl.rewards.providers=[{name: digits_ctc}]")
    with pytest.raises(
        ValueError, match=r"digits_ctc knows the words eight, .* and 2 of 2 texts have others: 'the quick"
    ):
        audition(chosen)
