"""Recipes of the shipped model; Ctrl-C while a recipe's libraries are imported ends it with one line."""

import signal
import sys

from f5_tts.entrypoint import exit_on_ctrl_c, handle_ctrl_c

if sys.argv[:1] == ["-m"]:  # Python imports the package to run one of its modules
    handle_ctrl_c(exit_on_ctrl_c, instead_of=signal.default_int_handler)
