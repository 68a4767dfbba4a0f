"""Models of FunASR in folders, whose files and weights are checked; the only module that imports funasr."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from f5_tts.download.hub import download_from_hub
from f5_tts.download.source import endpoint
from f5_tts.extras import install_hint
from f5_tts.files import get_nested, read_yaml
from f5_tts.model.build import find_device
from f5_tts.model.safe_load import LOAD_ERRORS, verify_records
from f5_tts.rewards.asr.preserve_state import preserve_process_state

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
MAX_SHOWN = 3  # differences listed in an error message
REQUIRED_MODULES = ("funasr", "kaldi_native_fbank", "sentencepiece")  # import names
# Errors that funasr raises for damaged files.
FUNASR_ERRORS = (RuntimeError, OSError, LookupError, ValueError, TypeError, AttributeError)


@dataclass(frozen=True, kw_only=True)
class FunasrKind:
    """Kind of model: its files and classes, and where it comes from."""

    provider: str  # name of the reward, for messages
    title: str  # name of the model
    files: tuple[str, ...]
    components: Mapping[str, tuple[str, ...]]  # key of config.yaml -> classes; others of funasr read other files
    tokenizer: Mapping[str, str]  # setting of the tokenizer -> its file
    directory: str  # where it usually is
    advice: str  # what fetches it to {directory}, maybe from {hub}
    has_more_weights: bool = False  # whether its file may hold weights that the model lacks
    hub_names: Mapping[str, str] = field(default_factory=dict)  # ModelScope's name -> Hugging Face's name

    @property
    def tokens(self) -> str:
        """Return the name of the tokenizer's first file."""
        return next(iter(self.tokenizer.values()))

    def remedy(self, directory: Path | str) -> str:
        """Return what fetches the model to a directory."""
        return self.advice.format(directory=directory, hub=endpoint())


class FunasrModel:
    """Model of FunASR in single precision, whatever the precision of the caller.

    FunASR loads the weights that fit and does not report the others, so this class checks all files and weights first.
    """

    def __init__(self, directory: Path, device: str, kind: FunasrKind):
        check_installed(kind)
        check_files(directory, kind)
        shapes = weight_shapes(directory / "model.pt", kind)
        self.device, self._lock = find_device(device, f"{kind.provider}: config.device"), Lock()
        auto = auto_model(directory, self.device, kind)
        self.model, self._settings = auto.model.requires_grad_(False), auto.kwargs
        self.frontend, self.tokenizer = auto.kwargs["frontend"], auto.kwargs["tokenizer"]
        check_weights(directory / "model.pt", shapes, self.model, kind)
        check_cmvn(directory / "am.mvn", self.frontend, kind)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the model alone, in single precision whatever autocast the caller uses."""
        with self._lock, torch.autocast(self.device.type, enabled=False):
            yield

    def infer(self, clips: list[Tensor], **settings: Any) -> list[str]:
        """Transcribe clips at 16 kHz with the model itself; no texts where it finds no word in any of them.

        AutoModel would set torch's threads and draw a random name for each clip.
        """
        with self.exclusive(), torch.inference_mode():
            found = self.model.inference(data_in=clips, key=["clip"], **{**self._settings, **settings})
        return [result["text"] for result in found[0]] if found else []


# --- model directory ---


def find_directory(model_id: str | None, kind: FunasrKind) -> Path:
    """Return the directory of that name, or download the files of that hub repository.

    Raises ValueError or FileNotFoundError with what fetches the model.
    """
    if not model_id:
        raise ValueError(
            f"{kind.provider}: config.model_id is {model_id!r}, and {kind.title} is not part of this package; "
            f"{kind.remedy(kind.directory)}, and give rl.rewards.providers.<n>.config.model_id={kind.directory}"
        )
    if Path(model_id).is_dir():
        return Path(model_id)
    if not HUB_NAME.fullmatch(model_id):
        raise FileNotFoundError(f"{kind.provider}: no directory at config.model_id={model_id}; {kind.remedy(model_id)}")
    try:
        return [download_from_hub(kind.hub_names.get(model_id, model_id), name) for name in kind.files][-1].parent
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{kind.provider}: config.model_id={model_id} is neither a directory nor available on the hub: {error}; "
            f"where the hub can be reached {kind.remedy(kind.directory)}, and give that directory"
        ) from error


# --- checks of its files ---


def check_files(directory: Path, kind: FunasrKind) -> None:
    """Raise FileNotFoundError if a file is missing, ValueError if config.yaml is not that of the model."""
    missing = [name for name in kind.files if not (directory / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{kind.provider}: {directory} lacks {', '.join(missing)}; {kind.remedy(directory)}")
    try:
        config = read_yaml(directory / "config.yaml")
    except ValueError as error:
        raise ValueError(f"{kind.provider}: {directory}/config.yaml is damaged; {kind.remedy(directory)}") from error
    for key, expected in kind.components.items():
        if (actual := get_nested(config, key)) not in expected:
            raise ValueError(
                f"{kind.provider}: {directory}/config.yaml describes {actual}, and {kind.title} is needed, "
                f"with {key}: {' or '.join(expected)}"
            )


def weight_shapes(path: Path, kind: FunasrKind) -> dict[str, torch.Size]:
    """Return the shape of each tensor in a weights file, without reading values and without running code.

    Raises ValueError if the file cannot be read.
    """
    try:
        if zipfile.is_zipfile(path):
            verify_records(path)
        content = torch.load(path, map_location="meta", weights_only=True)
    except LOAD_ERRORS as error:
        raise ValueError(
            f"{kind.provider}: {path} holds no weights, or more than weights: an incomplete download, or a file of "
            f"another model; {kind.remedy(path.parent)}"
        ) from error
    for name in ("state_dict", "model_state_dict", "model"):  # keys under which funasr looks for weights
        content = content.get(name, content) if isinstance(content, Mapping) else {}
    return {name: value.shape for name, value in content.items() if isinstance(value, Tensor)}


def check_weights(path: Path, file_shapes: Mapping[str, torch.Size], model: nn.Module, kind: FunasrKind) -> None:
    """Raise ValueError unless the file has every weight of the model, in its shape, and no other of the same modules.

    Models whose file may hold more are only checked for what they need.

    Other entries of the file, such as an optimizer state, are ignored.
    """
    model_shapes = {name: value.shape for name, value in model.state_dict().items()}
    prefixes = {name.partition(".")[0] for name in model_shapes}
    matching_shapes = {name: shape for name, shape in file_shapes.items() if name.partition(".")[0] in prefixes}
    mismatched = [
        f"{name} {shape_text(matching_shapes.get(name))} instead of {shape_text(model_shapes.get(name))}"
        for name in [*model_shapes, *([] if kind.has_more_weights else matching_shapes.keys() - model_shapes.keys())]
        if matching_shapes.get(name) != model_shapes.get(name)
    ]
    if mismatched:
        raise ValueError(
            f"{kind.provider}: {path} does not fit the config.yaml and {kind.tokens} beside it: "
            f"{', '.join(mismatched[:MAX_SHOWN])} ({len(mismatched)} of {len(model_shapes)} weights); "
            f"{kind.remedy(path.parent)}"
        )


def shape_text(shape: torch.Size | None) -> str:
    """Format a shape for an error message."""
    return "nothing" if shape is None else "x".join(map(str, shape))


def check_cmvn(path: Path, frontend: Any, kind: FunasrKind) -> None:
    """Raise ValueError if the file does not hold the means and scales of all features."""
    shape = (2, frontend.output_size())
    if frontend.cmvn is None or tuple(frontend.cmvn.shape) != shape:
        raise ValueError(
            f"{kind.provider}: {path} does not hold {shape[1]} means and scales; {kind.remedy(path.parent)}"
        )


# --- funasr ---


def auto_model(directory: Path, device: torch.device, kind: FunasrKind) -> Any:
    """Load FunASR's AutoModel from a directory; every file is given, so that FunASR does not look for others."""
    with preserve_process_state():
        model_class = import_funasr()
        try:
            return model_class(
                model=str(directory),
                config=str(directory / "config.yaml"),
                init_param=str(directory / "model.pt"),
                tokenizer_conf={key: str(directory / name) for key, name in kind.tokenizer.items()},
                frontend_conf={"cmvn_file": str(directory / "am.mvn"), "dither": 0.0},  # its default of 1 adds noise
                device=str(device),
                ncpu=torch.get_num_threads(),
                disable_update=True,
                trust_remote_code=False,  # explicit, because config.yaml or configuration.json could allow it
            )
        except FUNASR_ERRORS as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"{kind.provider}: funasr cannot build a model from {directory} ({type(error).__name__}: {reason}); "
                f"{kind.remedy(directory)}"
            ) from error


def check_installed(kind: FunasrKind) -> None:
    """Raise ImportError with the install command if a library is missing."""
    if missing := [name for name in REQUIRED_MODULES if find_spec(name) is None]:
        names, command = ", ".join(missing), install_hint("funasr")
        raise ImportError(f'{kind.provider} needs {names}; run: {command} (or ".[rl]", which includes it)')


def import_funasr() -> Any:
    """Import FunASR's AutoModel, which takes about ten seconds because funasr imports all its modules."""
    if find_spec("torchaudio") is not None:
        try:
            import_module("torchaudio")
        except (OSError, ImportError) as error:
            raise ImportError(
                "funasr: torchaudio is installed but does not load, and funasr then does not either; it is not "
                "needed: pip uninstall torchaudio"
            ) from error
    from funasr import AutoModel

    return AutoModel
