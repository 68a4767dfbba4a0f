"""Scores of single words by the likelihood under SenseVoiceSmall."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, groupby, pairwise, product
from pathlib import Path

import pytest
import torch
from tests.rewards.sensevoice import RATE, tones
from torch import Tensor

from f5_tts.data.texts import normalize
from f5_tts.rewards.asr.ctc import label_spans
from f5_tts.rewards.asr.funasr_wer import FunasrWer
from f5_tts.rewards.registry import has_word_scores, provider_scores
from f5_tts.types import RewardInput

pytestmark = pytest.mark.slow  # importing funasr takes eight seconds


@pytest.fixture(scope="module")
def reward(hearing_directory: Path) -> FunasrWer:
    """Return a reward by the likelihood that is not limited."""
    return FunasrWer(str(hearing_directory), component="fit", cap=1e6)


def clip(text: str, *, says: str | None = None, noise: float = 0.0, language: str = "auto") -> RewardInput:
    return RewardInput(audio=tones(says or text, noise), sample_rate=RATE, text=text, language=language)


def test_the_score_of_a_word_sums_the_probability_of_all_alignments_in_its_frames(reward: FunasrWer):
    """Enumerate the paths of the frames of each word that spell its tokens, with blanks between, before and after."""
    item = clip("东南 西北", says="东南西夏", language="zh")
    scores = reward.likelihood.log_probabilities(item.audio, "zh").double()
    ids = reward.likelihood.token_ids("东南西北", "zh")
    limits = [first for first, _ in label_spans(scores, ids)]
    pieces = [(scores[: limits[2]], ids[:2]), (scores[limits[2] :], ids[2:])]
    expected = []
    for frames, word in pieces:
        paths = [path for path in product([0, *word], repeat=len(frames)) if spelled(path) == word]
        total = torch.stack([frames[range(len(frames)), path].sum() for path in paths]).logsumexp(dim=0)
        expected.append(total / 2)
    assert all(len(frames) >= 3 for frames, _ in pieces) and expected[0] > -0.5 > expected[1]
    result = reward.score([item])["words"]
    torch.testing.assert_close(result.double(), torch.stack(expected)[None], atol=1e-4, rtol=1e-4)


def spelled(path: Sequence[int]) -> list[int]:
    """Return the tokens of a path of CTC: repetitions merged, blanks dropped."""
    return [label for label, _ in groupby(path) if label != 0]


def test_the_scores_of_words_add_up_to_a_lower_bound_of_the_likelihood(reward: FunasrWer):
    texts = ["东 南西 北", "春夏 秋 冬东南", "北西南"]
    inputs = [clip(text, says=text.replace(" ", ""), noise=0.1, language="zh") for text in texts]
    scores = reward.score(inputs)
    for text, words, fit in zip(texts, scores["words"], scores["fit"], strict=True):
        sizes = torch.tensor([len(word) for word in text.split()])
        total, likelihood = (sizes * words[: len(sizes)]).sum().item(), sizes.sum().item() * fit.item()
        assert words[len(sizes) :].isnan().all()
        assert likelihood - 0.5 < total <= likelihood + 0.05  # single precision behind a tanh of 1e6


def test_only_the_word_that_is_wrong_scores_lower(hearing_directory: Path):
    reward = FunasrWer(str(hearing_directory), component="fit")
    right, wrong = reward.score(
        [clip(f"东南 {word} 秋冬", says="东南西北秋冬", language="zh") for word in ("西北", "西夏")]
    )["words"]
    drop = right - wrong
    assert drop[1] > 1 and drop[[0, 2]].abs().max() < 0.1


def test_words_of_clips_without_a_loss_have_the_worst_score_and_words_without_tokens_none(hearing_directory: Path):
    reward = FunasrWer(str(hearing_directory), component="fit", cap=4.0)
    inputs = [
        RewardInput(audio=torch.zeros(8_000), sample_rate=RATE, text="a b"),
        RewardInput(audio=tones("a"), sample_rate=RATE, text="abcd efgh abcd"),
        clip("东南 б 西", says="东南西", language="zh"),
        clip("?!", says="abc"),
    ]
    with pytest.warns(UserWarning, match="worst score"):
        scores = provider_scores(reward, "funasr_wer", inputs)["words"]
    assert isinstance(scores, Tensor)
    torch.testing.assert_close(scores[:2], torch.tensor([[-4.0, -4.0, math.nan], [-4.0] * 3]), equal_nan=True)
    assert scores[2].isnan().tolist() == [False, True, False] and scores[3].isnan().all()


def test_only_the_dense_score_of_the_text_has_scores_by_word(hearing_directory: Path):
    settings = [{}, {"component": "fit"}, {"component": "fit", "ref_source": "audio"}]
    rewards = [FunasrWer(str(hearing_directory), **each) for each in settings]
    assert [has_word_scores(reward) for reward in rewards] == [False, True, False]
    item = replace(clip("abc"), target_audio=tones("abc"))
    assert ["words" in reward.score([item]) for reward in rewards] == [False, True, False]


@pytest.mark.parametrize(
    ("text", "language", "words"),
    [
        ("ab cd", "en", ["ab", "cd"]),
        ("a, 'b'? -- cd!", "en", ["a", "b", "cd"]),
        ("东南, 西北", "zh", ["东南", "西北"]),
        ("东 b南", "zh", ["东", "b南"]),
    ],
)
def test_tokens_belong_to_the_words_that_credit_divides_the_text_into(reward: FunasrWer, text, language, words):
    assert normalize(text).split() == words
    ids, ends = reward.likelihood.token_ids(text, language), reward.likelihood.word_ends(text, language)
    parts = [ids[first:end] for first, end in pairwise([0, *ends])]
    assert list(chain(*parts)) == ids
    assert [reward.likelihood.tokenizer.decode(part).strip() for part in parts] == words
