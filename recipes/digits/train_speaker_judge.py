"""Train the speaker judge: an encoder that tells the voices of the digit corpus's synthesizer apart.

It judges whether a model keeps the voice of its prompt, so it is never a reward. It learns from random voices within
the range of the training voices, and from the training voices themselves, speaking strings of the training list.
Half of the clips are vocoded by Griffin-Lim from a blurred log-mel, as samples of a model are.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from f5_tts.entrypoint import run_command
from f5_tts.files import user_path, write_atomically
from f5_tts.rewards.speaker.ecapa import EMBEDDING, EcapaTdnn
from f5_tts.rewards.speaker.ecapa_sim import SHIPPED, speaker_features
from recipes.digits.make_corpus import SEED, TRAIN_VOICES, DigitSynthesizer, Voice
from recipes.digits.voices import (
    MAX_BLUR,
    build_copy,
    describe_trials,
    margin_loss,
    measure,
    random_voices,
    training_texts,
)

NUM_VOICES = 500  # random ones
CLIPS_PER_VOICE = 8
CROP_FRAMES = 90  # of 10 ms; shorter clips are repeated
BATCH_SIZE = 64
UPDATES = 900
LEARNING_RATE = 3e-3
WARMUP = 50  # updates
MARGIN, SCALE = 0.2, 30.0  # rad, and factor on the cosines (additive angular margin, Deng et al. 2019)
MAX_JITTER = 0.4  # standard deviation of the noise on the features, natural-log power
MASKED_BANDS = 12  # at most so many adjacent bands are hidden


# --- voices and clips ---


def training_voices(count: int = NUM_VOICES) -> list[Voice]:
    """List the voices to learn: the training voices and random ones."""
    return [*TRAIN_VOICES, *random_voices(count, "judge")]


def training_clips(voices: Sequence[Voice], clips_per_voice: int) -> tuple[list[Tensor], Int[Tensor, " n"]]:
    """Synthesize the clips and vocode every second one; return their features and the index of their voice."""
    speak, copy, rng = DigitSynthesizer(), build_copy(), np.random.default_rng(SEED)
    features, labels = [], []
    for label, voice in enumerate(tqdm(voices, desc="synthesizing", unit="voice")):
        for index, text in enumerate(training_texts(voice, clips_per_voice)):
            wave = torch.from_numpy(speak(voice, text))
            # lengths alternate with the index, so each voice's copies are not all of the same length
            wave = copy(wave, float(rng.uniform(0, MAX_BLUR))) if (index + index // 4 + label) % 2 else wave
            features.append(speaker_features(wave))
            labels.append(label)
    return features, torch.tensor(labels)


# --- training ---


def crop(features: Float[Tensor, "n d"], rng: np.random.Generator) -> Float[Tensor, "m d"]:
    """Cut CROP_FRAMES frames at random; shorter features are repeated."""
    if len(features) < CROP_FRAMES:
        features = features.repeat(math.ceil(CROP_FRAMES / len(features)), 1)
    start = int(rng.integers(len(features) - CROP_FRAMES + 1))
    return features[start : start + CROP_FRAMES]


def augment(batch: Float[Tensor, "b n d"], rng: np.random.Generator) -> Float[Tensor, "b n d"]:
    """Add noise of random strength to the features and hide some bands of each clip."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    strength = MAX_JITTER * torch.rand(len(batch), 1, 1, generator=generator)
    batch = batch + strength * torch.randn(batch.shape, generator=generator)
    first = torch.randint(batch.shape[2], (len(batch), 1, 1), generator=generator)
    width = torch.randint(MASKED_BANDS + 1, (len(batch), 1, 1), generator=generator)
    bands = torch.arange(batch.shape[2])
    batch = batch.masked_fill((bands >= first) & (bands < first + width), 0.0)
    return batch - batch.mean(dim=(1, 2), keepdim=True)


def learning_rate_factor(update: int, updates: int) -> float:
    """Compute the factor on the learning rate: linear warm-up, then a cosine to 0."""
    return min(1.0, (update + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * update / updates))


def train(features: Sequence[Tensor], labels: Int[Tensor, " n"], updates: int = UPDATES) -> EcapaTdnn:
    """Train an encoder to tell the voices apart; return it in evaluation mode."""
    torch.manual_seed(SEED)
    rng, encoder = np.random.default_rng(SEED), EcapaTdnn()
    centers = nn.Parameter(torch.randn(int(labels.max()) + 1, EMBEDDING))
    optimizer = torch.optim.AdamW([*encoder.parameters(), centers], LEARNING_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: learning_rate_factor(update, updates))
    progress = tqdm(range(updates), desc="training", unit="update")
    for _ in progress:
        rows = rng.choice(len(features), BATCH_SIZE, replace=False)
        batch = augment(torch.stack([crop(features[row], rng) for row in rows]), rng)
        loss = margin_loss(encoder(batch), centers, labels[torch.from_numpy(rows)], MARGIN, SCALE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}")
    return encoder.eval().requires_grad_(False)


def save(encoder: EcapaTdnn, path: Path) -> None:
    """Write the weights in half precision, the counters of the batch norms as integers."""
    weights = {
        name: value.half() if value.is_floating_point() else value for name, value in encoder.state_dict().items()
    }
    write_atomically(path, lambda tmp_path: save_file(weights, tmp_path))


# --- measurement ---


def measure_file(path: Path, split: str) -> str:
    """Describe the trials of the judge and of the reward voice_sim on a split."""
    from f5_tts.rewards.speaker.ecapa_sim import EcapaSim
    from f5_tts.rewards.speaker.voice_sim import VoiceSim

    return describe_trials(split, measure({"ecapa_sim": EcapaSim(str(path)), "voice_sim": VoiceSim()}, split))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: train the judge, or measure it; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m recipes.digits.train_speaker_judge", description=__doc__)
    parser.add_argument("--out", type=user_path, default=SHIPPED, metavar="FILE", help="default: the shipped file")
    parser.add_argument("--measure", choices=["dev", "test"], help="only measure the file, on this list")
    args = parser.parse_args(argv)
    if args.measure:
        print(measure_file(args.out, args.measure))
        return 0
    start = time.process_time()
    features, labels = training_clips(training_voices(), CLIPS_PER_VOICE)
    made = time.process_time()
    save(train(features, labels), args.out)
    spent = f"{made - start:.0f} CPU s of synthesis, {time.process_time() - made:.0f} of training"
    print(f"wrote {args.out}: {spent}; next: the same command with --measure test")
    return 0


if __name__ == "__main__":
    run_command(lambda argv: not main(argv), sys.argv[1:])
