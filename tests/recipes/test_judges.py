from __future__ import annotations

import pytest
from recipes.digits.judges import digit_words


@pytest.mark.parametrize(
    "written, words",
    [
        ("315", "three one five"),
        (" 3, 1-5. ", "three one five"),
        ("Won for, two", "one four two"),
        ("To fore. Too!", "two four two"),
        ("I ate oh O", "i eight zero zero"),
        ("Seven, Sam's nine", "seven sams nine"),
        ("77four", "seven seven four"),
        ("", ""),
    ],
)
def test_transcripts_become_digit_words_and_other_words_stay(written: str, words: str):
    assert digit_words(written) == words
