"""Rows of a data set that a run does not train on, as items of its validation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from f5_tts.config.schema import ConfigError, TrainConfig
from f5_tts.data.rows import Row
from f5_tts.data.texts import normalize
from f5_tts.eval.test_set import LANGUAGE, EvalItem

HELD_OUT = "held_out"  # value of eval.dev
MIN_ROWS = 200  # of a data set from which rows are held out
LIST_ADVICE = "name a list of your own, eval.dev=FILE (docs/evaluation.md)"
MAX_SHARE = 0.1  # of the rows, which whole speakers may take; twice eval.dev_items where that is more


def split_rows(rows: Sequence[Row], cfg: TrainConfig) -> tuple[list[Row], list[Row]]:
    """Split off the rows that validations use, with eval.dev=held_out; return those to train on and those held out.

    At least eval.dev_items rows are held out, drawn by optim.seed: where rows name their speakers all rows of some
    speakers; where these would be too many, two rows each of some speakers; else single rows.

    Raises:
        ConfigError: the data set has fewer than MIN_ROWS rows, or eval.dev_items is more than half of it.
    """
    if cfg.eval.dev != HELD_OUT:
        return list(rows), []
    if (problem := too_few_rows(len(rows), cfg.eval.dev_items)) is not None:
        raise ConfigError(f"eval.dev=held_out: {problem}")
    held = draw_rows(rows, cfg.eval.dev_items, cfg.optim.seed)
    kept = [row for index, row in enumerate(rows) if index not in held]
    return kept, [row for index, row in enumerate(rows) if index in held]


def too_few_rows(num: int, num_items: int) -> str | None:
    """Say why no rows are held out of a data set of this size, or return None."""
    if num < MIN_ROWS:
        return f"no rows are held out of a data set of fewer than {MIN_ROWS}, and this one has {num}; {LIST_ADVICE}"
    if num_items > num // 2:
        return f"eval.dev_items={num_items} is more than half of the {num} rows; lower it, or {LIST_ADVICE}"
    return None


def draw_rows(rows: Sequence[Row], num: int, seed: int) -> set[int]:
    """Draw at least `num` rows, of whole speakers if these are known and small enough."""
    by_speaker = defaultdict(list)
    for index, row in enumerate(rows):
        by_speaker[row.speaker].append(index)
    unknown = {index: [index] for index in by_speaker.pop(None, [])}
    pairs = {(name, k): group[k : k + 2] for name, group in by_speaker.items() for k in range(0, len(group) - 1, 2)}
    limit = max(MAX_SHARE * len(rows), 2 * num)
    whole = draw_groups({**by_speaker, **unknown}, num, limit, seed)
    return whole if len(whole) >= num else draw_groups({**pairs, **unknown}, num, limit, seed)


def draw_groups(groups: Mapping[Any, list[int]], num: int, limit: float, seed: int) -> set[int]:
    """Draw groups of rows until there are `num` rows; a group with which there would be more than `limit` is left."""
    order, held = sorted(groups, key=str), set[int]()
    for place in np.random.default_rng(seed).permutation(len(order)):
        group = groups[order[place]]
        if len(held) < num and len(held) + len(group) <= limit:
            held |= set(group)
    return held


def describe_held_out(kept: Sequence[Row], held_out: Sequence[Row]) -> str:
    """Describe in a line which rows are held out."""
    speakers = {row.speaker for row in held_out} - {None}
    shared = speakers & {row.speaker for row in kept}
    number = f"{len(speakers)} speaker{'s' * (len(speakers) > 1)}"
    voices = f", all those of {number}" if speakers else ""
    if shared:
        voices = f", of {number} who are trained on too, since whole speakers would be too many rows"
    total = len(kept) + len(held_out)
    return f"{len(held_out)} of {total} rows are held out for validations (eval.dev=held_out){voices}"


def items_of(rows: Sequence[Row], num: int, max_seconds: float, is_usable: Callable[[Row], bool]) -> list[EvalItem]:
    """Make test items of held-out rows, `num` at most, each with the next row of its speaker as its prompt.

    Rows without a speaker take the next row of all. Rows without a sentence, those that cannot be used, and the only
    row of a speaker are left out; items that are longer than `max_seconds` with their prompt are taken last. Raises
    ConfigError if no item is left.
    """
    pairs = pairs_of(rows)
    spread = [*pairs[:: max(1, len(pairs) // num)], *pairs]  # evenly spaced ones first, then all
    order = sorted(dict.fromkeys(spread), key=lambda pair: sum(rows[i].duration for i in pair) > max_seconds)
    usable = (pair for pair in order if all(is_usable(rows[i]) for i in pair))
    chosen = sorted(islice(usable, num))
    if not chosen:
        raise ConfigError(
            f"eval.dev=held_out needs two rows of a speaker that can be used, and has none among {len(rows)} that are "
            f"held out (texts of pinyin need the column raw_text); {LIST_ADVICE}"
        )
    return [item_of(number, rows[text], rows[prompt]) for number, (text, prompt) in enumerate(chosen)]


def pairs_of(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """List the rows with a sentence, each with the next one of its speaker, as indices."""
    by_speaker = defaultdict(list)
    for index, row in enumerate(rows):
        if has_sentence(row) and normalize(row.sentence) and row.duration > 0:
            by_speaker[row.speaker].append(index)
    return [
        (index, group[(place + 1) % len(group)])
        for group in by_speaker.values()
        for place, index in enumerate(group)
        if len(group) > 1
    ]


def has_sentence(row: Row) -> bool:
    """Check whether a row has its text as people write it; symbols such as pinyin syllables are not."""
    return (
        isinstance(row.text, str) or bool(row.columns.get("raw_text")) or all(len(symbol) == 1 for symbol in row.text)
    )


def item_of(number: int, row: Row, prompt: Row) -> EvalItem:
    """Make a test item of a row and its prompt; a language that is no code is left to the script.

    Without speakers the prompt may have another voice than the recording, which is then not compared with.
    """
    language = str(row.columns.get("language") or "").lower()
    return EvalItem(
        id=f"held_out_{number:03d}",
        prompt_audio=prompt.audio_path,
        prompt_text=prompt.sentence,
        text=row.sentence,
        duration=row.duration,
        speaker=row.speaker or "",
        language=language if LANGUAGE.fullmatch(language) else "",
        target_audio="" if row.speaker is None else row.audio_path,
    )
