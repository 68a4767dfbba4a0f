"""Functions and constants that programs for F5-TTS import from its module of this name, over our synthesizer.

Names, order of arguments and returned tuples are those of F5-TTS. Functions that programs replace in this module
(`load_checkpoint`, `load_vocoder`, `convert_char_to_pinyin`, `transcribe`) are looked up here at each call.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import soundfile
import torch
from torch import Tensor

from f5_tts.config.checks import as_override, check
from f5_tts.config.load import compose_synthesis_config
from f5_tts.config.schema import SynthesisConfig
from f5_tts.data.audio import load_audio, write_wav
from f5_tts.data.resample import resample
from f5_tts.data.tokenizer import Vocabulary, byte_vocabulary
from f5_tts.download.hub import find_file, hub_cache
from f5_tts.infer import recognizer
from f5_tts.infer.chunking import chunk_size as bytes_per_chunk
from f5_tts.infer.chunking import fit_chunks, split_text, with_full_stop
from f5_tts.infer.load import choose_weights, find_vocabulary
from f5_tts.infer.reference import Reference, trim_reference
from f5_tts.infer.silence import cut_at_pause, shorten_pauses
from f5_tts.infer.spectrogram import save_spectrogram as save_spectrogram
from f5_tts.infer.synthesizer import NUM_SEEDS, SynthesisInput, Synthesizer, as_progress, progress_bar
from f5_tts.model.build import build_vocoder, find_device
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import ModelSpec, check_spec, load_weights, read_checkpoint, read_specification
from f5_tts.model.utils import convert_char_to_pinyin as convert_char_to_pinyin
from f5_tts.model.utils import get_tokenizer as get_tokenizer
from f5_tts.rewards.asr.whisper import LEADING_SILENCE_S, MAX_CONTEXT_S
from f5_tts.rewards.audio import ASR_RATE
from f5_tts.types import Number

device = str(find_device(None))
tempfile_kwargs: dict[str, Any] = {"delete_on_close": False} if sys.version_info >= (3, 12) else {"delete": False}

# of the mels; the functions below read them at each call, so a program may set them for a model of its own
target_sample_rate = 24000
n_mel_channels = 100
hop_length = 256
win_length = 1024
n_fft = 1024
mel_spec_type = "vocos"

# defaults of the functions below
target_rms = 0.1
cross_fade_duration = 0.15
ode_method = "euler"
nfe_step = 32
cfg_strength = 2.0
sway_sampling_coef = -1.0
speed = 1.0
fix_duration = None

Speech = tuple[Any, int, Any]  # waveform, sample rate in Hz, log-mel (bins first); arrays, or None without text
BASE = "F5TTS_v1_Base"  # config that completes what a program gives
SPEAKING = progress_bar("speaking")


# --- models ---


def mel_settings(kind: str = "vocos") -> dict[str, Any]:
    """Return the settings of the mels that the constants describe."""
    names = ("target_sample_rate", "n_mel_channels", "hop_length", "win_length", "n_fft")
    return {name: globals()[name] for name in names} | {"mel_spec_type": kind}


def load_vocoder(
    vocoder_name: str = "vocos",
    is_local: bool = False,
    local_path: str | Path | None = "",
    device: str | None = None,
    hf_cache_dir: str | None = None,
) -> Any:
    """Load a vocoder (vocos or griffin_lim) for mels of the constants, from a folder or from the hub."""
    overrides = [f"model.mel_spec.{key}={value}" for key, value in mel_settings().items()]
    cfg = compose_synthesis_config(BASE, [*overrides, f"model.vocoder.name={vocoder_name}"])
    cfg.model.vocoder.is_local, cfg.model.vocoder.local_path = is_local, str(local_path) if is_local else None
    check(cfg)
    with hub_cache(hf_cache_dir):
        return build_vocoder(cfg.model).to(find_device(device))


def load_model(
    model_cls: Callable[..., Any],
    model_cfg: Mapping[str, Any],
    ckpt_path: str | Path,
    mel_spec_type: str = mel_spec_type,
    vocab_file: str | Path = "",
    ode_method: str = ode_method,
    use_ema: bool | None = None,
    device: str | None = None,
) -> CFM:
    """Build a network of a class (DiT or UNetT) with these sizes, and load weights into it.

    The mels are those of the constants, unless the checkpoint says which it was trained with. The vocabulary is the
    first of: the file, the checkpoint's, vocab.txt beside it, the released one.
    """
    path = find_file(str(ckpt_path), "ckpt_path")
    saved = read_specification(path)
    vocabulary = find_vocabulary(str(vocab_file), saved, compose_synthesis_config(BASE, []).model)
    mel = mel_settings(mel_spec_type)
    if saved.spec is not None:
        check_spec(saved, ModelSpec(model=saved.spec.model, vocabulary=list(vocabulary.symbols)))
        mel = saved.spec.model.get("mel_spec", mel)
    model = CFM(
        model_cls(**model_cfg, text_num_embeds=len(vocabulary), mel_dim=mel["n_mel_channels"]),
        mel_spec_kwargs=mel,
        odeint_kwargs={"method": ode_method},
        vocab_char_map=vocabulary.ids,
    )
    return load_checkpoint(model, str(path), str(find_device(device)), dtype=None, use_ema=use_ema)


def load_checkpoint(
    model: CFM,
    ckpt_path: str | Path,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    use_ema: bool | None = None,
) -> CFM:
    """Load weights into a model, on a device; None keeps them in float32, and takes those that the file recommends."""
    load_weights(model, choose_weights(read_checkpoint(find_file(str(ckpt_path), "ckpt_path")), use_ema))
    return model.to(find_device(device), dtype).eval()


# --- references ---


@cache
def temporary_folder() -> TemporaryDirectory[str]:
    """Make a folder for trimmed recordings, which is removed when the process ends."""
    return TemporaryDirectory(prefix="f5_tts_")


def preprocess_ref_audio_text(
    ref_audio_orig: str | Path, ref_text: str, show_info: Callable[..., object] = print
) -> tuple[str, str]:
    """Trim a recording: return the file of the trimmed one and its text, with a full stop at its end.

    An empty text is replaced by a transcript.
    """
    wave, rate = trim_reference(ref_audio_orig, show_info, trim="upstream")
    path = Path(temporary_folder().name) / f"{uuid.uuid4().hex}.wav"
    soundfile.write(path, wave.numpy(), rate, subtype="FLOAT")
    text = ref_text.strip()
    if not text:
        text = transcribe(str(path)).strip()
        show_info(f"{ref_audio_orig} says: {text}")
    return str(path), with_full_stop(text)


def initialize_asr_pipeline(device: str | None = None, dtype: torch.dtype | None = None) -> None:
    """Load the recognizer now rather than at the first transcript; it runs on the CPU in any case."""
    recognizer.find_recognizer()


def transcribe(ref_audio: str | Path, language: str | None = None) -> str:
    """Transcribe the first half minute of a recording; raise ValueError for a language that is not installed."""
    wave = load_audio(ref_audio, ASR_RATE)
    limit = MAX_CONTEXT_S - LEADING_SILENCE_S
    return recognizer.transcribe(cut_at_pause(wave, ASR_RATE, limit), ASR_RATE, language)


# --- speech ---


def chunk_text(text: str, max_chars: int = 135) -> list[str]:
    """Split a text after punctuation into chunks of at most `max_chars` bytes in UTF-8, where sentences allow it."""
    return split_text(text, max_chars)


def infer_process(
    ref_audio: str | Path,
    ref_text: str,
    gen_text: str,
    model_obj: CFM,
    vocoder: Any,
    mel_spec_type: str = mel_spec_type,
    show_info: Callable[..., object] = print,
    progress: Any = SPEAKING,
    target_rms: Number = target_rms,
    cross_fade_duration: Number = cross_fade_duration,
    nfe_step: int = nfe_step,
    cfg_strength: Number = cfg_strength,
    sway_sampling_coef: Number | None = sway_sampling_coef,
    speed: Number = speed,
    fix_duration: Number | None = fix_duration,
    device: str | None = None,
) -> Speech:
    """Synthesize a text of any length in the voice of a recording, which is taken as it is.

    The result is that of `F5TTS.infer` with the seed to which torch was set last (`seed_everything`); without one, each
    call is another take.
    """
    rate = model_obj.mel_spec.target_sample_rate
    audio = load_audio(ref_audio, rate)
    ref_text, gen_text = map(SplitHere.of(model_obj.vocab_char_map).compose, (ref_text, gen_text))
    size = bytes_per_chunk(ref_text, len(audio) / rate, float(speed))
    chunks = fit_chunks(chunk_text(" ".join(gen_text.split()), size), size)
    show_info(f"{len(chunks)} chunk{'s' * (len(chunks) != 1)} of text")
    speech = infer_batch_process(
        (audio[None], rate),
        ref_text,
        chunks,
        model_obj,
        vocoder,
        mel_spec_type=mel_spec_type,
        progress=progress,
        target_rms=target_rms,
        cross_fade_duration=cross_fade_duration,
        nfe_step=nfe_step,
        cfg_strength=cfg_strength,
        sway_sampling_coef=sway_sampling_coef,
        speed=speed,
        fix_duration=fix_duration,
        device=device,
    )
    return next(speech)


def infer_batch_process(
    ref_audio: tuple[Tensor, int],
    ref_text: str,
    gen_text_batches: Sequence[str],
    model_obj: CFM,
    vocoder: Any,
    mel_spec_type: str = mel_spec_type,
    progress: Any = SPEAKING,
    target_rms: Number = target_rms,
    cross_fade_duration: Number = cross_fade_duration,
    nfe_step: int = nfe_step,
    cfg_strength: Number = cfg_strength,
    sway_sampling_coef: Number | None = sway_sampling_coef,
    speed: Number = speed,
    fix_duration: Number | None = fix_duration,
    device: str | None = None,
    streaming: bool = False,
    chunk_size: int = 2048,
) -> Iterator[Any]:
    """Synthesize chunks of text in the voice of a waveform (channels first) of some sample rate.

    Yields waveform, sample rate and log-mel (bins first) once. With `streaming` it yields pieces of `chunk_size`
    samples with the sample rate, those of a chunk as soon as it is synthesized.
    """
    settings = {
        "target_rms": target_rms,
        "cross_fade_duration": cross_fade_duration,
        "nfe_step": nfe_step,
        "cfg_strength": cfg_strength,
        "sway_sampling_coef": sway_sampling_coef,
        "speed": speed,
        "fix_duration": fix_duration,
    }
    synthesizer = synthesizer_of(model_obj, vocoder, settings)
    rate = synthesizer.sample_rate
    if not gen_text_batches:
        yield None, rate, None
        return
    audio, audio_rate = ref_audio
    wave = resample(audio.float().cpu().mean(dim=0), audio_rate, rate)
    reference = Reference(wave=wave, sample_rate=rate, text=ref_text, is_complete=True)
    item = SynthesisInput(reference=reference, text=list(gen_text_batches), seed=current_seed(), speed=float(speed))
    if streaming:
        for spoken in synthesizer.stream(item, as_progress(progress)):
            for piece in spoken.split(chunk_size):
                yield piece.numpy(), rate
    else:
        (result,) = synthesizer.synthesize([item], as_progress(progress))
        yield result.wave.numpy(), rate, result.mel.T.numpy()


def current_seed() -> int:
    """Return torch's seed if nothing was drawn since it was set, else draw one; the next call gets another one."""
    seed = torch.initial_seed()
    is_fresh = torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(seed).get_state())
    drawn = int(torch.randint(NUM_SEEDS, ()))
    return seed if is_fresh else drawn


def synthesizer_of(model: CFM, vocoder: Any, settings: Mapping[str, Any]) -> Synthesizer:
    """Return the synthesizer of a program's model and vocoder, one chunk at a time, as the program counts them."""
    return Synthesizer(model, SplitHere.of(model.vocab_char_map), decoder(vocoder), synthesis_config(model, settings))


def synthesis_config(model: CFM, settings: Mapping[str, Any]) -> SynthesisConfig:
    """Compose the config with a program's settings and the mels of its model."""
    method = model.odeint_kwargs["method"]
    values = {**settings, "ode_method": method, "batch_size": 1}
    cfg = compose_synthesis_config(BASE, [f"infer.{key}={as_override(value)}" for key, value in values.items()])
    cfg.model.mel_spec = model.mel_spec.config
    return cfg


class SplitHere(Vocabulary):
    """Vocabulary whose texts are split by `convert_char_to_pinyin` of this module."""

    @classmethod
    def of(cls, vocab_char_map: Mapping[str, int] | None) -> Vocabulary:
        """Return the vocabulary of these ids; None means bytes."""
        if vocab_char_map is None:
            return byte_vocabulary()
        vocabulary = cls(list(vocab_char_map), "pinyin")
        vocabulary.ids = dict(vocab_char_map)  # also of a program that numbers them in another order
        return vocabulary

    def split(self, text: str | Sequence[str]) -> list[str]:
        """Split a text into symbols, its letters in the form that the vocabulary has."""
        return list(convert_char_to_pinyin([self.compose(text)])[0]) if isinstance(text, str) else list(text)


def decoder(vocoder: Any) -> Callable[[Tensor, Tensor], list[Tensor]]:
    """Return our call of a program's vocoder: its `decode`, or the vocoder itself where it has none (as BigVGAN)."""
    decode = getattr(vocoder, "decode", vocoder)

    def waves(mel: Tensor, lens: Tensor) -> list[Tensor]:
        items = zip(mel, lens.tolist(), strict=True)
        return [decode(item[None, :length].transpose(1, 2)).float().flatten() for item, length in items]

    return waves


# --- files ---


def remove_silence_for_generated_wav(filename: str | Path) -> None:
    """Shorten the pauses of a WAV file, in place."""
    rate = soundfile.info(filename).samplerate
    write_wav(filename, shorten_pauses(load_audio(filename, rate), rate), rate)
