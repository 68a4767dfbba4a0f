"""Growth of a checkpoint's vocabulary: new symbols get rows of the text embedding at the mean of the old ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.data.tokenizer import EMILIA_VOCAB, read_vocabulary
from f5_tts.model.checkpoint import PROVENANCE_KEYS, TEXT_EMBEDDING, Checkpoint, num_symbols, plain_name
from f5_tts.model.payload import EMA, RAW

KEPT = (RAW, EMA, *PROVENANCE_KEYS, "recommended", "origin")  # entries of a grown checkpoint; the others fit no more


def grow(checkpoint: Checkpoint, old: Sequence[str], symbols: Sequence[str]) -> Checkpoint:
    """Return a checkpoint with rows for all of `symbols`, which begin with `old`, its own vocabulary.

    The optimizer's states, the adapters of LoRA (which are merged into the weights) and the counters are left out.

    Raises ValueError for a model of bytes, and for a vocabulary that has a symbol twice.
    """
    if "\n" in old:
        raise ValueError(f"{checkpoint.path} is a model of bytes, which has every symbol: no vocabulary extends it")
    if repeated := [symbol for symbol, num in Counter(old).items() if num > 1]:
        raise ValueError(
            f"{checkpoint.path} has a vocabulary in which {repeated[:5]} are there more than once; appended symbols "
            "would shift which rows they have, so that it cannot grow"
        )
    payload = {key: value for key, value in checkpoint.payload.items() if key in KEPT}
    for kind in (RAW, EMA):
        if kind in payload:
            payload[kind] = with_rows(payload[kind], len(symbols))
    if "vocabulary" in payload:
        payload["vocabulary"] = list(symbols)
    return replace(checkpoint, weights=with_rows(checkpoint.weights, len(symbols)), payload=payload)


def grow_to(checkpoint: Checkpoint, symbols: Sequence[str], log: Callable[[str], None] = print) -> Checkpoint:
    """Return a checkpoint grown to the vocabulary of a run, where that extends its own, and say so.

    Any other checkpoint is returned as it is.
    """
    old = known_vocabulary(checkpoint, log=lambda message: None)
    if old is None or len(symbols) <= len(old) or list(symbols[: len(old)]) != old:
        return checkpoint
    log(
        f"{checkpoint.path} grows from {len(old)} to {len(symbols)} symbols, as this run's vocabulary extends its own: "
        "the rows of the new ones start at the mean of the old"
    )
    return grow(checkpoint, old, symbols)


def known_vocabulary(
    checkpoint: Checkpoint, base: Path | None = None, log: Callable[[str], None] = print
) -> list[str] | None:
    """Find the vocabulary of a checkpoint: its own, the file `base`, vocab.txt beside it, or the released one.

    Returns None where none of them is known to be right. Raises ValueError where `base` is not the checkpoint's.
    """
    num, beside = num_symbols(checkpoint.weights), checkpoint.path.with_name("vocab.txt")
    own = checkpoint.spec.vocabulary if checkpoint.spec else None
    if base is not None:
        symbols = list(read_vocabulary(base).symbols)
        if symbols != (own or symbols) or len(set(symbols)) != num:
            raise ValueError(f"{base} is not the vocabulary of {checkpoint.path}, which has {num} symbols")
        return symbols
    if own is not None:
        return own
    for path, name in ((beside, str(beside)), (EMILIA_VOCAB, "the released vocabulary")):
        symbols = list(read_vocabulary(path).symbols) if path.is_file() else []
        if num and len(set(symbols)) == num:
            log(f"{checkpoint.path} holds no vocabulary, and has {num} symbols: {name} is taken for it")
            return symbols
    return None


def with_rows(weights: Mapping[str, Tensor], num: int) -> dict[str, Tensor]:
    """Return weights whose text embedding has rows for `num` symbols, under whatever prefix it is there."""
    names = [name for name in weights if plain_name(name) == TEXT_EMBEDDING]
    return {**weights, **{name: append_means(weights[name], num) for name in names}}


def append_means(embedding: Float[Tensor, "r d"], num: int) -> Float[Tensor, "s d"]:
    """Append rows up to `num` symbols at the mean of the old ones; row 0, the filler, is none of them."""
    mean = embedding[1:].float().mean(dim=0, keepdim=True).to(embedding.dtype)
    return torch.cat([embedding, mean.expand(num + 1 - len(embedding), -1)])
