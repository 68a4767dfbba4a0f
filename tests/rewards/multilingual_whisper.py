"""A generated folder with a multilingual Whisper for faster-whisper: all its languages, small, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from faster_whisper.tokenizer import _LANGUAGE_CODES as CODES
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

TASKS = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
TIMES = [f"<|{0.02 * index:.2f}|>" for index in range(1501)]
SIZE: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}
SIZE |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_mel_bins": 80}
SIZE |= {"suppress_tokens": [], "begin_suppress_tokens": []}


def make_multilingual_whisper(folder: Path) -> Path:
    """Convert a model of random weights from a fixed seed, by CTranslate2's own converter."""
    from ctranslate2.converters import TransformersConverter
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    tokenizer, source, model = make_tokenizer(), folder / "source", folder / "model"
    end, start = (tokenizer.token_to_id(f"<|{name}|>") for name in ("endoftext", "startoftranscript"))
    settings: dict[str, Any] = {**SIZE, "vocab_size": tokenizer.get_vocab_size(), "decoder_start_token_id": start}
    settings |= {"eos_token_id": end, "bos_token_id": end, "pad_token_id": end}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = WhisperForConditionalGeneration(WhisperConfig(**settings))
    network.save_pretrained(source)
    tokenizer.save(str(source / "tokenizer.json"))
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}', encoding="utf-8")
    TransformersConverter(str(source), copy_files=["tokenizer.json"]).convert(str(model))
    config = json.loads((model / "config.json").read_text("utf-8"))
    languages = [tokenizer.token_to_id(f"<|{code}|>") for code in CODES]
    (model / "config.json").write_text(json.dumps({**config, "lang_ids": languages}), encoding="utf-8")
    return model


def make_tokenizer() -> Tokenizer:
    """Make a tokenizer of bytes with Whisper's special tokens; the empty piece says that a model is multilingual."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), ""]
    tokenizer = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["endoftext", "startoftranscript", *CODES, *TASKS]
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", special=True) for name in names])
    tokenizer.add_tokens([AddedToken(time) for time in TIMES])
    return tokenizer
