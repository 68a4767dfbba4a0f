"""Config, checkpoint and vocabulary -> a Speaker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from f5_tts.config.schema import ModelConfig, SpeechConfig
from f5_tts.data.tokenizer import RELEASED, Vocabulary, byte_vocabulary, read_vocabulary
from f5_tts.download.hub import find_file
from f5_tts.infer.synthesizer import Speaker
from f5_tts.model.build import build_model, build_vocoder, find_device
from f5_tts.model.checkpoint import Checkpoint, ModelCard, check_card, load_weights, read_checkpoint

PUBLISHED = {
    "F5TTS_v1_Base": "hf://SWivid/F5-TTS/F5TTS_v1_Base/model_1250000.safetensors",
    "F5TTS_Base": "hf://SWivid/F5-TTS/F5TTS_Base/model_1200000.safetensors",
    "E2TTS_Base": "hf://SWivid/E2-TTS/E2TTS_Base/model_1200000.safetensors",
}  # model.name -> its checkpoint


def load_speaker(run: SpeechConfig, ckpt_file: str = "", vocab_file: str = "", device: str | None = None) -> Speaker:
    """A model ready to speak, on `device` (a GPU if there is one).

    `ckpt_file` and `vocab_file` are paths or hf://org/repo/path; without the first, the published checkpoint of the
    config's model is fetched. Raises ValueError or FileNotFoundError before the model is built, where that can be.
    """
    where = find_device(device)
    vocoder = build_vocoder(run.model)
    checkpoint = read_checkpoint(find_checkpoint(run.model.name, ckpt_file)).using()
    vocabulary = find_vocabulary(vocab_file, checkpoint, run.model)
    check_card(checkpoint, ModelCard.of(run.model, vocabulary))
    model = build_model(as_spoken(run.model, checkpoint), vocabulary)
    load_weights(model, checkpoint)
    return Speaker(model.to(where).eval(), vocabulary, vocoder, run)


def as_spoken(model: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
    """The config with what speaking decides: a Gaussian head if the file has one, and no attention to padding.

    Published models were trained with attention to padding but speak alone, without any: so may ours, in batches.
    """
    arch = replace(model.arch, attn_mask_enabled=True)
    return replace(model, arch=arch, output_dist="gaussian" if checkpoint.has_head else "deterministic")


def find_checkpoint(model_name: str, ckpt_file: str) -> Path:
    """The file of weights, or that of the published model."""
    if not ckpt_file and model_name not in PUBLISHED:
        raise ValueError(f"no checkpoint of {model_name} is published: give the path of one as ckpt_file")
    return find_file(ckpt_file or PUBLISHED[model_name], "ckpt_file")


def find_vocabulary(vocab_file: str, checkpoint: Checkpoint, model: ModelConfig) -> Vocabulary:
    """The file given, the config's, else the checkpoint's own, vocab.txt beside it, for pinyin the released one.

    Bytes need none.
    """
    beside = checkpoint.path.with_name("vocab.txt")
    if model.tokenizer == "byte":
        return byte_vocabulary()
    if vocab_file:
        return read_vocabulary(find_file(vocab_file, "vocab_file"), model.tokenizer)
    if model.tokenizer_path:
        return read_vocabulary(model.tokenizer_path, model.tokenizer)
    if checkpoint.card is not None:
        return Vocabulary(checkpoint.card.vocabulary, model.tokenizer)
    if beside.is_file():
        return read_vocabulary(beside, model.tokenizer)
    if model.tokenizer == "pinyin":
        return read_vocabulary(RELEASED, model.tokenizer)
    raise FileNotFoundError(f"no vocabulary at {beside}: give that of the model as vocab_file")
