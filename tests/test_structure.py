"""The structure table of a checkout that is small enough to count by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import structure
from benchmarks.structure import Checkout

SCRIPT = Path(structure.__file__)
FILES = {
    "README.md": "# Toy\n\nIt trains with `rl.algorithm=nft`.\n",
    "CHANGELOG.md": "nft, flow_grpo, voice_sim, UNetT, trackio\n",  # history, which nothing has to touch
    "data/words.txt": "nft\n",
    "docs/rl.md": "nft beside flow_grpo\n",
    "src/f5_tts/__init__.py": "",
    "src/f5_tts/rl/__init__.py": "",
    "src/f5_tts/rl/nft.py": '"""Diffusion NFT."""\n\n\ndef loss(x: float) -> float:\n    return x\n',
    "src/f5_tts/rl/grpo.py": '''"""Advantages."""

# nft is a comment here
from f5_tts.rl import nft as loss


def advantage(reward: float) -> float:
    """Center the reward; nft does too.

    Its unit stays.
    """
    return reward


class Group:
    def __init__(self, size):
        self.size = size

    @property
    def unit(self) -> str:
        """Reward units."""
        return "1"

    def mean(self, *rewards: float) -> float:
        """The mean."""

        def add(one: float, other: float) -> float:
            """What both give."""
            return one + other

        return add(*rewards) / self.size
''',
    "src/f5_tts/train/train_rl.py": "import sys\nfrom f5_tts.rl import grpo\nfrom f5_tts.rl.grpo import Group\n",
    "src/f5_tts/scripts/doctor.py": "import f5_tts.rl.grpo\nfrom f5_tts.scripts.checkup import look\n",
    "src/f5_tts/scripts/checkup.py": "from f5_tts.train.train_rl import grpo\n\n\nclass VoiceSimCheck:\n    pass\n",
    "tests/test_rl.py": """def test_one():
    pass


class TestTwo:
    def test_two(self):
        pass

    def helper(self):
        pass
""",
}


@pytest.fixture
def toy(tmp_path: Path) -> Checkout:
    """Make a checkout of the files above."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return Checkout(tmp_path)


def test_a_small_checkout_has_the_numbers_that_a_reader_counts(toy: Checkout) -> None:
    table = structure.structure(toy, 1.5)
    assert table["Python files in src"] == "7"
    assert table["of them with code"] == "5"
    assert table["module lines: median, p90, max"] == "5, 31, 31"  # 2, 3, 5, 5, 31
    assert table["functions"] == "6"
    assert table["function lines: median, p90, max"] == "3, 8, 8"  # 2, 2, 3, 3, 6, 8
    assert table["functions with type hints"] == "83.3 %"  # all but __init__, whose size has none
    assert table["function docstrings"] == "3"  # that of the property aside
    shares = [table[f"docstrings opening with: {name}"] for name in structure.CLASSES]
    assert shares == ["33 %", "33 %", "33 %", "0 %"]
    assert table["commonest first words"] == "Center 1, The 1, What 1"
    assert table["fan-out of train/train_rl.py"] == "1"  # f5_tts.rl.grpo, written in two ways
    assert table["fan-out of the doctor"] == "2"  # f5_tts.rl.grpo and f5_tts.train.train_rl, but not the doctor itself
    assert table["README lines"] == "3"
    assert table["test functions"] == "2"
    assert table["test minutes"] == "1.5"


def test_files_that_name_an_extension_are_code_pages_and_file_names_but_no_comments_and_no_history(toy: Checkout):
    assert structure.files_naming(toy, "nft") == [
        "README.md",
        "docs/rl.md",
        "src/f5_tts/rl/grpo.py",
        "src/f5_tts/rl/nft.py",
    ]
    assert structure.structure(toy)["files naming the algorithm `nft`"] == "4 (2 src, 2 docs)"
    assert structure.structure(toy)["files naming the tracker `trackio`"] == "0"
    without_import = FILES["src/f5_tts/rl/grpo.py"].replace("nft as loss", "other")
    (toy.root / "src/f5_tts/rl/grpo.py").write_text(without_import)
    assert "src/f5_tts/rl/grpo.py" not in structure.files_naming(Checkout(toy.root), "nft")


@pytest.mark.parametrize(
    "text, example, found",
    [
        ("VoiceSim", "voice_sim", True),
        ("build_voice_sim()", "voice_sim", True),
        ("rl.nft.beta", "nft", True),
        ("NftConfig", "nft", True),
        ("UNetT(1)", "UNetT", True),
        ("nftables", "nft", False),
        ("voice similarity", "voice_sim", False),
    ],
)
def test_a_name_is_found_in_every_spelling_but_not_inside_a_word(text: str, example: str, found: bool) -> None:
    assert structure.has_name(structure.words_of(text), example) == found


@pytest.mark.parametrize(
    "docstring, expected",
    [
        ("Return it.", "verb in the imperative"),
        ("Compute\nit", "verb in the imperative"),
        ("Returns it.", "other"),
        ("`update` of the run.", "other"),
        ("An answer", "article"),
        ("Whether it is.", "pronoun"),
        ("Mel frames", "other"),
    ],
)
def test_docstrings_are_classified_by_their_first_word(docstring: str, expected: str) -> None:
    assert structure.class_of(structure.first_word(docstring)) == expected


def test_a_checkout_that_git_knows_counts_tracked_files_alone(toy: Checkout) -> None:
    for words in (["init", "-q"], ["add", "docs/rl.md", "data/words.txt"]):
        subprocess.run(["git", *words], cwd=toy.root, check=True)
    assert structure.files_naming(Checkout(toy.root), "nft") == ["docs/rl.md"]


def test_the_command_prints_one_column_per_checkout_and_the_files(toy: Checkout) -> None:
    command = [sys.executable, "-I", str(SCRIPT), ".", str(toy.root), "--test-minutes", "13", "6.5", "--files"]
    done = subprocess.run(command, cwd=toy.root, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[:2] == [f"|  | . | {toy.root} |", "| --- | --- | --- |"]
    assert "| test minutes | 13 | 6.5 |" in lines and "  src/f5_tts/rl/nft.py" in lines


def test_what_is_no_checkout_is_refused(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.endswith(f"no src/f5_tts in {tmp_path}\n")


def test_the_docstring_of_every_function_of_the_package_opens_with_a_verb() -> None:
    """Check what D401 passes over: "Whether", "Frames of a clip"; a verb that is missed belongs into VERB_LIST."""
    opened = structure.first_words(Checkout(SCRIPT.parents[1]))
    assert [word for word in opened if structure.class_of(word) != "verb in the imperative"] == []
