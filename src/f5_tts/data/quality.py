"""Quality of a data set: rows that cannot be used, odd speaking rates, symbols that a vocabulary lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

from f5_tts.data.rows import Row
from f5_tts.data.scan import Finding, examined
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.types import BadRow

TOLERANCE_S = 0.1  # duration.json may differ by this from the audio; MP3 headers do, by a twentieth
TEMPO = 3.0  # times as many characters a second as the median, or as few, are worth a look


def heard(row: Row, longest_s: float) -> Finding:
    return (
        examined(row.audio_path, longest_s) if row.text else Finding(None, "no text", f"{row.audio_path} has no text")
    )


def bad_rows(rows: Sequence[Row], findings: Sequence[Finding]) -> Iterator[BadRow]:
    """What training would leave out, and rows whose time in duration.json is not that of the audio."""
    for index, (row, found) in enumerate(zip(rows, findings, strict=True)):
        path = str(row.audio_path)
        if found.seconds is None:
            yield BadRow(index=index, path=path, kind=found.kind, reason=found.reason)
        elif abs(found.seconds - row.duration) > TOLERANCE_S:
            reason = f"duration.json says {row.duration:.2f} s, the audio lasts {found.seconds:.2f} s"
            yield BadRow(index=index, path=path, kind="wrong duration", reason=reason)


def odd_tempos(rows: Sequence[Row], findings: Sequence[Finding]) -> Iterator[BadRow]:
    """Rows that are spoken far faster or slower than most: their text may be that of another recording."""
    tempos = {
        index: len(row.sentence) / found.seconds
        for index, (row, found) in enumerate(zip(rows, findings, strict=True))
        if found.seconds
    }
    middle = median(tempos.values()) if tempos else 0.0
    for index, tempo in tempos.items():
        if not middle / TEMPO <= tempo <= middle * TEMPO:
            reason = f"{tempo:.1f} characters a second, where the median is {middle:.1f}"
            yield BadRow(index=index, path=str(rows[index].audio_path), kind="odd tempo", reason=reason)


def coverage(rows: Sequence[Row], vocabulary: Vocabulary) -> Iterator[str]:
    """Lines: the symbols that the vocabulary lacks, and how many rows have them."""
    hit: Counter[str] = Counter()
    num_rows = 0
    for row in rows:
        missing = vocabulary.unknown([row.text])
        hit.update(missing)
        num_rows += bool(missing)
    if not hit:
        yield f"the vocabulary ({len(vocabulary)} symbols) has every symbol of the texts"
        return
    yield f"the vocabulary lacks {len(hit)} symbols, of {num_rows} rows; a model reads them as spaces:"
    yield "  " + ", ".join(f"{symbol!r} in {num}" for symbol, num in hit.most_common(20))
    if len(hit) > 20:
        yield f"  and {len(hit) - 20} more"
