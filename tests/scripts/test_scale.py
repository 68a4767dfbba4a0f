"""The estimate for many GPUs, against results by hand and the collectives of an update on two processes (gloo)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from f5_tts.commands import find_command
from f5_tts.config.load import ConfigError, compose_config
from f5_tts.config.schema import RLConfig, RLTrainConfig
from f5_tts.estimate.communication import SHARDED_OVERRIDES, CommunicationEstimate, passes_per_update
from f5_tts.train import train, train_rl

main = find_command("scale").main

ROOT = Path(__file__).parents[2]
SIZES = ["dim=32", "depth=2", "heads=2", "dim_head=16", "text_dim=16", "conv_layers=1"]
TINY = ["datasets.name=mini", *(f"model.arch.{size}" for size in SIZES)]
OPTIONS = [
    *("datasets.batch_size_per_gpu=2", "rl.repeat_count=2", "rl.mini_repeat_count=2", "model.vocoder.iterations=2"),
    *("rl.algorithm=gaussian_grpo", "rl.train_sigma=true", "rl.shared_noise=true", "rl.credit=sample", "rl.steps=4"),
    *("rl.window.schedule=fixed", "rl.anchor_weight=0", "rl.rewards.providers=[{name: 'tests.e2e.runs:Moody'}]"),
    *("optim.max_updates=1", "optim.num_warmup_updates=0"),
]
GAUSSIAN = ["model.output_dist=gaussian", "model.objective=gaussian_nll", "model.use_rl_head=true"]
FRAMES_PER_SECOND = 50  # F5TTS_Mini


class Collectives(TorchDispatchMode):
    """Records within its `with` block the output bytes of each collective call on this process, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, list[int]] = defaultdict(list)

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            # the first argument is the output
            given = [leaf.nbytes for leaf in tree_leaves(args[0]) if isinstance(leaf, Tensor)]
            self.calls[func.__name__.partition(".")[0].strip("_")].append(sum(given))
        return func(*args, **(kwargs or {}))


def on_each_rank(folder: Path) -> None:
    """Run an update without and with sharding; the main process writes down its collectives."""
    for name, more in {"whole": [], "shards": ["optim.shard=true"]}.items():
        place = [f"ckpts.init_from={folder / 'start' / 'model_last.pt'}", f"ckpts.save_dir={folder / name}"]
        with Collectives() as seen:
            train_rl.main(["-cn", "F5TTS_Mini_RL", *TINY, *OPTIONS, *more, *place])
        if torch.distributed.get_rank() == 0:
            (folder / f"{name}.json").write_text(json.dumps(seen.calls))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[int]]]:
    folder = tmp_path_factory.mktemp("scale")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        first = ["datasets.batch_size_per_gpu=500", "optim.max_updates=1", "optim.num_warmup_updates=0"]
        train.main(["-cn", "F5TTS_Mini", *TINY, *GAUSSIAN, *first, f"ckpts.save_dir={folder / 'start'}"])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"}
    command = [*launch, "tests.scripts.test_scale", str(folder)]
    done = subprocess.run(command, env=os.environ | paths, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-5000:]
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in ("whole", "shards")}


def runs(*changes: str) -> tuple[RLTrainConfig, RLTrainConfig]:
    """Compose the config of a small run without and with sharding."""
    options = [*TINY, *changes]
    return compose_config("F5TTS_Mini_RL", options, RLTrainConfig), compose_config(
        "F5TTS_Mini_RL", [*options, *SHARDED_OVERRIDES], RLTrainConfig
    )


@pytest.fixture(scope="module")
def computed() -> CommunicationEstimate:
    return CommunicationEstimate(*runs(*OPTIONS), seconds=1.0)


@pytest.mark.slow
def test_an_update_sends_the_gradients_once(seen, computed: CommunicationEstimate):
    """A ring all-reduce on two processes sends 2 (2 - 1) / 2 = 1 times its input; two flags of 4 bytes are added."""
    assert sum(seen["whole"]["allreduce"]) == computed.gradients + 8
    assert len(seen["whole"]["allreduce"]) == 1 + 2  # all gradients fit into one bucket
    assert computed.bytes_sent(2) == computed.gradients


@pytest.mark.slow
def test_in_shards_an_update_sends_weights_for_each_pass_and_gradients_for_each_backward_pass(
    seen, computed: CommunicationEstimate
):
    """Half of an all-gather's output comes from the other process.

    A reduce-scatter outputs one half, for which the other process sent the same amount.
    """
    result = seen["shards"]
    assert sum(result["allgather_base"]) / 2 + sum(result["reduce_scatter_base"]) == computed.bytes_sent_sharded(2)
    groups = 3  # two blocks, and the weights outside of them
    assert len(result["allgather_base"]) == groups * (computed.num_forward + 2 * computed.num_backward)
    assert len(result["reduce_scatter_base"]) == groups * computed.num_backward
    assert sum(result["allreduce"]) == 8


@pytest.mark.slow
def test_rewards_are_few_bytes_beside_the_frames_that_were_generated(seen, computed: CommunicationEstimate):
    """Each process sends for 8 samples their mask of frames, a number of 8 bytes per prompt, and scores of 4 bytes."""
    gathered = sorted(seen["whole"]["allgather"], reverse=True)
    sums = 2 * 8 * len(list(computed.model.parameters()))  # sums compared bit for bit for health/weights_apart
    assert sums in gathered
    frames = max(size for size in gathered if size != sums) / 2 / computed.rollouts
    assert computed.rollouts == 8 and frames == int(frames) > 30
    assert computed.reward_bytes() == 8 * FRAMES_PER_SECOND  # the clips last one second
    assert sum(gathered) - sums - 2 * frames * 8 < 2000


def test_passes_of_the_guides_update_are_those_one_counts_by_hand():
    """Of two steps the second is trained, so sampling takes 1 + 1 passes.

    Learning takes one pass for the policy loss and one for the anchor, each with one of the reference.
    """
    options = ["rl.steps=2", "rl.mini_repeat_count=1", "rl.sway_sampling_coef=null", "rl.cfg_strength=1"]
    assert passes_per_update(settings(*options), has_old=False) == (2 + 2, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "asked", "learnt"),
    [
        (["rl.kl_weight=0"], 16, 2),  # the anchor loss needs a reference
        (["rl.kl_weight=0", "rl.shared_noise=false", "rl.repeat_count=3"], 3 * 16, 3 * 2),
        (["rl.anchor_weight=0", "rl.shared_noise=false"], 16 + 2, 2),
        (["rl.anchor_every=4", "rl.shared_noise=false"], 16 + 2 + 1 / 4, 2 + 1 / 4),
        (["rl.anchor_weight=0", "rl.shared_noise=false", "rl.updates_per_rollout=4"], 16 / 4 + 2, 2),
        (["rl.algorithm=nft", "rl.shared_noise=false", "rl.nft.num_times=3"], 16 + 2 * 3, 3),
        (["rl.algorithm=flow_grpo", "rl.window.size=1", "rl.kl_weight=0"], 16, 1),
        (["rl.algorithm=draft", "rl.draft.last_steps=3"], 16 + 1, 3 + 1),  # the anchor compares with the reference
        (["rl.algorithm=draft", "rl.draft.last_steps=3", "rl.anchor_every=4"], 16 + 1 / 4, 3 + 1 / 4),
        (["rl.algorithm=flow_grpo", "rl.window.size=1", "rl.kl_weight=0", "rl.draft.weight=1"], 2 * 16, 1 + 1),
    ],
)
def test_passes_are_counted_for_every_algorithm(options: list[str], asked: float, learnt: float):
    """There are 16 steps, of which 2 are trained; nft runs the reference and the old policy at each of its times."""
    assert passes_per_update(settings(*options), has_old="rl.algorithm=nft" in options) == (asked, learnt)


def settings(*changes: str) -> RLConfig:
    return compose_config("F5TTS_RL", list(changes), RLTrainConfig).rl


@pytest.mark.slow
def test_a_ring_of_many_sends_nearly_twice_the_gradients(computed: CommunicationEstimate):
    assert computed.bytes_sent(1) == 0
    assert computed.bytes_sent(8) == 2 * 7 / 8 * computed.gradients
    assert computed.bytes_sent(512) == 2 * 511 / 512 * computed.gradients


@pytest.mark.slow
def test_what_accumulates_batches_passes_more_often_and_sends_its_gradients_once(computed: CommunicationEstimate):
    once, twice = computed, CommunicationEstimate(*runs(*OPTIONS, "optim.grad_accumulation_steps=2"), seconds=1.0)
    assert twice.bytes_sent(8) == once.bytes_sent(8)
    assert twice.bytes_sent_sharded(8) == 2 * once.bytes_sent_sharded(8)
    assert twice.rollouts == 2 * once.rollouts


@pytest.mark.slow
def test_adapters_are_all_that_is_sent_without_shards_and_in_shards_the_weights_are_too(
    computed: CommunicationEstimate,
):
    adapters = CommunicationEstimate(*runs(*OPTIONS, "lora.rank=2"), seconds=1.0)
    assert adapters.bytes_sent(8) < computed.bytes_sent(8) / 4
    assert adapters.bytes_sent_sharded(8) > computed.bytes_sent_sharded(8) / 2


@pytest.mark.soak
def test_the_page_has_the_table_that_the_command_prints(capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    page = (ROOT / "docs/scale.md").read_text("utf-8")
    (command,) = re.findall(r"f5-tts scale ((?:.*\\\n)*.*)", page)
    assert main(command.replace("\\\n", " ").replace("'", "").split())
    sentences, bar, table = capsys.readouterr().out.partition("\n")[2].partition("|")
    assert sentences.strip() in page and (bar + table).strip() in page


def test_the_command_names_its_flags_and_refuses_what_it_compares():
    with pytest.raises(ConfigError, match="--between=0 is not allowed; allowed: a number above 0"):
        main(["--between", "0"])
    with pytest.raises(ConfigError, match="leave it out"):
        main(["optim.shard=true", "optim.ema.device=null"])


if __name__ == "__main__":
    on_each_rank(Path(sys.argv[1]))
