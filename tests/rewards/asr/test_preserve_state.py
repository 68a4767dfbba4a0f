from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from contextlib import suppress

import numpy as np
import pytest
import torch
from tests.conftest import process_state

from f5_tts.rewards.asr.preserve_state import preserve_process_state


def leave_traces() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(torch.get_num_threads() + 1)
    logging.getLogger().setLevel(logging.DEBUG)
    logging.getLogger().addHandler(logging.NullHandler())
    os.environ["LEFT_BEHIND"] = "1"
    os.environ.pop("TAKEN_AWAY")
    warnings.simplefilter("ignore")
    sys.path.insert(0, "left behind")


@pytest.mark.parametrize("fails", [False, True])
def test_what_was_changed_inside_is_as_before_also_after_an_error(fails: bool, monkeypatch):
    monkeypatch.setenv("TAKEN_AWAY", "0")
    before = process_state()
    changed = before
    with suppress(KeyError), preserve_process_state():
        leave_traces()
        changed = process_state()
        if fails:
            raise KeyError
    assert [key for key in before if changed[key] == before[key]] == []
    assert [key for key, value in process_state().items() if value != before[key]] == []


def test_prints_and_the_root_loggers_own_words_are_not_shown_but_those_of_others_are(capsys, caplog):
    with preserve_process_state():
        print("a notice")
        logging.warning("of the root")
        logging.getLogger("someone.else").warning("of another")
    assert capsys.readouterr().out == "" and caplog.messages == ["of another"]
    logging.warning("of the root again")
    assert caplog.messages[1:] == ["of the root again"]
