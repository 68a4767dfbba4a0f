"""Both stages on a data set that contains recordings which cannot be read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset as Table

from f5_tts.train import train, train_rl

REPOSITORY = Path(__file__).parents[2]
RATE, BAD = 16_000, {2: "missing", 5: "silent"}
COMMON = [
    f"model.tokenizer_path={REPOSITORY / 'data/mini_custom/vocab.txt'}",
    "datasets.name=bad",
    "datasets.pair_speakers=false",
    "datasets.batch_size_type=sample",
    "datasets.batch_size_per_gpu=1",
    "optim.epochs=2",
    "optim.max_updates=null",
]
STAGE_1 = ["-cn", "F5TTS_Mini", "model.output_dist=gaussian", "model.objective=gaussian_nll", "model.use_rl_head=true"]
STAGE_2 = [
    "-cn",
    "F5TTS_Mini_RL",
    "rl.mini_repeat_count=2",
    "rl.steps=2",
    "rl.prompt_frac_range=[0.2,0.3]",
    "rl.credit=sample",
    "rl.rewards.providers=[{name: clipping}, {name: long_silence}]",
]


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """Make eight recordings of 0.5 s, one missing and one silent, and change to the directory that holds `data/`."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "bad_custom"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    paths = [f"data/bad_custom/{number}.wav" for number in range(8)]
    for number, path in enumerate(paths):
        if BAD.get(number) != "missing":
            soundfile.write(path, draw.normal(scale=0.0 if number in BAD else 0.1, size=RATE // 2), RATE)
    Table.from_dict({"audio_path": paths, "text": ["one two"] * 8}).save_to_disk(str(folder / "raw"))
    (folder / "duration.json").write_text(json.dumps({"duration": [0.5] * 8}))
    return folder


def rows(folder: Path) -> list[dict[str, float]]:
    result = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "mem/", "throughput/"))} for row in result]


def test_both_stages_pass_over_bad_rows_say_each_once_and_go_on_bit_for_bit(data, tiny, tmp_path, capsys):
    warm, tuned = tmp_path / "warm", tmp_path / "tuned"
    assert train.main([*STAGE_1, *tiny, *COMMON, f"ckpts.save_dir={warm}"])
    tuned.mkdir()
    shutil.copy(warm / "model_last.pt", tuned)
    output = capsys.readouterr().out
    assert train_rl.main([*STAGE_2, *tiny, *COMMON, f"ckpts.save_dir={tuned}"])
    for folder, console in ((warm, output), (tuned, capsys.readouterr().out)):
        result = rows(folder)
        # a batch with only a bad row, twice in each epoch, and those that follow in a third one
        assert [row["update"] for row in result] == list(range(1, 17)) and all("loss" in row for row in result)
        passed_over = console.count("no row of a batch can be read: the batch is passed over")
        assert result[-1]["epoch"] == pytest.approx((16 + passed_over) / 8) and passed_over >= 4
        counts = [row["health/bad_rows"] for row in result]
        assert counts == sorted(counts) and {1, 2} <= set(counts)
        for index, kind in BAD.items():
            assert console.count(f"row {index} of the data set is left out ({kind}): ") == 1
    for stage, command, options in ((warm, train, STAGE_1), (tuned, train_rl, STAGE_2)):
        copy = tmp_path / f"{stage.name}_resumed"
        shutil.copytree(stage, copy)
        shutil.copy(stage / "model_10.pt", copy / "model_last.pt")
        assert command.main([*options, *tiny, *COMMON, f"ckpts.save_dir={copy}"])
        assert rows(copy) == rows(stage)
        one, other = (torch.load(at / "model_last.pt", weights_only=True) for at in (copy, stage))
        assert one["bad_rows"] == other["bad_rows"] == [2, 5]
        weights = one["model_state_dict"].items()
        assert all(torch.equal(value, other["model_state_dict"][name]) for name, value in weights)


def test_the_good_rows_of_a_batch_are_learnt_from(data, tiny, tmp_path):
    options = ["datasets.batch_size_per_gpu=8", f"ckpts.save_dir={tmp_path / 'run'}", "optim.num_warmup_updates=0"]
    assert train.main([*STAGE_1, *tiny, *COMMON, *options])
    assert all("loss" in row and row["health/bad_rows"] == 2 for row in rows(tmp_path / "run"))


def test_a_text_without_words_is_learnt_in_stage_1_and_left_out_where_words_are_rewarded(data, tiny, tmp_path, capsys):
    """Stage 2 with credit by word ended at such a row, and again at each resume."""
    shutil.rmtree(data / "raw")
    texts = ["one two", "…", "three", "?!", "one", " ", "two", "four"]
    paths = ["data/bad_custom/0.wav"] * 8
    Table.from_dict({"audio_path": paths, "text": texts}).save_to_disk(str(data / "raw"))
    warm, tuned, vocab = tmp_path / "warm", tmp_path / "tuned", tmp_path / "vocab.txt"
    vocab.write_text("\n".join(" …?!efhnortuw") + "\n", encoding="utf-8")
    options = [*tiny, *COMMON, "optim.epochs=1", "optim.num_warmup_updates=0", f"model.tokenizer_path={vocab}"]
    assert train.main([*STAGE_1, *options, f"ckpts.save_dir={warm}"])
    assert [row["health/bad_rows"] for row in rows(warm)][-1] == 1
    capsys.readouterr()
    init = f"ckpts.init_from={warm / 'model_last.pt'}"
    ckpts = [f"{REPOSITORY}/pretrained/digits_ctc/{name}.safetensors" for name in "ab"]
    by_word = ["rl.credit=word", f"rl.rewards.providers=[{{name: digits_ctc, config: {{ckpts: {ckpts}}}}}]"]
    assert train_rl.main([*STAGE_2, *options, *by_word, init, f"ckpts.save_dir={tuned}"])
    console = capsys.readouterr().out
    assert [row["health/bad_rows"] for row in rows(tuned)][-1] == 3
    for index in (1, 3):
        assert console.count(f"row {index} of the data set is left out (no word): ") == 1
    assert console.count("row 5 of the data set is left out (no text): ") == 1


def test_both_stages_say_which_symbols_the_vocabulary_lacks_and_do_not_start_without_a_known_one(
    data, tiny, tmp_path, capsys
):
    shutil.rmtree(data / "raw")
    paths, options = (
        ["data/bad_custom/0.wav"] * 8,
        [*tiny, *COMMON, "optim.num_warmup_updates=0", "optim.max_updates=2"],
    )
    Table.from_dict({"audio_path": paths, "text": ["one!", *["TWO"] * 7]}).save_to_disk(str(data / "raw"))
    assert train.main([*STAGE_1, *options, f"ckpts.save_dir={tmp_path / 'warm'}"])
    assert train_rl.main(
        [*STAGE_2, *options, f"ckpts.init_from={tmp_path / 'warm/model_last.pt'}", f"ckpts.save_dir={tmp_path / 'rl'}"]
    )
    console = capsys.readouterr().out
    assert console.count("the vocabulary lacks 4 symbols, of 8 rows; a model reads them as spaces:") == 2
    assert console.count("for example: 'one!', 'TWO'") == 2
    assert "row 1 of the data set is left out (no known symbol): " in console
    shutil.rmtree(data / "raw")
    Table.from_dict({"audio_path": paths, "text": ["TWO"] * 8}).save_to_disk(str(data / "raw"))
    start = f"ckpts.init_from={tmp_path / 'warm/model_last.pt'}"
    for command, stage in ((train, STAGE_1), (train_rl, [*STAGE_2, start])):
        with pytest.raises(ValueError, match="none of the 8 rows tried can be used; row 0 is no known symbol: "):
            command.main([*stage, *options, f"ckpts.save_dir={tmp_path / 'new'}"])


def test_a_new_model_needs_a_vocabulary_with_the_space_first_and_an_old_one_goes_on_with_its_own(
    data, tiny, tmp_path, capsys
):
    vocab = tmp_path / "odd.txt"
    vocab.write_text("\n".join("onetwx") + "\n")
    options = [*tiny, *COMMON, f"model.tokenizer_path={vocab}", "optim.num_warmup_updates=0", "optim.max_updates=2"]
    with pytest.raises(ValueError, match=r"odd\.txt: line 1 must be the space"):
        train.main([*STAGE_1, *options, f"ckpts.save_dir={tmp_path / 'new'}"])
    first = [f"model.tokenizer_path={tmp_path / 'good.txt'}", f"ckpts.save_dir={tmp_path / 'run'}"]
    (tmp_path / "good.txt").write_text("\n".join(" netwx") + "\n")
    assert train.main([*STAGE_1, *options, *first])
    checkpoint = torch.load(tmp_path / "run" / "model_last.pt", weights_only=True)
    weights = {"model_state_dict": checkpoint["model_state_dict"]}  # of another program, which took any vocabulary
    torch.save(weights, tmp_path / "odd.pt")
    capsys.readouterr()
    init = [f"ckpts.init_from={tmp_path / 'odd.pt'}", f"ckpts.save_dir={tmp_path / 'on'}"]
    assert train.main([*STAGE_1, *options, *init])
    assert "symbol 0 is 'o', not the space: unknown symbols are read as it" in capsys.readouterr().out


def test_a_data_set_of_bad_rows_alone_ends_the_run_with_the_first_reason(data, tiny, tmp_path):
    for path in data.glob("*.wav"):
        path.unlink()
    with pytest.raises(ValueError, match=r"none of the 8 rows tried .*; row 0 is missing: no audio file"):
        train.main([*STAGE_1, *tiny, *COMMON, f"ckpts.save_dir={tmp_path / 'run'}"])


def test_items_longer_than_a_batch_of_frames_are_counted_and_said(data, tiny, tmp_path, capsys):
    (data / "duration.json").write_text(json.dumps({"duration": [0.5] * 5 + [9.0] * 3}))
    frames = ["datasets.batch_size_type=frame", "datasets.batch_size_per_gpu=100", "optim.num_warmup_updates=0"]
    assert train.main([*STAGE_1, *tiny, *COMMON, *frames, f"ckpts.save_dir={tmp_path / 'run'}"])
    output = capsys.readouterr().out
    assert "3 of 8 items are longer than datasets.batch_size_per_gpu=100 frames and left out\n" in output
