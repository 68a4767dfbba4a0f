from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from tests.tiny import tiny_arch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR, LinearLR, SequentialLR

from f5_tts.config.load import compose_config
from f5_tts.config.schema import CkptsConfig, EmaConfig, RLTrainConfig, TrainConfig
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import ModelSpec, load_weights, numbered_checkpoints, read_checkpoint
from f5_tts.model.lora import adapter_weights, add_adapters
from f5_tts.train.build import build_ema
from f5_tts.train.build_rl import resolve_algorithm
from f5_tts.train.checkpoint_dir import CheckpointDir, initial_weights
from f5_tts.train.train_state import TrainState

CARD = ModelSpec.of(compose_config("F5TTS_Mini", [], TrainConfig).model, Vocabulary(" ab"))


def train_state(
    objective: str = "gaussian_nll",
    *,
    gaussian: bool = True,
    seed: int = 0,
    rank: int = 0,
    start: Path | None = None,
    bits: int = 32,
    rate: float = 1e-2,
) -> TrainState:
    """Build a run from random weights or those of a file, with LoRA where a rank is given.

    The states of AdamW have `bits` bits.
    """
    torch.manual_seed(seed)
    arch = tiny_arch(dim=16, depth=1, heads=1, ff_mult=1, text_dim=8, conv_layers=0)
    model = CFM(DiT(arch, mel_dim=2, num_tokens=3, gaussian=gaussian))
    if start is not None:
        load_weights(model, read_checkpoint(start))
    lora = compose_config("F5TTS_Mini_RL", [f"lora.rank={rank}"], RLTrainConfig).lora
    add_adapters(model, lora)
    adamw: Any = AdamW if bits == 32 else import_module("bitsandbytes").optim.AdamW8bit  # takes seconds to import
    optimizer = adamw([parameter for parameter in model.parameters() if parameter.requires_grad], lr=rate)
    return TrainState(
        model=model,
        spec=CARD,
        ema=build_ema(model, EmaConfig(beta=0.9, update_after_step=0, update_every=1, power=1.0, device=None)),
        optimizer=optimizer,
        scheduler=LambdaLR(optimizer, lambda update: 1 / (1 + update)),
        objective=objective,
        lora=lora,
    )


def after(run: TrainState, updates: int) -> TrainState:
    """Make `updates` updates with random gradients, and return the run."""
    for _ in range(updates):
        for parameter in run.model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn_like(parameter)
        run.optimizer.step()
        run.scheduler.step()
        run.update += 1
        run.ema.update()
    return run


def folder(path: Path, **options: int | str) -> CheckpointDir:
    settings: CkptsConfig = compose_config("F5TTS_Mini", [f"ckpts.save_dir={path}"], TrainConfig).ckpts
    return CheckpointDir(replace(settings, **options))  # pyright: ignore[reportArgumentType]


def assert_equal(found: Any, expected: Any) -> None:
    """Assert that nested states are equal bit for bit."""
    if isinstance(expected, Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        assert found == expected


def averaged(run: TrainState) -> dict[str, Tensor]:
    """Return the weights of the EMA model."""
    prefix, state = "ema_model.", run.ema.state_dict()
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir() if file.name != ".lock")


# --- resume ---


def test_the_same_stage_goes_on_with_everything_where_it_was(tmp_path):
    stopped, messages = after(train_state(), 3), []
    folder(tmp_path).save_last(stopped)
    resumed = train_state(seed=1)
    resumed.resume(read_checkpoint(tmp_path / "model_last.pt"), messages.append)
    assert_equal(resumed.payload(), stopped.payload())
    assert messages == [f"resuming {tmp_path / 'model_last.pt'} at update 3"]


@pytest.mark.parametrize("bits", [32, 8])
def test_a_resumed_run_makes_the_updates_that_the_whole_run_makes(tmp_path, bits: int):
    run = after(train_state(bits=bits), 3)
    folder(tmp_path).save_last(run)
    resumed = train_state(seed=1, bits=bits)
    resumed.resume(read_checkpoint(tmp_path / "model_last.pt"), lambda line: None)
    torch.manual_seed(7)
    expected = after(run, 2).payload()
    torch.manual_seed(7)
    assert_equal(after(resumed, 2).payload(), expected)


@pytest.mark.parametrize("bits", [32, 8])
def test_a_resumed_run_learns_at_its_own_rate_from_the_schedules_place_on(tmp_path, bits: int):
    """Use a schedule of 1 / (1 + update) times the rate. At updates 3 and 4 it is a quarter and a fifth."""
    folder(tmp_path).save_last(after(train_state(), 3))
    resumed, messages = train_state(seed=1, bits=bits, rate=5e-2), []
    resumed.resume(read_checkpoint(tmp_path / "model_last.pt"), messages.append)
    (group,) = resumed.optimizer.param_groups
    assert (group["lr"], group["initial_lr"], resumed.scheduler.get_last_lr()) == (5e-2 / 4, 5e-2, [5e-2 / 4])
    after(resumed, 1)
    assert group["lr"] == pytest.approx(5e-2 / 5, rel=1e-12)
    assert "optim.learning_rate is 0.05 from here on; before it was 0.01" in messages
    folder(tmp_path).save_last(resumed)
    again, messages = train_state(seed=2, bits=bits, rate=5e-2), []
    again.resume(read_checkpoint(tmp_path / "model_last.pt"), messages.append)
    assert_equal(again.payload(), resumed.payload())
    assert messages == [f"resuming {tmp_path / 'model_last.pt'} at update 4"]


@pytest.mark.parametrize(
    ("one", "other"), [("gaussian_nll", "grpo"), ("grpo", "gaussian_nll"), ("mse", "gaussian_nll")]
)
def test_another_stage_takes_the_raw_weights_alone(tmp_path, one: str, other: str):
    before, messages = after(train_state(one), 3), []
    folder(tmp_path).save_last(before)
    fresh, later = train_state(other, seed=1), train_state(other, seed=1)
    later.resume(read_checkpoint(tmp_path / "model_last.pt"), messages.append)
    assert_equal(later.model.state_dict(), before.model.state_dict())
    assert_equal(averaged(later), before.model.state_dict())
    assert_equal(later.optimizer.state_dict(), fresh.optimizer.state_dict())
    assert_equal(later.scheduler.state_dict(), fresh.scheduler.state_dict())
    assert later.update == 0
    assert messages == [
        f"starting {other} from the raw weights of {tmp_path / 'model_last.pt'} (made by {one}): "
        "optimizer, schedule and counter start again",
    ]


def test_bare_weights_start_a_stage_and_a_missing_head_is_said(tmp_path):
    base, messages = train_state("mse", gaussian=False), []
    torch.save({"ema_model_state_dict": base.ema.state_dict()}, tmp_path / "pretrained_base.pt")
    checkpoint = folder(tmp_path).find_latest(pretrained=True)
    assert checkpoint is not None
    warmed = train_state("gaussian_nll", seed=1)
    warmed.resume(checkpoint, messages.append)
    head = {name: value for name, value in warmed.model.state_dict().items() if "ln_sig" in name}
    assert_equal(warmed.model.state_dict(), {**base.model.state_dict(), **head})
    assert_equal(averaged(warmed), warmed.model.state_dict())
    assert warmed.update == 0
    assert "does not say which model keys and vocabulary" in messages[0]
    assert "has no Gaussian head" in messages[1]
    assert (
        messages[2].startswith("starting gaussian_nll from the ema weights of ")
        and "(made by a run of another program)" in messages[2]
    )


@pytest.mark.parametrize(
    ("bits", "theirs", "own"),
    [(8, "torch.AdamW", "bitsandbytes.AdamW8bit"), (32, "bitsandbytes.AdamW8bit", "torch.AdamW")],
)
def test_with_another_optimizer_it_alone_starts_anew_at_the_schedules_rate_and_that_is_said(
    tmp_path, bits, theirs, own
):
    stopped, messages = after(train_state(bits=40 - bits), 3), []
    folder(tmp_path).save_last(stopped)
    resumed = train_state(seed=1, bits=bits)
    resumed.resume(read_checkpoint(tmp_path / "model_last.pt"), messages.append)
    assert_equal(resumed.model.state_dict(), stopped.model.state_dict())
    assert_equal(resumed.ema.state_dict(), stopped.ema.state_dict())
    assert_equal(resumed.scheduler.state_dict(), stopped.scheduler.state_dict())
    assert resumed.update == 3 and resumed.optimizer.state_dict()["state"] == {}
    assert resumed.optimizer.param_groups[0]["lr"] == stopped.optimizer.param_groups[0]["lr"] == 1e-2 / 4
    assert (
        f"has the states of {theirs}, this run uses {own} (optim.bnb_optimizer): the optimizer starts again"
        in messages[0]
    )
    assert messages[1].endswith("at update 3")
    after(resumed, 1)


def test_a_checkpoint_that_does_not_name_its_optimizer_has_the_states_of_torchs(tmp_path):
    stopped = after(train_state(), 3)
    torch.save({k: v for k, v in stopped.payload().items() if k != "optimizer_class"}, tmp_path / "model_last.pt")
    resumed = train_state(seed=1)
    resumed.resume(read_checkpoint(tmp_path / "model_last.pt"), lambda line: None)
    assert_equal(resumed.optimizer.state_dict(), stopped.optimizer.state_dict())


# --- where a new run starts ---


def start_of(checkpoints: CheckpointDir, objective: str) -> TrainState:
    """Start or resume a run from what the folder holds for its stage."""
    run = train_state(objective, seed=1)
    checkpoint = checkpoints.find_start() if objective == "grpo" else checkpoints.find_latest(pretrained=True)
    assert checkpoint is not None
    run.resume(checkpoint, lambda line: None)
    return run


@pytest.mark.parametrize("objective", ["gaussian_nll", "grpo"])
@pytest.mark.parametrize("made_by", ["gaussian_nll", "grpo"])
def test_init_from_gives_either_stage_the_recommended_weights_of_a_training_checkpoint_and_no_more(
    tmp_path, objective, made_by
):
    other = train_state(made_by)
    folder(tmp_path).save_initial_weights(other)
    folder(tmp_path).save_last(after(other, 3))  # so early a checkpoint recommends its raw weights
    given = str(tmp_path / "model_last.pt")
    run = start_of(folder(tmp_path / "new", init_from=given), objective)
    assert_equal(run.model.state_dict(), other.model.state_dict())
    assert_equal(run.optimizer.state_dict(), train_state(objective, seed=1).optimizer.state_dict())
    assert run.update == 0
    checkpoint = folder(tmp_path / "new", init_from=given).find_start()
    assert initial_weights(checkpoint) is checkpoint


@pytest.mark.parametrize("kind", ["raw", "ema"])
def test_init_from_takes_of_model_best_the_weights_that_were_the_best(tmp_path, kind):
    run = train_state("grpo")
    average = copy.deepcopy(run.model.state_dict())
    for value in run.model.parameters():
        value.data.add_(1.0)  # and the average has not seen it
    folder(tmp_path).save_best(run, kind)
    new = start_of(folder(tmp_path / "new", init_from=str(tmp_path / "model_best.pt")), "grpo")
    assert_equal(new.model.state_dict(), run.model.state_dict() if kind == "raw" else average)


def test_init_from_takes_the_raw_weights_of_a_file_whose_recommended_average_was_removed(tmp_path):
    run = train_state("grpo")
    payload = run.payload() | {"recommended": "ema"}
    torch.save({key: value for key, value in payload.items() if key != "ema_model_state_dict"}, tmp_path / "small.pt")
    new = start_of(folder(tmp_path / "new", init_from=str(tmp_path / "small.pt")), "grpo")
    assert_equal(new.model.state_dict(), run.model.state_dict())


@pytest.mark.parametrize("objective", ["gaussian_nll", "grpo"])
def test_init_from_gives_either_stage_the_average_of_a_published_file(tmp_path, objective: str):
    published = after(train_state(), 3)
    torch.save({"ema_model_state_dict": published.ema.state_dict()}, tmp_path / "model_1200000.pt")
    run = start_of(folder(tmp_path / "new", init_from=str(tmp_path / "model_1200000.pt")), objective)
    assert_equal(run.model.state_dict(), averaged(published))


def test_a_folder_with_a_checkpoint_of_its_own_does_not_read_init_from_and_says_so(tmp_path, capsys):
    own = after(train_state("grpo"), 2)
    folder(tmp_path).save_last(own)
    run = start_of(folder(tmp_path, init_from="gone.pt"), "grpo")
    assert run.update == 2
    output = capsys.readouterr().out
    assert (
        output
        == f"ckpts.init_from=gone.pt applies to new runs only and is ignored: {tmp_path / 'model_last.pt'} exists\n"
    )


def test_init_from_names_a_file_that_is_not_there_with_its_key(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file at gone\.pt, which ckpts\.init_from names"):
        folder(tmp_path, init_from="gone.pt").find_start()


def test_init_from_may_name_a_file_of_the_hub(tmp_path, monkeypatch):
    """Use the local cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cache = tmp_path / "models--org--repo"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("abc")
    (cache / "snapshots" / "abc").mkdir(parents=True)
    torch.save({"ema_model_state_dict": (base := train_state()).ema.state_dict()}, cache / "snapshots/abc/model_1.pt")
    run = start_of(folder(tmp_path / "new", init_from="hf://org/repo/model_1.pt"), "gaussian_nll")
    assert_equal(run.model.state_dict(), averaged(base))


@pytest.mark.slow
def test_a_pretrained_file_gives_its_average_even_beside_raw_weights_and_no_run_to_go_on_with(tmp_path):
    """Use a training checkpoint of F5-TTS, and one of our own, of the same stage, that recommends its average."""
    other = after(train_state("mse"), 300)
    ours = other.payload()
    theirs = {key: ours[key] for key in ("model_state_dict", "ema_model_state_dict", "optimizer_state_dict", "update")}
    assert ours["recommended"] == "ema"
    for state in (theirs, ours):
        torch.save(state, tmp_path / "pretrained_base.pt")
        run = start_of(folder(tmp_path), "mse")
        assert_equal(run.model.state_dict(), averaged(other))
        assert run.update == 0 and run.optimizer.state_dict()["state"] == {}


# --- checkpoints of a folder ---


@pytest.mark.parametrize(
    "keep, kept",
    [(-1, ["model_10.pt", "model_5.pt"]), (2, ["model_10.pt", "model_5.pt"]), (1, ["model_10.pt"]), (0, [])],
)
def test_the_newest_numbered_files_of_a_run_are_kept_and_no_other_is_touched(tmp_path, keep: int, kept: list[str]):
    others = ["model_2.pt", "model_800.pt", "model_best.pt", "pretrained_a.pt", "reference.pt"]
    for name in others:
        (tmp_path / name).touch()
    checkpoints, run = folder(tmp_path, save_per_updates=5, keep_last_n_checkpoints=keep), train_state()
    for _ in range(11):  # the update after the newest file shows that it is good
        checkpoints.save_if_due(after(run, 1))
    assert names(tmp_path) == sorted([*kept, *others, "model_last.pt"])


def test_files_are_written_when_they_are_due(tmp_path):
    """With every numbered file model_last.pt is written too: it is never older than one."""
    checkpoints = folder(tmp_path, save_per_updates=2, last_per_updates=3, keep_last_n_checkpoints=1)
    run, seen = train_state(), []
    for _ in range(5):
        saved = checkpoints.save_if_due(after(run, 1))
        files = [name for name in names(tmp_path) if name != "model_last.pt"]
        last = read_checkpoint(tmp_path / "model_last.pt").update if run.update > 1 else 0
        seen.append((saved, files, last))
    assert seen == [
        (False, [], 0),
        (True, ["model_2.pt"], 2),
        (False, ["model_2.pt"], 3),
        (True, ["model_2.pt", "model_4.pt"], 4),
        (False, ["model_4.pt"], 4),
    ]
    assert read_checkpoint(tmp_path / "model_4.pt").update == 4


def test_a_folder_is_made_and_left_without_a_trace_of_the_probe(tmp_path):
    folder(tmp_path / "a" / "b").prepare()
    assert names(tmp_path / "a" / "b") == []


def test_what_a_killed_run_left_half_written_is_removed_and_nothing_else(tmp_path):
    for name in (".model_last.pt.part", ".model_2.pt.part", "model_2.pt", ".hidden"):
        (tmp_path / name).touch()
    folder(tmp_path).prepare()
    assert names(tmp_path) == [".hidden", "model_2.pt"]


def test_a_second_run_in_a_folder_is_refused_until_the_first_is_gone(tmp_path):
    program = "import sys, filelock; held = filelock.FileLock(sys.argv[1]).acquire(); print(1, flush=True); input()"
    command = [sys.executable, "-c", program, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None and first.stdout.readline() == b"1\n"
        with pytest.raises(ValueError, match=r"another run is writing to ckpts\.save_dir"):
            folder(tmp_path).prepare()
        first.kill()
        first.wait()
    folder(tmp_path).prepare()


def test_a_folder_that_cannot_be_written_is_named_with_its_key(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match=r"cannot write to ckpts\.save_dir=.*/file .*choose a folder that you can write to"
    ):
        folder(tmp_path / "file").prepare()


def refused(queue: SimpleQueue[str], place: Path) -> None:
    """Save in a folder as a user other than root, and put the messages into the queue.

    Permissions do not stop root.
    """
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    for save in (lambda: folder(place).prepare(), lambda: folder(place).write("model_last.pt", lambda: {"update": 1})):
        try:
            save()
        except OSError as error:
            queue.put(str(error))
        else:
            queue.put("saved")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="permissions of folders are POSIX's")
def test_a_folder_that_is_read_only_is_named_with_its_key_and_what_was_saved_is_whole():
    """Check the start of a run, and a folder that becomes read-only during training."""
    with TemporaryDirectory() as place:  # not pytest's folder, which only its owner can read
        Path(place, "model_last.pt").write_bytes(b"as it was")
        Path(place).chmod(0o555)
        context = get_context("fork")
        queue = context.SimpleQueue()
        process = context.Process(target=refused, args=(queue, Path(place)))
        process.start()
        process.join()
        assert re.fullmatch(r"cannot write to ckpts\.save_dir=.*: choose a folder that you can write to", queue.get())
        assert re.search(r"is not writable; point ckpts\.save_dir=", queue.get())
        assert [path.name for path in Path(place).iterdir()] == ["model_last.pt"]
        assert Path(place, "model_last.pt").read_bytes() == b"as it was"
        Path(place).chmod(0o755)


# --- where stage 2 starts ---


def test_stage_2_needs_a_checkpoint_and_takes_no_pretrained_file(tmp_path):
    torch.save({"model_state_dict": train_state().model.state_dict()}, tmp_path / "pretrained_a.pt")
    with pytest.raises(FileNotFoundError, match=r"no model_last\.pt .* copy the model_last\.pt of stage 1 there"):
        folder(tmp_path).find_start()


def test_only_policies_that_draw_from_the_head_need_a_trained_one(tmp_path):
    """Use a new head, whose weights are zero."""
    run = train_state("gaussian_nll")
    folder(tmp_path).save_last(run)
    messages: list[str] = []
    with pytest.raises(ValueError, match=r"has none: train stage 1 first .* or use rl\.algorithm=flow_grpo"):
        resolve_algorithm("gaussian_grpo", folder(tmp_path).find_start(), messages.append)
    assert resolve_algorithm("auto", folder(tmp_path).find_start(), messages.append) == "flow_grpo"
    folder(tmp_path).save_last(after(run, 1))
    assert resolve_algorithm("gaussian_grpo", folder(tmp_path).find_start(), messages.append) == "gaussian_grpo"
    assert resolve_algorithm("auto", folder(tmp_path).find_start(), messages.append) == "gaussian_grpo"
    assert [line.rpartition("has ")[2] for line in messages] == [
        "no trained Gaussian head, so flow_grpo",
        "a trained Gaussian head, so gaussian_grpo",
    ]


def test_a_resumed_run_has_the_weights_it_started_from(tmp_path):
    run, place = train_state("grpo"), folder(tmp_path)
    start = {name: value.clone() for name, value in run.model.state_dict().items()}
    place.save_last(run)
    place.save_initial_weights(run)
    place.save_last(after(run, 2))
    assert_equal(initial_weights(place.find_start()).weights, start)


def test_without_what_it_started_from_or_with_another_a_run_does_not_go_on(tmp_path):
    run, place = train_state("grpo"), folder(tmp_path)
    place.save_initial_weights(run)
    place.save_last(after(run, 1))
    torch.save({}, tmp_path / "reference.pt")
    with pytest.raises(ValueError, match=r"reference\.pt is not the file that .*model_last\.pt started from"):
        initial_weights(place.find_start())
    (tmp_path / "reference.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"needs .*reference\.pt, .*and this file is missing"):
        initial_weights(place.find_start())


# --- model_best.pt ---


def test_the_best_is_no_checkpoint_that_a_run_goes_on_from(tmp_path):
    folder(tmp_path).save_best(after(train_state(), 3))
    assert names(tmp_path) == ["model_best.pt"]
    assert folder(tmp_path).find_latest(pretrained=True) is None
    assert numbered_checkpoints(tmp_path) == []


def test_the_best_speaks_with_the_raw_weights_which_were_measured(tmp_path):
    run = after(train_state(), 300)
    assert run.preferred_weights == "ema"
    folder(tmp_path).save_best(run)
    best = read_checkpoint(tmp_path / "model_best.pt").with_weights()
    assert_equal(best.weights, run.model.state_dict())
    assert best.update == 300


# --- recommended weights and the model spec ---


def test_a_checkpoint_carries_its_model_section_and_vocabulary_and_so_does_the_reference(tmp_path):
    run, place = train_state(), folder(tmp_path)
    place.save_last(run)
    place.save_initial_weights(run)
    for name in ("model_last.pt", "reference.pt"):
        assert read_checkpoint(tmp_path / name).spec == CARD


def test_weights_made_with_another_vocabulary_are_refused(tmp_path):
    folder(tmp_path).save_last(train_state())
    other = replace(train_state(), spec=ModelSpec(model=CARD.model, vocabulary=[" ", "b", "a"]))
    with pytest.raises(ValueError, match="another vocabulary"):
        other.resume(read_checkpoint(tmp_path / "model_last.pt"))


@pytest.mark.parametrize(("updates", "recommended"), [(90, "raw"), (110, "ema")])
def test_the_average_is_recommended_once_it_looks_back_over_a_tenth_of_the_run(updates, recommended):
    """Use a decay of at most 0.9, so that the average spans ten updates."""
    run = train_state()
    run.update = updates
    for _ in range(updates):
        run.ema.update()
    assert run.payload()["recommended"] == recommended


# --- LoRA ---


def lora_run(path: Path, bits: int = 32) -> TrainState:
    """Make three updates of a run with LoRA, and save it beside its initial weights."""
    folder(path).save_last(train_state(seed=5))
    run = train_state("grpo", rank=2, start=path / "model_last.pt", bits=bits)
    run.resume(folder(path).find_start(), lambda line: None)
    folder(path).save_initial_weights(run)
    folder(path).save_last(after(run, 3))
    return run


@pytest.mark.slow
def test_checkpoints_of_a_run_with_lora_hold_plain_weights_that_speak_as_the_run_does(tmp_path):
    run, plain = lora_run(tmp_path), train_state()
    saved = read_checkpoint(tmp_path / "model_last.pt")
    assert saved.payload["model_state_dict"].keys() == plain.model.state_dict().keys()
    assert saved.payload["ema_model_state_dict"].keys() == plain.ema.state_dict().keys()
    inputs = (torch.randn(1, 5, 2), torch.randn(1, 5, 2), torch.tensor([[0, 1]]), torch.tensor([0.3]))
    for which, speaker in (("raw", run.model), ("ema", run.ema)):
        load_weights(plain.model, saved.with_weights(which))
        for result, expected in zip(plain.model(*inputs), speaker(*inputs), strict=True):
            torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_what_a_run_with_lora_started_from_is_kept_plain(tmp_path):
    lora_run(tmp_path)
    assert_equal(read_checkpoint(tmp_path / "reference.pt").weights, train_state(seed=5).model.state_dict())


@pytest.mark.parametrize("bits", [32, 8])
def test_a_resumed_run_with_lora_makes_the_updates_that_the_whole_run_makes(tmp_path, bits: int):
    run = lora_run(tmp_path, bits)
    resumed = train_state("grpo", seed=1, rank=2, start=tmp_path / "reference.pt", bits=bits)
    resumed.resume(read_checkpoint(tmp_path / "model_last.pt"), lambda line: None)
    resumed.initial_weights = run.initial_weights
    assert_equal(resumed.payload(), run.payload())
    torch.manual_seed(7)
    expected = after(run, 2).payload()
    torch.manual_seed(7)
    assert_equal(after(resumed, 2).payload(), expected)


def test_new_adapters_start_from_another_stage_and_change_nothing(tmp_path):
    folder(tmp_path).save_last(before := after(train_state(), 3))
    run = after(train_state("grpo", seed=1, rank=2), 1)
    run.update = 0
    run.resume(read_checkpoint(tmp_path / "model_last.pt"), lambda line: None)
    assert_equal(run.payload()["model_state_dict"], before.model.state_dict())
    assert_equal(averaged(run), run.model.state_dict())


@pytest.mark.parametrize("rank", [0, 3])
def test_a_run_goes_on_with_the_rank_it_has(tmp_path, rank: int):
    lora_run(tmp_path)
    other = train_state("grpo", rank=rank)
    with pytest.raises(ValueError, match=rf"was trained with lora\.rank=2, this run has {rank}: set it to 2"):
        other.resume(read_checkpoint(tmp_path / "model_last.pt"), lambda line: None)


def test_a_run_that_trains_all_weights_does_not_go_on_with_adapters(tmp_path):
    folder(tmp_path).save_last(after(train_state("grpo"), 1))
    with pytest.raises(ValueError, match=r"was trained with lora\.rank=0, this run has 2: set it to 0"):
        train_state("grpo", rank=2).resume(read_checkpoint(tmp_path / "model_last.pt"), lambda line: None)


def test_the_optimizer_holds_moments_of_adapters_and_head_alone(tmp_path):
    run = lora_run(tmp_path)
    moments = run.optimizer.state_dict()["state"].values()
    head = run.model.transformer.proj_out_ln_sig
    assert head is not None
    trained = [*adapter_weights(run.model).values(), *head.parameters()]
    assert sum(state["exp_avg"].numel() for state in moments) == sum(value.numel() for value in trained)


# --- runs of F5-TTS's trainer ---


def upstream_file(path: Path) -> tuple[Path, dict[str, Any]]:
    """Write what F5-TTS's trainer saves after three updates on two processes; its network has another order.

    Return the path, and the state of each parameter's optimizer by name.
    """
    run = train_state("mse", gaussian=False, seed=1)
    named = dict(reversed(list(run.model.named_parameters())))
    optimizer = AdamW(named.values(), lr=1e-2)
    warmup, decay = (LinearLR(optimizer, start, end, 4) for start, end in ((1e-8, 1.0), (1.0, 1e-8)))
    scheduler = SequentialLR(optimizer, [warmup, decay], milestones=[4])
    for _ in range(3):
        for parameter in named.values():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        for _ in range(2):
            scheduler.step()
        run.ema.update()
    buffers = {"mel_spec.mel_stft.spectrogram.window": torch.ones(4)}
    average = {**run.ema.state_dict(), "ema_model.mel_spec.mel_stft.spectrogram.window": torch.ones(4)}
    payload = {
        "model_state_dict": {**buffers, **named, **{k: v for k, v in run.model.state_dict().items() if k not in named}},
        "optimizer_state_dict": optimizer.state_dict(),
        "ema_model_state_dict": average,
        "scheduler_state_dict": scheduler.state_dict(),
        "update": 3,
    }
    torch.save(payload, path)
    return path, {name: optimizer.state[parameter] for name, parameter in named.items()}


def test_a_run_of_upstreams_trainer_resumes_with_optimizer_schedule_average_and_counter(tmp_path: Path):
    path, states = upstream_file(tmp_path / "model_last.pt")
    run, messages = train_state("mse", gaussian=False, seed=2), list[str]()
    run.resume(read_checkpoint(path), messages.append)
    assert run.update == 3 and messages[-1] == f"resuming {path} at update 3"
    assert run.optimizer.param_groups[0]["lr"] == 1e-2 / (1 + 3)  # of this run's schedule, after three updates
    for name, parameter in run.model.named_parameters():
        assert_equal(run.optimizer.state[parameter], states[name])
    saved = torch.load(path, weights_only=True)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, saved["model_state_dict"][name])
        assert torch.equal(averaged(run)[name], saved["ema_model_state_dict"][f"ema_model.{name}"])
    assert int(run.ema.state_dict()["step"]) == 3


def test_for_another_objective_a_run_of_upstreams_trainer_gives_its_weights_alone(tmp_path: Path):
    path, _ = upstream_file(tmp_path / "model_last.pt")
    run, messages = train_state("gaussian_nll"), list[str]()
    run.resume(read_checkpoint(path), messages.append)
    assert run.update == 0 and "optimizer, schedule and counter start again" in messages[-1]
