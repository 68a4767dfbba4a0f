"""A check of the wheel, as a user gets it: `python tests/wheel/check_wheel.py` (or `make wheel`).

Builds the wheel, looks at what it holds, installs it in an empty environment outside the repository, and runs from
there the help of every command and both stages on a tiny model: two updates of each, on recordings of noise, with a
reward that comes with the package and one that the user wrote. The trained model is exported and speaks the packaged
example, and what is missing is said with a command that works there. It needs pip's registry.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import setup_env  # noqa: E402


def is_command(path: Path) -> bool:
    """Check whether a module can be run."""
    return '__name__ == "__main__"' in path.read_text(encoding="utf-8")


UPDATES = 2
DATA_SET = """
import json
from pathlib import Path

import numpy as np
import soundfile
from datasets import Dataset

folder, rate = Path("data/noise_custom"), 16_000
folder.mkdir(parents=True)
noise, seconds = np.random.default_rng(0), [0.5 + 0.1 * index for index in range(6)]
paths = [str(folder / f"{index}.wav") for index in range(len(seconds))]
for path, length in zip(paths, seconds):
    soundfile.write(path, noise.normal(scale=0.1, size=round(length * rate)), rate)
Dataset.from_dict({"audio_path": paths, "text": ["one two"] * len(paths)}).save_to_disk(str(folder / "raw"))
(folder / "duration.json").write_text(json.dumps({"duration": seconds}))
(folder / "vocab.txt").write_text("\\n".join([" ", *"enotw"]) + "\\n")
"""
REWARD = """
def loudness(inputs):
    return [float(item.audio.square().mean()) for item in inputs]
"""
TINY = [
    "datasets.name=noise",
    "datasets.pair_speakers=false",
    "model.vocoder.iterations=2",
    *(f"model.arch.{key}={value}" for key, value in {"dim": 32, "depth": 2, "heads": 2, "dim_head": 16}.items()),
    "model.arch.text_dim=16",
    "model.arch.conv_layers=1",
    f"optim.max_updates={UPDATES}",
    "optim.num_warmup_updates=1",
]
STAGE_1 = [
    "f5_tts.train.train",
    *("-cn", "F5TTS_Mini", *TINY, "ckpts.save_dir=warmup", "datasets.batch_size_per_gpu=200"),
    *("model.output_dist=gaussian", "model.objective=gaussian_nll", "model.use_rl_head=true"),
]
STAGE_2 = [
    "f5_tts.train.train_rl",
    *("-cn", "F5TTS_Mini_RL", *TINY, "ckpts.save_dir=grpo", "ckpts.init_from=warmup/model_last.pt"),
    *("datasets.batch_size_per_gpu=2", "rl.mini_repeat_count=2", "rl.credit=sample", "rl.prompt_frac_range=[0.1,0.3]"),
    "rl.rewards.providers=[{name: 'my_rewards:loudness'}, {name: clipping}]",
]


EXAMPLE = "infer/examples/basic/basic.toml"  # packaged, with its recordings
MODULES = (
    *("f5_tts", "f5_tts.train.train", "f5_tts.train.train_rl", "f5_tts.train.finetune_cli"),
    *("f5_tts.infer.infer_cli", "f5_tts.socket_server"),
    *("f5_tts.rewards.serve", "f5_tts.rewards.audition"),
    *(f"f5_tts.scripts.{path.stem}" for path in (ROOT / "src/f5_tts/scripts").glob("*.py") if is_command(path)),
)


def main(argv: list[str]) -> None:
    """Check the wheel in a new folder, which is removed unless `--folder` names one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="an empty folder outside the repository, which is kept")
    folder = parser.parse_args(argv).folder
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        check(folder.resolve())
        return
    with tempfile.TemporaryDirectory(prefix="f5-tts-wheel-") as name:
        check(Path(name))


def check(folder: Path) -> None:
    """Build, inspect, install and run the wheel in a folder outside the repository."""
    require(not folder.is_relative_to(ROOT), f"{folder} is inside the repository")
    environment, work = folder / "env", folder / "work"
    with setup_env.Phase("empty environment"):
        setup_env.make_venv(environment)
        work.mkdir()
    with setup_env.Phase("wheel"):
        wheel = build_wheel(environment, folder / "dist")
        check_contents(wheel)
    install(environment, wheel)
    with setup_env.Phase("commands' help"):
        check_commands(environment, work)
    with setup_env.Phase(f"{UPDATES} updates of both stages"):
        check_training(environment, work)
    with setup_env.Phase("export and speech"):
        check_speech(environment, work)
    print(f"{wheel.name} holds the package and works")


def build_wheel(environment: Path, folder: Path) -> Path:
    """Build the wheel of this checkout."""
    pip(environment, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    """Check that the wheel has every file of the package, `py.typed` and the license, and nothing else."""
    names = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=True)
    expected = {line.removeprefix("src/") for line in listed.stdout.splitlines()}
    outside = sorted(name for name in names if not name.startswith(("f5_tts/", "f5_tts_rl-")))
    require("f5_tts/py.typed" in names, "the wheel has no f5_tts/py.typed")
    require(expected <= names, f"the wheel lacks {sorted(expected - names)}")
    require(not outside, f"the wheel holds what is not of the package: {outside}")
    require(not any("recipes" in Path(name).parts for name in names), "the wheel holds recipes/")
    require(any(name.endswith("/LICENSE") for name in names), "the wheel has no license")


def install(environment: Path, wheel: Path) -> None:
    """Install the wheel with the pinned dependencies, torch first and from where setup_env.py takes it."""
    pin = setup_env.torch_pin(setup_env.CONSTRAINTS.read_text(encoding="utf-8"))
    setup_env.install_torch(pin, setup_env.chosen_index(), install=lambda *words: pip(environment, *words))
    with setup_env.Phase("the wheel and its dependencies"):
        pip(environment, "install", str(wheel), "-c", str(setup_env.CONSTRAINTS))


def check_commands(environment: Path, work: Path) -> None:
    """Check that the package is the installed one, and that every command explains itself."""
    origin = run(environment, work, "-c", "import f5_tts; print(f5_tts.__file__)")
    require(Path(origin.strip()).is_relative_to(environment), f"f5_tts was imported from {origin}")
    scripts = [str(path) for path in sorted((environment / "bin").glob("f5-tts*"))]
    require(len(scripts) == 7, f"the commands are {scripts}")
    for words in (*([script] for script in scripts), *([python_of(environment), "-m", name] for name in MODULES)):
        require("usage:" in call([*words, "--help"], work), f"{' '.join(words)} --help printed no usage")


def check_training(environment: Path, work: Path) -> None:
    """Check that both stages train, and that every update of stage 2 has finite metrics and its rewards."""
    (work / "my_rewards.py").write_text(REWARD, encoding="utf-8")
    run(environment, work, "-c", DATA_SET)
    run(environment, work, "-m", *STAGE_1)
    run(environment, work, "-m", *STAGE_2)
    rows = [json.loads(line) for line in (work / "grpo/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    require([row["update"] for row in rows] == [*range(1, UPDATES + 1)], f"stage 2 made {len(rows)} updates")
    for row in rows:
        numbers = [row[name] for name in ("loss", "reward/my_rewards:loudness.score", "reward/clipping.ok")]
        require(all(map(math.isfinite, numbers)), f"stage 2 has metrics that are not finite: {row}")
    require((work / "grpo/model_last.pt").is_file(), "stage 2 left no model_last.pt")


def check_speech(environment: Path, work: Path) -> None:
    """Check that the trained model is exported and speaks, and that what is missing is said with what gets it."""
    run(environment, work, "-m", "f5_tts.scripts.export", "grpo/model_last.pt", "exported")
    sizes = "\n".join(f"    {word.removeprefix('model.arch.').replace('=', ': ')}" for word in TINY if ".arch." in word)
    mel = "  mel_spec: {target_sample_rate: 16000, hop_length: 320}\n  vocoder: {name: griffin_lim, iterations: 2}"
    (work / "tiny.yaml").write_text(f"model:\n  name: Tiny\n  tokenizer: custom\n  arch:\n{sizes}\n{mel}\n")
    flags = ["-mc", "tiny.yaml", "-p", f"exported/model_{UPDATES}.safetensors", "--nfe_step", "2", "-w", "said.wav"]
    program = str(environment / "bin" / "f5-tts_infer-cli")
    said = call([program, "-c", EXAMPLE, *flags, "-t", "one two [other] two one", "-o", str(work)], work)
    require("said.wav" in said and (work / "said.wav").is_file(), f"the example was not spoken: {said}")
    advice = "from f5_tts.extras import install_hint as hint; print(hint('resemblyzer'), '+', hint('pocketsphinx'))"
    words = run(environment, work, "-c", advice)
    require("pip install --no-deps resemblyzer==" in words and "pip install hibari-tts" in words, f"advice: {words}")


# --- processes ---


def pip(environment: Path, *arguments: str) -> None:
    """Run the environment's pip."""
    setup_env.run([python_of(environment), "-m", "pip", "--no-input", "--disable-pip-version-check", *arguments])


def run(environment: Path, work: Path, *arguments: str) -> str:
    """Run the environment's Python in `work`."""
    return call([python_of(environment), *arguments], work)


def call(command: list[str], work: Path) -> str:
    """Return what a command prints; exit with all of it where the command fails."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=work, env=variables, capture_output=True, text=True, check=False)
    require(done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def python_of(environment: Path) -> str:
    """Return the interpreter of an environment."""
    return setup_env.python_of(environment)


def require(holds: bool, sentence: str) -> None:
    """Exit with 1 and the sentence unless the condition holds."""
    if not holds:
        sys.exit(f"check_wheel: {sentence}")


if __name__ == "__main__":
    main(sys.argv[1:])
