"""Commands in README and docs, and those of the quick start: each one composes."""

from __future__ import annotations

import ast
import math
import re
import shlex
from collections.abc import Collection
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

import pytest
import torch
from recipes.digits import quickstart, results
from tests import guide

from f5_tts.commands import COMMANDS, find_command
from f5_tts.config.load import compose_config
from f5_tts.config.schema import ProviderConfig, RLTrainConfig, TrainConfig
from f5_tts.config.yaml_files import read_yaml
from f5_tts.data.formats import FORMATS
from f5_tts.data.tokenizer import TOKENIZERS
from f5_tts.infer import settings
from f5_tts.rewards.flags import read_config, serve
from f5_tts.rewards.registry import build_providers, score_all
from f5_tts.scripts import fetch_reward_asr_model, fetch_reward_spk_model, flags
from f5_tts.types import RewardInput

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), guide.PATH]
OURS = DOCUMENTS[:-1]
SCHEMAS = {
    "f5_tts.train.train": ("F5TTS_v1_Base", TrainConfig),
    "f5_tts.train.train_rl": ("F5TTS_RL", RLTrainConfig),
    "f5_tts.scripts.evaluate": ("F5TTS_Mini", TrainConfig),
    "f5_tts.scripts.best_of": ("F5TTS_Mini_RL", RLTrainConfig),
    "f5_tts.scripts.budget": ("F5TTS_RL", RLTrainConfig),
    "f5_tts.scripts.scale": ("F5TTS_RL", RLTrainConfig),
    "f5_tts.scripts.doctor": ("F5TTS_RL", RLTrainConfig),
    "f5_tts.rewards.audition": ("F5TTS_RL", RLTrainConfig),
}
FETCHES = {module.__name__: module.command_line for module in (fetch_reward_asr_model, fetch_reward_spk_model)}
CHECKPOINT_COMMANDS = {
    "f5_tts.scripts.export": flags.export_parser,
    "f5_tts.scripts.extend_vocab": flags.extend_vocab_parser,
    "f5_tts.scripts.interpolate": flags.interpolate_parser,
}
DATA_COMMANDS = {
    "f5_tts.scripts.prepare": flags.prepare_parser,
    "f5_tts.scripts.check_dataset": flags.check_dataset_parser,
}

REPORT, SERVE, DOCTOR = "f5_tts.scripts.report", "f5_tts.rewards.serve", "f5_tts.scripts.doctor"
NAMES = "|".join(sorted((command.name for command in COMMANDS), key=len, reverse=True))
COMMAND = re.compile(rf"(?:\bf5-tts (?P<name>{NAMES})| -m (?P<module>f5_tts\.\S+))(?P<arguments>(?: .*)?)$")


def documented_lines() -> list[str]:
    """List the command lines in bash blocks, with continuation lines joined."""
    texts = [path.read_text("utf-8") for path in DOCUMENTS]
    blocks: list[str] = [block for text in texts for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)]
    return "\n".join(blocks).replace("\\\n", " ").splitlines()


def documented_calls() -> list[list[str]]:
    """List module and arguments of each `f5-tts NAME` and `python -m f5_tts...`, those that ask for help aside."""
    calls = [COMMAND.search(line) for line in documented_lines() if "--help" not in line]
    return [
        [call["module"] or find_command(call["name"]).module, *shlex.split(call["arguments"], comments=True)]
        for call in calls
        if call
    ]


def calls_of(modules: Collection[str]) -> list[list[str]]:
    """List module and arguments of each documented command that is one of these modules."""
    return [words for words in documented_calls() if words[0] in modules]


def speaking_commands() -> list[list[str]]:
    """List the arguments of each `f5-tts_infer-cli`."""
    name = ".venv/bin/f5-tts_infer-cli "
    return [shlex.split(line.removeprefix(name)) for line in documented_lines() if line.startswith(name)]


def own_commands() -> list[list[str]]:
    lanes = [*quickstart.lanes(), *results.lanes([1])]
    return [[phase.module, *phase.arguments] for lane in lanes for phase in lane.phases]


OWN = own_commands()


@pytest.mark.parametrize("words", calls_of(SCHEMAS) + [words for words in OWN if words[0] in SCHEMAS], ids=" ".join)
def test_every_command_that_we_print_composes(words: list[str]) -> None:
    module, *arguments = words
    default, schema = SCHEMAS[module]
    keys = [*takewhile(lambda word: not word.startswith("--"), arguments)]  # flags, as of budget, are last
    name, overrides = (keys[1], keys[2:]) if keys[0] == "-cn" else (default, keys)
    if module == DOCTOR and "rl" not in read_yaml(name):
        schema = TrainConfig
    cfg = compose_config(name, overrides, schema)
    assert isinstance(cfg, schema)
    if default == name or "Mini" in name:
        assert find_spec(module) is not None


def test_every_module_that_the_documents_run_is_a_command_and_most_are_read_here() -> None:
    modules = {module for module, *_ in documented_calls()}
    read = {*SCHEMAS, *FETCHES, *DATA_COMMANDS, *CHECKPOINT_COMMANDS, REPORT, SERVE}
    assert read <= modules <= {command.module for command in COMMANDS}


def test_every_reward_server_that_we_print_is_understood() -> None:
    served = [serve(arguments) for _, *arguments in calls_of({SERVE})]
    assert served and all(isinstance(read_config(args.config), dict) for args in served)


def test_every_report_that_we_print_is_of_the_folder_of_a_run() -> None:
    runs = [run for _, *arguments in calls_of({REPORT}) for run in flags.report_parser().parse_args(arguments).runs]
    assert runs and all(run.parts[0] in ("ckpts", "runs") for run in runs)


@pytest.mark.parametrize(
    "words", calls_of(CHECKPOINT_COMMANDS) + [words for words in OWN if words[0] in CHECKPOINT_COMMANDS], ids=" ".join
)
def test_every_command_that_writes_a_checkpoint_is_understood(words: list[str]) -> None:
    module, *arguments = words
    assert Path(CHECKPOINT_COMMANDS[module]().parse_args(arguments).checkpoint).suffix == ".pt"


@pytest.mark.parametrize("words", calls_of(DATA_COMMANDS), ids=" ".join)
def test_every_command_on_data_that_we_print_is_understood_and_is_about_a_data_set_folder(words: list[str]) -> None:
    module, *arguments = words
    folder = DATA_COMMANDS[module]().parse_args(arguments).folder
    assert folder.parts[0] == "data" and folder.name.rpartition("_")[2] in TOKENIZERS


def test_the_page_on_data_names_every_format_and_every_flag() -> None:
    page = (ROOT / "docs/data.md").read_text("utf-8")
    usages = " ".join(build().format_usage() for build in DATA_COMMANDS.values())
    flags = set(re.findall(r"--[a-z_]+", usages))
    assert all(f"`{kind}`" in page for kind in FORMATS)
    assert flags and all(flag in page for flag in flags)


@pytest.mark.parametrize("words", calls_of(FETCHES), ids=" ".join)
def test_every_fetch_that_we_print_is_understood_and_fills_the_folder_of_the_stage_2_that_we_print(words: list[str]):
    module, *arguments = words
    folder = str(FETCHES[module]().parse_args(arguments).cache_dir)
    given = [word for command in calls_of(SCHEMAS) for word in command]
    asr = f"rl.rewards.providers.1.config.model_id=$PWD/{folder}" in given
    assert asr or f"rl.rewards.providers.0.config.model_dir={folder}/{fetch_reward_spk_model.MODEL}" in given


def test_the_documents_show_both_stages_for_the_small_model_and_for_a_gpu() -> None:
    """Check for each stage the pages of the small model, and the guide for a GPU."""
    named = [(words[0], "F5TTS_Mini" in " ".join(words)) for words in calls_of(SCHEMAS)]
    for module in ("f5_tts.train.train", "f5_tts.train.train_rl"):
        assert (module, True) in named and (module, False) in named
        assert [name for name, _ in named].count(module) >= 2


@pytest.mark.parametrize("words", speaking_commands(), ids=" ".join)
def test_every_speaking_command_that_we_print_is_understood_and_its_files_are_there(words: list[str]) -> None:
    given = settings.read_settings(words)
    assert settings.synthesis_config(given).model.name == given["model"]
    assert all((ROOT / given[key]).is_file() for key in ("ckpt_file", "ref_audio"))


def test_readme_shows_how_to_speak_and_the_command_is_installed() -> None:
    assert len(speaking_commands()) == 1
    assert 'f5-tts_infer-cli = "f5_tts.commands:start_script"' in (ROOT / "pyproject.toml").read_text("utf-8")


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_every_make_target_that_a_document_names_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]+)", path.read_text("utf-8"), re.MULTILINE))
    assert named <= targets, named - targets
    assert named or path.name != "README.md"


def test_readme_is_a_page_to_begin_with() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) < 110


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(path)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        page = (path.parent / name) if name else path
        assert page.is_file(), target
        assert not anchor or anchor in anchors(page), target


def without_code(path: Path) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text("utf-8"), flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Return the anchor of each heading, as GitHub and the site both make them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_site_has_every_page_once() -> None:
    listed = re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8"))
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(pages)


@pytest.mark.parametrize("start", ["README.md", "docs/index.md"])
def test_every_page_can_be_reached_from_where_readers_begin(start: str) -> None:
    text, folder = (ROOT / start).read_text("utf-8"), (ROOT / start).parent
    linked = {(folder / name).resolve() for name in re.findall(r"\]\(([\w/]+\.md)", text)}
    pages = {path.resolve() for path in (ROOT / "docs").glob("*.md")} - {ROOT / "docs/index.md"}
    assert pages - linked == set()


def test_every_source_file_has_its_line_in_the_architecture_page() -> None:
    """The line says what the first sentences of the file's docstring say."""
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    listed = dict(re.findall(r"^\| `([\w/]+\.py)` \| (.*) \|$", text, re.MULTILINE))
    package, files = ROOT / "src/f5_tts", [*(ROOT / "src").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]
    told = {
        str(path.relative_to(package if path.is_relative_to(package) else ROOT)): first_paragraph(path)
        for path in files
        if path.name != "__init__.py"
    }
    assert listed == told


def first_paragraph(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split()).replace("|", "\\|")


def test_the_reward_of_the_docs_is_ten_lines_that_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Score a clip at half the amplitude.

    It differs by 6.02 dB, which is the tolerance in the settings, so the reward is 1 / e.
    """
    source, *_ = re.findall(r"```python\n(.*?)```", (ROOT / "docs/rewards.md").read_text("utf-8"), re.DOTALL)
    assert len([line for line in source.splitlines() if line.strip()]) <= 12
    (tmp_path / "my_rewards.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    entry = ProviderConfig(name="my_rewards:SameLevel", config={"tolerance_db": 6.0206})
    loud = torch.sin(torch.arange(800.0))
    clip = RewardInput(audio=loud / 2, sample_rate=8_000, text="one", reference_audio=loud)
    scored = score_all(build_providers([entry]), [clip])
    torch.testing.assert_close(scored.components["my_rewards:SameLevel.closeness"], torch.tensor([math.exp(-1)]))
    torch.testing.assert_close(scored.diagnostics["my_rewards:SameLevel.off_db"], torch.tensor([6.0206]))
