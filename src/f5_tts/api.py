"""What a Python user imports: load a model, speak."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from f5_tts.config.checks import as_override, check
from f5_tts.config.load import compose_synthesis_config
from f5_tts.data.audio import write_wav
from f5_tts.infer.load import load_synthesizer
from f5_tts.infer.reference import read_reference
from f5_tts.infer.silence import shorten_pauses
from f5_tts.infer.synthesizer import SynthesisInput, resolve_seed


class F5TTS:
    """A model that speaks in the voice of a recording; names as in the F5TTS of F5-TTS."""

    def __init__(
        self,
        model: str = "F5TTS_v1_Base",
        ckpt_file: str | Path = "",
        vocab_file: str | Path = "",
        ode_method: str | None = None,
        vocoder_local_path: str | None = None,
        device: str | None = None,
    ) -> None:
        """`model` names a config; a path or hf://org/repo/path says where its weights and vocabulary are.

        Without `ckpt_file` the published weights are fetched. None leaves to the config's `infer` section, or to what
        the machine has.
        """
        overrides = [] if ode_method is None else [f"infer.ode_method={ode_method}"]
        cfg = compose_synthesis_config(model, overrides)
        if vocoder_local_path is not None:
            cfg.model.vocoder.is_local, cfg.model.vocoder.local_path = True, vocoder_local_path
            check(cfg)
        self.synthesizer = load_synthesizer(cfg, str(ckpt_file), str(vocab_file), device)
        self.target_sample_rate = self.synthesizer.sample_rate
        self.seed: int | None = None  # of the last call

    def infer(
        self,
        ref_file: str | Path,
        ref_text: str,
        gen_text: str | Sequence[str],
        *,
        target_rms: float | None = None,
        cross_fade_duration: float | None = None,
        sway_sampling_coef: float | None = None,
        cfg_strength: float | None = None,
        nfe_step: int | None = None,
        speed: float | None = None,
        fix_duration: float | None = None,
        batch_size: int | None = None,
        remove_silence: bool = False,
        file_wave: str | Path | None = None,
        seed: int | None = None,
    ) -> tuple[Any, int, Any]:
        """Speech, its sample rate in Hz, and its log-mel (bins first), as float32 arrays.

        Of a list of texts two lists: text i gets the noise of `seed` + i, so that spoken alone with that seed it is the
        same. None means the value of the config's `infer` section; where that has no seed, one is drawn and kept as
        `self.seed`.
        An empty `ref_text` is transcribed. `remove_silence` shortens pauses, in `file_wave` too (one text only).
        """
        single = isinstance(gen_text, str)
        if file_wave is not None and not single:
            raise ValueError(f"file_wave={file_wave} takes one text, got a list of {len(gen_text)}")
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
        infer, reference = synthesizer.cfg.infer, read_reference(ref_file, ref_text, synthesizer.sample_rate)
        self.seed = resolve_seed(infer)
        texts = [gen_text] if isinstance(gen_text, str) else gen_text
        inputs = [
            SynthesisInput(reference=reference, text=text, seed=self.seed + i, speed=infer.speed)
            for i, text in enumerate(texts)
        ]
        results = synthesizer.synthesize(inputs)
        waves = [
            shorten_pauses(result.wave, synthesizer.sample_rate) if remove_silence else result.wave
            for result in results
        ]
        if file_wave is not None:
            write_wav(file_wave, waves[0], synthesizer.sample_rate)
        arrays, mels = [wave.numpy() for wave in waves], [result.mel.T.numpy() for result in results]
        return (arrays[0], synthesizer.sample_rate, mels[0]) if single else (arrays, synthesizer.sample_rate, mels)

    def transcribe(self, ref_audio: str | Path) -> str:
        """What is said in a recording, by the recogniser that is installed (of a long one, its start)."""
        return read_reference(ref_audio, "", self.target_sample_rate).text
