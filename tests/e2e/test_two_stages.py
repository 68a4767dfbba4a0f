"""Both stages from their entry points, on a tiny model with random weights and the shipped speech."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest
import soundfile
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.e2e.runs import (
    BRIGHT,
    SMALL_BATCHES,
    STAGE_1,
    STAGE_2,
    assert_equal,
    interrupted_copy,
    read,
    rows,
    without_times,
)

from f5_tts.model.checkpoint import strip_wrappers
from f5_tts.rewards.asr.error_rate import error_rates
from f5_tts.train import train, train_rl
from f5_tts.train.alarms import ALARMS

REPOSITORY = Path(__file__).parents[2]
ALGORITHMS = {
    "nft": ["rl.algorithm=nft", "rl.credit=word"],
    "gaussian_grpo": ["rl.algorithm=gaussian_grpo", "rl.shared_noise=true", "rl.credit=word"],
    "flow_grpo": [
        "rl.algorithm=flow_grpo",
        "rl.shared_noise=true",
        "rl.credit=sample",
        "rl.window.schedule=random",
        "rl.window.size=1",
        "datasets.pair_speakers=false",
        "rl.prompt_frac_range=[0.1,0.3]",
        "rl.anchor_weight=0.01",
    ],
    "draft": [
        *["rl.algorithm=draft", "rl.draft.last_steps=2", "rl.draft.augmentation=0.5", "rl.mini_repeat_count=1"],
        "rl.rewards.providers=[{name: 'tests.e2e.runs:Bright'}, {name: digits_ctc, weight: 0}, "
        "{name: voice_sim, weight: 0}]",
    ],
    "f5r": ["rl.algorithm=f5r", "rl.steps=3", "rl.cfg_strength=1.0", "rl.advantage=grpo", "rl.train_sigma=true"],
}
HERE = {"GPU"} if torch.cuda.is_available() else set()
WHEN = {
    "always",
    "gaussian_nll",
    "stage 2",
    "compared",
    *ALGORITHMS,
    "anchor",
    "words",
    "characters",
    "alarm",
    "validation",
    "judge",
    "judge of yours",
    "GPU",
    "several processes",
}
LORA = ["lora.rank=2", "lora.target_modules=[to_q,ff.ff.2]"]
ALGORITHMS["lora_grpo"] = [*ALGORITHMS["gaussian_grpo"], *LORA]
ALGORITHMS["lora_draft"] = [*ALGORITHMS["draft"], *LORA]
ALGORITHMS["lora_nft"] = [*ALGORITHMS["nft"], *LORA, "rl.nft.old_decay=0.5"]
STATE = {
    "model_state_dict",
    "ema_model_state_dict",
    "optimizer_state_dict",
    "optimizer_class",
    "scheduler_state_dict",
    "objective",
    "update",
    "batches",
    "numbered",
    "settings",
    "processes",
    "skips",
    "recommended",
    "model",
    "vocabulary",
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def read_events(folder: Path) -> EventAccumulator:
    """Load the TensorBoard events of a folder."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


@pytest.fixture(scope="module")
def stage_1(tmp_path_factory, tiny, at_home) -> Path:
    folder = tmp_path_factory.mktemp("stage_1")
    assert train.main([*STAGE_1, SMALL_BATCHES, *tiny, f"ckpts.save_dir={folder}"])
    return folder


@pytest.fixture(scope="module", params=list(ALGORITHMS))
def stage_2(request, tmp_path_factory, stage_1, tiny) -> tuple[Path, Callable[..., bool]]:
    """Run stage 2; return its folder, and a function that runs the same in another folder."""
    options = [*STAGE_2, *tiny, *ALGORITHMS[request.param]]

    def run(folder: Path, *more: str) -> bool:
        return train_rl.main([*options, *more, f"ckpts.save_dir={folder}"])

    folder = tmp_path_factory.mktemp(request.param)
    shutil.copy(stage_1 / "model_last.pt", folder)
    assert run(folder)
    return folder, run


@pytest.mark.slow
def test_a_validated_stage_1_makes_the_same_weights_and_keeps_its_best(stage_1, few_items, tiny, tmp_path, capsys):
    watch = ["eval.every_updates=2", f"eval.dev={few_items / 'dev.jsonl'}", "eval.steps=2", "eval.dev_takes=1"]
    watch += [f"eval.forgot={few_items / 'dev.jsonl'}"]
    assert train.main([*STAGE_1, SMALL_BATCHES, *tiny, *watch, f"ckpts.save_dir={tmp_path}"])
    kept, plain = read(tmp_path / "model_last.pt"), read(stage_1 / "model_last.pt")
    assert kept.keys() == plain.keys() | {"best_state_dict", "validation"}
    for name, value in plain["model_state_dict"].items():
        assert torch.equal(kept["model_state_dict"][name], value)
    assert read(tmp_path / "model_best.pt")["update"] == kept["best_state_dict"]["update"]
    validated = {row["update"]: row for row in rows(tmp_path) if "eval/wer" in row}
    assert list(validated) == [0, 2, 4]
    assert all(row["forgot/eval/wer"] == row["eval/wer"] for row in validated.values())
    assert "validation at update 4: eval/wer=" in capsys.readouterr().out


def test_stage_1_writes_what_a_run_needs(stage_1):
    assert names(stage_1) == ["metrics.jsonl", "model_2.pt", "model_4.pt", "model_last.pt", "run.yaml"]
    state = read(stage_1 / "model_last.pt")
    assert state.keys() == STATE
    assert state["update"] == 4 and state["objective"] == "gaussian_nll"
    assert_equal(stage_1 / "model_4.pt", stage_1 / "model_last.pt")
    assert [row["update"] for row in rows(stage_1)] == [1, 2, 3, 4]
    assert all({"loss", "loss/nll", "loss/mse", "grad_norm", "lr"} <= row.keys() for row in rows(stage_1))


def test_stage_1_goes_on_bit_for_bit_whoever_looks_and_listens(stage_1, tiny, tmp_path):
    """The resumed run logs to a tracker and saves samples; neither changes its updates."""
    copy = interrupted_copy(stage_1, tmp_path / "resumed")
    watched = ["ckpts.log_samples=true", "ckpts.logger=tensorboard"]
    assert train.main([*STAGE_1, SMALL_BATCHES, *tiny, *watched, f"ckpts.save_dir={copy}"])
    assert without_times(copy) == without_times(stage_1)
    assert_equal(copy / "model_last.pt", stage_1 / "model_last.pt")
    assert names(copy / "samples") == ["update_4_gen.wav", "update_4_ref.wav"]
    gen, ref = (soundfile.info(copy / "samples" / name) for name in names(copy / "samples"))
    assert gen.frames == ref.frames and gen.samplerate == 16000
    shown = read_events(copy / "tensorboard")
    assert set(shown.Tags()["audio"]) == {"samples/gen", "samples/ref"}
    assert [event.step for event in shown.Scalars("loss/nll")] == [3, 4]
    assert [event.value for event in shown.Scalars("loss")] == pytest.approx([row["loss"] for row in rows(copy)[2:]])


def test_stage_2_reports_losses_and_every_reward(stage_2):
    folder, _ = stage_2
    contract = {"loss", "loss/kl", "reward/mean", "reward/std", "reward/min", "reward/max"}
    contract |= {"reward/digits_ctc.acc", "reward/voice_sim.sim"}
    bright = {"draft/loss", "reward/tests.e2e.runs:Bright.loss"}
    contract |= bright if "draft" in folder.name else {"loss/pro_adv", "frac_reward_zero_std"}
    assert [row["update"] for row in rows(folder)] == [1, 2, 3, 4]
    for row in rows(folder):
        assert contract <= row.keys()
        assert row["reward/min"] <= row["reward/mean"] <= row["reward/max"]
        assert 0 <= row["reward/digits_ctc.acc"] <= 1 and -1 <= row["reward/voice_sim.sim"] <= 1
        assert ("ratio/max_dev" in row) == ("grpo" in folder.name)  # nft and f5r have no ratio
        assert row.get("ratio/max_dev", 0.0) == 0


def test_stage_2_starts_at_its_reference_and_leaves_it(stage_2, stage_1):
    folder, _ = stage_2
    first, *_, last = (row["loss/kl"] for row in rows(folder))
    assert last > 0 and (first == 0 or "f5r" in folder.name)  # f5r compares two rollouts, so its KL starts above 0
    before, after = read(stage_1 / "model_last.pt"), read(folder / "model_last.pt")
    memories = {"lora"} if "lora" in folder.name else set()
    memories |= {"old_policy_state_dict"} if "lora_nft" in folder.name else set()
    assert after.keys() == STATE | {"origin"} | memories and after["update"] == 4 and after["objective"] == "grpo"
    reference = read(folder / "reference.pt")["model_state_dict"]
    assert all(torch.equal(value, before["model_state_dict"][name]) for name, value in reference.items())
    assert any(not torch.equal(value, reference[name]) for name, value in after["model_state_dict"].items())


def test_stage_2_goes_on_bit_for_bit_and_against_the_same_reference(stage_2, tmp_path):
    folder, run = stage_2
    copy = interrupted_copy(folder, tmp_path / "resumed")
    assert run(copy)
    assert without_times(copy) == without_times(folder)
    assert_equal(copy / "model_last.pt", folder / "model_last.pt")


def documented(when: set[str]) -> set[str]:
    """Return the metric names that docs/metrics.md lists for runs with these properties, placeholders included."""
    text = (REPOSITORY / "docs/metrics.md").read_text("utf-8").partition("## Where they go")[0]
    cells = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert set().union(*(conditions(cell) for cell in cells)) == WHEN
    return {name for cell in cells if conditions(cell) & when for name in re.findall(r"`(.+?)`", cell[0])}


def conditions(cells: list[str]) -> set[str]:
    return set(cells[1].split(", "))


def assert_documented(logged: set[str], when: set[str]) -> None:
    """Assert that the page lists exactly the logged metrics; a placeholder matches at least one."""
    page = documented(when)
    patterns = {name: re.compile(re.sub(r"<\w+>", "[^/]+", re.escape(name))) for name in page}
    unknown = {name for name in logged if not any(pattern.fullmatch(name) for pattern in patterns.values())}
    missing = {name for name, pattern in patterns.items() if not any(map(pattern.fullmatch, logged))}
    assert (unknown, missing) == (set(), set())


def logged(folder: Path) -> set[str]:
    return {name for row in rows(folder) for name in row if not name.startswith("health/alarm_")}


def test_the_page_of_metrics_names_all_that_stage_1_logs_and_nothing_else(stage_1, tiny, tmp_path):
    here = HERE | {"always"}
    assert_documented(logged(stage_1), here | {"gaussian_nll"})
    plain = ["-cn", "F5TTS_Mini", SMALL_BATCHES, *tiny, "optim.max_updates=2", f"ckpts.save_dir={tmp_path}"]
    assert train.main(plain)
    assert_documented(logged(tmp_path), here)


def test_the_page_of_metrics_names_all_that_stage_2_logs_and_nothing_else(stage_2):
    folder, _ = stage_2
    algorithm = rows_algorithm(folder)
    more = {"anchor"} if algorithm == "flow_grpo" else set()
    more |= set() if algorithm == "draft" else {"compared"}
    assert_documented(logged(folder), HERE | {"always", "stage 2", "words", algorithm} | more)


def rows_algorithm(folder: Path) -> str:
    name = re.sub(r"\d+$", "", folder.name)
    return {"lora_grpo": "gaussian_grpo", "lora_nft": "nft", "lora_draft": "draft"}.get(name, name)


def test_the_page_of_metrics_names_every_alarm():
    text = (REPOSITORY / "docs/metrics.md").read_text("utf-8").partition("## When a run goes wrong")[2]
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(ALARMS)


@pytest.fixture(scope="module")
def few_items(tmp_path_factory) -> Path:
    """Make a folder with two dev items of unseen speakers."""
    folder = tmp_path_factory.mktemp("items")
    lines = (REPOSITORY / "data/mini_custom/dev.jsonl").read_text("utf-8").splitlines()
    unseen = [line for line in lines if not json.loads(line)["seen"]]
    (folder / "dev.jsonl").write_text("\n".join(unseen[:2]) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(  # validation draws nothing
    "stage_2",
    ["lora_nft", *(pytest.param(name, marks=pytest.mark.soak) for name in ("nft", "gaussian_grpo"))],
    indirect=True,
)
def test_a_validated_run_makes_the_same_weights_and_goes_on_with_its_best(stage_2, few_items, stage_1, tmp_path):
    folder, run = stage_2
    validated = tmp_path / "validated"
    validated.mkdir()
    shutil.copy(stage_1 / "model_last.pt", validated)
    taste = "eval.providers=[{name: 'tests.e2e.runs:Taste'}]"
    watch = ["eval.every_updates=2", f"eval.items_dir={few_items}", "eval.steps=2", "eval.dev_takes=1", taste]
    assert run(validated, *watch, "ckpts.log_samples=true")
    for name in ("model_2.pt", "model_last.pt"):
        assert_equal(validated / name, folder / name, but_for=("best_state_dict", "validation"))
    seen = {"eval/wer", "eval/sim", "eval/wer_ema", "eval/sim_ema"}
    assert logged(validated) - logged(folder) == documented({"validation", "judge of yours"})
    assert [row["update"] for row in rows(validated)] == [0, 1, 2, 3, 4]
    assert [seen <= row.keys() for row in rows(validated)] == [True, False, True, False, True]
    plain = [{k: v for k, v in row.items() if not k.startswith("eval/")} for row in without_times(validated)[1:]]
    assert plain == without_times(folder)
    check_samples(validated)
    best, state = read(validated / "model_best.pt"), read(validated / "model_last.pt")["best_state_dict"]
    assert best["update"] == state["update"] and best["recommended"] == "raw"

    copy = interrupted_copy(validated, tmp_path / "resumed")
    assert run(copy, *watch)
    assert without_times(copy) == without_times(validated)
    assert not (copy / "samples").exists()
    assert_equal(copy / "model_last.pt", validated / "model_last.pt")


def check_samples(folder: Path) -> None:
    """Check the samples at both saved updates.

    There are WAV files of the best and the worst sample of a group and of the recording, and a table with a row for
    each of the 2 samples of 2 prompts.
    """
    kinds = (".jsonl", "_gen.wav", "_ref.wav", "_worst.wav")
    assert names(folder / "samples") == [f"update_{update}{kind}" for update in (2, 4) for kind in kinds]
    report = (folder / "report.html").read_text("utf-8")
    assert report.count("data:audio/") == 2 * 3 and "rows with checksum" in report
    lines = (folder / "samples" / "update_4.jsonl").read_text("utf-8").splitlines()
    table, metrics = [json.loads(line) for line in lines], rows(folder)[-1]
    columns = {"group", "prompt", "text", "digits_ctc.heard", "reward", "digits_ctc.acc", "voice_sim.sim", "advantage"}
    assert len(table) == 4 and all(row.keys() >= columns and row["text"] for row in table)
    assert sorted(Counter(row["group"] for row in table).values()) == [2, 2]
    assert max(row["reward"] for row in table) == pytest.approx(metrics["reward/max"])
    assert fmean(row["digits_ctc.acc"] for row in table) == pytest.approx(metrics["reward/digits_ctc.acc"])
    errors = [sum(error_rates(row["text"].split(), row["digits_ctc.heard"].split())) for row in table]
    assert [row["digits_ctc.acc"] for row in table] == pytest.approx([max(1 - error, 0) for error in errors])
    assert not [name for name in metrics if "heard" in name or "words" in name]


@pytest.mark.parametrize("stage_2", ["lora_grpo", "lora_draft", "lora_nft"], indirect=True)
def test_lora_writes_plain_weights_and_leaves_all_but_its_targets_as_they_were(stage_2):
    folder, _ = stage_2
    before, after = read(folder / "reference.pt")["model_state_dict"], read(folder / "model_last.pt")
    for weights in (after["model_state_dict"], strip_wrappers(after["ema_model_state_dict"])):
        changed = {name for name, value in weights.items() if not torch.equal(value, before[name])}
        assert weights.keys() == before.keys()
        assert all(re.search(r"(to_q|ff\.ff\.2)\.weight$|ln_sig", name) for name in changed) and len(changed) >= 4
    held = sum(value.numel() for value in after["lora"]["raw"].values())
    assert held == 2 * 2 * ((32 + 32) + (32 + 64))  # rank 2, two blocks, layers of 32 to 32 and 64 to 32


@pytest.mark.parametrize("algorithm", ["flow_grpo", "nft", "draft"])
def test_a_checkpoint_without_a_head_is_trained_as_it_is(algorithm: str, tiny, tmp_path, at_home):
    """No stage 1 and no Gaussian head: stage 2 starts from the checkpoint of plain training."""
    plain = ["-cn", "F5TTS_Mini", SMALL_BATCHES, *tiny, "optim.max_updates=2", f"ckpts.save_dir={tmp_path / 'plain'}"]
    assert train.main(plain)
    no_head = ["model.output_dist=deterministic", "model.use_rl_head=false", "rl.credit=sample"]
    start = [f"ckpts.init_from={tmp_path / 'plain' / 'model_last.pt'}", f"ckpts.save_dir={tmp_path / 'rl'}"]
    assert train_rl.main([*STAGE_2, *tiny, *ALGORITHMS[algorithm], BRIGHT, *no_head, *start, "optim.max_updates=2"])
    before, after = (read(tmp_path / name / "model_last.pt") for name in ("plain", "rl"))
    weights = after["model_state_dict"]
    assert weights.keys() == before["model_state_dict"].keys() and after["update"] == 2
    assert any(not torch.equal(value, before["model_state_dict"][name]) for name, value in weights.items())


def test_a_finished_run_has_nothing_left_to_do(stage_1, tiny, capsys):
    before = (stage_1 / "model_last.pt").read_bytes()
    assert train.main([*STAGE_1, SMALL_BATCHES, *tiny, f"ckpts.save_dir={stage_1}"])
    assert "nothing left to do" in capsys.readouterr().out
    assert (stage_1 / "model_last.pt").read_bytes() == before
    assert len(rows(stage_1)) == 4


@pytest.mark.slow
def test_ctrl_c_ends_a_run_after_its_update_with_all_of_it_saved(tiny, at_home, tmp_path):
    """The signal goes to the whole process group, as from a terminal: the process that loads the data gets it too."""
    argv = [*STAGE_1, SMALL_BATCHES, *tiny, "datasets.num_workers=1", "optim.max_updates=2000"]
    command = [sys.executable, "-m", "f5_tts.train.train", *argv, f"ckpts.save_dir={tmp_path}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as run:
        assert run.stderr is not None
        output = b""
        while not re.search(rb" [1-9]\d*/2000", output):  # the progress bar has counted an update
            output += os.read(run.stderr.fileno(), 4096)
            assert run.poll() is None, output.decode()
        os.killpg(run.pid, signal.SIGINT)
        output = run.stderr.read()
    assert run.returncode == 130
    assert output.decode().endswith("the run was stopped and saved: the same command resumes it\n")
    assert read(tmp_path / "model_last.pt")["update"] == rows(tmp_path)[-1]["update"] < 2000


def test_groups_of_one_whose_rollouts_serve_twice_go_on_bit_for_bit(stage_1, tiny, tmp_path, capsys):
    """Checkpoints hold the running baseline, and runs stop only between rollouts."""
    once = ["rl.mini_repeat_count=1", "rl.updates_per_rollout=2", "ckpts.last_per_updates=2", "rl.clip_high=0.1"]
    options = [*STAGE_2, *tiny, *ALGORITHMS["gaussian_grpo"], *once]
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(stage_1 / "model_last.pt", folder)
    assert train_rl.main([*options, f"ckpts.save_dir={folder}"])
    assert "makes groups of one" in capsys.readouterr().out
    assert ["ratio/initial_max_dev" in row for row in rows(folder)] == [True, False, True, False]
    assert rows(folder)[0]["reward/mean"] == rows(folder)[1]["reward/mean"] != rows(folder)[2]["reward/mean"]
    assert read(folder / "model_2.pt")["baseline_state_dict"]["voice_sim.sim"][0] == 2  # samples so far
    copy = interrupted_copy(folder, tmp_path / "resumed")
    assert train_rl.main([*options, f"ckpts.save_dir={copy}"])
    assert without_times(copy) == without_times(folder)
    assert_equal(copy / "model_last.pt", folder / "model_last.pt")


def test_a_published_model_without_a_head_trains_by_flow_grpo_when_nobody_chooses(stage_1, tiny, tmp_path, capsys):
    weights = read(stage_1 / "model_last.pt")["model_state_dict"]
    plain = {f"ema_model.{name}": value for name, value in weights.items() if "ln_sig" not in name}
    torch.save({"ema_model_state_dict": plain}, tmp_path / "model_last.pt")
    options = ["rl.algorithm=auto", "rl.shared_noise=true", "rl.credit=sample", f"ckpts.save_dir={tmp_path}"]
    assert train_rl.main([*STAGE_2, *tiny, *options])
    output = capsys.readouterr().out
    assert "model_last.pt has no trained Gaussian head, so flow_grpo" in output
    assert "flow_grpo: 2 prompts x 2 samples = 4 rollouts per update, 4 per forward, on 1 process" in output
    assert [row["update"] for row in rows(tmp_path)] == [1, 2, 3, 4]
    reference = read(tmp_path / "reference.pt")["model_state_dict"]
    assert all(torch.equal(reference[name.removeprefix("ema_model.")], value) for name, value in plain.items())
