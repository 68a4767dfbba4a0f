"""`python -m tests.program CODE ...` is `python -c CODE ...`, started as a fork (`forkserver.py`)."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    code = sys.argv.pop(1)
    exec(compile(code, "<string>", "exec"))
