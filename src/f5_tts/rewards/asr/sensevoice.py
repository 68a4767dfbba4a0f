"""Transcription by FunASR's SenseVoiceSmall; the only module that imports funasr."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from f5_tts.download.hub import download_from_hub
from f5_tts.extras import install_hint
from f5_tts.files import get_nested, read_yaml
from f5_tts.model.build import find_device
from f5_tts.model.safe_load import LOAD_ERRORS, verify_records
from f5_tts.rewards.asr.preserve_state import preserve_process_state
from f5_tts.rewards.audio import to_16k_mono, usable_indices

LANGUAGES = ("auto", "zh", "en", "yue", "ja", "ko")
TAG = re.compile(r"<\|[^|]*\|>")  # language, emotion, event and style tags at the start of each text

BPE = "chn_jpn_yue_eng_ko_spectok.bpe.model"
# Required classes in config.yaml: other classes of funasr read other files.
COMPONENTS = {
    "model": "SenseVoiceSmall",
    "encoder": "SenseVoiceEncoderSmall",
    "tokenizer": "SentencepiecesTokenizer",
    "frontend": "WavFrontend",
}
FILES = ("config.yaml", "configuration.json", "model.pt", "am.mvn", BPE)
HUB_NAMES = {"iic/SenseVoiceSmall": "FunAudioLLM/SenseVoiceSmall"}  # ModelScope's name -> Hugging Face's name
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
FETCH_COMMAND = "python -m f5_tts.scripts.fetch_reward_asr_model --cache_dir"
DEFAULT_DIRECTORY = "checkpoints/funasr/SenseVoiceSmall"
MAX_SHOWN = 3  # differences listed in an error message

REQUIRED_MODULES = ("funasr", "kaldi_native_fbank", "sentencepiece")  # import names
# Errors that funasr raises for damaged files.
FUNASR_ERRORS = (RuntimeError, OSError, LookupError, ValueError, TypeError, AttributeError)


class SenseVoice:
    """SenseVoiceSmall recognizer: transcripts without tags, punctuation or inverse text normalization.

    It runs in single precision, whatever the precision of the caller. FunASR loads the weights that fit and does not
    report the others, so this class checks all files and weights first.
    """

    def __init__(self, directory: Path, device: str, batch_size: int):
        check_installed()
        check_files(directory)
        shapes = weight_shapes(directory / "model.pt")
        self.device, self.batch_size, self._lock = find_device(device, "funasr_wer: config.device"), batch_size, Lock()
        auto = auto_model(directory, self.device)
        self.model, self._settings = auto.model.requires_grad_(False), auto.kwargs
        self.frontend, self.tokenizer = auto.kwargs["frontend"], auto.kwargs["tokenizer"]
        check_weights(directory / "model.pt", shapes, self.model)
        check_cmvn(directory / "am.mvn", self.frontend)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the model alone, in single precision whatever autocast the caller uses."""
        with self._lock, torch.autocast(self.device.type, enabled=False):
            yield

    def transcribe(self, clips: list[Tensor], sample_rate: int, languages: list[str]) -> list[str]:
        """Transcribe mono clips, in order, each in its language of LANGUAGES; unusable clips get ""."""
        resampled = {i: to_16k_mono(clips[i], sample_rate) for i in usable_indices(clips, sample_rate)}
        texts: dict[int, str] = {}
        for language in dict.fromkeys(languages):
            same_language = sorted((i for i in resampled if languages[i] == language), key=lambda i: len(resampled[i]))
            for start in range(0, len(same_language), self.batch_size):
                batch = same_language[start : start + self.batch_size]  # clips of similar length need little padding
                texts.update(zip(batch, self._transcribe_batch([resampled[i] for i in batch], language), strict=True))
        return [texts.get(i, "") for i in range(len(clips))]

    def _transcribe_batch(self, clips: list[Tensor], language: str) -> list[str]:
        """Transcribe clips at 16 kHz with the model itself.

        AutoModel would set torch's threads and draw a random name for each clip.
        """
        settings = {**self._settings, "language": language, "use_itn": False}
        with self.exclusive(), torch.inference_mode():
            results, _ = self.model.inference(data_in=clips, key=["clip"], **settings)
        if len(results) != len(clips):
            raise RuntimeError(f"funasr_wer: {len(results)} texts were returned for {len(clips)} clips")
        return [TAG.sub("", result["text"]) for result in results]


# --- model directory ---


def find_directory(model_id: str | None) -> Path:
    """Return the directory of that name, or download the files of that hub repository.

    Raises ValueError or FileNotFoundError with the command that fetches the model.
    """
    if not model_id:
        raise ValueError(
            f"funasr_wer: config.model_id is {model_id!r}, and SenseVoiceSmall is not part of this package; run: "
            f"{FETCH_COMMAND} {DEFAULT_DIRECTORY}, and give "
            f"rl.rewards.providers.<n>.config.model_id={DEFAULT_DIRECTORY}"
        )
    if Path(model_id).is_dir():
        return Path(model_id)
    if not HUB_NAME.fullmatch(model_id):
        raise FileNotFoundError(
            f"funasr_wer: no directory at config.model_id={model_id}; run: {FETCH_COMMAND} {model_id}"
        )
    try:
        return [download_from_hub(HUB_NAMES.get(model_id, model_id), name) for name in FILES][-1].parent
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"funasr_wer: config.model_id={model_id} is neither a directory nor available on the hub: {error}; where "
            f"the hub can be reached run: {FETCH_COMMAND} {DEFAULT_DIRECTORY}, and give that directory"
        ) from error


# --- checks of its files ---


def check_files(directory: Path) -> None:
    """Raise FileNotFoundError if a file is missing, ValueError if config.yaml is not that of SenseVoiceSmall."""
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        raise FileNotFoundError(f"funasr_wer: {directory} lacks {', '.join(missing)}; run: {FETCH_COMMAND} {directory}")
    try:
        config = read_yaml(directory / "config.yaml")
    except ValueError as error:
        raise ValueError(f"funasr_wer: {directory}/config.yaml is damaged; run: {FETCH_COMMAND} {directory}") from error
    for key, expected in COMPONENTS.items():
        if (actual := get_nested(config, key)) != expected:
            raise ValueError(
                f"funasr_wer: {directory}/config.yaml describes {actual}, and SenseVoiceSmall is needed, with {key}: "
                f"{expected}"
            )


def weight_shapes(path: Path) -> dict[str, torch.Size]:
    """Return the shape of each tensor in a weights file, without reading values and without running code.

    Raises ValueError if the file cannot be read.
    """
    try:
        if zipfile.is_zipfile(path):
            verify_records(path)
        content = torch.load(path, map_location="meta", weights_only=True)
    except LOAD_ERRORS as error:
        raise ValueError(
            f"funasr_wer: {path} holds no weights, or more than weights: an incomplete download, or a file of another "
            f"model; run: {FETCH_COMMAND} {path.parent}"
        ) from error
    for name in ("state_dict", "model_state_dict", "model"):  # keys under which funasr looks for weights
        content = content.get(name, content) if isinstance(content, Mapping) else {}
    return {name: value.shape for name, value in content.items() if isinstance(value, Tensor)}


def check_weights(path: Path, file_shapes: Mapping[str, torch.Size], model: nn.Module) -> None:
    """Raise ValueError unless the file has every weight of the model, in its shape, and no other of the same modules.

    Other entries of the file, such as an optimizer state, are ignored.
    """
    model_shapes = {name: value.shape for name, value in model.state_dict().items()}
    prefixes = {name.partition(".")[0] for name in model_shapes}
    matching_shapes = {name: shape for name, shape in file_shapes.items() if name.partition(".")[0] in prefixes}
    mismatched = [
        f"{name} {shape_text(matching_shapes.get(name))} instead of {shape_text(model_shapes.get(name))}"
        for name in [*model_shapes, *(matching_shapes.keys() - model_shapes.keys())]
        if matching_shapes.get(name) != model_shapes.get(name)
    ]
    if mismatched:
        raise ValueError(
            f"funasr_wer: {path} does not fit the config.yaml and {BPE} beside it: {', '.join(mismatched[:MAX_SHOWN])} "
            f"({len(mismatched)} of {len(model_shapes)} weights); run: {FETCH_COMMAND} {path.parent}"
        )


def shape_text(shape: torch.Size | None) -> str:
    """Format a shape for an error message."""
    return "nothing" if shape is None else "x".join(map(str, shape))


def check_cmvn(path: Path, frontend: Any) -> None:
    """Raise ValueError if the file does not hold the means and scales of all features."""
    shape = (2, frontend.output_size())
    if frontend.cmvn is None or tuple(frontend.cmvn.shape) != shape:
        raise ValueError(
            f"funasr_wer: {path} does not hold {shape[1]} means and scales; run: {FETCH_COMMAND} {path.parent}"
        )


# --- funasr ---


def auto_model(directory: Path, device: torch.device) -> Any:
    """Load FunASR's AutoModel from a directory; every file is given, so that FunASR does not look for others."""
    with preserve_process_state():
        model_class = import_funasr()
        try:
            return model_class(
                model=str(directory),
                config=str(directory / "config.yaml"),
                init_param=str(directory / "model.pt"),
                tokenizer_conf={"bpemodel": str(directory / BPE)},
                frontend_conf={"cmvn_file": str(directory / "am.mvn"), "dither": 0.0},  # its default of 1 adds noise
                device=str(device),
                ncpu=torch.get_num_threads(),
                disable_update=True,
                trust_remote_code=False,  # explicit, because config.yaml or configuration.json could allow it
            )
        except FUNASR_ERRORS as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"funasr_wer: funasr cannot build a model from {directory} ({type(error).__name__}: {reason}); run: "
                f"{FETCH_COMMAND} {directory}"
            ) from error


def check_installed() -> None:
    """Raise ImportError with the install command if a library is missing."""
    if missing := [name for name in REQUIRED_MODULES if find_spec(name) is None]:
        names, command = ", ".join(missing), install_hint("funasr")
        raise ImportError(f'funasr_wer needs {names}; run: {command} (or ".[rl]", which includes it)')


def import_funasr() -> Any:
    """Import FunASR's AutoModel, which takes about ten seconds because funasr imports all its modules."""
    if find_spec("torchaudio") is not None:
        try:
            import_module("torchaudio")
        except (OSError, ImportError) as error:
            raise ImportError(
                "funasr_wer: torchaudio is installed but does not load, and funasr then does not either; it is not "
                "needed: pip uninstall torchaudio"
            ) from error
    from funasr import AutoModel

    return AutoModel
