"""Experiment trackers: W&B, Trackio and TensorBoard, in addition to the files of the run."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from f5_tts.config.schema import CkptsConfig, TrainConfig
from f5_tts.extras import install_hint
from f5_tts.files import write_atomically
from f5_tts.train.sample_log import Samples

CONNECT_TIMEOUT_S = 5.0  # time for a tracker's server to accept a connection


@runtime_checkable
class Tracker(Protocol):
    """Receiver of metrics and samples; a run goes on without a tracker that raises."""

    def start(self, first: int) -> None:
        """Start before the first report; `first` is the update at which the run resumes, 0 for a new one."""
        ...

    def log(self, metrics: Mapping[str, float], update: int) -> None:
        """Log the metrics of an update."""
        ...

    def log_samples(self, samples: Samples, update: int) -> None:
        """Log the samples of an update; called after `log` of the same update."""
        ...

    def close(self) -> None:
        """Finish the tracked run."""
        ...


class Wandb:
    """Weights & Biases: online if its server is reachable and there is an API key, else offline.

    An offline run can be synced later. Both are checked before `wandb.init`, which would wait for minutes. Its
    environment variables keep their meaning.
    """

    def __init__(self, cfg: TrainConfig, log: Callable[[str], None]) -> None:
        Path(os.environ.get("WANDB_DIR") or ".").mkdir(parents=True, exist_ok=True)  # wandb ignores a missing folder
        import wandb

        self.wandb, self.config, self.notify = wandb, cfg, log

    def start(self, first: int) -> None:
        """Open the run online, or offline with a message that says why and how to upload it."""
        mode, id = self.wandb.setup().settings.mode, run_id(self.config.ckpts, first)
        reason = self.offline_reason() if mode == "online" else None
        if reason is None:
            try:
                self.run = self.open(id, mode)
            except self.wandb.Error as error:
                reason = str(error)
                self.wandb.teardown()  # otherwise its service still holds the run id
        if reason is not None:
            self.run = self.open(id, "offline")
        if self.run.offline:
            note = "" if reason is None else f"{reason}; "
            self.notify(f"W&B: {note}this run is logged offline; to upload it: wandb sync {Path(self.run.dir).parent}")

    def offline_reason(self) -> str | None:
        """Return why W&B cannot be used online; None where it can."""
        url = self.wandb.setup().settings.base_url
        if not is_reachable(url):
            return f"{url} does not answer"
        try:
            has_key = self.wandb.login(prompt=False, verify=False)
        except self.wandb.Error as error:
            return str(error)
        return None if has_key else "no API key (wandb login, or WANDB_API_KEY)"

    def open(self, id: str, mode: str) -> Any:
        """Open a W&B run with this id and mode, with the config attached."""
        ckpts = self.config.ckpts
        return self.wandb.init(
            project=ckpts.wandb_project,
            name=ckpts.wandb_run_name,
            id=id,
            resume="allow",
            mode=mode,
            config=asdict(self.config),
            settings=self.wandb.Settings(quiet=True),  # without a panel of curves at the end
        )

    def log(self, metrics: Mapping[str, float], update: int) -> None:
        """Log the metrics of an update."""
        self.run.log(dict(metrics), step=update)

    def log_samples(self, samples: Samples, update: int) -> None:
        """Log the clips and the table of an update."""
        self.run.log(to_media(self.wandb, samples), step=update)

    def close(self) -> None:
        """Finish the W&B run."""
        self.run.finish()


class Trackio:
    """Trackio: a local database, opened by `trackio show`; its environment variables decide where it is."""

    def __init__(self, cfg: TrainConfig, log: Callable[[str], None]) -> None:
        import trackio

        self.trackio, self.config = trackio, cfg

    def start(self, first: int) -> None:
        """Open the run, or resume the one of the same id."""
        ckpts = self.config.ckpts
        self.run = self.trackio.init(
            project=ckpts.wandb_project,
            name=f"{ckpts.wandb_run_name}-{run_id(ckpts, first)}",  # trackio identifies a run by its name
            resume="allow",
            config=asdict(self.config),
            embed=False,
        )

    def log(self, metrics: Mapping[str, float], update: int) -> None:
        """Log the metrics of an update."""
        self.run.log(dict(metrics), step=update)

    def log_samples(self, samples: Samples, update: int) -> None:
        """Log the clips and the table of an update."""
        self.run.log(to_media(self.trackio, samples), step=update)

    def close(self) -> None:
        """Finish the Trackio run."""
        self.trackio.finish()


class Tensorboard:
    """TensorBoard files in `<ckpts.save_dir>/tensorboard`: metrics and clips, but no table."""

    def __init__(self, cfg: TrainConfig, log: Callable[[str], None]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.make_writer, self.config = SummaryWriter, cfg

    def start(self, first: int) -> None:
        """Open the event files and write the config; earlier events of updates after `first` are purged."""
        self.writer = self.make_writer(str(Path(self.config.ckpts.save_dir) / "tensorboard"), purge_step=first + 1)
        self.writer.add_text("config", f"```\n{json.dumps(asdict(self.config), indent=2)}\n```", first)

    def log(self, metrics: Mapping[str, float], update: int) -> None:
        """Write the metrics of an update as scalars."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, update)

    def log_samples(self, samples: Samples, update: int) -> None:
        """Write the clips of an update."""
        for name, clip in samples.clips.items():
            self.writer.add_audio(f"samples/{name}", clip.cpu(), update, sample_rate=samples.sample_rate)

    def close(self) -> None:
        """Close the event files."""
        self.writer.close()


TRACKERS: dict[str, Callable[[TrainConfig, Callable[[str], None]], Tracker]] = {
    "wandb": Wandb,
    "trackio": Trackio,
    "tensorboard": Tensorboard,
}


def build_tracker(cfg: TrainConfig, log: Callable[[str], None] = print) -> Tracker | None:
    """Build the tracker that ckpts.logger names, or None; raise ImportError where its library is not installed."""
    name = cfg.ckpts.logger
    if name is None:
        return None
    if find_spec(name) is None:
        raise ImportError(
            f"ckpts.logger={name} needs {name}; run: {install_hint(name)}, or set ckpts.logger=null: "
            "metrics.jsonl has all metrics in any case"
        )
    return TRACKERS[name](cfg, log)


def run_id(ckpts: CkptsConfig, first: int) -> str:
    """Return the id under which a tracker knows the run, and store it in the run's folder.

    The id is ckpts.wandb_resume_id; else, for a resumed run, the stored one; else, or if that is damaged, a new one.
    """
    path = Path(ckpts.save_dir) / "tracker_id"
    stored = path.read_text("utf-8", errors="replace").strip() if first and path.is_file() else ""
    tracker_id = ckpts.wandb_resume_id or (stored if re.fullmatch(r"[\w-]{1,64}", stored) else secrets.token_hex(4))
    write_atomically(path, lambda tmp_path: tmp_path.write_text(f"{tracker_id}\n", encoding="utf-8"))
    return tracker_id


def is_reachable(url: str, timeout_s: float = CONNECT_TIMEOUT_S) -> bool:
    """Check whether the server at `url`, or the proxy before it, accepts a connection in time."""
    url_parts = urlsplit(url)
    proxy = None if proxy_bypass(url_parts.hostname or "") else getproxies().get(url_parts.scheme)
    url_parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else url_parts
    address = url_parts.hostname or "", url_parts.port or (443 if url_parts.scheme == "https" else 80)
    accepted: list[bool] = []

    def connect() -> None:
        with suppress(OSError), socket.create_connection(address, timeout_s):
            accepted.append(True)

    thread = Thread(target=connect, daemon=True)  # a thread, since the look-up of a host name has no timeout
    thread.start()
    thread.join(timeout_s)
    return bool(accepted)


def to_media(library: Any, samples: Samples) -> dict[str, Any]:
    """Convert clips and table to the types of wandb; trackio has types of the same names."""
    pcm = {name: (clip.cpu().clamp(-1, 1) * 32767).short().numpy() for name, clip in samples.clips.items()}
    items = {f"samples/{name}": library.Audio(clip, sample_rate=samples.sample_rate) for name, clip in pcm.items()}
    if samples.rows:
        data = [list(row.values()) for row in samples.rows]
        items["samples/table"] = library.Table(columns=list(samples.rows[0]), data=data)
    return items
