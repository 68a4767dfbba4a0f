"""Names of the built-in rewards, and where their classes are, so that a name is checked before torch is imported."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from f5_tts.config.schema import ProviderConfig
from f5_tts.plugins import is_module_attribute

PROVIDERS = {
    "digits_wer": "f5_tts.rewards.asr.digits_wer:DigitsWer",
    "digits_ctc": "f5_tts.rewards.asr.digits_ctc:DigitsCtc",
    "voice_sim": "f5_tts.rewards.speaker.voice_sim:VoiceSim",
    "funasr_wer": "f5_tts.rewards.asr.funasr_wer:FunasrWer",
    "paraformer_wer": "f5_tts.rewards.asr.paraformer:ParaformerWer",
    "whisper_wer": "f5_tts.rewards.asr.whisper:WhisperWer",
    "ecapa_sim": "f5_tts.rewards.speaker.ecapa_sim:EcapaSim",
    "wavlm_sim": "f5_tts.rewards.speaker.wavlm_sim:WavlmSim",
    "wespeaker_sim": "f5_tts.rewards.speaker.wespeaker_sim:WespeakerSim",
    "distill_mos": "f5_tts.rewards.distill_mos:DistillMos",
    "speech_rate": "f5_tts.rewards.guards:SpeechRate",
    "f0_spread": "f5_tts.rewards.guards:F0Spread",
    "long_silence": "f5_tts.rewards.guards:LongSilence",
    "clicks": "f5_tts.rewards.guards:Clicks",
    "clipping": "f5_tts.rewards.guards:Clipping",
    "spectral_match": "f5_tts.rewards.spectral_match:SpectralMatch",
}
ALIASES = {  # short names of models: as a judge, what a model measures is known
    "pocketsphinx": "digits_wer",
    "whisper": "whisper_wer",
    "funasr": "funasr_wer",
    "paraformer": "paraformer_wer",
    "wespeaker": "wespeaker_sim",
    "resemblyzer": "voice_sim",
    "ecapa": "ecapa_sim",
    "wavlm": "wavlm_sim",
}
MIN_SIMILARITY = 0.6  # of a name that is suggested


def full_name(name: str) -> str:
    """Return the name of a provider in PROVIDERS, given by it or by a short name; other names stay."""
    return ALIASES.get(name, name)


def provider_path(name: str, config_key: str) -> str:
    """Return module:attribute of a provider; raise ValueError if the name is neither built-in nor of that form."""
    path = PROVIDERS.get(full_name(name), name)
    if is_module_attribute(path):
        return path
    known = [*PROVIDERS, *ALIASES]
    similar = difflib.get_close_matches(name, known, n=1, cutoff=MIN_SIMILARITY)
    hint = f" (did you mean {similar[0]}?)" if similar else ""
    raise ValueError(
        f"{config_key}.name: no reward provider is called {name!r}{hint}; known: {', '.join(known)}, or your own as "
        "module:attribute"
    )


def is_reward(name: str, rewards: Iterable[str]) -> bool:
    """Check whether a model is one of the rewards, whatever name each goes by."""
    return full_name(name) in map(full_name, rewards)


def rewarded(entries: Iterable[ProviderConfig]) -> list[str]:
    """List the names of the entries with a weight: the rewards of a run."""
    return [full_name(entry.name) for entry in entries if entry.weight != 0]
