"""Make a development list of sixteen random voices, `data/mini_dev_custom/dev.jsonl`, to choose settings by.

The shipped dev list has two voices that no training knows; a setting that suits them may not suit others. These voices
are within the range of the training voices and far from every test voice; the texts are dev strings.
"""

from __future__ import annotations

import shutil
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from f5_tts.entrypoint import run_command
from recipes.digits.make_corpus import DigitSynthesizer, EvalItem, EvalSetSize, voice_items, write_eval_set
from recipes.digits.voices import random_voices

OUT = Path("data/mini_dev_custom")
NUM_VOICES = 16
SIZE = EvalSetSize(prompts=4, items=4)


def dev_items() -> list[EvalItem]:
    """List the items: four of each voice, each with a prompt of its own."""
    voices = random_voices(NUM_VOICES, "wide", 2)
    return [item for index, voice in enumerate(voices) for item in voice_items("dev", voice, index, SIZE)]


def make_list(out: Path) -> None:
    """Write prompts and list to a temporary folder beside `out`, then rename it; an earlier list is replaced.

    Raises FileExistsError if something else is there, such as a data set of that name.
    """
    if out.exists() and not (out / "dev.jsonl").is_file():
        raise FileExistsError(f"{out} exists and is no list of this command: rename it, and ask again")
    folder = out.with_name(out.name + ".partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_eval_set(folder, out, "dev", dev_items(), DigitSynthesizer())
    shutil.rmtree(out, ignore_errors=True)
    folder.rename(out)


def main(argv: Sequence[str] | None = None) -> bool:
    """Run the command."""
    ArgumentParser(prog="python -m recipes.digits.make_dev_list", description=__doc__).parse_args(argv)
    make_list(OUT)
    print(
        f"wrote {OUT}/dev.jsonl; next: f5-tts evaluate -cn F5TTS_Mini datasets.name=mini eval.list={OUT}/dev.jsonl "
        "eval.ckpt=FILE"
    )
    return True


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
