"""Names that other projects have for settings: the key that means the same here, or what is different here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ABSENT_KEYS = {
    "rl.steps_plus_one": "rl.steps counts solver steps, as with true there; rl.algorithm=f5r alone counts grid points, "
    "give it one more",
    "rl.align_kl_steps": "the KL is always measured at the steps that are trained, as with true there",
    "rl.reward_ref_source": "the reference of a speaker reward is always the recording (audio_path there): that of the "
    "item, or of its prompt with datasets.pair_speakers=true",
    "rl.reward_ref_cache_size": "a batch holds its recordings, so that none is read again for a reward",
    "rl.max_duration": "datasets.max_seconds limits recordings, and a sample is as long as its recording",
    "rl.legacy_length_check": "a sample always has the length of its recording, which rl.duration_jitter varies",
    "ckpts.allow_extra_keys": "weights have to fit exactly; a Gaussian head alone may be missing or left over, and the "
    "run says so",
}  # key of the guide's fork -> what is so here
ABSENT_REWARD_KEYS = {
    "cache_enabled": "embeddings of references are always cached, and scores of new clips never",
    "cache_dir": "embeddings of references are cached in memory, nothing is on disk",
    "cache_size": "the last 1024 embeddings of references are cached",
}  # key of a reward's config -> what is so here
MEANT_KEYS = {
    "eval.items": "eval.list"
}  # key that does not exist -> the one that is meant, if others look more like it


@dataclass(frozen=True, kw_only=True)
class ForeignName:
    """Setting of other projects.

    With `difference` the value has another meaning or scale here, and the name is refused; without, it is taken for
    `key`.
    """

    programs: str
    names: tuple[str, ...]  # as they are written there; with a section where the name alone would not be clear
    key: str  # ours, or keys of ours in words
    difference: str = ""
    values: Mapping[str, str] = field(default_factory=dict)  # their value -> ours; none: the same values


EPSILON = "our log-ratios are means over mel entries, so that clipping is some thousand times smaller: 1e-4, not 0.2"
FOREIGN_NAMES = (
    # samples and groups
    ForeignName(programs="TRL, ms-swift", names=("num_generations",), key="rl.group_size"),
    ForeignName(programs="flow_grpo", names=("sample.num_image_per_prompt",), key="rl.group_size"),
    ForeignName(programs="TRL, ms-swift", names=("num_iterations",), key="rl.updates_per_rollout"),
    ForeignName(programs="flow_grpo", names=("train.num_inner_epochs",), key="rl.updates_per_rollout"),
    ForeignName(programs="flow_grpo", names=("sample.num_steps",), key="rl.steps"),
    ForeignName(programs="flow_grpo", names=("sample.same_latent",), key="rl.shared_noise"),
    ForeignName(programs="flow_grpo", names=("sample.noise_level",), key="rl.sde.a"),
    ForeignName(programs="flow_grpo", names=("sample.sde_window_size",), key="rl.window.size"),
    ForeignName(
        programs="flow_grpo",
        names=("sample.sde_window_range",),
        key="rl.window.t_range",
        difference="the window is given in flow times from 0 (noise) to 1 (speech), not in numbers of steps",
    ),
    ForeignName(
        programs="flow_grpo, diffusers",
        names=("guidance_scale",),
        key="rl.cfg_strength",
        difference="no guidance is 0 here and 1 there: subtract 1",
    ),
    # objective
    ForeignName(
        programs="TRL, ms-swift, flow_grpo",
        names=("beta",),
        key="rl.kl_weight",
        difference="the KL is a mean over mel entries here, and a sum over a token's distribution in language models, "
        "so that other weights are usual: 0.02 to 1",
    ),
    ForeignName(programs="TRL, ms-swift", names=("epsilon",), key="rl.clip_low", difference=EPSILON),
    ForeignName(programs="TRL, ms-swift", names=("epsilon_high",), key="rl.clip_high", difference=EPSILON),
    ForeignName(programs="flow_grpo", names=("clip_range_lt",), key="rl.clip_low"),
    ForeignName(programs="flow_grpo", names=("clip_range_gt",), key="rl.clip_high"),
    ForeignName(
        programs="flow_grpo",
        names=("clip_range",),
        key="rl.clip_low and rl.clip_high",
        difference="it has two keys here, each of the same scale as there",
    ),
    ForeignName(programs="flow_grpo", names=("adv_clip_max",), key="rl.advantage_clip"),
    ForeignName(
        programs="TRL, ms-swift",
        names=("scale_rewards",),
        key="rl.advantage",
        values={
            "group": "grpo",
            "true": "grpo",
            "batch": "global_std",
            "none": "dr_grpo",
            "null": "dr_grpo",
            "false": "dr_grpo",
        },
    ),
    ForeignName(
        programs="flow_grpo",
        names=("sample.global_std",),
        key="rl.advantage",
        values={"true": "global_std", "false": "grpo"},
    ),
    ForeignName(
        programs="TRL, ms-swift",
        names=("loss_type",),
        key="rl.advantage and rl.algorithm",
        difference="the types there differ in how they divide by the length of a completion; here each sample counts "
        "as one whatever its length, and rl.advantage=dr_grpo leaves out the standard deviation",
    ),
    ForeignName(
        programs="TRL, ms-swift",
        names=("reward_weights", "reward_funcs", "reward_fn"),
        key="rl.rewards.providers",
        difference="rewards are a list of entries, each with its name and weight: "
        "rl.rewards.providers=[{name: funasr_wer, weight: 1}]",
    ),
    # batches and optimizer
    ForeignName(programs="Transformers, TRL, flow_grpo", names=("lr",), key="optim.learning_rate"),
    ForeignName(programs="Transformers, TRL, flow_grpo, F5-TTS", names=("learning_rate",), key="optim.learning_rate"),
    ForeignName(
        programs="Transformers, TRL, ms-swift, flow_grpo",
        names=("gradient_accumulation_steps", "grad_accumulation_steps"),
        key="optim.grad_accumulation_steps",
    ),
    ForeignName(
        programs="Transformers, TRL, ms-swift",
        names=("per_device_train_batch_size",),
        key="datasets.batch_size_per_gpu",
        difference="it counts samples there and prompts (or mel frames) here: a batch has datasets.batch_size_per_gpu "
        "prompts, of which rl.mini_repeat_count samples each are drawn at once",
    ),
    ForeignName(programs="Transformers, TRL, ms-swift", names=("max_steps",), key="optim.max_updates"),
    ForeignName(
        programs="Transformers, TRL, ms-swift, F5-TTS", names=("num_train_epochs", "epochs"), key="optim.epochs"
    ),
    ForeignName(
        programs="Transformers, F5-TTS", names=("warmup_steps", "num_warmup_updates"), key="optim.num_warmup_updates"
    ),
    ForeignName(programs="Transformers, flow_grpo, F5-TTS", names=("max_grad_norm",), key="optim.max_grad_norm"),
    ForeignName(
        programs="Transformers", names=("bf16",), key="optim.mixed_precision", values={"true": "bf16", "false": "no"}
    ),
    ForeignName(
        programs="Transformers", names=("fp16",), key="optim.mixed_precision", values={"true": "fp16", "false": "no"}
    ),
    ForeignName(programs="flow_grpo, Accelerate", names=("mixed_precision",), key="optim.mixed_precision"),
    ForeignName(programs="flow_grpo", names=("allow_tf32",), key="optim.tf32"),
    ForeignName(programs="flow_grpo", names=("train.use_8bit_adam",), key="optim.bnb_optimizer"),
    ForeignName(
        programs="Transformers, flow_grpo",
        names=("gradient_checkpointing", "activation_checkpointing", "checkpoint_activations"),
        key="model.arch.checkpoint_activations",
    ),
    ForeignName(programs="Transformers, F5-TTS", names=("seed",), key="optim.seed"),
    ForeignName(programs="ms-swift, PEFT", names=("lora_rank",), key="lora.rank"),
    ForeignName(programs="ms-swift, PEFT", names=("lora_alpha",), key="lora.alpha"),
    ForeignName(programs="ms-swift, PEFT", names=("lora_dropout",), key="lora.dropout"),
    ForeignName(programs="ms-swift, PEFT", names=("target_modules",), key="lora.target_modules"),
    # data, files and logs
    ForeignName(programs="F5-TTS", names=("dataset_name",), key="datasets.name"),
    ForeignName(programs="F5-TTS", names=("batch_size_per_gpu",), key="datasets.batch_size_per_gpu"),
    ForeignName(programs="F5-TTS", names=("batch_size_type",), key="datasets.batch_size_type"),
    ForeignName(programs="Transformers", names=("dataloader_num_workers",), key="datasets.num_workers"),
    ForeignName(programs="Transformers, TRL", names=("output_dir",), key="ckpts.save_dir"),
    ForeignName(programs="Transformers, TRL", names=("save_steps", "save_per_updates"), key="ckpts.save_per_updates"),
    ForeignName(
        programs="Transformers, flow_grpo",
        names=("save_total_limit", "num_checkpoint_limit"),
        key="ckpts.keep_last_n_checkpoints",
    ),
    ForeignName(
        programs="Transformers, TRL",
        names=("report_to", "logger"),
        key="ckpts.logger",
        values={"none": "null"},
    ),
    ForeignName(programs="Transformers", names=("eval_steps",), key="eval.every_updates"),
    ForeignName(
        programs="F5-TTS",
        names=("exp_name",),
        key="-cn NAME",
        difference="a config has the architecture, e.g. -cn F5TTS_v1_Base, and ckpts.save_dir is the folder of the run",
    ),
    ForeignName(
        programs="Transformers, flow_grpo",
        names=("resume_from_checkpoint", "resume_from"),
        key="ckpts.save_dir",
        difference="a run goes on from what it finds in its folder: the same command resumes it",
    ),
)


def find_foreign(key: str) -> ForeignName | None:
    """Find what other projects call `key`: the name itself, or behind any section (`rl.beta`, `train.beta`, `beta`)."""
    last = key.rpartition(".")[2]
    exact = [entry for entry in FOREIGN_NAMES if key in entry.names]
    by_last_part = [entry for entry in FOREIGN_NAMES if last in (name.rpartition(".")[2] for name in entry.names)]
    return next(iter([*exact, *by_last_part]), None)


def foreign_table() -> str:
    """Format the table of docs/coming_from.md: what is called what, and what is not the same."""
    rows = ["| there | in | here | |", "| --- | --- | --- | --- |"]
    for entry in FOREIGN_NAMES:
        values = ", ".join(f"`{theirs}` is `{ours}`" for theirs, ours in entry.values.items())
        names = ", ".join(f"`{name}`" for name in entry.names)
        note = f"**not the same:** {entry.difference}" if entry.difference else values
        rows.append(f"| {names} | {entry.programs} | {entry.key if ' ' in entry.key else f'`{entry.key}`'} | {note} |")
    return "\n".join(rows)
