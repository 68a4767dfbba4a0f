import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import Dataset
from recipes.digits import make_corpus as corpus

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "data" / "mini_custom"
LISTS = corpus.text_lists(corpus.SEED)
TEXTS = {split: {text for texts in lists.values() for text in texts} for split, lists in LISTS.items()}
VOICES = {"train": corpus.TRAIN_VOICES, "dev": corpus.DEV_VOICES, "test": corpus.TEST_VOICES}


@pytest.fixture(scope="module")
def speak():
    return corpus.DigitSynthesizer()


def voice(**changes):
    plain = dict(name="v", pitch=1.0, intonation=1.0, warp=1.0, tilt_db=0.0, breath_db=-60.0, speed=1.0)
    return corpus.Voice(**{**plain, **changes})


def training_rows():
    return Dataset.load_from_disk(str(SHIPPED / "raw")).to_list()


def exam_rows(split):
    return [json.loads(line) for line in (SHIPPED / f"{split}.jsonl").read_text().splitlines()]


def file_bytes(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Texts and voices


def test_the_three_lists_share_no_string_and_together_hold_every_one():
    for one, other in itertools.combinations(TEXTS.values(), 2):
        assert not one & other
    assert sum(map(len, TEXTS.values())) == 10**2 + 10**3 + 10**4 + 10**5


def test_each_list_has_its_share_of_every_length():
    assert {split: len(lists[2]) for split, lists in LISTS.items()} == {"train": 60, "dev": 15, "test": 25}
    assert {split: len(lists[5]) for split, lists in LISTS.items()} == {"train": 60000, "dev": 15000, "test": 25000}


def test_no_voice_kept_from_training_is_a_training_voice():
    assert [len(voices) for voices in VOICES.values()] == [16, 2, 4]
    everyone = [one for voices in VOICES.values() for one in voices]
    assert len({one.name for one in everyone}) == 22
    assert len({(one.pitch, one.intonation, one.warp, one.tilt_db, one.breath_db, one.speed) for one in everyone}) == 22


@pytest.mark.parametrize("trait", ["pitch", "intonation", "warp", "tilt_db", "breath_db", "speed"])
def test_a_voice_kept_from_training_lies_inside_the_range_of_the_training_voices(trait):
    seen = [getattr(one, trait) for one in corpus.TRAIN_VOICES]
    for one in corpus.DEV_VOICES + corpus.TEST_VOICES:
        assert min(seen) <= getattr(one, trait) <= max(seen)


def test_drawn_texts_differ_and_take_the_lengths_in_turn():
    texts = corpus.draw_texts(LISTS["train"], (2, 3), 60, np.random.default_rng(0))
    assert len(set(texts)) == 60
    assert [len(text.split()) for text in texts] == [2, 3] * 30


# Changes of the voice


def test_pitch_is_scaled_and_frames_without_one_stay_without():
    bent = corpus.bend_pitch(np.array([0.0, 200.0, 200.0], np.float32), voice(pitch=1.5))
    np.testing.assert_allclose(bent, [0.0, 300.0, 300.0], rtol=1e-5)


def test_half_the_intonation_halves_the_distance_from_the_mean_logarithm():
    bent = corpus.bend_pitch(np.array([100.0, 400.0], np.float32), voice(intonation=0.5))
    np.testing.assert_allclose(bent, [200 * 2**-0.5, 200 * 2**0.5], rtol=1e-5)


def test_warping_moves_a_peak_to_its_frequency_times_the_factor():
    spectrum = np.zeros((601, 3), np.float32)
    spectrum[100] = 1.0
    assert corpus.warp_frequency(spectrum, 1.1)[110].tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert corpus.warp_frequency(spectrum, 0.8).argmax(axis=0).tolist() == [80] * 3


def test_warped_phases_run_as_fast_as_their_new_bins():
    turn = 0.5
    phase = (turn * np.arange(40)[:, None] * np.arange(5)).astype(np.float32)  # the center frequency of each bin
    np.testing.assert_allclose(corpus.warp_phase(phase, 0.8, turn)[:32], phase[:32], atol=1e-4)


def test_tilt_is_nothing_at_one_kilohertz_and_its_decibels_an_octave_above():
    curve = corpus.tilt_curve(13, 12000.0, 6.0)  # one bin per kHz
    np.testing.assert_allclose(20 * np.log10(np.exp(curve[[1, 2, 4]])), [0.0, 6.0, 12.0], atol=1e-4)


# Audio


def test_trimming_leaves_forty_milliseconds_around_the_speech():
    wave = np.zeros(16000, np.float32)
    wave[4800:8000] = np.sin(2 * np.pi * 440 * np.arange(3200) / 16000)
    assert len(corpus.trim(wave)) == 3200 + 2 * 640


def test_a_tone_is_brought_to_the_loudness_and_silence_beside_it_does_not_count():
    wave = np.zeros(32000, np.float32)
    wave[:16000] = 0.9 * np.sin(2 * np.pi * 400 * np.arange(16000) / 16000)
    assert np.abs(corpus.level(wave)).max() == pytest.approx(corpus.LOUDNESS * 2**0.5, rel=1e-3)


def test_a_peak_is_never_louder_than_allowed():
    wave = np.full(16000, 0.01, np.float32)
    wave[8000] = 1.0  # 100 times the rest: it would exceed full scale at the target loudness
    assert np.abs(corpus.level(wave)).max() <= corpus.PEAK + 1e-6


def test_the_same_voice_and_text_give_the_same_samples_whatever_was_spoken_before(speak):
    first = speak(corpus.TEST_VOICES[0], "three one five")
    speak(corpus.TRAIN_VOICES[4], "six two")
    again = corpus.DigitSynthesizer()(corpus.TEST_VOICES[0], "three one five")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, speak(corpus.TEST_VOICES[1], "three one five")[: len(first)])


# Files


@pytest.mark.slow
def test_a_corpus_made_anew_has_the_same_bytes_and_leaves_nothing_beside_it(tmp_path):
    recipe = corpus.Recipe(out=tmp_path / "tiny", per_voice=1, eval_splits=())
    corpus.make_corpus(recipe, recipe.out)
    before = file_bytes(recipe.out)
    corpus.make_corpus(recipe, recipe.out)
    assert file_bytes(recipe.out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    assert corpus.is_complete(recipe.out)


def test_a_finished_corpus_is_left_alone(tmp_path, capsys):
    for name in ("raw", "wavs", "duration.json", "vocab.txt"):
        (tmp_path / name).mkdir()
    assert corpus.main(["mini", "--out", str(tmp_path)]) == 0
    assert "is complete; --force replaces it" in capsys.readouterr().out


def test_a_folder_that_is_no_corpus_is_not_replaced(tmp_path, capsys):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SystemExit, match="2"):
        corpus.main(["mini", "--out", str(tmp_path)])
    assert f"{tmp_path} exists and is not a finished corpus" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()


# Shipped corpus


def test_shipped_training_rows_name_real_files_of_training_voices_and_texts():
    rows = training_rows()
    assert [row["duration"] for row in rows] == json.loads((SHIPPED / "duration.json").read_text())["duration"]
    assert {row["speaker"] for row in rows} == {one.name for one in corpus.TRAIN_VOICES}
    for row in rows:
        info = soundfile.info(str(ROOT / row["audio_path"]))
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert info.frames / info.samplerate == row["duration"]
        assert row["text"] in TEXTS["train"]


def test_shipped_vocabulary_is_the_space_and_the_letters():
    assert (SHIPPED / "vocab.txt").read_text().split("\n") == [*" abcdefghijklmnopqrstuvwxyz", ""]


@pytest.mark.parametrize("split, unseen, seen", [("dev", 48, 16), ("test", 160, 64)])
def test_shipped_evaluation_items_hold_to_their_list_and_voices(split, unseen, seen):
    rows = exam_rows(split)
    assert (sum(not row["seen"] for row in rows), sum(row["seen"] for row in rows)) == (unseen, seen)
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        names = {one.name for one in VOICES["train" if row["seen"] else split]}
        assert row["speaker"] in names
        assert Path(row["prompt_audio"]).name.startswith(f"{row['speaker']}_{split}_prompt_")
        assert {row["text"], row["prompt_text"]} <= TEXTS[split]
        assert row["text"] != row["prompt_text"]
        assert soundfile.info(str(ROOT / row["prompt_audio"])).samplerate == 16000


def test_every_shipped_clip_is_listed_and_a_prompt_says_one_text():
    rows = training_rows()
    output = {row["audio_path"]: {row["text"]} for row in rows}
    for row in exam_rows("dev") + exam_rows("test"):
        output.setdefault(row["prompt_audio"], set()).add(row["prompt_text"])
    assert set(output) == {f"data/mini_custom/wavs/{path.name}" for path in (SHIPPED / "wavs").iterdir()}
    assert all(len(texts) == 1 for texts in output.values())


def test_a_shipped_target_takes_as_long_as_its_voice_does(speak):
    row = exam_rows("test")[0]
    seconds = len(speak(corpus.TEST_VOICES[0], row["text"])) / corpus.SAMPLE_RATE
    # a tolerance of a few frames, as arithmetic differs between processors
    assert seconds == pytest.approx(row["duration"], abs=0.05)
