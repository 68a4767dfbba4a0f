"""Python interface for speech synthesis: load a model, synthesize texts in the voice of a reference recording."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from f5_tts.config.checks import as_override, check
from f5_tts.config.load import compose_synthesis_config
from f5_tts.data.audio import write_wav
from f5_tts.download.hub import hub_cache
from f5_tts.files import user_path
from f5_tts.infer.load import load_synthesizer
from f5_tts.infer.recognizer import transcribe
from f5_tts.infer.reference import read_reference
from f5_tts.infer.silence import shorten_pauses
from f5_tts.infer.spectrogram import save_spectrogram
from f5_tts.infer.synthesizer import SynthesisInput, as_progress, progress_bar, resolve_seed
from f5_tts.infer.utils_infer import SplitHere
from f5_tts.model.cfm import CFM
from f5_tts.types import Number


class F5TTS:
    """A text-to-speech model that speaks in the voice of a reference recording; names as in F5-TTS's class F5TTS."""

    def __init__(
        self,
        model: str = "F5TTS_v1_Base",
        ckpt_file: str | Path = "",
        vocab_file: str | Path = "",
        ode_method: str | None = None,
        use_ema: bool | None = None,
        vocoder_local_path: str | Path | None = None,
        device: str | None = None,
        hf_cache_dir: str | None = None,
    ) -> None:
        """Load a model and its vocoder.

        Args:
            model: name of a config, or path of a YAML file with a section model.
            ckpt_file: path or hf://org/repo/path of the weights; empty means the published weights, which are
                downloaded.
            vocab_file: path or hf://org/repo/path of the vocabulary; empty means that of the config.
            ode_method: euler or midpoint; None means infer.ode_method of the config.
            use_ema: averaged (True) or raw weights of a training checkpoint; None means those that it recommends.
            vocoder_local_path: folder with the vocoder's weights; None means the config's vocoder.
            device: e.g. "cuda:0" or "cpu"; None means a GPU if there is one (CUDA, XPU, MPS).
            hf_cache_dir: folder for downloads; None means the usual cache of the Hugging Face hub.
        """
        overrides = [] if ode_method is None else [f"infer.ode_method={ode_method}"]
        cfg = compose_synthesis_config(model, overrides, model if Path(model).is_file() else None)
        if vocoder_local_path is not None:
            cfg.model.vocoder.is_local, cfg.model.vocoder.local_path = True, str(user_path(str(vocoder_local_path)))
            check(cfg)
        with hub_cache(hf_cache_dir):
            self.synthesizer = load_synthesizer(cfg, str(ckpt_file), str(vocab_file), device, use_ema)
        if self.synthesizer.vocabulary.tokenizer == "pinyin":  # programs may replace how texts are split
            self.synthesizer.vocabulary = SplitHere.of(self.synthesizer.vocabulary.ids)
        self.target_sample_rate = self.synthesizer.sample_rate
        self.mel_spec_type = cfg.model.mel_spec.mel_spec_type
        self.seed: int | None = None  # seed of the last call

    @property
    def ema_model(self) -> CFM:
        """Return the model."""
        return self.synthesizer.model

    @property
    def vocoder(self) -> Any:
        """Return the vocoder; its `decode` converts a log-mel (bins first) to a waveform."""
        return self.synthesizer.vocoder

    @property
    def device(self) -> str:
        """Return the name of the device that the model is on."""
        return str(next(self.ema_model.parameters()).device)

    def infer(
        self,
        ref_file: str | Path,
        ref_text: str,
        gen_text: str | Sequence[str],
        show_info: Callable[..., object] = print,
        progress: Any = progress_bar("speaking"),  # noqa: B008
        target_rms: Number | None = None,
        cross_fade_duration: Number | None = None,
        sway_sampling_coef: Number | None = None,
        cfg_strength: Number | None = None,
        nfe_step: int | None = None,
        speed: Number | None = None,
        fix_duration: Number | None = None,
        remove_silence: bool = False,
        file_wave: str | Path | None = None,
        file_spec: str | Path | None = None,
        seed: int | None = None,
        *,
        batch_size: int | None = None,
    ) -> tuple[Any, int, Any]:
        """Synthesize a text: return the waveform, its sample rate in Hz, and its log-mel (bins first), in float32.

        A list of texts gives two lists. Text i is drawn with `seed` + i, so it is the same if synthesized alone with
        that seed. None means the value in the config's `infer` section; if that has no seed either, one is drawn and
        kept as `self.seed`.

        Args:
            ref_file: recording of the voice.
            ref_text: its transcript; an empty one is replaced by the transcript of an ASR model.
            gen_text: text or texts to synthesize.
            show_info: called with each message about the reference.
            progress: progress bar around the batches: a function like tqdm, an object with a method tqdm (such as
                gradio's Progress), or None.
            target_rms: RMS level to which a quieter reference is raised for the model; the output gets the original
                level.
            cross_fade_duration: overlap of neighboring chunks of a long text, in seconds.
            sway_sampling_coef: shift of the time grid, from -1 to 1; negative values favor early times.
            cfg_strength: strength of classifier-free guidance, 0 or more.
            nfe_step: solver steps.
            speed: speaking rate; 2 is twice as fast.
            fix_duration: duration of reference and speech together, in seconds, instead of an estimate from the text;
                the chunks of a long text share it.
            remove_silence: shorten pauses, also in `file_wave`.
            file_wave: WAV file to write; for a single text only.
            file_spec: image file of the log-mel to write; for a single text only.
            seed: seed of the noise, below 2^64; a negative one is replaced by one that is drawn.
            batch_size: chunks that are synthesized together.

        Raises:
            ValueError: a value is out of range, or `file_wave` or `file_spec` is given for a list of texts.
        """
        single = isinstance(gen_text, str)
        for name, file in {"file_wave": file_wave, "file_spec": file_spec}.items():
            if file is not None and not single:
                raise ValueError(f"{name}={file} takes one text, got a list of {len(gen_text)}")
        values = {
            "target_rms": target_rms,
            "cross_fade_duration": cross_fade_duration,
            "sway_sampling_coef": sway_sampling_coef,
            "cfg_strength": cfg_strength,
            "nfe_step": nfe_step,
            "speed": speed,
            "fix_duration": fix_duration,
            "batch_size": batch_size,
            "seed": seed,
        }
        synthesizer = self.synthesizer.with_overrides(
            [f"infer.{key}={as_override(v)}" for key, v in values.items() if v is not None]
        )
        infer = synthesizer.cfg.infer
        reference = read_reference(
            user_path(str(ref_file)), ref_text, synthesizer.sample_rate, log=show_info, trim=infer.trim
        )
        self.seed = resolve_seed(infer)
        texts = [gen_text] if isinstance(gen_text, str) else gen_text
        inputs = [
            SynthesisInput(reference=reference, text=text, seed=self.seed + i, speed=infer.speed)
            for i, text in enumerate(texts)
        ]
        results = synthesizer.synthesize(inputs, as_progress(progress))
        waves = [
            shorten_pauses(result.wave, synthesizer.sample_rate) if remove_silence else result.wave
            for result in results
        ]
        arrays, mels = [wave.numpy() for wave in waves], [result.mel.T.numpy() for result in results]
        if file_wave is not None:
            self.export_wav(arrays[0], file_wave)
        if file_spec is not None:
            self.export_spectrogram(mels[0], file_spec)
        return (arrays[0], synthesizer.sample_rate, mels[0]) if single else (arrays, synthesizer.sample_rate, mels)

    def export_wav(self, wav: np.ndarray, file_wave: str | Path, remove_silence: bool = False) -> None:
        """Write a waveform as a WAV file, on request with shortened pauses."""
        wave = torch.from_numpy(wav)
        write_wav(
            user_path(str(file_wave)),
            shorten_pauses(wave, self.target_sample_rate) if remove_silence else wave,
            self.target_sample_rate,
        )

    def export_spectrogram(self, spec: np.ndarray, file_spec: str | Path) -> None:
        """Draw a log-mel (bins first) into an image file."""
        save_spectrogram(spec, user_path(str(file_spec)))

    def transcribe(self, ref_audio: str | Path, language: str | None = None) -> str:
        """Transcribe a recording with the installed ASR model; of a long one only the start is used.

        Raises:
            ValueError: the model does not know the language.
        """
        asr, trim = partial(transcribe, language=language), self.synthesizer.cfg.infer.trim
        return read_reference(user_path(str(ref_audio)), "", self.target_sample_rate, asr, trim=trim).text
