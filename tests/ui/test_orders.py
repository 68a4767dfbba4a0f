from __future__ import annotations

from pathlib import Path

import pytest
from tests.report.folders import tone

from f5_tts.config.key_help import key_comments
from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig
from f5_tts.infer.settings import read_toml
from f5_tts.report.run_record import write_record
from f5_tts.ui import orders
from f5_tts.ui.folder import Folder

RUN = {"data_set": "mini_custom", "config": "F5TTS_Mini_RL", "name": "mine"}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    tone(tmp_path / "voices" / "a.wav", 440)
    for name in ("ckpts/old/model_last.pt", "data/mini_custom/raw/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return Folder(tmp_path)


def test_a_text_in_two_voices_is_a_command_with_a_table_that_infer_reads(folder: Folder, tmp_path: Path):
    voices = [("main", "voices/a.wav", 'He said "\\n".'), ("other", "voices/a.wav", "")]
    words = orders.speak(folder, ["-m", "F5TTS_Mini"], voices, "One.\n[other] Two.", tmp_path / "out", "speech.wav")
    assert words[:3] == ["infer", "-m", "F5TTS_Mini"] and words[-2:] == ["-w", "speech.wav"]
    table = read_toml(words[words.index("-c") + 1])
    assert table["gen_text"] == "One.\n[other] Two." and table["ref_text"] == 'He said "\\n".'
    assert table["voices"]["other"] == {"ref_audio": str(tmp_path / "voices/a.wav"), "ref_text": ""}


@pytest.mark.parametrize(
    "voices, text, reason",
    [
        ([], "x", "no recording of a voice"),
        ([("main", "voices/a.wav", "")], " ", "no text to speak"),
        ([("main", "/etc/passwd", "")], "x", "no path in the folder"),
        ([("main", "voices/a.wav", ""), ("a]", "voices/a.wav", "")], "x", "the name of a voice"),
    ],
)
def test_speech_that_cannot_be_is_refused(folder: Folder, voices: list[orders.Voice], text: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        orders.speak(folder, [], voices, text, folder.root / "out", "speech.wav")


def test_the_config_of_a_checkpoint_is_the_one_given_or_what_lies_beside_it(folder: Folder):
    path = "ckpts/old/model_last.pt"
    assert orders.model_flags(folder, path, "F5TTS_Mini")[2:] == ["-m", "F5TTS_Mini"]
    with pytest.raises(ValueError, match=r"nothing beside ckpts/old/model_last\.pt says which config it has"):
        orders.model_flags(folder, path, "")
    write_record(folder.root / "ckpts/old", compose_config("F5TTS_Mini_RL", [], RLTrainConfig), "8 rows")
    assert orders.model_flags(folder, path, "")[2:] == ["-m", "F5TTS_Mini"]
    (folder.root / "ckpts/old/config.yaml").touch()
    assert orders.model_flags(folder, path, "")[2] == "-mc"


def test_a_data_set_is_made_and_checked(folder: Folder):
    made, checked = orders.prepare(folder, "voices", "mine", "char", "")
    assert made == ["prepare", str(folder.root / "voices"), str(folder.root / "data/mine_char")]
    assert checked == ["check-dataset", "data/mine_char"]
    for wrong in (("../x", "mine", "char", ""), ("voices", "../mine", "char", ""), ("voices", "mine", "x", "")):
        with pytest.raises(ValueError, match=r"not allowed|no path"):
            orders.prepare(folder, *wrong)


def test_a_run_has_the_keys_of_the_form_and_its_lines(folder: Folder):
    fields = {
        **RUN,
        "start": "ckpts/old/model_last.pt",
        "optim.max_updates": " 5 ",
        "more": "rl.algorithm=nft\n\noptim.seed=3",
    }
    words = orders.run(folder, "train-rl", fields)
    assert words[:3] == ["train-rl", "-cn", "F5TTS_Mini_RL"]
    assert words[3:] == [
        *("datasets.name=mini", "model.tokenizer=custom", "ckpts.save_dir=ckpts/mine"),
        *("ckpts.init_from=ckpts/old/model_last.pt", "optim.max_updates=5", "rl.algorithm=nft", "optim.seed=3"),
    ]


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"more": "rl.algorithm=os:system"}, "numbers and names alone"),
        ({"more": "eval.dev=/etc/passwd"}, "numbers and names alone"),
        ({"more": "eval.dev=.."}, "numbers and names alone"),
        ({"more": "ckpts.save_dir=x"}, "numbers and names alone"),
        ({"more": "rm -rf"}, "no key of docs/config.md"),
        ({"optim.max_updates": "5 6"}, "numbers and names alone"),
        ({"name": "../x"}, "is not allowed"),
        ({"data_set": "other_char"}, "choose one of mini_custom"),
        ({"config": "F5TTS_Mini"}, "choose one of .*F5TTS_RL"),
        ({"start": "../x.pt"}, "no path in the folder"),
    ],
)
def test_a_run_that_leaves_the_folder_or_runs_other_code_is_refused(
    folder: Folder, fields: dict[str, str], reason: str
):
    with pytest.raises(ValueError, match=reason):
        orders.run(folder, "train-rl", {**RUN, **fields})


def test_fields_of_a_run_carry_the_comments_of_their_keys():
    for command in orders.KEYS:
        assert all(comment == key_comments()[key] != "" for key, comment in orders.key_fields(command))
