"""Mutations of valid files, drawn by hypothesis; a reader must return their contents or raise a one-line error."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

TRIED: Counter[str] = Counter()  # number of inputs per reader
REFUSED: Counter[str] = Counter()
MOST_MEMORY = 2**20  # kB that all inputs of a reader may add to the peak memory of the process

# fmt: off
WORDS = [
    "\t", "\n", "\r", "\r\n", " ", "\"", "'", ",", ":", "#", "%", "{", "}", "[", "]", "[]", "{}", "null", "true",
    "NaN", "Infinity", "-1", "0", "1.5", "1e999", "\"a\"", "[1, 2]", "{\"a\": 1}", "\\", "\\ud800", "\\u0000",
    "../../../up", "/etc/passwd", "CON", "${oc.env:HOME}", "${", "!!python/name:os.system", "!!int ''",
    "!!timestamp x", "!!bool x", "2001-99-99", "&a [*a]", "*a", "<<: *a", "? [a]", "---\n", "key = 1\n",
    "[voices.x]\n", ".inf", ".nan", "bytearray", "\x1b[31m", "\u202e", "\u2028", "\x85", "\ufeff",
]
# fmt: on
LONG = (
    b"9" * 25,
    b"9" * 5000,
    b"1" + b"0" * 400,
    b"[" * 3000,
    b'{"a":' * 3000,
    b"- " * 2000,
    b"a." * 2000,
    b"a" * 5000,
)
BYTES = (b"", b"|", b"\0", b"\0" * 64, b"\xff\xfe", b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\x80" * 16)
TOKENS = [*(word.encode() for word in WORDS), *LONG, *BYTES, b"\xed\xa0\x80"]  # inserted text, or replacement


@dataclass(frozen=True, slots=True)
class Edit:
    kind: str
    place: float  # position in the file, in [0, 1)
    amount: int  # number of bytes, or number of the bit
    token: bytes

    def __call__(self, data: bytes) -> bytes:
        start = int(self.place * len(data))
        end = start + self.amount
        if self.kind == "truncate":
            return data[:start]
        if self.kind == "flip":
            return flipped(data, 8 * start + self.amount % 8)
        if self.kind == "delete":
            return data[:start] + data[end:]
        if self.kind == "insert":
            return data[:start] + self.token + data[start:]
        if self.kind == "repeat":
            return data[:end] + data[start:]
        if self.kind == "value":
            return value_replaced(data, start, self.token)
        return data[:start] + self.token + data[end:]


def flipped(data: bytes, bit: int) -> bytes:
    place = bit // 8
    return data[:place] + bytes(byte ^ 1 << bit % 8 for byte in data[place : place + 1]) + data[place + 1 :]


KINDS = ("truncate", "flip", "delete", "insert", "repeat", "value", "replace")
ENDS = b'\n,:|{}[]="'  # delimiters of a value in JSON, YAML, TOML, CSV


def value_replaced(data: bytes, place: int, token: bytes) -> bytes:
    """Replace the value, word or number at a position by `token`."""
    start = max(data.rfind(sign, 0, place) for sign in map(bytes, zip(ENDS, strict=True))) + 1
    result = [end for sign in map(bytes, zip(ENDS, strict=True)) if (end := data.find(sign, place)) >= 0]
    return data[:start] + token + data[min(result, default=len(data)) :]


def edits() -> st.SearchStrategy[list[Edit]]:
    tokens = st.one_of(st.sampled_from(TOKENS), st.binary(max_size=8))
    places = st.floats(0, 1, exclude_max=True)
    one = st.builds(Edit, st.sampled_from(KINDS), places, st.integers(1, 40), tokens)
    return st.lists(one, min_size=1, max_size=3)


def damaged(data: bytes, changes: list[Edit]) -> bytes:
    for change in changes:
        data = change(data)[: 2**20]
    return data


def attempt(name: str, read: Callable[[], Any], named: str) -> Any:
    """Return what `read` returns, or None if it raises ValueError or OSError in one line that names the file."""
    TRIED[name] += 1
    try:
        return read()
    except (ValueError, OSError) as error:
        REFUSED[name] += 1
        assert named in str(error), f"{error!r} does not name {named}"
        assert "\n" not in str(error), f"no sentence: {error!r}"
        return None


def each_example(check: Callable[[Any], None], inputs: st.SearchStrategy[Any], examples: int, number: int = 0) -> None:
    """Run `check` on random inputs; the same `number` draws the same ones.

    The test fails if the inputs fill the memory.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
    )
    @given(inputs)
    def tried(drawn: Any) -> None:
        check(drawn)

    tried()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY


@dataclass(frozen=True)
class Case:
    """A file, and the reader of the package that is tested on it."""

    name: str
    path: Path
    read: Callable[[], Any]
    named: str  # what an error must name
    same: Callable[[Any], bool] = lambda contents: True  # whether contents are right; True where this cannot be known
    cost: int = 1  # of one example, relative to the cheapest format

    def check(self, changes: list[Edit]) -> None:
        whole = self.path.read_bytes()
        try:
            self.path.write_bytes(damaged(whole, changes))
            contents = attempt(self.name, self.read, self.named)
            assert contents is None or self.same(contents), "another content was read than was written"
        finally:
            self.path.write_bytes(whole)
