"""Loading of a synthesizer from config, checkpoint and vocabulary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from f5_tts.config.checks import raise_together
from f5_tts.config.schema import ModelConfig, SynthesisConfig
from f5_tts.data.tokenizer import EMILIA_VOCAB, TOKENIZERS, Vocabulary, byte_vocabulary, read_vocabulary
from f5_tts.download.hub import find_file
from f5_tts.infer.settings import PUBLISHED
from f5_tts.infer.synthesizer import Synthesizer
from f5_tts.model.build import build_model, build_vocoder, find_device
from f5_tts.model.checkpoint import Checkpoint, ModelSpec, check_spec, load_weights, read_checkpoint
from f5_tts.model.precision import choose_precision


def load_synthesizer(
    cfg: SynthesisConfig,
    ckpt_file: str = "",
    vocab_file: str = "",
    device: str | None = None,
    use_ema: bool | None = None,
) -> Synthesizer:
    """Load a model for synthesis on `device`, by default a GPU if there is one.

    `ckpt_file` and `vocab_file` are paths or hf://org/repo/path. Without `ckpt_file`, the published checkpoint of the
    config's model is downloaded. `use_ema` chooses between the averaged and the raw weights of a training checkpoint;
    None means those that the file recommends. Where possible, ValueError or FileNotFoundError is raised before the
    model is built.
    """
    target_device = find_device(device)
    vocoder, path = raise_together(lambda: build_vocoder(cfg.model), lambda: find_checkpoint(cfg.model.name, ckpt_file))
    checkpoint = choose_weights(read_checkpoint(path, mapped=True), use_ema)
    cfg = with_own_tokenizer(cfg, checkpoint)
    vocabulary = find_vocabulary(vocab_file, checkpoint, cfg.model)
    check_spec(checkpoint, ModelSpec.of(cfg.model, vocabulary))
    model = build_model(inference_config(cfg.model, checkpoint), vocabulary)
    load_weights(model, checkpoint)
    is_half = choose_precision(cfg.infer.precision, target_device, "infer.precision") == "bf16"
    model = model.to(target_device, torch.bfloat16 if is_half else None)
    return Synthesizer(model.eval(), vocabulary, vocoder, cfg)


def choose_weights(checkpoint: Checkpoint, use_ema: bool | None) -> Checkpoint:
    """Return the checkpoint with its averaged or raw weights; a file of bare weights has one kind only."""
    if use_ema is None or checkpoint.is_bare:
        return checkpoint.with_weights()
    return checkpoint.with_weights("ema" if use_ema else "raw")


def with_own_tokenizer(cfg: SynthesisConfig, checkpoint: Checkpoint) -> SynthesisConfig:
    """Return the config with the tokenizer that the checkpoint was trained with, where it says so; print a change."""
    own = checkpoint.spec.model.get("tokenizer") if checkpoint.spec else None
    if own == cfg.model.tokenizer or own not in TOKENIZERS:
        return cfg
    print(f"{checkpoint.path} was trained with model.tokenizer={own}, and texts are split so")
    return replace(cfg, model=replace(cfg.model, tokenizer=own))


def inference_config(model: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
    """Adapt the model config to synthesis: a Gaussian head if the file has one, and no attention to padding.

    Published models were trained with attention to padding but synthesize one text at a time, so they never see any.
    Without that attention, batches give the same results.
    """
    arch = replace(model.arch, attn_mask_enabled=True)
    return replace(model, arch=arch, output_dist="gaussian" if checkpoint.has_head else "deterministic")


def find_checkpoint(model_name: str, ckpt_file: str) -> Path:
    """Return the path of the weights, by default those of the published model."""
    if not ckpt_file and model_name not in PUBLISHED:
        raise ValueError(f"no checkpoint of {model_name} is published: give the path of one as ckpt_file")
    return find_file(ckpt_file or PUBLISHED[model_name], "ckpt_file")


def find_vocabulary(vocab_file: str, checkpoint: Checkpoint, model: ModelConfig) -> Vocabulary:
    """Load the vocabulary from the first of: the given file, the config, the checkpoint, vocab.txt beside it.

    For pinyin the released vocabulary comes last. Byte tokenizers need no file. Raises FileNotFoundError if there is
    none.
    """
    vocab_path = checkpoint.path.with_name("vocab.txt")
    if model.tokenizer == "byte":
        return byte_vocabulary()
    if vocab_file:
        return read_vocabulary(find_file(vocab_file, "vocab_file"), model.tokenizer)
    if model.tokenizer_path:
        return read_vocabulary(model.tokenizer_path, model.tokenizer)
    if checkpoint.spec is not None:
        return Vocabulary(checkpoint.spec.vocabulary, model.tokenizer)
    if vocab_path.is_file():
        return read_vocabulary(vocab_path, model.tokenizer)
    if model.tokenizer == "pinyin":
        return read_vocabulary(EMILIA_VOCAB, model.tokenizer)
    raise FileNotFoundError(f"no vocabulary at {vocab_path}: give that of the model as vocab_file")
