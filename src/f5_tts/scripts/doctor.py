"""Check a run before it starts: `python -m f5_tts.scripts.doctor`, with the arguments of train or train_rl.

Each check prints one line: ok and what it measured, or FAIL and what to change. Files that are missing are told first.
Nothing is written except a test file in ckpts.save_dir, which is removed again; output of libraries goes to stderr.
"""

from __future__ import annotations

from f5_tts.commands import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("doctor")

import sys

from f5_tts.config.schema import RLTrainConfig, TrainConfig
from f5_tts.doctor.checks import CHECKS, run_check
from f5_tts.doctor.context import RunUnderTest


def run(arguments: tuple[str, TrainConfig, list[str]]) -> bool:
    """Run the command: print a line for each check that has none yet, and exit with code 2 if one failed."""
    name, cfg, failed = arguments
    run_under_test = RunUnderTest(name, cfg)
    checks = CHECKS[type(cfg)]
    count = {"ok": 0, "FAIL": len(failed), "--": 0}
    for check in checks:
        if check.name in failed:
            continue
        state, text = run_check(check, run_under_test)
        count[state] += 1
        print(f"{state:4} {check.name}: {text}", flush=True)
    summary = f"{count['FAIL']} of {len(checks)} checks failed, {count['--']} skipped"
    if count["FAIL"]:
        print(f"{summary}; mend what failed, and ask again")
        sys.exit(2)
    command = "train-rl" if isinstance(cfg, RLTrainConfig) else "train"
    print(f"{summary}; next: f5-tts {command} with the same arguments")
    return True
