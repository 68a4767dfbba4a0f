"""Generated SenseVoiceSmall directories: any size with random weights, or a tiny model trained to recognize tones."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

RATE = 16_000
FRONTEND = {
    "fs": RATE,
    "window": "hamming",
    "n_mels": 80,
    "frame_length": 25,
    "frame_shift": 10,
    "lfr_m": 7,
    "lfr_n": 6,
    "cmvn_file": None,
}
# fmt: off
TAGS = [
    "<|zh|>", "<|en|>", "<|yue|>", "<|ja|>", "<|ko|>", "<|nospeech|>", "<|HAPPY|>", "<|SAD|>", "<|ANGRY|>",
    "<|NEUTRAL|>", "<|EMO_UNKNOWN|>", "<|BGM|>", "<|Speech|>", "<|Event_UNK|>", "<|withitn|>", "<|woitn|>",
]
# fmt: on
LETTERS = {"en": "abcdefgh", "zh": "东南西北春夏秋冬"}  # letter of each tone, by requested language
QUERIES = {"auto": 0, "zh": 3, "en": 4}  # rows of the embedding, as in the published model
EVENT, EMOTION, NO_ITN = 1, 2, 15
NUM_TONES, TONE_S, GAP_S = 8, 0.12, 0.04
BPE = "chn_jpn_yue_eng_ko_spectok.bpe.model"


@dataclass(frozen=True)
class Size:
    dim: int = 32
    heads: int = 2
    linear: int = 64
    blocks: int = 2
    tp_blocks: int = 1  # after the other blocks
    pieces: int = 64  # minimum size of the vocabulary


TINY = Size()
PUBLISHED = Size(dim=512, heads=4, linear=2048, blocks=50, tp_blocks=20, pieces=25_055)


def make_directory(folder: Path, size: Size = TINY, seed: int = 0) -> Path:
    """Make a directory with all files of the published model and with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / BPE).write_bytes(tokenizer_file(size.pieces))
    (folder / "config.yaml").write_text(yaml.safe_dump(config(size)))
    (folder / "configuration.json").write_text(json.dumps(CONFIGURATION))
    (folder / "am.mvn").write_text(cmvn(shift=-8.0, scale=0.15))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.save(new_model(folder, size).state_dict(), folder / "model.pt")
    return folder


CONFIGURATION = {
    "framework": "pytorch",
    "task": "auto-speech-recognition",
    "model": {"type": "funasr"},
    "pipeline": {"type": "funasr-pipeline"},
    "file_path_metas": {
        "init_param": "model.pt",
        "config": "config.yaml",
        "tokenizer_conf": {"bpemodel": BPE},
        "frontend_conf": {"cmvn_file": "am.mvn"},
    },
}


def config(size: Size) -> dict[str, Any]:
    return {
        "encoder": "SenseVoiceEncoderSmall",
        "encoder_conf": {
            "output_size": size.dim,
            "attention_heads": size.heads,
            "linear_units": size.linear,
            "num_blocks": size.blocks,
            "tp_blocks": size.tp_blocks,
            "dropout_rate": 0.1,
            "positional_dropout_rate": 0.1,
            "attention_dropout_rate": 0.1,
            "input_layer": "pe",
            "pos_enc_class": "SinusoidalPositionEncoder",
            "normalize_before": True,
            "kernel_size": 11,
            "sanm_shfit": 0,
            "selfattention_layer_type": "sanm",
        },
        "model": "SenseVoiceSmall",
        "model_conf": {"length_normalized_loss": True, "sos": 1, "eos": 2, "ignore_id": -1},
        "tokenizer": "SentencepiecesTokenizer",
        "tokenizer_conf": {"bpemodel": None, "unk_symbol": "<unk>", "split_with_space": True},
        "frontend": "WavFrontend",
        "frontend_conf": dict(FRONTEND),
    }


def cmvn(shift: float, scale: float, width: int = 560) -> str:
    """Format "add `shift`, multiply by `scale`" for `width` features as Kaldi text."""
    rows = [
        "<Nnet>",
        f"<Splice> {width} {width}",
        "[ 0 ]",
        f"<AddShift> {width} {width}",
        f"<LearnRateCoef> 0 [ {' '.join([str(shift)] * width)} ]",
        f"<Rescale> {width} {width}",
        f"<LearnRateCoef> 0 [ {' '.join([str(scale)] * width)} ]",
        "</Nnet>",
    ]
    return "\n".join(rows) + "\n"


def tokenizer_file(pieces: int) -> bytes:
    """Train a SentencePiece model with the tags, the letters, and Chinese characters up to `pieces` pieces."""
    from sentencepiece import SentencePieceTrainer

    letters = [*LETTERS["en"], *LETTERS["zh"]]
    room = max(0, pieces - len(TAGS) - len(letters) - 8)
    others = [c for c in map(chr, range(0x3400, 0x3400 + room + len(letters))) if c not in letters][:room]
    written = BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(letters)] * 4),
        model_writer=written,
        vocab_size=len(TAGS) + len(letters) + room + 8,
        model_type="bpe",
        character_coverage=1.0,
        user_defined_symbols=[*TAGS, *others],
        unk_id=0,
        bos_id=1,
        eos_id=2,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return written.getvalue()


def tokenizer(folder: Path):
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_file=str(folder / BPE))


def new_model(folder: Path, size: Size) -> nn.Module:
    """Build the network alone, by funasr's own class, with new weights."""
    return sized_sensevoice(tokenizer(folder).get_piece_size(), size)


def sized_sensevoice(vocab_size: int, size: Size = PUBLISHED) -> Any:
    """Build the network for a vocabulary of this size, without a directory."""
    from funasr.models.sense_voice.model import SenseVoiceSmall

    made = config(size)
    return SenseVoiceSmall(
        encoder=made["encoder"],
        encoder_conf=made["encoder_conf"],
        input_size=560,
        vocab_size=vocab_size,
        **made["model_conf"],
    )


# --- tones ---


def tones(letters: str, noise: float = 0.0, seed: int = 0) -> Float[Tensor, " nw"]:
    """Generate a tone of 0.12 s per letter, with pauses of 0.04 s and white noise of this standard deviation."""
    time = torch.arange(int(TONE_S * RATE)) / RATE
    gap = torch.zeros(int(GAP_S * RATE))
    pieces = [gap]
    for letter in letters:
        number = "".join(LETTERS.values()).index(letter) % NUM_TONES
        pieces += [0.3 * torch.sin(2 * torch.pi * 300 * 1.35**number * time), gap]
    clip = torch.cat(pieces)
    return clip + noise * torch.randn(clip.shape, generator=torch.Generator().manual_seed(seed))


def make_hearing_directory(folder: Path, steps: int = 150) -> Path:
    """Make a directory whose model recognizes noisy `tones` in the requested language.

    It takes about eight seconds.
    """
    make_directory(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = new_model(folder, TINY)
        learn(model, folder, steps)
    torch.save(model.state_dict(), folder / "model.pt")
    return folder


def learn(model: nn.Module, folder: Path, steps: int) -> None:
    from funasr.frontends.wav_frontend import WavFrontend

    frontend = WavFrontend(cmvn_file=str(folder / "am.mvn"), lfr_m=7, lfr_n=6, dither=0.0)
    pieces = tokenizer(folder)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for step in range(steps):
        lesson = [
            spoken(language, pieces, seed=12 * step + i) for i, language in enumerate(("auto", "en", "zh", "zh") * 3)
        ]
        clips = [clip for clip, _, _ in lesson]
        features, frames = frontend(nn.utils.rnn.pad_sequence(clips, batch_first=True), [len(clip) for clip in clips])
        ids = [torch.tensor(ids) for _, _, ids in lesson]
        loss = hearing_loss(model, features, frames, torch.tensor([queries for _, queries, _ in lesson]), ids)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()


def spoken(language: str, pieces: Any, seed: int) -> tuple[Tensor, list[int], list[int]]:
    """Generate a clip of three to six tones, its query and its target ids."""
    chance = random.Random(seed)
    name = "zh" if language == "zh" else "en"
    text = "".join(chance.choices(LETTERS[name], k=chance.randint(3, 6)))
    answer = [f"<|{name}|>", "<|NEUTRAL|>", "<|Speech|>", "<|woitn|>", *text]
    clip = tones(text, noise=0.2 * chance.random() ** 2, seed=seed)
    return clip, [QUERIES[language], EVENT, EMOTION, NO_ITN], [pieces.piece_to_id(piece) for piece in answer]


def hearing_loss(
    model: Any,
    features: Float[Tensor, "b n d"],
    frames: Int[Tensor, " b"],
    asked: Int[Tensor, "b 4"],
    ids: list[Tensor],
) -> Tensor:
    """Compute the CTC loss of the letters plus the negative log-likelihood of the four tags before them."""
    hidden, _ = model.encoder(torch.cat([model.embed(asked), features], dim=1), frames + 4)
    scores = model.ctc.log_softmax(hidden)
    tags, letters = torch.stack([row[:4] for row in ids]), [row[4:] for row in ids]
    lengths = torch.tensor([len(row) for row in letters])
    transcripts = F.ctc_loss(scores[:, 4:].transpose(0, 1), torch.cat(letters), frames, lengths, zero_infinity=True)
    return transcripts + F.nll_loss(scores[:, :4].flatten(0, 1), tags.flatten())
