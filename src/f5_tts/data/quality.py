"""Quality of a data set: rows that cannot be used, and odd speaking rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from f5_tts.data.rows import Row
from f5_tts.data.scan import ScanResult, scan_recording
from f5_tts.data.texts import TextRules
from f5_tts.types import BadRow

TOLERANCE_S = 0.1  # allowed difference of duration.json from the audio; MP3 headers differ by 0.05 s
MAX_RATE_RATIO = 3.0  # report rows whose characters per second differ from the median by more than this factor


def scan_row(row: Row, max_seconds: float, rules: TextRules) -> ScanResult:
    """Decode the row's audio and check it; report a row whose text cannot be used."""
    problem = rules.problem(row)
    return ScanResult(None, *problem) if problem else scan_recording(row.audio_path, max_seconds)


def bad_texts(rows: Sequence[Row], rules: TextRules) -> list[BadRow]:
    """List the rows whose text cannot be used; no audio is read."""
    problems = [(index, row, rules.problem(row)) for index, row in enumerate(rows)]
    return [
        BadRow(index=index, path=str(row.audio_path), kind=problem[0], reason=problem[1])
        for index, row, problem in problems
        if problem
    ]


def bad_rows(rows: Sequence[Row], scans: Sequence[ScanResult]) -> Iterator[BadRow]:
    """Yield rows that training skips, and rows whose time in duration.json differs from that of the audio."""
    for index, (row, scan) in enumerate(zip(rows, scans, strict=True)):
        path = str(row.audio_path)
        if scan.seconds is None:
            yield BadRow(index=index, path=path, kind=scan.kind, reason=scan.reason)
        elif abs(scan.seconds - row.duration) > TOLERANCE_S:
            reason = f"duration.json says {row.duration:.2f} s, the audio lasts {scan.seconds:.2f} s"
            yield BadRow(index=index, path=path, kind="wrong duration", reason=reason)


def odd_recordings(rows: Sequence[Row], scans: Sequence[ScanResult]) -> Iterator[BadRow]:
    """Yield rows whose recording is odd and can be used."""
    for index, (row, scan) in enumerate(zip(rows, scans, strict=True)):
        for kind, reason in scan.notes:
            yield BadRow(index=index, path=str(row.audio_path), kind=kind, reason=reason)


def speaking_rate_outliers(rows: Sequence[Row], scans: Sequence[ScanResult]) -> Iterator[BadRow]:
    """Yield rows whose characters per second differ from the median by more than a factor of `MAX_RATE_RATIO`.

    The text of such a row may belong to another recording.
    """
    rates = {
        index: len(row.sentence) / scan.seconds
        for index, (row, scan) in enumerate(zip(rows, scans, strict=True))
        if scan.seconds
    }
    median_rate = median(rates.values()) if rates else 0.0
    for index, rate in rates.items():
        if not median_rate / MAX_RATE_RATIO <= rate <= median_rate * MAX_RATE_RATIO:
            reason = f"{rate:.1f} characters a second, where the median is {median_rate:.1f}"
            yield BadRow(index=index, path=str(rows[index].audio_path), kind="odd tempo", reason=reason)
