from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tiny import SIZES
from torch import Tensor

from f5_tts.config.load import compose_synthesis_config
from f5_tts.data.tokenizer import Vocabulary, read_vocabulary
from f5_tts.infer import chunking as chunks
from f5_tts.infer.load import load_synthesizer
from f5_tts.infer.reference import Reference, read_reference
from f5_tts.infer.sample import sample_requests
from f5_tts.infer.synthesizer import SynthesisInput, Synthesizer, batches_by_length, resolve_seed
from f5_tts.model.build import build_model
from f5_tts.model.flow import time_grid

ROOT = Path(__file__).parents[2]
BASE = str(ROOT / "pretrained/F5TTS_Mini/model_800.safetensors")
TINY = [f"model.arch.{key}={value}" for key, value in SIZES.items()]
HOP = 320  # samples per frame of F5TTS_Mini


def hum(mel: Tensor, lens: Tensor) -> list[Tensor]:
    """Vocode by repeating the mean of each frame for one hop.

    It is linear in the mel, so that rounding errors are not amplified.
    """
    return [
        item[:length].mean(dim=1).repeat_interleave(HOP) / 10 for item, length in zip(mel, lens.tolist(), strict=True)
    ]


@pytest.fixture(scope="module")
def mini() -> Synthesizer:
    """Load the shipped base model with its own vocoder."""
    return load_synthesizer(compose_synthesis_config("F5TTS_Mini", []), BASE)


@pytest.fixture(scope="module")
def humming(mini: Synthesizer) -> Synthesizer:
    return Synthesizer(mini.model, mini.vocabulary, hum, mini.cfg)


@pytest.fixture(scope="module")
def voice() -> Reference:
    return read_reference(ROOT / "data/mini_custom/wavs/test_00_test_prompt_1.flac", "seven two four", 16_000)


@pytest.fixture
def short_chunks(monkeypatch) -> None:
    """Limit a chunk to 2.6 seconds of reference and speech."""
    monkeypatch.setattr(chunks, "MAX_TOTAL_S", 2.6)


def line(voice: Reference, text: str, seed: int = 0, speed: float = 1.0) -> SynthesisInput:
    return SynthesisInput(reference=voice, text=text, seed=seed, speed=speed)


LONG = "one two three four; five six seven. eight nine zero one! two three"
TEXTS = ["nine four eight", LONG, "three one four one five nine two six", "five five five five"]


# --- many texts at once ---


@pytest.mark.slow
def test_the_same_seed_gives_the_same_audio_whatever_the_batch_size_chunks_included(humming, voice, short_chunks):
    lines = [line(voice, text, seed) for seed, text in enumerate(TEXTS)]
    together = humming.with_overrides(["infer.batch_size=8"]).synthesize(lines)
    assert [len(speech.chunks) for speech in together] == [1, 4, 2, 1]
    for size in (1, 3):
        for one, other in zip(
            humming.with_overrides([f"infer.batch_size={size}"]).synthesize(lines), together, strict=True
        ):
            torch.testing.assert_close(one.wave, other.wave, atol=1e-5, rtol=0)
            torch.testing.assert_close(one.mel, other.mel, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_with_griffin_lim_which_magnifies_rounding_audio_differs_by_less_than_two_hundredths(mini, voice):
    lines = [line(voice, text, seed) for seed, text in enumerate(TEXTS)]
    for one, other in zip(
        mini.with_overrides(["infer.batch_size=1"]).synthesize(lines), mini.synthesize(lines), strict=True
    ):
        assert (one.wave - other.wave).square().mean() < 0.02**2 * one.wave.square().mean()


@pytest.mark.slow
def test_a_line_sounds_the_same_alone_and_lines_come_back_in_order(humming, voice, short_chunks):
    lines = [line(voice, text, 7) for text in TEXTS]
    for one, speech in zip(lines, humming.synthesize(lines), strict=True):
        torch.testing.assert_close(speech.wave, humming.synthesize([one])[0].wave, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_each_chunk_has_noise_of_its_own_from_the_next_seed(humming, voice, short_chunks):
    speech = humming.synthesize([line(voice, LONG, 5)])[0]
    assert [text for text, _ in speech.chunks] == [
        "one two three four;",
        "five six seven.",
        "eight nine zero one!",
        "two three",
    ]
    for i, (text, wave) in enumerate(speech.chunks):
        torch.testing.assert_close(wave, humming.synthesize([line(voice, text, 5 + i)])[0].wave, atol=1e-5, rtol=0)


def test_another_seed_is_another_take(humming, voice):
    one, other = humming.synthesize([line(voice, "nine four eight", seed) for seed in (1, 2)])
    assert (one.mel - other.mel).abs().mean() > 0.05


def test_nothing_to_say_is_no_speech(humming):
    assert humming.synthesize([]) == []


# --- the rules ---


@pytest.mark.slow
def test_chunks_are_faded_into_each_other(humming, voice, short_chunks):
    speech = humming.synthesize([line(voice, LONG)])[0]
    waves = [wave for _, wave in speech.chunks]
    assert torch.equal(speech.wave, chunks.cross_fade(waves, int(0.15 * 16_000)))
    assert len(speech.wave) == sum(map(len, waves)) - 3 * 2400
    end_to_end = humming.with_overrides(["infer.cross_fade_duration=0"]).synthesize([line(voice, LONG)])[0]
    torch.testing.assert_close(end_to_end.wave, torch.cat(waves), atol=1e-5, rtol=0)
    assert len(speech.mel) * HOP == len(end_to_end.wave)


def test_prompts_texts_and_frames_are_those_of_the_golden_runs(table):
    speaker = tiny_v1()
    for case in table("g8_inference_rules")["infer"]:
        samples = case["rms_in"] * torch.randn(case["cond_len"], generator=torch.Generator().manual_seed(0)).sign()
        voice = Reference(wave=samples, sample_rate=24_000, text=case["ref_text"], is_complete=True)
        fixed = [f"infer.{key}={value}" for key, value in case["kw"].items() if key == "fix_duration"]
        chunks_of = SynthesisInput(reference=voice, text=case["gen_text"], seed=0, speed=case["kw"].get("speed", 1.0))
        script = speaker.with_overrides(fixed).prepare(chunks_of)
        assert script.texts == case["gen_text"]
        assert [request.total for request in script.requests] == case["durations"]
        tokens = ["".join(speaker.vocabulary.split(request.text)) for request in script.requests]
        assert tokens == case["joined_tokens"]
        # plus the frame at the end of the reference
        assert len(script.requests[0].prompt_mel) == case["ref_frames"] + 1
        assert case["rms_in"] * script.reference_gain == pytest.approx(max(0.1, case["rms_in"]), rel=1e-5)


def tiny_v1() -> Synthesizer:
    cfg = compose_synthesis_config("F5TTS_v1_Base", TINY)
    vocabulary = read_vocabulary(ROOT / "data/Emilia_ZH_EN_pinyin/vocab.txt", "pinyin")
    return Synthesizer(build_model(cfg.model, vocabulary).eval(), vocabulary, hum, cfg)


def test_a_quiet_reference_is_raised_for_the_model_and_its_speech_lowered(humming, voice):
    quiet = replace(voice, wave=voice.wave * 0.02 / voice.rms)
    loud = replace(voice, wave=voice.wave * 0.1 / voice.rms)
    soft, full = (humming.synthesize([line(v, "nine four eight")])[0] for v in (quiet, loud))
    torch.testing.assert_close(soft.mel, full.mel, atol=1e-4, rtol=0)
    torch.testing.assert_close(soft.wave * 5, full.wave, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_speed_and_a_fixed_duration_decide_how_long_speech_is(humming, voice):
    prompt = len(voice.wave) // HOP

    def frames(speaker: Synthesizer, text: str, speed: float) -> int:
        return len(speaker.synthesize([line(voice, text, speed=speed)])[0].mel)

    text = "one two three four"  # 18 bytes; the reference has 15 with its space
    assert frames(humming, text, 1.0) == int(prompt / 15 * 18)
    assert frames(humming, text, 0.5) == int(prompt / 15 * 18 / 0.5)
    assert frames(humming, "six one", 1.0) == int(prompt / 15 * 7 / 0.3)
    assert frames(humming.with_overrides(["infer.fix_duration=3"]), text, 1.0) == 3 * 50 - prompt
    with pytest.raises(ValueError, match=r"infer\.fix_duration=0\.5 s leaves no time .* takes 1\.0 s of it"):
        humming.with_overrides(["infer.fix_duration=0.5"]).synthesize([line(voice, text)])


def test_however_fast_there_is_a_frame_for_every_symbol(humming, voice):
    text = "one two three four " * 5
    (request,) = humming.prepare(line(voice, text, speed=100.0)).requests
    assert request.total == len("seven two four ") + len(text.strip()) + 1
    assert len(humming.synthesize([line(voice, "one two three", speed=1e6)])[0].mel) == 2


def test_only_a_model_that_knows_full_stops_is_shown_one_after_the_reference(mini, voice):
    (request,) = mini.prepare(line(voice, "nine\n four  eight ")).requests
    assert request.text == "seven two four nine four eight"
    knowing = Synthesizer(mini.model, Vocabulary([*mini.vocabulary.symbols, "."]), hum, mini.cfg)
    assert knowing.prepare(line(voice, "nine")).requests[0].text == "seven two four.  nine"


# --- messages ---


@pytest.mark.slow
def test_symbols_outside_the_vocabulary_are_listed_once(humming, voice, capsys):
    humming.synthesize([line(voice, "one, two, TEN."), line(voice, "one, six")])
    first, symbols, examples = capsys.readouterr().out.splitlines()
    assert first == "the vocabulary lacks 5 symbols, of 2 texts; a model reads them as spaces:"
    assert sorted(symbols.split("'")[1::2]) == sorted(",.ENT")
    assert "one, two, TEN." in examples
    humming.synthesize([line(voice, "one two ten")])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("text", "said", "error"),
    [
        ("", "seven", "gen_text is empty"),
        (" \n ", "seven", "gen_text is empty"),
        ("你好 1!", "seven", "none of the symbols of gen_text '你好 1!'"),
        ("seven", "724", "none of the symbols of ref_text '724'"),
    ],
)
def test_a_text_without_a_symbol_that_the_model_knows_is_refused(humming, voice, text: str, said: str, error: str):
    with pytest.raises(ValueError, match=error):
        humming.synthesize([line(replace(voice, text=said), text)])


def test_a_seed_is_the_one_asked_for_or_a_new_one():
    infer = compose_synthesis_config("F5TTS_Mini", []).infer
    assert resolve_seed(replace(infer, seed=3)) == 3
    assert resolve_seed(infer) != resolve_seed(infer)


# --- the solver ---


@pytest.mark.slow
def test_the_solver_that_is_asked_for_is_the_one_that_speaks(humming, voice):
    one = line(voice, "nine four eight")
    (request,) = humming.prepare(one).requests
    for method in ("euler", "midpoint"):
        expected = sample_requests(humming.model, [request], humming.vocabulary, time_grid(4, -1.0), 1.0, method)[0]
        spoken = humming.with_overrides([f"infer.ode_method={method}"]).synthesize([one])[0].mel
        torch.testing.assert_close(spoken[1:], expected, atol=1e-5, rtol=0)
    assert (spoken - humming.synthesize([one])[0].mel).abs().mean() > 0.01


@pytest.mark.slow
def test_the_pruned_time_grid_is_used_unless_switched_off(humming, voice):
    grids = [humming.with_overrides(["infer.nfe_step=5", f"infer.epss={epss}"]) for epss in ("true", "false")]
    pruned, plain = (speaker.synthesize([line(voice, "nine four eight")])[0].mel for speaker in grids)
    assert (pruned - plain).abs().mean() > 0.01


# --- batches ---


def test_a_batch_is_of_like_lengths_and_no_larger_than_asked_for():
    assert batches_by_length([10, 30, 11, 12], 3) == [[0, 2, 3], [1]]
    assert batches_by_length([10] * 5, 2) == [[0, 1], [2, 3], [4]]
    assert batches_by_length([10, 20], 8) == [[0, 1]]  # 40 padded frames for 30
    assert batches_by_length([10, 10, 31], 8) == [[0, 1], [2]]  # a single batch would have 93 padded frames for 51
    assert batches_by_length([], 8) == []
