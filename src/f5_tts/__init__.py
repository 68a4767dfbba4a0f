"""F5-TTS with a Gaussian policy, trained further by reinforcement learning on one GPU (or none)."""

__version__ = "0.2.0"

import signal
import sys

from f5_tts.entrypoint import exit_on_ctrl_c, handle_ctrl_c, is_starting_command
from f5_tts.installation import refuse_replaced_files, report_claims

if is_starting_command():  # until it runs, while its libraries are imported
    handle_ctrl_c(exit_on_ctrl_c, instead_of=signal.default_int_handler)
    refuse_replaced_files(sys.orig_argv[1:])
report_claims()
