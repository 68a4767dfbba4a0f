from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from recipes.digits import make_corpus, train_reward
from recipes.digits.train_reward import TRAININGS, Corpus, Training

from f5_tts.data.audio import load_audio
from f5_tts.model.mel import LogMel
from f5_tts.rewards.asr.digits_network import MEL_SPEC, NetworkSizes, read_network, write_network

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HELD_OUT = ("dev", "test")
SMALL = Training(name="small", sizes=NetworkSizes(width=16, kernel_size=3, dilations=(1,)), seed=3, updates=2)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    rows = Dataset.load_from_disk(str(ROOT / "data/mini_custom/raw")).to_list()[:40]
    log_mel = LogMel(MEL_SPEC)
    mels = [log_mel(load_audio(ROOT / row["audio_path"], 16_000)[None])[0] for row in rows]
    copies = dict(enumerate(train_reward.resynthesize(mels[:4])))
    return Corpus(mels, [row["text"] for row in rows], copies)


# --- what the recognizers may know ---


@pytest.mark.parametrize("split", HELD_OUT)
def test_the_training_clips_have_no_text_and_no_voice_of_an_evaluation_list(split):
    clips = make_corpus.train_clips(make_corpus.RECIPES["base"].per_voice)
    texts = {text for texts in make_corpus.text_lists(make_corpus.SEED)[split].values() for text in texts}
    items = [item for item in make_corpus.eval_items(split) if item.prompt.voice not in make_corpus.TRAIN_VOICES]
    assert len(clips) == 16 * 220 and items
    assert not {clip.text for clip in clips} & (texts | {item.text for item in items})
    assert not {clip.voice.name for clip in clips} & {item.prompt.voice.name for item in items}


@pytest.mark.parametrize("split, voices, clips", [("dev", 2, 48), ("test", 4, 160)])
def test_the_error_is_measured_on_voices_and_texts_of_the_split_alone(split, voices, clips, monkeypatch):
    spoken = []

    class Speaker:
        def __call__(self, voice, text):
            spoken.append((voice.name, text))
            return torch.ones(3200).numpy()

    monkeypatch.setattr(train_reward, "DigitSynthesizer", Speaker)
    mels, texts = train_reward.held_out_mels(split)
    known = {text for texts in make_corpus.text_lists(make_corpus.SEED)[split].values() for text in texts}
    assert len(mels) == len(texts) == clips and [text for _, text in spoken] == texts and set(texts) <= known
    names = {name for name, _ in spoken}
    assert len(names) == voices and all(name.startswith(split) for name in names)


# --- examples ---


def test_griffin_lim_copies_have_the_length_of_their_clips_and_resemble_them(corpus):
    for index, copy in corpus.copies.items():
        mel = corpus.mels[index]
        assert copy.shape == mel.shape
        assert torch.corrcoef(torch.stack([copy.flatten(), mel.flatten()]))[0, 1] > 0.9
        assert not torch.equal(copy, mel)


def test_examples_are_clips_joined_clips_and_clips_without_words_in_their_shares(corpus):
    rng = train_reward.np.random.default_rng(0)
    lengths = [len(train_reward.draw_example(corpus, 0, rng)[1]) for _ in range(400)]
    own = len(corpus.texts[0].split())
    negative, joined = (sum(test) / 400 for test in ([n == 0 for n in lengths], [n > own for n in lengths]))
    assert negative == pytest.approx(train_reward.NEGATIVE, abs=0.04)  # three standard deviations
    assert joined == pytest.approx(train_reward.JOINED, abs=0.055)


# --- training ---


def test_the_learning_rate_rises_for_the_warm_up_and_ends_near_zero():
    factors = [train_reward.rate_factor(update, 330) for update in range(330)]
    assert factors[0] == pytest.approx(0.0101) and factors.index(max(factors)) == 99
    assert factors[-1] == pytest.approx(0.01, abs=1e-4)


def test_the_same_seed_trains_the_same_weights_and_another_one_others(corpus):
    weights = [train_reward.train_network(corpus, replace(SMALL, seed=seed)).state_dict() for seed in (3, 3, 4)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["words.weight"], weights[2]["words.weight"])


def test_the_loss_on_unchanged_clips_falls_in_training(corpus, monkeypatch):
    monkeypatch.setattr(train_reward, "BATCH_SIZE", 4)
    examples = [(mel, text.split()) for mel, text in zip(corpus.mels, corpus.texts, strict=True)]
    losses = []
    for updates in (1, 120):
        sizes = NetworkSizes(width=32, kernel_size=3, dilations=(1, 2))
        network = train_reward.train_network(corpus, replace(SMALL, sizes=sizes, updates=updates))
        with torch.no_grad():
            losses.append(train_reward.batch_loss(network, examples).item())
    assert losses[1] < losses[0] / 3


def test_an_example_that_is_too_short_for_its_phones_does_not_count(corpus):
    network = train_reward.train_network(corpus, SMALL)
    good, short = (corpus.mels[0], corpus.texts[0].split()), (corpus.mels[0][:5], ["seven"] * 4)
    together, alone = (train_reward.batch_loss(network, batch) for batch in ([good, short], [good]))
    torch.testing.assert_close(together, alone)


# --- card ---


def test_the_error_rate_counts_edits_per_word(corpus):
    networks = [read_network(ROOT / f"pretrained/digits_ctc/{name}.safetensors") for name in "ab"]
    texts = [*corpus.texts[:4]]
    changed = [f"{texts[0]} one", *texts[1:]]  # one word more than was said
    for network in networks:
        assert train_reward.error_rate(network, corpus.mels[:4], texts) == 0.0
        expected = 1 / sum(len(text.split()) for text in changed)
        assert train_reward.error_rate(network, corpus.mels[:4], changed) == pytest.approx(expected)


def test_the_shipped_card_states_the_files_beside_it():
    text = (train_reward.OUT / "README.md").read_text("utf-8") if train_reward.OUT.exists() else ""
    for training in TRAININGS:
        assert train_reward.file_row(train_reward.OUT, training) in text


def test_a_card_has_a_row_for_each_file_and_its_error_rates(tmp_path):
    for training in TRAININGS:
        torch.manual_seed(0)
        write_network(train_reward.DigitsNetwork(training.sizes), tmp_path / f"{training.name}.safetensors")
    rates = {"dev": dict(zip("abcd", (0.0, 0.012, 0.1, 0.2), strict=True)), "test": dict.fromkeys("abcd", 0.0018)}
    text = train_reward.card(tmp_path, rates)
    assert "| a | 0.0% | 0.2% |\n| b | 1.2% | 0.2% |\n| c | 10.0% | 0.2% |\n| d | 20.0% | 0.2% |\n" in text
    assert "| a.safetensors | 741,775 | 1.5 MB | 136 | 5 | 1 1 2 1 2 1 | 330 | 1 | none |" in text
    assert "| c.safetensors | 741,775 | 1.5 MB | 136 | 5 | 1 1 2 1 2 1 | 440 | 1 | up to 0.8 |" in text


def test_without_the_corpus_the_command_says_how_to_make_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        train_reward.main([])
    assert "run: python -m recipes.digits.make_corpus base" in capsys.readouterr().err
