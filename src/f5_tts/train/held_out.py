"""Rows of a data set that a run does not train on, as items of its validation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from f5_tts.config.schema import ConfigError, TrainConfig
from f5_tts.data.rows import Row
from f5_tts.data.texts import normalize
from f5_tts.eval.test_set import EvalItem

HELD_OUT = "held_out"  # value of eval.dev
MIN_ROWS = 200  # of a data set from which rows are held out


def split_rows(rows: Sequence[Row], cfg: TrainConfig) -> tuple[list[Row], list[Row]]:
    """Split off the rows that validations use, if eval.dev=held_out; return those to train on and those held out.

    At least eval.dev_items rows are held out: where rows name their speakers all rows of some speakers, else single
    rows, drawn by optim.seed.

    Raises:
        ConfigError: the data set has fewer than MIN_ROWS rows, or one speaker has nearly all of them.
    """
    if not cfg.eval.every_updates or cfg.eval.dev != HELD_OUT:
        return list(rows), []
    if len(rows) < MIN_ROWS:
        raise ConfigError(
            f"eval.dev=held_out takes no rows from a data set of fewer than {MIN_ROWS}, and this one has {len(rows)}: "
            "name a list of your own, eval.dev=FILE, or set eval.every_updates=0"
        )
    groups = defaultdict(list)
    for index, row in enumerate(rows):
        groups[index if row.speaker is None else row.speaker].append(index)
    order = sorted(groups, key=str)
    held: set[int] = set()
    for position in np.random.default_rng(cfg.optim.seed).permutation(len(order)):
        if len(held) >= cfg.eval.dev_items:
            break
        held |= set(groups[order[position]])
    if 2 * len(held) > len(rows):
        raise ConfigError(
            f"eval.dev=held_out would take {len(held)} of {len(rows)} rows, because whole speakers are held out: name "
            "a list of your own, eval.dev=FILE, or remove the column of speakers"
        )
    kept = [row for index, row in enumerate(rows) if index not in held]
    return kept, [row for index, row in enumerate(rows) if index in held]


def items_of(rows: Sequence[Row], num: int) -> list[EvalItem]:
    """Make test items of held-out rows, `num` at most, each with the next row of its speaker as its prompt.

    Rows without a speaker take the next row of all. Rows without a word, and the only row of a speaker, are left out.
    Raises ConfigError for recordings that are not in files, or if no item is left.
    """
    spoken = [row for row in rows if normalize(row.sentence)]
    by_speaker = defaultdict(list)
    for row in spoken:
        by_speaker[row.speaker].append(row)
    pairs = [
        (row, group[(position + 1) % len(group)])
        for group in by_speaker.values()
        for position, row in enumerate(group)
        if len(group) > 1
    ]
    if not pairs or not all(isinstance(row.audio_path, str) for row, _ in pairs):
        raise ConfigError(
            "eval.dev=held_out needs recordings in files, two of each speaker that is held out; name a list of your "
            "own, eval.dev=FILE"
        )
    step = max(1, len(pairs) // num)
    return [
        EvalItem(
            id=f"held_out_{index:03d}",
            prompt_audio=str(prompt.audio_path),
            prompt_text=prompt.sentence,
            text=row.sentence,
            duration=row.duration,
            speaker=row.speaker or "",
            language=str(row.columns.get("language") or ""),
            target_audio=str(row.audio_path),
        )
        for index, (row, prompt) in enumerate(pairs[::step][:num])
    ]
