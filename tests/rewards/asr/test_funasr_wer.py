from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest
import soxr
import torch
from tests.conftest import process_state
from tests.rewards.paraformer import TOKENS, make_paraformer
from tests.rewards.sensevoice import BPE, LETTERS, RATE, cmvn, tokenizer_file, tones
from torch import Tensor

from f5_tts.config.schema import ProviderConfig
from f5_tts.rewards.asr.funasr_wer import CACHE_SIZE, FunasrWer
from f5_tts.rewards.asr.paraformer import ParaformerWer
from f5_tts.rewards.asr.sensevoice import FILES, find_sensevoice
from f5_tts.rewards.registry import build_providers, score_all
from f5_tts.types import RewardInput

pytestmark = pytest.mark.slow  # importing funasr takes ten seconds, training its tiny model eight

FETCH = "run: f5-tts fetch asr --cache_dir"


@pytest.fixture(scope="module")
def reward(hearing_directory: Path) -> FunasrWer:
    return FunasrWer(str(hearing_directory))


@pytest.fixture
def copy(hearing_directory: Path, tmp_path: Path) -> Path:
    """Copy the model's directory for tests that damage it."""
    return Path(shutil.copytree(hearing_directory, tmp_path / "model"))


def clip(text: str, *, says: str | None = None, noise: float = 0.0, language: str = "auto") -> RewardInput:
    """Generate a clip of `text`, or of `says` where it differs from the text."""
    return RewardInput(audio=tones(says or text, noise), sample_rate=RATE, text=text, language=language)


def words(language: str, count: int) -> list[str]:
    chance = random.Random(count)
    return ["".join(chance.choices(LETTERS[language], k=chance.randint(3, 6))) for _ in range(count)]


# --- transcripts ---


def test_tones_are_heard_and_each_that_is_wrong_costs_its_share(reward: FunasrWer):
    scores = reward.score(
        [clip("abcdef"), clip("abcd", says="abce"), clip("abcd", says="hgfe"), clip("ab", says="abcde")]
    )
    torch.testing.assert_close(scores["acc"], torch.tensor([1, 0.75, 0, 0]))
    torch.testing.assert_close(scores["cer"], torch.tensor([0, 0.25, 1, 1.5]))
    assert scores["unusable"].tolist() == [0, 0, 0, 0]


def test_the_more_noise_the_less_is_understood(reward: FunasrWer):
    texts = words("en", 12)
    means = [
        float(reward.score([clip(text, noise=noise) for text in texts])["acc"].mean()) for noise in (0, 0.8, 1.6, 6)
    ]
    assert means[0] == 1 and means == sorted(means, reverse=True) and len(set(means)) == 4


def test_many_clips_of_two_languages_come_back_in_their_places_as_if_heard_alone(hearing_directory: Path):
    reward = FunasrWer(str(hearing_directory), batch_size=4)
    texts = [text for pair in zip(words("en", 7), words("zh", 7), strict=True) for text in pair]
    inputs = [clip(text, language=language) for text, language in zip(texts, ["en", "zh"] * 7, strict=True)]
    assert reward.transcribe_inputs(inputs) == texts
    noisy = [replace(item, audio=tones(item.text, noise=1.0, seed=i)) for i, item in enumerate(inputs)]
    together, alone = reward.score(noisy)["cer"], [reward.score([item])["cer"].item() for item in noisy]
    assert together.tolist() == alone and 0 < together.mean() < 1


def test_clips_of_24_khz_are_heard_as_well(reward: FunasrWer):
    audio = torch.from_numpy(soxr.resample(tones("abcdef").numpy(), RATE, 24_000))
    assert reward.score([RewardInput(audio=audio, sample_rate=24_000, text="abcdef")])["acc"].item() == 1


def test_a_text_of_hundreds_of_letters_is_compared_and_its_clip_heard(reward: FunasrWer):
    text = "abcdefgh" * 40
    assert reward.score([clip(text, says="abcd")])["cer"].item() == pytest.approx(316 / 320)
    assert 0 <= reward.score([clip(text)])["acc"].item() <= 1


@pytest.mark.parametrize(
    ("lang", "language", "text"),
    [
        ("auto", "auto", "abc"),
        ("auto", "en", "abc"),
        ("auto", "zh", "东南西"),
        ("zh", "en", "东南西"),
        ("en", "zh", "abc"),
    ],
)
def test_the_models_language_is_the_inputs_own_unless_one_is_set(hearing_directory: Path, lang, language, text):
    reward = FunasrWer(str(hearing_directory), lang=lang)
    assert reward.score([clip(text, language=language)])["acc"].item() == 1


def test_a_language_that_the_model_does_not_know_is_left_to_it_with_a_warning(reward: FunasrWer):
    with pytest.warns(UserWarning, match="does not support the language 'fr'"):
        assert reward.score([clip("abc", language="fr")])["acc"].item() == 1


def test_errors_count_by_character_or_by_word(hearing_directory: Path):
    inputs = [clip("abc", says="abd"), clip("东南西", says="东南北", language="zh")]
    by_character = FunasrWer(str(hearing_directory)).score(inputs)["cer"]
    by_word = FunasrWer(str(hearing_directory), wer_mode="word").score(inputs)["wer"]
    torch.testing.assert_close(by_character, torch.tensor([1 / 3, 1 / 3]))
    torch.testing.assert_close(by_word, torch.tensor([1, 1 / 3]))


def test_a_clip_is_heard_after_its_lead_whose_words_its_text_has(reward: FunasrWer):
    item = clip("abcdef", says="def")
    scores = reward.score([replace(item, prompt_audio=tones("abc")), item])["acc"]
    assert scores.tolist() == [1.0, 0.5]


def test_clips_without_sound_are_worst_and_leave_their_neighbours_alone(reward: FunasrWer):
    good = tones("abc")
    broken = [torch.zeros(0), good[:1500], torch.zeros(8000), good * nan, good * inf]
    audio = [good, *broken, good]
    inputs = [RewardInput(audio=sound, sample_rate=RATE, text="abc", prompt_audio=None) for sound in audio]
    inputs.append(replace(inputs[1], prompt_audio=good))  # usable prompt audio does not make a silent clip usable
    with pytest.warns(UserWarning, match="worst score"):
        scores = reward.score(inputs)
    assert scores["acc"].tolist() == [1, 0, 0, 0, 0, 0, 1, 0]
    assert scores["cer"].tolist() == [0, 1, 1, 1, 1, 1, 0, 1]
    assert scores["unusable"].tolist() == [0, 1, 1, 1, 1, 1, 0, 1]


def test_loud_short_and_odd_clips_are_heard(reward: FunasrWer):
    shortest = RewardInput(audio=tones("a")[:1600], sample_rate=RATE, text="a")
    loud = RewardInput(audio=100 * tones("abc"), sample_rate=RATE, text="abc")
    double = RewardInput(audio=tones("abc").double(), sample_rate=RATE, text="abc")
    scores = reward.score([shortest, loud, double])
    assert scores["acc"][2] == 1 and scores["unusable"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("mode", ["char", "word"])
def test_where_no_word_is_written_no_score_applies_whatever_is_heard(mode, hearing_directory: Path):
    reward = FunasrWer(str(hearing_directory), wer_mode=mode)
    scores = reward.score([replace(clip("abc"), text=text) for text in ("…", "?!")])
    assert scores["acc"].isnan().all() and scores[reward.rate].isnan().all()


# --- target audio as reference ---


def test_with_ref_source_audio_a_clip_says_what_its_recording_says(hearing_directory: Path):
    reward = FunasrWer(str(hearing_directory), ref_source="audio")
    target, item = tones("abcd"), clip("eeee", says="abce")
    inputs = [replace(item, target_audio=sound) for sound in (target, None, torch.zeros(8000), target, tones("abce"))]
    with pytest.warns(UserWarning, match="silent"):
        scores = reward.score([replace(inputs[0], prompt_audio=tones("gg")), *inputs[1:]])
    expected = torch.tensor([0.25, nan, nan, 0.25, 0])
    torch.testing.assert_close(scores["cer"], expected, equal_nan=True)
    torch.testing.assert_close(scores["acc"], 1 - expected, equal_nan=True)
    assert len(reward._cache) == 3  # a silent recording and two transcribed ones


def test_recordings_heard_before_are_kept_up_to_a_number(hearing_directory: Path):
    reward = FunasrWer(str(hearing_directory), ref_source="audio")
    reward._cache = {str(i).encode(): "a" for i in range(CACHE_SIZE)}
    item = replace(clip("abc"), target_audio=tones("abc"))
    assert reward.score([item])["acc"].item() == 1
    assert len(reward._cache) == CACHE_SIZE and list(reward._cache.values())[-1] == "abc"


# --- process state ---


def test_importing_funasr_leaves_no_trace(states_around_import):
    before, after = states_around_import
    assert [key for key in before if after[key] != before[key]] == []


def test_building_and_scoring_change_nothing_of_the_process(hearing_directory: Path, capfd):
    random.seed(7)
    torch.manual_seed(7)
    torch.set_num_threads(3)
    try:
        before = process_state()
        reward = FunasrWer(str(hearing_directory))
        assert process_state() == before
        torch.set_num_threads(2)
        before = process_state()
        reward.score([clip("abc")])
        changed = [key for key, value in process_state().items() if value != before[key]]
        assert changed in ([], ["python"])  # beartype, which checks types during tests, draws from Python's generator
    finally:
        torch.set_num_threads(1)
    assert capfd.readouterr() == ("", "")


def test_scores_do_not_depend_on_chance_precision_or_thread(reward: FunasrWer):
    inputs = [clip(text, noise=1.0) for text in words("en", 6)]
    alone = reward.score(inputs)["cer"].tolist()
    with torch.autocast("cpu", torch.bfloat16):
        assert reward.score(inputs)["cer"].tolist() == alone
    with ThreadPoolExecutor(4) as threads:
        assert [scores["cer"].tolist() for scores in threads.map(reward.score, [inputs] * 4)] == [alone] * 4


def test_nothing_of_it_learns(reward: FunasrWer):
    assert not any(weight.requires_grad for weight in reward.recognizer.model.parameters())
    item = clip("abc")
    assert not reward.score([replace(item, audio=item.audio.requires_grad_())])["acc"].requires_grad


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_hears_the_same(hearing_directory: Path, reward: FunasrWer):
    inputs = [clip(text, noise=0.4) for text in words("en", 6)]
    assert FunasrWer(str(hearing_directory), device="cuda").transcribe_inputs(inputs) == reward.transcribe_inputs(
        inputs
    )


# --- model directory ---


def test_a_config_entry_becomes_the_reward_with_its_components(hearing_directory: Path):
    providers = build_providers([ProviderConfig(name="funasr_wer", config={"model_id": str(hearing_directory)})])
    scored = score_all(providers, [clip("abc"), clip("abcd", says="abce")])
    assert {name: values.tolist() for name, values in scored.components.items()} == {"funasr_wer.acc": [1.0, 0.75]}
    assert set(scored.diagnostics) == {f"funasr_wer.{name}" for name in ("wer", "cer", "ins", "del", "sub", "unusable")}
    assert scored.texts == {"funasr_wer.heard": ["abc", "abce"]} and scored.word_scores == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lang": "fr"}, r"config\.lang='fr' is none of auto, zh, en, yue, ja, ko"),
        ({"wer_mode": "words"}, r"config\.wer_mode='words' is none of char, word"),
        ({"ref_source": "speech"}, r"config\.ref_source='speech' is none of text, audio"),
        ({"batch_size": 0}, r"config\.batch_size must be a whole number from 1, got 0"),
        ({"device": "gpu"}, r"config\.device=gpu cannot be used here"),
        ({"device": "cuda:99"}, r"config\.device=cuda:99 cannot be used here"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(hearing_directory: Path, settings, message):
    with pytest.raises(ValueError, match=message):
        FunasrWer(str(hearing_directory), **settings)


def test_no_model_is_a_sentence_that_says_how_to_get_one():
    with pytest.raises(ValueError, match=rf"config\.model_id is None.*{FETCH} checkpoints/funasr/SenseVoiceSmall"):
        FunasrWer(None)


def test_a_missing_directory_is_named_before_anyone_asks_a_network(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=rf"no directory at config\.model_id={tmp_path}/gone; {FETCH}"):
        FunasrWer(f"{tmp_path}/gone")


def test_a_hub_name_out_of_reach_says_what_else_helps(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=rf"neither a directory nor available on the hub: .*{FETCH}"):
        FunasrWer("FunAudioLLM/SenseVoiceSmall")


@pytest.mark.parametrize("name", ["FunAudioLLM/SenseVoiceSmall", "iic/SenseVoiceSmall"])
def test_a_hub_name_means_the_hubs_files_also_by_modelscopes_name(hearing_directory, tmp_path, monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--FunAudioLLM--SenseVoiceSmall"
    snapshot = shutil.copytree(hearing_directory, folder / "snapshots" / "abc")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    assert find_sensevoice(name) == Path(snapshot)


def test_a_torchaudio_that_does_not_load_is_explained(hearing_directory: Path, tmp_path: Path, monkeypatch):
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text("raise OSError('Could not load this library')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"torchaudio is installed but does not load.*pip uninstall torchaudio"):
        FunasrWer(str(hearing_directory))


# --- incomplete or damaged directories ---


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_with_the_command_that_brings_it(copy: Path, name: str):
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"funasr_wer: {copy} lacks {name}; {FETCH} {copy}"):
        FunasrWer(str(copy))


def change_weights(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        weights = torch.load(folder / "model.pt", weights_only=True)
        change(weights)
        torch.save(weights, folder / "model.pt")

    return damage


class Payload:
    """Object that creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.path,)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a weight in another shape": (
        change_weights(lambda weights: weights.update({"embed.weight": torch.zeros(16, 80)})),
        r"model\.pt does not fit .*: embed\.weight 16x80 instead of 16x560 \(1 of \d+ weights\)",
    ),
    "a weight too few": (
        change_weights(lambda weights: weights.pop("ctc.ctc_lo.bias")),
        r"model\.pt does not fit .*: ctc\.ctc_lo\.bias nothing instead of \d+ \(1 of",
    ),
    "a layer too many": (
        change_weights(lambda weights: weights.update({"encoder.encoders.9.norm1.weight": torch.zeros(32)})),
        r"model\.pt does not fit .*: encoder\.encoders\.9\.norm1\.weight 32 instead of nothing \(1 of",
    ),
    "weights of another model": (
        lambda folder: torch.save({"linear.weight": torch.zeros(2, 2)}, folder / "model.pt"),
        r"model\.pt does not fit .*, .*, .* nothing instead of \S+ \((\d+) of \1 weights\)",
    ),
    "code in the weights": (
        lambda folder: torch.save({"embed.weight": Payload(folder / "ran")}, folder / "model.pt"),
        r"model\.pt holds no weights, or more than weights",
    ),
    "an incomplete download": (
        lambda folder: (folder / "model.pt").write_bytes((folder / "model.pt").read_bytes()[:100_000]),
        r"model\.pt holds no weights",
    ),
    "a pointer instead of the weights": (
        lambda folder: (folder / "model.pt").write_text("version https://git-lfs.github.com/spec/v1\n"),
        r"model\.pt holds no weights",
    ),
    "no means": (lambda folder: (folder / "am.mvn").write_text(""), r"am\.mvn does not hold 560 means and scales"),
    "means of other features": (
        lambda folder: (folder / "am.mvn").write_text(cmvn(0, 1, width=80)),
        r"am\.mvn does not hold 560 means and scales",
    ),
    "means with an empty line": (
        lambda folder: (folder / "am.mvn").write_text("\n\n"),
        r"funasr cannot build a model from \S+ \(IndexError",
    ),
    "another vocabulary": (
        lambda folder: (folder / BPE).write_bytes(tokenizer_file(pieces=80)),
        r"model\.pt does not fit the config\.yaml and chn_jpn\S+ beside it: ctc\.ctc_lo\.weight",
    ),
    "no vocabulary": (
        lambda folder: (folder / BPE).write_text("nothing"),
        r"funasr cannot build a model from \S+ \(RuntimeError",
    ),
    "another model's config": (
        lambda folder: (folder / "config.yaml").write_text("model: Paraformer"),
        r"config\.yaml describes Paraformer, and SenseVoiceSmall is needed",
    ),
    "a config that is none": (lambda folder: (folder / "config.yaml").write_text("a: [b"), r"config\.yaml is damaged"),
    "a config without a network": (
        lambda folder: (folder / "config.yaml").write_text("model: SenseVoiceSmall\nfrontend: WavFrontend"),
        r"config\.yaml describes None, and SenseVoiceSmall is needed, with encoder: ",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_directory_is_one_clear_error_and_leaves_no_trace(copy: Path, name: str):
    damage, message = DAMAGE[name]
    damage(copy)
    before = process_state()
    with pytest.raises(ValueError, match=f"funasr_wer: .*{message}"):
        FunasrWer(str(copy))
    assert process_state() == before and not (copy / "ran").exists()


def test_what_configuration_json_says_does_not_matter(copy: Path):
    (copy / "configuration.json").write_text(json.dumps({"file_path_metas": {"config": "config.yaml"}}))
    assert FunasrWer(str(copy)).score([clip("abcd")])["acc"].item() == 1


def test_weights_may_lie_beside_what_training_needed(copy: Path):
    weights = torch.load(copy / "model.pt", weights_only=True)
    torch.save({"state_dict": {**weights, "optimizer.step": torch.zeros(1)}, "epoch": 3}, copy / "model.pt")
    assert FunasrWer(str(copy)).score([clip("abcd")])["acc"].item() == 1


# --- Paraformer, of random weights ---


@pytest.fixture(scope="module", params=["SeacoParaformer", "Paraformer"])
def paraformer(request, tmp_path_factory) -> ParaformerWer:
    return ParaformerWer(str(make_paraformer(tmp_path_factory.mktemp("zh") / "model", request.param)))


@pytest.mark.filterwarnings("ignore:some clips are silent")
def test_paraformer_hears_its_own_characters_whatever_else_is_heard_with_them(paraformer: ParaformerWer):
    """The weights are random, so that what it hears means nothing; it is one text per clip, always the same."""
    clips = [clip("今天", says=text, language="zh") for text in ("abcdef", "hgab")]
    scores = paraformer.score([*clips, replace(clips[0], audio=torch.zeros(RATE))])
    assert scores["heard"][:2] == [paraformer.score([item])["heard"][0] for item in clips]
    assert set("".join(scores["heard"])) <= set(TOKENS) and scores["heard"][0] and scores["heard"][2] == ""
    assert scores["unusable"].tolist() == [0, 0, 1]
    assert (paraformer.languages, paraformer.title) == (("zh",), "Paraformer")


def test_what_is_no_paraformer_is_refused_and_where_to_get_it_is_said(tmp_path: Path):
    folder = make_paraformer(tmp_path / "model")
    weights = torch.load(folder / "model.pt", weights_only=True)["state_dict"]
    name = weights.popitem()[0]
    torch.save(weights, folder / "model.pt")
    with pytest.raises(
        ValueError, match=rf"^paraformer_wer: .*model\.pt does not fit .* tokens\.json .*{name} nothing"
    ):
        ParaformerWer(str(folder))
    (folder / "tokens.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"lacks tokens\.json; copy the files of https://huggingface\.co/funasr"
    ):
        ParaformerWer(str(folder))
    with pytest.raises(ValueError, match=r"paraformer_wer: config\.model_id is None, and Paraformer is not part"):
        ParaformerWer(None)
