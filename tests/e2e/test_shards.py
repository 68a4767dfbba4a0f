"""Training a sharded model (FSDP) on two processes with gloo, compared with training without sharding.

Everything that needs two processes runs in one launch of this file (`on_each_rank`); the tests examine its files. The
runs of IN_SOAK are made for the tests with the mark `soak` alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from tests import forkserver
from tests.e2e.runs import BRIGHT, MOODY
from torch import Tensor

from f5_tts.config.load import compose_config
from f5_tts.config.schema import TrainConfig
from f5_tts.data.tokenizer import Vocabulary, build_vocabulary
from f5_tts.model.build import build_model
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import read_checkpoint, write_checkpoint
from f5_tts.model.fsdp import gather_full_state, is_dtensor, to_local
from f5_tts.model.snapshot import Snapshot
from f5_tts.train import train, train_rl
from f5_tts.train.build import build_train_state
from f5_tts.train.loop import train_update
from f5_tts.train.oom import OomRetry
from f5_tts.train.optimizer import choose_optimizer
from f5_tts.train.train_state import TrainState
from f5_tts.types import LossOutput

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
STAGE_1 = ["-cn", "F5TTS_Mini", "model.output_dist=gaussian", "model.objective=gaussian_nll", "model.use_rl_head=true"]
STAGE_1 += ["datasets.batch_size_per_gpu=500"]
STAGE_2 = ["-cn", "F5TTS_Mini_RL", "datasets.batch_size_per_gpu=2", "rl.mini_repeat_count=2", "rl.steps=2"]
STAGE_2 += [MOODY, "rl.credit=sample", "rl.algorithm=nft", "rl.nft.old_decay=0.5"]  # with a reference and an old policy
DRAFT = [*STAGE_2[:-4], BRIGHT, "rl.credit=sample", "rl.algorithm=draft", "rl.draft.last_steps=2"]
STAGES = {"stage_1": (train.main, STAGE_1), "stage_2": (train_rl.main, STAGE_2), "draft": (train_rl.main, DRAFT)}
IN_SOAK = {"stage_2": ("lora", "lora_shards"), "draft": ("plain", "shards", "resumed")}
SHORT = ["optim.max_updates=2", "ckpts.save_per_updates=1"]  # of all runs
IN_SHARDS = "optim.shard=true"
LORA = ["lora.rank=2", "lora.target_modules=[to_q,ff.ff.2]"]
AS_ONE = 1e-5  # tolerance where only the order of additions differs
KINDS = ("weights", "average", "gradients", "exp_avg", "exp_avg_sq", "reference")


# --- a run whose noise and data do not depend on the number of processes ---


def train_state(options: list[str], *, in_shards: bool) -> TrainState:
    cfg = compose_config("F5TTS_Mini", [*options, f"optim.shard={str(in_shards).lower()}"], TrainConfig)
    vocabulary: Vocabulary = build_vocabulary(cfg)
    torch.manual_seed(0)
    model = build_model(cfg.model, vocabulary)
    with torch.no_grad():
        for parameter in model.parameters():  # a new model predicts zeros
            parameter.add_(0.05 * torch.randn_like(parameter))
    return build_train_state(cfg, model, vocabulary, 8, choose_optimizer(cfg.optim, torch.device("cpu")))


def point(update: int, place: int) -> tuple[Tensor, ...]:
    """Draw noisy mel, prompt mel, text and time of two items, and the target velocity, for `place` of an update."""
    draw = torch.Generator().manual_seed(10 * update + place)
    x, cond, aim = torch.randn(3, 2, 7, 100, generator=draw)
    return x, cond, torch.randint(0, 5, (2, 4), generator=draw), torch.rand(2, generator=draw), aim


def losses(policy: CFM, points: list[tuple[Tensor, ...]]) -> Iterator[LossOutput]:
    for *inputs, aim in points:
        velocity = policy(*inputs)
        assert velocity.ln_sigma is not None
        loss = (velocity.mean - aim).square().mean() + (velocity.ln_sigma - 0.5).square().mean()
        yield LossOutput(loss=loss / len(points), metrics={})


def updates(part: TrainState, until: int, accelerator: Accelerator) -> list[float]:
    """Train up to the update `until`; two points per update are divided among the processes. Return gradient norms."""
    optim = compose_config("F5TTS_Mini", [], TrainConfig).optim
    world_size, norms = accelerator.num_processes, []
    while part.update < until:
        mine = [point(part.update, place) for place in range(accelerator.process_index, 2, world_size)]
        norms.append(train_update(part, part.model, mine, losses, accelerator, optim, OomRetry())["grad_norm"])
    return norms


# --- run by the two processes ---


def on_each_rank(folder: Path, tiny: list[str]) -> None:
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    part = train_state(json.loads((folder / "options.json").read_text()), in_shards=True)
    part.resume(read_checkpoint(folder / "one_process.pt"), lambda said: None)
    then = Snapshot(part.model)
    before = gather_full_state(answer(then))
    norms = updates(part, 4, accelerator)
    state, after = gather_full_state(part.payload()), gather_full_state(answer(then))
    seen = {"norms": norms, "counts": counts(part, then), "all divided": all(map(is_dtensor, part.model.parameters()))}
    seen["reference moved"] = (before - after).abs().max().item()
    seen["policy moved"] = (answer(part.model) - after).abs().max().item()
    (folder / f"rank_{accelerator.process_index}.json").write_text(json.dumps(seen))
    if accelerator.is_main_process:
        write_checkpoint(folder / "two_processes.pt", state)
    for stage, (run, options) in STAGES.items():
        for name, more, start in runs(folder, stage):
            if name in IN_SOAK.get(stage, ()) and not (folder / "soak").exists():
                continue
            save_dir = folder / stage / name
            if accelerator.is_main_process:
                start_from(start, save_dir)
            accelerator.wait_for_everyone()
            run([*options, *tiny, *SHORT, *more, f"ckpts.save_dir={save_dir}"])
    torch.distributed.destroy_process_group()


def runs(folder: Path, stage: str) -> list[tuple[str, list[str], Path | None]]:
    """List name, overrides and first checkpoint of each run of a stage; one resumes from the middle of another."""
    start = folder / "stage_1" / "plain" / "model_last.pt" if stage != "stage_1" else None
    resumed = ("resumed", [IN_SHARDS], folder / stage / "shards" / "model_1.pt")
    both = [("plain", [], start), ("shards", [IN_SHARDS], start), resumed]
    lora = [("lora", LORA, start), ("lora_shards", [*LORA, IN_SHARDS], start)]
    return both if stage == "stage_1" else [*both, *lora]


def start_from(checkpoint: Path | None, save_dir: Path) -> None:
    save_dir.mkdir(parents=True)
    if checkpoint is not None:
        shutil.copy(checkpoint, save_dir / "model_last.pt")
        if (checkpoint.parent / "reference.pt").is_file():
            shutil.copy(checkpoint.parent / "reference.pt", save_dir)


@torch.no_grad()
def answer(model: CFM | Snapshot) -> Tensor:
    return model(*point(99, 0)[:4]).mean


def counts(part: TrainState, reference: Snapshot) -> dict[str, int]:
    """Count the values of each kind that this process holds."""
    (output,) = losses(part.model, [point(0, 0)])
    output.loss.backward()
    weights = list(part.model.parameters())
    states = [part.optimizer.state[weight] for weight in weights]
    average = part.ema.ema_model
    assert isinstance(average, CFM)
    kinds = [weights, average.parameters(), [weight.grad for weight in weights]]
    kinds += [[state[name] for state in states] for name in ("exp_avg", "exp_avg_sq")]
    kinds += [reference.tensors.values()]
    return {kind: sum(to_local(value).numel() for value in held) for kind, held in zip(KINDS, kinds, strict=True)}


# --- checks of their files ---


@pytest.fixture(scope="module")
def options(tiny: list[str]) -> list[str]:
    gaussian = ["model.output_dist=gaussian", "model.objective=gaussian_nll", "model.use_rl_head=true"]
    return [*tiny, *gaussian, "optim.learning_rate=0.001", "optim.ema.update_after_step=0", "optim.ema.update_every=1"]


@pytest.fixture(scope="module")
def one_process(options: list[str], at_home) -> TrainState:
    return train_state(options, in_shards=False)


@pytest.fixture(scope="module")
def left(request, tmp_path_factory, options: list[str], tiny: list[str], one_process: TrainState) -> Path:
    """Launch both processes and return their folder; one process made the first two of the four updates before."""
    folder: Path = tmp_path_factory.mktemp("shards")
    if any(item.get_closest_marker("soak") for item in request.session.items if item.path == request.path):
        (folder / "soak").touch()
    (folder / "options.json").write_text(json.dumps(options))
    updates(one_process, 2, Accelerator(cpu=True))
    write_checkpoint(folder / "one_process.pt", one_process.payload())
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)])
    done = subprocess.run(
        [*launch, "--module", "tests.e2e.test_shards", str(folder), *tiny],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", forkserver.MORE: "peft"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


def ranks(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(2)]


def tensors(state: Any, path: str = "") -> dict[str, Any]:
    """Flatten a nested state: return its leaves by path."""
    if isinstance(state, dict | list):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {name: leaf for key, value in items for name, leaf in tensors(value, f"{path}/{key}").items()}
    return {path: state}


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Compute the largest difference between the tensors of two states.

    It is relative to the largest value of the same kind (weights, first moments, ...). The states must share all names,
    shapes and other values.
    """
    result, expected = tensors(one), tensors(other)
    assert result.keys() == expected.keys()
    apart, largest = defaultdict[str, float](float), defaultdict[str, float](float)
    for name, value in expected.items():
        kind = name.split("/")[-1 if "/optimizer" in name else 1]
        if isinstance(value, Tensor) and value.numel():
            assert result[name].shape == value.shape
            apart[kind] = max(apart[kind], float((result[name].double() - value.double()).abs().max()))
            largest[kind] = max(largest[kind], float(value.double().abs().max()))
        elif kind != "origin":  # a file's checksum
            assert result[name] == value, name
    return max(value / largest[kind] for kind, value in apart.items() if value) if any(apart.values()) else 0.0


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def test_two_processes_in_shards_go_on_from_one_and_learn_what_it_learns(left, one_process):
    norms = updates(one_process, 4, Accelerator(cpu=True))
    assert [rank["norms"] for rank in ranks(left)] == [pytest.approx(norms, rel=1e-5)] * 2
    assert distance(read(left / "two_processes.pt"), one_process.payload()) < AS_ONE


def test_one_process_goes_on_from_two_in_shards(left, one_process, options):
    alone, accelerator = train_state(options, in_shards=False), Accelerator(cpu=True)
    alone.resume(read_checkpoint(left / "two_processes.pt"), lambda said: None)
    updates(one_process, 4, accelerator)
    assert updates(alone, 6, accelerator) == pytest.approx(updates(one_process, 6, accelerator), rel=1e-4)
    assert distance(alone.payload(), one_process.payload()) < AS_ONE


def test_each_process_holds_half_of_everything(left, one_process):
    """Each tensor is split along dimension 0, equally unless it has a single row or an odd number of rows."""
    first, second = (rank["counts"] for rank in ranks(left))
    shapes = [weight.shape for weight in one_process.model.parameters()]
    total = sum(shape.numel() for shape in shapes)
    half = sum((shape[0] + 1) // 2 * shape[1:].numel() for shape in shapes)
    assert first == dict.fromkeys(KINDS, half) and second == dict.fromkeys(KINDS, total - half)
    assert half < 0.503 * total
    assert all(rank["all divided"] for rank in ranks(left))


def test_a_reference_in_shards_answers_as_the_model_did_and_leaves_it_as_it_is(left):
    for rank in ranks(left):
        assert rank["reference moved"] == 0 < rank["policy moved"]


@pytest.mark.parametrize("stage", ["stage_1", "stage_2", pytest.param("draft", marks=pytest.mark.soak)])
def test_a_run_in_shards_is_the_run_without(left, stage):
    plain, shards = (left / stage / name for name in ("plain", "shards"))
    assert sorted(path.name for path in shards.iterdir()) == sorted(path.name for path in plain.iterdir())
    assert distance(read(shards / "model_last.pt"), read(plain / "model_last.pt")) < AS_ONE
    last, middle = (read(shards / name)["model_state_dict"] for name in ("model_last.pt", "model_1.pt"))
    assert distance({"weights": last}, {"weights": middle}) > 100 * AS_ONE


@pytest.mark.parametrize("stage", [pytest.param("stage_2", marks=pytest.mark.soak), "draft"])
def test_a_run_of_lora_in_shards_is_the_run_without(left, stage):
    result, expected = (read(left / stage / name / "model_last.pt") for name in ("lora_shards", "lora"))
    assert distance(result, expected) < AS_ONE
    assert any(bool(value.any()) for name, value in result["lora"]["raw"].items() if ".lora_B." in name)


@pytest.mark.parametrize("stage", ["stage_1", "stage_2", pytest.param("draft", marks=pytest.mark.soak)])
def test_an_interrupted_run_in_shards_goes_on_bit_for_bit(left, stage):
    resumed, shards = (left / stage / name / "model_last.pt" for name in ("resumed", "shards"))
    assert distance(read(resumed), read(shards)) == 0


def test_one_process_goes_on_with_a_run_in_shards(left, tiny, tmp_path):
    start_from(left / "stage_1" / "shards" / "model_1.pt", tmp_path / "alone")
    assert train.main([*STAGE_1, *tiny, *SHORT, f"ckpts.save_dir={tmp_path / 'alone'}"])
    assert read(tmp_path / "alone" / "model_last.pt")["update"] == 2


if __name__ == "__main__":
    on_each_rank(Path(sys.argv[1]), sys.argv[2:])
