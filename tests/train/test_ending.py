"""The last line of a run."""

from __future__ import annotations

import shlex

import pytest

from f5_tts.commands import find_command
from f5_tts.config.load import compose_config, schema_of
from f5_tts.train.ending import describe_end

HEAD = ["model.objective=gaussian_nll", "model.output_dist=gaussian", "model.use_rl_head=true"]


@pytest.mark.parametrize(
    ("name", "overrides", "command"),
    [("F5TTS_Mini", [], "infer"), ("F5TTS_Mini", HEAD, "train-rl"), ("F5TTS_Mini_RL", [], "export")],
)
def test_a_finished_run_says_what_it_wrote_and_what_to_type_next(name: str, overrides: list[str], command: str):
    line = describe_end(compose_config(name, [*overrides, 'ckpts.save_dir="my runs/a"'], schema_of(name)))
    assert line.startswith("wrote my runs/a/model_last.pt; next: ")
    words = shlex.split(line.partition("f5-tts ")[2])
    assert words[0] == find_command(command).name
    assert any(word.removeprefix("ckpts.init_from=") == "my runs/a/model_last.pt" for word in words)


@pytest.mark.parametrize(("name", "command"), [("F5TTS_Mini", "infer"), ("F5TTS_Mini_RL", "export")])
def test_the_weights_that_validations_chose_are_the_ones_to_go_on_with(tmp_path, name: str, command: str):
    (tmp_path / "model_best.pt").touch()
    line = describe_end(compose_config(name, [f"ckpts.save_dir={tmp_path}"], schema_of(name)))
    assert line.startswith(f"wrote {tmp_path}/model_last.pt, and model_best.pt, which validations chose; next: f5-tts ")
    words = shlex.split(line.partition("f5-tts ")[2])
    assert words[0] == command and f"{tmp_path}/model_best.pt" in words
