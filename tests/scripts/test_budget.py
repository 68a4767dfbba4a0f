"""The memory estimate (MiB are 2^20 bytes, GB 10^9), against the golden list of the published model's tensors."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from torch import Size
from torch._subclasses import FakeTensorMode

from f5_tts.commands import find_command
from f5_tts.config.load import ConfigError, compose_config
from f5_tts.config.reward_names import PROVIDERS
from f5_tts.config.schema import ModelConfig, RLTrainConfig
from f5_tts.data.tokenizer import EMILIA_VOCAB, read_vocabulary
from f5_tts.estimate.live_bytes import PeakMemoryCounter, forward_bytes
from f5_tts.estimate.memory import (
    VOCOS_MIB_PER_S,
    VOCOS_PARAMETERS,
    MemoryItem,
    budget,
    loss_items,
    optimizer_bytes,
    prompts_per_batch,
    rollout_bytes,
    suggest_savings,
    total_bytes,
)
from f5_tts.model.build import build_model
from f5_tts.model.cfm import CFM
from f5_tts.model.fsdp import shard_numels
from f5_tts.model.lora import trained_sizes
from f5_tts.model.vocoders.vocos import Vocos
from f5_tts.rewards.asr.funasr_wer import FunasrWer
from f5_tts.rewards.speaker.voice_sim import VoiceEncoder, VoiceSim
from f5_tts.rewards.speaker.wespeaker_sim import WespeakerSim
from f5_tts.scripts.budget import table as in_words

main = find_command("budget").main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MIB = 2**20
HEAD = 1024 * 100 + 100  # weights of the Gaussian head
GUIDE = f"""
    datasets.name=mini_rl datasets.batch_size_per_gpu=1 datasets.batch_size_type=sample datasets.num_workers=1
    model.tokenizer=custom model.tokenizer_path={EMILIA_VOCAB}
    model.output_dist=gaussian model.objective=grpo model.use_rl_head=true model.arch.checkpoint_activations=true
    optim.epochs=1 optim.learning_rate=1e-6 optim.num_warmup_updates=0 optim.grad_accumulation_steps=1
    optim.bnb_optimizer=true ckpts.save_dir=ckpts/mini_rl_grpo ckpts.log_samples=false
    rl.steps=2 rl.repeat_count=1 rl.mini_repeat_count=1 rl.prompt_frac_range=[0.1,0.1] rl.prompt_length_mode=min
    rl.cfg_strength=1.0 rl.sway_sampling_coef=null rl.kl_weight=1.0
    rl.rewards.providers.0.config.model_dir=checkpoints/wespeaker/cnceleb_resnet34/cnceleb_resnet34
    rl.rewards.providers.1.config.model_id=checkpoints/funasr/SenseVoiceSmall
""".split()
TINY = [f"model.arch.{size}" for size in ("dim=32", "depth=2", "heads=2", "dim_head=16", "text_dim=16")]


@pytest.fixture(autouse=True)
def in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)


def guides_run(*changes: str) -> RLTrainConfig:
    return compose_config("F5TTS_RL", [*GUIDE, *changes], RLTrainConfig)


def tiny_run(*changes: str) -> RLTrainConfig:
    return guides_run(*TINY, *changes)


def weightless(model: ModelConfig) -> CFM:
    with FakeTensorMode():
        return build_model(model, read_vocabulary(EMILIA_VOCAB))


def sizes(cfg: RLTrainConfig, seconds: float = 1.0) -> dict[str, tuple[str, int]]:
    """Return device and bytes of each item by name."""
    return {part.name: (part.device, part.num_bytes) for part in budget(cfg, seconds)}


def test_keys_that_memory_does_not_depend_on_are_not_checked(capsys):
    main([*GUIDE, *TINY, "--seconds", "1"])
    plain = capsys.readouterr().out
    main([*GUIDE, *TINY, "--seconds", "1", "rl.prompt_frac_range=null", "datasets.pair_speakers=false"])
    assert capsys.readouterr().out == plain


def test_the_published_model_has_as_many_numbers_as_its_file(table):
    golden = table("g1_state_dicts")["F5TTS_v1_Base"]
    run = guides_run()
    assert run.lora.rank == 0  # all weights are trained
    trained = trained_sizes(weightless(run.model), run.lora)
    assert sum(trained) == golden["n_params"] + HEAD == 337_096_804 + 102_500


def test_adapters_have_rank_times_what_goes_in_and_out_and_the_head_is_trained_whole():
    """In 22 blocks, queries, keys, values and outputs map 1024 to 1024, feed-forward layers 1024 to 2048 and back."""
    run = guides_run("lora.rank=16")
    trained = trained_sizes(weightless(run.model), run.lora)
    assert sum(trained) == 22 * 16 * (4 * (1024 + 1024) + 2 * (1024 + 2048)) + HEAD


def test_adamw_has_eight_bytes_a_number_and_in_8_bits_two_and_two_scales_a_block_of_256():
    assert optimizer_bytes(guides_run("optim.bnb_optimizer=false"), [10, 5000]) == 8 * 5010
    assert optimizer_bytes(guides_run(), [5000]) == 2 * (5000 + 4 * 20)
    assert optimizer_bytes(guides_run(), [4096]) == 2 * (4096 + 4 * 16)
    assert optimizer_bytes(guides_run(), [4095]) == 8 * 4095  # small tensors stay in 32 bits


def test_8_bit_adamw_of_the_published_model_by_the_shapes_of_its_file(table):
    shapes = table("g1_state_dicts")["F5TTS_v1_Base"]["model_state_dict"].values()
    numbers = [prod(shape) for shape in shapes]
    expected = sum(8 * num if num < 4096 else 2 * (num + 4 * -(-num // 256)) for num in numbers)
    run = guides_run("optim.bnb_optimizer=true")
    trained = trained_sizes(weightless(replace(run.model, output_dist="deterministic")), run.lora)
    # the file also holds a buffer of 32 values
    assert optimizer_bytes(run, trained) == pytest.approx(expected, rel=1e-6)
    assert expected / (8 * sum(numbers)) == pytest.approx(0.254, abs=0.001)


def test_the_vocoder_and_the_small_speaker_encoder_have_the_sizes_that_are_written_down():
    with FakeTensorMode():
        vocos = Vocos(guides_run().model.mel_spec, 512, 1536, 8)
        encoder = VoiceEncoder()
    assert sum(part.numel() for part in vocos.parameters()) == VOCOS_PARAMETERS
    assert sum(part.numel() for part in encoder.parameters()) == VoiceSim.num_parameters


def test_the_guides_command_fits_and_config_and_docs_say_by_how_much(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    parts = budget(guides_run(), 30.0)
    used = total_bytes(parts, "GPU") / 1e9
    assert used < 7.5
    moved = sum(part.num_bytes for part in parts if part.name in PROVIDERS) / 1e9
    kept = {part.name: part.num_bytes / 1e9 for part in parts}["running average (EMA)"]
    copied = total_bytes(budget(guides_run("rl.ref_model_device=cpu"), 30.0), "GPU") / 1e9
    comment = (ROOT / "src/f5_tts/configs/F5TTS_RL.yaml").read_text("utf-8")
    for output in (used, used + kept, used + moved, copied):
        assert f"{output:.2f}" in comment
    assert in_words(parts) in (ROOT / "docs/rl.md").read_text("utf-8")


def test_activations_are_those_of_a_real_pass():
    """The batch has two prompts with three samples of 2 s at 93.75 frames per second."""
    run = tiny_run("datasets.batch_size_per_gpu=2", "rl.mini_repeat_count=3")
    real = build_model(run.model, read_vocabulary(EMILIA_VOCAB)).eval()
    expected = forward_bytes(real, 6, 188, cfg_strength=1.0)
    assert sizes(run, 2.0)["activations, forward and backward"] == ("GPU", expected)


def test_weights_gradients_average_and_reference_are_four_bytes_a_number_each_where_its_key_says():
    run = tiny_run()
    size = 4 * sum(trained_sizes(weightless(run.model), run.lora))
    parts = sizes(run)
    assert [parts[name] for name in ("weights", "gradients", "reference")] == 3 * [("GPU", size)]
    assert parts["running average (EMA)"] == ("CPU", size)  # as in F5TTS_RL
    elsewhere = sizes(tiny_run("optim.ema.device=null", "rl.ref_model_device=cpu"))
    assert elsewhere["running average (EMA)"] == ("GPU", size)
    assert elsewhere["reference"] == ("CPU", size)
    where, copy = elsewhere["reference, copy and forward pass"]
    assert where == "GPU" and size < copy < size + parts["activations, forward and backward"][1]


def test_a_reference_on_the_cpu_is_on_the_gpu_for_one_pass_and_leaves_its_answers_there():
    """Compute by hand what is left of clips of 1 s, 94 frames of 100 bins, of 2 prompts with 4 samples each.

    gaussian_grpo keeps mean and deviation at two trained steps, and velocity and noise of the anchor.
    """
    given = ("rl.ref_model_device=cpu", "datasets.batch_size_per_gpu=2", "rl.mini_repeat_count=4", "rl.steps=8")
    array = 4 * 2 * 4 * 94 * 100
    for changes, arrays in (
        (["rl.algorithm=gaussian_grpo"], 2 * 2 + 2),
        (["rl.algorithm=gaussian_grpo", "rl.anchor_weight=0"], 2 * 2),
        (["rl.algorithm=flow_grpo", "rl.window.size=1"], 1 + 2),
        (["rl.algorithm=nft", "rl.shared_noise=false", "rl.nft.num_times=3"], 2 * 3),
        (["rl.algorithm=draft"], 2),
    ):
        assert sizes(tiny_run(*given, *changes))["reference, answers"] == ("GPU", arrays * array)
    assert "reference, answers" not in sizes(tiny_run(*given, "rl.kl_weight=0"))
    assert "reference, answers" not in sizes(tiny_run(*given, "rl.ref_model_device=null"))


IN_SHARDS = ("optim.shard=true", "optim.bnb_optimizer=false", "optim.ema.device=null")


def test_in_shards_each_process_holds_its_rows_of_everything_and_some_layers_whole_for_a_while():
    run = tiny_run(*IN_SHARDS)
    shapes = [weight.shape for weight in weightless(run.model).parameters()]
    part = sum(-(-shape[0] // 5) * prod(shape[1:]) for shape in shapes)  # shards of 5 processes, rounded up
    parts = {one.name: one.num_bytes for one in budget(run, 1.0, processes=5)}
    assert {parts[name] for name in ("weights", "gradients", "running average (EMA)", "reference")} == {4 * part}
    assert parts["AdamW"] == 8 * part
    outside = sum(shape.numel() for shape in shapes_of(run, lambda name: not name.startswith("transformer_blocks.")))
    block = sum(shape.numel() for shape in shapes_of(run, lambda name: name.startswith("transformer_blocks.0.")))
    assert parts["unsharded layers in use"] == 2 * 4 * (outside + 2 * block)
    alone = sizes(tiny_run())["activations, forward and backward"]
    assert parts["activations, forward and backward"] == alone[1]


def shapes_of(cfg: RLTrainConfig, belongs: Callable[[str], bool]) -> list[Size]:
    """Return the shapes of the weights whose names `belongs` accepts."""
    return [weight.shape for name, weight in weightless(cfg.model).transformer.named_parameters() if belongs(name)]


def test_shards_of_the_published_model_have_the_sizes_that_the_page_tells():
    model = weightless(guides_run().model)
    page = " ".join((ROOT / "docs/scale.md").read_text("utf-8").split())  # wherever its lines end
    millions = {processes: f"{sum(shard_numels(model, processes)) / 1e6:.1f} million" for processes in (2, 8, 64)}
    assert f"{millions[2]} numbers of each kind on each of 2 processes" in page
    assert f"{millions[8]} of 8, {millions[64]} of 64" in page


def test_what_does_not_go_with_shards_is_no_advice(capsys: pytest.CaptureFixture[str]):
    main([*GUIDE, *TINY, *IN_SHARDS, "--seconds", "1", "--limit", "0.01", "--processes", "4"])
    output = capsys.readouterr().out
    assert "sharded over 4 processes" in output
    assert "lora.rank=16" in output and "bnb_optimizer=true" not in output


def test_what_a_run_does_not_build_is_not_counted():
    assert "reference" not in sizes(tiny_run("rl.kl_weight=0"))
    assert "vocoder" not in sizes(tiny_run("model.vocoder.name=griffin_lim"))
    nft = ("rl.algorithm=nft", "rl.shared_noise=false")
    assert "old policy (nft)" in sizes(tiny_run(*nft))
    assert "old policy (nft)" not in sizes(tiny_run(*nft, "rl.nft.old_decay=0"))


def test_rewards_are_where_their_own_key_says_else_on_the_cpu():
    parts = sizes(tiny_run("rl.rewards.providers.1.config.device=cuda"))
    assert parts["wespeaker_sim"] == ("CPU", 4 * 6_630_000)
    assert parts["funasr_wer"] == ("GPU", 4 * 234_000_000)


# --- losses of rewards ---

DRAFT = ("rl.algorithm=draft", "rl.kl_weight=0")


def loss_parts(cfg: RLTrainConfig) -> dict[str, tuple[str, float]]:
    """Return device and MiB of each item of the rewards' losses, for clips of 4 s."""
    return {item.name.removesuffix(", loss"): (item.device, item.num_bytes / MIB) for item in loss_items(cfg, 4.0)}


def test_losses_of_rewards_count_where_each_reward_is_and_the_vocoder_beside_those_on_the_gpu():
    speaker, text, vocoder = WespeakerSim.loss_mib(4.0, 1), FunasrWer.loss_mib(4.0, 1), 4 * VOCOS_MIB_PER_S
    assert loss_parts(tiny_run(*DRAFT)) == {
        "vocoder": ("GPU", pytest.approx(vocoder, abs=0.01)),
        "wespeaker_sim": ("CPU", pytest.approx(speaker, abs=0.01)),
        "funasr_wer": ("CPU", pytest.approx(text, abs=0.01)),
    }
    mixed = loss_parts(tiny_run(*DRAFT, "rl.rewards.providers.1.config.device=cuda"))
    assert mixed["funasr_wer and vocoder"] == ("GPU", pytest.approx(text + vocoder, abs=0.01))
    assert all(item.transient for item in loss_items(tiny_run(*DRAFT), 4.0))


def test_losses_count_for_the_clips_of_a_forward_pass():
    one, six = (
        loss_parts(tiny_run(*DRAFT, f"datasets.batch_size_per_gpu={num}", "rl.mini_repeat_count=2")) for num in (1, 3)
    )
    assert six["vocoder"][1] == pytest.approx(3 * one["vocoder"][1])
    assert six["funasr_wer"] == one["funasr_wer"]  # one clip at a time


def test_only_rewards_whose_gradients_are_followed_have_losses():
    assert loss_parts(tiny_run()) == {}
    assert list(loss_parts(tiny_run("rl.draft.weight=1"))) == ["vocoder", "wespeaker_sim", "funasr_wer"]
    unweighted = tiny_run(*DRAFT, "rl.rewards.providers.0.weight=0")
    assert list(loss_parts(unweighted)) == ["vocoder", "funasr_wer"]
    remote = [
        "rl.rewards.providers.1.worker={url: 'http://127.0.0.1:8008'}",
        "rl.rewards.providers.1.config.model_id=null",
    ]
    assert list(loss_parts(tiny_run("rl.draft.weight=1", *remote))) == ["vocoder", "wespeaker_sim"]


def test_the_memory_of_the_vocoders_gradient_is_the_one_that_is_written_down():
    vocos, frames = Vocos(guides_run().model.mel_spec, 512, 1536, 8).requires_grad_(False), 188
    mel = torch.zeros(1, frames, 100, requires_grad=True)
    with PeakMemoryCounter() as counter:
        vocos(mel, torch.tensor([frames]))[0].sum().backward()
    assert counter.peak / MIB == pytest.approx(VOCOS_MIB_PER_S * frames / 93.75, rel=0.05)


@pytest.mark.soak
def test_draft_with_both_reward_models_on_the_gpu_fits_into_8_gb_as_the_page_says():
    """Estimate the guide's model with adapters in bf16, one step differentiated, for clips of 30 s."""
    settings = ("rl.algorithm=draft", "rl.draft.last_steps=1", "lora.rank=16", "optim.mixed_precision=bf16")
    cuda = [f"rl.rewards.providers.{i}.config.device=cuda" for i in range(2)]
    on_cpu, on_gpu = (total_bytes(budget(guides_run(*settings, *more), 30.0), "GPU") / 1e9 for more in ([], cuda))
    assert on_cpu < on_gpu < 7.5
    page = " ".join((ROOT / "docs/rewards.md").read_text("utf-8").split())
    assert f"{on_cpu:.2f} GB of GPU memory" in page and f"{on_gpu:.2f} GB" in page


def test_a_loss_of_unknown_size_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "own_loss.py").write_text("class Mine:\n    takes = 'mel'\n    def loss(self, inputs): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    main([*GUIDE, *TINY, *DRAFT, "rl.rewards.providers.0.name=own_loss:Mine", "--seconds", "1"])
    assert "the loss of own_loss:Mine, whose size is not known here" in capsys.readouterr().out


def test_recorded_samples_are_those_of_an_update():
    """One prompt has four samples of 94 frames with 100 bins of 4 bytes.

    Each has three arrays, and 3 or 4 for each of 2 trained steps.
    """
    array = 4 * 94 * 100 * 4
    group = ("rl.repeat_count=2", "rl.mini_repeat_count=2", "rl.steps=8")
    assert rollout_bytes(tiny_run(*group, "rl.algorithm=gaussian_grpo"), 1.0) == 11 * array
    assert rollout_bytes(tiny_run(*group, "rl.algorithm=flow_grpo"), 1.0) == 9 * array
    assert rollout_bytes(tiny_run(*group, "rl.algorithm=nft", "rl.shared_noise=false"), 1.0) == 3 * array
    assert rollout_bytes(tiny_run(*group, "rl.algorithm=draft", "rl.draft.last_steps=2"), 1.0) == 6 * array
    beside = ("rl.algorithm=nft", "rl.shared_noise=false", "rl.draft.weight=1", "rl.draft.last_steps=1")
    assert rollout_bytes(tiny_run(*group, *beside), 1.0) == 3 * array + 5 * array // 4
    assert rollout_bytes(tiny_run(*group, "optim.grad_accumulation_steps=5"), 1.0) == 5 * 11 * array


def test_a_batch_counted_in_frames_holds_as_many_prompts_as_fit():
    frames = ("datasets.batch_size_type=frame", "datasets.batch_size_per_gpu=1000")
    assert prompts_per_batch(tiny_run(*frames), 1.0) == 10
    assert prompts_per_batch(tiny_run(*frames, "datasets.max_samples=4"), 1.0) == 4
    assert prompts_per_batch(tiny_run(*frames), 30.0) == 1


def test_parts_that_take_turns_count_once_by_the_largest():
    parts = [
        MemoryItem("a", "GPU", 10, ""),
        MemoryItem("b", "GPU", 5, "", transient=True),
        MemoryItem("c", "GPU", 7, "", transient=True),
    ]
    assert total_bytes([*parts, MemoryItem("d", "CPU", 100, "")], "GPU") == 17


def test_knobs_are_changes_that_spare_the_gpu_something_the_largest_first():
    changes = [*TINY, "rl.rewards.providers.1.config.device=cuda", "optim.ema.device=null"]
    result = suggest_savings("F5TTS_RL", [*GUIDE, *changes], tiny_run(*changes[-2:]), 1.0)
    assert [num for num, _ in result] == sorted((num for num, _ in result), reverse=True)
    assert result[0] == (4 * 234_000_000, "rl.rewards.providers.1.config.device=cpu")
    named = {change for _, change in result}
    assert "optim.ema.device=cpu" in named
    assert "optim.bnb_optimizer=true" not in named  # already set


def test_the_command_prints_the_table_the_total_and_beyond_the_limit_what_to_change(capsys: pytest.CaptureFixture[str]):
    assert main([*GUIDE, *TINY, "--seconds", "1", "--limit", "0.05"])
    output = capsys.readouterr().out
    assert output.startswith(
        "F5TTS_v1_Base: clips of 1 s, 1 in a forward pass, each twice for guidance, single precision\n"
    )
    assert re.search(r"\| total +\| GPU +\| +\d+ \|", output)
    assert re.search(r"GPU: 0\.\d\d GB of 0\.05 GB\nchanges that would save GPU memory.*\n +\d\.\d\d GB  ", output)
    main([*GUIDE, *TINY, "--seconds", "1"])
    assert "changes that would save" not in capsys.readouterr().out


def test_without_the_vocabulary_of_the_run_the_released_one_is_counted_and_that_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    main([*GUIDE, *TINY, f"model.tokenizer_path={tmp_path / 'gone.txt'}", "--seconds", "1"])
    assert "estimated with the 2545 symbols of the released vocabulary" in capsys.readouterr().out


def test_rewards_of_unknown_size_are_named(capsys: pytest.CaptureFixture[str]):
    main([*GUIDE, *TINY, "rl.rewards.providers.0.name=mine:Reward", "--seconds", "1"])
    assert "and mine:Reward, whose size is not known here" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--seconds", "--limit"])
@pytest.mark.parametrize("value", ["0", "-3", "inf", "nan"])
def test_seconds_and_limit_are_above_zero(flag: str, value: str):
    with pytest.raises(ConfigError, match=f"{flag}={value} is not allowed; allowed: a number above 0"):
        main([*GUIDE, *TINY, f"{flag}={value}"])
