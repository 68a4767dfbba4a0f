"""Train the recognizers of the reward `digits_ctc`, measure them, and write their card.

`make reward`, or `python -m recipes.digits.train_reward` after `python -m recipes.digits.make_corpus base`. It takes
about twenty minutes on one core.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from rapidfuzz.distance import Levenshtein
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import trange

from f5_tts.data.audio import load_audio
from f5_tts.entrypoint import run_command
from f5_tts.files import user_path
from f5_tts.model.mel import LogMel
from f5_tts.model.vocoders.griffin_lim import GriffinLim
from f5_tts.rewards.asr.ctc import ctc_nll, greedy_labels
from f5_tts.rewards.asr.digits_network import (
    MEL_SPEC,
    PHONES,
    WORDS,
    DigitsNetwork,
    NetworkSizes,
    phone_labels,
    read_network,
    word_labels,
    write_network,
)
from recipes.digits.adversary import change_worst
from recipes.digits.change_mel import change_mel, make_negative
from recipes.digits.make_corpus import RECIPES, SEED, DigitSynthesizer, eval_items, is_complete, wav_path
from recipes.digits.make_corpus import train_clips as corpus_clips

Example = tuple[Tensor, list[str]]  # log-mel n x 100 and its words

OUT = Path("pretrained/digits_ctc")
BATCH_SIZE = 32
LEARNING_RATE, WEIGHT_DECAY, BETAS = 2e-3, 0.02, (0.9, 0.98)
WARMUP = 100  # updates
MAX_NORM = 1.0  # of the gradient
BOUND_RAMP = 100  # updates in which the bound of adversarial changes rises from 0
PHONE_WEIGHT = 0.5
RESYNTHESIZED = 3  # every third batch of clips has Griffin-Lim copies
RESYNTHESIS_BATCH = 4
GRIFFIN_LIM_ITERATIONS = 16  # as in F5TTS_Mini
# shares of the training clips
COPY, NEGATIVE, JOINED = 0.5, 0.08, 0.15


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Sizes and training of one recognizer."""

    name: str
    sizes: NetworkSizes
    seed: int
    updates: int = 330  # three times the corpus
    bound: float = 0.0  # of adversarial changes, nats; 0: there are none


# of different make, so that a policy cannot please both by the error of one
WIDE_KERNELS = NetworkSizes(width=136, kernel_size=5, dilations=(1, 1, 2, 1, 2, 1))
WIDE_GAPS = NetworkSizes(width=144, kernel_size=3, dilations=(1, 2, 4, 1, 2, 4, 1, 2))
TRAININGS = (  # a and b hear best, and score; c and d are trained adversarially, for gradients
    Training(name="a", sizes=WIDE_KERNELS, seed=1),
    Training(name="b", sizes=WIDE_GAPS, seed=2),
    Training(name="c", sizes=WIDE_KERNELS, seed=1, updates=440, bound=0.8),
    Training(name="d", sizes=WIDE_GAPS, seed=2, updates=440, bound=0.8),
)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Log-mels n x 100 with their texts."""

    mels: list[Tensor]
    texts: list[str]
    copies: dict[int, Tensor]  # Griffin-Lim copies of some clips, by index


# --- data ---


def read_corpus() -> Corpus:
    """Read the base model's corpus and copy a third of it; raise FileNotFoundError if it has not been made."""
    recipe = RECIPES["base"]
    if not is_complete(recipe.out):
        raise FileNotFoundError(f"no corpus in {recipe.out}; run: python -m recipes.digits.make_corpus base")
    clips = corpus_clips(recipe.per_voice)
    log_mel = LogMel(MEL_SPEC)
    waves = (load_audio(wav_path(recipe.out, clip), MEL_SPEC.target_sample_rate) for clip in clips)
    mels = [log_mel(wave[None])[0] for wave in waves]
    chosen = [index for index in range(len(mels)) if index // RESYNTHESIS_BATCH % RESYNTHESIZED == 0]
    copies = dict(zip(chosen, resynthesize([mels[index] for index in chosen]), strict=True))
    return Corpus(mels, [clip.text for clip in clips], copies)


def resynthesize(mels: list[Tensor]) -> list[Tensor]:
    """Return the log-mels of what Griffin-Lim makes of these log-mels, of the same lengths."""
    vocoder, log_mel = GriffinLim(MEL_SPEC, GRIFFIN_LIM_ITERATIONS), LogMel(MEL_SPEC)
    copies: list[Tensor] = []
    for start in range(0, len(mels), RESYNTHESIS_BATCH):
        part = mels[start : start + RESYNTHESIS_BATCH]
        waves = vocoder(pad_sequence(part, batch_first=True), torch.tensor([len(mel) for mel in part]))
        copies += [log_mel(wave[None])[0] for wave in waves]
    return copies


def held_out_mels(split: str) -> tuple[list[Tensor], list[str]]:
    """Synthesize the evaluation texts of a split in its own voices, which no training knows; return mels and texts."""
    speak, log_mel = DigitSynthesizer(), LogMel(MEL_SPEC)
    items = [item for item in eval_items(split) if item.prompt.voice.name.startswith(split)]
    waves = (torch.from_numpy(speak(item.prompt.voice, item.text)) for item in items)
    return [log_mel(wave[None])[0] for wave in waves], [item.text for item in items]


def draw_example(corpus: Corpus, index: int, rng: np.random.Generator) -> Example:
    """Draw a training example: a changed clip or its copy, alone or joined to another, or a negative without words."""
    partner, background = (int(number) for number in rng.integers(len(corpus.mels), size=2))
    mel, words = corpus.mels[index], corpus.texts[index].split()
    if index in corpus.copies and rng.random() < COPY:
        mel = corpus.copies[index]
    kind = rng.random()
    if kind < NEGATIVE:
        mel, words = make_negative(mel, rng), []
    elif kind < NEGATIVE + JOINED:
        mel, words = torch.cat([mel, corpus.mels[partner]]), words + corpus.texts[partner].split()
    return change_mel(mel, corpus.mels[background], rng), words


# --- training ---


def train_network(corpus: Corpus, training: Training) -> DigitsNetwork:
    """Train one recognizer; the same seed gives the same weights on the same processor with the same threads."""
    torch.manual_seed(training.seed)
    network = new_network(corpus, training.sizes)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: rate_factor(update, training.updates))
    batches = draw_batches(corpus, np.random.default_rng([SEED, training.seed]))
    adversary = np.random.default_rng([SEED, training.seed, 1])
    bar = trange(training.updates, desc=f"training {training.name}", unit="update")
    for update, examples in zip(bar, batches, strict=False):
        limit = training.bound * min(1.0, update / BOUND_RAMP)
        loss = batch_loss(network, worst_case(network, examples, limit, adversary))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.2f}")
    return network.eval()


def worst_case(
    network: DigitsNetwork, examples: Sequence[Example], limit: float, rng: np.random.Generator
) -> list[Example]:
    """Change each log-mel against the network, within a bound drawn from [0, `limit`) nats; at limit 0 not at all."""
    if limit == 0:
        return list(examples)
    mels, texts = [mel for mel, _ in examples], [words for _, words in examples]
    bounds = rng.uniform(0, limit, len(mels)).tolist()
    changed = change_worst(lambda moved: batch_loss(network, list(zip(moved, texts, strict=True))), mels, bounds, rng)
    return list(zip(changed, texts, strict=True))


def new_network(corpus: Corpus, sizes: NetworkSizes) -> DigitsNetwork:
    """Build an untrained network that normalizes each mel bin by the corpus."""
    network, frames = DigitsNetwork(sizes), torch.cat(corpus.mels)
    network.mean.copy_(frames.mean(dim=0))
    network.std.copy_(frames.std(dim=0))
    return network


def draw_batches(corpus: Corpus, rng: np.random.Generator) -> Iterator[list[Example]]:
    """Yield batches of examples without end; each clip comes once per pass over the corpus, in a new order."""
    order: list[int] = []
    while True:
        while len(order) < BATCH_SIZE:
            order += rng.permutation(len(corpus.mels)).tolist()
        batch, order = order[:BATCH_SIZE], order[BATCH_SIZE:]
        yield [draw_example(corpus, index, rng) for index in batch]


def rate_factor(update: int, updates: int) -> float:
    """Return the factor on the learning rate: linear warm-up, times half a cosine down to 1 %."""
    return min(1.0, (update + 1) / WARMUP) * (0.5 + 0.5 * math.cos(math.pi * update / updates) + 0.01)


def batch_loss(network: DigitsNetwork, examples: Sequence[Example]) -> Float[Tensor, ""]:
    """Compute the mean CTC loss in nats per word: words, plus PHONE_WEIGHT times phones."""
    mels, texts = [mel for mel, _ in examples], [words for _, words in examples]
    lens = torch.tensor([len(mel) for mel in mels])
    words, phones = network(pad_sequence(mels, batch_first=True), lens)
    nll = ctc_nll(words, lens, [word_labels(text) for text in texts])
    nll = nll + PHONE_WEIGHT * ctc_nll(phones, lens, [phone_labels(text) for text in texts])
    fits = nll.isfinite()  # a changed clip may have become too short for its phones
    return (nll / torch.tensor([max(1, len(text)) for text in texts]))[fits].mean()


# --- measurement ---


@torch.no_grad()
def error_rate(network: DigitsNetwork, mels: list[Tensor], texts: list[str]) -> float:
    """Compute the word error rate of greedy transcripts."""
    lens = torch.tensor([len(mel) for mel in mels])
    log_probs, _ = network(pad_sequence(mels, batch_first=True), lens)
    heard = [[WORDS[label - 1] for label in greedy_labels(rows[:n])] for rows, n in zip(log_probs, lens, strict=True)]
    errors = sum(Levenshtein.distance(text.split(), words) for text, words in zip(texts, heard, strict=True))
    return errors / sum(len(text.split()) for text in texts)


def measure(out: Path) -> dict[str, dict[str, float]]:
    """Measure the written recognizers on dev and test: error rates by column of the card and name."""
    rates: dict[str, dict[str, float]] = {}
    for split in ("dev", "test"):
        mels, texts = held_out_mels(split)
        for kind, variant in (("recordings", mels), ("Griffin-Lim copies", resynthesize(mels))):
            rates[f"{split} {kind}"] = {
                training.name: error_rate(read_network(out / f"{training.name}.safetensors"), variant, texts)
                for training in TRAININGS
            }
    return rates


# --- card ---

CARD = """# digits_ctc

Four small CTC recognizers of digit words, which the reward `digits_ctc` (`docs/rewards.md`) differentiates. They hear
log-mels, not audio, and know nothing but the ten digit words and their {num_phones} phones.

| property | value |
|---|---|
| input | log-mel of F5TTS_Mini: 16 kHz, hop 320, 100 bins |
| architecture | convolution, residual blocks (LayerNorm, dilated convolution, GELU, linear), CTC heads for words \
and phones |
| data | the corpus of the base model (`data/mini_base_custom`, 16 artificial voices, see `data/README.md`): no text \
and no voice of dev or test; no person was recorded |
| training | AdamW {rate:g}, {batch} clips per update, loss words + phones / 2; changes of level, spectrum, speed and \
noise, masks, joined clips, Griffin-Lim copies of a third of the clips, {negative:.0%} clips without words; \
c and d: also adversarial changes (`recipes/digits/adversary.py`) |
| file | safetensors, half precision; sizes and a checksum in the metadata |
| licence | MIT |

| file | parameters | size | width | kernel | dilations | updates | seed | adversarial changes, nats |
|---|---|---|---|---|---|---|---|---|
{files}

Word error rate on held-out texts, synthesized in voices that no training knows (dev: 2 voices, 48 clips; test: 4
voices, 160 clips), as such and resynthesized by Griffin-Lim. Test was measured once, after the training was settled:

| file | {columns} |
|---|{rules}|
{errors}

`make reward` makes these files: the corpus, the training, and this card.
"""


def card(out: Path, rates: dict[str, dict[str, float]]) -> str:
    """Fill in the card from the written files and their error rates."""
    errors = [f"| {t.name} | {' | '.join(f'{rates[column][t.name]:.1%}' for column in rates)} |" for t in TRAININGS]
    return CARD.format(
        num_phones=len(PHONES),
        rate=LEARNING_RATE,
        batch=BATCH_SIZE,
        negative=NEGATIVE,
        files="\n".join(file_row(out, training) for training in TRAININGS),
        columns=" | ".join(rates),
        rules="|".join("---" for _ in rates),
        errors="\n".join(errors),
    )


def file_row(out: Path, training: Training) -> str:
    """Describe one written file as a row of the card."""
    path, sizes = out / f"{training.name}.safetensors", training.sizes
    count = sum(parameter.numel() for parameter in read_network(path).parameters())
    dilations = " ".join(map(str, sizes.dilations))
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    changes = f"up to {training.bound:g}" if training.bound else "none"
    made = (training.updates, training.seed, changes)
    row = (path.name, f"{count:,}", size, sizes.width, sizes.kernel_size, dilations, *made)
    return f"| {' | '.join(map(str, row))} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: train, write, measure; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m recipes.digits.train_reward", description=__doc__)
    parser.add_argument("--out", type=user_path, metavar="DIR", default=OUT, help="default: pretrained/digits_ctc")
    args = parser.parse_args(argv)
    started = time.process_time()
    torch.set_num_threads(1)  # results depend on the number of threads
    try:
        corpus = read_corpus()
    except FileNotFoundError as error:
        parser.error(str(error))
    for training in TRAININGS:
        write_network(train_network(corpus, training), args.out / f"{training.name}.safetensors")
    rates = measure(args.out)
    (args.out / "README.md").write_text(card(args.out, rates), encoding="utf-8")
    test = ", ".join(f"{name} {rate:.1%}" for name, rate in rates["test recordings"].items())
    spent = f"{time.process_time() - started:.0f} CPU s"
    print(f"wrote {args.out}: weights and card, word error rate on test {test}, {spent}; next: make quickstart")
    return 0


if __name__ == "__main__":
    run_command(lambda argv: not main(argv), sys.argv[1:])
