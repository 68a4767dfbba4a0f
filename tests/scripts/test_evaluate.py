"""Evaluation of a tiny random model; prompts, vocoder, recogniser and speaker encoder are the real ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from f5_tts.config.load import compose_config
from f5_tts.config.schema import ConfigError, TrainConfig
from f5_tts.data.tokenizer import build_vocabulary
from f5_tts.eval.evaluator import settings_of
from f5_tts.eval.judges import VOICE_JUDGE, Judges
from f5_tts.eval.results import Result, read_result
from f5_tts.model.build import build_model
from f5_tts.model.checkpoint import HEAD, Checkpoint, write_checkpoint
from f5_tts.scripts.evaluate import evaluate
from f5_tts.types import RewardInput

TINY = ["model.arch.dim=32", "model.arch.depth=1", "model.arch.heads=2", "model.arch.text_dim=16"]
TINY += ["model.arch.conv_layers=1", "eval.steps=2", "eval.takes=2", "eval.num_wavs=2", "datasets.name=mini"]
SIZES = {"weight": (100, 32), "bias": (100,)}
LISTS = Path("data/mini_custom")


def few_items(folder: Path) -> None:
    for name in ("dev", "test"):
        rows = (LISTS / f"{name}.jsonl").read_text("utf-8").splitlines()
        unseen = [row for row in rows if not json.loads(row)["seen"]][:3]
        seen = [row for row in rows if json.loads(row)["seen"]][:1]
        (folder / f"{name}.jsonl").write_text("\n".join(unseen + seen) + "\n", encoding="utf-8")


def tiny_run(tmp_path: Path, *more: str) -> TrainConfig:
    few_items(tmp_path)
    paths = [f"eval.ckpt={tmp_path / 'model.pt'}", f"eval.out={tmp_path / 'out'}", f"eval.items_dir={tmp_path}"]
    return compose_config("F5TTS_Mini", [*TINY, *paths, *more], TrainConfig)


@pytest.mark.slow
def test_an_evaluation_scores_every_item_and_keeps_some_clips_and_repeats_exactly(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, "eval.recognisers=[pocketsphinx,whisper]", "eval.providers=[{name: voice_sim}]")
    torch.manual_seed(0)
    model = build_model(run.model, build_vocabulary(run))
    write_checkpoint(tmp_path / "model.pt", {"model_state_dict": model.state_dict()})
    first = evaluate(run)
    assert read_result(tmp_path / "out") == first
    rates = first.dev_error_rates["pocketsphinx"]
    assert rates.keys() == {"0", "1", "2"}
    assert rates[f"{first.guidance['pocketsphinx']:g}"] == min(rates.values())
    assert first.dev_error_rates.keys() == {"pocketsphinx"}  # whisper is not asked on dev
    assert first.guidance["whisper"] == first.guidance["pocketsphinx"]
    heard, judged = first.scores["pocketsphinx"], first.scores["whisper"]
    assert [(s.id, s.similarity, s.opinions) for s in heard] == [(s.id, s.similarity, s.opinions) for s in judged]
    assert all(0 < score.opinions["voice_sim"] < 1 for score in heard)
    scores = first.scores["pocketsphinx"]
    assert [score.seen for score in scores] == [False, False, False, True] * 2
    takes = zip(scores[:4], scores[4:], strict=True)
    assert all(one.id == two.id and one.similarity != two.similarity for one, two in takes)
    written = json.loads((tmp_path / "out" / "scores.json").read_text("utf-8"))
    assert written["metrics"] == first.metrics() and first.rtf and first.metrics()["eval/rtf"] == first.rtf > 0
    assert first.metrics()["eval/wer"] == sum(s.edits for s in scores if not s.seen) / sum(
        s.words for s in scores if not s.seen
    )
    kept = sorted((tmp_path / "out" / "wavs").iterdir())
    assert len(kept) == 2
    assert soundfile.info(kept[0]).samplerate == 16_000
    assert evaluate(run) == first


@pytest.mark.slow
def test_weights_that_spoke_before_are_not_heard_again_but_for_a_change_that_can_be_heard(
    tmp_path: Path, capsys
) -> None:
    """A Gaussian head does not change the mean velocity, so it does not require a new evaluation."""
    run = tiny_run(tmp_path)
    torch.manual_seed(0)
    weights = build_model(run.model, build_vocabulary(run)).state_dict()
    write_checkpoint(tmp_path / "model.pt", {"model_state_dict": weights})
    first = evaluate(run)

    def again(weights: dict[str, torch.Tensor]) -> Result:
        write_checkpoint(tmp_path / "later.pt", {"model_state_dict": weights})
        paths = [f"eval.ckpt={tmp_path / 'later.pt'}", f"eval.out={tmp_path / 'b'}", f"eval.known={tmp_path / 'out'}"]
        return evaluate(tiny_run(tmp_path, *paths))

    head = {f"transformer.proj_out_ln_sig.{name}": torch.ones(size) for name, size in SIZES.items()}
    assert again(weights | head) == replace(first, ckpt=str(tmp_path / "later.pt"))
    assert "bit for bit" in capsys.readouterr().out
    assert len(list((tmp_path / "b" / "wavs").iterdir())) == 2

    name = "transformer.proj_out.bias"
    assert again(weights | {name: weights[name] + 1e-3}).mark != first.mark
    assert "bit for bit" not in capsys.readouterr().out


class Ears:
    """Recognizer that hears the number of a clip's samples, and fails at one clip, counted from 1."""

    component, known_words, languages = "acc", None, None

    def __init__(self, fails_at: int = 0) -> None:
        self.asked, self.fails_at = 0, fails_at

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
        self.asked += len(inputs)
        if self.asked == self.fails_at:
            raise RuntimeError("the machine went away")
        return {"acc": [1.0] * len(inputs), "heard": [f"one {len(item.audio)}" for item in inputs]}


class Loudness:
    """Stand-in for speaker similarity, which differs between any two clips."""

    component = "sim"

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        return [float(item.audio.double().square().mean()) for item in inputs]


@pytest.mark.slow
def test_an_interrupted_evaluation_goes_on_where_it_was_and_other_settings_start_anew(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    items = seed_list(tmp_path)
    paths = [f"eval.list={items}", f"eval.dev_list={items}", f"eval.ckpt={tmp_path / 'model.pt'}"]
    settings = ["eval.batch_size=1", "eval.cfg_strengths=[0,1]", "eval.dev_takes=1"]
    run = compose_config("F5TTS_Mini", [*TINY, *paths, *settings], TrainConfig)
    model = build_model(run.model, build_vocabulary(run))
    write_checkpoint(tmp_path / "model.pt", {"model_state_dict": model.state_dict()})

    def evaluated(out: str, ears: Ears) -> Result:
        judges = Judges(recognizers={"pocketsphinx": ears}, scorers={VOICE_JUDGE: Loudness()})
        monkeypatch.setattr("f5_tts.scripts.evaluate.build_judges", lambda settings: judges)
        run.eval.out = str(tmp_path / out)
        return evaluate(run)

    whole = evaluated("whole", Ears())
    with pytest.raises(ValueError, match="the machine went away"):
        evaluated("out", Ears(fails_at=2 * 2 + 3))  # two strengths on dev, and three clips of test
    assert len(list((tmp_path / "out/unfinished/test").rglob("*.wav"))) == 4  # two items, two takes
    assert not (tmp_path / "out/scores.json").exists()
    shutil.copytree(tmp_path / "out", tmp_path / "changed")
    capsys.readouterr()

    again = Ears()
    with monkeypatch.context() as patched:  # everything has been spoken
        patched.setattr("f5_tts.eval.evaluator.generate_batched", None)
        assert evaluated("out", again) == whole
    assert again.asked == 2 + 2  # the third and the fourth clip, and the two prompts
    assert "unfinished: an evaluation with the same settings was interrupted; it goes on" in capsys.readouterr().out
    left = {"examples.jsonl", "prompts", "results.md", "scores.json", "wavs"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == left
    clip = next((tmp_path / "out/wavs").iterdir())
    assert clip.read_bytes() == (tmp_path / "whole/wavs" / clip.name).read_bytes()

    run.eval.seed = 7
    assert evaluated("changed", Ears()) != whole
    assert "an interrupted evaluation had other settings (eval.seed); this one starts anew" in capsys.readouterr().out


@pytest.mark.parametrize("drawn", ["true", "false"])
def test_a_gaussian_head_can_be_heard_where_it_is_drawn_from(tmp_path: Path, drawn: str) -> None:
    gaussian = ["output_dist=gaussian", "objective=gaussian_nll", "use_rl_head=true", f"sample_from_dist={drawn}"]
    run = tiny_run(tmp_path, *(f"model.{key}" for key in gaussian))
    vocabulary = build_vocabulary(run)
    at_zero, at_one = (
        settings_of(
            run,
            Checkpoint(path=tmp_path, weights={f"{HEAD}bias": torch.full((100,), value)}, payload={}),
            vocabulary,
            [],
        )
        for value in (0.0, 1.0)
    )
    assert (at_zero != at_one) == (drawn == "true")


def test_results_of_another_version_are_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text('{"ckpt": "a.pt", "scores": {"whisper": [{"id": "1"}]}}', encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"scores\.json is damaged, or of another version .*: remove it, and make it with"
    ):
        read_result(tmp_path)


@pytest.mark.slow
def test_clips_of_another_system_are_scored_and_missing_ones_are_named(tmp_path: Path, capsys):
    """The clips are real recordings of the digits of the texts: one of the right text, one of another."""
    (tmp_path / "wavs").mkdir()
    rows = []
    texts = ("one one", "two two")
    for name, text in zip("abc", (*texts, "three"), strict=True):
        prompt = "data/mini_custom/wavs/train_00_0000.flac"
        rows.append(json.dumps({"id": name, "prompt_audio": prompt, "prompt_text": "one one", "text": text}))
        if text in texts:
            soundfile.write(tmp_path / "wavs" / f"{name}.wav", *soundfile.read(prompt))
    (tmp_path / "own.jsonl").write_text("\n".join(rows), encoding="utf-8")
    paths = [f"eval.wavs={tmp_path / 'wavs'}", f"eval.out={tmp_path / 'out'}", f"eval.list={tmp_path / 'own.jsonl'}"]
    run = compose_config("F5TTS_Mini", ["datasets.name=mini", *paths], TrainConfig)
    run.eval.recognisers = run.eval.recognisers[:1]
    result = evaluate(run)
    assert "1 of 3 items have no clip: c\n" in capsys.readouterr().out
    assert [(score.id, score.edits, score.words) for score in result.scores["pocketsphinx"]] == [
        ("a", 0, 2),
        ("b", 2, 2),
    ]
    assert all(score.similarity > 0.99 for score in result.scores["pocketsphinx"])  # the clip is the prompt
    assert read_result(tmp_path / "out") == result
    assert "eval/rtf" not in result.metrics() and result.metrics()["eval/wer"] == 0.5
    assert "guidance" not in result.summary("pocketsphinx")
    run.eval.wavs = str(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no clip of an item; they are named by id, as a\.wav"):
        evaluate(run)


def test_an_evaluation_without_a_checkpoint_says_which_keys_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"eval\.ckpt=FILE"):
        evaluate(compose_config("F5TTS_Mini", ["datasets.name=mini"], TrainConfig))


def test_an_evaluation_is_not_compared_with_the_folder_that_it_writes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^eval\.against=.*out is eval\.out, which is written"):
        evaluate(tiny_run(tmp_path, f"eval.against={tmp_path / 'out'}"))


def test_a_key_that_belongs_to_a_list_needs_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^eval\.dev_list belongs to eval\.list, which is not set"):
        evaluate(tiny_run(tmp_path, "eval.dev_list=dev.lst"))


@pytest.mark.parametrize(
    ("option", "words"),
    [("eval.speaker_judge=nobody:x", "there is no module nobody"), (None, "cannot write to eval.out=")],
)
def test_a_judge_or_a_folder_that_will_not_do_is_said_before_anything_is_synthesized(tmp_path: Path, option, words):
    """The prompts are not there, so that a synthesis would fail by them."""
    run = tiny_run(tmp_path, *filter(None, [option]))
    model = build_model(run.model, build_vocabulary(run))
    write_checkpoint(tmp_path / "model.pt", {"model_state_dict": model.state_dict()})
    for name in ("dev", "test"):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(path.read_text("utf-8").replace(".flac", ".gone"), encoding="utf-8")
    if option is None:
        (tmp_path / "out").touch()
    with pytest.raises((ValueError, OSError), match=words):
        evaluate(run)


SHIPPED = "pretrained/F5TTS_Mini/model_800.safetensors"


def seed_list(folder: Path) -> Path:
    """Write a meta.lst of two digit texts, with recordings beside it."""
    rows = [json.loads(row) for row in (LISTS / "test.jsonl").read_text("utf-8").splitlines()[:2]]
    lines = []
    for row in rows:
        prompt = folder / "prompt-wavs" / f"{row['id']}.flac"
        prompt.parent.mkdir(exist_ok=True)
        shutil.copy(row["prompt_audio"], prompt)
        lines.append(f"{row['id']}|{row['prompt_text']}|prompt-wavs/{prompt.name}|{row['text']}")
    (folder / "meta.lst").write_text("\n".join(lines), encoding="utf-8")
    return folder / "meta.lst"


@pytest.mark.slow
def test_a_list_of_seed_tts_eval_is_spoken_by_the_shipped_model_at_the_guidance_of_inference(tmp_path: Path, capsys):
    paths = [f"eval.ckpt={SHIPPED}", f"eval.out={tmp_path / 'out'}", f"eval.list={seed_list(tmp_path)}"]
    run = compose_config(
        "F5TTS_Mini",
        ["datasets.name=mini", "eval.steps=4", "eval.takes=1", "infer.cfg_strength=1.5", *paths],
        TrainConfig,
    )
    run.eval.recognisers = run.eval.recognisers[:1]
    result = evaluate(run)
    assert "no eval.dev_list: the guidance is infer.cfg_strength=1.5" in capsys.readouterr().out
    assert (result.guidance, result.dev_error_rates) == ({"pocketsphinx": 1.5}, {})
    assert [score.id for score in result.unseen("pocketsphinx")] == ["test-test_00-000", "test-test_00-001"]
    assert read_result(tmp_path / "out") == result
    assert result.metrics()["eval/wer"] < 1  # it says digits
