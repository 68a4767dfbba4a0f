"""Rewards clips whose spoken digits are understood: pocketsphinx with a digit grammar, in worker processes."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from queue import SimpleQueue
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from f5_tts.extras import install_hint
from f5_tts.rewards.asr.error_rate import word_scores
from f5_tts.rewards.asr.transcript_reward import TranscriptReward, with_prompt
from f5_tts.rewards.audio import ASR_RATE, shared_rate, to_16k_mono, usable_indices
from f5_tts.types import RewardInput

PADDING_S = 0.1  # errors on real recordings: 3.2 % without, 0.6 % with it
BATCHES_PER_WORKER = 4  # a worker that finishes early takes another piece


class DigitsWer(TranscriptReward):
    """Word accuracy of the digits heard in a clip against its text, in [0, 1]; digits must be spelled as words.

    Components as in `TranscriptReward`, and `words`: what each word of the text earned, NaN after its last; their mean,
    at least 0, is `acc`.
    """

    has_word_scores = True
    requires = ("pocketsphinx",)

    def __init__(self, workers: int = 2):
        self.transcribe = DigitsRecognizer(workers).transcribe

    def transcribe_inputs(self, inputs: Sequence[RewardInput]) -> list[str]:
        return self.transcribe([with_prompt(item) for item in inputs], shared_rate(inputs))

    def score_transcripts(self, inputs: Sequence[RewardInput], transcripts: Sequence[str | None]) -> dict[str, Any]:
        pairs = zip(inputs, transcripts, strict=True)
        words = [torch.tensor(word_scores(item.text, text or "")) for item, text in pairs]
        padded = pad_sequence(words, batch_first=True, padding_value=math.nan)
        return {**super().score_transcripts(inputs, transcripts), "words": padded}


class DigitsRecognizer:
    """Digit words heard in clips, by `workers` processes that end with this object or with the run."""

    def __init__(self, workers: int):
        if not isinstance(workers, int) or workers < 1:
            raise ValueError(f"digits_wer: workers must be a whole number from 1, got {workers!r}")
        if find_spec("pocketsphinx") is None:
            raise ImportError(f"digits_wer needs pocketsphinx; run: {install_hint('pocketsphinx')}")
        self._workers = [PocketsphinxProcess() for _ in range(workers)]
        self._idle: SimpleQueue[PocketsphinxProcess] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self.close = weakref.finalize(self, stop_processes, self._workers)

    def transcribe(self, clips: list[Tensor], sample_rate: int) -> list[str]:
        """One text per mono clip, in order; "" for clips that are silent, not finite or shorter than 0.1 s."""
        transcripts = [""] * len(clips)
        usable = usable_indices(clips, sample_rate)
        texts = self._decode([pcm16(to_16k_mono(clips[i], sample_rate)) for i in usable])
        for i, text in zip(usable, texts, strict=True):
            transcripts[i] = text
        return transcripts

    def _decode(self, clips: list[bytes]) -> list[str]:
        size = math.ceil(len(clips) / (BATCHES_PER_WORKER * len(self._workers))) or 1
        batches = [clips[i : i + size] for i in range(0, len(clips), size)]
        with ThreadPoolExecutor(len(self._workers)) as threads:
            return [text for texts in threads.map(self._decode_batch, batches) for text in texts]

    def _decode_batch(self, clips: list[bytes]) -> list[str]:
        worker = self._idle.get()
        try:
            return worker.transcribe(clips)
        finally:
            self._idle.put(worker)


class PocketsphinxProcess:
    """A process of `f5_tts.rewards.asr.pocketsphinx_worker`; it loads while we do other things, and ends when we do."""

    def __init__(self):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "f5_tts.rewards.asr.pocketsphinx_worker"]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the run; the worker ends when its stdin closes
        )

    def transcribe(self, clips: list[bytes]) -> list[str]:
        """The words of each clip (16-bit PCM); RuntimeError when the process is gone."""
        requests, answers = self.process.stdin, self.process.stdout
        assert requests is not None and answers is not None
        try:
            pickle.dump(clips, requests)
            requests.flush()
            return pickle.load(answers)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError) as error:
            self.process.kill()
            raise RuntimeError(
                f"digits_wer: a recogniser process ended (exit code {self.process.wait()}) while it heard {len(clips)} "
                "clips; what it said, if anything, is above; run again, with fewer workers if memory is short"
            ) from error


def stop_processes(workers: list[PocketsphinxProcess]) -> None:
    """End the processes at once; they hold nothing that could be lost."""
    for worker in workers:
        worker.process.kill()
        worker.process.communicate()


def pcm16(samples: Float[Tensor, " nw"]) -> bytes:
    """Samples in [-1, 1] as 16-bit PCM with quiet around them, without which first and last words are misheard."""
    padding = int(PADDING_S * ASR_RATE)
    return pad((samples.clamp(-1, 1) * 32767).to(torch.int16), (padding, padding)).numpy().tobytes()
