"""Structure of one or more checkouts as a Markdown table: sizes, docstrings, type hints, imports, files per extension.

`python benchmarks/structure.py ../before .` prints one column per checkout, so that two commits can be compared side
by side. `--test-minutes 13 6` adds the wall time of the tests, one number per checkout; `--files` lists the files
behind the counts, `--words` the first words of docstrings by class. The script needs the standard library alone.

"Files naming" counts the files that name an existing extension: in Python an identifier or a string (comments and
docstrings do not count), elsewhere the text, in every case the file's own name. That is more than a new extension has
to touch, since tests and pages also use the old ones as examples.
"""

from __future__ import annotations

import argparse
import ast
import math
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGE = "f5_tts"
EXTENSIONS = {
    "algorithm `nft`": "nft",
    "algorithm `flow_grpo`": "flow_grpo",
    "algorithm `f5r`": "f5r",
    "reward `voice_sim`": "voice_sim",
    "backbone `UNetT`": "UNetT",
    "tracker `trackio`": "trackio",
}
DOCTOR = ("scripts/doctor.py", "scripts/checkup*.py", "doctor/**/*.py")  # before and after the doctor became a package
TEXT_SUFFIXES = ("", ".cfg", ".md", ".py", ".toml", ".txt", ".yaml", ".yml")
# Neither history nor instructions are touched by a new extension, and the last two name every example.
NOT_TOUCHED = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/structure.py", "tests/test_structure.py")
NO_TEXT = ("data", "pretrained", "tests/goldens")  # recordings, vocabularies, weights
GROUPS = {"src": ("src",), "tests": ("tests",), "docs": ("docs", "README.md", "mkdocs.yml")}

ARTICLES = {"a", "an", "the"}
PRONOUN_LIST = """
all another any anything both each either every everything he her his how i it its itself many most my neither no
nobody none nothing one other our ours own several she some something such that their them these they this those two
us we what whatever when where whether which who whom whose why you your
"""  # question words and quantifiers among them
VERB_LIST = """
abort accept accumulate acquire adapt add adjust admit advance aggregate align allocate allow amplify anneal annotate
answer append apply approximate arrange ask assemble assert assign attach attenuate audit average balance batch begin
benchmark bind bisect blend bound bring broadcast broaden build bypass cache calculate call cancel cast catch center
change check choose clamp classify clean clear clip clone close collate collect combine compare compile complete
compose compress compute concatenate configure confirm connect construct consult consume continue convert convolve
copy correct count cover create crop cross cut deal decide declare decode decompress decrease deduplicate defer define
delete denoise derive describe deserialize detach detect determine differentiate dilate discard discover display
distribute divide do download downsample drain draw drop dump duplicate embed emit enable encapsulate encode encrypt
end ensure enter enumerate erase escape estimate evaluate evict exchange exclude execute exit expand expect explain
export expose extend extract fade fail feed fetch fill filter find finish fit fix flag flatten flush fold follow
forget format forward freeze fuse gate gather generate get give go group grow guard guess guide handle hash hide hold
ignore implement import impute include increase index indicate infer initialize insert inspect install instantiate
integrate interpolate interpret interrupt invalidate invert invoke issue iterate join judge keep kill label launch lay
learn leave lengthen let lift limit link list listen load locate lock log look lower make map mark mask match measure
merge mix modify monitor move multiply mutate name narrow nest normalize note notify number obey observe obtain offer
omit open optimize order overwrite pack pad pair parametrize parse partition pass patch pause perform permute persist
perturb pick place plan play plot poll pop prepare prepend preserve pretend prevent prime print probe process produce
project promote prompt propagate protect prove provide prune pull push put quantize query queue quote raise randomize
rank re-encode reach read rebuild receive recognize recompute reconstruct record recover recreate reduce refine
refresh refuse register reinstate reject release reload remember remove rename render reorder repeat replace reply
report represent request require reraise resample rescale reseed reserve reset reshape resolve respond restart restore
restrict resume resynthesize retrieve retry return reuse reverse reward rewrite roll rotate round run sample save say
scale scan schedule score search seed select send separate serialize serve set shard shift shorten show shrink shuffle
shut silence simplify simulate skip slice smooth solve sort spawn speak specify spell split spread square stack
standardize start state step stop store stream strengthen stretch strip submit subsample substitute subtract suggest
sum summarize suppress suspend swap switch synchronize synthesize tabulate take tell terminate test tie time tokenize
toss touch trace track train transcribe transfer transform translate transpose traverse treat trim truncate try tune
turn undo unfold unfreeze unite unpack unwrap unzip update upload upsample use validate verify view visit vocode wait
walk warm warn weigh whiten widen withdraw wrap write yield zero zip
"""
PRONOUNS, VERBS = set(PRONOUN_LIST.split()), set(VERB_LIST.split())
CLASSES = ("verb in the imperative", "article", "pronoun", "other")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Checkout:
    """A folder with `src/`, `tests/` and the pages of the project."""

    root: Path

    @cached_property
    def package(self) -> Path:
        return self.root / "src" / PACKAGE

    @cached_property
    def modules(self) -> dict[Path, ast.Module]:
        """The syntax tree of each Python file of the package."""
        return {path: ast.parse(path.read_text("utf-8")) for path in sorted(self.package.rglob("*.py"))}

    @cached_property
    def functions(self) -> list[Function]:
        """Every function and method of the package, nested ones included."""
        return [function for tree in self.modules.values() for function in functions_of(tree)]

    @cached_property
    def files(self) -> list[str]:
        """The text files that an extension may touch, relative to the root: the tracked ones where git knows them."""
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=self.root, capture_output=True, text=True, check=False)
        is_top = (self.root / ".git").exists() and listed.returncode == 0
        found = listed.stdout.split("\0") if is_top else [str(path.relative_to(self.root)) for path in walk(self.root)]
        return sorted(name for name in found if name and is_countable(name) and (self.root / name).is_file())

    @cached_property
    def words(self) -> dict[str, set[str]]:
        """The identifiers that each of `files` holds, those of its path included."""
        texts = {name: (self.root / name).read_text("utf-8", errors="replace") for name in self.files}
        seen = {name: without_comments(text) if name.endswith(".py") else text for name, text in texts.items()}
        return {name: words_of(f"{name} {text}") for name, text in seen.items()}


# --- reading a checkout ---


def walk(root: Path) -> Iterator[Path]:
    """Yield the files of a folder without its hidden parts."""
    for path in root.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts):
            yield path


def is_countable(name: str) -> bool:
    """Check whether a file is text that an extension may have to name."""
    path = Path(name)
    outside = name in NOT_TOUCHED or any(path.is_relative_to(folder) for folder in NO_TEXT)
    return path.suffix in TEXT_SUFFIXES and not outside


def functions_of(tree: ast.AST) -> list[Function]:
    """List all functions below a node."""
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def num_lines(path: Path) -> int:
    """Count the lines of a file."""
    return len(path.read_text("utf-8").splitlines())


def span(function: Function) -> int:
    """Count the lines of a function, docstring included, decorators not."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def is_hinted(function: Function) -> bool:
    """Check whether parameters and result have type hints; `self`, `cls` and the result of `__init__` need none."""
    named = function.args
    given = [*named.posonlyargs, *named.args, *named.kwonlyargs, *filter(None, (named.vararg, named.kwarg))]
    bare = [arg.arg for arg in given if arg.annotation is None and arg.arg not in ("self", "cls")]
    return not bare and (function.returns is not None or function.name == "__init__")


def is_property(function: Function) -> bool:
    """Check whether a function is read as an attribute."""
    return any("property" in ast.unparse(decorator) for decorator in function.decorator_list)


def first_word(docstring: str) -> str:
    """Return the first word as it is written, without the punctuation after it."""
    return docstring.split()[0].rstrip(".,:;!?")


def class_of(word: str) -> str:
    """Classify the first word of a docstring; a quoted word is no verb."""
    known = {"verb in the imperative": VERBS, "article": ARTICLES, "pronoun": PRONOUNS}
    return next((name for name, words in known.items() if word.lower() in words), "other")


def first_words(checkout: Checkout) -> Counter[str]:
    """Count the first words of the docstrings of functions; those of properties are noun phrases and are left out."""
    docstrings = [ast.get_docstring(function) for function in checkout.functions if not is_property(function)]
    return Counter(first_word(docstring) for docstring in docstrings if docstring)


# --- imports ---


def imported_modules(checkout: Checkout, paths: Iterable[Path]) -> set[str]:
    """Name the modules of the package that these files import, themselves excluded."""
    paths = list(paths)
    found = {name for path in paths for node in ast.walk(checkout.modules[path]) for name in imports(checkout, node)}
    return found - {dotted(checkout, path) for path in paths}


def imports(checkout: Checkout, node: ast.AST) -> list[str]:
    """Name the modules of the package that one statement imports."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        inside = [f"{node.module}.{alias.name}" for alias in node.names]
        names = [name if is_module(checkout, name) else node.module for name in inside]
    else:
        names = []
    return [name for name in names if name.split(".")[0] == PACKAGE]


def is_module(checkout: Checkout, name: str) -> bool:
    """Check whether a dotted name is a file or a folder of the package."""
    path = checkout.root / "src" / Path(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def dotted(checkout: Checkout, path: Path) -> str:
    """Return the dotted name of a file of the package."""
    parts = path.relative_to(checkout.root / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def doctor_files(checkout: Checkout) -> list[Path]:
    """List the files of the doctor, wherever they lie."""
    return sorted({path for pattern in DOCTOR for path in checkout.package.glob(pattern)})


# --- files that name an extension ---


def parts_of(identifier: str) -> list[str]:
    """Split an identifier where words meet: `VoiceSim` and `voice_sim` give the same."""
    return [part.lower() for part in re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+", identifier)]


def has_name(words: Iterable[str], example: str) -> bool:
    """Check whether one of these words, as `words_of` gives them, is the example's name or has it in it."""
    wanted = f"_{'_'.join(parts_of(example))}_"
    return any(wanted in word for word in words)


def words_of(text: str) -> set[str]:
    """Return the identifiers of a text in one spelling: `_voice_sim_` for `VoiceSim`."""
    return {f"_{'_'.join(parts_of(word))}_" for word in set(re.findall(r"\w+", text))}


def files_naming(checkout: Checkout, example: str) -> list[str]:
    """List the files that name an example in their text or path."""
    return [name for name, words in checkout.words.items() if has_name(words, example)]


def without_comments(source: str) -> str:
    """Return Python source without its comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def group_of(name: str) -> str:
    """Return the part of the repository that a file belongs to."""
    path = Path(name)
    return next((group for group, tops in GROUPS.items() if any(map(path.is_relative_to, tops))), "other")


# --- the table ---


def structure(checkout: Checkout, test_minutes: float | None = None) -> dict[str, str]:
    """Measure a checkout: the rows of the table, formatted."""
    with_code = [path for path, tree in checkout.modules.items() if tree.body]
    row = {
        "Python files in src": str(len(checkout.modules)),
        "of them with code": str(len(with_code)),
        "module lines: median, p90, max": spread(map(num_lines, with_code)),
        "functions": str(len(checkout.functions)),
        "function lines: median, p90, max": spread(map(span, checkout.functions)),
        "functions with type hints": percent(map(is_hinted, checkout.functions)),
    }
    row |= docstring_rows(first_words(checkout))
    row |= {
        "fan-out of train/train_rl.py": str(len(imported_modules(checkout, [checkout.package / "train/train_rl.py"]))),
        "fan-out of the doctor": str(len(imported_modules(checkout, doctor_files(checkout)))),
        "README lines": str(num_lines(checkout.root / "README.md")),
        "test functions": str(num_tests(checkout)),
    }
    if test_minutes is not None:
        row["test minutes"] = f"{test_minutes:g}"
    return row | {
        f"files naming the {what}": by_group(files_naming(checkout, name)) for what, name in EXTENSIONS.items()
    }


def docstring_rows(words: Counter[str]) -> dict[str, str]:
    """Summarize the first words of docstrings: the share of each class, and the ten commonest."""
    total, classes = words.total(), Counter[str]()
    for word, count in words.items():
        classes[class_of(word)] += count
    shares = {f"docstrings opening with: {name}": f"{100 * classes[name] / max(1, total):.0f} %" for name in CLASSES}
    ten = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:10]
    commonest = ", ".join(f"{word} {count}" for word, count in ten)
    return {"function docstrings": str(total), **shares, "commonest first words": commonest}


def num_tests(checkout: Checkout) -> int:
    """Count the test functions, parametrized ones once."""
    trees = [ast.parse(path.read_text("utf-8")) for path in (checkout.root / "tests").rglob("test_*.py")]
    return sum(function.name.startswith("test_") for tree in trees for function in functions_of(tree))


def spread(numbers: Iterable[int]) -> str:
    """Format median, 90th percentile (nearest rank) and maximum."""
    ordered = sorted(numbers)
    if not ordered:
        return "-"
    return f"{statistics.median(ordered):g}, {ordered[math.ceil(0.9 * len(ordered)) - 1]}, {ordered[-1]}"


def percent(flags: Iterable[bool]) -> str:
    """Format the share that is true."""
    given = list(flags)
    return f"{100 * sum(given) / max(1, len(given)):.1f} %"


def by_group(files: list[str]) -> str:
    """Format a number of files, and how it divides over the parts of the repository."""
    groups = Counter(map(group_of, files))
    parts = ", ".join(f"{groups[group]} {group}" for group in (*GROUPS, "other") if groups[group])
    return f"{len(files)} ({parts})" if files else "0"


def markdown(columns: dict[str, dict[str, str]]) -> str:
    """Format one column per checkout as a Markdown table."""
    rows = list(dict.fromkeys(name for column in columns.values() for name in column))
    lines = [["", *columns], ["---"] * (1 + len(columns))]
    lines += [[name, *(column.get(name, "") for column in columns.values())] for name in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def lists_of_files(checkout: Checkout) -> str:
    """Format the files behind the counts."""
    train_rl = checkout.package / "train/train_rl.py"
    lists = {f"files naming the {what}": files_naming(checkout, name) for what, name in EXTENSIONS.items()}
    lists["modules that train/train_rl.py imports"] = sorted(imported_modules(checkout, [train_rl]))
    lists["modules that the doctor imports"] = sorted(imported_modules(checkout, doctor_files(checkout)))
    return "\n".join(f"{title}:\n" + "".join(f"  {line}\n" for line in lines) for title, lines in lists.items())


def lists_of_words(checkout: Checkout) -> str:
    """Format the first words of docstrings by class, each with its count."""
    words = sorted(first_words(checkout).items(), key=lambda item: (-item[1], item[0]))
    found = {name: [f"{word} {count}" for word, count in words if class_of(word) == name] for name in CLASSES}
    return "\n".join(f"{name}: {', '.join(listed)}" for name, listed in found.items())


def main(argv: list[str]) -> None:
    """Print the table, and the lists that are asked for."""
    parser = argparse.ArgumentParser(prog="structure.py", description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("checkouts", nargs="+", type=Path, help="folders of checkouts, one column each")
    parser.add_argument("--test-minutes", nargs="+", type=float, metavar="M", help="of `make test`, one per checkout")
    parser.add_argument("--files", action="store_true", help="list the files behind the counts of files")
    parser.add_argument("--words", action="store_true", help="list the first words of docstrings by class")
    args = parser.parse_args(argv)
    minutes = args.test_minutes or [None] * len(args.checkouts)
    if len(minutes) != len(args.checkouts):
        parser.error(f"--test-minutes has {len(minutes)} numbers for {len(args.checkouts)} checkouts")
    missing = [str(path) for path in args.checkouts if not (path / "src" / PACKAGE).is_dir()]
    if missing:
        parser.error(f"no src/{PACKAGE} in {', '.join(missing)}")
    checkouts = {str(path): Checkout(path.resolve()) for path in args.checkouts}
    table = {name: structure(c, m) for (name, c), m in zip(checkouts.items(), minutes, strict=True)}
    print(markdown(table))
    for name, checkout in checkouts.items():
        wanted = [make(checkout) for flag, make in ((args.files, lists_of_files), (args.words, lists_of_words)) if flag]
        print("".join(f"\n{name}\n\n{text}\n" for text in wanted), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
