from __future__ import annotations

from pathlib import Path

import pytest

from f5_tts.files import expand_path, expand_texts, is_expanded, user_path


@pytest.fixture(autouse=True)
def home(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("SCRATCH", "/scratch")
    monkeypatch.delenv("NOWHERE", raising=False)


@pytest.mark.parametrize(
    "text, path",
    [
        ("~", "/home/ann"),
        ("~/runs/a", "/home/ann/runs/a"),
        ("$HOME/runs", "/home/ann/runs"),
        ("${HOME}/runs", "/home/ann/runs"),
        ("$SCRATCH/a b/c.pt", "/scratch/a b/c.pt"),
        ("hf://~/recordings", "hf:///home/ann/recordings"),
        ("hf://org/repo", "hf://org/repo"),
        ("runs/a", "runs/a"),
        ("./~/a", "./~/a"),  # a folder that is called so
        ("notes~", "notes~"),
        ("a$5/b", "a$5/b"),
        ("", ""),
    ],
)
def test_a_path_is_read_as_a_shell_reads_it(text, path):
    assert expand_path(text) == path and is_expanded(path)


@pytest.mark.parametrize("text", ["~nobody_of_this_name/a", "$NOWHERE/a", "${NOWHERE}/a", "hf://~nobody_of_this_name"])
def test_an_unknown_user_or_variable_is_refused_and_makes_no_folder(text):
    assert not is_expanded(expand_path(text))
    with pytest.raises(ValueError, match="names a user or a variable that there is not"):
        user_path(text)


def test_in_the_config_of_a_reward_texts_that_look_like_paths_of_home_are_expanded():
    config = {"ckpts": ["~/a", "b"], "model": {"dir": "$HOME/m"}, "cap": 3.0, "say": "about ~/x", "price": "$5"}
    expected = {"ckpts": ["/home/ann/a", "b"], "model": {"dir": "/home/ann/m"}, "cap": 3.0}
    assert expand_texts(config) == {**expected, "say": "about ~/x", "price": "$5"}


def test_an_argument_of_a_command_is_a_path():
    assert user_path("~/data/x_custom") == Path("/home/ann/data/x_custom")
