"""Word accuracy of spoken digits by pocketsphinx with a digit grammar, in worker processes."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
import warnings
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

from f5_tts.entrypoint import describe_end
from f5_tts.extras import install_hint
from f5_tts.rewards.asr.digits_network import WORDS
from f5_tts.rewards.asr.transcript_reward import TranscriptReward, transcript_word_scores, with_prompt
from f5_tts.rewards.audio import ASR_RATE, shared_rate, to_16k_mono, usable_indices
from f5_tts.types import RewardInput

PADDING_S = 0.1  # error rate on real recordings: 3.2 % without it, 0.6 % with it
BATCHES_PER_WORKER = 4  # several per worker, so that a worker that finishes early takes another one


class DigitsWer(TranscriptReward):
    """Reward in [0, 1]: word accuracy of the recognized digits against the text, whose digits are spelled as words.

    The components are those of `TranscriptReward` and `words`: a score for each word of the text, NaN after the last.
    The mean of the word scores, at least 0, is `acc`.
    """

    has_word_scores = True
    requires = ("pocketsphinx",)
    languages = ("en",)
    known_words = frozenset(WORDS)
    title = "pocketsphinx"

    def __init__(self, workers: int = 2):
        self.transcribe = DigitsRecognizer(workers).transcribe

    def transcribe_inputs(self, inputs: Sequence[RewardInput]) -> list[str]:
        """Transcribe each clip together with its prompt."""
        return self.transcribe([with_prompt(item) for item in inputs], shared_rate(inputs))

    def score_transcripts(self, inputs: Sequence[RewardInput], transcripts: Sequence[str | None]) -> dict[str, Any]:
        """Compute the components of `TranscriptReward` and the word scores."""
        words = transcript_word_scores(inputs, transcripts)
        return {**super().score_transcripts(inputs, transcripts), "words": words}


class DigitsRecognizer:
    """Recognizer of digit words in several worker processes, which end with this object or with the program."""

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
        """Transcribe mono clips, in order.

        Clips that are silent, not finite or shorter than 0.1 s get "".
        """
        transcripts = [""] * len(clips)
        usable = usable_indices(clips, sample_rate)
        texts = self._decode([pcm16(to_16k_mono(clips[i], sample_rate)) for i in usable])
        for i, text in zip(usable, texts, strict=True):
            transcripts[i] = text
        return transcripts

    def _decode(self, clips: list[bytes]) -> list[str]:
        size = math.ceil(len(clips) / (BATCHES_PER_WORKER * len(self._workers))) or 1
        batches = [clips[i : i + size] for i in range(0, len(clips), size)]
        threads = ThreadPoolExecutor(len(self._workers))
        try:
            return [text for texts in threads.map(self._decode_batch, batches) for text in texts]
        finally:  # after a second Ctrl-C nothing waits for a transcript
            threads.shutdown(wait=False, cancel_futures=True)

    def _decode_batch(self, clips: list[bytes]) -> list[str]:
        worker = self._idle.get()
        try:
            try:
                return worker.transcribe(clips)
            except ChildProcessError as error:
                warnings.warn(f"{error}; it is started anew", stacklevel=2)
                worker.start()
                return worker.transcribe(clips)
        finally:
            self._idle.put(worker)


class PocketsphinxProcess:
    """Worker process that runs the pocketsphinx program; it loads in the background and ends with this process."""

    def __init__(self):
        self.start()

    def start(self) -> None:
        """Start the program, in place of one that has ended."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "f5_tts.rewards.asr.pocketsphinx_worker"]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # the process ends when its stdin closes; Ctrl-C must reach the run alone
        )

    def transcribe(self, clips: list[bytes]) -> list[str]:
        """Transcribe 16-bit PCM clips; raise ChildProcessError if the process has ended."""
        requests, answers = self.process.stdin, self.process.stdout
        assert requests is not None and answers is not None
        try:
            pickle.dump(clips, requests)
            requests.flush()
            return pickle.load(answers)
        except (ConnectionError, EOFError, pickle.UnpicklingError) as error:
            self.process.kill()
            code = self.process.wait()
            raise ChildProcessError(
                f"digits_wer: a pocketsphinx process {describe_end(code)} while it transcribed {len(clips)} clips; if "
                "memory is short, lower config.workers of digits_wer"
            ) from error


def stop_processes(workers: list[PocketsphinxProcess]) -> None:
    """Kill the worker processes; they hold no state worth saving."""
    for worker in workers:
        worker.process.kill()
        worker.process.communicate()


def pcm16(samples: Float[Tensor, " nw"]) -> bytes:
    """Convert samples in [-1, 1] to 16-bit PCM with silence on both sides.

    Without that silence, pocketsphinx often gets the first and last words wrong.
    """
    padding = int(PADDING_S * ASR_RATE)
    return pad((samples.clamp(-1, 1) * 32767).to(torch.int16), (padding, padding)).numpy().tobytes()
