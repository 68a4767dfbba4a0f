"""Files around the code: citation, issue forms, the instructions for contributors, and the wheel's marker of types."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from setup_env import CPU_INDEX
from tests.conftest import WITH_FUNASR

import f5_tts

ROOT = Path(__file__).parents[1]
FORMS = [path for path in sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")) if path.stem != "config"]
FIELDS = {"textarea", "input", "dropdown", "checkboxes"}  # of an issue form; markdown asks for nothing
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "CITATION.cff", ROOT / "pyproject.toml", *(ROOT / ".github").rglob("*.*")]


def read_yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text("utf-8"))


def test_the_package_says_that_it_has_types() -> None:
    assert (ROOT / "src/f5_tts/py.typed").read_text("utf-8") == ""


def test_the_citation_names_the_license_and_its_holder_and_the_version() -> None:
    citation = read_yaml(ROOT / "CITATION.cff")
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert f"{citation['license']} License" in text
    assert text.splitlines()[2].endswith(citation["authors"][0]["name"])
    assert citation["version"] == f5_tts.__version__


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_has_what_the_tracker_needs(path: Path) -> None:
    form = read_yaml(path)
    assert form["name"] and form["description"]
    asked = [entry for entry in form["body"] if entry["type"] != "markdown"]
    assert {entry["type"] for entry in asked} <= FIELDS
    assert len({entry["id"] for entry in asked}) == len(asked)
    assert all(entry["attributes"]["label"] for entry in asked)


def test_a_bug_report_needs_the_doctors_output_and_the_versions() -> None:
    body = read_yaml(ROOT / ".github/ISSUE_TEMPLATE/bug_report.yml")["body"]
    needed = {entry["id"] for entry in body if entry.get("validations", {}).get("required")}
    assert needed >= {"command", "doctor", "env"}


def test_every_file_that_contributing_names_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = set(re.findall(r"`((?:src|tests|docs)/[\w./]+)`", text))
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert len(named) > 8 and missing == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", ".github/workflows/ci.yml", ".github/pull_request_template.md"])
def test_every_make_target_that_contributors_or_ci_run_exists(page: str) -> None:
    named = set(re.findall(r"(?:`|run: )make (?:PYTHON=\S+ )?([a-z-]+)", (ROOT / page).read_text("utf-8")))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert named and named <= targets, named - targets


def test_the_jobs_of_ci_are_lint_unit_end_to_end_docs_and_the_wheel_on_every_python() -> None:
    jobs = read_yaml(ROOT / ".github/workflows/ci.yml")["jobs"]
    assert list(jobs) == ["lint", "unit", "end-to-end", "docs", "wheel"]
    for name in ("lint", "unit", "end-to-end"):
        assert jobs[name]["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13"]


def test_no_file_for_contributors_has_an_address_that_nobody_checks() -> None:
    texts = [path.read_text("utf-8") for path in PAGES if path.is_file()]
    assert [address for text in texts for address in re.findall(r"https?://[^\s\"]*", text)] == [CPU_INDEX]


def test_one_worker_runs_all_tests_that_import_funasr() -> None:
    imports = ("hearing_directory", "states_around_import")
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    using = {str(path.relative_to(ROOT)) for path in files if any(name in path.read_text("utf-8") for name in imports)}
    assert using == set(WITH_FUNASR)
